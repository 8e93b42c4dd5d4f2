"""Which files of a denoiser folder are read, and what is missing where it is not complete.

A folder holds ``config.json`` and weights of a ``UNet2DModel``, and the ``scheduler_config.json`` of its chain; either
side by side, or in ``unet/`` and ``scheduler/`` as diffusers pipelines do. Trainings also leave averaged weights in
``unet_ema/``, which are read where they are alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...errors import InputError, preview_list
from ...io.opening import is_there
from .weight_files import STEM, WEIGHTS, Weights, find_weights

AVERAGED = ("unet_ema", "ema_unet", "ema")  # folders of averaged weights
CONFIG, SCHEDULER = "config.json", "scheduler_config.json"
_OF_A_TRAINING = ("optimizer.bin", "optimizer.pt", "random_states_0.pkl", "scheduler.bin", "scaler.pt")
_SINGLE = (".pt", ".pth", ".ckpt")
_OTHER_FORMATS = (".msgpack", ".onnx", ".h5", ".ot", ".pb", ".ckpt", ".pt", ".pth", ".safetensors", ".bin")


@dataclass(frozen=True)
class Parts:
    """Where the files of a denoiser folder are."""

    config: Path
    weights: Weights
    scheduler: Path
    notes: tuple[str, ...] = ()


def find_parts(folder: Path) -> Parts:
    """Find configs and weights in *folder*.

    :raises InputError: naming what is missing, and how to get it.
    """
    base = _network_of(folder)
    config, weights = base / CONFIG, find_weights(base)
    scheduler = next((path for path in _schedulers(folder) if is_there(path)), None)
    wanted = {CONFIG: is_there(config), WEIGHTS[0]: weights is not None, SCHEDULER: scheduler is not None}
    missing = [name for name, there in wanted.items() if not there]
    if missing or weights is None or scheduler is None:
        beside = _strange_weights(base)
        raise InputError(
            "not a complete denoiser folder",
            where=folder,
            found=f"missing: {', '.join(missing)}" + (f"; there are: {preview_list(beside)}" if beside else ""),
            allowed="unet/config.json, unet/diffusion_pytorch_model.safetensors and scheduler/scheduler_config.json, "
            "or the three files side by side",
            hint=_next_step(folder, base, missing),
        )
    return Parts(config, weights, scheduler, (*_on_averages(folder, base), *weights.notes()))


def _network_of(folder: Path) -> Path:
    """Return the folder of the network: ``unet/``, else *folder* itself, else that of averaged weights."""
    unet, averaged = folder / "unet", _averaged(folder)
    if is_there(unet / CONFIG) or (unet.is_dir() and not is_there(folder / CONFIG)):
        return unet
    return averaged[0] if averaged and not is_there(folder / CONFIG) else folder


def _averaged(folder: Path) -> list[Path]:
    return [folder / name for name in AVERAGED if is_there(folder / name / CONFIG)]


def _schedulers(folder: Path) -> list[Path]:
    return [folder / "scheduler" / SCHEDULER, folder / SCHEDULER]


def _on_averages(folder: Path, base: Path) -> list[str]:
    """Return a note where averaged weights are read, or could have been."""
    averaged = _averaged(folder)
    if base in averaged:
        return [f"the denoiser's weights are the averaged ones in {base.name}/; there are no others"]
    if averaged:
        name = averaged[0].name
        place = f"{base.name}/" if base != folder else "the folder itself"
        return [
            f"the denoiser's weights are those of {place}, and not the averaged ones in {name}/, which often denoise "
            f"better; to use these, copy {name}/ as unet/ into a folder of its own, beside scheduler/"
        ]
    return []


def _strange_weights(base: Path) -> list[str]:
    """Return files of *base* that look like weights in another form."""
    if not base.is_dir():
        return []
    names = sorted(path.name for path in base.iterdir() if path.suffix in _OTHER_FORMATS)
    return [name for name in names if not name.startswith(f"{STEM}.") and name not in _OF_A_TRAINING]


def _next_step(folder: Path, base: Path, missing: list[str]) -> str:
    """Return what the owner of an incomplete *folder* can do."""
    inner = [path for path in sorted(folder.iterdir()) if path.is_dir() and _is_complete(path)]
    if inner:
        return f"a complete one is in it: name {preview_list([str(path) for path in inner], 3)}"
    if _averaged(folder) and base == folder / "unet":
        return "fetch unet/ again, or remove it to use the averaged weights beside it"
    if missing == [SCHEDULER] and any((folder / name).is_file() for name in _OF_A_TRAINING):
        return (
            "this is a checkpoint in the middle of a training: copy the folder scheduler/ of the pipeline that the "
            "training wrote (usually one level up) into it"
        )
    if missing == [SCHEDULER]:
        return (
            "the chain that the network was trained on is in the folder scheduler/ of the pipeline it comes from: copy "
            "that folder, or name the pipeline's"
        )
    single = [path for path in sorted(folder.iterdir()) if path.suffix in _SINGLE and path.name not in _OF_A_TRAINING]
    if single:
        return f"if {single[0].name} is a checkpoint of improved-diffusion or guided-diffusion, name the file itself"
    if _strange_weights(base):
        return "these weights are in a form that is not read: fetch or write the model as a diffusers folder"
    return "a copy or download may have stopped halfway: fetch the folder again"


def _is_complete(folder: Path) -> bool:
    base = _network_of(folder)
    has_weights = base.is_dir() and any(path.name.startswith(STEM) for path in base.iterdir())
    return has_weights and (base / CONFIG).is_file() and any(path.is_file() for path in _schedulers(folder))

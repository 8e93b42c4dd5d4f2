"""A denoiser with a network behind it: loading, checking, saving as a diffusers folder with a provenance card.

Folder layout: ``model_index.json``, ``unet/config.json``, ``unet/diffusion_pytorch_model.safetensors``,
``scheduler/scheduler_config.json`` and ``card.json``. diffusers itself can load it, with
``UNet2DModel.from_pretrained(folder, subfolder="unet")`` and ``DDPMScheduler.from_pretrained(folder,
subfolder="scheduler")``. A network trained here on a chain of other than 1000 steps is told ``i · 1000/T`` instead of
the index ``i``. diffusers passes indices, so its pipelines would use such a network wrongly; whoever
calls it by hand passes ``i · timestep_scale``, which configs and card hold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...core.classifier.weights import unwrap
from ...core.images import ImageSet
from ...core.pixels import as_float, as_uint8
from ...errors import InputError, SettingsError
from ...io.files import atomic_folder, to_json_types, write_json
from ...io.opening import is_there, refuse_unusable
from ...io.reading import read_json
from ...io.versions import installed
from ...plugins import plugins
from ...training.checkpoint import write_state
from ..schedule import Schedule
from .base import Denoiser, Variance
from .checks import VARIANCES, UNetConfig, load_unet, read_scheduler_config, read_unet_config
from .folders import find_parts
from .guided import load_checkpoint
from .hub import fetch_from_hub, is_hub_name
from .network import NetworkDenoiser
from .unet import refuse_missing_groupnorm
from .weight_files import WEIGHTS

PRIVATE = "_elixir_plugin"  # a config key that diffusers passes over: what it has no word for
HASH = 16  # bytes of an image's content hash
MOST_SCALE = 1000  # of the timesteps: 1000/T


class UNetDenoiser(NetworkDenoiser):
    """A diffusers ``UNet2DModel`` that predicts ε, and perhaps the variance.

    :param network: the ``UNet2DModel``; its config says how many channels it has and how often it halves the image.
    :param schedule: the chain it was trained on.
    :param variance: of a reverse step. A network with twice the channels may be used with a fixed variance: its second
        half is then left alone.
    :param timestep_scale: the network is told ``index · timestep_scale``.
    :param trained_steps: indices below this were trained; default: all.
    :param image_size: edge length it was trained for; default: what the config says.
    :param card: where the weights come from, in JSON types.
    :raises InputError: when the network has no variance to give, or lost the GroupNorm of its attention.
    """

    network: nn.Module

    def __init__(
        self,
        network: nn.Module,
        schedule: Schedule,
        *,
        variance: Variance,
        timestep_scale: float = 1.0,
        trained_steps: int | None = None,
        image_size: int | None = None,
        card: Mapping[str, Any] | None = None,
        where: object = "network",
    ) -> None:
        refuse_missing_groupnorm(network, where)
        config: dict[str, Any] = dict(getattr(network, "config"))  # noqa: B009  (torch types attributes as tensors)
        self.config = UNetConfig.build({key: config[key] for key in config.keys() & UNetConfig.model_fields.keys()})
        self.network, self.schedule, self.variance = network.eval(), schedule, variance
        self.channels, self.stride = self.config.in_channels, self.config.stride
        if variance == "learned_range" and self.config.out_channels != 2 * self.channels:
            raise InputError(
                "the network predicts no variance",
                where=where,
                found=f"learned_range with {self.config.out_channels} outputs",
                allowed=f"{2 * self.channels} outputs, or a fixed variance",
            )
        size = self.config.sample_size
        self.image_size = image_size if image_size is not None else size if isinstance(size, int) else None
        self.timestep_scale = timestep_scale
        self.trained_steps = schedule.length if trained_steps is None else trained_steps
        self.device = next(network.parameters()).device
        self.card: dict[str, Any] = dict(card or {})
        self.summary = (
            f"UNet2DModel {list(self.config.block_out_channels)}, {self.config.layers_per_block} blocks per level, "
            f"{self.channels} → {self.config.out_channels} channels"
        )

    def __repr__(self) -> str:
        return f"UNetDenoiser({self.parameters:,} parameters, {self.schedule}, {self.variance}, {self.trained_steps=})"

    def output(self, states: Tensor, times: Tensor) -> Tensor:
        predicted: Tensor = self.network(states, times, return_dict=False)[0]
        return predicted

    def facts(self) -> dict[str, Any]:
        return {
            "schedule": self.schedule.facts(),
            "variance": self.variance,
            "timestep_scale": self.timestep_scale,
            "trained_steps": self.trained_steps,
            "network": self.config.dump(),
        }

    def seen(self, images: ImageSet) -> NDArray[np.bool_]:
        """Return bool ``[N]``: which of *images* the denoiser was trained on, by content, as far as its card says.

        It may have been trained on pixels of the other type: float images are also looked up rounded to 8 bits, those
        in 8 bits also as fractions of 255.
        """
        known = set(self.card.get("images", {}).get("content", ()))
        if not known:
            return np.zeros(len(images), bool)
        other = as_float(images) if images.images.dtype == np.uint8 else as_uint8(images)
        pairs = zip(hexadecimal(images), hexadecimal(other), strict=True)
        return np.array([own in known or converted in known for own, converted in pairs], bool)

    @classmethod
    def load(
        cls, source: str | Path, *, device: torch.device | str = "cpu", variance: Variance | None = None
    ) -> UNetDenoiser:
        """Same as :func:`load_denoiser`."""
        return load_denoiser(source, device=device, variance=variance)

    def save(self, folder: str | Path, more: Callable[[Path], None] | None = None) -> None:
        """Write a diffusers folder with ``card.json``; it appears only when it is complete, and replaces an older one.

        :param more: adds files of its own to the folder, before it appears.
        :raises RunError: when the disk is full or the place cannot be written.
        """
        network = unwrap(self.network)
        version = installed("diffusers")
        config = {"_class_name": "UNet2DModel", "_diffusers_version": version, **self.config.dump()}
        private = {
            "timestep_scale": self.timestep_scale,
            "trained_steps": self.trained_steps,
            "image_size": self.image_size,
        }
        scheduler = {
            "_class_name": "DDPMScheduler",
            "_diffusers_version": version,
            **self.schedule.to_diffusers(),
            "prediction_type": "epsilon",
            "variance_type": self.variance,
            "clip_sample": True,
            "clip_sample_range": 1.0,
            PRIVATE: private,
        }
        index = {
            "_class_name": "DDPMPipeline",
            "_diffusers_version": version,
            "scheduler": ["diffusers", "DDPMScheduler"],
            "unet": ["diffusers", "UNet2DModel"],
        }
        with atomic_folder(Path(folder)) as part:
            write_json(part / "unet" / "config.json", {**config, PRIVATE: private})
            write_state(part / "unet" / WEIGHTS[0], network.state_dict(), {"format": "pt"})
            write_json(part / "scheduler" / "scheduler_config.json", scheduler)
            write_json(part / "model_index.json", index)
            write_json(part / "card.json", self.card)
            if more is not None:
                more(part)


def load_denoiser(
    source: str | Path, *, device: torch.device | str = "cpu", variance: Variance | None = None
) -> UNetDenoiser:
    """Load a denoiser from a diffusers folder, or by its name ``owner/name`` on the Hugging Face Hub.

    The network is never touched when a folder of that name exists.

    :param variance: instead of what the scheduler config says; it decides how noisy each reverse step is.
    :raises InputError: when the folder is incomplete, damaged or holds another kind of model; or when the Hub cannot
        be reached.
    """
    folder = _folder_of(source)
    parts = find_parts(folder)
    config, private = read_unet_config(parts.config)
    scheduler = read_scheduler_config(parts.scheduler)
    if variance is not None and variance not in get_args(Variance):
        raise SettingsError("unknown variance", found=variance, allowed=", ".join(get_args(Variance)))
    chosen = variance or VARIANCES[scheduler.variance_type]
    schedule = scheduler.schedule()
    ours = _checked_private(private.get(PRIVATE), schedule, parts.config)
    card = read_card(folder) or {"source": str(source), "origin": "not trained here"}
    denoiser = UNetDenoiser(load_unet(config, parts), schedule, variance=chosen, card=card, where=parts.config, **ours)
    denoiser.notes = parts.notes
    return denoiser.to(device)


def find_denoiser(
    source: str | Path,
    *,
    image_size: int | None = None,
    channels: int = 3,
    device: torch.device | str = "cpu",
) -> Denoiser:
    """Return a denoiser a plugin offers under the name *source*, or else load one.

    A file is a checkpoint of improved-diffusion or guided-diffusion (:func:`~.guided.load_checkpoint`), a folder one of
    diffusers (:func:`load_denoiser`), which takes precedence over a plugin's denoiser of the same name.

    :param image_size: edge length and
    :param channels: that a plugin's denoiser is asked for.
    :raises SettingsError: when a plugin's denoiser is meant and *image_size* is not given.
    """
    offered = plugins().offers()["denoiser"]
    refuse_unusable(Path(source))
    if Path(source).is_file() and str(source) not in offered:
        return load_checkpoint(Path(source), device=device)
    if str(source) not in offered or Path(source).is_dir():
        return load_denoiser(source, device=device)
    if image_size is None:
        raise SettingsError(
            "a plugin's denoiser is made for one image size",
            where=str(source),
            hint="say which: {argument:image_size=32}",
        )
    denoiser: Denoiser = plugins().get("denoiser", str(source))(image_size, channels)
    return denoiser.to(device)


def hexadecimal(images: ImageSet) -> list[str]:
    """Return the content hashes of *images* as 32 hex digits each; the form in which a card lists them."""
    data = images.content_hashes().tobytes()
    return [data[start : start + HASH].hex() for start in range(0, len(data), HASH)]


def _folder_of(source: str | Path) -> Path:
    path = Path(source)
    refuse_unusable(path)
    if path.is_dir():
        return path
    if path.exists():
        raise InputError(
            "a denoiser of diffusers is a folder",
            where=path,
            found="a file",
            allowed="a diffusers folder",
            hint="a checkpoint of improved-diffusion or guided-diffusion is read by find_denoiser, or name it with "
            "{setting:denoiser=FILE}",
        )
    if isinstance(source, str) and is_hub_name(source):
        return fetch_from_hub(source)
    offered = sorted(plugins().offers()["denoiser"])
    more = f"; from plugins: {', '.join(offered)}" if offered else ""
    raise InputError(
        "denoiser not found",
        where=source,
        allowed="a diffusers folder, a checkpoint of improved-diffusion or guided-diffusion (NAME.pt), or owner/name "
        f"on the Hugging Face Hub{more}",
        hint="train one on clean images: {command:denoiser train clean=DIR out=DIR}",
    )


def _checked_private(values: Any, schedule: Schedule, where: Path) -> dict[str, Any]:
    """Check what diffusers has no entry for. Other folders lack all of it: raw indices, all of them trained."""
    if values is None:
        return {}
    faults = []
    if not isinstance(values, dict):
        values, faults = {}, ["not a mapping"]
    scale, steps, size = values.get("timestep_scale", 1.0), values.get("trained_steps"), values.get("image_size")
    if not isinstance(scale, float | int) or not 0 < scale <= MOST_SCALE:  # NaN fails too
        faults.append(f"timestep_scale = {scale!r}")
    if steps is not None and (not isinstance(steps, int) or not 1 <= steps <= schedule.length):
        faults.append(f"trained_steps = {steps!r}")
    if size is not None and (not isinstance(size, int) or not 1 <= size <= 4096):
        faults.append(f"image_size = {size!r}")
    if faults:
        raise InputError("config refused", where=f"{where}: {PRIVATE}", found="; ".join(faults))
    return {"timestep_scale": float(scale), "trained_steps": steps, "image_size": size}


def read_card(folder: Path) -> dict[str, Any]:
    """Return the provenance card in *folder*; empty when there is none.

    :raises InputError: when it is not the card of a denoiser.
    """
    path = folder / "card.json"
    if not is_there(path):
        return {}
    card = read_json(path)
    images = card.get("images", {}) if isinstance(card, dict) else None
    content = images.get("content", []) if isinstance(images, dict) else None
    curves = card.get("curves", {}) if isinstance(card, dict) else None
    loss = curves.get("loss", []) if isinstance(curves, dict) else None
    if not _list_of(content, str) or not _list_of(loss, float | int):
        raise InputError("card refused", where=path, found="not the card of a denoiser", hint="remove it")
    return dict(to_json_types(card))


def _list_of(value: Any, kind: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, kind) for each in value)

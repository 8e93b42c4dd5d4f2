"""Training a denoiser on clean images, on the project's one training loop. Labels are not needed.

An "epoch" of the loop is a block of iterations: after each, the curves get a point and the state may be written.
"""

from __future__ import annotations

import glob
import math
import platform
import shutil
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn
from typing_extensions import Self

from .. import __version__
from ..case import ImageSet
from ..checkpoint import Checkpoint
from ..classifier import to_batch
from ..config import Settings, fingerprint
from ..context import Context
from ..environment import installed
from ..errors import InputError, RunError
from ..storage import refuse_unwritable
from ..training import Objective, Recipe, Samples, train
from .average import WeightAverage
from .denoiser import UNetDenoiser, hexadecimal, load_denoiser
from .objective import NoisyBatch, denoising_objective
from .ranks import rank_and_world, together
from .schedule import Schedule, ScheduleName
from .unet import UNetSize, architecture_of, build_unet

BLOCK = 250  # iterations between two points of the curves
PATIENCE = timedelta(days=7)  # how long other ranks wait for the one that trains


class FitSettings(Settings):
    """How to train a denoiser. The defaults are those of ECLIPSE (eclipse.md §2.4) for 32 pixels."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
        {
            "paper": {},
            "fast": {
                "t_train_max": 200,
                "iterations": 20_000,
                "ema_decay": 0.999,
                "ema_warmup": True,
                "precision": "auto",
            },
            "cpu": {
                "size": "tiny",
                "length": 1000,
                "t_train_max": 40,
                "iterations": 2000,
                "batch_size": 32,
                "lr": 4e-4,
                "ema_decay": 0.995,
                "ema_warmup": True,
                "dropout": 0.0,
                "precision": "auto",
            },
        }
    )

    size: UNetSize = Field("eclipse", description="the network: tiny for CPUs and 16 to 32 px, small, ddpm, eclipse")
    schedule: ScheduleName = Field("cosine", description="noise schedule of the chain")
    length: int = Field(4000, ge=2, le=100_000, description="T, steps of the chain")
    learn_sigma: bool = Field(True, description="learn the variance too, with the hybrid loss")
    t_train_max: int | None = Field(
        None, ge=1, description="train on indices below this alone; noise levels above it cannot be used; None: all"
    )
    iterations: int = Field(250_000, ge=1, description="optimiser steps")
    batch_size: int = Field(128, ge=1, description="images per step")
    lr: float = Field(1e-4, gt=0, description="of AdamW with betas 0.9 and 0.999 and no weight decay; constant")
    ema_decay: float = Field(0.9999, ge=0, lt=1, description="of the averaged weights, which are the result")
    ema_warmup: bool = Field(False, description="after n updates use at most (1 + n)/(10 + n); better for short runs")
    dropout: float = Field(0.3, ge=0, lt=1, description="0.3 for 32 px, 0 for 64 px")
    replications: int = Field(
        4, ge=0, description="M, virtual copies of the images; counted in passes, changes no draw (eclipse.md §2.1)"
    )
    precision: Literal["auto", "float32", "bf16"] = Field("float32", description="auto: bf16 autocast on CUDA only")
    compile: bool = Field(False, description="compile the network; worth it on a GPU, costs half a minute first")

    @model_validator(mode="after")
    def _range_within_chain(self) -> Self:
        if self.t_train_max is not None and self.t_train_max > self.length:
            raise ValueError(f"t_train_max = {self.t_train_max} lies beyond the chain of length = {self.length}")
        return self

    @property
    def trained_steps(self) -> int:
        """Number of indices that are trained."""
        return self.length if self.t_train_max is None else self.t_train_max

    @property
    def timestep_scale(self) -> float:
        """What the network is told per index: ``i · 1000/T``."""
        return 1000 / self.length


class NoisyBatches:
    """Blocks of batches drawn uniformly, with replacement, from ``[0, B)``, each with its noise and indices.

    All draws of a block are functions of (seed, name, number of the block), so training can go on at any block. Copies
    of the images would change no draw's distribution, so there are none (eclipse.md §2.1.3).

    :param padding: rows and columns to add below and to the right, by reflection, as purification does.
    """

    def __init__(
        self, images: ImageSet, settings: FitSettings, context: Context, name: str, padding: tuple[int, int] = (0, 0)
    ) -> None:
        self._samples = Samples(images, context.device)
        self._settings, self._context, self._name, self._padding = settings, context, name, padding
        self.steps = BLOCK

    def epoch(self, number: int) -> Iterator[NoisyBatch]:
        settings, device = self._settings, self._context.device
        size, count = settings.batch_size, min(BLOCK, settings.iterations - number * BLOCK)
        generator = self._context.generator(self._name, "block", number)
        rows = torch.randint(len(self._samples), (count, size), generator=generator).to(device)
        indices = torch.randint(settings.trained_steps, (count, size), generator=generator).to(device)
        for chosen, at in zip(rows, indices, strict=True):
            images = self._padded(to_batch(self._samples.pixels(chosen), device))
            noise = _moved(torch.randn(images.shape, generator=generator), device)
            yield NoisyBatch(images, self._samples.targets[chosen], chosen, noise, at)

    def _padded(self, images: Tensor) -> Tensor:
        below, right = self._padding
        if not (below or right):
            return images
        fits = below < images.shape[2] and right < images.shape[3]  # else there is too little to reflect
        return F.pad(images, (0, right, 0, below), mode="reflect" if fits else "replicate")


def _moved(draws: Tensor, device: torch.device) -> Tensor:
    """Move to *device*; from pinned memory, so that a CUDA device goes on working meanwhile."""
    return draws.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else draws.to(device)


def fit_denoiser(images: ImageSet, settings: FitSettings, context: Context, *, name: str = "denoiser") -> UNetDenoiser:
    """Train a denoiser on *images*, whose labels play no part.

    With a work folder, the finished denoiser is kept there under *name*, and a call that was killed goes on where it
    was; both end bit-identical to a call that was not. Without one, nothing is kept.

    :param name: of the random draws, the progress bar, and the folder.
    :returns: the denoiser with averaged weights, in eval mode, on the context's device.
    :raises InputError: for a set without images.
    :raises RunError: when training diverges, or what is in the work folder belongs to other settings or data.
    """
    if context.work_dir is None:
        return _fit(images, settings, context, name, None)
    return fit_into(context.work_dir / name, images, settings, context, name=name)


def fit_into(
    folder: Path, images: ImageSet, settings: FitSettings, context: Context, *, name: str = "denoiser"
) -> UNetDenoiser:
    """Train as :func:`fit_denoiser` does and save to *folder*, or load what an equal call has saved there.

    The state of a call under way is in :func:`state_file`, which goes when the folder is there. Under ``torchrun`` rank
    0 trains, and the others wait for it.

    :raises RunError: when something else is in *folder*.
    """
    rank, _ = rank_and_world()
    with together(PATIENCE):
        if rank == 0 and not finished(folder, images, settings, context, name=name):
            refuse_unwritable(folder)
            _remove_leftovers(folder)
            _fit(images, settings, context, name, state_file(folder)).save(folder)
        if rank == 0:
            state_file(folder).unlink(missing_ok=True)
    return load_denoiser(folder, device=context.device)


def state_file(folder: Path) -> Path:
    """Return where the state of a call under way is kept."""
    return Path(f"{folder.absolute()}.checkpoint")


def _remove_leftovers(folder: Path) -> None:
    """Remove what a killed call was writing just then: the folder, or its state."""
    for left in folder.absolute().parent.glob(f".{glob.escape(folder.name)}.*.part"):
        shutil.rmtree(left) if left.is_dir() else left.unlink()


def finished(
    folder: Path, images: ImageSet, settings: FitSettings, context: Context, *, name: str = "denoiser"
) -> bool:
    """Whether *folder* holds the result of an equal call.

    :raises RunError: when it holds anything else.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    known = load_denoiser(folder).card.get("identity") if (folder / "card.json").is_file() else None
    if known != _identity(images, settings, context, name):
        raise RunError(
            "folder is in the way",
            where=folder,
            found="something else" if known is None else "a denoiser of other settings, images or seed",
            hint="choose another folder, or remove this one",
        )
    return True


def _fit(images: ImageSet, settings: FitSettings, context: Context, name: str, checkpoint: Path | None) -> UNetDenoiser:
    if not len(images):
        raise InputError("no images to train a denoiser on", where="clean", found="0 images")
    height, width, channels = images.image_shape
    stride = architecture_of(settings.size, (height, width)).stride
    padding = (-height % stride, -width % stride)
    sides = (height + padding[0], width + padding[1])
    if any(padding):
        context.note(f"images of {height} × {width} are padded by reflection to {sides[0]} × {sides[1]}")
    schedule = Schedule(settings.schedule, settings.length)
    network = build_unet(
        settings.size,
        sides,
        channels,
        settings.learn_sigma,
        dropout=settings.dropout,
        seed=context.derive_seed(name, "weights"),
    )
    network.to(context.device).to(memory_format=torch.channels_last)
    average = WeightAverage(list(network.parameters()), settings.ema_decay, warmup=settings.ema_warmup)
    identity = _identity(images, settings, context, name)
    recipe = Recipe(
        epochs=math.ceil(settings.iterations / BLOCK),
        batch_size=settings.batch_size,
        optimizer="adamw",
        lr=settings.lr,
        weight_decay=0.0,
        schedule="constant",
        precision=settings.precision,
    )
    objective = denoising_objective(
        schedule,
        timestep_scale=settings.timestep_scale,
        learn_sigma=settings.learn_sigma,
        device=context.device,
    )
    if settings.compile:
        objective = _through(cast(nn.Module, torch.compile(network)), objective)
    curves = train(
        network,
        NoisyBatches(images, settings, context, name, padding),
        recipe,
        context,
        objective=objective,
        after_step=average.update,
        checkpoint=None if checkpoint is None else Checkpoint(checkpoint, {"fit": identity}, average.state()),
        name=name,
    )
    average.apply()
    network.requires_grad_(False).to(memory_format=torch.contiguous_format)
    return UNetDenoiser(
        network,
        schedule,
        variance="learned_range" if settings.learn_sigma else "fixed_small",
        timestep_scale=settings.timestep_scale,
        trained_steps=settings.trained_steps,
        image_size=height if height == width else None,
        card=_card(images, settings, context, curves, identity),
    )


def _through(network: nn.Module, objective: Objective) -> Objective:
    """Return *objective* with *network*, a compiled twin, in the place of the one that is trained."""
    return lambda _, batch: objective(network, batch)


def _identity(images: ImageSet, settings: FitSettings, context: Context, name: str) -> str:
    return fingerprint([settings.dump(), context.seed, name, hexadecimal(images)])


def _card(
    images: ImageSet, settings: FitSettings, context: Context, curves: Mapping[str, list[float]], identity: str
) -> dict[str, Any]:
    """Return where the weights come from. No times: an interrupted run must end with the same files."""
    seen = settings.iterations * settings.batch_size
    return {
        "origin": "trained by elixir_plugin",
        "identity": identity,
        "images": {
            "count": len(images),
            "shape": list(images.image_shape),
            "fingerprint": images.fingerprint(),
            "content": hexadecimal(images),
        },
        "settings": settings.dump(),
        "seed": context.seed,
        "device": context.device.type,
        "trained_steps": settings.trained_steps,
        "timestep_scale": settings.timestep_scale,
        "timesteps": "the network is told index · timestep_scale; diffusers pipelines pass the index itself",
        "ema_decay": settings.ema_decay,
        "passes": round(seen / (len(images) * (settings.replications + 1)), 3),
        "final": {key: values[-1] for key, values in curves.items()},
        "curves": {"block": BLOCK, **curves},
        "versions": {
            "elixir_plugin": __version__,
            "python": platform.python_version(),
            **{package: installed(package) for package in ("torch", "diffusers")},
        },
    }

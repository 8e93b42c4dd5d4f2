"""A purification as a user sets it, and resolved for one denoiser and one image shape."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor
from typing_extensions import Self

from ..core.settings import Settings
from ..errors import InputError, SettingsError
from ..training.device import computes_bf16
from .batches import BatchSize
from .denoisers.base import Denoiser
from .sampler import SamplerName, Step, chain, even_grid
from .schedule import NoiseLevel


class Purification(Settings):
    """How to purify images. Part of the settings of every defense that does."""

    level: NoiseLevel = Field(description="how far images are noised before they are denoised")
    sampler: SamplerName = Field("ddpm", description="ddpm: ancestral, with fresh noise; ddim: without (η = 0)")
    steps: int | None = Field(None, ge=1, description="K, steps of the reverse chain, evenly spaced; None: all t*")
    grid: tuple[int, ...] | None = Field(
        None, description="instead of `steps`: the indices to visit, in the denoiser's chain, from t* − 1 down to 0"
    )
    dense_below: int = Field(0, ge=0, description="visit every index below this one, in the denoiser's chain")
    rounds: int = Field(1, ge=1, description="times that an image is noised and denoised, one after the other")
    clip: bool = Field(True, description="clip the predicted image to the range of images at every step")
    precision: Literal["auto", "float32", "bf16"] = Field(
        "auto", description="of the network alone; auto: bf16 autocast wherever the device has instructions for it"
    )
    compile: bool = Field(False, description="compile the network; worth it for long runs")
    batch_size: int | None = Field(None, ge=1, description="images per call; None: found from memory")
    channels_last: bool = Field(True, description="memory layout of weights and states; does not change the method")

    @model_validator(mode="after")
    def _one_grid(self) -> Self:
        if self.grid is not None and (self.steps is not None or self.dense_below):
            raise ValueError("`grid` stands instead of `steps` and `dense_below`")
        return self


@dataclass(frozen=True)
class Plan:
    """A purification, resolved for one denoiser and one image shape.

    :ivar steps: the steps of one round; empty for t* = 0, which leaves images as they are.
    :ivar t_star: the noise level, in steps of the denoiser's chain.
    :ivar sigma: its noise relative to the image, in pixel scale.
    :ivar image_shape: ``(H, W, C)``.
    :ivar padding: rows and columns added below and to the right, so that the network's stride fits.
    :ivar notes: what a reader of the results should know.
    """

    settings: Purification
    steps: tuple[Step, ...]
    t_star: int
    sigma: float
    image_shape: tuple[int, int, int]
    padding: tuple[int, int]
    precision: Literal["float32", "bf16"]
    notes: tuple[str, ...] = ()
    batch: BatchSize = field(default_factory=BatchSize, compare=False)

    @property
    def indices(self) -> tuple[int, ...]:
        """Indices visited in each round, descending."""
        return tuple(step.index for step in self.steps)

    @property
    def nfe(self) -> int:
        """Network evaluations per image, over all rounds."""
        return len(self.steps) * self.settings.rounds

    @property
    def padded_shape(self) -> tuple[int, int, int]:
        """``(C, H, W)`` of what the network sees."""
        height, width, channels = self.image_shape
        return channels, height + self.padding[0], width + self.padding[1]

    def facts(self) -> dict[str, Any]:
        """Return everything that decides the result, in JSON types; the batch size does not."""
        chosen = self.settings.model_dump(
            mode="json", include={"sampler", "rounds", "clip", "compile", "channels_last"}
        )
        return {**chosen, "t_star": self.t_star, "indices": list(self.indices), "precision": self.precision}


def plan(denoiser: Denoiser, settings: Purification, image_shape: tuple[int, int, int]) -> Plan:
    """Resolve *settings* for *denoiser* and images ``(H, W, C)``, and refuse what cannot work.

    :raises SettingsError: when the noise level or grid does not fit the denoiser's chain, or was not trained.
    :raises InputError: when the number of channels differs.
    """
    height, width, channels = image_shape
    if channels != denoiser.channels:
        raise InputError(
            "the denoiser is for another number of channels",
            where="images",
            found=f"{channels} channel{'s' * (channels != 1)}",
            allowed=denoiser.channels,
            hint="use a denoiser trained on images like these",
        )
    level = settings.level.resolve(denoiser.schedule)
    if level > denoiser.trained_steps:
        raise SettingsError(
            "noise level above what the denoiser was trained for",
            where="level",
            found=f"t* = {level}",
            allowed=f"t* ≤ {denoiser.trained_steps} of {denoiser.schedule.length}",
            hint="lower the level, or train the denoiser on more of the chain",
        )
    padding = (-height % denoiser.stride, -width % denoiser.stride)
    return Plan(
        settings=settings,
        steps=chain(denoiser.schedule, _grid(settings, level)),
        t_star=level,
        sigma=denoiser.schedule.noise_std(level),
        image_shape=(height, width, channels),
        padding=padding,
        precision=_precision(denoiser, settings),
        notes=tuple(_notes(denoiser, settings, image_shape, padding)),
        batch=BatchSize(settings.batch_size),
    )


def _grid(settings: Purification, level: int) -> tuple[int, ...]:
    if settings.grid is None:
        return even_grid(level, settings.steps, settings.dense_below)
    ends = settings.grid[:1] + settings.grid[-1:]
    if ends != ((level - 1, 0) if level else ()):
        raise SettingsError(
            "grid does not fit the noise level",
            where="grid",
            found=", ".join(str(i) for i in settings.grid) or "empty",
            allowed=f"from {level - 1} down to 0, as t* = {level}" if level else "empty, as t* = 0",
        )
    return settings.grid


def _precision(denoiser: Denoiser, settings: Purification) -> Literal["float32", "bf16"]:
    if settings.precision != "auto":
        return settings.precision
    return "bf16" if denoiser.network is not None and computes_bf16(denoiser.device) else "float32"


def _notes(
    denoiser: Denoiser, settings: Purification, image_shape: tuple[int, int, int], padding: tuple[int, int]
) -> list[str]:
    height, width, _ = image_shape
    notes = []
    if denoiser.image_size is not None and (height, width) != (denoiser.image_size, denoiser.image_size):
        notes.append(f"the denoiser was trained on {denoiser.image_size} px images and used on {height} × {width}")
    if any(padding):
        notes.append(
            f"images of {height} × {width} were padded by reflection to multiples of {denoiser.stride} for the "
            "denoiser, and cropped back"
        )
    if settings.precision == "bf16" and denoiser.device.type == "cpu" and not _cpu_has_bf16():
        notes.append("this CPU has no bf16 arithmetic: precision=bf16 is several times slower than float32 here")
    return notes


def _cpu_has_bf16() -> bool:
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):  # a build of torch without oneDNN
        return False


def padded(images: Tensor, padding: tuple[int, int]) -> Tensor:
    """Return images ``[B, C, H, W]`` with (rows below, columns to the right) added by reflection.

    What a denoiser is trained on and what it purifies are padded alike.

    >>> padded(torch.arange(3.0).reshape(1, 1, 1, 3), (0, 1)).flatten().tolist()
    [0.0, 1.0, 2.0, 1.0]
    """
    below, right = padding
    if not (below or right):
        return images
    fits = below < images.shape[2] and right < images.shape[3]  # else there is too little to reflect
    return F.pad(images, (0, right, 0, below), mode="reflect" if fits else "replicate")

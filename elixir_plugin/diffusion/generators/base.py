"""Generators of image variations: what they offer, their settings, and the one on the diffusion engine.

A generator maps images and seeds to variations. It never sees a label: that of a poison sample names the attacker's
class. The adapters of text-to-image pipelines are in :mod:`.pipelines`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

import torch
from pydantic import Field, field_validator
from torch import Tensor
from typing_extensions import Self

from ...core.settings import Settings, fingerprint, usable_path
from ...errors import SettingsError
from ...plugins import plugins
from ..denoisers.base import Denoiser
from ..denoisers.denoiser import find_denoiser
from ..plan import Plan, Purification, plan
from ..purify import purify_batch
from ..sampler import SamplerName
from ..schedule import NoiseLevel

DEFAULT_STRENGTH = 0.5  # there is no published value
SEED = 0  # of the engine's noise, which here follows the seeds of the samples instead of their ids


class ImageGenerator(Protocol):
    """Makes variations of images.

    Two more attributes are used where they are there: ``facts()``, what it is in JSON types, for the report; and
    ``chunk``, how many variations are written to disk at once (default 16), of a generator that splits batches itself.
    """

    def vary(self, images: Tensor, seeds: Tensor) -> Tensor:
        """Return one variation per image, uint8 ``[B, 3, S, T]``, in the same order.

        Each depends on its image and its seed alone, not on the rest of the batch. An image that could not be made
        (numbers that are not finite) is left black; the caller asks again under another seed.

        :param images: uint8 ``[B, 3, H, W]``, on the CPU.
        :param seeds: int64 ``[B]`` in 0..2⁶³−1.
        """
        ...

    def fingerprint(self) -> str:
        """Return a short text that changes with anything that changes the images: weights, steps, strength."""
        ...


@runtime_checkable
class AdjustableGenerator(Protocol):
    """A generator that starts from the image itself, noised more or less."""

    strengths: tuple[float, float]
    """Least and largest strength possible."""

    def vary(self, images: Tensor, seeds: Tensor) -> Tensor: ...

    def fingerprint(self) -> str: ...

    def with_strength(self, strength: float) -> Self:
        """Return the same generator at another strength; weights are shared."""
        ...


class GeneratorSettings(Settings):
    """How a generator makes images; each uses what it has a use for."""

    backend: str = Field(
        "auto",
        description="sdedit, img2img, image_variation, unclip, versatile or a plugin's; auto: that of `denoiser` or "
        "`weights`, else the first whose weights are on this machine (image_variation, versatile, unclip), else sdedit",
    )
    _usable_path = field_validator("weights", "denoiser")(usable_path)

    weights: str | None = Field(
        None,
        description="of a pipeline: a diffusers folder, or a Hub name (owner/name or owner/name@revision) to download",
    )
    denoiser: str | None = Field(
        None,
        description="of sdedit: diffusers folder, Hub name, checkpoint of improved- or guided-diffusion or registered "
        "name; default: train one on the reserved clean set",
    )
    num_inference_steps: int = Field(
        50, ge=1, le=1000, description="over the whole chain; sdedit and img2img take `strength` of them"
    )
    guidance_scale: float | None = Field(
        None,
        ge=0,
        le=50,
        description="of image_variation, versatile and unclip; up to 1: off; default: versatile 7.5, "
        "image_variation 3, unclip 10",
    )
    gen_size: int | None = Field(None, ge=8, le=2048, description="of pipelines, multiple of 8; default: native size")
    strength: Literal["auto"] | Annotated[float, Field(ge=0, le=1)] = Field(
        "auto",
        description="of sdedit and img2img: share of the chain that images are noised to; auto: searched on the "
        "reserved clean set",
    )
    noise_level: int = Field(0, ge=0, le=999, description="of unclip: noise on the image's embedding")
    sampler: SamplerName = Field("ddim", description="of sdedit: ddim (η = 0), or ddpm, ancestral")
    gen_batch_size: int = Field(16, ge=1, description="images per call; less when memory runs out")
    dtype: Literal["auto", "float16", "bfloat16", "float32"] = Field(
        "auto",
        description="of the generator; auto: half precision on CUDA, float32 on a CPU; of sdedit bfloat16 on CPUs that "
        "have it",
    )

    @field_validator("gen_size")
    @classmethod
    def _multiple_of_8(cls, value: int | None) -> int | None:
        if value is not None and value % 8:
            raise ValueError("`gen_size` must be a multiple of 8")
        return value

    def start(self) -> float:
        """Return the strength to load a generator with."""
        return DEFAULT_STRENGTH if self.strength == "auto" else float(self.strength)


Factory = Callable[[GeneratorSettings, tuple[int, int, int], torch.device], ImageGenerator]
"""What stands behind a registered name: ``(settings, (H, W, C), device)`` -> generator."""


def find_generator(
    name: str, settings: GeneratorSettings, image_shape: tuple[int, int, int], device: torch.device
) -> ImageGenerator:
    """Return the generator that is registered under *name*.

    :raises SettingsError: for an unknown name.
    """
    factory: Factory = plugins().get("generator", name)
    return factory(settings, image_shape, device)


class SDEdit:
    """Noises an image up to ``t0 = round(strength · T)`` and denoises it with an unconditional denoiser (SDEdit).

    :param denoiser: of 3 channels, or of 1: then the mean of the channels is varied.
    :param sides: ``(H, W)`` of the images.
    :param strength: t0 as a share of the denoiser's whole chain, whatever part of it was trained.
    :param steps: of the whole reverse chain; *strength* of them are taken, evenly spaced.
    :raises SettingsError: for a noise level that the denoiser was not trained for.
    """

    chunk = 128

    def __init__(
        self,
        denoiser: Denoiser,
        sides: tuple[int, int],
        strength: float,
        *,
        steps: int = 50,
        sampler: SamplerName = "ddim",
        precision: Literal["auto", "float32", "bf16"] = "auto",
    ) -> None:
        self.denoiser, self.sides, self.strength = denoiser, sides, strength
        self._steps, self._sampler, self._precision = steps, sampler, precision
        self.plan = self._planned()

    @property
    def strengths(self) -> tuple[float, float]:
        return 0.0, self.denoiser.trained_steps / self.denoiser.schedule.length

    def with_strength(self, strength: float) -> SDEdit:
        return SDEdit(
            self.denoiser,
            self.sides,
            strength,
            steps=self._steps,
            sampler=self._sampler,
            precision=self._precision,
        )

    def vary(self, images: Tensor, seeds: Tensor) -> Tensor:
        batch = images.float().div_(255)
        if self.denoiser.channels == 1:
            batch = batch.mean(1, keepdim=True)
        out = purify_batch(self.denoiser, self.plan, batch, seeds, SEED).images
        return out.mul(255).round_().to(torch.uint8).cpu().expand(-1, 3, -1, -1).contiguous()

    def fingerprint(self) -> str:
        return fingerprint([self.denoiser.fingerprint(), self.plan.facts(), list(self.sides)])

    def facts(self) -> dict[str, Any]:
        return {
            "strength": self.strength,
            "t0": self.plan.t_star,
            "chain_length": self.denoiser.schedule.length,
            "noise_level": self.plan.sigma,
            "nfe_per_variation": self.plan.nfe,
            "sampler": self._sampler,
        }

    def _planned(self) -> Plan:
        length = self.denoiser.schedule.length
        level = round(self.strength * length)
        taken = max(1, min(level, round(self._steps * self.strength)))
        settings = Purification(
            level=NoiseLevel(steps=level, of=length),
            sampler=self._sampler,
            steps=taken if level else None,
            precision=self._precision,
        )
        return plan(self.denoiser, settings, (*self.sides, self.denoiser.channels))


def sdedit_on(denoiser: Denoiser, settings: GeneratorSettings, image_shape: tuple[int, int, int]) -> SDEdit:
    """Return :class:`SDEdit` with *denoiser*; a strength that is to be searched is the least one for now.

    :raises SettingsError: when the denoiser was not trained for the strength.
    """
    precisions: dict[str, Literal["auto", "float32", "bf16"]] = {
        "auto": "auto",
        "float32": "float32",
        "bfloat16": "bf16",
    }
    if settings.dtype not in precisions:
        raise SettingsError("precision of sdedit", where="dtype", found=settings.dtype, allowed=", ".join(precisions))
    return SDEdit(
        denoiser,
        image_shape[:2],
        0.0 if settings.strength == "auto" else float(settings.strength),
        steps=settings.num_inference_steps,
        sampler=settings.sampler,
        precision=precisions[settings.dtype],
    )


def make_sdedit(settings: GeneratorSettings, image_shape: tuple[int, int, int], device: torch.device) -> SDEdit:
    """Return :class:`SDEdit` with the denoiser that is named; the factory behind ``backend=sdedit``.

    :raises SettingsError: when none is named.
    """
    if settings.denoiser is None:
        raise SettingsError("sdedit needs a denoiser", where="denoiser", hint="name one: {setting:denoiser=FOLDER}")
    height, _, channels = image_shape
    denoiser = find_denoiser(settings.denoiser, image_size=height, channels=channels, device=device)
    return sdedit_on(denoiser, settings, image_shape)

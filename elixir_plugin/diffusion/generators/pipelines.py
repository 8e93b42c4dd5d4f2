"""Generators on diffusers pipelines: image variation, unCLIP, Versatile Diffusion, and img2img.

Weights come from a local folder, or from the cache of the Hugging Face Hub; they are downloaded only when the user
names a Hub model. The safety checker, which would replace images by black ones, is left out. Every sample has its own
``torch.Generator`` on the CPU, so that a variation depends neither on its batch nor on the device's random numbers.
Prompts are empty, always.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from typing_extensions import Self

from ...core.settings import fingerprint
from ...errors import SettingsError
from ..batches import BatchSize, in_parts
from .base import GeneratorSettings
from .pipeline_files import load_pipeline, parts_of, weights_fingerprint

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
GREY = 128  # of the null image that guidance leads away from


class PipelineGenerator(ABC):
    """A generator on a diffusers pipeline. Subclasses name it, and say how it is called.

    :param pipe: the loaded pipeline, on its device.
    :param source: where it was loaded from, for the report.
    """

    pipeline: ClassVar[str]
    """Class in diffusers."""
    also: ClassVar[tuple[str, ...]] = ()
    """Further classes whose folders hold all that is needed."""
    default: ClassVar[str]
    """Hub name, taken from the cache when no weights are named."""
    guidance: ClassVar[float]
    chunk: ClassVar[int] = 16

    def __init__(self, pipe: Any, settings: GeneratorSettings, source: str) -> None:
        self.pipe, self.source = pipe, source
        self.steps, self.scale = settings.num_inference_steps, self.guidance
        if settings.guidance_scale is not None:
            self.scale = settings.guidance_scale
        self.size = settings.gen_size or self._native_size()
        self._batch = BatchSize(settings.gen_batch_size)
        self._weights: str | None = None

    @classmethod
    def make(cls, settings: GeneratorSettings, image_shape: tuple[int, int, int], device: torch.device) -> Self:
        """Load the pipeline; the factory behind its name.

        :raises InputError: when the weights cannot be had or are not those of this pipeline, with what to do.
        """
        name = settings.dtype if settings.dtype != "auto" else "float16" if device.type == "cuda" else "float32"
        pipe, source = load_pipeline(
            cls.pipeline,
            (cls.pipeline, *cls.also),
            settings.weights,
            default=cls.default,
            dtype=DTYPES[name],
        )
        pipe.set_progress_bar_config(disable=True)
        pipe.vae.enable_slicing()  # one image at a time is decoded: memory does not grow with the batch
        pipe.to(device)
        for part in parts_of(pipe).values():
            part.eval().requires_grad_(False)
            if device.type == "cuda":
                part.to(memory_format=torch.channels_last)
        return cls(pipe, settings, source)

    def vary(self, images: Tensor, seeds: Tensor) -> Tensor:
        out = torch.empty(len(images), 3, self.size, self.size, dtype=torch.uint8)

        def work(part: slice) -> None:
            generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds[part]]
            out[part] = as_levels(self._call(images[part], generators))

        in_parts(work, len(images), self._batch)
        return out

    @abstractmethod
    def _call(self, images: Tensor, generators: list[torch.Generator]) -> Tensor:
        """Return variations ``[n, 3, S, S]`` in [0, 1] of uint8 images ``[n, 3, H, W]``."""

    def fingerprint(self) -> str:
        if self._weights is None:
            self._weights = weights_fingerprint(self.pipe)
        return fingerprint([self.pipeline, self._weights, self._choices()])

    def facts(self) -> dict[str, Any]:
        """Return what it is, in JSON types."""
        dtype = str(next(self.pipe.vae.parameters()).dtype).removeprefix("torch.")
        return {"pipeline": self.pipeline, "source": self.source, "dtype": dtype, **self._choices()}

    def _choices(self) -> dict[str, Any]:
        return {"num_inference_steps": self.steps, "guidance_scale": self.scale, "gen_size": self.size}

    def _native_size(self) -> int:
        network = getattr(self.pipe, "image_unet", None) or self.pipe.unet
        return int(network.config.sample_size) * int(self.pipe.vae_scale_factor)

    def _common(self, generators: list[torch.Generator]) -> dict[str, Any]:
        return {
            "num_inference_steps": self.steps,
            "guidance_scale": self.scale,
            "generator": generators,
            "output_type": "pt",
        }

    def _sized(self) -> dict[str, int]:
        return {"height": self.size, "width": self.size}


class ImageVariation(PipelineGenerator):
    """Stable Diffusion fine-tuned on one pooled CLIP embedding of the image, which drops most detail."""

    pipeline = "StableDiffusionImageVariationPipeline"
    default = "lambdalabs/sd-image-variations-diffusers@v2.0"
    guidance = 3.0

    def _call(self, images: Tensor, generators: list[torch.Generator]) -> Tensor:
        extractor = self.pipe.feature_extractor
        edge = int(self.pipe.image_encoder.config.image_size)
        # as in the model's own demo: bicubic without antialias, unlike the feature extractor
        small = F.interpolate(images.float() / 255, (edge, edge), mode="bicubic", align_corners=False).clamp_(0, 1)
        mean, std = (torch.tensor(values)[:, None, None] for values in (extractor.image_mean, extractor.image_std))
        result: Tensor = self.pipe((small - mean) / std, **self._sized(), **self._common(generators)).images
        return result


class UnCLIP(PipelineGenerator):
    """Stable unCLIP: a pooled CLIP embedding, noised as far as ``noise_level`` says."""

    pipeline = "StableUnCLIPImg2ImgPipeline"
    default = "stabilityai/stable-diffusion-2-1-unclip"
    guidance = 10.0

    def __init__(self, pipe: Any, settings: GeneratorSettings, source: str) -> None:
        super().__init__(pipe, settings, source)
        self.noise_level = settings.noise_level

    def _call(self, images: Tensor, generators: list[torch.Generator]) -> Tensor:
        result: Tensor = self.pipe(
            as_pictures(images),
            prompt=[""] * len(images),
            noise_level=self.noise_level,
            **self._sized(),
            **self._common(generators),
        ).images
        return result

    def _choices(self) -> dict[str, Any]:
        return {**super()._choices(), "noise_level": self.noise_level}


class Versatile(PipelineGenerator):
    """Versatile Diffusion, the generator of the paper: all tokens of the CLIP embedding."""

    pipeline = "VersatileDiffusionImageVariationPipeline"
    also = ("VersatileDiffusionPipeline",)
    default = "shi-labs/versatile-diffusion"
    guidance = 7.5

    def _call(self, images: Tensor, generators: list[torch.Generator]) -> Tensor:
        edge = int(self.pipe.image_encoder.config.image_size)
        # given as a picture: what the pipeline itself puts here depends on the version of transformers
        null = Image.new("RGB", (edge, edge), (GREY, GREY, GREY))
        result: Tensor = self.pipe(
            as_pictures(images),
            negative_prompt=[null] * len(images),
            **self._sized(),
            **self._common(generators),
        ).images
        return result


class Img2Img(PipelineGenerator):
    """Stable Diffusion from the noised latent of the image itself, with an empty prompt: keeps the layout."""

    pipeline = "StableDiffusionImg2ImgPipeline"
    also = ("StableDiffusionPipeline",)
    default = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    guidance = 1.0

    @classmethod
    def make(cls, settings: GeneratorSettings, image_shape: tuple[int, int, int], device: torch.device) -> Self:
        """Load the pipeline; the factory behind its name.

        :raises SettingsError: for guidance. It leads away from what an empty prompt gives, which is what is asked for:
            the images would stay the same, and take twice as long.
        """
        if settings.guidance_scale is not None and settings.guidance_scale > 1:
            raise SettingsError(
                "img2img has no prompt to be guided by",
                where="guidance_scale",
                found=f"{settings.guidance_scale:g}",
                allowed="null, or up to 1 (off)",
                hint="leave it out, or {setting:guidance_scale=null} where a preset sets it",
            )
        return super().make(settings, image_shape, device)

    def __init__(self, pipe: Any, settings: GeneratorSettings, source: str) -> None:
        super().__init__(pipe, settings, source)
        self.strengths = (least_strength(self.steps), 1.0)
        self.strength = settings.start()
        if settings.strength == "auto":
            self.strength = max(self.strength, self.strengths[0])
        self._refuse_no_step()

    def with_strength(self, strength: float) -> Img2Img:
        twin = copy.copy(self)
        twin.strength = strength
        twin._refuse_no_step()
        return twin

    def _refuse_no_step(self) -> None:
        if int(self.steps * self.strength) < 1:
            raise SettingsError(
                "img2img would take no step",
                where="strength, num_inference_steps",
                found=f"{self.strength:g} of {self.steps} steps",
                allowed=f"strength from {math.ceil(self.strengths[0] * 1e4) / 1e4:g} on",  # what is said must do
            )

    def _call(self, images: Tensor, generators: list[torch.Generator]) -> Tensor:
        large = F.interpolate(
            images.float() / 255, (self.size, self.size), mode="bicubic", align_corners=False, antialias=True
        )
        result: Tensor = self.pipe(
            prompt=[""] * len(images), image=large.clamp_(0, 1), strength=self.strength, **self._common(generators)
        ).images
        return result

    def _choices(self) -> dict[str, Any]:
        return {**super()._choices(), "strength": self.strength}


ADAPTERS: dict[str, type[PipelineGenerator]] = {
    "image_variation": ImageVariation,
    "versatile": Versatile,
    "unclip": UnCLIP,
    "img2img": Img2Img,
}
"""By the name they are registered under; the first three in the order in which ``backend=auto`` looks for them."""

make_image_variation, make_versatile = ImageVariation.make, Versatile.make
make_unclip, make_img2img = UnCLIP.make, Img2Img.make


def least_strength(steps: int) -> float:
    """Return the least strength at which img2img takes one of *steps* steps, as diffusers counts them.

    >>> int(49 * (1 / 49)), int(49 * least_strength(49)), least_strength(50)
    (0, 1, 0.02)
    """
    strength = 1 / steps
    return strength if int(steps * strength) else math.nextafter(strength, 1)


def as_levels(images: Tensor) -> Tensor:
    """Turn images in [0, 1] into uint8 on the CPU; one with numbers that are not finite becomes black."""
    sound = images.flatten(1).isfinite().all(1)[:, None, None, None]
    levels = torch.where(sound, images, 0).float().clamp(0, 1).mul_(255).round_()
    return levels.to(torch.uint8).cpu()


def as_pictures(images: Tensor) -> list[Image.Image]:
    """Turn uint8 ``[B, 3, H, W]`` into pictures, for a pipeline's own preprocessing."""
    return [Image.fromarray(np.ascontiguousarray(each)) for each in images.permute(0, 2, 3, 1).numpy()]


def names(adapters: Sequence[str] = tuple(ADAPTERS)) -> str:
    """Return a listing of backends with the weights they take."""
    return ", ".join(f"{name} ({ADAPTERS[name].default})" for name in adapters)

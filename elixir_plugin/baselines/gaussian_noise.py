"""Gaussian noise on every suspect image: ECLIPSE's module C alone, without its denoiser.

Wang et al., ESORICS 2024, arXiv 2406.15093, table 4, row C.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from pydantic import Field

from ..core.augmentation import Augmentation
from ..core.case import Case
from ..core.context import Context
from ..core.images import Images, ImageSet
from ..core.outcome import Outcome
from ..core.pixels import changed, to_bytes, to_floats
from ..core.settings import Settings
from ..defense import Card
from ..diffusion.noise import normal_noise
from .filters import Filter

CHUNK = 64  # images noised at once: the generator takes some 80 bytes per value


class GaussianNoiseSettings(Settings):
    """Settings of the baseline ``gaussian_noise``."""

    std: float = Field(0.05, gt=0, le=1, description="standard deviation in pixel scale; 0.05 is ECLIPSE's")
    mode: Literal["static", "online"] = Field(
        "static", description="draw it once into the set, or, as ECLIPSE's code does, whenever a model sees an image"
    )


class GaussianNoise(Filter):
    """Add independent Gaussian noise to every pixel and channel, and clip."""

    name = "gaussian_noise"
    Settings = GaussianNoiseSettings
    settings: GaussianNoiseSettings
    card = Card(
        title="Gaussian noise",
        paper="Wang et al.: ECLIPSE: Expunging Clean-Label Indiscriminate Poisons via Sparse Diffusion Purification, "
        "ESORICS 2024, arXiv 2406.15093 (module C alone, table 4)",
        year=2024,
        claims="at 0.05, drawn online, brings ResNet-18 back to 79–90 % on CIFAR-10 under TAP, EFP and URP",
        cost="seconds",
        limits="no help against EM, REM, SEP, LSP and AR (12–33 %); triggers stay",
    )

    def defend(self, case: Case, context: Context) -> Outcome:
        if self.settings.mode == "static":
            return super().defend(case, context)
        return Outcome(train=case.train, augmentation=Augmentation(noise=self.settings.std))

    def filtered(self, images: ImageSet, context: Context) -> ImageSet:
        seed = context.derive_seed(self.name)

        def noisy(rows: slice, pixels: Images) -> Images:
            ids = torch.from_numpy(images.ids[rows].copy())
            noise = normal_noise(seed, ids, 0, 0, images.image_shape, device="cpu").numpy()
            moved = np.clip(to_floats(pixels) + np.float32(self.settings.std) * noise, 0, 1)
            return to_bytes(moved) if pixels.dtype == np.uint8 else moved

        return changed(images, noisy, CHUNK)

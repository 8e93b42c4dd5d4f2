"""JPEG: compress every suspect image, so that faint perturbations are quantised away.

Liu, Zhao, Larson, ICML 2023, arXiv 2301.13838 ("image shortcut squeezing"). As in their released code, the set to train
on is compressed once, with Pillow and the quantisation tables and chroma subsampling that it has by default, and test
images stay as they are.
"""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from ..core.context import Context
from ..core.images import Images, ImageSet
from ..core.pixels import changed, to_bytes, to_floats
from ..core.settings import Settings
from ..defense import Card
from .filters import Filter

BLOCK = 16  # edge in pixels of what 4:2:0 codes at once: four blocks of luminance, one of each chroma


class JpegSettings(Settings):
    """Settings of the baseline ``jpeg``."""

    quality: int = Field(10, ge=1, le=95, description="of the encoder; the lower, the coarser")


class Jpeg(Filter):
    """Encode every suspect image as JPEG and decode it again."""

    name = "jpeg"
    Settings = JpegSettings
    settings: JpegSettings
    card = Card(
        title="JPEG compression",
        paper="Liu, Zhao, Larson: Image Shortcut Squeezing: Countering Perturbative Availability Poisons with "
        "Compression, ICML 2023, arXiv 2301.13838",
        year=2023,
        claims="at quality 10, brings ResNet-18 back to 79–85 % on 11 of 12 indiscriminate poisons of CIFAR-10 (69 % "
        "on NTGA)",
        cost="seconds; some 9 points of accuracy on clean CIFAR-10 (94.68 to 85.38 %)",
        limits="not made for backdoors: a trigger that is visible stays visible; on images of less than 16 pixels an "
        "edge, each is one block of colour",
    )

    def warn(self, images: ImageSet, context: Context) -> None:
        height, width, channels = images.image_shape
        if channels == 3 and min(height, width) < BLOCK:
            context.note(
                f"images have {height} × {width} pixels, and JPEG codes colour in blocks of {BLOCK} × {BLOCK}: it "
                "loses far more here than on the images it is known for"
            )

    def filtered(self, images: ImageSet, context: Context) -> ImageSet:
        return changed(images, lambda _, pixels: self._coded(pixels))

    def _coded(self, pixels: Images) -> Images:
        """Return ``[n, H, W, C]`` after compression; floats go through 8 bits, as every JPEG does."""
        coded = np.stack([compressed(each, self.settings.quality) for each in to_bytes(pixels)])
        return coded if pixels.dtype == np.uint8 else to_floats(coded)


def compressed(image: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """Return one image ``[H, W, C]`` as it comes back from a JPEG of *quality*, baseline, 4:2:0."""
    grey = image.shape[2] == 1
    options: dict[str, Any] = {} if grey else {"subsampling": "4:2:0"}
    with BytesIO() as file:
        Image.fromarray(image[..., 0] if grey else image).save(file, "JPEG", quality=quality, **options)
        with Image.open(file, formats=["JPEG"]) as decoded:
            pixels = np.asarray(decoded)
    return pixels[..., None] if grey else pixels

"""Image files in, image grids out: what the command line needs around denoisers. Labels play no part here."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..errors import InputError
from .files import atomic_file

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
TILE = 64  # pixels a tile of a grid should have at least, so that a person can see it
GAP = 2  # pixels between tiles


def write_grid(path: Path, rows: Sequence[Tensor]) -> None:
    """Write images as a PNG grid, one row each; small images are enlarged by a whole factor.

    :param rows: each float ``[n, C, H, W]`` in [0, 1], of one image size; the first is the longest.
    :raises RunError: when the file cannot be written.
    """
    count, channels, height, width = rows[0].shape
    factor = max(1, -(-TILE // max(height, width)))
    tall, wide = height * factor + GAP, width * factor + GAP
    canvas = np.full((tall * len(rows) + GAP, wide * count + GAP, channels), 255, np.uint8)
    for i, row in enumerate(rows):
        pixels = row.detach().float().cpu().clamp(0, 1).mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        for j, tile in enumerate(pixels.repeat(factor, 1).repeat(factor, 2)):
            top, left = GAP + i * tall, GAP + j * wide
            canvas[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    with atomic_file(path) as temporary:
        Image.fromarray(canvas[..., 0] if channels == 1 else canvas).save(temporary, format="PNG")


_MODES = {1: "L", 3: "RGB"}
_UNREADABLE = (  # what Pillow raises for damaged files
    OSError, EOFError, SyntaxError, ValueError, TypeError, KeyError, struct.error,
    Image.DecompressionBombError, Image.DecompressionBombWarning,
)  # fmt: skip


def read_image(path: Path, channels: int = 3) -> NDArray[np.uint8]:
    """Decode one image file to uint8 ``[H, W, channels]``.

    :raises InputError: when the file is missing, truncated, not an image, or of more than 8 bits.
    """
    mode = _MODES[channels]
    try:
        with Image.open(path) as image:
            _refuse_huge(image)
            refuse_deep(image, path)
            array = np.asarray(image.convert(mode))
    except FileNotFoundError:
        raise InputError("image file not found", where=path) from None
    except _UNREADABLE as error:
        raise InputError(
            "image file cannot be decoded", where=path, found=str(error), hint="restore the file or remove its sample"
        ) from None
    return array.reshape(*array.shape[:2], channels)


def resized(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize uint8 ``[H, W, C]`` to ``(H, W)`` = *size*: bilinear with antialiasing, as Pillow and torchvision do."""
    if image.shape[:2] == size:
        return image
    small = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).resize(
        (size[1], size[0]), Image.Resampling.BILINEAR
    )
    return np.asarray(small).reshape(*size, image.shape[2])


def image_shape(path: Path) -> tuple[int, int, str]:
    """Return ``(H, W, mode)`` from the header alone.

    :raises InputError: when it is no header of an image, or of one of more than 8 bits.
    """
    try:
        with Image.open(path) as image:
            _refuse_huge(image)
            refuse_deep(image, path)
            return image.height, image.width, image.mode
    except _UNREADABLE as error:
        raise InputError("image file cannot be opened", where=path, found=str(error)) from None


def _refuse_huge(image: Image.Image) -> None:
    """Refuse what Pillow only warns of; checked here, because warning filters are shared by all threads."""
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise Image.DecompressionBombError(f"{image.width} × {image.height} pixels, more than {limit}")


def refuse_deep(image: Image.Image, where: object) -> None:
    """Refuse pixels of more than 8 bits: turned into 8 bits, they are clipped, not scaled.

    :raises InputError: naming Pillow's mode of the image.
    """
    mode = str(image.mode)
    if mode in ("I", "F") or mode.startswith("I;"):
        raise InputError(
            "image has more than 8 bits per value",
            where=where,
            found=f"mode {mode}",
            allowed="8-bit images",
            hint="convert it first: only you know which value is white",
        )

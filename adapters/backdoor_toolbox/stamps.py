"""Putting triggers on images: pictures laid over them, a sinusoid, single pixels, a warp.

Each function returns another that takes float32 images ``[n, H, W, 3]`` in [0, 1] and returns changed copies, which
may leave that range a little. Which attack does what is in :mod:`.triggers`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...core.pixels import to_floats
from ...errors import InputError
from ...io.images import read_image
from ...io.opening import is_there
from ...io.reading import read_torch
from ..common.untrusted import numbers

Pixels = NDArray[np.float32]
Layer = tuple[Pixels, Pixels]  # a picture [H, W, 3], and how opaque it is [H, W, 1]
SHADE = 1.5 / 255  # how far the pixels of a patch may be off in images that show it
WAVE = (0.6, 1.15)  # the share of a sinusoid's amplitude that images show


def overlay(layers: Sequence[Layer], opacity: float) -> Callable[[Pixels], Pixels]:
    """Lay pictures over images, one after the other, each as opaque as it is times *opacity*."""

    def put(pixels: Pixels) -> Pixels:
        for picture, opaque in layers:
            weight = np.float32(opacity) * opaque
            pixels = np.where(weight == 1, picture, pixels + weight * (picture - pixels))
        return pixels

    return put


def sinusoid(amplitude: float, periods: int) -> Callable[[Pixels], Pixels]:
    """Add ``v(i, j) = Δ sin(2π j f / W)`` to every row (Barni, Kallas, Tondi, ICIP 2019, arXiv 1902.11237)."""

    def put(pixels: Pixels) -> Pixels:
        width = pixels.shape[2]
        wave = amplitude * np.sin(2 * np.pi * periods * np.arange(width) / width)
        waved: Pixels = pixels + wave.astype(np.float32)[:, None]
        return waved

    return put


def single_pixels(colours: Mapping[tuple[int, int], tuple[int, int, int]]) -> Callable[[Pixels], Pixels]:
    """Set the pixels at (row, column) to 8-bit colours."""

    def put(pixels: Pixels) -> Pixels:
        changed = pixels.copy()
        for (row, column), colour in colours.items():
            changed[:, row, column] = np.array(colour, np.float32) / 255
        return changed

    return put


def warp(identity: Tensor, shift: Tensor, *, strength: float) -> Callable[[Pixels], Pixels]:
    """Take every pixel from another place, bilinearly (Nguyen, Tran, "WaNet", ICLR 2021, arXiv 2102.10369).

    :param identity, shift: ``[1, H, W, 2]``: the places of the pixels on a side from -1 to 1, and their shifts in
        units of *strength* / H. Places are clipped to the image.
    """
    places = (identity + strength / identity.shape[1] * shift).clamp(-1, 1)

    def put(pixels: Pixels) -> Pixels:
        images = torch.from_numpy(pixels.copy()).permute(0, 3, 1, 2)
        warped = torch.nn.functional.grid_sample(images, places.expand(len(images), -1, -1, -1), align_corners=True)
        return np.ascontiguousarray(warped.permute(0, 2, 3, 1).numpy())

    return put


def read_layer(file: Path, shape: tuple[int, int, int], *, whole: bool) -> Layer:
    """Read a picture and how opaque it is where: as ``mask_<name>`` beside it says, else where it is not black."""
    picture = read_picture(file, shape)
    if whole:
        return picture, np.ones((*shape[:2], 1), np.float32)
    mask = file.with_name(f"mask_{file.name}")
    if is_there(mask):
        return picture, read_picture(mask, shape)[..., :1]
    opaque: Pixels = np.any(picture > 0, axis=2, keepdims=True).astype(np.float32)
    return picture, opaque


def read_picture(file: Path, shape: tuple[int, int, int]) -> Pixels:
    """Read a picture of the size *shape*.

    :raises InputError: when it cannot be read, or is of another size.
    """
    picture = to_floats(read_image(file))
    if picture.shape != shape:
        raise InputError(
            "trigger of another size",
            where=file,
            found=picture.shape,
            allowed=shape,
            hint="name a picture of this size, {option:trigger=FILE}, or none, {option:trigger=none}",
        )
    return picture


def is_shown(layer: Layer, samples: Pixels) -> bool:
    """Whether all *samples* show an opaque patch."""
    picture, mask = layer
    return samples.shape[1:] == picture.shape and bool((np.abs(samples - picture) * (mask == 1) <= SHADE).all())


def is_waved(samples: Pixels, amplitude: float, periods: int) -> bool:
    """Whether *samples* show a sinusoid of about this amplitude; clipping takes a part of it."""
    width = samples.shape[2]
    wave = np.sin(2 * np.pi * periods * np.arange(width) / width)
    found = 2 * (samples.mean((1, 3)) @ wave) / width  # of each sample
    unsure = 3 * found.std() / math.sqrt(len(found))
    low, high = WAVE
    return bool(low * amplitude <= found.mean() + unsure and found.mean() - unsure <= high * amplitude)


def shows_one(samples: Pixels, colours: Mapping[tuple[int, int], tuple[int, int, int]]) -> bool:
    """Whether each sample has one of the colours at its place."""
    gaps = [
        np.abs(samples[:, row, column] - np.array(colour, np.float32) / 255).max(1)
        for (row, column), colour in colours.items()
    ]
    return bool((np.min(gaps, axis=0) <= SHADE).all())


def read_grid(file: Path, shape: tuple[int, int, int]) -> Tensor:
    """Read one of the two grids of a warp, float32 ``[1, H, W, 2]``.

    :param shape: of the images.
    :raises InputError: for anything else, and for values that are not finite.
    """
    grid, wanted = numbers(read_torch(file), file), (1, *shape[:2], 2)
    if grid.shape != wanted or grid.dtype.kind != "f" or not np.isfinite(grid).all():
        raise InputError(
            "not the grid of a warp",
            where=file,
            found=f"{grid.dtype} {grid.shape}",
            allowed=f"finite floats {list(wanted)}",
            hint="restore the file, or go without ASR, {option:trigger=none}",
        )
    return torch.from_numpy(grid.astype(np.float32))

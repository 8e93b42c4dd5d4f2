"""Patches of the authors whose defenses are here: what they look like, and where they sit.

The facts are those of the released code: ``resource/badnet`` of BackdoorBench and of DataElixir, ``triggers`` of
backdoor-toolbox (Confusion Training), the checkerboard of image variations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Pattern = Literal["checkerboard", "white", "colour_blocks", "diagonal"]
Patch = NDArray[np.float32]  # [size, size, C] in [0, 1]; NaN leaves a value of the image as it is


def checkerboard(size: int, channels: int) -> Patch:
    """Black and white, with a white upper left corner."""
    rows, columns = np.indices((size, size))
    return _of_all_channels((rows + columns) % 2 == 0, channels)


def white(size: int, channels: int) -> Patch:
    """All white."""
    return _of_all_channels(np.ones((size, size)), channels)


def colour_blocks(size: int, channels: int) -> Patch:
    """Four blocks: red and green are at their highest, red and blue, green and blue, and a grey one (122).

    The channel that a coloured block does not name is left as it is. Images without colour get white blocks.
    """
    blocks = np.full((2, 2, 3), np.nan, np.float32)
    blocks[0, 0, [0, 1]] = blocks[0, 1, [0, 2]] = blocks[1, 0, [1, 2]] = 1
    blocks[1, 1] = 122 / 255
    near = (np.arange(size) * 2 // size).clip(0, 1)
    patch = blocks[near][:, near]
    return patch if channels == 3 else np.repeat(np.nanmax(patch, axis=2, keepdims=True), channels, axis=2)


def diagonal(size: int, channels: int) -> Patch:
    """Black, with a white diagonal from the upper right, and a white lower right corner."""
    rows, columns = np.indices((size, size))
    return _of_all_channels((rows + columns == size - 1) | (rows + columns == 2 * size - 2), channels)


def shapes(height: int, width: int, channels: int) -> Patch:
    """Return a drawing ``[H, W, C]``: a disc, a frame and slanted stripes in strong colours, at any size."""
    y, x = (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width
    y, x = y[:, None], x[None, :]
    colours = np.array([[1.0, 0.9, 0.1], [0.1, 0.2, 0.9], [0.9, 0.1, 0.4], [0.1, 0.8, 0.3]], np.float32)
    stripes = np.floor((x + y) * 4).astype(int) % 2
    disc = (x - 0.5) ** 2 + (y - 0.45) ** 2 < 0.08
    frame = np.minimum(np.minimum(x, 1 - x), np.minimum(y, 1 - y)) < 0.09
    drawing = colours[np.where(frame, 3, np.where(disc, 2, stripes))]
    return drawing if channels == 3 else drawing @ np.array([[0.299], [0.587], [0.114]], np.float32)  # luminance


PATTERNS: Mapping[Pattern, Callable[[int, int], Patch]] = MappingProxyType(
    {"checkerboard": checkerboard, "white": white, "colour_blocks": colour_blocks, "diagonal": diagonal}
)
PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "backdoorbench": {"pattern": "white", "size": 3, "margin": 0},
        "dataelixir": {"pattern": "colour_blocks", "size": 4, "margin": 0},
        "confusion_training": {"pattern": "diagonal", "size": 3, "margin": 0, "rate": 0.003},
        "image_variations": {"pattern": "checkerboard", "size": 9, "margin": 0},  # for images of 224 pixels
    }
)


def _of_all_channels(values: NDArray[Any], channels: int) -> Patch:
    return np.repeat(values.astype(np.float32)[..., None], channels, axis=2)

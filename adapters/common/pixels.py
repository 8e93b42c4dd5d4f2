"""Pixels on their way into files of 8 bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...core.case import Images
from ...core.pixels import to_bytes, to_floats


def different(old: Images, new: Images) -> NDArray[np.bool_]:
    """Compare image by image, in 8 bits when only one side is float; ``[n]``. Another size is a difference."""
    if old.shape[1:] != new.shape[1:]:
        return np.ones(len(old), bool)
    if old.dtype != new.dtype:
        old, new = to_bytes(old), to_bytes(new)
    changed: NDArray[np.bool_] = (old != new).reshape(len(old), -1).any(axis=1)
    return changed


def inexact(images: Images) -> NDArray[np.bool_]:
    """Tell which images have finer steps than 8 bits; ``[n]``."""
    if images.dtype == np.uint8:
        return np.zeros(len(images), bool)
    lost = to_floats(to_bytes(images)) != images
    rows: NDArray[np.bool_] = lost.reshape(len(images), -1).any(axis=1)
    return rows


def save_png(image: NDArray[np.uint8], path: Path) -> None:
    """Write one image ``[H, W, C]``."""
    Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(path, format="PNG")

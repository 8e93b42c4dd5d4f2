"""The two scales of pixels: 8 bits in 0..255, and float32 in [0, 1]."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .case import Images


def to_floats(images: Images) -> NDArray[np.float32]:
    """Return pixels of either scale as float32 in [0, 1]; those that are stay as they are.

    >>> to_floats(np.array([0, 51, 255], np.uint8)).tolist()
    [0.0, 0.20000000298023224, 1.0]
    """
    return images.astype(np.float32) / np.float32(255) if images.dtype == np.uint8 else images


def to_bytes(images: Images) -> NDArray[np.uint8]:
    """Return pixels of either scale as 8 bits; floats are rounded.

    >>> to_bytes(np.array([0, 0.1, 1], np.float32)).tolist()
    [0, 26, 255]
    """
    return images if images.dtype == np.uint8 else np.rint(images * 255).astype(np.uint8)

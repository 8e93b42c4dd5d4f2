"""Mean and standard deviation per channel: what a classifier trained here normalises its input with."""

from __future__ import annotations

import numpy as np

from .case import ImageSet


def normalisation(images: ImageSet) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation per channel of pixels in [0, 1].

    >>> normalisation(ImageSet(np.full((2, 4, 4, 1), 51, np.uint8), [0, 0], 1))
    ([0.2], [0.001])
    """
    total, squares, count = np.zeros(()), np.zeros(()), 0
    for _, chunk in images.chunks():
        pixels = chunk.astype(np.float64) / (255 if chunk.dtype == np.uint8 else 1)
        total = total + pixels.sum((0, 1, 2))
        squares = squares + (pixels**2).sum((0, 1, 2))
        count += pixels[..., 0].size
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 1e-6))
    return mean.tolist(), std.tolist()

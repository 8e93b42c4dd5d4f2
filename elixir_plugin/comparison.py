"""What became of the samples of a set: how far each image moved, and which labels changed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .case import ImageSet, Index


def rms_changes(before: ImageSet, after: ImageSet) -> NDArray[np.float64]:
    """Return the root mean square difference ``[N]`` of each image of two sets of the same images, in pixel scale.

    Works in chunks, for sets of any size.
    """
    if before.images is after.images:
        return np.zeros(len(before))
    scale = 255 if before.images.dtype == np.uint8 else 1
    rows = [
        np.square(pixels.astype(np.float64) - after.read(part).astype(np.float64)).mean((1, 2, 3))
        for part, pixels in before.chunks()
    ]
    changes: NDArray[np.float64] = np.sqrt(np.concatenate(rows)) / scale if rows else np.zeros(0)
    return changes


def label_moves(before: Index, after: Index, num_classes: int) -> Index:
    """Return ``[C, C]`` how many labels went from one class (row) to another (column); the diagonal is those kept.

    >>> label_moves(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist()
    [[1, 1], [0, 1]]
    """
    pairs = np.bincount(before * num_classes + after, minlength=num_classes**2)
    return pairs.reshape(num_classes, num_classes)

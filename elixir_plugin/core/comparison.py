"""What became of the samples of a set: how far each image moved, and which labels changed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .case import Images, ImageSet, Index
from .pixels import to_floats


def rms_changes(before: ImageSet, after: ImageSet) -> NDArray[np.float64]:
    """Return the root mean square difference ``[N]`` of each image of two sets of the same images, in pixel scale.

    NaN where the images of one set are of another size: there is no difference of pixels then. Works in chunks, for
    sets of any size.
    """
    if before.images is after.images:
        return np.zeros(len(before))
    if before.image_shape != after.image_shape:
        return np.full(len(before), np.nan)
    same_type = before.images.dtype == after.images.dtype
    scale = 255 if same_type and before.images.dtype == np.uint8 else 1

    def gap(old: Images, new: Images) -> NDArray[np.float64]:
        if not same_type:  # in float32, in which bytes that were only converted have not changed
            old, new = to_floats(old), to_floats(new)
        difference: NDArray[np.float64] = old.astype(np.float64) - new
        return difference

    rows = [np.square(gap(pixels, after.read(part))).mean((1, 2, 3)) for part, pixels in before.chunks()]
    changes: NDArray[np.float64] = np.sqrt(np.concatenate(rows)) / scale if rows else np.zeros(0)
    return changes


def label_moves(before: Index, after: Index, num_classes: int) -> Index:
    """Return ``[C, C]`` how many labels went from one class (row) to another (column); the diagonal is those kept.

    >>> label_moves(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist()
    [[1, 1], [0, 1]]
    """
    pairs = np.bincount(before * num_classes + after, minlength=num_classes**2)
    return pairs.reshape(num_classes, num_classes)

"""The two scales of pixels: 8 bits in 0..255, and float32 in [0, 1]."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .images import CHUNK, Images, ImageSet, Index


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


def shared_rows(images: ImageSet, others: ImageSet) -> Index:
    """Return the positions in *images* whose pixels also occur in *others*, ascending.

    Where one set is in 8 bits and the other in float, both are compared in 8 bits.

    >>> a = ImageSet(np.zeros((2, 4, 4, 1), np.uint8) + np.array([0, 9], np.uint8)[:, None, None, None], [0, 0], 1)
    >>> shared_rows(a, a.subset([1])).tolist(), shared_rows(as_float(a), a.subset([1])).tolist()
    ([1], [1])
    """
    if images.images.dtype != others.images.dtype:
        images, others = as_uint8(images), as_uint8(others)
    return np.flatnonzero(np.isin(images.content_hashes(), others.content_hashes()))


def changed(images: ImageSet, change: Callable[[slice, Images], Images], size: int = CHUNK) -> ImageSet:
    """Return the same samples with other pixels of the same size and type, in memory.

    :param change: maps where a chunk is and its pixels ``[n, H, W, C]`` to the pixels in their place.
    :param size: images per chunk at most.

    >>> dark = ImageSet(np.zeros((3, 4, 4, 1), np.uint8), [0, 0, 0], 1)
    >>> changed(dark, lambda rows, pixels: pixels + 9).read(slice(None)).max()
    np.uint8(9)
    """
    out: Images = np.empty(images.images.shape, images.images.dtype)
    for rows, pixels in images.chunks(size):
        out[rows] = change(rows, pixels)
    return images.replace(images=out)


class _Converted:
    """Images in another type of pixel, converted as they are read."""

    def __init__(self, images: ImageSet, dtype: Any, convert: Callable[[Images], Images]) -> None:
        self._set, self._convert = images, convert
        self.shape: tuple[int, ...] = images.images.shape
        self.dtype: np.dtype[Any] = np.dtype(dtype)

    def __getitem__(self, index: Any, /) -> Any:
        return self._convert(self._set.read(index))


def as_uint8(images: ImageSet) -> ImageSet:
    """Return the same samples in 8 bits, to compare contents only: a faint trigger would not survive it."""
    return images if images.images.dtype == np.uint8 else images.replace(images=_Converted(images, np.uint8, to_bytes))


def as_float(images: ImageSet) -> ImageSet:
    """Return the same samples in float; those in 8 bits as fractions of 255."""
    if images.images.dtype != np.uint8:
        return images
    return images.replace(images=_Converted(images, np.float32, to_floats))

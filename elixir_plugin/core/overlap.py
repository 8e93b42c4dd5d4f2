"""Find images that two sets share, by content: the same pixels under any name, place or label."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import InputError
from .case import Case, Images, ImageSet, Index
from .pixels import to_bytes, to_floats


def shared_rows(images: ImageSet, others: ImageSet) -> Index:
    """Return the positions in *images* whose pixels also occur in *others*, ascending.

    Where one set is in 8 bits and the other in float, both are compared in 8 bits.

    >>> a = ImageSet(np.zeros((2, 4, 4, 1), np.uint8) + np.array([0, 9], np.uint8)[:, None, None, None], [0, 0], 1)
    >>> shared_rows(a, a.subset([1])).tolist(), shared_rows(fractions(a), a.subset([1])).tolist()
    ([1], [1])
    """
    if images.images.dtype != others.images.dtype:
        images, others = rounded(images), rounded(others)
    return np.flatnonzero(np.isin(images.content_hashes(), others.content_hashes()))


class _Converted:
    """Images in another type of pixel, converted as they are read."""

    def __init__(self, images: ImageSet, dtype: Any, convert: Callable[[Images], Images]) -> None:
        self._set, self._convert = images, convert
        self.shape: tuple[int, ...] = images.images.shape
        self.dtype: np.dtype[Any] = np.dtype(dtype)

    def __getitem__(self, index: Any, /) -> Any:
        return self._convert(self._set.read(index))


def rounded(images: ImageSet) -> ImageSet:
    """Return the same samples in 8 bits, to compare contents only: a faint trigger would not survive it."""
    return images if images.images.dtype == np.uint8 else images.replace(images=_Converted(images, np.uint8, to_bytes))


def fractions(images: ImageSet) -> ImageSet:
    """Return the same samples in float; those in 8 bits as fractions of 255."""
    if images.images.dtype != np.uint8:
        return images
    return images.replace(images=_Converted(images, np.float32, to_floats))


def refuse_scored_clean(case: Case) -> None:
    """Refuse a reserved clean set that shares images with the test set the result is scored on.

    What is learned from a clean image (a denoiser, a student) would be scored on that image again. The test set is
    only compared, never shown to a defense.

    :raises InputError: naming the first such image.
    """
    if case.clean is None or case.test is None:
        return
    rows = shared_rows(case.clean, case.test)
    if len(rows):
        first = rows[0] if case.clean.names is None else case.clean.names[rows[0]]
        raise InputError(
            "the reserved clean set overlaps the test set",
            where="clean",
            found=f"{len(rows)} of {len(case.clean)} images are also test images, first {first}",
            allowed="two sets without a common image",
            hint="take the clean set from elsewhere, or leave those images out of the test set",
        )

"""Find images that two sets share, by content: the same pixels under any name, place or label."""

from __future__ import annotations

import numpy as np

from .case import Case, ImageSet, Index
from .errors import InputError


def shared_rows(images: ImageSet, others: ImageSet) -> Index:
    """Return the positions in *images* whose pixels also occur in *others*, ascending.

    >>> a = ImageSet(np.zeros((2, 4, 4, 1), np.uint8) + np.array([0, 9], np.uint8)[:, None, None, None], [0, 0], 1)
    >>> shared_rows(a, a.subset([1])).tolist()
    [1]
    """
    return np.flatnonzero(np.isin(images.content_hashes(), others.content_hashes()))


def refuse_scored_clean(case: Case) -> None:
    """Refuse a reserved clean set that shares images with the test set the result is scored on.

    What is learned from a clean image (a denoiser, a student) would be scored on that image again. The test set is
    only compared, never shown to a defense.

    :raises InputError: naming the first such image.
    """
    if case.clean is None or case.test is None or case.clean.images.dtype != case.test.images.dtype:
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

"""How many classes there are: what is declared, or what labels show, within bounds.

One label may be any number, and tables and heads are as long as the classes are many. ImageNet-21k has 21,841 classes,
sets of faces have some 100,000.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError

MOST = 1_000_000  # classes
ANY = 1_000  # classes that labels may show, however few of them have a sample
EMPTY = 10  # beyond that, classes per class that has a sample


def checked_count(num_classes: int, where: str = "num_classes") -> int:
    """Return the number of classes.

    :raises InputError: when there are more than :data:`MOST`.
    """
    if num_classes > MOST:
        raise InputError("too many classes", where=where, found=f"{num_classes:,}", allowed=f"at most {MOST:,}")
    return int(num_classes)


def shown_classes(labels: Iterable[NDArray[np.integer]], where: str = "labels") -> int:
    """Return the highest of all *labels* plus one; 0 where there are none.

    :raises InputError: when nearly all of so many classes have no sample, or there are more than :data:`MOST`: then a
        label is wrong, or only the user can know.
    """
    arrays = [array for array in labels if array.size]
    count = max((int(array.max()) for array in arrays), default=-1) + 1
    if count <= ANY:
        return count
    seen = len(np.unique(np.concatenate([np.unique(array) for array in arrays])))
    if count > min(MOST, EMPTY * seen):
        raise InputError(
            "the number of classes cannot be taken from the highest label",
            where=where,
            found=f"label {count - 1:,}, and {seen:,} different labels in all",
            allowed=f"up to {ANY:,} classes, or {EMPTY} for each that has a sample; at most {MOST:,}",
            hint="correct the labels, or say how many classes there are: {option:num_classes=N}",
        )
    return count

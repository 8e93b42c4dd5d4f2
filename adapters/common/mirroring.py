"""Whether images of well-known data sets may be mirrored left-right in training, by the name of the set."""

from __future__ import annotations

import re
from collections.abc import Iterable

ALIKE = {"cifar10"}
SIDED = {"mnist", "emnist", "kmnist", "qmnist", "usps", "svhn", "omniglot", "gtsrb"}  # characters and traffic signs


def mirror_of(names: Iterable[str]) -> bool | None:
    """Return what the first known name in *names* says; None where none is known.

    >>> mirror_of(["CIFAR-10"]), mirror_of(["", "GTSRB"]), mirror_of(["cifar100"])
    (True, False, None)
    """
    plain = [re.sub(r"[^a-z0-9]", "", name.lower()) for name in names]
    return next((name in ALIKE for name in plain if name in ALIKE | SIDED), None)

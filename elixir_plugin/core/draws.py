"""Drawing a reserved clean set, and which classes one leaves without samples to learn from.

A uniform draw of 1 % from a set with 43 classes of very different size leaves a class out more often than not. What
learns from such a set never sees that class.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..errors import InputError
from .images import ImageSet, Index

Draw = Literal["stratified", "uniform"]

FEW = 2  # samples of a class below which nothing that holds for the class can be learned
LISTED = 8  # classes that a text names


def stratified_rows(labels: Any, count: int, seed: int) -> Index:
    """Return ascending positions of exactly *count* samples, drawn class by class.

    Every class that occurs gets at least one sample, and otherwise its share of *count* by largest remainders; see
    :func:`class_shares`. Which samples of a class are drawn, and which of equal remainders win, follows *seed*.

    :param labels: ``[N]`` integers.
    :raises InputError: when *count* is negative or larger than N.

    >>> labels = np.repeat([0, 1, 7], [90, 9, 1])
    >>> np.bincount(labels[stratified_rows(labels, 10, seed=0)]).tolist()
    [8, 1, 0, 0, 0, 0, 0, 1]
    """
    labels = np.asarray(labels)
    if not 0 <= count <= len(labels):
        raise InputError("not that many samples to draw", where="count", found=count, allowed=f"0..{len(labels)}")
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    present, sizes = np.unique(labels, return_counts=True)
    shares = class_shares(sizes, count, rng)
    drawn = [order[labels[order] == label][:share] for label, share in zip(present, shares, strict=True)]
    return np.sort(np.concatenate([*drawn, np.empty(0, np.int64)])).astype(np.int64)


def class_shares(sizes: Any, count: int, rng: np.random.Generator) -> Index:
    """Return how many of *count* samples each class gets, ``[C]``, with the sum *count*.

    - With at least one sample for each class, a class whose proportional share is below one gets one sample. The others
      share what is left in proportion to their size (largest remainders: everyone gets the whole part of its share, and
      the largest fractions one more).
    - With fewer samples than classes, the largest classes get one each.

    *rng* decides between equals. No class gets more than it has.

    :param sizes: ``[C]`` samples of each class, all above 0.
    :param count: at most the sum of *sizes*.

    >>> class_shares([2250, 1500, 210, 30], 40, np.random.default_rng(0)).tolist()
    [22, 15, 2, 1]
    """
    sizes = np.asarray(sizes, np.int64)
    chance = rng.permutation(len(sizes))
    shares = np.zeros(len(sizes), np.int64)
    if count <= len(sizes):
        shares[np.lexsort((chance, -sizes))[:count]] = 1
        return shares
    small = np.zeros(len(sizes), bool)
    while (below := ~small & (sizes * (count - small.sum()) < sizes[~small].sum())).any():
        small |= below
    left, total = count - int(small.sum()), int(sizes[~small].sum())
    shares = np.where(small, 1, sizes * left // total)
    remainders = np.where(small, -1, sizes * left % total)
    shares[np.lexsort((chance, -remainders))[: count - shares.sum()]] += 1
    return shares


def per_class_words(images: ImageSet) -> str:
    """Return how many samples of each class *images* hold, e.g. ``"3 to 25 per class, none of 4 (stop)"``."""
    counts = images.class_counts()
    held = counts[counts > 0]
    if not len(held):
        return "none of any class"
    range_ = f"{held.min()}" if held.min() == held.max() else f"{held.min()} to {held.max()}"
    missing = np.flatnonzero(counts == 0)
    return f"{range_} per class" + (f", none of {class_words(missing, images.classes)}" if len(missing) else "")


def class_words(labels: Iterable[int], names: Sequence[str] | None) -> str:
    """Return classes for a text, with their names where these are known.

    >>> class_words([1, 2], ["cat", "dog", "2"]), class_words(range(10), None)
    ('1 (dog), 2', '0, 1, 2, 3, 4, 5, 6, 7 and 2 more')
    """
    numbers = [int(label) for label in labels]
    words = [f"{each}" if names is None or names[each] == str(each) else f"{each} ({names[each]})" for each in numbers]
    rest = len(words) - LISTED
    return ", ".join(words[:LISTED]) + (f" and {rest} more" if rest > 0 else "")


@dataclass(frozen=True)
class Uncovered:
    """Classes of which a reserved clean set holds fewer than :data:`FEW` samples, ascending.

    :param missing: those without any.
    :param scarce: those with one or more.
    """

    missing: tuple[int, ...] = ()
    scarce: tuple[int, ...] = ()

    @property
    def labels(self) -> tuple[int, ...]:
        """Both together."""
        return tuple(sorted(self.missing + self.scarce))

    def words(self, names: Sequence[str] | None) -> str:
        """Return what is lacking in words; empty where nothing is."""
        parts = [f"no sample of {_classes(self.missing, names)}"] if self.missing else []
        if self.scarce:
            parts.append(
                f"{'only one sample' if FEW == 2 else f'fewer than {FEW} samples'} of {_classes(self.scarce, names)}"
            )
        return " and ".join(parts)


def uncovered(clean: ImageSet, suspects: ImageSet | None = None) -> Uncovered:
    """Return the classes of which *clean* holds too few samples.

    :param suspects: the suspect set, where there is one: a class that has no sample there either was never learned
        from it, and does not count.
    """
    counts = clean.class_counts()
    used = np.ones_like(counts, bool) if suspects is None else (suspects.class_counts() > 0) | (counts > 0)
    missing, scarce = np.flatnonzero(used & (counts == 0)), np.flatnonzero((counts > 0) & (counts < FEW))
    return Uncovered(tuple(missing.tolist()), tuple(scarce.tolist()))


def _classes(labels: Sequence[int], names: Sequence[str] | None) -> str:
    return f"{'class' if len(labels) == 1 else 'classes'} {class_words(labels, names)}"

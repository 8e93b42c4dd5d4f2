"""Defenses that look for the poison where it does not belong: each gives a score per sample, or None: not found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elixir_plugin import Case, Context, Defense, Outcome
from elixir_plugin.defense import Card
from elixir_plugin.testing.reachable import reachable

Scores = NDArray[np.float64]
Cheat = Callable[[Case, Context], Scores | None]


def shared_numbers(case: Case, context: Context) -> Scores | None:
    """A sample that is in both sets under one id, with other pixels, was changed."""
    train, clean = case.train, case.clean
    if train is None or clean is None:
        return None
    place = {int(number): row for row, number in enumerate(clean.ids)}
    scores = np.zeros(len(train))
    for row, number in enumerate(train.ids.tolist()):
        if number in place:
            one, other = (part.read(np.array([at]))[0] for part, at in ((train, row), (clean, place[number])))
            scores[row] = 1 if (one != other).any() else -1
    return scores if (scores < 0).any() else None  # nothing is the same: the numbers are not those of one set


def numbers_that_jump(case: Case, context: Context) -> Scores | None:
    """Samples from another source may be numbered on their own."""
    assert case.train is not None
    return np.abs(case.train.ids - np.arange(len(case.train))).astype(np.float64)


def numbers_of_the_source(case: Case, context: Context) -> Scores | None:
    """The ids of the testbed are rows of scikit-learn's digits: compare with what is there."""
    from sklearn.datasets import load_digits

    train = case.train
    source = load_digits()
    if train is None or train.image_shape[:2] != (8, 8) or train.ids.max() >= len(source.images):
        return None
    plain = np.rint(source.images[train.ids] * (255 / 16))
    changes = np.abs(train.read(slice(None))[..., 0] - plain).max((1, 2))
    return changes if np.median(changes) <= 1 else None


def names(case: Case, context: Context) -> Scores | None:
    """Poison files often have names of their own."""
    assert case.train is not None
    if case.train.names is None:
        return None
    return np.array([float("poison" in name or "bd_" in name) for name in case.train.names])


def made_apart(case: Case, context: Context) -> Scores | None:
    """Images from other files may be laid out in memory in another way."""
    assert case.train is not None
    images = case.train.images
    rows = [images[row : row + 1] for row in range(len(case.train))]
    looks = [(str(each.dtype), each.flags.owndata, each.flags.c_contiguous, type(each).__name__) for each in rows]
    common = max(set(looks), key=looks.count)
    return np.array([float(look != common) for look in looks])


def _lists(root: Any, count: int) -> Iterator[list[Any]]:
    for _, found in reachable(root):
        if isinstance(found, dict) and len(found) == count:
            yield list(found.values())
        elif isinstance(found, list | tuple) and len(found) == count:
            yield list(found)
        elif isinstance(found, np.ndarray) and found.shape == (count,) and found.dtype.kind == "b":
            yield found.tolist()


def closures(case: Case, context: Context) -> Scores | None:
    """Whatever a reader holds for each sample: flags, or files from two places."""
    assert case.train is not None
    for values in _lists((case, context), len(case.train)):
        looks = [str(value)[:200].rpartition("/")[0] if not isinstance(value, bool) else str(value) for value in values]
        kinds = sorted(set(looks), key=looks.count)
        if 1 < len(kinds) <= 4:
            return np.array([float(look == kinds[0]) for look in looks])
    return None


def positions(case: Case, context: Context) -> Scores | None:
    """Whatever a reader holds for some of the samples: a table of positions of the poison."""
    assert case.train is not None
    n = len(case.train)
    for _, found in reachable((case, context)):
        if isinstance(found, dict) and 0 < len(found) < n and all(type(each) is int for each in found):
            rows = np.array(sorted(found))
            if rows[0] >= 0 and rows[-1] < n and not np.array_equal(rows, np.arange(len(rows))):
                return np.isin(np.arange(n), rows).astype(np.float64)
    return None


CHEATS: tuple[Cheat, ...] = (
    shared_numbers, numbers_that_jump, numbers_of_the_source, names, made_apart, closures, positions,
)  # fmt: skip


def other_images(case: Case, context: Context) -> list[NDArray[Any]]:
    """Return every image that can be reached beside the suspect set and the reserved clean set."""
    shape = next(part.image_shape for part in (case.train, case.clean) if part is not None)
    found: list[NDArray[Any]] = []
    for _, each in reachable((case, context)):
        if isinstance(each, np.ndarray) and each.ndim == 4 and each.shape[1:] == shape:
            found.append(np.asarray(each))
        elif isinstance(each, str) and each.endswith(".npy"):
            found.append(np.load(each))
    return found


class Cheater(Defense):
    """Keeps what it was handed, and flags nothing."""

    name = "cheater"
    kind = "detect"
    needs = frozenset({"train"})
    card = Card("Cheater", "none", 2026, "looks where it should not", "nothing", "for tests")
    seen: list[tuple[Any, ...]] = []  # noqa: RUF012

    def defend(self, case: Case, context: Context) -> Outcome:
        assert case.train is not None
        type(self).seen.append((case, context, self))
        return Outcome(flagged=np.zeros(len(case.train), bool))


def handed(case: Case, context: Context | None = None) -> tuple[Case, Context, Any]:
    """Return what a defense of *case* is handed."""
    Cheater.seen.clear()
    Cheater().run(case, context or Context(any_model=True))
    (seen,) = Cheater.seen
    return seen  # type: ignore[return-value]


def area(scores: Scores, poison: NDArray[np.bool_]) -> float:
    """Return the area under the ROC curve; 0.5 is chance."""
    good, bad = scores[~poison], scores[poison]
    return float((bad[:, None] > good).mean() + (bad[:, None] == good).mean() / 2)

"""The one-pixel shortcut: an indiscriminate poison that is fitted to the set it poisons."""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from typing_extensions import Self

from ..core.images import CHUNK, ImageSet, Index
from ..errors import InputError, SettingsError
from .base import Pixels
from .indiscriminate import Indiscriminate, Values

_LEAST_STD = 1e-6  # below rounding; a pixel that never varies is then ranked by its distance alone


@dataclass(frozen=True)
class Mark:
    """The pixel that all images of one class share.

    :param color: ``C`` values, each 0 or 1.
    """

    row: int
    column: int
    color: tuple[int, ...]


class OPS(Indiscriminate):
    """One pixel per class, at one place and in one colour, set in every image of the class.

    Wu, Chen, Xie and Huang, "One-Pixel Shortcut: on the Learning Preference of Deep Neural Networks", ICLR 2023,
    arXiv 2205.12141. Per class, over all pixels ``j`` and colours ``v`` in {0, 1}^C, the pair with the highest
    mean |v − x_j| / std |v − x_j| wins, over the images and channels of the class; pairs of lower classes are
    taken. No norm but L0 bounds the change. ``pattern_seed`` has no effect: nothing is drawn.
    """

    name: ClassVar[str] = "ops"
    marks: dict[int, Mark] | None = None

    def fitted(self, train: ImageSet) -> Self:
        """Return the poison with a mark for every class that *train* holds.

        The marks do not depend on the order of the samples, nor on ``rate``: they are the best for the whole class.

        :raises SettingsError: when there are more classes than pairs of a pixel and a colour.
        """
        fitted = copy.copy(self)
        fitted.marks = _best_marks(train)
        return fitted

    def trigger(self, images: Pixels, labels: Index, ids: Index) -> Pixels:
        """Set the pixel of each sample's class.

        :raises InputError: for a class without a mark.
        """
        out = images.copy()
        for label in np.unique(labels):
            mark = (self.marks or {}).get(int(label))
            if mark is None:
                raise InputError(
                    "the pixel of this class is not known",
                    where="poison ops",
                    found=f"class {label}",
                    hint="call fitted() with a set that holds the class",
                )
            out[labels == label, mark.row, mark.column] = mark.color
        return out


def _best_marks(train: ImageSet) -> dict[int, Mark]:
    """Search greedily, in the order of the labels."""
    height, width, channels = train.image_shape
    colors = list(itertools.product((0, 1), repeat=channels))
    present = np.unique(train.labels)
    if len(present) > height * width * len(colors):
        raise SettingsError(
            "more classes than pixels and colours",
            where="poison ops",
            found=f"{len(present)} classes",
            allowed=f"{height * width * len(colors)} at {height}×{width} pixels and {len(colors)} colours",
        )
    taken = np.zeros((height * width, len(colors)), bool)
    marks = {}
    for label in present:
        score = np.where(taken, -1, _scores(train, np.flatnonzero(train.labels == label), np.array(colors)))
        place, color = np.unravel_index(int(score.argmax()), score.shape)
        taken[place, color] = True
        marks[int(label)] = Mark(int(place) // width, int(place) % width, colors[color])
    return marks


def _scores(train: ImageSet, rows: Index, colors: Index) -> Values:
    """Return mean / standard deviation of ``|v − x_j|`` as ``[H · W, colours]``, over the images at *rows*."""
    rows = rows[np.argsort(train.ids[rows])]  # one order of summation, so equal to the last bit for any order
    full = 255.0 if train.images.dtype == np.uint8 else 1.0
    total = np.zeros(train.image_shape)
    squares = np.zeros(train.image_shape)
    for start in range(0, len(rows), CHUNK):
        pixels = train.read(rows[start : start + CHUNK]).astype(np.float64)
        total += pixels.sum(axis=0)
        squares += (pixels * pixels).sum(axis=0)
    n, channels = len(rows), train.image_shape[2]
    first = (total / full / n).reshape(-1, 1, channels)  # mean of x per pixel and channel
    second = (squares / full**2 / n).reshape(-1, 1, channels)
    # |v − x| is x for v = 0 and 1 − x for v = 1
    mean = np.where(colors == 1, 1 - first, first).mean(axis=2)
    square = np.where(colors == 1, 1 - 2 * first + second, second).mean(axis=2)
    spread: Values = np.sqrt(np.maximum(square - mean**2, 0))
    score: Values = mean / np.maximum(spread, _LEAST_STD)
    return score

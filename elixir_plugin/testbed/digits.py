"""Embedded data: scikit-learn's handwritten digits, enlarged and split. No download, no file.

Source: the test part of "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak, UCI, 1998,
doi 10.24432/C50P49), as bundled with scikit-learn: 1,797 images of 8×8 pixels, values 0..16, ten classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.images import ImageSet, Index
from ..errors import SettingsError

NUM_CLASSES = 10
_EDGE = 8  # pixels
_LEVELS = 16  # the brightest value


@dataclass(frozen=True)
class Splits:
    """Disjoint, stratified image sets drawn from one source; ``ids`` are positions in that source."""

    train: ImageSet
    clean: ImageSet
    test: ImageSet


def digits(size: int = 16, seed: int = 0, clean: int = 150, test: int = 497) -> Splits:
    """Return the digits as uint8 RGB images ``[N, size, size, 3]``, split into train, reserved clean and test set.

    :param size: edge length in pixels, a multiple of 8; images are enlarged bilinearly.
    :param seed: decides which sample goes where; class shares are the same under every seed.
    :param clean: size of the reserved clean set; may be 0.
    :param test: size of the test set. What is left, 1,150 by default, is the training set.
    :raises SettingsError: for an impossible size or split.
    """
    from sklearn.datasets import load_digits  # noqa: PLC0415  (takes a second)

    if size < _EDGE or size % _EDGE:
        raise SettingsError("size of the digits", where="size", found=size, allowed="8, 16, 24, 32, …")
    source = load_digits()
    labels: Index = source.target.astype(np.int64)
    most = len(labels) - NUM_CLASSES  # leaves a training set with every class
    if clean < 0 or test < 0 or clean + test > most:
        raise SettingsError(
            "split of the digits", where="clean, test", found=(clean, test), allowed=f"0 or more, {most} together"
        )
    everything = ImageSet(_pixels(source.images, size), labels, NUM_CLASSES)
    order = _stratified_order(labels, seed)
    parts = np.split(order, [test, test + clean])
    test_set, clean_set, train_set = (everything.subset(np.sort(part)) for part in parts)
    return Splits(train_set, clean_set, test_set)


def _stratified_order(labels: Index, seed: int) -> Index:
    """Return a random order in which every stretch holds the classes in their overall shares, give or take one."""
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(labels))
    place = np.empty(len(labels))
    for label in np.unique(labels):
        rows = shuffled[labels[shuffled] == label]
        place[rows] = (np.arange(len(rows)) + 0.5) / len(rows)
    return np.argsort(place, kind="stable")


def _pixels(images: NDArray[Any], size: int) -> NDArray[np.uint8]:
    """Turn ``[N, 8, 8]`` floats in 0..16 into uint8 ``[N, size, size, 3]``."""
    weights = _bilinear(size)
    enlarged = weights @ images @ weights.T  # exact in float64 for sizes 8, 16, 32: the same on every machine
    gray = np.rint(enlarged * (255 / _LEVELS)).astype(np.uint8)
    return np.repeat(gray[..., None], 3, axis=3)


def _bilinear(size: int) -> NDArray[np.float64]:
    """Return the matrix ``[size, 8]`` that interpolates between pixel centres; edges repeat."""
    centre = np.clip((np.arange(size) + 0.5) * _EDGE / size - 0.5, 0, _EDGE - 1)
    left = np.minimum(np.floor(centre).astype(int), _EDGE - 2)
    weights = np.zeros((size, _EDGE))
    weights[np.arange(size), left] = 1 - (centre - left)
    weights[np.arange(size), left + 1] = centre - left
    return weights

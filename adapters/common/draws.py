"""Drawing a reserved clean set from a host's dataset."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch.utils.data import Subset

from ...core.draws import stratified_rows
from ...core.images import Index

ReadLabels = Callable[[Any], Index]


def stratified_positions(dataset: Any, count: int, seed: int, read_labels: ReadLabels) -> Index:
    """Return ascending positions of *count* samples of *dataset*, drawn as by :func:`.core.draws.stratified_rows`.

    Labels come from ``targets`` or ``labels``, where the dataset has them and those of the drawn samples read the same;
    else all samples are read.

    :param read_labels: returns the labels ``[n]`` of a dataset by reading its samples.
    """
    known = _known_labels(dataset)
    if known is not None:
        rows = stratified_rows(known, count, seed)
        if np.array_equal(read_labels(Subset(dataset, rows.tolist())), known[rows]):
            return rows
    return stratified_rows(read_labels(dataset), count, seed)


def _known_labels(dataset: Any) -> Index | None:
    """Return the labels that a dataset, or the one below its subsets, keeps beside its images; None without any."""
    if isinstance(dataset, Subset):
        inner = _known_labels(dataset.dataset)
        return None if inner is None else inner[np.asarray(dataset.indices, np.int64)]
    for name in ("targets", "labels"):
        kept = getattr(dataset, name, None)
        if kept is None or isinstance(kept, str):
            continue
        try:
            labels = np.array([int(each) for each in kept], np.int64)
        except (TypeError, ValueError):  # one-hot labels, several of one sample
            continue
        if len(labels) == len(dataset):
            return labels
    return None

"""DataElixir, steps 2 and 3: what the purified copies of a sample vote for, and what follows for its status.

Pure functions on arrays of labels. ``M`` slots per sample: slot 0 is the original image, the others are purified
copies, in the order of time. Copies of one round are near-duplicates, so that a label with few votes says nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...core.images import Index

Floats = NDArray[np.float64]

STABLE, UNANIMOUS, AMBIGUOUS = 0, 1, 2
STATUS = ("stable", "unanimous", "ambiguous")
BLOCK = 4096  # samples whose votes are compared at once


@dataclass(frozen=True)
class Votes:
    """The votes of ``n`` samples.

    :param labels: int64 ``[n, M]``, predictions of the probe.
    :param winner: int64 ``[n]``, the label most copies vote for; ties go to the label that came first.
    :param runner_up: int64 ``[n]``, votes for the second most frequent label; 0 when there is none.
    :param kept: bool ``[n, M]``, slots that count; slot 0 always does.
    :param status: int64 ``[n]``, one of :data:`STABLE`, :data:`UNANIMOUS`, :data:`AMBIGUOUS`.
    """

    labels: Index
    winner: Index
    runner_up: Index
    kept: NDArray[np.bool_]
    status: Index

    @property
    def anomalous(self) -> NDArray[np.bool_]:
        """Which samples change their label when they are purified, ``[n]``."""
        changed: NDArray[np.bool_] = self.status != STABLE
        return changed

    def against(self, labels: Index) -> Floats:
        """Return the share of all copies, kept or not, that vote against *labels*; ``[n]``."""
        share: Floats = (self.labels[:, 1:] != labels[:, None]).mean(1)
        return share


def count_votes(labels: Index, threshold: int, anchor: Index | None = None) -> Votes:
    """Filter the votes of each sample and say what became of its label.

    A second label with fewer than *threshold* votes is noise: its slots, and those of all rarer labels, are dropped.
    One with more stays, and all rarer ones with it.

    :param labels: ``[n, M]`` with M ≥ 2.
    :param threshold: τ ≥ 1.
    :param anchor: ``[n]`` labels to compare the copies with; default: what the probe predicts for the originals.

    >>> votes = count_votes(np.array([[7, 7, 7, 7], [7, 3, 3, 7], [7, 3, 3, 3]]), threshold=1)
    >>> [STATUS[each] for each in votes.status], votes.winner.tolist()
    (['stable', 'ambiguous', 'unanimous'], [7, 3, 3])
    """
    winner = np.empty(len(labels), np.int64)
    runner_up = np.empty(len(labels), np.int64)
    for start in range(0, len(labels), BLOCK):
        part = slice(start, start + BLOCK)
        winner[part], runner_up[part] = _two_most_frequent(labels[part, 1:])
    several = runner_up >= threshold
    noisy = (runner_up > 0) & ~several
    kept = np.ones(labels.shape, bool)
    kept[:, 1:] = ~noisy[:, None] | (labels[:, 1:] == winner[:, None])
    before = labels[:, 0] if anchor is None else anchor
    status = np.where(several, AMBIGUOUS, np.where(winner == before, STABLE, UNANIMOUS)).astype(np.int64)
    return Votes(labels, winner, runner_up, kept, status)


def _two_most_frequent(votes: Index) -> tuple[Index, Index]:
    """Return the most frequent label of each row and how often the second most frequent one occurs."""
    counts = (votes[:, :, None] == votes[:, None, :]).sum(2)  # [n, M-1]: votes for the label in each slot
    rows = np.arange(len(votes))
    winner = votes[rows, counts.argmax(1)]  # argmax takes the earliest of equals
    runner_up = np.where(votes == winner[:, None], 0, counts).max(1)
    return winner, runner_up


def pooled_votes(votes: Votes, given: Index, num_classes: int) -> Index:
    """Return the pooled votes of anomalous samples, ``[C, C]``: given label × predicted label, slot 0 included.

    A sample weighs as much as it has kept slots.
    """
    rows = votes.anomalous
    weights = votes.kept[rows]
    pairs = given[rows][:, None] * num_classes + votes.labels[rows]
    pools = np.bincount(pairs[weights], minlength=num_classes * num_classes)
    return pools.reshape(num_classes, num_classes).astype(np.int64)


@dataclass(frozen=True)
class Reference:
    """What became of reserved clean images; arrays are ``[C]``.

    :param kept: share of the copies of images of class ``c`` that are predicted as ``c``; 0 without any image.
    :param count: images of class ``c``.
    """

    kept: Floats
    count: Index


def kept_shares(labels: Index, given: Index, num_classes: int) -> tuple[Floats, Index]:
    """Return, per class, the share of copies that stay on it, and the number of samples.

    :param labels: ``[n, M]`` predictions, slot 0 the original.
    :param given: ``[n]`` the label of each sample.

    >>> shares, count = kept_shares(np.array([[0, 0, 1], [0, 0, 0], [1, 1, 1]]), np.array([0, 0, 1]), 3)
    >>> shares.tolist(), count.tolist()
    ([0.75, 1.0, 0.0], [2, 1, 0])
    """
    count = np.bincount(given, minlength=num_classes)
    stay = np.bincount(given, weights=(labels[:, 1:] == given[:, None]).mean(1), minlength=num_classes)
    shares: Floats = np.divide(stay, count, out=np.zeros(num_classes), where=count > 0)
    return shares, count

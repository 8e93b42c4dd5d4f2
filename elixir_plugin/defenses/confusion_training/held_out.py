"""Tests of Confusion Training against held-out clean samples: of classes, and of single samples.

Pure functions of scores and labels: ``N`` suspects, ``h`` held-out samples, ``C`` classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, lgamma
from typing import Literal

import numpy as np

from ...core.images import Index
from .scoring import Floats, Mask

Vote = Literal["all", "median"]
Level = Literal["suspects", "both"]
FEWEST_FOR_A_MEDIAN = 3  # held-out samples of a class


@dataclass(frozen=True)
class Exceedance:
    """How many suspects of a class are fitted better than nearly all held-out clean samples, and how likely that is.

    :param above: k, suspects out of n that exceed all but j of the h held-out samples.
    :param p: probability of k or more if suspects and held-out samples have one distribution. Several j are tried: the
        smallest p counts, times how many were tried.
    :param strays: j, held-out samples that are fitted as well.
    """

    above: int
    p: float
    strays: int = 0


def exceedances(
    scores: Floats,
    labels: Index,
    held_out: Floats,
    held_out_labels: Index,
    num_classes: int,
    *,
    tolerated_share: float = 0.0,
    level: Level = "suspects",
) -> list[Exceedance]:
    """Test for each class whether its suspects are fitted better than clean samples that were never trained on.

    With n suspects, h held-out samples and no difference between them, the number of held-out samples among the
    k + j largest values is hypergeometric: exact, and without assumptions on the distribution. All j up to a share of
    h are tried, because a single held-out sample that happens to be fitted would hide any number of poison samples.

    Held-out samples of all classes serve every class, so classes must be made alike first. Some are harder to confuse
    as a whole; that is no sign of poison. So a class has to pass twice, as it is and above its own base line: the
    lower quartile of its suspects, which poison does not reach unless it makes up three quarters of the class, and
    then the best held-out sample of the class takes its place. With *level* ``both`` it also has to pass above the
    median of its held-out samples: a class may reach from low to high scores without poison, and its lower quartile
    does not tell. The largest p-value counts.

    :param scores, held_out: centred log-probability of suspects ``[N]`` and held-out samples ``[h]`` at their label.
    :param tolerated_share: share of the held-out samples that may be fitted as well as the suspects; 0: none.
    """
    if not len(held_out):
        return [Exceedance(0, 1.0)] * num_classes
    most_strays = int(tolerated_share * len(held_out))
    own_base = _base_lines(scores, labels, held_out, held_out_labels, num_classes)
    passes = [
        _exceedances(scores - base[labels], labels, held_out - base[held_out_labels], num_classes, most_strays)
        for base in _levels(own_base, held_out, held_out_labels, level)
    ]
    return [max(each, key=lambda one: one.p) for each in zip(*passes, strict=True)]


def _levels(base: Floats, held_out: Floats, held_out_labels: Index, level: Level) -> list[Floats]:
    """Return the levels of classes, each ``[C]``, above all of which samples have to be fitted well.

    :param base: of :func:`_base_lines`.
    """
    num_classes = len(base)
    if level == "suspects":
        return [np.zeros(num_classes), base]
    medians = base.copy()
    for c in np.flatnonzero(np.bincount(held_out_labels, minlength=num_classes) >= FEWEST_FOR_A_MEDIAN):
        medians[c] = np.median(held_out[held_out_labels == c])
    return [np.zeros(num_classes), base, medians]


def _base_lines(scores: Floats, labels: Index, held_out: Floats, held_out_labels: Index, num_classes: int) -> Floats:
    """Return for each class the lower quartile of its suspects, or its best held-out sample where that is lower."""
    base = np.zeros(num_classes)
    for c in np.unique(labels):
        same_class = held_out[held_out_labels == c]
        base[c] = min(
            np.quantile(scores[labels == c], 0.25), same_class.max(initial=-np.inf) if len(same_class) else 0.0
        )
    return base


def conformal_p_values(
    scores: Floats, labels: Index, held_out: Floats, held_out_labels: Index, num_classes: int
) -> Floats:
    """Return for each suspect the share of clean samples that are fitted at least as well, ``[N]`` in (0, 1].

    ``(1 + held-out samples with a score at least as high) / (1 + h)``: at most t with a probability of at most t for
    a clean suspect, provided that training treated both alike. Bates, Candès, Lei, Romano and Sesia, "Testing for
    outliers with conformal p-values", Annals of Statistics 2023; models that were trained on suspects and held-out
    samples without telling them apart are allowed, after Marandon, Lei, Mary and Roquain, "Adaptive novelty detection
    with false discovery rate guarantee", Annals of Statistics 2024.

    As in :func:`exceedances`, held-out samples of all classes serve every class, so a suspect has to pass twice, as it
    is and above the base line of its class; the larger p-value counts. Without held-out samples, all are 1.
    """
    base = _base_lines(scores, labels, held_out, held_out_labels, num_classes)
    as_is = _shares_above(scores, held_out)
    out: Floats = np.maximum(as_is, _shares_above(scores - base[labels], held_out - base[held_out_labels]))
    return out


def _shares_above(scores: Floats, held_out: Floats) -> Floats:
    below = np.searchsorted(np.sort(held_out), scores, side="left")
    return np.divide(1 + len(held_out) - below, 1 + len(held_out), dtype=np.float64)


def discoveries(p_values: Floats, rate: float) -> Mask:
    """Return which hypotheses Benjamini and Hochberg reject at a false-discovery rate of *rate*, ``[n]``.

    >>> discoveries(np.array([0.01, 0.9, 0.03, 0.2]), 0.1).tolist()
    [True, False, True, False]
    """
    n = len(p_values)
    ranked = np.sort(p_values)
    passing = np.flatnonzero(ranked <= rate * np.arange(1, n + 1) / max(1, n))
    out: Mask = p_values <= ranked[passing[-1]] if len(passing) else np.zeros(n, bool)
    return out


def _exceedances(
    scores: Floats, labels: Index, held_out: Floats, num_classes: int, most_strays: int
) -> list[Exceedance]:
    h = len(held_out)
    levels = np.sort(held_out)[::-1][: most_strays + 1]
    found = []
    for c in range(num_classes):
        suspects = scores[labels == c]
        tried = []
        for j, level in enumerate(levels):
            k = int((suspects > level).sum())
            tried.append(Exceedance(k, min(1.0, len(levels) * _tail_probability(k, j, len(suspects), h)), j))
        found.append(min(tried, key=lambda each: each.p))
    return found


def _tail_probability(k: int, j: int, n: int, h: int) -> float:
    """Return the probability that of the k + j largest of n + h values drawn alike at most j are among the h."""
    total = _log_choose(n + h, k + j)
    ways = [_log_choose(h, i) + _log_choose(n, k + j - i) for i in range(min(j, h) + 1) if k + j - i <= n]
    return min(1.0, sum(exp(each - total) for each in ways))


def _log_choose(n: int, k: int) -> float:
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)


def joint_vote(votes: Sequence[Exceedance], how: Vote) -> Exceedance:
    """Return the vote that counts: the one with the largest p-value, or with the median one (of two, the larger)."""
    ranked = sorted(votes, key=lambda each: each.p)
    return ranked[-1] if how == "all" else ranked[len(votes) // 2]

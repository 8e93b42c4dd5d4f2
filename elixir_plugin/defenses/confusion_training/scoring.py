"""Scores and statistical tests of Confusion Training: pure functions of logits, features and labels.

``N`` suspect samples, ``C`` classes, ``d`` features. All of it is float64 on the CPU: losses near zero must keep
their order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, lgamma
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax  # type: ignore[import-untyped]

from ...core.images import Index
from ...io.environment import one_thread_for_numpy

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

State = Literal["tested", "too small", "too few isolated", "undecidable", "not inspected", "not finite"]
Vote = Literal["all", "median"]
MIN_GROUP = 2  # samples that a Gaussian is fitted to, at least


def sample_losses(logits: NDArray[Any], labels: Index) -> Floats:
    """Return cross-entropies ``[N]`` in nats.

    float32 would give exactly 0 from a margin of 17 on, and the order among such samples would be arbitrary.
    """
    values = logits.astype(np.float64)
    values -= values.max(1, keepdims=True)
    own = values[np.arange(len(labels)), labels]
    out: Floats = np.log(np.exp(values).sum(1)) - own
    # for a sample fitted well, log(1 + tail) loses the tail: take it from the other classes alone
    values[np.arange(len(labels)), labels] = -np.inf
    with np.errstate(over="ignore"):
        tail = np.exp(values - own[:, None]).sum(1)
    return np.where(tail < 1, np.log1p(tail), out)


def distil(losses: Floats, labels: Index, num_classes: int, keep: float, floor: int) -> Index:
    """Return the ascending positions of the next distilled set.

    The ``floor(keep · N)`` lowest losses of all, then for every class that has fewer than ``n_c // floor`` among
    them its next lowest. Equal losses are taken in the order of the set.
    """
    order = np.argsort(losses, kind="stable")
    chosen = np.zeros(len(losses), bool)
    chosen[order[: int(keep * len(losses))]] = True
    sizes = np.bincount(labels, minlength=num_classes)
    for c in np.flatnonzero(sizes // floor):
        members = order[labels[order] == c]
        chosen[members[: sizes[c] // floor]] = True  # members chosen above are a prefix of this order
    return np.flatnonzero(chosen)


@dataclass(frozen=True)
class ClassEvidence:
    """What the suspect test saw in one class.

    :param samples: n_c, samples labelled with the class.
    :param isolated: n_1, those of them that the confused model still predicts as the class.
    :param log_ratio: log of the likelihood ratio LR_c; 0 where there is nothing to test.
    :param state: whether the ratio was tested, and if not, why.
    """

    samples: int
    isolated: int
    log_ratio: float
    state: State


def class_evidence(
    features: NDArray[Any], predicted: Index, labels: Index, inspected: Mask, *, dims: int = 2, eps: float = 0.001
) -> list[ClassEvidence]:
    """Test each class for being two populations.

    :param features: ``[N, d]`` what enters the head of the confused model.
    :param predicted: ``[N]`` its predictions.
    :param inspected: ``[C]`` False for classes that the reserved clean set does not hold: their clean samples were
        never confused, so that being fitted says nothing.
    """
    found = []
    for c in range(len(inspected)):
        rows = np.flatnonzero(labels == c)
        isolated = predicted[rows] == c
        n, hits = len(rows), int(isolated.sum())
        ratio, state = 0.0, _state(n, hits, bool(inspected[c]))
        if state == "tested":
            ratio = log_likelihood_ratio(features[rows], isolated, dims=dims, eps=eps)
            if not np.isfinite(ratio):
                ratio, state = 0.0, "not finite"
        found.append(ClassEvidence(n, hits, ratio, state))
    return found


def _state(n: int, hits: int, inspected: bool) -> State:
    if not inspected:
        return "not inspected"
    if n < 2 * MIN_GROUP:
        return "too small"
    if hits < MIN_GROUP:
        return "too few isolated"
    return "undecidable" if hits > n - MIN_GROUP else "tested"


@one_thread_for_numpy()
def log_likelihood_ratio(features: NDArray[Any], isolated: Mask, *, dims: int = 2, eps: float = 0.001) -> float:
    """Return log LR of one class: one Gaussian for isolated and one for other samples, against the latter alone.

    ``1/n_c`` times the sum over isolated samples of the gap between the two log-densities; terms of other samples
    cancel. Features are first projected on their *dims* main directions.

    :param features: ``[n, d]``.
    :param isolated: ``[n]``, at least two True and two False.
    :returns: NaN when the features are not finite.
    """
    values = features.astype(np.float64)
    if not np.isfinite(values).all():
        return np.nan
    values -= values.mean(0)
    _, vectors = np.linalg.eigh(values.T @ values)  # exact, ascending
    points = values @ vectors[:, -dims:]
    inside, outside = points[isolated], points[~isolated]
    gap = _log_density(inside, inside, eps) - _log_density(inside, outside, eps)
    return float(gap.sum() / len(features))


def _log_density(points: Floats, sample: Floats, eps: float) -> Floats:
    """Return log-densities of *points* under the Gaussian fitted to *sample*, up to the constant both share."""
    covariance = np.atleast_2d(np.cov(sample, rowvar=False)) + eps * np.eye(points.shape[1])
    gap = points - sample.mean(0)
    mahalanobis = (gap * np.linalg.solve(covariance, gap.T).T).sum(1)
    out: Floats = -0.5 * (mahalanobis + np.linalg.slogdet(covariance)[1])
    return out


def flag_classes(log_ratios: Floats, threshold: float, top_threshold: float) -> Mask:
    """Return which classes the likelihood ratio flags: all above *threshold*, and the largest above *top_threshold*.

    Ratios that are not finite neither flag nor count for the largest.
    """
    ratios = np.where(np.isfinite(log_ratios), log_ratios, -np.inf)
    top = (ratios == ratios.max()) & (ratios > np.log(top_threshold))
    out: Mask = (ratios > np.log(threshold)) | top
    return out


def centred(logits: NDArray[Any], clean_logits: NDArray[Any]) -> Floats:
    """Return log-probabilities ``[n, C]`` minus their median over clean images of all kinds, class by class.

    A confused model that calls everything a ship calls ships ships as well; against its bias, that says nothing.

    :param clean_logits: ``[M, C]`` of the same model on reserved clean samples.
    """
    of_all, of_clean = (log_softmax(each.astype(np.float64), axis=1) for each in (logits, clean_logits))
    out: Floats = of_all - np.median(of_clean, axis=0)
    return out


def at_label(values: Floats, labels: Index) -> Floats:
    """Return the value ``[n]`` of ``[n, C]`` that each sample has at its label."""
    out: Floats = values[np.arange(len(labels)), labels]
    return out


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
) -> list[Exceedance]:
    """Test for each class whether its suspects are fitted better than clean samples that were never trained on.

    With n suspects, h held-out samples and no difference between them, the number of held-out samples among the
    k + j largest values is hypergeometric: exact, and without assumptions on the distribution. All j up to a share of
    h are tried, because a single held-out sample that happens to be fitted would hide any number of poison samples.

    Held-out samples of all classes serve every class, so classes must be made alike first. Some are harder to confuse
    as a whole; that is no sign of poison. So a class has to pass twice, as it is and above its own base line: the
    lower quartile of its suspects, which poison does not reach unless it makes up three quarters of the class, and
    then the best held-out sample of the class takes its place. The larger p-value counts.

    :param scores, held_out: centred log-probability of suspects ``[N]`` and held-out samples ``[h]`` at their label.
    :param tolerated_share: share of the held-out samples that may be fitted as well as the suspects; 0: none.
    """
    if not len(held_out):
        return [Exceedance(0, 1.0)] * num_classes
    base = _base_lines(scores, labels, held_out, held_out_labels, num_classes)
    most_strays = int(tolerated_share * len(held_out))
    as_is = _exceedances(scores, labels, held_out, num_classes, most_strays)
    relative = _exceedances(scores - base[labels], labels, held_out - base[held_out_labels], num_classes, most_strays)
    return [max(pair, key=lambda each: each.p) for pair in zip(as_is, relative, strict=True)]


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

"""Scores and statistical tests of Confusion Training: pure functions of logits, features and labels.

``N`` suspect samples, ``C`` classes, ``d`` features. All of it is float64 on the CPU: losses near zero must keep
their order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax  # type: ignore[import-untyped]

from ...core.images import Index
from ...io.environment import one_thread_for_numpy

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

State = Literal["tested", "too small", "too few isolated", "undecidable", "not inspected", "not finite"]
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

"""DataElixir, step 4: which classes are targets of an attack.

Purified poison of class ``c`` scatters to its true classes, so that little of the pooled votes stays on ``c``. Benign
anomalies are mostly images near a class boundary and keep their mass on ``c``. A class is a target when it stands out.

The released rule raises chance alarms: with ten classes and no attack at all, it flags one in half of the cases. Four
guards, on by default, and all off in preset ``parity``:

- G1, ``smoothing``: Laplace smoothing of the pooled votes.
- G2, ``min_anomalies`` and ``min_share``: a class with few anomalous samples is not judged, and others are not compared
  with it. (Counted as d = 0, such classes would decide what stands out: with four of them in
  ten all others do, with a few less none can.) Where at most three are left, an absolute cut decides.
- G3, ``mad_floor``: a spread near zero does not turn any difference into an alarm. (Beside G4 with its default, which
  asks for more, it turns no decision; it keeps the score within bounds.)
- G4, ``min_effect``: a class must stand out by so much.

Mode ``excess`` puts another statistic in the place of d: how much less stays on a class than of reserved clean images,
see :func:`~.purify.make_reference`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.images import Index
from ...errors import SettingsError
from .settings import Detection
from .votes import AMBIGUOUS, UNANIMOUS, Reference, Votes, kept_shares, pooled_votes

Floats = NDArray[np.float64]
COMPARED = ("mad", "excess")  # modes in which classes are judged
FEW_CLASSES = 3  # of so many no class can stand out from the others
CAP = 50.0  # nats; stands for an infinite discrepancy, and no finite one comes near
MARGIN = 0.25  # a decision that such a change of the thresholds would turn is in doubt


@dataclass(frozen=True)
class ClassFinding:
    """What the anomalous samples of each class say; arrays are ``[C]``.

    :param mode: how classes were judged; never auto.
    :param size: samples that were purified.
    :param anomalous, unanimous, ambiguous: how many of them have that status.
    :param discrepancy: d, nats; in mode excess, the share of votes that stay on the class, of clean images less that of
        its samples.
    :param score: robust score, signed, and 0 for a class that is not judged; the discrepancy itself where *relative* is
        false.
    :param eligible: whether guard G2 lets the class be judged.
    :param flagged: the target classes 𝒯.
    :param threshold: of the score.
    :param relative: whether classes were compared with each other, which takes more than three that can be judged.
    :param doubtful: whether thresholds lower or higher by a quarter would decide otherwise on some class.
    """

    mode: str
    size: Index
    anomalous: Index
    unanimous: Index
    ambiguous: Index
    discrepancy: Floats
    score: Floats
    eligible: NDArray[np.bool_]
    flagged: NDArray[np.bool_]
    threshold: float
    relative: bool
    doubtful: bool

    @property
    def targets(self) -> list[int]:
        """The target classes, ascending."""
        return [int(c) for c in np.flatnonzero(self.flagged)]

    def table(self) -> list[dict[str, Any]]:
        """Return one row per class, in JSON types."""
        names = ("size", "anomalous", "unanimous", "ambiguous", "discrepancy", "score", "eligible", "flagged")
        columns = [getattr(self, name).tolist() for name in names]
        rows = zip(*columns, strict=True)
        return [{"class": c, **dict(zip(names, row, strict=True))} for c, row in enumerate(rows)]


def find_targets(
    votes: Votes, given: Index, num_classes: int, settings: Detection, reference: Reference | None = None
) -> ClassFinding:
    """Judge all classes from the votes of (some of) their samples.

    :param given: ``[n]`` the labels that the samples have.
    :param reference: what became of clean images; mode auto is excess with it, mad without.
    :raises SettingsError: when a given target is no class.
    """
    settings = decided(settings, reference)
    refuse_no_such_class(settings, num_classes)
    cut = settings.threshold(num_classes)

    def per_class(rows: NDArray[np.bool_]) -> Index:
        return np.bincount(given[rows], minlength=num_classes)

    size, anomalous = np.bincount(given, minlength=num_classes), per_class(votes.anomalous)
    eligible = anomalous >= np.maximum(settings.min_anomalies, settings.min_share * size)
    eligible &= anomalous > 0
    if settings.mode == "excess" and reference is not None:
        eligible = np.minimum(size, reference.count) >= settings.min_anomalies
        discrepancy = reference.kept - kept_shares(votes.labels, given, num_classes)[0]
    else:
        discrepancy = discrepancies(pooled_votes(votes, given, num_classes), settings.smoothing)
    discrepancy = np.where(eligible, discrepancy, 0.0)
    judged = eligible if settings.min_anomalies or settings.min_share else np.ones_like(eligible)
    relative = int(judged.sum()) > FEW_CLASSES
    flagged, score, doubtful = _decide(discrepancy, judged, settings, cut)
    flagged &= eligible
    if settings.mode == "all":
        flagged = size > 0
    elif settings.mode == "given":
        flagged = np.isin(np.arange(num_classes), settings.targets)
    return ClassFinding(
        mode=settings.mode,
        size=size,
        anomalous=anomalous,
        unanimous=per_class(votes.status == UNANIMOUS),
        ambiguous=per_class(votes.status == AMBIGUOUS),
        discrepancy=discrepancy,
        score=score,
        eligible=eligible,
        flagged=flagged,
        threshold=cut if relative else settings.absolute_cut,
        relative=relative,
        doubtful=doubtful and settings.mode in COMPARED,
    )


def refuse_no_such_class(settings: Detection, num_classes: int) -> None:
    """Refuse target classes that are given and do not exist.

    :raises SettingsError: naming them.
    """
    if any(target >= num_classes for target in settings.targets):
        raise SettingsError(
            "no such class", where="detection.targets", found=list(settings.targets), allowed=f"0..{num_classes - 1}"
        )


def decided(settings: Detection, reference: Reference | None) -> Detection:
    """Return *settings* with mode auto decided, and with the thresholds of the mode."""
    if settings.mode == "auto":
        settings = settings.model_copy(update={"mode": "mad" if reference is None else "excess"})
    if settings.mode != "excess":
        return settings
    return settings.model_copy(update={"min_effect": settings.min_excess, "absolute_cut": settings.min_excess})


def discrepancies(pools: Index, smoothing: float) -> Floats:
    """Return d_c = KL(e_c ‖ q_c) = −ln q_c(c) of pooled votes ``[C, C]``, in nats; 0 for an empty pool.

    :param smoothing: κ: q = (n_c + κ) / (L + κ C). With 0, a class without a vote for itself gets :data:`CAP`.
    """
    total = pools.sum(1)
    own = np.diag(pools) + smoothing
    share = np.divide(own, total + smoothing * len(pools), out=np.ones(len(pools)), where=total > 0)
    with np.errstate(divide="ignore"):
        nats: Floats = np.minimum(-np.log(share), CAP) + 0.0  # −0.0 becomes 0.0
    return nats


def robust_scores(discrepancy: Floats, *, floor: float, eps: float) -> Floats:
    """Return (d − median) / (1.4826 · (max(MAD, floor) + eps)), signed; infinities count as :data:`CAP`."""
    d = np.nan_to_num(discrepancy, posinf=CAP)
    offset = d - np.median(d)
    scores: Floats = offset / (1.4826 * (max(float(np.median(np.abs(offset))), floor) + eps))
    return scores


def stand_out(discrepancy: Floats, settings: Detection, cut: float, *, scale: float = 1.0) -> NDArray[np.bool_]:
    """Return which classes ``[C]`` stand out, with all thresholds times *scale*.

    :param discrepancy: of the classes that are compared.
    :param cut: robust score to exceed; it depends on the number of all classes, see :meth:`Detection.threshold`.

    >>> stand_out(np.array([1, 1, 1, 1, 3.0]), Detection(), 2.0).tolist()
    [False, False, False, False, True]
    """
    d = np.nan_to_num(discrepancy, posinf=CAP)
    if len(d) <= FEW_CLASSES:
        return d >= settings.absolute_cut * scale
    scores = robust_scores(d, floor=settings.mad_floor, eps=settings.mad_eps)
    effect = d - np.median(d)
    if settings.side == "both":
        scores, effect = np.abs(scores), np.abs(effect)
    return (scores > cut * scale) & (effect >= settings.min_effect * scale)


def _decide(
    discrepancy: Floats, judged: NDArray[np.bool_], settings: Detection, cut: float
) -> tuple[NDArray[np.bool_], Floats, bool]:
    """Return flags and scores ``[C]``, and whether the decision is a close one; only *judged* classes are compared."""
    d, flagged, score = discrepancy[judged], np.zeros(len(judged), bool), np.zeros(len(judged))
    if not len(d):
        return flagged, score, False
    flagged[judged] = stand_out(d, settings, cut)
    few = len(d) <= FEW_CLASSES
    score[judged] = d if few else robust_scores(d, floor=settings.mad_floor, eps=settings.mad_eps)
    lenient, strict = (stand_out(d, settings, cut, scale=scale) for scale in (1 - MARGIN, 1 + MARGIN))
    return flagged, score, bool((lenient != strict).any())


def verdict_score(finding: ClassFinding) -> float:
    """Return the largest score of a class that may be judged; 0 when there is none."""
    judged = finding.score[finding.eligible]
    score = float(judged.max()) if len(judged) else 0.0
    return score if math.isfinite(score) else CAP

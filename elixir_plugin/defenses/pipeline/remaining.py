"""How much of a backdoor is left, estimated without the truth.

Most flagged samples of the class with most of them are triggered images under the label that the attacker wants. What
the last model says of those that no step has trained on estimates its attack success. A clean sample that was flagged
by mistake is given its own label by any good model, and so counts as a success of the attack: where there are false
alarms in the class, the estimate is too high.
"""

from __future__ import annotations

import numpy as np

from ...core.classifier.classifier import Classifier
from ...core.images import Index
from ...core.metrics import RemainingBackdoor
from .state import State, most_flagged

FEWEST = 5  # samples, below which nothing is said
LEVEL = 0.95


def remaining_backdoor(state: State, undefended: Classifier | None = None) -> RemainingBackdoor | None:
    """Return the estimate for the model of *state*; None where there is no such model, or there are too few samples.

    The samples are those held back; where none were, all flagged ones, if every one of them has been dropped.

    :param undefended: a model trained on the suspect set, for the control, where the case holds no suspect model.
    """
    train, model = state.case.train, state.model
    if train is None or model is None or not state.flagged.any():
        return None
    rows = np.flatnonzero(state.held)
    if not len(rows):
        rows = np.flatnonzero(state.flagged)
        if np.isin(rows, state.rows).any():
            return None  # some were trained on
    targets = most_flagged(train.labels[state.flagged])
    rows = rows[np.isin(train.labels[rows], targets)]
    if len(rows) < FEWEST:
        return None
    hits = _hits(model, state, rows)
    control = undefended if state.case.model is None else state.case.model
    low, high = interval(hits, len(rows))
    return RemainingBackdoor(
        samples=len(rows),
        share=hits / len(rows),
        low=low,
        high=high,
        control=None if control is None else _hits(control, state, rows) / len(rows),
        targets=list(targets),
    )


def interval(hits: int, count: int) -> tuple[float, float]:
    """Return the exact confidence interval of a share (Clopper and Pearson 1934), at 95 %.

    >>> [round(each, 3) for each in interval(0, 20)]
    [0.0, 0.168]
    """
    from scipy.stats import binomtest  # type: ignore[import-untyped]  # noqa: PLC0415  (slow to import)

    found = binomtest(hits, count).proportion_ci(LEVEL, method="exact")
    return float(found.low), float(found.high)


def sentence_of(found: RemainingBackdoor) -> str:
    """Say the estimate in words."""
    control = "" if found.control is None else f"; a model trained on the suspect set: {100 * found.control:.0f} %"
    return (
        f"estimated ASR of the last model: {100 * found.share:.0f} % ({100 * found.low:.0f} to "
        f"{100 * found.high:.0f} %, "
        f"at {100 * LEVEL:.0f} % confidence) on {found.samples:,} flagged samples that no step has trained "
        f"on{control}. False alarms among them make it too high"
    )


def _hits(model: Classifier, state: State, rows: Index) -> int:
    """Return how many of the samples at *rows* *model* gives the label they came with."""
    assert state.case.train is not None
    samples = state.case.train.subset(rows)
    return int((model.clone().eval().predict(samples).argmax(1) == samples.labels).sum())

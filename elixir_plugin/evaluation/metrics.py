"""The only code that opens the truth: ACC, ASR, RA, DER of models; TPR, FPR, AUROC, average precision of scores.

How well a set was repaired is measured by :mod:`.repair`, for this module alone.

One definition each, whatever the toolkit reports:

- ACC: share of clean test samples predicted as their label.
- ASR: share of triggered test samples predicted as the target label; samples whose true label *is* the target label
  are excluded.
- RA: share of the same samples predicted as their true label.
- DER: ``(max(0, ΔASR) − max(0, ΔACC) + 1) / 2`` with drops taken before − after (Zhu et al. 2023; BackdoorBench).
- TPR, FPR: share of poison / of all other samples that is flagged. Cover samples are not poison.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.case import Case, TriggeredSet, Truth
from ..core.classifier.classifier import Classifier
from ..core.images import ImageSet, Index
from ..core.metrics import DetectionMetrics, Evaluation, ModelMetrics, RemainingBackdoor, StepMetrics
from ..core.outcome import Outcome, StepOutcome
from .repair import repair_metrics, share


def evaluate(case: Case, outcome: Outcome, *, before: ModelMetrics | None = None) -> Evaluation:
    """Measure *outcome* against the test data and the truth of *case*.

    :param before: metrics of the suspect model when they are known already; else measured here.

    >>> from elixir_plugin.testing import tiny_case
    >>> case = tiny_case()
    >>> evaluate(case, Outcome(scores=case.truth.poison.astype(float))).detection.auroc
    1.0
    """
    if before is None and case.model is not None:
        before = model_metrics(case.model, case.test, case.test_poisoned)
    after = None if outcome.model is None else model_metrics(outcome.model, case.test, case.test_poisoned)
    return Evaluation(
        before=before,
        after=after,
        der=None if before is None or after is None else der(before, after),
        detection=None if case.truth is None else detection_metrics(outcome.scores, outcome.flagged, case.truth),
        repair=None if case.truth is None or case.train is None else repair_metrics(case.train, outcome, case.truth),
        steps=[_step_metrics(case, each, outcome, after) for each in outcome.steps],
        remaining=_remaining(outcome, after),
    )


def _remaining(outcome: Outcome, after: ModelMetrics | None) -> RemainingBackdoor | None:
    """Return what the outcome estimates of the backdoor that is left, with what is true."""
    found = outcome.tables.get("remaining") if outcome.steps else None
    return None if found is None else RemainingBackdoor(**{**found, "asr": None if after is None else after.asr})


def _step_metrics(case: Case, step: StepOutcome, last: Outcome, after: ModelMetrics | None) -> StepMetrics:
    """Measure one step on the samples it was given, and its model on the test data.

    :param after: metrics of the model of *last*, which may be that of this step.
    """
    truth, own = case.truth, step.outcome
    if truth is not None:
        assert truth.cover is not None  # filled by Truth
        labels = None if truth.original_labels is None else truth.original_labels[step.rows]
        truth = Truth(truth.poison[step.rows], truth.cover[step.rows], labels, truth.kind)
    if own.model is None:
        model = None
    else:
        model = after if own.model is last.model else model_metrics(own.model, case.test, case.test_poisoned)
    return StepMetrics(
        label=step.label,
        kind=step.kind,
        samples=len(step.rows),
        detection=None if truth is None else detection_metrics(own.scores, own.flagged, truth),
        repair=None if truth is None or step.given is None else repair_metrics(step.given, own, truth),
        after=model,
    )


def model_metrics(model: Classifier, test: ImageSet | None, triggered: TriggeredSet | None) -> ModelMetrics:
    """Return ACC from *test* and ASR, RA from *triggered*, one pass over each."""
    acc = clean_loss = asr = ra = triggered_loss = None
    if test is not None and len(test):
        logits = model.predict(test)
        acc, clean_loss = accuracy(logits, test.labels), mean_cross_entropy(logits, test.labels)
    if triggered is not None:
        rows = np.flatnonzero(triggered.samples.labels != triggered.original_labels)
        if len(rows):
            logits = model.predict(triggered.samples)[rows]
            targets = triggered.samples.labels[rows]
            asr, ra = accuracy(logits, targets), accuracy(logits, triggered.original_labels[rows])
            triggered_loss = mean_cross_entropy(logits, targets)
    return ModelMetrics(acc, asr, ra, clean_loss, triggered_loss)


def detection_metrics(
    scores: NDArray[np.float64] | None, flagged: NDArray[np.bool_] | None, truth: Truth
) -> DetectionMetrics | None:
    """Return TPR and FPR of *flagged*, AUROC and average precision of *scores*; None when there is neither."""
    if scores is None and flagged is None:
        return None
    poison = truth.poison
    both = bool(poison.any()) and not bool(poison.all())
    auroc = average_precision = None
    if scores is not None and both:
        from sklearn.metrics import average_precision_score, roc_auc_score  # noqa: PLC0415  (slow to import)

        auroc = float(roc_auc_score(poison, scores))
        average_precision = float(average_precision_score(poison, scores))
    return DetectionMetrics(
        tpr=None if flagged is None else share(flagged, poison),
        fpr=None if flagged is None else share(flagged, ~poison),
        auroc=auroc,
        average_precision=average_precision,
        flagged=None if flagged is None else int(flagged.sum()),
        poison=int(poison.sum()),
    )


def confusion(flagged: NDArray[np.bool_], truth: Truth, *, cover_is_poison: bool = False) -> tuple[int, int, int, int]:
    """Return ``(TN, FP, FN, TP)``; toolkits that keep one flag for both count cover samples as poison."""
    poison = truth.poison | truth.cover if cover_is_poison and truth.cover is not None else truth.poison
    parts = (~flagged & ~poison, flagged & ~poison, ~flagged & poison, flagged & poison)
    tn, fp, fn, tp = (int(part.sum()) for part in parts)
    return tn, fp, fn, tp


def accuracy(logits: NDArray[Any], labels: Index) -> float:
    """Share of rows whose largest logit is at the label."""
    return float((logits.argmax(1) == labels).mean())


def mean_cross_entropy(logits: NDArray[Any], labels: Index) -> float:
    """Mean cross-entropy in nats, computed in float64."""
    values = logits.astype(np.float64)
    values -= values.max(1, keepdims=True)
    log_sum = np.log(np.exp(values).sum(1))
    return float((log_sum - values[np.arange(len(labels)), labels]).mean())


def der(before: ModelMetrics, after: ModelMetrics) -> float | None:
    """Defense effectiveness rating in [0, 1]; None unless ACC and ASR are known before and after.

    >>> der(ModelMetrics(acc=0.9, asr=1.0), ModelMetrics(acc=0.8, asr=0.0))
    0.95
    """
    if None in (before.acc, before.asr, after.acc, after.asr):
        return None
    asr_drop = before.asr - after.asr  # type: ignore[operator]
    acc_drop = before.acc - after.acc  # type: ignore[operator]
    return round((max(0.0, asr_drop) - max(0.0, acc_drop) + 1) / 2, 12)

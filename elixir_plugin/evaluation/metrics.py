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

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.case import Case, ImageSet, Index, TriggeredSet, Truth
from ..core.classifier.classifier import Classifier
from ..core.outcome import Outcome
from ..core.panels import Histogram, Lines, Panel, Series
from .repair import RepairMetrics, repair_metrics, share

BINS = 40  # of the histogram of scores


@dataclass(frozen=True)
class ModelMetrics:
    """How one model does; all in [0, 1] but the losses, which are mean cross-entropies in nats."""

    acc: float | None = None
    asr: float | None = None
    ra: float | None = None
    clean_loss: float | None = None
    triggered_loss: float | None = None


@dataclass(frozen=True)
class DetectionMetrics:
    """How well poison was found; None where the denominator is zero."""

    tpr: float | None = None
    fpr: float | None = None
    auroc: float | None = None
    average_precision: float | None = None
    flagged: int | None = None
    poison: int = 0


@dataclass(frozen=True)
class Evaluation:
    """Everything measured about one outcome.

    :param before: the suspect model.
    :param after: the outcome's model.
    :param der: defense effectiveness rating in [0, 1], see :func:`der`.
    :param detection: how well poison was found; None without truth, or when nothing was scored or flagged.
    :param repair: how well the set was repaired; None without truth, or when no set was handed back.
    :param controls: models trained as the outcome's was, but without one part of the defense; see ``retraining``.

    >>> measured = Evaluation(after=ModelMetrics(acc=0.9, asr=0.02))
    >>> Evaluation.from_dict(measured.as_dict()) == measured
    True
    """

    before: ModelMetrics | None = None
    after: ModelMetrics | None = None
    der: float | None = None
    detection: DetectionMetrics | None = None
    controls: dict[str, ModelMetrics] = field(default_factory=dict)
    repair: RepairMetrics | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return nested JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Evaluation:
        """Undo :meth:`as_dict`; what older reports lack is None."""
        parts = {
            "before": ModelMetrics,
            "after": ModelMetrics,
            "detection": DetectionMetrics,
            "repair": RepairMetrics,
        }
        plain = {key: parts[key](**v) if key in parts and v is not None else v for key, v in values.items()}
        controls = {name: ModelMetrics(**each) for name, each in values.get("controls", {}).items()}
        return cls(**{**plain, "controls": controls})


def evaluate(case: Case, outcome: Outcome, *, before: ModelMetrics | None = None) -> Evaluation:
    """Measure *outcome* against the test data and the truth of *case*.

    :param before: metrics of the suspect model when they are known already; else measured here.

    >>> from elixir_plugin.testing.defenses import tiny_case
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


def score_panels(
    scores: NDArray[np.float64], flagged: NDArray[np.bool_] | None = None, truth: Truth | None = None
) -> list[Panel]:
    """Return how *scores* ``[N]`` are spread over poison and clean samples, and their ROC and precision-recall curves.

    Without *truth*, flagged samples are set against the others, and there are no curves.
    """
    panels: list[Panel] = [_spread(scores, _groups(len(scores), flagged, truth), known=truth is not None)]
    if truth is None or not truth.poison.any() or truth.poison.all():
        return panels
    from sklearn.metrics import precision_recall_curve, roc_curve  # noqa: PLC0415  (slow to import)

    fpr, tpr, _ = roc_curve(truth.poison, scores)
    precision, recall, _ = precision_recall_curve(truth.poison, scores)
    roc, pr = [Series(name="by score", x=fpr, y=tpr)], [Series(name="by score", x=recall, y=precision)]
    if flagged is not None and flagged.any():
        hits, alarms = share(flagged, truth.poison), share(flagged, ~truth.poison)
        roc.append(Series(name="flagged", x=[alarms], y=[hits], mark=True))
        pr.append(Series(name="flagged", x=[hits], y=[share(truth.poison, flagged)], mark=True))
    dot = " The dot is what the defense flagged." if len(roc) > 1 else ""
    caption = "Poison found against false alarms, for every threshold on the score; the upper left corner is best."
    panels.append(Lines(title="ROC", caption=caption + dot, series=roc, x_label="FPR", y_label="TPR"))
    caption = "Share of poison among what a threshold picks, against the share of all poison that it finds."
    panels.append(
        Lines(title="Precision and recall", caption=caption + dot, series=pr, x_label="recall", y_label="precision")
    )
    return panels


def truth_of_samples(truth: Truth | None, rows: Index) -> list[str | None]:
    """Return "poison", "cover" or "clean" for the suspect samples at *rows*; None where the truth is not known."""
    if truth is None:
        return [None] * len(rows)
    assert truth.cover is not None  # filled by Truth
    return ["poison" if truth.poison[row] else "cover" if truth.cover[row] else "clean" for row in rows]


def poison_per_class(labels: Index, truth: Truth | None, num_classes: int) -> Index | None:
    """Return ``[C]`` how many samples with a label are poison; None where the truth is not known."""
    return None if truth is None else np.bincount(labels[truth.poison], minlength=num_classes)


@dataclass(frozen=True)
class TriggeredExample:
    """One triggered test sample: its true label, the label the attacker wants, and what the models say."""

    index: int
    image: NDArray[Any]
    true: int
    target: int
    before: int | None
    after: int | None


def triggered_examples(case: Case, outcome: Outcome, count: int) -> list[TriggeredExample]:
    """Return *count* triggered test samples, spread over the set, with what the models before and after say of them."""
    triggered = case.test_poisoned
    if triggered is None or (case.model is None and outcome.model is None):
        return []
    rows = np.flatnonzero(triggered.samples.labels != triggered.original_labels)
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, count).round().astype(int))] if len(rows) else rows
    samples = triggered.samples.subset(rows)
    images = samples.read(slice(0, len(samples)))

    def said(model: Classifier | None) -> list[int | None]:
        if model is None or not len(rows):
            return [None] * len(rows)
        return [int(label) for label in model.predict(samples).argmax(1)]

    every = zip(rows, images, triggered.original_labels[rows], samples.labels, said(case.model), said(outcome.model),
                strict=True)  # fmt: skip
    return [TriggeredExample(int(row), image, int(true), int(target), *two) for row, image, true, target, *two in every]


def _groups(count: int, flagged: NDArray[np.bool_] | None, truth: Truth | None) -> dict[str, NDArray[np.bool_]]:
    if truth is not None and truth.poison.any():
        assert truth.cover is not None
        groups = {"poison": truth.poison, "cover": truth.cover, "clean": ~truth.poison & ~truth.cover}
    elif flagged is not None and flagged.any():
        groups = {"flagged": flagged, "not flagged": ~flagged}
    else:
        groups = {"all samples": np.ones(count, bool)}
    return {name: rows for name, rows in groups.items() if rows.any()}


def _spread(scores: NDArray[np.float64], groups: dict[str, NDArray[np.bool_]], *, known: bool) -> Histogram:
    low, high = np.quantile(scores, [0.002, 0.998]) if len(scores) else (0.0, 0.0)
    if not high > low:
        low, high = low - 0.5, low + 0.5
    edges = np.linspace(low, high, BINS + 1)
    inner = np.clip(scores, low, high)
    caption = "Higher is more suspicious. Each group is drawn to its own size, so that a small one can be seen"
    caption += "; the outermost bars hold all that lies beyond." if (inner != scores).any() else "."
    if known and "poison" not in groups:
        caption += " In truth there is no poison."
    counts = {name: np.histogram(inner[rows], edges)[0] for name, rows in groups.items()}
    return Histogram(title="Scores", caption=caption, edges=edges, counts=counts, x_label="score")


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

"""What the report shows that depends on the truth: scores by group, poison per class, triggered examples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.case import Case, Truth
from ..core.classifier.classifier import Classifier
from ..core.images import Index
from ..core.outcome import Outcome
from ..core.panels import Histogram, Lines, Panel, Series
from .repair import share

BINS = 40  # of the histogram of scores


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

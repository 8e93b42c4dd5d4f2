"""Exhibits: what the report of a run shows beside its numbers, collected at the end of the run into JSON types.

Pictures of a few samples (suspicious, changed, random; triggered test samples), how scores and labels are spread, and
the panels of the defense. What depends on the truth comes from :mod:`elixir_plugin.evaluation`. Only the pixels of
samples that are shown are kept, so that a set larger than memory is no obstacle.
"""

from __future__ import annotations

import base64
import io
import logging
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..core.case import Case
from ..core.context import derive_seed
from ..core.images import ImageSet, Index
from ..core.metrics import Evaluation
from ..core.outcome import Outcome
from ..core.panels import Matrix, Panel, Table, dump_panels
from ..core.pixels import label_moves, rms_changes, to_bytes
from ..defense import Defense
from ..evaluation.panels import poison_per_class, score_panels, triggered_examples, truth_of_samples
from ..evaluation.relearned import relearning_panels
from .recommend import recommendation_panels
from .spike import power_panels

SHOWN = 6  # samples per group
PIXEL_BUDGET = 420_000  # bytes of all pictures before they are packed; larger images are reduced
LARGEST, SMALLEST = 128, 16  # edge of a picture
CLASSES = 30  # more classes are cut down to those where most happened
FACTORS = (1, 2, 4, 8, 16, 32, 64)  # by which differences are amplified


def collect(
    defense: Defense, case: Case, outcome: Outcome, seed: int, evaluation: Evaluation | None = None
) -> dict[str, Any]:
    """Return the exhibits of a finished run; the same for the same case, outcome and seed.

    :param seed: draws the random samples.
    :param evaluation: what was measured; relearning and what would have been found have panels of their own.

    ``summary``: how many images and labels were changed, and how many samples are kept; ``sheets``: groups of
    pictures; ``scores``, ``panels``: panels of all defenses, and of this one (see
    :mod:`elixir_plugin.core.panels`); ``problem``: why the latter are missing.
    """
    moved = None
    if case.train is not None and outcome.train is not None:
        moved = rms_changes(case.train, outcome.train)
    scores = [] if outcome.scores is None else score_panels(outcome.scores, outcome.flagged, case.truth)
    panels, problem = _own_panels(defense, outcome)
    facts: dict[str, Any] = {
        "summary": _summary(case, outcome, moved),
        "sheets": [*_suspect_sheets(case, outcome, moved, seed), *_triggered_sheets(case, outcome)],
        "scores": dump_panels([*scores, *_class_panels(case, outcome)]),
        "panels": panels,
        "problem": problem,
    }
    if evaluation is not None and evaluation.relearning is not None:
        facts["relearning"] = dump_panels(relearning_panels(evaluation.relearning))
    if evaluation is not None and evaluation.power is not None:
        facts["power"] = dump_panels(power_panels(evaluation.power))
    if evaluation is not None and evaluation.recommendation is not None:
        facts["recommendation"] = dump_panels(recommendation_panels(evaluation.recommendation))
    return facts


def _own_panels(defense: Defense, outcome: Outcome) -> tuple[list[dict[str, Any]], str | None]:
    try:
        return dump_panels(defense.panels(outcome)), None
    except Exception as error:  # hours of work are not lost to a figure
        logging.getLogger(__name__).exception("the panels of %s cannot be made", defense.name)
        return [], f"the panels of {defense.name} cannot be made: {type(error).__name__}: {error}"


def _summary(case: Case, outcome: Outcome, moved: NDArray[np.float64] | None) -> dict[str, Any]:
    facts: dict[str, Any] = {"kept": None if outcome.kept is None else len(outcome.kept)}
    if moved is not None and case.train is not None and outcome.train is not None:
        facts["images_changed"] = int((moved != 0).sum())  # an image of another size has changed, too
        facts["labels_changed"] = int((case.train.labels != outcome.train.labels).sum())
        facts["rms_change"] = _number(np.sqrt(np.square(moved).mean())) if len(moved) else 0.0
    return facts


def _number(value: float | np.floating[Any]) -> float | None:
    """Return *value* for JSON, which has no NaN."""
    return None if np.isnan(value) else float(value)


def _class_panels(case: Case, outcome: Outcome) -> list[Panel]:
    """Return a table of all classes, and where labels went."""
    train, changed = case.train, outcome.train
    relabelled = train is not None and changed is not None and bool((changed.labels != train.labels).any())
    if train is None or (outcome.scores is None and outcome.flagged is None and not relabelled):
        return []
    count = train.num_classes
    sizes = train.class_counts()
    columns: dict[str, Any] = {"samples": sizes}
    weight = np.zeros(count)
    if outcome.flagged is not None:
        columns["flagged"] = np.bincount(train.labels[outcome.flagged], minlength=count)
        weight = columns["flagged"] / np.maximum(sizes, 1)
        columns["flagged, %"] = np.round(100 * weight, 1)
    if outcome.scores is not None:
        columns["median score"] = [
            round(float(np.median(outcome.scores[train.labels == k])), 3) if sizes[k] else None for k in range(count)
        ]
    poison = poison_per_class(train.labels, case.truth, count)
    if poison is not None:
        columns["poison (truth)"] = poison
    panels: list[Panel] = []
    if changed is not None and relabelled:
        moves = label_moves(train.labels, changed.labels, count)
        weight = weight + (moves.sum(1) + moves.sum(0) - 2 * np.diag(moves)) / np.maximum(sizes, 1)
        columns["labels lost"], columns["gained"] = moves.sum(1) - np.diag(moves), moves.sum(0) - np.diag(moves)
        panels.append(_moves(moves, weight))
    rows = _busiest(weight)
    table = Table(
        title="Classes",
        caption="Of all samples that carry the label."
        if len(rows) == count
        else f"Those {len(rows)} of {count} classes where most happened.",
        header=["class", *columns],
        rows=[[str(k), *(values[k] for values in columns.values())] for k in rows],
    )
    return [*panels, table]


def _moves(moves: Index, weight: NDArray[np.float64]) -> Matrix:
    rows = _busiest(weight)
    changed = moves - np.diag(np.diag(moves))
    return Matrix(
        title="Labels, before and after",
        caption="How many labels went from one class (row) to another (column); those kept are left out.",
        values=changed[np.ix_(rows, rows)],
        rows=[str(k) for k in rows],
        columns=[str(k) for k in rows],
        x_label="new label",
        y_label="old label",
    )


def _busiest(weight: NDArray[np.float64]) -> Index:
    """Return the classes to show, ascending: all, or those with most *weight*."""
    return np.sort(np.argsort(-weight, kind="stable")[:CLASSES])


def _suspect_sheets(case: Case, outcome: Outcome, moved: NDArray[np.float64] | None, seed: int) -> list[dict[str, Any]]:
    train = case.train
    if train is None or not len(train) or (outcome.scores is None and outcome.flagged is None and moved is None):
        return []
    groups: list[tuple[str, Index]] = []
    if outcome.scores is not None:
        groups.append(("Most suspicious", np.argsort(-outcome.scores, kind="stable")[:SHOWN]))
    elif outcome.flagged is not None and outcome.flagged.any():
        groups.append(("Flagged", np.flatnonzero(outcome.flagged)[:SHOWN]))
    if moved is not None and (moved > 0).any():  # NaN has no order
        most = np.argsort(-moved, kind="stable")[:SHOWN]
        groups.append(("Most changed", most[moved[most] > 0]))
    rng = np.random.default_rng(derive_seed(seed, "report", "random samples"))
    groups.append(("Random", np.sort(rng.permutation(len(train))[:SHOWN])))
    triples = moved is not None and bool(moved.any())
    after = outcome.train if triples else None
    pictures = _Pictures(train, after, np.concatenate([rows for _, rows in groups]))
    return [
        {
            "title": title,
            "caption": pictures.caption,
            "samples": [_sample(int(row), case, outcome, moved) | pictures.of(int(row)) for row in rows],
        }
        for title, rows in groups
    ]


def _sample(row: int, case: Case, outcome: Outcome, moved: NDArray[np.float64] | None) -> dict[str, Any]:
    train = case.train
    assert train is not None
    return {
        "index": row,
        "name": None if train.names is None else train.names[row],
        "old_label": int(train.labels[row]),
        "new_label": None if outcome.train is None else int(outcome.train.labels[row]),
        "score": None if outcome.scores is None else float(outcome.scores[row]),
        "flagged": None if outcome.flagged is None else bool(outcome.flagged[row]),
        "change": None if moved is None else _number(moved[row]),
        "truth": truth_of_samples(case.truth, np.array([row]))[0],
    }


def _triggered_sheets(case: Case, outcome: Outcome) -> list[dict[str, Any]]:
    """Return what the models say of some triggered test samples; empty when there are none."""
    examples = triggered_examples(case, outcome, SHOWN)
    if not examples:
        return []
    edge = _edge(len(examples), examples[0].image.shape[2])
    samples = [
        {
            "index": each.index,
            "true_label": each.true,
            "target_label": each.target,
            "before": each.before,
            "after": each.after,
            "pictures": [_packed(to_bytes(each.image), edge)],
        }
        for each in examples
    ]
    caption = "Test images with the trigger, drawn evenly from all of them, and what the models predict."
    return [{"title": "Triggered test images", "caption": caption, "samples": samples}]


class _Pictures:
    """The pictures of some samples: original alone, or original | purified | difference where there is one."""

    def __init__(self, before: ImageSet, after: ImageSet | None, rows: Index) -> None:
        self._rows = {int(row): place for place, row in enumerate(np.unique(rows))}
        wanted = np.array(list(self._rows), np.int64)
        self._shown = [to_bytes(before.read(wanted))]  # rounded for showing alone
        self.caption = ""
        if after is not None:
            self._shown.append(to_bytes(after.read(wanted)))
            self.caption = "Original and purified, which are of different size."
            if after.image_shape == before.image_shape:
                self._shown.append(self._difference())
        self._edge = _edge(len(rows) * len(self._shown), max(images.shape[3] for images in self._shown))

    def _difference(self) -> NDArray[np.uint8]:
        before, after = self._shown
        gap = after.astype(np.int16) - before
        usual = float(np.quantile(np.abs(gap), 0.99))
        factor = max((each for each in FACTORS if each * usual <= 128), default=1)
        self.caption = f"Original, purified, and their difference times {factor}; grey means none."
        shown: NDArray[np.uint8] = np.clip(128 + factor * gap, 0, 255).astype(np.uint8)
        return shown

    def of(self, row: int) -> dict[str, Any]:
        place = self._rows[row]
        return {"pictures": [_packed(images[place], self._edge) for images in self._shown]}


def _edge(pictures: int, channels: int) -> int:
    """Return the longest edge with which *pictures* of them keep to the budget."""
    return max(SMALLEST, min(LARGEST, math.isqrt(PIXEL_BUDGET // (max(1, pictures) * channels))))


def _packed(image: NDArray[np.uint8], edge: int) -> str:
    """Return a PNG in base64, no larger than *edge*."""
    picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    scale = edge / max(picture.size)
    if scale < 1:
        picture = picture.resize([max(1, round(side * scale)) for side in picture.size], Image.Resampling.BOX)
    buffer = io.BytesIO()
    picture.save(buffer, format="png", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")

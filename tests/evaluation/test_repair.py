"""How well a set was repaired: by hand, against a count sample by sample, and what is not known."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import TypeAdapter

from elixir_plugin.core.case import Case, Truth
from elixir_plugin.core.images import ImageSet, LazyImages
from elixir_plugin.core.metrics import Evaluation, ModelMetrics, RepairMetrics
from elixir_plugin.core.outcome import Outcome
from elixir_plugin.defenses.dataelixir.outcome import build_outcome as describe
from elixir_plugin.defenses.dataelixir.repair import Repair
from elixir_plugin.defenses.dataelixir.settings import DataElixirSettings
from elixir_plugin.defenses.dataelixir.target import find_targets
from elixir_plugin.defenses.dataelixir.votes import count_votes
from elixir_plugin.evaluation.metrics import evaluate
from elixir_plugin.evaluation.repair import repair_metrics, status_counts

CLASSES = 3
# six samples: 0, 1 and 2 are poison of classes 1, 2 and 1 with label 0; the others are as they were
GIVEN, TRUE = [0, 0, 0, 0, 1, 2], [1, 2, 1, 0, 1, 2]
POISON = [True, True, True, False, False, False]


def truth_of(poison: Any = POISON, original: Any = None, **parts: Any) -> Truth:
    return Truth(poison, original_labels=original, **parts)


def images(labels: Any, pixels: Any = None, dtype: Any = np.uint8) -> ImageSet:
    """Return a set of images of one colour each."""
    values = np.zeros(len(labels)) if pixels is None else np.asarray(pixels)
    filled = np.broadcast_to(values[:, None, None, None], (len(labels), 2, 2, 1)).astype(dtype)
    return ImageSet(filled, labels, CLASSES)


def repaired(labels: Any = GIVEN, pixels: Any = None, truth: Truth | None = None, **parts: Any) -> RepairMetrics:
    """Return the metrics of the six samples with these new labels and pixels (0: as they were)."""
    outcome = Outcome(train=images(labels, pixels), **parts)
    outcome.check(Case(train=images(GIVEN)))
    found = repair_metrics(images(GIVEN), outcome, truth or truth_of(original=TRUE))
    assert found is not None
    return found


def stated(status: Any, **counts: Any) -> dict[str, Any]:
    names = ("stable", "unanimous", "ambiguous")
    return {"samples": {"status": status}, "status": counts or {n: status.count(i) for i, n in enumerate(names)}}


# by hand


def test_a_repair_is_measured_sample_by_sample() -> None:
    """0 is set right and gets another image, 1 gets a wrong label, 2 another image alone, 4 loses its own label."""
    found = repaired([1, 1, 0, 0, 2, 2], [9, 0, 9, 0, 0, 0])
    assert found == RepairMetrics(
        change_recall=1.0,
        change_fpr=1 / 3,
        relabel_recall=2 / 3,
        relabel_fpr=1 / 3,
        relabelled_right=0.5,
        label_accuracy_before=0.5,
        label_accuracy_after=0.5,
        poison=3,
        kept=6,
    )


def test_a_perfect_repair() -> None:
    found = repaired(TRUE)
    assert (found.relabel_recall, found.relabel_fpr, found.relabelled_right) == (1, 0, 1)
    assert (found.label_accuracy_before, found.label_accuracy_after) == (0.5, 1)


def test_a_set_that_comes_back_as_it_was_has_missed_the_poison() -> None:
    found = repaired()
    assert (found.change_recall, found.change_fpr, found.relabel_recall) == (0, 0, 0)
    assert found.relabelled_right is None and found.label_accuracy_after == found.label_accuracy_before == 0.5


def test_images_alone_are_changed_but_not_relabelled() -> None:
    found = repaired(pixels=[1, 0, 0, 1, 1, 1])
    assert (found.change_recall, found.change_fpr) == (1 / 3, 1)
    assert (found.relabel_recall, found.relabel_fpr) == (0, 0)


def test_one_grey_level_of_one_pixel_is_a_change() -> None:
    pixels = np.zeros((6, 2, 2, 1), np.uint8)
    pixels[1, 1, 1] = 1
    outcome = Outcome(train=images(GIVEN).replace(images=pixels))
    found = repair_metrics(images(GIVEN), outcome, truth_of())
    assert found is not None and (found.change_recall, found.change_fpr) == (1 / 3, 0)


def test_bytes_that_were_only_converted_are_not_changed() -> None:
    outcome = Outcome(train=images(GIVEN, np.full(6, 51 / 255), np.float32))
    found = repair_metrics(images(GIVEN, np.full(6, 51)), outcome, truth_of())
    assert found is not None and (found.change_recall, found.change_fpr) == (0, 0)


def test_images_of_another_size_are_changed() -> None:
    larger = ImageSet(np.zeros((6, 4, 4, 1), np.uint8), GIVEN, CLASSES)
    found = repair_metrics(images(GIVEN), Outcome(train=larger), truth_of())
    assert found is not None and (found.change_recall, found.change_fpr) == (1, 1)


def test_lazy_sets_are_measured_like_others() -> None:
    def lazy(value: int) -> LazyImages:
        return LazyImages(lambda i: np.full((2, 2, 1), value * (i == 0), np.uint8), 6, (2, 2, 1))

    outcome = Outcome(train=images(GIVEN).replace(images=lazy(9)))
    found = repair_metrics(images(GIVEN).replace(images=lazy(0)), outcome, truth_of())
    assert found is not None and (found.change_recall, found.change_fpr) == (1 / 3, 0)


def test_cover_samples_are_not_poison() -> None:
    truth = truth_of([True] + [False] * 5, TRUE, cover=[False, True, True, False, False, False])
    found = repaired([1, 2, 1, 0, 1, 2], truth=truth)
    assert (found.relabel_recall, found.relabel_fpr, found.poison) == (1, 0.4, 1)


def test_relabelling_clean_label_poison_is_no_merit() -> None:
    found = repaired([1, 0, 0, 0, 1, 2], truth=truth_of(original=GIVEN, kind="clean-label"))
    assert (found.relabel_recall, found.relabelled_right) == (1 / 3, 0)
    assert (found.label_accuracy_before, found.label_accuracy_after) == (1, 5 / 6)


# what is not known


def test_without_poison_there_is_no_recall() -> None:
    found = repaired([0, 0, 0, 0, 2, 2], truth=truth_of([False] * 6, GIVEN, kind="none"))
    assert found == RepairMetrics(
        change_fpr=1 / 6, relabel_fpr=1 / 6, label_accuracy_before=1, label_accuracy_after=5 / 6, poison=0, kept=6
    )


def test_with_poison_alone_there_is_no_fpr() -> None:
    found = repaired(truth=truth_of([True] * 6))
    assert (found.change_recall, found.change_fpr, found.relabel_fpr) == (0, None, None)


def test_without_original_labels_nothing_is_said_about_right_labels() -> None:
    found = repaired(TRUE, truth=truth_of())
    assert (found.relabel_recall, found.relabel_fpr) == (1, 0)
    assert (found.relabelled_right, found.label_accuracy_before, found.label_accuracy_after) == (None, None, None)


def test_dropped_samples_do_not_count() -> None:
    """Sample 1, with a wrong label, and 4, which was relabelled, are dropped."""
    found = repaired([1, 1, 0, 0, 2, 2], kept=np.array([0, 2, 3, 5]))
    assert (found.change_recall, found.change_fpr, found.relabelled_right) == (0.5, 0, 1)
    assert (found.label_accuracy_before, found.label_accuracy_after) == (0.5, 0.75)
    assert (found.poison, found.kept) == (2, 4)


def test_without_kept_those_not_flagged_are_kept() -> None:
    flagged = np.array([False, True, False, False, True, False])
    labels = [1, 1, 0, 0, 2, 2]
    assert repaired(labels, flagged=flagged) == repaired(labels, kept=np.array([0, 2, 3, 5]))
    assert repaired(labels, flagged=flagged, kept=np.arange(6)) == repaired(labels)


def test_when_nothing_is_kept_nothing_is_known() -> None:
    assert repaired(kept=np.zeros(0, np.int64)) == RepairMetrics()


def test_an_empty_set_gives_none() -> None:
    empty = images(np.zeros(0, np.int64))
    assert repair_metrics(empty, Outcome(train=empty), truth_of([], [])) == RepairMetrics()


def test_without_a_set_nothing_was_repaired() -> None:
    assert repair_metrics(images(GIVEN), Outcome(flagged=np.zeros(6, bool)), truth_of()) is None


# status


def test_stable_poison_is_a_share_of_the_poison() -> None:
    found = repaired(tables=stated([0, 1, 0, 0, 2, 0]))
    assert found.stable_poison == 2 / 3
    assert found.poison_status == {"stable": 2, "unanimous": 1, "ambiguous": 0}


def test_poison_that_was_not_looked_at_has_no_status() -> None:
    found = repaired(tables=stated([0, -1, 1, -1, -1, 0]))
    assert (found.stable_poison, sum(found.poison_status.values()), found.poison) == (0.5, 2, 3)
    assert repaired(tables=stated([-1, -1, -1, 0, 0, 0])).stable_poison is None


def test_dropped_poison_has_no_status() -> None:
    found = repaired(tables=stated([0, 1, 0, 0, 2, 0]), kept=np.array([1, 2, 3]))
    assert found.stable_poison == 0.5 and found.poison_status == {"stable": 1, "unanimous": 1, "ambiguous": 0}


def test_without_poison_there_is_no_stable_poison() -> None:
    assert repaired(tables=stated([0] * 6), truth=truth_of([False] * 6, kind="none")).stable_poison is None


def test_another_name_than_stable_is_only_counted() -> None:
    found = repaired(tables=stated([0, 0, 1, 1, 0, 0], good=4, bad=2))
    assert found.stable_poison is None and found.poison_status == {"good": 2, "bad": 1}


@pytest.mark.parametrize(
    "tables",
    [
        {},
        {"samples": {"status": [0] * 6}},
        {"status": {"stable": 6}},
        {"samples": {"label": [0] * 6}, "status": {"stable": 6}},
        {"samples": {"status": [0] * 5}, "status": {"stable": 5}},
        {"samples": {"status": "fine"}, "status": {"stable": 6}},
        {"samples": {"status": [[0], [0, 1], [], [], [], []]}, "status": {"stable": 6}},
        {"samples": {"status": [0] * 6}, "status": {"unanimous": 0, "stable": 6}},  # names in another order
        {"samples": [1, 2], "status": "done"},
    ],
)
def test_tables_that_give_no_status_are_passed_over(tables: dict[str, Any]) -> None:
    found = repaired(tables=tables)
    assert found.poison_status == {} and found.stable_poison is None


def test_the_status_is_found_in_what_dataelixir_reports() -> None:
    """Poison is 0 to 2; of the five samples looked at, 0 and 3 keep their label, 1 and 4 lose it, 2 is torn."""
    train, rows = images(GIVEN), np.array([0, 1, 2, 3, 4])
    predictions = np.array([[0, 0, 0, 0], [0, 2, 2, 2], [0, 1, 1, 2], [0, 0, 0, 0], [1, 2, 2, 2]])
    votes, settings = count_votes(predictions, 1), DataElixirSettings()
    finding = find_targets(votes, train.labels[rows], CLASSES, settings.detection)
    repair = Repair(np.array([0, 2, 2, 0, 1, 2]), np.zeros(6, np.int64), np.zeros(6, np.int64))
    outcome = describe(train, rows, votes, repair, finding=finding, settings=settings)
    outcome.train = train.replace(labels=repair.labels)
    found = repair_metrics(train, outcome, truth_of(original=TRUE))
    assert found is not None and found.poison_status == {"stable": 1, "unanimous": 1, "ambiguous": 1}
    assert (found.stable_poison, found.relabel_recall, found.relabelled_right) == (1 / 3, 2 / 3, 0.5)


def test_the_status_survives_saving(tmp_path: Any) -> None:
    outcome = Outcome(train=images(GIVEN), tables=stated([0, 1, 0, 0, 2, 0]))
    outcome.save(tmp_path / "outcome")
    found = status_counts(Outcome.load(tmp_path / "outcome"), np.array(POISON))
    assert found == {"stable": 2, "unanimous": 1, "ambiguous": 0}


# against a count sample by sample


@st.composite
def repairs(draw: st.DrawFn) -> dict[str, Any]:
    """Return given, new and true labels, new pixels (0: as they were), poison, what is kept, and status."""
    n = draw(st.integers(0, 12))
    labels = hnp.arrays(np.int64, n, elements=st.integers(0, CLASSES - 1))
    made = {name: draw(labels) for name in ("given", "new", "true", "pixels")}
    masks = {name: draw(hnp.arrays(np.bool_, n)) for name in ("poison", "kept")}
    return made | masks | {"status": draw(hnp.arrays(np.int64, n, elements=st.integers(-1, 2)))}


def counted(of: list[bool], hit: list[bool]) -> float | None:
    chosen = [one for one, wanted in zip(hit, of, strict=True) if wanted]
    return sum(chosen) / len(chosen) if chosen else None


@given(repairs())
def test_every_measure_is_a_count_over_samples(data: dict[str, Any]) -> None:
    kept = np.flatnonzero(data["kept"])
    status = data["status"].tolist()
    outcome = Outcome(train=images(data["new"], data["pixels"]), kept=kept, tables=stated(status))
    found = repair_metrics(images(data["given"]), outcome, truth_of(data["poison"], data["true"]))
    names = ("given", "new", "true", "pixels", "poison", "status")
    rows = [{name: data[name][row] for name in names} for row in kept]
    poison, others = [bool(r["poison"]) for r in rows], [not r["poison"] for r in rows]
    moved = [bool(r["new"] != r["given"]) for r in rows]
    changed = [bool(r["new"] != r["given"] or r["pixels"]) for r in rows]
    right = [bool(r["new"] == r["true"]) for r in rows]
    moved_poison = [a and b for a, b in zip(poison, moved, strict=True)]
    seen_poison = [bool(r["poison"] and r["status"] >= 0) for r in rows]
    assert found is not None
    expected = {
        "change_recall": counted(poison, changed),
        "change_fpr": counted(others, changed),
        "relabel_recall": counted(poison, moved),
        "relabel_fpr": counted(others, moved),
        "relabelled_right": counted(moved_poison, right),
        "label_accuracy_before": counted([True] * len(rows), [bool(r["given"] == r["true"]) for r in rows]),
        "label_accuracy_after": counted([True] * len(rows), right),
        "stable_poison": counted(seen_poison, [r["status"] == 0 for r in rows]),
    }
    assert {name: getattr(found, name) for name in expected} == pytest.approx(expected)
    assert (found.poison, found.kept) == (sum(poison), len(rows))
    assert json.loads(json.dumps(dataclasses.asdict(found), allow_nan=False)) == dataclasses.asdict(found)


# in an evaluation


def test_an_evaluation_holds_the_repair_where_truth_and_a_set_are_there() -> None:
    truth = truth_of(original=TRUE)
    case, outcome = Case(train=images(GIVEN), truth=truth), Outcome(train=images(TRUE))
    found = evaluate(case, outcome)
    assert found.repair is not None and found.repair.relabel_recall == 1
    assert found.repair == repair_metrics(images(GIVEN), outcome, truth)
    assert found.detection is None
    assert evaluate(case, Outcome(flagged=np.zeros(6, bool))).repair is None
    assert evaluate(Case(train=images(GIVEN)), outcome) == Evaluation()


def test_an_evaluation_with_a_repair_survives_json() -> None:
    measured = Evaluation(after=ModelMetrics(acc=0.5), repair=repaired(TRUE, tables=stated([0, 1, 0, 0, 2, 0])))
    assert (
        TypeAdapter(Evaluation).validate_python(json.loads(json.dumps(dataclasses.asdict(measured), allow_nan=False)))
        == measured
    )


def test_a_report_made_before_repairs_were_measured_is_still_read() -> None:
    old = dataclasses.asdict(Evaluation(before=ModelMetrics(acc=0.5)))
    del old["repair"]
    assert TypeAdapter(Evaluation).validate_python(old) == Evaluation(before=ModelMetrics(acc=0.5))

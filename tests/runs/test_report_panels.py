"""What a report shows beside its numbers: the right samples, the right colours of truth, and not too much of it."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image

from elixir_plugin.core.case import Case, Truth
from elixir_plugin.core.context import Context
from elixir_plugin.core.images import ImageSet, LazyImages
from elixir_plugin.core.outcome import Outcome
from elixir_plugin.core.panels import Histogram, Lines, Matrix, Panel, Table, Text, load_panels
from elixir_plugin.core.pixels import rms_changes
from elixir_plugin.defense import Card, Defense
from elixir_plugin.runs.report_panels import PIXEL_BUDGET, SHOWN, collect
from elixir_plugin.testing.defenses import tiny_case


class Stub(Defense):
    name = "stub"
    kind = "purify"
    needs = frozenset({"train"})
    card = Card("Stub", "none", 2026, "none", "none", "all")
    shows: ClassVar[Any] = ()

    def defend(self, case: Case, context: Context) -> Outcome:
        raise NotImplementedError

    def panels(self, outcome: Outcome) -> list[Panel]:
        if isinstance(self.shows, Exception):
            raise self.shows
        return list(self.shows)


@pytest.fixture
def case() -> Case:
    return tiny_case()


def purified(case: Case) -> Outcome:
    """Sample 7 lost most, sample 3 a little; two labels moved from 1 to 2."""
    assert case.train is not None
    images = case.train.read(slice(None))
    images[7] = 255 - images[7]
    images[3, 0, 0] ^= 1
    labels = case.train.labels.copy()
    labels[np.flatnonzero(labels == 1)[:2]] = 2
    scores = np.linspace(0, 1, len(labels))
    return Outcome(scores=scores, flagged=scores > 0.9, train=case.train.replace(images=images, labels=labels))


def sheets(exhibits: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    return {sheet["title"]: sheet["samples"] for sheet in exhibits["sheets"]}


def decoded(picture: str) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(picture))))


def test_the_most_suspicious_the_most_changed_and_some_others(case: Case) -> None:
    assert case.train is not None
    shown = sheets(collect(Stub(), case, purified(case), 0))
    n = len(case.train)
    assert [each["index"] for each in shown["Most suspicious"]] == list(range(n - 1, n - 1 - SHOWN, -1))
    assert [each["index"] for each in shown["Most changed"]] == [7, 3]  # the others did not change
    assert len(shown["Random"]) == SHOWN
    assert shown["Most changed"][0]["change"] > 0.1 > shown["Most changed"][1]["change"] > 0


def test_pictures_are_the_pixels_and_their_amplified_difference(case: Case) -> None:
    assert case.train is not None
    outcome = purified(case)
    assert outcome.train is not None
    before, after, gap = (
        decoded(each) for each in sheets(collect(Stub(), case, outcome, 0))["Most changed"][1]["pictures"]
    )
    assert np.array_equal(before, case.train.read(np.array([3]))[0])
    assert np.array_equal(after, outcome.train.read(np.array([3]))[0])
    assert (gap[1:] == 128).all() and (gap[0, 0] != 128).all()


def test_the_same_run_shows_the_same_and_another_seed_other_samples(case: Case) -> None:
    outcome = purified(case)
    first, second, other = (collect(Stub(), case, outcome, seed) for seed in (0, 0, 1))
    assert first == second
    assert sheets(first)["Random"] != sheets(other)["Random"]


def test_what_changed_is_counted_and_labels_are_followed(case: Case) -> None:
    exhibits = collect(Stub(), case, purified(case), 0)
    assert exhibits["summary"]["images_changed"] == 2 and exhibits["summary"]["labels_changed"] == 2
    (moves,) = (each for each in load_panels(exhibits["scores"]) if isinstance(each, Matrix))
    assert moves.values[1][2] == 2 and sum(value or 0 for row in moves.values for value in row) == 2
    (table,) = (each for each in load_panels(exhibits["scores"]) if isinstance(each, Table))
    assert table.header == ["class", "samples", "flagged", "flagged, %", "median score", "poison (truth)",
                            "labels lost", "gained"]  # fmt: skip
    assert [row[-1] for row in table.rows] == [0, 0, 2, 0]


def test_truth_splits_the_scores_and_marks_samples(case: Case) -> None:
    assert case.truth is not None
    outcome = purified(case)
    exhibits = collect(Stub(), case, outcome, 0)
    spread, roc, pr = load_panels(exhibits["scores"])[:3]
    assert isinstance(spread, Histogram) and isinstance(roc, Lines) and isinstance(pr, Lines)
    assert sum(spread.counts["poison"]) == case.truth.poison.sum()
    assert roc.series[0].y[-1] == 1.0 and roc.series[1].mark
    marks = {each["index"]: each["truth"] for each in sheets(exhibits)["Random"]}
    assert all((mark == "poison") == case.truth.poison[index] for index, mark in marks.items())


def test_without_truth_flagged_samples_are_set_against_the_others(case: Case) -> None:
    exhibits = collect(Stub(), dataclasses.replace(case, truth=None), purified(case), 0)
    spread, *rest = load_panels(exhibits["scores"])
    assert isinstance(spread, Histogram) and set(spread.counts) == {"flagged", "not flagged"}
    assert not any(isinstance(each, Lines) for each in rest)
    assert all(each["truth"] is None for each in sheets(exhibits)["Random"])


def test_a_clean_set_has_no_curves_and_is_said_to_be_clean(case: Case) -> None:
    assert case.train is not None
    truth = Truth(np.zeros(len(case.train), bool), kind="none")
    spread, *rest = load_panels(collect(Stub(), dataclasses.replace(case, truth=truth), purified(case), 0)["scores"])
    assert "no poison" in spread.caption and not any(isinstance(each, Lines) for each in rest)


def test_constant_scores_can_be_drawn(case: Case) -> None:
    assert case.train is not None
    outcome = Outcome(scores=np.zeros(len(case.train)))
    (spread, *_) = load_panels(collect(Stub(), case, outcome, 0)["scores"])
    assert isinstance(spread, Histogram) and sum(map(sum, spread.counts.values())) == len(case.train)


def test_triggered_test_images_say_what_the_models_say(case: Case) -> None:
    assert case.test_poisoned is not None
    shown = sheets(collect(Stub(), case, Outcome(model=case.model), 0))
    assert list(shown) == ["Triggered test images"]  # nothing is known of single suspects
    for each in shown["Triggered test images"]:
        assert each["before"] == each["after"] and each["target_label"] != each["true_label"]
        assert case.test_poisoned.original_labels[each["index"]] == each["true_label"]


def test_only_samples_that_are_shown_are_read(case: Case) -> None:
    assert case.train is not None
    images, read = case.train.read(slice(None)), set[int]()

    def one(position: int) -> Any:
        read.add(position)
        return images[position]

    lazy = ImageSet(LazyImages(one, len(images), images.shape[1:]), case.train.labels, case.num_classes)
    outcome = Outcome(scores=np.arange(float(len(images))))
    collect(Stub(), dataclasses.replace(case, train=lazy), outcome, 0)
    assert 0 < len(read) <= 2 * SHOWN


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_large_images_are_reduced_and_the_whole_stays_small(dtype: Any) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (20, 160, 200, 3), np.uint8)
    if dtype == np.float32:
        images = (images / np.float32(255)).astype(np.float32)
    train = ImageSet(images, np.arange(20) % 4, 4)
    moved = train.replace(images=np.ascontiguousarray(images[:, ::-1]))
    exhibits = collect(Stub(), Case(train=train), Outcome(scores=np.arange(20.0), train=moved), 0)
    assert len(json.dumps(exhibits)) < 1.5 * PIXEL_BUDGET + 50_000
    height, width, _ = decoded(exhibits["sheets"][0]["samples"][0]["pictures"][0]).shape
    assert width / height == pytest.approx(1.25, rel=0.05) and width < 128


def test_a_defense_contributes_panels(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stub, "shows", [Text(title="t", paragraphs=["p"])])
    exhibits = collect(Stub(), case, purified(case), 0)
    assert load_panels(exhibits["panels"]) == Stub.shows and exhibits["problem"] is None


def test_panels_that_fail_cost_no_run_but_are_told(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stub, "shows", KeyError("classes"))
    exhibits = collect(Stub(), case, purified(case), 0)
    assert exhibits["panels"] == [] and "KeyError" in exhibits["problem"]


def test_changes_are_measured_in_chunks_like_at_once(case: Case) -> None:
    outcome = purified(case)
    assert case.train is not None and outcome.train is not None
    gap = (case.train.read(slice(None)).astype(float) - outcome.train.read(slice(None))) / 255
    assert np.allclose(rms_changes(case.train, outcome.train), np.sqrt((gap**2).mean((1, 2, 3))))
    assert not rms_changes(case.train, case.train).any()


def test_a_set_of_another_type_has_changed_only_where_its_pixels_have(case: Case) -> None:
    outcome = purified(case)
    assert case.train is not None and outcome.train is not None
    expected = rms_changes(case.train, outcome.train)
    floats = outcome.train.replace(images=outcome.train.read(slice(None)).astype(np.float32) / np.float32(255))
    for pair in ((case.train, floats), (floats, case.train)):
        assert np.allclose(rms_changes(*pair), expected, atol=1e-6)
    summary = collect(Stub(), case, dataclasses.replace(outcome, train=floats), 0)["summary"]
    assert summary["images_changed"] == 2 and summary["rms_change"] < 1


def test_a_set_of_another_size_has_changed_altogether_by_no_amount(case: Case) -> None:
    outcome = purified(case)
    assert case.train is not None and outcome.train is not None
    smaller = outcome.train.replace(images=outcome.train.read(slice(None))[:, ::2, ::2])
    exhibits = collect(Stub(), case, dataclasses.replace(outcome, train=smaller), 0)
    assert json.dumps(exhibits, allow_nan=False)
    assert exhibits["summary"]["images_changed"] == len(case.train) and exhibits["summary"]["rms_change"] is None
    assert "Most changed" not in sheets(exhibits) and "different size" in exhibits["sheets"][0]["caption"]
    for sample in sheets(exhibits)["Random"]:
        assert sample["change"] is None
        assert [decoded(each).shape for each in sample["pictures"]] == [case.train.image_shape, smaller.image_shape]

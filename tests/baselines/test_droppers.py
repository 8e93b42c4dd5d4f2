"""Baselines that drop samples: a class, or any."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from elixir_plugin.adapter import get_adapter
from elixir_plugin.core.case import Case
from elixir_plugin.core.context import Context
from elixir_plugin.core.images import ImageSet
from elixir_plugin.defense import get_defense
from elixir_plugin.errors import InputError, SettingsError
from elixir_plugin.evaluation.metrics import detection_metrics

TARGET = 8  # a digit that is hard to read, so that it is not the poison alone that makes class 0 the easiest


def digits(poison: str, seed: int = 0, **settings: float) -> Case:
    options = {"model": False, "poison": {"target": TARGET, **settings}}
    return get_adapter("testbed")(options).read(Path(poison), seed=seed)


def blank(labels: list[int], num_classes: int = 4) -> ImageSet:
    return ImageSet(np.zeros((len(labels), 8, 8, 3), np.uint8), labels, num_classes)


RUNS = [
    (poison, target, rate, seed)
    for poison, target, rate in (("badnets", 8, 0.1), ("badnets", 3, 0.1), ("blended", 8, 0.1), ("badnets", 5, 0.03))
    for seed in (0, 1)
]


@pytest.mark.parametrize(
    ("poison", "target", "rate", "seed"), [RUNS[0], *(pytest.param(*run, marks=pytest.mark.slow) for run in RUNS[1:])]
)
def test_the_class_of_the_samples_fitted_best_is_the_target(poison: str, target: int, rate: float, seed: int) -> None:
    case = digits(poison, seed, target=target, rate=rate)
    assert case.train is not None and case.truth is not None
    outcome = get_defense("drop_class")(architecture="fast_resnet").run(case, Context(seed=seed))
    assert outcome.tables["dropped"] == target and outcome.flagged is not None
    assert np.array_equal(outcome.flagged, case.train.labels == target)
    assert get_defense("drop_class")(preset="count").run(case, Context()).tables["dropped"] == target
    found = detection_metrics(outcome.scores, outcome.flagged, case.truth)
    assert found is not None and found.tpr == 1 and found.auroc is not None and found.auroc > 0.9
    assert sum(row["suspicion"] for row in outcome.tables["per_class"]) == pytest.approx(1)


@pytest.mark.parametrize("poison", ["badnets", "blended", "trojan"])
def test_the_largest_class_is_the_target_of_dirty_labels(poison: str) -> None:
    outcome = get_defense("drop_class")(preset="count").run(digits(poison), Context())
    assert outcome.tables["dropped"] == TARGET and outcome.curves == {}


def test_a_clean_set_loses_a_class_too() -> None:
    case = digits("badnets")
    outcome = get_defense("drop_class")(preset="count").run(Case(train=case.clean), Context())
    assert case.clean is not None and outcome.flagged is not None and outcome.verdict is None
    assert len(set(case.clean.labels[outcome.flagged].tolist())) == 1


@pytest.mark.parametrize("label", [0, 2])
def test_a_class_that_is_named_is_dropped_without_training(label: int) -> None:
    train = blank([0, 2, 2, 1, 0, 2])
    outcome = get_defense("drop_class")(label=label).run(Case(train=train), Context())
    assert outcome.flagged is not None and np.array_equal(outcome.flagged, train.labels == label)
    assert "train" not in outcome.timings
    assert outcome.scores is not None and outcome.scores.tolist() == (train.labels == label).tolist()


def test_exactly_one_class_is_dropped_and_never_an_empty_one() -> None:
    train = blank([1, 1, 3, 3])  # a tie, and two classes without a sample
    for rule in ("count", "loss"):
        values = {"rule": rule, "architecture": "fast_resnet", "recipe": {"epochs": 1}}
        outcome = get_defense("drop_class")(**values).run(Case(train=train), Context())
        assert outcome.flagged is not None and outcome.flagged.sum() == 2
        assert outcome.tables["dropped"] in (1, 3)
        assert [row["class"] for row in outcome.tables["per_class"]] == [1, 3]


@pytest.mark.parametrize(
    ("labels", "values", "message"),
    [
        ([0, 0, 1], {"label": 3}, "no sample of the class"),
        ([0, 0, 1], {"label": 99}, "no sample of the class"),
        ([2, 2], {}, "nothing would be left"),
    ],
)
def test_what_cannot_be_dropped_is_refused(labels: list[int], values: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        get_defense("drop_class")(**values).refuse(Case(train=blank(labels)))


def test_an_unknown_network_is_refused_before_any_work() -> None:
    with pytest.raises(SettingsError, match="small_resnett"):
        get_defense("drop_class")(architecture="small_resnett").refuse(Case(train=blank([0, 1])))


@pytest.mark.parametrize(("n", "share", "count"), [(100, 0.15, 15), (10, 0.25, 2), (3, 0.01, 1), (2, 0.99, 1)])
def test_a_share_is_dropped_and_something_is_left(n: int, share: float, count: int) -> None:
    case = Case(train=blank([0] * n))
    outcome = get_defense("random_drop")(share=share).run(case, Context())
    assert outcome.flagged is not None and outcome.scores is not None and outcome.flagged.sum() == count
    assert outcome.scores[outcome.flagged].min() > outcome.scores[~outcome.flagged].max()
    again = get_defense("random_drop")(share=share).run(case, Context())
    assert np.array_equal(outcome.flagged, again.flagged)


def test_what_is_dropped_follows_the_seed_and_not_the_labels() -> None:
    drop = get_defense("random_drop")()
    flags = [drop.run(Case(train=blank([label] * 60)), Context(seed=seed)).flagged for label, seed in
             ((0, 0), (1, 0), (0, 1))]  # fmt: skip
    assert np.array_equal(flags[0], flags[1]) and not np.array_equal(flags[0], flags[2])


def test_a_single_sample_is_not_dropped() -> None:
    with pytest.raises(InputError, match="nothing would be left"):
        get_defense("random_drop")().refuse(Case(train=blank([0])))

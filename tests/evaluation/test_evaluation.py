"""Measures, against scikit-learn and against their definitions."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from pydantic import TypeAdapter
from sklearn import metrics

from elixir_plugin.core.case import Case, TriggeredSet, Truth
from elixir_plugin.core.images import ImageSet
from elixir_plugin.core.metrics import DetectionMetrics, Evaluation, ModelMetrics
from elixir_plugin.core.outcome import Outcome
from elixir_plugin.evaluation.metrics import (
    accuracy,
    der,
    detection_metrics,
    evaluate,
    mean_cross_entropy,
    model_metrics,
)
from elixir_plugin.testing.defenses import tiny_case

CLASSES = 4
shares = st.floats(0, 1)
logit = st.floats(-9, 9, width=32)


class Scripted:
    """Stands in for a classifier: sample ``i`` gets row ``i`` of the given logits."""

    def __init__(self, logits: NDArray[np.float32]) -> None:
        self.logits = logits
        self.passes = 0

    def predict(self, images: ImageSet) -> NDArray[np.float32]:
        self.passes += 1
        return self.logits[images.ids]


def blank(labels: Any) -> ImageSet:
    return ImageSet(np.zeros((len(labels), 1, 1, 1), np.uint8), np.asarray(labels, np.int64), CLASSES)


def measured(logits: Any, test: Any = None, targets: Any = None, original: Any = None) -> ModelMetrics:
    model: Any = Scripted(np.asarray(logits, np.float32))
    triggered = None if targets is None else TriggeredSet(blank(targets), np.asarray(original, np.int64))
    return model_metrics(model, None if test is None else blank(test), triggered)


def predicting(classes: Any) -> NDArray[np.float32]:
    return np.eye(CLASSES, dtype=np.float32)[np.asarray(classes)]


def softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    values = np.exp(logits.astype(np.float64))
    out: NDArray[np.float64] = values / values.sum(1, keepdims=True)
    return out


@st.composite
def scored(draw: st.DrawFn, columns: int = 1) -> tuple[NDArray[np.float32], tuple[NDArray[np.int64], ...]]:
    """Logits ``[n, 4]`` and as many label columns as asked for."""
    n = draw(st.integers(1, 12))
    labels = hnp.arrays(np.int64, n, elements=st.integers(0, CLASSES - 1))
    logits = draw(hnp.arrays(np.float32, (n, CLASSES), elements=logit))
    return logits, tuple(draw(labels) for _ in range(columns))


@st.composite
def detected(draw: st.DrawFn) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
    """Scores (with ties), flags and poison mask of one set."""
    n = draw(st.integers(1, 20))
    masks = hnp.arrays(np.bool_, n)
    return draw(hnp.arrays(np.float64, n, elements=st.integers(-3, 3))), draw(masks), draw(masks)


# models


@given(scored())
def test_acc_is_the_accuracy_of_scikit_learn(data: Any) -> None:
    logits, (labels,) = data
    assert measured(logits, labels).acc == pytest.approx(metrics.accuracy_score(labels, logits.argmax(1)))


@given(scored())
def test_the_loss_is_the_log_loss_of_scikit_learn(data: Any) -> None:
    logits, (labels,) = data
    expected = metrics.log_loss(labels, softmax(logits), labels=range(CLASSES))
    assert measured(logits, labels).clean_loss == pytest.approx(expected, rel=1e-6, abs=1e-9)


@given(scored(columns=2))
def test_asr_and_ra_are_accuracies_over_samples_of_other_classes(data: Any) -> None:
    logits, (targets, original) = data
    rows = targets != original
    assume(rows.any())
    result, predicted = measured(logits, targets=targets, original=original), logits[rows].argmax(1)
    assert result.asr == pytest.approx(metrics.accuracy_score(targets[rows], predicted))
    assert result.ra == pytest.approx(metrics.accuracy_score(original[rows], predicted))
    expected = metrics.log_loss(targets[rows], softmax(logits[rows]), labels=range(CLASSES))
    assert result.triggered_loss == pytest.approx(expected, rel=1e-6, abs=1e-9)


@given(scored(columns=2))
def test_asr_and_ra_never_sum_to_more_than_one(data: Any) -> None:
    logits, (targets, original) = data
    assume((targets != original).any())
    result = measured(logits, targets=targets, original=original)
    assert result.asr + result.ra <= 1 + 1e-12  # type: ignore[operator]


def test_samples_of_the_target_class_do_not_count_as_attacked() -> None:
    result = measured(predicting([0, 0, 1]), targets=[0, 0, 0], original=[0, 1, 1])
    assert (result.asr, result.ra) == (0.5, 0.5)


def test_without_a_sample_of_another_class_there_is_no_asr() -> None:
    result = measured(predicting([0, 0]), targets=[0, 0], original=[0, 0])
    assert (result.asr, result.ra, result.triggered_loss) == (None, None, None)


def test_all_to_all_targets_are_measured_sample_by_sample() -> None:
    result = measured(predicting([1, 2, 3, 3]), targets=[1, 2, 3, 0], original=[0, 1, 2, 3])
    assert (result.asr, result.ra) == (0.75, 0.25)


def test_nothing_to_measure_gives_none() -> None:
    assert measured(predicting([0])) == ModelMetrics()


def test_an_empty_test_set_gives_none() -> None:
    assert measured(predicting([0]), test=[]) == ModelMetrics()


def test_one_pass_over_each_set_is_enough() -> None:
    model: Any = Scripted(predicting([0, 1]))
    model_metrics(model, blank([0, 1]), TriggeredSet(blank([1, 1]), np.array([0, 0])))
    assert model.passes == 2


def test_the_loss_of_extreme_logits_is_finite() -> None:
    assert mean_cross_entropy(np.array([[1e4, -1e4]], np.float32), np.array([1])) == 2e4


def test_the_loss_does_not_change_the_logits() -> None:
    logits = np.array([[1.0, 2.0]])
    mean_cross_entropy(logits, np.array([0]))
    assert logits.tolist() == [[1, 2]]


def test_accuracy_is_a_plain_float() -> None:
    assert type(accuracy(predicting([1]), np.array([1]))) is float


# detection


@given(detected())
def test_tpr_and_fpr_are_recalls_of_scikit_learn(data: Any) -> None:
    _, flagged, poison = data
    assume(poison.any() and not poison.all())
    result = detection_metrics(None, flagged, Truth(poison))
    assert result is not None
    assert result.tpr == pytest.approx(metrics.recall_score(poison, flagged))
    assert result.fpr == pytest.approx(1 - metrics.recall_score(poison, flagged, pos_label=False))


@given(detected())
def test_auroc_and_average_precision_are_those_of_scikit_learn(data: Any) -> None:
    scores, _, poison = data
    assume(poison.any() and not poison.all())
    result = detection_metrics(scores, None, Truth(poison))
    assert result is not None
    assert result.auroc == pytest.approx(metrics.roc_auc_score(poison, scores))
    assert result.average_precision == pytest.approx(metrics.average_precision_score(poison, scores))


@given(detected())
def test_auroc_is_the_chance_that_poison_scores_higher(data: Any) -> None:
    scores, _, poison = data
    assume(poison.any() and not poison.all())
    pairs = scores[poison][:, None] - scores[~poison][None, :]
    result = detection_metrics(scores, None, Truth(poison))
    assert result is not None
    assert result.auroc == pytest.approx(((pairs > 0) + 0.5 * (pairs == 0)).mean())


@given(detected())
def test_no_measure_is_ever_nan(data: Any) -> None:
    scores, flagged, poison = data
    result = detection_metrics(scores, flagged, Truth(poison))
    values = [value for value in vars(result).values() if value is not None]
    assert all(math.isfinite(value) for value in values)


def test_nothing_flagged_is_zero() -> None:
    result = detection_metrics(None, np.zeros(3, bool), Truth(np.array([True, False, False])))
    assert result == DetectionMetrics(tpr=0, fpr=0, flagged=0, poison=1)


def test_without_poison_there_is_no_tpr() -> None:
    result = detection_metrics(np.arange(2.0), np.array([True, False]), Truth(np.zeros(2, bool)))
    assert result == DetectionMetrics(tpr=None, fpr=0.5, flagged=1, poison=0)


def test_with_poison_alone_there_is_no_fpr() -> None:
    result = detection_metrics(np.arange(2.0), np.array([True, False]), Truth(np.ones(2, bool)))
    assert result == DetectionMetrics(tpr=0.5, fpr=None, flagged=1, poison=2)


def test_a_defense_that_does_not_detect_has_no_detection_metrics() -> None:
    assert detection_metrics(None, None, Truth(np.ones(2, bool))) is None


def test_cover_samples_are_not_poison() -> None:
    truth = Truth(np.array([True, False, False]), cover=np.array([False, True, False]))
    result = detection_metrics(np.array([3.0, 2.0, 1.0]), np.array([True, True, False]), truth)
    assert result == DetectionMetrics(tpr=1, fpr=0.5, auroc=1, average_precision=1, flagged=2, poison=1)


# DER


@given(shares, shares, shares, shares)
def test_der_follows_its_formula(acc: float, asr: float, new_acc: float, new_asr: float) -> None:
    value = der(ModelMetrics(acc=acc, asr=asr), ModelMetrics(acc=new_acc, asr=new_asr))
    assert value == pytest.approx((max(0, asr - new_asr) - max(0, acc - new_acc) + 1) / 2, abs=1e-9)
    assert 0 <= value <= 1


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ((0.9, 1.0), (0.9, 0.0), 1.0),  # removed for nothing
        ((0.9, 0.5), (0.95, 0.5), 0.5),  # a gain in ACC is no merit
        ((0.9, 0.5), (0.9, 0.8), 0.5),  # a rise of ASR is no fault
        ((1.0, 0.0), (0.0, 0.0), 0.0),  # nothing but harm
    ],
)
def test_der_clamps_gains(before: tuple[float, float], after: tuple[float, float], expected: float) -> None:
    assert der(*(ModelMetrics(acc=acc, asr=asr) for acc, asr in (before, after))) == expected


@pytest.mark.parametrize("missing", [ModelMetrics(acc=0.9), ModelMetrics(asr=0.9), ModelMetrics()])
def test_der_needs_acc_and_asr_on_both_sides(missing: ModelMetrics) -> None:
    known = ModelMetrics(acc=0.9, asr=0.9)
    assert der(known, missing) is None and der(missing, known) is None


# evaluations


def test_a_whole_case_is_measured() -> None:
    case = tiny_case()
    assert case.model is not None and case.truth is not None
    outcome = Outcome(scores=case.truth.poison.astype(float), model=case.model)
    result = evaluate(case, outcome)
    assert result.before == result.after == model_metrics(case.model, case.test, case.test_poisoned)
    assert result.der == 0.5
    assert result.detection is not None and result.detection.auroc == 1


def test_known_metrics_of_the_suspect_model_are_not_measured_again() -> None:
    before = ModelMetrics(acc=0.25, asr=0.125)
    assert evaluate(tiny_case(), Outcome(flagged=np.zeros(96, bool)), before=before).before is before


def test_without_truth_and_tests_nothing_is_claimed() -> None:
    case = Case(train=blank([0, 1]))
    assert evaluate(case, Outcome(flagged=np.zeros(2, bool))) == Evaluation()


@pytest.mark.parametrize(
    "evaluation",
    [
        Evaluation(),
        Evaluation(before=ModelMetrics(acc=0.5), detection=DetectionMetrics(tpr=0.5, flagged=3, poison=2)),
        Evaluation(ModelMetrics(0.9, 0.8, 0.1, 0.3, 2.0), ModelMetrics(0.8, 0.1, 0.7, 0.4, 5.0), 0.8),
    ],
)
def test_evaluations_survive_json(evaluation: Evaluation) -> None:
    assert (
        TypeAdapter(Evaluation).validate_python(json.loads(json.dumps(dataclasses.asdict(evaluation), allow_nan=False)))
        == evaluation
    )

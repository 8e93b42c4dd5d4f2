"""Retraining on what a defense keeps."""

import dataclasses

import numpy as np
import pytest

from elixir_plugin import Context
from elixir_plugin.errors import InputError
from elixir_plugin.evaluation import ModelMetrics, retrain_and_measure
from elixir_plugin.outcome import Outcome
from elixir_plugin.testbed.poisons import BadNets
from elixir_plugin.testing import tiny_case
from elixir_plugin.training import Recipe

RECIPE = Recipe(epochs=12, batch_size=16, lr=0.05, schedule="constant")


def strong_case():
    """A tiny case whose poison is learned in a few epochs."""
    case, poison = tiny_case(), BadNets(rate=0.2)
    original = case.truth.original_labels
    pixels = case.train.read(slice(None))
    pixels[case.truth.poison, -2:, -2:] = 128
    train, truth = poison.poison(case.train.replace(images=pixels, labels=original))
    return dataclasses.replace(case, train=train, truth=truth, test_poisoned=poison.triggered_test(case.test))


def measure(case, outcome, **options):
    return retrain_and_measure(case, outcome, Context(seed=1), recipe=RECIPE, architecture="small_resnet", **options)


def test_removing_the_poison_removes_the_backdoor():
    case = strong_case()
    flagged = case.truth.poison.copy()
    found = measure(case, Outcome(scores=flagged.astype(np.float64), flagged=flagged))
    assert found.before.asr > 0.7 > 0.3 > found.after.asr
    assert found.after.acc > 0.8
    assert found.der > 0.75
    assert (found.detection.tpr, found.detection.fpr) == (1.0, 0.0)


def test_keeping_all_changes_nothing():
    case = tiny_case()
    found = measure(case, Outcome(flagged=np.zeros(len(case.train), bool)))
    assert found.before == found.after and found.der == 0.5


def test_kept_samples_and_the_sanitised_set_are_what_is_trained_on():
    case = strong_case()
    labels = case.truth.original_labels
    relabelled = case.train.replace(labels=labels)
    known = ModelMetrics(acc=1.0, asr=1.0, ra=0.0)
    found = measure(case, Outcome(train=relabelled, kept=np.arange(90)), before=known)
    assert found.before == known and found.after.asr < 0.3


def test_nothing_to_train_on_is_refused():
    case = tiny_case()
    with pytest.raises(InputError, match="nothing to train on"):
        measure(case, Outcome(flagged=np.ones(len(case.train), bool)))
    with pytest.raises(InputError, match="nothing to train on"):
        measure(dataclasses.replace(case, train=None, truth=None), Outcome(model=case.model))

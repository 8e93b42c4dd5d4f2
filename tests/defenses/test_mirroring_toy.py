"""Left and right as classes: what mirroring costs there, and that no default pays it."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from elixir_plugin import Case, Classifier, Context, ImageSet, Recipe
from elixir_plugin.core import mirroring
from elixir_plugin.core.outcome import Outcome, same_outcome
from elixir_plugin.defenses.confusion_training.data import prepare, suspect_model
from elixir_plugin.defenses.confusion_training.defense import ConfusionTraining
from elixir_plugin.defenses.confusion_training.settings import ConfusionSettings
from elixir_plugin.defenses.d3.defense import D3
from elixir_plugin.defenses.dataelixir.settings import DataElixirSettings
from elixir_plugin.defenses.image_variations.settings import ImageVariationsSettings
from elixir_plugin.evaluation.measure import execute
from elixir_plugin.evaluation.retraining import Retraining, retrain
from elixir_plugin.training.fit import learn, untrained


def arrows(count: int, seed: int) -> ImageSet:
    """Return bars with a bright end on the left (class 0) or on the right (1), somewhere in a noisy image."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    pixels = rng.uniform(0, 60, (count, 12, 12, 3))
    for row, label in enumerate(labels):
        top, left = rng.integers(1, 9), rng.integers(0, 5)
        pixels[row, top, left : left + 8] += 100
        end = left if label == 0 else left + 6
        pixels[row, top - 1 : top + 2, end : end + 2] += 90
    return ImageSet(pixels.astype(np.uint8), labels, 2)


@cache
def case() -> Case:
    """Return a case with a model that tells left from right."""
    train = arrows(240, 0)
    model = untrained(train, "small_resnet", 0, torch.device("cpu"))
    learn(model, train, Recipe(epochs=10, batch_size=32, lr=0.05), Context(), name="toy", stage="train")
    return Case(train=train, clean=arrows(120, 1), model=model.eval(), test=arrows(200, 2))


def accuracy(model: Classifier | None) -> float:
    test = case().test
    assert model is not None and test is not None
    return float((model.predict(test).argmax(1) == test.labels).mean())


SHORT: dict[str, Any] = {"epochs": 8, "batch_size": 32, "lr": 0.05}


def d3(**augmentation: Any) -> Outcome:
    return D3(**SHORT, select="all", augmentation={"crop": 0, **augmentation}).run(case(), Context(seed=3))


def test_the_toy_falls_to_chance_when_it_is_mirrored_and_stays_by_default() -> None:
    assert accuracy(case().model) >= 0.98
    assert accuracy(d3(flip=True).model) < 0.75
    left_alone = d3()
    assert accuracy(left_alone.model) >= 0.95
    assert left_alone.tables["mirroring"]["flip"] is False
    (note,) = (each for each in left_alone.notes if "mirror" in each)
    assert note == left_alone.tables["mirroring"]["why"]
    assert note.startswith("training does not mirror images: the suspect model labels ")


def test_auto_gives_to_the_bit_what_the_setting_would() -> None:
    for flip in (False, True):
        known = dataclasses.replace(case(), mirror=flip)
        chosen = D3(**SHORT).run(known, Context(seed=3))
        given = D3(**SHORT, augmentation={"crop": 4, "flip": flip}).run(known, Context(seed=3))
        assert chosen.tables.pop("mirroring")["flip"] is flip and "mirroring" not in given.tables
        assert same_outcome(chosen, given) == []
        assert [note for note in chosen.notes if "mirror" not in note] == given.notes


@pytest.mark.parametrize("lacking", [{}, {"model": None}, {"model": None, "clean": None}], ids=["all", "data", "train"])
def test_a_model_trained_on_what_is_left_still_tells_left_from_right(lacking: dict[str, Any]) -> None:
    plan = Retraining.build(
        {"epochs": 10, "batch_size": 32, "architecture": "small_resnet", "augmentation": {"crop": 0}}
    )
    context = Context(seed=1)
    model = retrain(dataclasses.replace(case(), **lacking), Outcome(kept=np.arange(240)), plan, context)
    assert accuracy(model) >= 0.95
    assert len(context.notes) == 1 and context.notes[0].startswith("training does not mirror images: ")


class Everything(D3):
    """A detector's outcome, for a model to be trained on."""

    def defend(self, case: Case, context: Context) -> Outcome:
        assert case.train is not None
        return Outcome(kept=np.arange(len(case.train)))


def test_the_report_says_what_the_training_afterwards_did() -> None:
    plan = Retraining(epochs=1, batch_size=32, architecture="small_resnet")
    given = {"augmentation": {"flip": False}}
    outcome, _ = execute(Everything(given), dataclasses.replace(case(), mirror=True), Context(), plan)
    known = "training mirrors images left-right: the data set is known to allow it"
    assert [note for note in outcome.notes if "mirror" in note] == [known]
    assert outcome.tables["mirroring"]["flip"] is True
    closed = plan.model_copy(update={"augmentation": plan.augmentation.model_copy(update={"flip": False})})
    outcome, _ = execute(Everything(given), dataclasses.replace(case(), mirror=True), Context(), closed)
    assert not any("mirror" in note for note in outcome.notes) and "mirroring" not in outcome.tables


def test_the_defense_and_the_training_afterwards_share_one_decision(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Case] = []
    decided = mirroring._decided

    def counted(case: Case, context: Context) -> mirroring.Mirroring:
        made.append(case)
        return decided(case, context)

    monkeypatch.setattr(mirroring, "_decided", counted)
    plan = Retraining(epochs=1, batch_size=32, architecture="small_resnet")
    execute(Everything(), case(), Context(), plan, controls=True)
    assert len(made) == 1


@pytest.mark.e2e
def test_the_reference_model_of_confusion_training_is_not_mirrored() -> None:
    settings = {"reference_epochs": 40, "reference_lr": 0.05, "architecture": "small_resnet"}
    alone = dataclasses.replace(case(), model=None)
    for augmentation, lowest, highest in (({"crop": 0}, 0.95, 1.0), ({"crop": 0, "flip": True}, 0.0, 0.75)):
        context = Context(seed=1)
        defense = ConfusionTraining(**settings, reference_augmentation=augmentation).settled(alone, context)
        model = suspect_model(alone, prepare(alone, defense.settings, context), defense.settings, context)
        assert lowest <= accuracy(model) <= highest


def test_confusion_training_decides_nothing_where_it_trains_no_reference_model() -> None:
    for defense, whole in ((ConfusionTraining(), case()), (ConfusionTraining(reference="labels"), case())):
        assert not defense.trains_augmented(whole) and defense.settled(whole, Context()) is defense
    assert ConfusionTraining(preset="cifar10").trains_augmented(dataclasses.replace(case(), model=None))


MIRRORED = {"crop": 4, "flip": True}
UNMIXED = {"mixed_in": False, "fdr": None, "class_level": "suspects"}


@pytest.mark.parametrize(
    ("build", "known"),
    [
        (lambda: D3.Settings.build({"augmentation": MIRRORED}, preset="paper"), "e0013624b8da"),
        (lambda: DataElixirSettings.build({"recipe": {"augmentation": MIRRORED}}), "67d9c6d0537d"),
        (lambda: ImageVariationsSettings.build({"recipe": {"augmentation": {"flip": True}}}), "40abe8731c29"),
        (lambda: ConfusionSettings.build({"reference_augmentation": MIRRORED, **UNMIXED}), "00b8ab2fb3ee"),
        (lambda: ConfusionSettings.build(UNMIXED, preset="small"), "bbec5fc1ef0b"),
        (lambda: Retraining.build({"augmentation": MIRRORED}), "1c5cf0257702"),
    ],
    ids=["d3", "dataelixir", "image_variations", "confusion_training", "confusion_training small", "retrain"],
)
def test_runs_that_said_what_they_do_are_found_again(build: Any, known: str) -> None:
    """Fingerprints of the time when mirroring was the default, λ 10 that of D3, and held-out samples were unseen."""
    assert build().fingerprint() == known


@pytest.mark.parametrize("settings", [D3.Settings, DataElixirSettings, ImageVariationsSettings, ConfusionSettings])
def test_a_run_by_default_is_another_one_than_before(settings: Any) -> None:
    formerly = ("e0013624b8da", "67d9c6d0537d", "40abe8731c29", "00b8ab2fb3ee")
    assert settings().fingerprint() not in formerly

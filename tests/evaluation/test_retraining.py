"""Retraining on what a defense keeps."""

import dataclasses

import numpy as np
import pytest

from elixir_plugin import Context
from elixir_plugin.core.augmentation import Augmentation
from elixir_plugin.core.case import Case
from elixir_plugin.core.classifier.classifier import Classifier
from elixir_plugin.core.metrics import ModelMetrics
from elixir_plugin.core.outcome import Outcome
from elixir_plugin.core.settings import Settings
from elixir_plugin.defense import Card, Defense
from elixir_plugin.errors import InputError
from elixir_plugin.evaluation import retraining
from elixir_plugin.evaluation.measure import execute
from elixir_plugin.evaluation.retraining import (
    CONTROLS,
    RETRAINED,
    Retraining,
    judge_denoiser,
    retrain,
    retrain_and_measure,
    run_controls,
)
from elixir_plugin.testbed.poisons import BadNets
from elixir_plugin.testing.defenses import tiny_case

PLAN = Retraining(
    epochs=12,
    batch_size=16,
    lr=0.05,
    schedule="constant",
    architecture="small_resnet",
    augmentation=Augmentation(),
)


def strong_case():
    """A tiny case whose poison is learned in a few epochs."""
    case, poison = tiny_case(), BadNets(rate=0.2)
    original = case.truth.original_labels
    pixels = case.train.read(slice(None))
    pixels[case.truth.poison, -2:, -2:] = 128
    train, truth = poison.poison(case.train.replace(images=pixels, labels=original))
    return dataclasses.replace(case, train=train, truth=truth, test_poisoned=poison.triggered_test(case.test))


def measure(case, outcome, **options):
    return retrain_and_measure(case, outcome, Context(seed=1), PLAN, **options)


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


def purified(case, **values):
    """What a purification defense might hand back: a little blur, grayscale for training, a noise level."""
    pixels = case.train.read(slice(None)).astype(np.float32)
    pixels[:, 1:] = (pixels[:, 1:] + pixels[:, :-1]) / 2
    values = {"augmentation": Augmentation(grayscale=0.4, noise=0.03), "noise_level": 0.04, **values}
    return Outcome(train=case.train.replace(images=np.rint(pixels).astype(np.uint8)), **values)


def seen_by(monkeypatch, act):
    """Run *act*, and return (images, plan) of every training in it."""
    seen = []

    def note(images, case, plan, context, stage, *, start=None):
        seen.append((images, plan))
        return case.model

    monkeypatch.setattr(retraining, "_trained", note)
    act()
    return seen


def test_controls_differ_from_the_defense_in_one_part_each(monkeypatch):
    case = tiny_case()
    outcome = purified(case)
    plan = PLAN.model_copy(update={"augmentation": Augmentation(crop=1)})
    seen = seen_by(monkeypatch, lambda: run_controls(case, outcome, plan, Context()))
    undefended, no_denoiser, noise_only, clean_only = seen
    assert undefended[0] is no_denoiser[0] is noise_only[0] is case.train and clean_only[0] is case.clean
    assert undefended[1] == plan
    assert no_denoiser[1].augmentation == Augmentation(crop=1, grayscale=0.4, noise=0.03)
    assert noise_only[1].augmentation == Augmentation(crop=1, grayscale=0.4, noise=0.05)
    assert clean_only[1].augmentation == plan.augmentation
    assert clean_only[1].epochs == round(plan.epochs * len(case.train) / len(case.clean))


def test_what_was_done_to_the_images_once_is_done_to_those_of_the_controls(monkeypatch):
    case = tiny_case()
    static = Augmentation(grayscale=1.0, noise=0.03)
    outcome = dataclasses.replace(purified(case), augmentation=None, static_augmentation=static)
    seen = seen_by(monkeypatch, lambda: run_controls(case, outcome, PLAN, Context()))
    undefended, no_denoiser, noise_only, clean_only = (images for images, _ in seen)
    assert all(plan.augmentation == PLAN.augmentation for _, plan in seen)
    assert undefended is case.train and clean_only is case.clean
    spread = [images.read(slice(None)).astype(float).std(3).mean() for images in (undefended, no_denoiser, noise_only)]
    assert spread[1] < spread[0] and spread[1] < spread[2]  # gray, but for a little noise; the other has more of it


def test_controls_need_a_suspect_set():
    case = dataclasses.replace(tiny_case(), train=None, truth=None)
    assert run_controls(case, Outcome(model=case.model), PLAN, Context()) == {}


def test_the_defended_model_trains_on_the_sanitised_set_with_its_augmentation(monkeypatch):
    case = tiny_case()
    outcome = purified(case)
    ((images, plan),) = seen_by(monkeypatch, lambda: retrain(case, outcome, PLAN, Context()))
    assert images.fingerprint() == outcome.train.fingerprint()
    assert plan.augmentation == Augmentation(grayscale=0.4, noise=0.03)


def test_controls_follow_from_what_is_there():
    case, plan = tiny_case(), PLAN.model_copy(update={"epochs": 1})
    bare = dataclasses.replace(case, clean=None)
    assert list(run_controls(bare, Outcome(flagged=np.zeros(len(case.train), bool)), plan, Context())) == ["undefended"]
    found = run_controls(case, purified(case), plan, Context())
    assert list(found) == list(CONTROLS) and all(0 <= each.acc <= 1 for each in found.values())


def test_a_purifier_with_a_model_of_its_own_is_judged_by_one_trained_like_the_controls(monkeypatch):
    case, own = tiny_case(), tiny_case().model
    outcome = purified(case, model=own)
    found = {}
    seen = seen_by(monkeypatch, lambda: found.update(run_controls(case, outcome, PLAN, Context(), own_model=True)))
    assert list(found) == [*CONTROLS, RETRAINED]
    images, plan = seen[-1]
    assert images.fingerprint() == outcome.train.fingerprint()
    assert plan == PLAN.model_copy(update={"augmentation": Augmentation(grayscale=0.4, noise=0.03)})
    controls = {"noise_only": ModelMetrics(acc=0.6), RETRAINED: ModelMetrics(acc=0.6)}
    (note,) = judge_denoiser(ModelMetrics(acc=0.9), controls, 2000)  # 0.9 owes to another recipe
    assert "ACC 60.0 % with it; ACC 60.0 % with noise_only" in note


def test_a_purifiers_model_that_was_trained_here_is_not_trained_again():
    case, context, plan = tiny_case(), Context(), PLAN.model_copy(update={"epochs": 1})
    outcome = purified(case)
    outcome.model = retrain(case, outcome, plan, context)
    assert list(run_controls(case, outcome, plan, context)) == list(CONTROLS)


def test_a_control_that_is_known_is_not_trained_again(monkeypatch):
    case, known = tiny_case(), ModelMetrics(acc=0.125)
    found = {}
    controls = {"undefended": known, "own_model": True}
    seen = seen_by(monkeypatch, lambda: found.update(run_controls(case, purified(case), PLAN, Context(), **controls)))
    assert found["undefended"] is known and list(found) == [*CONTROLS, RETRAINED]
    assert len(seen) == len(found) - 1


def test_no_model_is_trained_on_nothing(monkeypatch):
    case = tiny_case()
    outcome = purified(case, model=case.model, kept=np.array([], np.int64))
    found = {}
    seen_by(monkeypatch, lambda: found.update(run_controls(case, outcome, PLAN, Context(), own_model=True)))
    assert list(found) == list(CONTROLS)


def test_without_an_augmentation_the_set_without_denoiser_is_the_undefended_one(monkeypatch):
    """The same images under the same recipe make the same model: it is trained once."""
    case, plan = tiny_case(), PLAN.model_copy(update={"epochs": 1})
    outcome = purified(case, augmentation=None)
    first, second = (
        retraining.run_control(name, case, outcome, plan, Context()) for name in ("undefended", "no_denoiser")
    )
    assert first == second
    found = {}
    seen = seen_by(monkeypatch, lambda: found.update(run_controls(case, outcome, plan, Context())))
    assert len(seen) == 3 and list(found) == list(CONTROLS) and found["no_denoiser"] is found["undefended"]


@pytest.mark.parametrize(
    ("acc", "noise_only", "said"), [(0.80, 0.60, 0), (0.61, 0.60, 1), (0.50, 0.60, 1), (0.635, 0.60, 0)]
)
def test_a_denoiser_that_adds_nothing_is_called_that(acc, noise_only, said):
    notes = judge_denoiser(ModelMetrics(acc=acc), {"noise_only": ModelMetrics(acc=noise_only)}, 2000)
    assert len(notes) == said
    assert all("does not earn its cost" in note and "noise_only" in note for note in notes)


@pytest.mark.parametrize(
    ("after", "control", "said"),
    [
        ((0.60, 0.05), (0.60, 0.95), 0),  # the backdoor goes, at the same ACC
        ((0.58, 0.05), (0.60, 0.95), 0),  # and at one that is a little lower
        ((0.30, 0.05), (0.60, 0.95), 1),  # but not at any price
        ((0.60, 0.94), (0.60, 0.95), 1),  # within two standard errors
        ((0.60, 0.05), (0.60, 0.05), 1),
        ((0.60, 0.00), (0.60, 0.00), 1),  # no standard error at all, and no gain
        ((1.00, 0.00), (1.00, 0.00), 1),
        ((1.00, 0.00), (1.00, 1.00), 0),
        ((0.60, 0.95), (0.60, 0.05), 1),  # worse
        ((0.60, 0.05), (0.40, 0.05), 0),
        ((0.60, None), (0.60, 0.95), 1),  # one alone says nothing
    ],
)
def test_a_backdoor_that_goes_is_a_gain_too(after, control, said):
    measured = (ModelMetrics(acc=acc, asr=asr) for acc, asr in (after, control))
    notes = judge_denoiser(next(measured), {"noise_only": next(measured)}, 2000)
    assert len(notes) == said
    assert all(f"ASR {100 * control[1]:.1f} % with noise_only" in note for note in notes)


class OnTheWay(Settings):
    own: bool = False


class Trainer(Defense):
    """Changes nothing; hands back the suspect model or, as if trained, the same network turned upside down."""

    name, kind, needs, Settings = "trainer", "purify", frozenset({"train", "model"}), OnTheWay
    card = Card(title="Trainer", paper="none", year=2025, claims="none", cost="none", limits="all")

    def defend(self, case: Case, context: Context) -> Outcome:
        model = case.model.clone()
        if not self.settings.own:
            for each in list(model.parameters())[-2:]:  # weight and bias of the head
                each.data.neg_()
        return Outcome(train=case.train, model=model, undefended=model)


def test_a_model_trained_on_the_way_stands_beside_the_suspect_model() -> None:
    """Else the suspect model's ACC and ASR, of another recipe, would be all that "after" is compared with."""
    case = tiny_case()
    _, found = execute(Trainer(), case, Context())
    assert found.before != found.after == found.controls["undefended"]
    _, found = execute(Trainer({"own": True}), case, Context())
    assert found.controls == {}  # it is the suspect model itself


def test_a_gain_in_asr_counts_by_the_samples_it_is_measured_on() -> None:
    after, control = ModelMetrics(acc=0.6, asr=0.1), {"noise_only": ModelMetrics(acc=0.6, asr=0.3)}
    assert len(judge_denoiser(after, control, 2000, 10)) == 1 and not judge_denoiser(after, control, 2000, 100)


def test_nothing_measured_nothing_said():
    assert judge_denoiser(None, {"noise_only": ModelMetrics(acc=1.0)}, 100) == []
    assert judge_denoiser(ModelMetrics(), {"noise_only": ModelMetrics(acc=1.0)}, 100) == []
    assert judge_denoiser(ModelMetrics(acc=0.1), {"noise_only": ModelMetrics()}, 100) == []


def test_milestones_keep_their_place_when_a_small_set_gets_more_epochs():
    plan = Retraining(epochs=30, schedule="step", milestones=(15, 25))
    longer = retraining._as_many_steps(plan, 50_000, 2_500)
    assert (longer.epochs, longer.milestones) == (300, (150, 250))


def test_the_architecture_of_the_suspect_model_comes_with_its_input_size():
    case = tiny_case()
    case = dataclasses.replace(case, model=Classifier.build("small_resnet", case.num_classes, input_size=24))
    inherited = PLAN.model_copy(update={"architecture": None, "epochs": 1})
    outcome = Outcome(scores=np.zeros(len(case.train)))
    assert retrain(case, outcome, inherited, Context()).input_size == 24
    assert retrain(case, outcome, PLAN.model_copy(update={"epochs": 1}), Context()).input_size is None

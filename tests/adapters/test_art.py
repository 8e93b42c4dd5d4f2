"""Defenses as ART's own classes, held against the real ART; skipped where it is not installed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from elixir_plugin import Case, Classifier, Context, Defense, ImageSet, Outcome, get_defense
from elixir_plugin.core.augmentation import Augmentation
from elixir_plugin.defense import Card
from elixir_plugin.errors import InputError, MissingNeedError, OutcomeError, PluginError, SettingsError
from elixir_plugin.hookspecs import Entry, hookimpl
from elixir_plugin.plugins import plugins
from elixir_plugin.testing import leaks
from elixir_plugin.testing.defenses import tiny_case
from elixir_plugin.testing.reachable import reachable

pytestmark = pytest.mark.art
CASE = tiny_case()
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
SHORT = {
    "architecture": "small_resnet", "reference": "labels", "ratios": (0.5,), "suspect_size": None,
    "reserved_size": None, "pretrain_epochs": (1,), "confusion_steps": (2,), "confusion_batch": 16,
    "confusion_lr": (0.01,), "lam": (10,), "shifted_from": 2,
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def art(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """ART itself; importing it writes to the home folder, so it gets one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        yield pytest.importorskip("art", reason="ART is not installed: pip install .[art]")


class Lightest(Defense):
    """Flags, keeps, whitens and relabels, so that every way out is seen."""

    name = "lightest"
    kind = "purify"
    needs = frozenset({"train"})
    card = Card("Lightest", "none", 2026, "whitens the first images", "nothing", "for tests")

    def defend(self, case: Case, context: Context) -> Outcome:
        assert case.train is not None
        images = case.train.read(slice(None))
        images[:4] = 1 if images.dtype == np.float32 else 255
        labels = case.train.labels.copy()
        labels[:4] = 3
        kept = np.arange(1, len(case.train))
        return Outcome(train=case.train.replace(images=images, labels=labels), kept=kept)


class Teacher(Defense):
    """Trains nothing, and hands back a network of its own or of the case."""

    name = "teacher"
    kind = "train"
    needs = frozenset({"train"})
    card = Card("Teacher", "none", 2026, "hands back a network", "nothing", "for tests")

    def defend(self, case: Case, context: Context) -> Outcome:
        model = Classifier.build("small_resnet", case.num_classes) if case.model is None else case.model.fresh(5)
        return Outcome(model=model.eval())


class Ranker(Defense):
    """Ranks, but sets no threshold."""

    name = "ranker"
    kind = "detect"
    needs = frozenset({"train"})
    card = Card("Ranker", "none", 2026, "ranks by position", "nothing", "for tests")
    seen: list[tuple[Any, ...]] = []  # noqa: RUF012

    def defend(self, case: Case, context: Context) -> Outcome:
        assert case.train is not None
        self.seen.append((case, context, self))
        return Outcome(scores=np.arange(len(case.train), dtype=np.float64))


@pytest.fixture
def strangers() -> Iterator[None]:
    """Offer the defenses above, as a third party would."""

    class Plugin:
        @hookimpl
        def elixir_defenses(self) -> list[Entry]:
            return [Entry(cls.name, cls, cls.kind) for cls in (Lightest, Teacher, Ranker)]

    plugin = Plugin()
    plugins().register(plugin, "strangers")
    yield
    plugins()._forget(plugin, "strangers")


def module(seed: int = 0) -> nn.Module:
    """Return a network that fits the suspect set, behind a normalisation with MEAN and STD."""
    fitted = tiny_case(seed=seed, mean=MEAN, std=STD).model
    assert fitted is not None
    return fitted.module


class Flat(nn.Module):
    """A small network for images with the channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4 * 64, 4)

    def forward(self, x: Any) -> Any:
        return self.head(torch.relu(self.conv(x.permute(0, 3, 1, 2))).flatten(1))


def estimator(network: nn.Module | None = None, **options: Any) -> Any:
    from art.estimators.classification import PyTorchClassifier

    network = module() if network is None else network
    return PyTorchClassifier(
        **{
            "model": network,
            "loss": nn.CrossEntropyLoss(),
            "input_shape": (3, 8, 8),
            "nb_classes": 4,
            "optimizer": torch.optim.SGD(network.parameters(), 0.01),
            "clip_values": (0.0, 1.0),
            "preprocessing": (np.array(MEAN, np.float32)[:, None, None], np.array(STD, np.float32)[:, None, None]),
            "device_type": "cpu",
            **options,
        }
    )


def arrays(part: Any, first: bool = True) -> tuple[Any, Any]:
    x = part.read(slice(None)).astype(np.float32) / 255
    return (np.ascontiguousarray(x.transpose(0, 3, 1, 2)) if first else x), part.labels.copy()


X, Y = arrays(CASE.train)
XC, YC = arrays(CASE.clean)


def hooks(network: nn.Module) -> int:
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in network.modules())


def weights(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


# the classes


def test_every_defense_has_its_class(strangers: None) -> None:
    from art.defences.detector.poison import PoisonFilteringDefence
    from art.defences.preprocessor.preprocessor import Preprocessor
    from art.defences.trainer import Trainer
    from art.defences.transformer import Transformer
    from elixir_plugin.adapters.art import adapter

    expected = {
        "ConfusionTrainingDetector": PoisonFilteringDefence, "ConfusionTrainingTrainer": Trainer,
        "EclipsePreprocessor": Preprocessor, "DataElixirPreprocessor": Preprocessor, "DataElixirTrainer": Trainer,
        "D3Transformer": Transformer, "TeacherTrainer": Trainer, "LightestPreprocessor": Preprocessor,
        "RankerDetector": PoisonFilteringDefence,
    }  # fmt: skip
    assert expected.keys() <= set(dir(adapter))
    for name, base in expected.items():
        made = getattr(adapter, name)
        assert issubclass(made, base) and made.__name__ == name and made is getattr(adapter, name)
    for name in set(dir(adapter)) - expected.keys():
        assert getattr(adapter, name) is not None
    assert adapter.art_defence("d3") is adapter.D3Transformer
    assert adapter.art_defence("dataelixir", "trainer") is adapter.DataElixirTrainer


def test_a_pipeline_has_the_class_of_every_kind_it_may_have() -> None:
    from elixir_plugin.adapters.art import adapter

    for family in ("Detector", "Preprocessor", "Transformer", "Trainer"):
        assert getattr(adapter, f"Pipeline{family}") is adapter.art_defence("pipeline", family.lower())
    assert adapter.art_defence("pipeline") is adapter.PipelineTrainer  # before its steps are known


@pytest.mark.parametrize("trained", [True, False])
def test_a_pipeline_trains_the_classifier(trained: bool) -> None:
    from elixir_plugin.adapters.art.adapter import PipelineTrainer

    classifier = estimator()
    before = weights(classifier.model)
    recipe = {"epochs": 1, "batch_size": 32}
    steps = [{"random_drop": {"share": 0.25}}, {"retrain": {"recipe": recipe}, "drop": "flagged"}]
    trainer = PipelineTrainer(classifier, x_clean=XC, y_clean=YC, trained=trained, steps=steps, retrain=recipe)
    trainer.fit(X, Y)
    assert trainer.outcome is not None and trainer.outcome.kept is not None and len(trainer.outcome.kept) == 72
    assert trainer.get_classifier() is classifier and not same(weights(classifier.model), before)
    assert [each.step for each in trainer.get_params()["steps"]] == ["random_drop", "retrain"]
    with pytest.raises(SettingsError, match="unknown step"):
        trainer.set_params(steps=["random_dorp"])
    assert len(trainer.get_params()["steps"]) == 2


def test_a_pipeline_detects_purifies_and_repairs() -> None:
    from elixir_plugin.adapters.art.adapter import PipelineDetector, PipelinePreprocessor, PipelineTransformer

    drop = {"random_drop": {"share": 0.25}}
    report, clean = PipelineDetector(estimator(), X, Y, steps=[drop]).detect_poison()
    assert report["poison"] == 24 and clean.count(0) == 24
    x, y = PipelinePreprocessor(steps=[drop, {"grayscale": {}, "only": "flagged"}])(X, Y)
    changed = (x != X).any((1, 2, 3))
    assert (
        x.shape == X.shape and np.array_equal(y, Y) and changed.sum() == 24 and not changed[np.array(clean) == 1].any()
    )
    classifier = estimator()
    repaired = PipelineTransformer(classifier, steps=[{"finetune": {"epochs": 1}}, {"d3": {"epochs": 1}}])(XC, y=YC)
    assert not same(weights(repaired.model), weights(classifier.model))


def test_unknown_classes_get_the_nearest_one() -> None:
    from elixir_plugin.adapters.art import adapter

    with pytest.raises(AttributeError, match="did you mean 'D3Transformer'"):
        _ = adapter.D4Transformer
    with pytest.raises(AttributeError, match="no attribute 'whatever'"):
        _ = adapter.whatever
    with pytest.raises(SettingsError, match="no such class"):
        adapter.art_defence("d3", "detector")


def test_without_art_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from elixir_plugin.adapters.art import adapter

    monkeypatch.setitem(sys.modules, "art.defences.detector.poison", None)
    adapter._made.cache_clear()
    with pytest.raises(PluginError, match="cannot be imported") as caught:
        adapter.art_defence("d3")
    assert "elixir_plugin[art]" in str(caught.value)


def test_nothing_that_a_defense_is_handed_leads_to_the_poison_or_to_the_host(strangers: None) -> None:
    from elixir_plugin.adapters.art.adapter import RankerDetector

    memory = np.concatenate([X, XC, X[:20]])  # of which all are views
    suspect, clean, test = np.split(memory, [len(X), len(X) + len(XC)])
    Ranker.seen.clear()
    classifier = estimator()
    with pytest.raises(OutcomeError, match="flags none"):
        RankerDetector(classifier, suspect, Y, x_clean=clean, y_clean=YC).detect_poison()
    (seen,) = Ranker.seen
    pixels = test.transpose(0, 2, 3, 1)
    full = Case(train=CASE.train, test=ImageSet(pixels, Y[:20], 4), truth=CASE.truth)
    assert leaks(full, seen, name="handed") == []
    assert [how for how, found in reachable(seen) if found is classifier or found is memory] == []


# detectors


def detector(classifier: Any = None, **options: Any) -> Any:
    from elixir_plugin.adapters.art.adapter import ConfusionTrainingDetector

    classifier = estimator() if classifier is None else classifier
    return ConfusionTrainingDetector(classifier, X, Y, **{"x_clean": XC, "y_clean": YC, **SHORT, **options})


def test_a_detector_says_the_same_as_the_defense() -> None:
    suspect = module()
    found = detector(estimator(suspect), seed=3)
    report, is_clean = found.detect_poison()
    model = Classifier(suspect, 4, mean=MEAN, std=STD)
    floats = {"images": np.ascontiguousarray(X.transpose(0, 2, 3, 1))}
    case = Case(
        train=CASE.train.replace(**floats),  # type: ignore[union-attr]
        clean=CASE.clean.replace(images=np.ascontiguousarray(XC.transpose(0, 2, 3, 1))),  # type: ignore[union-attr]
        model=model,
    )
    expected = get_defense("confusion_training")(SHORT).run(case, Context(seed=3))
    assert is_clean == [int(not flag) for flag in expected.flagged]  # type: ignore[union-attr]
    assert report["scores"] == expected.scores.tolist()  # type: ignore[union-attr]
    assert json.loads(json.dumps(report))["defense"] == "confusion_training"


def test_layout_range_and_label_form_change_nothing() -> None:
    _, expected = detector().detect_poison()
    one_hot = np.eye(4, dtype=np.float32)
    mean, std = np.float32(255) * np.array(MEAN, np.float32), np.float32(255) * np.array(STD, np.float32)
    wide = estimator(clip_values=(0.0, 255.0), preprocessing=(mean, std))
    from elixir_plugin.adapters.art.adapter import ConfusionTrainingDetector as Detector

    for given in (
        Detector(estimator(), X, one_hot[Y], x_clean=XC, y_clean=one_hot[YC], **SHORT),
        Detector(wide, X * 255, Y, x_clean=XC * 255, y_clean=YC, **SHORT),
    ):
        assert given.detect_poison()[1] == expected


def test_evaluation_is_arts_own_table_per_class() -> None:
    from art.defences.detector.poison import PoisonFilteringDefence

    found = detector()
    truth = (~CASE.truth.poison).astype(int)  # type: ignore[union-attr]
    table = json.loads(found.evaluate_defence(truth))
    assert isinstance(found, PoisonFilteringDefence) and set(table) == {f"class_{label}" for label in range(4)}
    _, is_clean = found.detect_poison()
    flagged = np.array(is_clean) == 0
    for label in range(4):
        rows = label == Y
        hit = table[f"class_{label}"]["TruePositive"]
        assert hit["numerator"] == int((flagged & (truth == 0))[rows].sum())
        assert hit["denominator"] == int((truth == 0)[rows].sum())
    with pytest.raises(InputError, match="not a mask"):
        found.evaluate_defence(truth[:-1])


def test_nothing_is_left_behind_in_the_classifier() -> None:
    classifier = estimator()
    classifier.get_activations(X[:4], layer="linear", batch_size=4)  # ART leaves its hook in the module
    network = classifier.model
    before, left = weights(network), hooks(network)
    found = detector(classifier)
    assert found.detect_poison()[1] == found.detect_poison()[1]
    assert same(weights(network), before) and hooks(network) == left == 1
    assert not Path("~/.art/data").expanduser().is_dir() or not list(Path("~/.art/data").expanduser().iterdir())


def test_parameters() -> None:
    found = detector(seed=4)
    given = found.get_params()
    assert given["seed"] == 4 and given["confusion_batch"] == 16 and set(found.defence_params) == set(given)
    found.set_params(seed=5, confusion_batch=8)
    assert (found.get_params()["seed"], found.get_params()["confusion_batch"]) == (5, 8)
    with pytest.raises(SettingsError, match="unknown parameter") as caught:
        found.set_params(seed=6, confusion_bacth=3)
    assert caught.value.hint == "did you mean 'confusion_batch'?" and found.get_params()["seed"] == 5
    with pytest.raises(SettingsError, match="settings refused"):
        found.detect_poison(confusion_batch=-1)
    assert found.get_params()["confusion_batch"] == 8
    with pytest.raises(SettingsError, match="settings refused"):
        detector(no_such=1)
    with pytest.raises(SettingsError, match="device not available"):
        detector(device="abacus")


def test_what_a_detector_refuses(strangers: None) -> None:
    from elixir_plugin.adapters.art.adapter import RankerDetector

    with pytest.raises(MissingNeedError, match="needs 'clean'"):
        detector(x_clean=None).detect_poison()
    with pytest.raises(OutcomeError, match="ranks samples"):
        RankerDetector(estimator(), X, Y).detect_poison()
    with pytest.raises(InputError, match="out of range"):
        RankerDetector(estimator(), X * 2, Y).detect_poison()
    with pytest.raises(InputError, match="not a PyTorch classifier"):
        RankerDetector(_without_module(), X, Y).detect_poison()
    odd = estimator(preprocessing=(np.random.default_rng(0).random((3, 8, 8), np.float32), np.ones((3, 8, 8))))
    with pytest.raises(InputError, match="from pixel to pixel"):
        RankerDetector(odd, X, Y).detect_poison()


def _without_module() -> Any:
    other = estimator()
    other._model._model = None
    return other


# preprocessors


def test_a_preprocessor_returns_the_form_it_was_given(strangers: None) -> None:
    from elixir_plugin.adapters.art.adapter import LightestPreprocessor

    one_hot = np.eye(4, dtype=np.float32)[Y]
    x, y = LightestPreprocessor()(X, one_hot)
    assert x.shape == (95, 3, 8, 8) and (x.dtype, y.dtype) == (np.float32, np.float32)
    assert (
        (x[:3] == 1).all() and (x[3:] == X[4:]).all() and (y[:3].argmax(1) == 3).all() and (y[3:] == one_hot[4:]).all()
    )
    last = np.ascontiguousarray(X.transpose(0, 2, 3, 1))
    x, y = LightestPreprocessor(clip_values=(-1, 1), nb_classes=4)(last * 2 - 1, Y.astype(np.int32))
    assert x.shape == (95, 8, 8, 3) and y.dtype == np.int32 and y.shape == (95,)
    np.testing.assert_allclose(x[3:], last[4:] * 2 - 1, atol=1e-6)
    coarse = (last * 255).astype(np.uint8)
    x, _ = LightestPreprocessor()(coarse, Y)
    assert x.dtype == np.uint8 and (x[:3] == 255).all() and (x[3:] == coarse[4:]).all()


def test_preprocessors_chain_and_serve_fitting_alone(strangers: None) -> None:
    from art.defences.preprocessor.preprocessor import PreprocessorPyTorch
    from elixir_plugin.adapters.art.adapter import LightestPreprocessor

    class Dim(PreprocessorPyTorch):  # type: ignore[misc]
        def forward(self, x: Any, y: Any = None) -> Any:
            return x / 2, y

    own, dim = LightestPreprocessor(seed=1), Dim()
    classifier = estimator(preprocessing_defences=[own, dim])
    plain = estimator(preprocessing_defences=[dim])
    assert np.array_equal(classifier.predict(X), plain.predict(X)) and own.outcome is None
    classifier.fit(X, np.eye(4, dtype=np.float32)[Y], batch_size=32, nb_epochs=1)
    assert own.outcome is not None and own.outcome.kept is not None
    assert classifier.loss_gradient(X[:4], np.eye(4, dtype=np.float32)[Y[:4]]).shape == (4, 3, 8, 8)
    assert np.array_equal(own.estimate_gradient(X, X), X)
    alone = estimator(preprocessing_defences=own)
    alone.fit(X, Y, batch_size=32, nb_epochs=1)


def test_eclipse_purifies_and_bakes_in_its_augmentation() -> None:
    from elixir_plugin.adapters.art.adapter import EclipsePreprocessor

    short = {
        "fit": {"size": "tiny", "length": 1000, "t_train_max": 40, "iterations": 3, "batch_size": 4},
        "purification": {"level": {"steps": 25, "of": 1000}, "steps": 2},
    }
    own = EclipsePreprocessor(augment=False, nb_classes=4, **short)
    own.fit(XC, YC)
    x, y = own(X, Y)
    assert x.shape == X.shape and x.dtype == np.float32 and 0 <= x.min() <= x.max() <= 1 and not np.array_equal(x, X)
    assert np.array_equal(y, Y) and own.outcome.augmentation == Augmentation(grayscale=0.4, noise=0.05)
    own.set_params(augment=True)
    noisier, _ = own(X, Y)
    assert np.abs(noisier - x).mean() > 0.02


def test_what_a_preprocessor_refuses(strangers: None) -> None:
    from elixir_plugin.adapters.art.adapter import EclipsePreprocessor, LightestPreprocessor

    with pytest.raises(SettingsError, match="purifies training sets"):
        LightestPreprocessor(apply_predict=True)
    with pytest.raises(InputError, match="has labels"):
        LightestPreprocessor()(X)
    with pytest.raises(MissingNeedError, match="needs 'clean'"):
        EclipsePreprocessor()(X, Y)
    with pytest.raises(InputError, match="no labels"):
        EclipsePreprocessor(XC)(X, Y)
    with pytest.raises(SettingsError, match="not a range"):
        LightestPreprocessor(clip_values=(1, 1))


# transformers


def test_a_transformer_returns_a_repaired_classifier_and_leaves_the_given_one() -> None:
    from elixir_plugin.adapters.art.adapter import D3Transformer

    suspect = module()
    classifier = estimator(suspect)
    before = weights(suspect)
    repaired = D3Transformer(classifier, epochs=1, seed=2)(XC, y=YC)
    clean = CASE.clean.replace(images=np.ascontiguousarray(XC.transpose(0, 2, 3, 1)))  # type: ignore[union-attr]
    expected = get_defense("d3")(epochs=1).run(
        Case(clean=clean, model=Classifier(module(), 4, mean=MEAN, std=STD)), Context(seed=2)
    )
    assert expected.model is not None
    found = weights(repaired.model)
    for name, value in expected.model.module.state_dict().items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-4)  # mean and std take another way here
    assert same(weights(suspect), before) and not same(found, before)
    assert type(repaired) is type(classifier) and type(repaired.model) is type(suspect) and hooks(repaired.model) == 0
    torch.testing.assert_close(
        torch.from_numpy(repaired.predict(XC)), torch.from_numpy(expected.model.predict(clean)), atol=1e-3, rtol=1e-3
    )
    repaired.fit(XC, YC, nb_epochs=1)  # it comes with an optimiser of its own
    assert same(weights(suspect), before)


def test_weights_go_into_a_classifier_that_is_handed_over() -> None:
    from elixir_plugin.adapters.art.adapter import D3Transformer

    target = estimator(module(9))
    network, optimizer = target.model, target.optimizer
    transformer = D3Transformer(estimator(), epochs=1)
    transformer.fit(XC, np.eye(4, dtype=np.float32)[YC])
    assert transformer.is_fitted and transformer(transformed_classifier=target) is target
    assert target.model is network and target.optimizer is optimizer
    assert same(weights(network), weights(transformer().model))
    with pytest.raises(InputError, match="cannot take the weights"):
        transformer(transformed_classifier=estimator(preprocessing=(0.0, 1.0)))


def test_channels_last_modules_are_repaired_too() -> None:
    from elixir_plugin.adapters.art.adapter import D3Transformer

    xl, yl = arrays(CASE.clean, first=False)
    stats = np.array(MEAN, np.float32), np.array(STD, np.float32)
    classifier = estimator(Flat(), channels_first=False, input_shape=(8, 8, 3), preprocessing=stats)
    repaired = D3Transformer(classifier, epochs=1, any_model=True)(xl, y=yl)  # it is not trained
    assert type(repaired.model) is Flat and repaired.predict(xl).shape == (48, 4)


def test_what_a_transformer_refuses() -> None:
    from elixir_plugin.adapters.art.adapter import D3Transformer

    transformer = D3Transformer(estimator(), preset="code")
    assert transformer.get_params()["lam"] == 0.5 and set(transformer.params) == set(transformer.get_params())
    with pytest.raises(InputError, match="nothing to go by"):
        transformer()
    with pytest.raises(InputError, match="no labels"):
        transformer(XC)
    transformer.set_params(epochs=1)
    transformer.fit(XC, YC)
    transformer.set_params(lam=1.0)
    assert not transformer.is_fitted  # what was fitted under other parameters is forgotten


# trainers


def test_a_model_that_fits_goes_into_the_classifier(strangers: None) -> None:
    from elixir_plugin.adapters.art.adapter import TeacherTrainer

    classifier = estimator()
    network, before = classifier.model, weights(classifier.model)
    trainer = TeacherTrainer(classifier, trained=True)
    trainer.fit(X, Y)
    assert trainer.get_classifier() is trainer.classifier is classifier and classifier.model is network
    assert not same(weights(network), before)


@pytest.mark.parametrize("first", [True, False])
def test_another_network_comes_in_a_new_classifier(strangers: None, first: bool) -> None:
    from elixir_plugin.adapters.art.adapter import TeacherTrainer

    x, y = arrays(CASE.train, first)
    network: nn.Module = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    options = {"channels_first": first, "input_shape": x.shape[1:], "preprocessing": (0.5, 0.5)}
    classifier = estimator(network, **options, clip_values=(0.0, 255.0))
    before = weights(network)
    trainer = TeacherTrainer(classifier)
    trainer.fit(x * 255, y)
    found = trainer.get_classifier()
    assert found is not classifier and same(weights(network), before)
    expected = (
        Classifier.build("small_resnet", 4).eval().predict(CASE.train.replace(images=arrays(CASE.train, False)[0]))
    )  # type: ignore[union-attr]
    np.testing.assert_allclose(found.predict(x * 255), expected, atol=1e-4)


def test_what_a_defense_leaves_trains_the_classifier_anew(strangers: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from elixir_plugin.adapters.art import models
    from elixir_plugin.adapters.art.adapter import LightestTrainer

    seen: list[Any] = []
    real = models.retrain

    def watch(case: Any, outcome: Any, plan: Any, context: Any, *, start: Any) -> Any:
        seen.append((plan, {name: value.clone() for name, value in start.module.state_dict().items()}))
        return real(case, outcome, plan, context, start=start)

    monkeypatch.setattr(models, "retrain", watch)
    classifier = estimator()
    before = weights(classifier.model)
    trainer = LightestTrainer(classifier, retrain={"lr": 0.1, "augmentation": {"flip": False}})
    trainer.fit(X, np.eye(4)[Y], nb_epochs=1, batch_size=16)
    (plan, start), *_ = seen
    assert (plan.epochs, plan.batch_size, plan.lr, plan.augmentation.flip, plan.augmentation.crop) == (
        1,
        16,
        0.1,
        False,
        4,
    )
    assert not torch.equal(start["conv1.weight"], before["conv1.weight"])  # fresh weights: a backdoor must not stay
    assert not same(weights(classifier.model), before) and trainer.outcome.kept is not None
    again = estimator()
    LightestTrainer(again, retrain={"lr": 0.1, "augmentation": {"flip": False}}).fit(X, Y, nb_epochs=1, batch_size=16)
    assert same(weights(again.model), weights(classifier.model))


def test_what_a_trainer_refuses(strangers: None) -> None:
    from elixir_plugin.adapters.art.adapter import LightestTrainer

    with pytest.raises(SettingsError, match="settings refused"):
        LightestTrainer(estimator(), retrain={"epoch": 1})
    with pytest.raises(SettingsError, match="not a mapping"):
        LightestTrainer(estimator(), retrain=3)
    with pytest.raises(SettingsError, match="unknown parameter"):
        LightestTrainer(estimator()).fit(X, Y, nb_epoch=1)

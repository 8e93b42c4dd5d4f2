"""Reserved clean sets that lack classes: what each defense says, and that D3 keeps what it can."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elixir_plugin import Defense, get_defense
from elixir_plugin.core.augmentation import Augmentation
from elixir_plugin.core.case import Case
from elixir_plugin.core.classifier.classifier import Classifier
from elixir_plugin.core.context import Context
from elixir_plugin.core.images import ImageSet
from elixir_plugin.core.outcome import Outcome, same_outcome
from elixir_plugin.defense import Card
from elixir_plugin.errors import InputError
from elixir_plugin.evaluation.measure import execute
from elixir_plugin.evaluation.retraining import Retraining
from elixir_plugin.testing import tiny_case
from elixir_plugin.training.batches import Samples, ShuffledBatches
from elixir_plugin.training.loop import Recipe, train

SIZE, TARGET = 16, 0
NAMES = ("bus", "car", "tram", "van")
PLAIN: dict[str, Any] = {"epochs": 40, "batch_size": 32, "augmentation": {"crop": 0, "flip": False}}
SHORT: dict[str, Any] = {**PLAIN, "epochs": 1}


def samples(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return images ``[n, 3, 16, 16]`` of four classes of three colour fields each, and labels."""
    fields = torch.rand(4, 3, 3, 5, 5, generator=torch.Generator().manual_seed(124))
    large = F.interpolate(fields.flatten(0, 1), (SIZE, SIZE), mode="bilinear").reshape(4, 3, 3, SIZE, SIZE)
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 4
    images = large[labels, torch.randint(3, (count,), generator=generator)]
    contrast = 0.5 + 0.5 * torch.rand(count, 1, 1, 1, generator=generator)
    return (0.5 + contrast * (images - 0.5) + 0.15 * torch.randn(images.shape, generator=generator)).clamp(0, 1), labels


def stamped(images: Tensor) -> Tensor:
    images = images.clone()
    images[:, :, -2:, -2:] = 1
    return images


def as_set(images: Tensor, labels: Tensor, classes: int = 4) -> ImageSet:
    names = NAMES if classes == 4 else None
    return ImageSet(images.permute(0, 2, 3, 1).contiguous().numpy(), labels.numpy(), classes, classes=names)


def network(norm: bool = True) -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs) if norm else nn.Identity()]
        layers += [nn.ReLU(), nn.MaxPool2d(2)]
    layers[-1] = nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, 4))


@cache
def suspect() -> Classifier:
    """Return a backdoored classifier: all classes at nearly 100 %, and stamped images are called the target."""
    images, labels = samples(1200, seed=1)
    rows = torch.nonzero(labels != TARGET)[:120, 0]
    images[rows], labels[rows] = stamped(images[rows]), TARGET
    with torch.random.fork_rng():
        model = Classifier(network(), 4, mean=(0.5,), std=(0.25,))
    recipe = Recipe(epochs=8, batch_size=64, lr=0.05, augmentation=Augmentation())
    source = ShuffledBatches(Samples(as_set(images, labels), torch.device("cpu")), 64, Context(), Augmentation())
    train(model, source, recipe, Context())
    return model.eval()


def clean_set(*counts: int, classes: int = 4) -> ImageSet:
    """Return a clean set with so many samples of class 0, 1, …"""
    images, labels = samples(4 * max(counts), seed=3)
    rows = torch.cat([torch.nonzero(labels == label)[:count, 0] for label, count in enumerate(counts)])
    return as_set(images[rows], labels[rows], classes)


def accuracies(model: Classifier | None) -> list[float]:
    assert model is not None
    images, labels = samples(400, seed=2)
    right = model.predict(as_set(images, labels)).argmax(1) == labels.numpy()
    return [round(float(right[labels.numpy() == label].mean()), 2) for label in range(4)]


def asr(model: Classifier | None, *without: int) -> float:
    """Return the share of stamped images called the target, those of the classes *without* left out."""
    assert model is not None
    images, labels = samples(400, seed=2)
    rows = ~torch.isin(labels, torch.tensor([TARGET, *without]))
    return float((model.predict(as_set(stamped(images[rows]), labels[rows])).argmax(1) == TARGET).mean())


@cache
def repaired(*counts: int, **settings: Any) -> Outcome:
    """Run D3 with so many clean samples of each class."""
    return get_defense("d3")({**PLAIN, **settings}).run(Case(clean=clean_set(*counts), model=suspect()), Context())


def notes_on(outcome: Outcome) -> list[str]:
    return [note for note in outcome.notes if note.startswith("the reserved clean set holds")]


def head(model: Classifier | None) -> tuple[Tensor, Tensor]:
    """Return weight and bias of the last layer."""
    assert model is not None
    layer = model.module[-1]  # type: ignore[index]
    return layer.weight.detach(), layer.bias.detach()


class TestD3:
    def test_the_suspect_model_knows_all_classes_and_has_a_backdoor(self) -> None:
        assert min(accuracies(suspect())) >= 0.97 and asr(suspect()) >= 0.95

    def test_a_missing_class_is_forgotten_where_that_is_allowed(self) -> None:
        outcome = repaired(24, 24, 24, 0, missing_classes="allow")
        assert accuracies(outcome.model)[3] <= 0.05, "the former behaviour, and the reason for all of this"
        assert notes_on(outcome) == [
            "the reserved clean set holds no sample of class 3 (van). The repaired model forgets such classes"
        ]
        assert "protected" not in outcome.tables

    @pytest.mark.parametrize("counts", [(24, 24, 24, 0), (24, 24, 24, 1), (24, 24, 0, 0)])
    def test_a_missing_or_tiny_class_is_kept_and_the_backdoor_goes(self, counts: tuple[int, ...]) -> None:
        outcome = repaired(*counts)
        lacking = [label for label, count in enumerate(counts) if count < 2]
        assert min(accuracies(outcome.model)) >= 0.9
        assert asr(outcome.model, *lacking) <= 0.15
        (note,) = notes_on(outcome)
        assert "(van)" in note and ("only one sample" in note) == (counts[3] == 1)
        assert [row["class"] for row in outcome.tables["protected"]] == lacking
        assert all(row["dreamt"] == 24 and row["repaired"] >= 0.9 for row in outcome.tables["protected"])

    @pytest.mark.e2e
    def test_the_target_of_the_backdoor_may_be_the_class_that_is_missing(self) -> None:
        outcome = repaired(0, 24, 24, 24)
        assert accuracies(outcome.model)[TARGET] >= 0.8
        assert "a backdoor that has one of them as target: that one stays" in notes_on(outcome)[0]

    def test_rows_of_a_protected_class_stay_and_the_others_keep_their_norm(self) -> None:
        outcome = repaired(24, 24, 24, 0)
        (weight, bias), (new_weight, new_bias) = head(suspect()), head(outcome.model)
        (row,) = outcome.tables["protected"]
        assert torch.equal(new_weight[3], weight[3]) and row["bias_raised"] > 0
        assert float(new_bias[3] - bias[3]) == pytest.approx(row["bias_raised"], abs=1e-5)
        assert not torch.equal(new_bias[:3], bias[:3])
        norm = weight[:3].norm()
        assert float(new_weight[:3].norm() / norm) == pytest.approx(1, abs=1e-5)
        moved = float((new_weight[:3] - weight[:3]).norm() / norm)
        assert outcome.tables["distance_ratio"]["13.weight"] == pytest.approx(moved, rel=1e-4)

    def test_a_bias_is_raised_by_half_the_room_to_the_nearest_clean_sample(self) -> None:
        outcome, clean = repaired(24, 24, 24, 0), clean_set(24, 24, 24, 0)
        assert outcome.model is not None
        logits = outcome.model.predict(clean)
        nearest = float((logits[:, 3] - logits[:, :3].max(1)).max())
        assert nearest == pytest.approx(-outcome.tables["protected"][0]["bias_raised"], rel=1e-4), "as far again"
        assert (logits.argmax(1) == clean.labels).mean() >= 0.99

    def test_a_head_without_bias_is_left_as_it_is(self) -> None:
        with torch.random.fork_rng():
            module = network()
            module[-1] = nn.Linear(64, 4, bias=False)
        model = Classifier(module, 4).eval()
        outcome = get_defense("d3")(SHORT).run(Case(clean=clean_set(8, 8, 8, 0), model=model), Context(any_model=True))
        assert outcome.tables["protected"][0]["bias_raised"] == 0 and outcome.model is not None
        assert torch.equal(outcome.model.module[-1].weight[3], module[-1].weight[3])  # type: ignore[index]

    def test_where_no_class_is_missing_the_setting_changes_nothing(self) -> None:
        outcomes = [repaired(8, 8, 8, 2, epochs=2, missing_classes=how) for how in ("protect", "refuse", "allow")]
        assert not any(same_outcome(outcomes[0], each) for each in outcomes[1:])
        assert notes_on(outcomes[0]) == []
        given = {how: get_defense("d3")(missing_classes=how).settings.fingerprint() for how in ("protect", "allow")}
        assert get_defense("d3")().settings.fingerprint() == given["protect"] != given["allow"]

    @pytest.mark.e2e
    def test_protection_follows_the_seed(self) -> None:
        case = Case(clean=clean_set(8, 8, 8, 0), model=suspect())
        first, again, other = (get_defense("d3")(SHORT).run(case, Context(seed=seed)) for seed in (0, 0, 1))
        assert same_outcome(first, again) == [] and same_outcome(first, other)

    def test_uint8_images_and_a_choice_of_layers(self) -> None:
        clean = clean_set(8, 8, 8, 0)
        coarse = clean.replace(images=np.rint(255 * clean.read(slice(None))).astype(np.uint8))
        outcome = get_defense("d3")(SHORT, select="all").run(Case(clean=coarse, model=suspect()), Context())
        assert torch.equal(head(outcome.model)[0][3], head(suspect())[0][3])
        assert outcome.tables["protected"][0]["dreamt"] == 8

    def test_refusing_names_the_class_and_the_way_on(self) -> None:
        with pytest.raises(InputError, match="would forget classes") as caught:
            repaired(40, 1, 40, 0, missing_classes="refuse")
        assert caught.value.found == "no sample of class 3 (van) and only one sample of class 1 (car)"
        assert "missing_classes=allow" in caught.value.hint

    def test_one_class_alone_is_nothing_to_learn_from(self) -> None:
        with pytest.raises(InputError, match="would forget classes") as caught:
            repaired(40, 0, 0, 0)
        assert "clean samples of two other classes, not 1" in str(caught.value.found)

    def test_a_network_without_batch_norm_cannot_be_protected(self) -> None:
        with torch.random.fork_rng():
            case = Case(clean=clean_set(8, 8, 8, 0), model=Classifier(network(norm=False), 4).eval())
        with pytest.raises(InputError, match="would forget classes") as caught:
            get_defense("d3")(SHORT).run(case, Context(any_model=True))
        assert "without batch norm" in str(caught.value.found)
        assert get_defense("d3")(SHORT, missing_classes="allow").run(case, Context(any_model=True)).model is not None

    def test_a_class_that_the_model_alone_counts(self) -> None:
        """Five outputs for four classes, as a network made for another data set has them."""
        with torch.random.fork_rng():
            module = network()
            module[-1] = nn.Linear(64, 5)
            model = Classifier(module, 5).eval()
        clean = clean_set(8, 8, 8, 8, classes=5)
        suspects = as_set(*samples(40, seed=4), classes=5)
        known = get_defense("d3")(SHORT).run(Case(train=suspects, clean=clean, model=model), Context(any_model=True))
        assert notes_on(known) == [] and "protected" not in known.tables
        alone = get_defense("d3")(SHORT).run(Case(clean=clean, model=model), Context(any_model=True))
        assert "no sample of class 4" in notes_on(alone)[0] and alone.tables["protected"][0]["class"] == 4
        assert any("suspect model calls few of the images dreamt" in note for note in alone.notes) == (
            alone.tables["protected"][0]["received"] < 0.5
        )


def lacking_case() -> Case:
    """A case of four classes whose clean set has no sample of class 3, and one of class 2."""
    case = tiny_case()
    assert case.clean is not None
    rows = np.flatnonzero(case.clean.labels < 2)
    return dataclasses.replace(case, clean=case.clean.subset([*rows, np.flatnonzero(case.clean.labels == 2)[0]]))


FIT: dict[str, Any] = {"size": "tiny", "iterations": 2, "batch_size": 4}
ROUNDS: dict[str, Any] = {"rounds": 1, "steps": 2, "dense_below": 0}


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("confusion_training", {}, "not inspected"),
        ("dataelixir", {"fit": FIT}, "has not seen such images"),
        ("dataelixir", {"fit": FIT, "detection": {"mode": "excess"}}, "not judged"),
        ("dataelixir", {"denoiser": "x", "detection": {"mode": "mad"}}, None),
        ("eclipse", {"fit": FIT}, "has not seen such images"),
        ("eclipse", {"purify": False}, None),
        ("image_variations", {"backend": "sdedit", "fit": FIT}, "has not seen such images"),
        ("image_variations", {"backend": "sdedit", "denoiser": "x"}, "strength is chosen without"),
        ("image_variations", {"backend": "sdedit", "denoiser": "x", "strength": 0.3}, None),
        ("image_variations", {"student_data": "originals"}, None),
    ],
)
def test_every_defense_says_what_a_missing_class_means_to_it(
    name: str, settings: dict[str, Any], said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    cls = get_defense(name)
    monkeypatch.setattr(cls, "defend", lambda self, case, context: Outcome(scores=np.zeros(len(case.train))))
    notes = notes_on(cls(settings).run(lacking_case(), Context()))
    if said is None:
        assert notes == []
        return
    (note,) = notes
    assert "no sample of class 3 and only one sample of class 2." in note and said in note
    whole = cls(settings).run(tiny_case(), Context())
    assert notes_on(whole) == []


def test_a_defense_that_says_nothing_itself_gets_a_general_note() -> None:
    class Mine(Defense):
        name, kind, needs = "mine", "detect", frozenset({"train", "clean"})
        card = Card("Mine", "none", 2026, "", "", "")

        def defend(self, case: Case, context: Context) -> Outcome:
            assert case.train is not None
            return Outcome(scores=np.zeros(len(case.train)))

    class Unlearned(Mine):
        needs = frozenset({"train"})

    assert "does not hold for such classes" in notes_on(Mine().run(lacking_case()))[0]
    assert notes_on(Unlearned().run(lacking_case())) == []


def test_the_control_that_trains_on_the_clean_set_alone_says_which_classes_it_cannot_know() -> None:
    settings: dict[str, Any] = {"purify": False, "gray_p": 0, "noise_std": 0}
    plan = Retraining(epochs=1, architecture="small_resnet")
    for case, wanted in ((lacking_case(), 1), (tiny_case(), 0)):
        defense = get_defense("eclipse")(settings)
        outcome, evaluation = execute(defense, case, Context(), plan, controls=True)
        assert "clean_only" in evaluation.controls
        said = [note for note in outcome.notes if note.startswith("control clean_only")]
        assert len(said) == wanted and all("no sample of class 3" in note for note in said)

"""A model and a set that were read otherwise than they belong together are told apart from those that fit."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from elixir_plugin import get_defense
from elixir_plugin.api.functions import repair
from elixir_plugin.cli.app import program
from elixir_plugin.core.agreement import Agreement, measure_agreement
from elixir_plugin.core.case import Case
from elixir_plugin.core.classifier import Classifier
from elixir_plugin.core.context import Context
from elixir_plugin.core.images import ImageSet
from elixir_plugin.errors import InputError
from elixir_plugin.testing import tiny_case

CLASSES, SIZE = 12, 8
RNG = np.random.default_rng(0)
PATTERNS = RNG.integers(30, 226, (CLASSES, SIZE, SIZE, 3)).astype(np.float32)
TINTS = np.full((CLASSES, SIZE, SIZE, 3), 128, np.float32)  # classes that differ in how much red and blue they have
TINTS[..., 0] = np.linspace(40, 220, CLASSES)[:, None, None]
TINTS[..., 2] = np.linspace(40, 220, CLASSES)[RNG.permutation(CLASSES)][:, None, None]
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def samples(count: int = 240, seed: int = 1, templates: np.ndarray = PATTERNS) -> ImageSet:
    """Noisy copies of one template per class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    pixels = templates[labels] + rng.normal(0, 25, (count, SIZE, SIZE, 3))
    return ImageSet(np.clip(np.rint(pixels), 0, 255).astype(np.uint8), labels, CLASSES)


def model(
    mean: tuple[float, ...] = (0.0,),
    std: tuple[float, ...] = (1.0,),
    *,
    scale: float = 1.0,
    templates: np.ndarray = PATTERNS,
) -> nn.Module:
    """The nearest template as a linear layer, for pixels that were normalised with *mean* and *std*, times *scale*."""
    known = torch.from_numpy(templates / 255).permute(0, 3, 1, 2)
    shift, width = (torch.tensor(each).reshape(1, -1, 1, 1) for each in (mean, std))
    seen = ((known - shift) / width * scale).flatten(1)
    layer = nn.Linear(seen.shape[1], CLASSES)
    layer.weight.data, layer.bias.data = 2 * seen, -(seen**2).sum(1)
    return nn.Sequential(nn.Flatten(), layer)


def agreement(module: nn.Module, clean: ImageSet, **options: object) -> Agreement:
    found = measure_agreement(Case(clean=clean, model=Classifier(module, CLASSES, **options)))
    assert found is not None
    return found


def relabelled(order: list[int]) -> ImageSet:
    images = samples()
    return images.replace(labels=np.asarray(order)[images.labels])


def repainted(change: Callable[[np.ndarray], np.ndarray], templates: np.ndarray = PATTERNS) -> ImageSet:
    images = samples(templates=templates)
    return images.replace(images=np.ascontiguousarray(change(images.read(slice(None)))))


AS_TEXT = sorted(range(CLASSES), key=str)
TINTED = samples(templates=TINTS)
BGR = repainted(lambda each: each[..., ::-1], TINTS)
SHUFFLED = np.random.default_rng(5).permutation(CLASSES).tolist()


def test_a_model_that_fits_is_told_and_nothing_else_is_tried() -> None:
    found = agreement(model(), samples())
    assert found.agreed == 1.0 and not found.low and not found.unclear and found.readings == ()
    found.refuse()
    assert found.sentence() == (
        "the suspect model gives 100.0 % of 240 reserved clean samples their label (by chance: 8.3 %)"
    )


@pytest.mark.parametrize(
    ("module", "clean", "options", "reason"),
    [
        pytest.param(model(), relabelled(SHUFFLED), {}, "classes in another order", id="permuted"),
        pytest.param(model(), relabelled(AS_TEXT), {}, "numbers as text (0, 1, 10, 2, …)", id="model-as-text"),
        pytest.param(model(), relabelled(np.argsort(AS_TEXT).tolist()), {}, "numbers as text", id="set-as-text"),
        pytest.param(
            model(), relabelled([1, 0, *range(2, CLASSES - 2), 11, 10]), {}, "0 → 1, 1 → 0", id="four-swapped"
        ),
        pytest.param(model(), relabelled([*range(1, CLASSES), 0]), {}, "labels of the set one too", id="one-off"),
        pytest.param(model(templates=TINTS), BGR, {}, "blue before red", id="bgr"),
        pytest.param(
            model(), repainted(lambda each: each.transpose(0, 2, 1, 3)), {}, "rows and columns", id="transposed"
        ),
        pytest.param(model(), repainted(lambda each: 255 - each), {}, "dark and bright", id="negative"),
        pytest.param(model(**IMAGENET, templates=TINTS), TINTED, {}, "ImageNet's mean", id="normalisation-forgotten"),
        pytest.param(model(templates=TINTS), TINTED, IMAGENET, "without normalisation", id="normalised-for-nothing"),
        pytest.param(
            model((0.5,), (0.5,), templates=TINTS),
            TINTED,
            {"mean": (0.1307,), "std": (0.3081,)},
            "pixels in -1..1",
            id="another-normalisation",
        ),
        pytest.param(model(scale=255.0), samples(), {}, "pixels in 0..255", id="0-to-255"),
    ],
)
def test_a_case_that_was_read_otherwise_is_refused_with_the_reason(
    module: nn.Module, clean: ImageSet, options: dict[str, tuple[float, ...]], reason: str
) -> None:
    found = agreement(module, clean, **options)
    best = found.otherwise
    assert best is not None and reason in best.name and best.agreed > 0.95 and found.agreed < 0.8
    with pytest.raises(InputError, match="does not fit the reserved clean set") as caught:
        found.refuse()
    assert reason in str(caught.value) and "any_model" in str(caught.value)


def test_a_model_that_fits_in_no_reading_is_refused() -> None:
    found = agreement(Classifier.build("small_resnet", CLASSES, seed=3).module, samples())
    assert found.low and found.otherwise is None
    with pytest.raises(InputError, match="belong together"):
        found.refuse()


@pytest.mark.parametrize("wrong", [0.0, 0.3, 0.6])
def test_a_weak_model_is_not_refused(wrong: float) -> None:
    """A share of the labels is drawn anew: as if the model knew only the rest."""
    images, rng = samples(), np.random.default_rng(2)
    labels = np.where(rng.random(240) < wrong, rng.integers(0, CLASSES, 240), images.labels)
    found = agreement(model(), images.replace(labels=labels))
    assert found.agreed == pytest.approx(1 - wrong * (1 - 1 / CLASSES), abs=0.08)
    found.refuse()


def test_a_handful_of_samples_decides_nothing() -> None:
    found = agreement(Classifier.build("small_resnet", CLASSES, seed=3).module, samples(4))
    assert not found.low and found.unclear
    found.refuse()
    assert found.sentence().endswith("too few samples to tell whether the two belong together")


def test_clean_labels_that_are_all_the_same_say_nothing_and_the_suspect_set_is_looked_at() -> None:
    clean = samples(60).replace(labels=np.zeros(60, np.int64))
    found = measure_agreement(Case(train=samples(120), clean=clean, model=Classifier(model(), CLASSES)))
    assert found is not None and found.part == "train" and found.agreed == 1.0
    assert "120 suspect samples" in found.sentence()


def test_a_suspect_set_alone_is_refused_only_when_another_reading_fits() -> None:
    train = samples()
    fresh = Classifier.build("small_resnet", CLASSES, seed=3)
    found = measure_agreement(Case(train=train, model=fresh))
    assert found is not None and found.low
    found.refuse()
    assert found.sentence().endswith("or be read in another way than it was trained")
    turned = measure_agreement(Case(train=BGR, model=Classifier(model(templates=TINTS), CLASSES)))
    assert turned is not None
    with pytest.raises(InputError, match="does not fit the suspect set"):
        turned.refuse()


def test_a_model_spoilt_by_an_indiscriminate_poison_is_not_refused() -> None:
    """It fits the suspect set, and the clean set by chance: both were read rightly."""
    noise = np.random.default_rng(9).integers(0, 256, (240, SIZE, SIZE, 3), np.uint8)
    clean = ImageSet(noise, np.arange(240) % CLASSES, CLASSES)
    found = measure_agreement(Case(train=samples(), clean=clean, model=Classifier(model(), CLASSES)))
    assert found is not None and found.low and found.suspect == 1.0
    found.refuse()
    assert "100.0 % of the suspect samples" in found.sentence()


def test_nothing_is_said_without_a_model_or_without_samples() -> None:
    assert measure_agreement(Case(train=samples())) is None
    assert measure_agreement(Case(model=Classifier(model(), CLASSES))) is None


@pytest.mark.parametrize(
    "stats",
    [
        {"mean": (123.7, 116.3, 103.5), "std": (58.4, 57.1, 57.4)},
        {"mean": (0.5,), "std": (58.4,)},
        {"mean": (-0.5,), "std": (1.0,)},
        {"mean": (float("nan"),), "std": (1.0,)},
        {"mean": (0.5,), "std": (0.0,)},
    ],
)
def test_statistics_that_pixels_in_0_to_1_cannot_have_are_refused(stats: dict[str, tuple[float, ...]]) -> None:
    with pytest.raises(InputError, match=r"not those of pixels in \[0, 1\]"):
        Classifier(model(), CLASSES, **stats)


# in runs


def turned_case() -> Case:
    case = tiny_case()
    assert case.clean is not None
    order = np.array([1, 2, 3, 0])
    return dataclasses.replace(case, clean=case.clean.replace(labels=order[case.clean.labels]))


def test_every_outcome_begins_with_the_sentence() -> None:
    outcome = get_defense("d3")(epochs=1).run(tiny_case())
    assert outcome.notes[0].startswith("the suspect model gives 100.0 % of 48 reserved clean samples their label")


def test_a_defense_refuses_unless_told_otherwise() -> None:
    with pytest.raises(InputError, match="does not fit"):
        get_defense("d3")(epochs=1).run(turned_case())
    notes = get_defense("d3")(epochs=1).run(turned_case(), Context(any_model=True)).notes
    assert "0.0 % of 48" in notes[0] and "read otherwise (labels of the set one too high), 100.0 %" in notes[0]


def test_python_has_the_same_way_out() -> None:
    case = turned_case()
    with pytest.raises(InputError, match="any_model goes on all the same"):
        repair(case.model, case.clean, epochs=1)
    assert repair(case.model, case.clean, epochs=1, any_model=True).model is not None


def test_the_command_stops_before_anything_is_written_and_goes_on_when_told(tmp_path: Path) -> None:
    case = turned_case()
    assert case.clean is not None and case.model is not None and case.train is not None
    np.savez(
        tmp_path / "case.npz",
        x_train=case.train.read(slice(None)),
        y_train=case.train.labels,
        x_clean=case.clean.read(slice(None)),
        y_clean=case.clean.labels,
    )
    case.model.save(tmp_path / "model")
    words = ["run", "d3", "--from", f"arrays:{tmp_path}/case.npz", "-o", f"model={tmp_path}/model", "-s", "epochs=1"]
    words += ["--out", str(tmp_path / "out")]
    for more in ([], ["--dry-run"]):
        stopped = CliRunner().invoke(program, [*words, *more])
        assert stopped.exit_code == 1 and "--any-model goes on all the same" in stopped.output
        assert not (tmp_path / "out").exists()
    done = CliRunner().invoke(program, [*words, "--any-model", "-q"])
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert "0.0 % of 48" in report["notes"][0] and "--any-model" in report["command"]

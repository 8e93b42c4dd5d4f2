"""Image variations with an oracle for a generator: minutes on one core.

The data, network and poison of the toy of D3. The oracle draws a new image of the true class; a share of the poison
samples keeps its trigger (residual), a share of all samples gets the content of a random class (drift). Labels stay
poisoned. So the losses are tested apart from any generator.
"""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from elixir_plugin.core.case import Case, TriggeredSet
from elixir_plugin.core.classifier.classifier import Classifier
from elixir_plugin.core.context import Context
from elixir_plugin.core.images import ImageSet
from elixir_plugin.core.metrics import ModelMetrics
from elixir_plugin.defenses.image_variations.defense import ImageVariations
from elixir_plugin.defenses.image_variations.generator import LoadedGenerator
from elixir_plugin.evaluation.metrics import model_metrics

sys.path.insert(0, str(Path(__file__).parent))
import test_d3_toy as toy

pytestmark = pytest.mark.slow

RECIPE: dict[str, Any] = {
    "epochs": 12,
    "lr": 1e-3,
    "batch_size": 128,
    "drops": (0.5, 0.8),
    "augmentation": {"flip": False},
}
LOSSES: dict[str, dict[str, Any]] = {
    "code": {},
    "hard labels": {"distill": False},
    "textbook": {"ce_temperature": 1},
    "pure kd": {"alpha": 1},
}


class Oracle:
    """Knows the true class of every image; finds an image by its pixels.

    :param images: uint8 ``[N, 3, H, W]``, as it will be shown them.
    :param answers: uint8, what it gives for each.
    """

    def __init__(self, images: Tensor, answers: Tensor) -> None:
        self._answers = {image.numpy().tobytes(): answer for image, answer in zip(images, answers, strict=True)}

    def vary(self, images: Tensor, seeds: Tensor) -> Tensor:
        return torch.stack([self._answers[image.numpy().tobytes()] for image in images])

    def fingerprint(self) -> str:
        return "oracle"


class WithOracle(ImageVariations):
    oracle: Oracle

    def refuse_no_generator(self, case: Case) -> None:
        pass

    def prepare_generator(self, case: Case, context: Context) -> LoadedGenerator:
        return LoadedGenerator("oracle", self.oracle, {"backend": "oracle"})


def levels(images: Tensor) -> Tensor:
    return (images * 255).round().to(torch.uint8)


def as_set(images: Tensor, labels: Tensor) -> ImageSet:
    pixels = levels(images).permute(0, 2, 3, 1).contiguous().numpy()
    return ImageSet(pixels, labels.numpy(), toy.CLASSES)


@cache
def poisoned(trigger: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return suspect images and labels, the true labels, and which are poison."""
    images, truth = toy.samples(toy.TRAIN, seed=1)
    labels = truth.clone()
    generator = torch.Generator().manual_seed(11)
    others = torch.nonzero(labels != toy.TARGET)[:, 0]
    rows = others[torch.randperm(len(others), generator=generator)[: toy.TRAIN // 10]]
    images[rows], labels[rows] = toy.TRIGGERS[trigger](images[rows]), toy.TARGET
    poison = torch.zeros(len(labels), dtype=torch.bool)
    poison[rows] = True
    return images, labels, truth, poison


def draws_of(classes: Tensor, seed: int) -> Tensor:
    """Return a new image of each of *classes*."""
    pool, labels = toy.samples(4 * len(classes), seed)
    out = torch.empty(len(classes), *pool.shape[1:])
    for label in range(toy.CLASSES):
        wanted = torch.nonzero(classes == label)[:, 0]
        out[wanted] = pool[torch.nonzero(labels == label)[:, 0][: len(wanted)]]
    return out


@cache
def teacher_case(trigger: str) -> Case:
    images, labels, _, _ = poisoned(trigger)
    with torch.random.fork_rng():
        model = Classifier(toy.network(), toy.CLASSES, mean=(0.5,), std=(0.25,))
    toy.fit(model, images, labels)
    return Case(train=as_set(images, labels), model=model.eval())


def scored(model: Classifier, trigger: str) -> ModelMetrics:
    test, truth = toy.samples(toy.TEST, seed=2)
    others = truth != toy.TARGET
    triggered = toy.TRIGGERS[trigger](test[others])
    wanted = as_set(triggered, torch.full((len(triggered),), toy.TARGET))
    return model_metrics(model, as_set(test, truth), TriggeredSet(wanted, truth[others].numpy().astype(np.int64)))


@cache
def student(trigger: str, loss: str = "code", residual: float = 0.0, drift: float = 0.0) -> tuple[float, float]:
    """Return ACC and ASR, in percent, of a student; print the row."""
    images, _, truth, poison = poisoned(trigger)
    generator = torch.Generator().manual_seed(21)
    drifted = torch.rand(len(truth), generator=generator) < drift
    content = torch.where(drifted, torch.randint(toy.CLASSES, truth.shape, generator=generator), truth)
    answers = draws_of(content, seed=31)
    kept = poison & (torch.rand(len(truth), generator=generator) < residual)
    answers[kept] = toy.TRIGGERS[trigger](answers[kept])
    defense = WithOracle({"recipe": RECIPE, "color_transfer": False, **LOSSES[loss]})
    defense.oracle = Oracle(levels(images), levels(answers))
    outcome = defense.run(teacher_case(trigger), Context())
    assert outcome.model is not None
    result = scored(outcome.model, trigger)
    assert result.acc is not None and result.asr is not None
    row = 100 * result.acc, 100 * result.asr
    print(f"{trigger:6} r {residual:.2f} s {drift:.1f} {loss:12} ACC {row[0]:5.1f}  ASR {row[1]:5.1f}")
    return row


@pytest.mark.parametrize(("trigger", "asr"), [("patch", 90), ("blend", 80)])
def test_the_teacher_is_accurate_and_backdoored(trigger: str, asr: float) -> None:
    model = teacher_case(trigger).model
    assert model is not None
    result = scored(model, trigger)
    assert result.acc is not None and result.acc >= 0.98 and result.asr is not None and 100 * result.asr >= asr


@pytest.mark.parametrize(("trigger", "limit"), [("patch", 1), ("blend", 8)])
def test_a_student_on_clean_variations_has_no_backdoor(trigger: str, limit: float) -> None:
    acc, asr = student(trigger)
    assert acc >= 99 and asr <= limit


def test_a_generator_that_keeps_triggers_passes_the_backdoor_on() -> None:
    """The negative control: the generator is the defense, the loss is not."""
    assert student("patch", residual=1.0)[1] >= 90


def test_distillation_repairs_drift() -> None:
    assert student("patch", drift=0.3)[0] >= student("patch", "hard labels", drift=0.3)[0] + 1


def test_the_oracle_draws_of_the_true_class() -> None:
    """A check of this file: a network trained on clean data recognises the new draws."""
    images, _, truth, _ = poisoned("patch")
    assert np.unique([image.numpy().tobytes() for image in levels(images)[:500]]).shape == (500,)
    draws = draws_of(truth, seed=31)
    model = teacher_case("patch").model
    assert model is not None
    predicted = model.predict(as_set(draws, truth)).argmax(1)
    assert (predicted == truth.numpy()).mean() > 0.97

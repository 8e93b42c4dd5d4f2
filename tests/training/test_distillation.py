"""The distillation objective: its losses, gradients, and logits known beforehand."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from elixir_plugin.core.augmentation import Augmentation
from elixir_plugin.core.classifier.classifier import Classifier
from elixir_plugin.core.context import Context
from elixir_plugin.testing.defenses import tiny_case
from elixir_plugin.training.batches import Batch, Samples, ShuffledBatches
from elixir_plugin.training.distillation import (
    can_look_up,
    distillation,
    distillation_losses,
    known_logits,
    looked_up,
    mirrored,
    online,
)
from elixir_plugin.training.loop import Recipe, train

CODE: dict[str, Any] = {"temperature": 10.0, "alpha": 0.5, "ce_temperature": 10.0}


def draws(seed: int, scale: float = 3.0) -> torch.Tensor:
    return scale * torch.randn(6, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


LABELS = torch.tensor([0, 1, 2, 3, 0, 1])


def test_equal_logits_cost_nothing_without_hard_labels() -> None:
    same = draws(0)
    losses = distillation_losses(same, same, LABELS, temperature=7, alpha=1, ce_temperature=1)
    assert float(losses["loss"]) == pytest.approx(0, abs=1e-12)


def test_a_constant_added_to_all_logits_changes_nothing() -> None:
    plain = distillation_losses(draws(0), draws(1), LABELS, **CODE)
    moved = distillation_losses(draws(0) + 5, draws(1) - 3, LABELS, **CODE)
    for name, value in plain.items():
        assert float(moved[name]) == pytest.approx(float(value), abs=1e-10)


def test_without_the_teacher_it_is_cross_entropy() -> None:
    losses = distillation_losses(draws(0), draws(1), LABELS, temperature=10, alpha=0, ce_temperature=1)
    assert float(losses["loss"]) == pytest.approx(float(F.cross_entropy(draws(0), LABELS)), abs=1e-12)


def test_the_terms_are_those_of_the_definition() -> None:
    losses = distillation_losses(draws(0), draws(1), LABELS, **CODE)
    p, q = (draws(1) / 10).softmax(1), (draws(0) / 10).softmax(1)
    kd = 100 * (p * (p / q).log()).sum(1).mean()
    ce = -q.log()[torch.arange(6), LABELS].mean()
    assert float(losses["kd"]) == pytest.approx(float(kd), abs=1e-10)
    assert float(losses["ce"]) == pytest.approx(float(ce), abs=1e-10)
    assert float(losses["loss"]) == pytest.approx(float((kd + ce) / 2), abs=1e-10)


@pytest.mark.parametrize(("alpha", "hard"), [(0.5, 10.0), (0.3, 1.0), (1.0, 1.0), (0.0, 10.0)])
def test_the_gradient_is_that_of_the_formulas(alpha: float, hard: float) -> None:
    student = draws(0).requires_grad_()
    losses = distillation_losses(student, draws(1), LABELS, temperature=10, alpha=alpha, ce_temperature=hard)
    (gradient,) = torch.autograd.grad(losses["loss"], student)
    p, q = (draws(1) / 10).softmax(1), (draws(0) / 10).softmax(1)
    wanted = alpha * 10 * (q - p) + (1 - alpha) * ((draws(0) / hard).softmax(1) - F.one_hot(LABELS, 4)) / hard
    assert float((gradient - wanted / 6).abs().max()) < 1e-6


def test_huge_logits_stay_finite() -> None:
    student = torch.tensor([[1e3, -1e3, 0.0]], requires_grad=True)
    losses = distillation_losses(student, torch.tensor([[-1e3, 1e3, 0.0]]), torch.tensor([1]), **CODE)
    (gradient,) = torch.autograd.grad(losses["loss"], student)
    assert all(bool(value.isfinite()) for value in losses.values()) and bool(gradient.isfinite().all())


def test_labels_that_the_teacher_contradicts_can_be_left_out() -> None:
    agreeing = torch.tensor([True, False, True, False, False, True])
    losses = distillation_losses(draws(0), draws(1), LABELS, **CODE, agreeing=agreeing)
    each = F.cross_entropy(draws(0) / 10, LABELS, reduction="none")
    assert float(losses["ce"]) == pytest.approx(float(each[agreeing].sum() / 6), abs=1e-12)
    teacher = F.one_hot(LABELS.flip(0), 4).double()
    batch = Batch(torch.zeros(6, 4), LABELS, torch.arange(6))
    objective = distillation(lambda _: teacher, **CODE, drop_disagreeing=True)
    found = objective(nn.Identity(), batch)
    wanted = (LABELS.flip(0) == LABELS).double().mean() * np.log(4)
    assert float(found["ce"]) == pytest.approx(float(wanted), abs=1e-6)


def models(size: int = 8) -> tuple[Classifier, Classifier]:
    teacher, student = (Classifier.build("fast_resnet", 4, seed=seed) for seed in (1, 2))
    with torch.no_grad():
        for _ in range(3):  # batch norm gets statistics
            teacher.train()(torch.rand(16, 3, size, size, generator=torch.Generator().manual_seed(0)))
    return teacher.eval().requires_grad_(False), student


def curves(answers: Any, student: Classifier, augmentation: Augmentation) -> dict[str, list[float]]:
    images, context = tiny_case().train, Context(seed=3)
    assert images is not None
    source = ShuffledBatches(Samples(images, context.device), 32, context, augmentation)
    recipe = Recipe(epochs=2, batch_size=32, optimizer="adam", lr=1e-3)
    return train(student, source, recipe, context, objective=distillation(answers, **CODE))


def test_answers_looked_up_give_the_losses_of_answers_asked_for() -> None:
    images = tiny_case().train
    assert images is not None
    teacher, student = models()
    flips = Augmentation(flip=True)
    asked = curves(online(teacher), student.clone(), flips)
    found = curves(looked_up(known_logits(teacher, images, mirror=True)), student.clone(), flips)
    np.testing.assert_allclose(found["loss"], asked["loss"], rtol=0, atol=1e-6)
    other = curves(looked_up(known_logits(teacher, images, mirror=False)), student.clone(), flips)
    assert max(abs(a - b) for a, b in zip(other["kd"], asked["kd"], strict=True)) > 1e-6


def test_the_teacher_stays_as_it_was() -> None:
    teacher, student = models()
    before = copy.deepcopy(teacher.state_dict())
    curves(online(teacher), student, Augmentation(flip=True))
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert all(each.grad is None for each in teacher.parameters()) and not teacher.training


@pytest.mark.parametrize(
    ("augmentation", "exact"),
    [
        (Augmentation(), True),
        (Augmentation(flip=True), True),
        (Augmentation(flip=True, crop=1), False),
        (Augmentation(noise=0.1), False),
    ],
)
def test_answers_are_looked_up_only_where_that_is_exact(augmentation: Augmentation, exact: bool) -> None:
    assert can_look_up(augmentation) == exact


def test_mirror_images_are_mirrored_left_to_right() -> None:
    images = tiny_case().train
    assert images is not None
    flipped = mirrored(images)
    assert (flipped.read(slice(3, 5)) == images.read(slice(3, 5))[:, :, ::-1]).all()
    assert (flipped.read(np.array([7])) == images.read(np.array([7]))[:, :, ::-1]).all()

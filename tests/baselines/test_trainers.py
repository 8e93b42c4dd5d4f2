"""Baselines that train on the reserved clean set: which weights move, which do not, and by which recipe."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from elixir_plugin.baselines.finetune import FinetuneSettings
from elixir_plugin.core.augmentation import Augmentation
from elixir_plugin.core.case import Case
from elixir_plugin.core.classifier.classifier import Classifier
from elixir_plugin.core.context import Context
from elixir_plugin.core.outcome import Outcome
from elixir_plugin.defense import get_defense
from elixir_plugin.errors import InputError, SettingsError
from elixir_plugin.evaluation.metrics import model_metrics
from elixir_plugin.evaluation.retraining import Retraining, run_control
from elixir_plugin.testing import tiny_case


def weights(model: Classifier | None) -> dict[str, Tensor]:
    assert model is not None
    return {name: value.detach().clone() for name, value in model.module.state_dict().items()}


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


class Plain(nn.Module):
    """A network without a name and without batch norm, whose head is not its last attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.classify = nn.Linear(12, 4)
        self.body = nn.Sequential(nn.Conv2d(3, 12, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.classify(self.body(images))
        return out


def with_model(model: Classifier) -> Case:
    return dataclasses.replace(tiny_case(), model=model.eval())


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize(
    ("model", "head"),
    [
        (lambda: Classifier.build("small_resnet", 4, seed=1), None),
        (lambda: Classifier.build("narrow_resnet18", 4, seed=1), None),
        (lambda: Classifier(Plain(), 4), "classify"),
    ],
)
def test_a_random_head_moves_the_head_alone(model: object, head: str | None, frozen: bool) -> None:
    assert callable(model)
    case = with_model(model().requires_grad_(not frozen))
    before = weights(case.model)
    outcome = get_defense("random_head")(epochs=1).run(case, Context(any_model=True))
    name = outcome.tables["head"]
    assert moved(before, weights(outcome.model)) == {f"{name}.weight", f"{name}.bias"}
    assert head is None or name == head


def test_a_random_head_is_drawn_by_the_seed_and_fitted() -> None:
    case = tiny_case()
    heads = []
    for seed in (0, 0, 1):
        outcome = get_defense("random_head")(epochs=1, lr=1e-12).run(case, Context(seed=seed))
        heads.append(weights(outcome.model)[f"{outcome.tables['head']}.weight"])
    assert torch.equal(heads[0], heads[1]) and not torch.allclose(heads[0], heads[2])
    bound = heads[0].shape[1] ** -0.5  # uniform, as torch draws a linear layer
    assert heads[0].abs().max() <= bound + 1e-6 and heads[0].std() > bound / 3
    fitted = get_defense("random_head")(epochs=20, lr=0.1).run(case, Context())
    accuracies = fitted.curves["accuracy"]
    assert len(accuracies) == 20 and accuracies[-1] > accuracies[0]


def test_a_model_without_a_head_is_refused() -> None:
    class Headless(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(4))

        def forward(self, images: Tensor) -> Tensor:
            return images.mean((1, 2, 3))[:, None] * self.scale

    with pytest.raises(InputError, match="no classification layer"):
        get_defense("random_head")(epochs=1).run(with_model(Classifier(Headless(), 4)), Context(any_model=True))


@pytest.mark.parametrize("frozen", [False, True])
def test_fine_tuning_moves_every_weight(frozen: bool) -> None:
    case = tiny_case()
    assert case.model is not None
    case.model.requires_grad_(not frozen)
    outcome = get_defense("finetune")(epochs=1).run(case, Context())
    names = {name for name, _ in case.model.module.named_parameters()}
    assert names <= moved(weights(case.model), weights(outcome.model))


def test_fine_tuning_lowers_the_loss_on_the_clean_set() -> None:
    losses = get_defense("finetune")(epochs=8).run(tiny_case(), Context()).curves["loss"]
    assert len(losses) == 8 and losses[-1] < losses[0]


def test_the_defaults_are_those_of_backdoorbench() -> None:
    recipe = FinetuneSettings().recipe(2500)
    assert (recipe.epochs, recipe.batch_size, recipe.lr, recipe.schedule) == (100, 256, 0.01, "cosine")
    assert (recipe.optimizer, recipe.momentum, recipe.weight_decay, recipe.nesterov) == ("sgd", 0.9, 5e-4, False)
    assert recipe.augmentation == Augmentation(crop=4, flip="auto")


@pytest.mark.parametrize(("count", "size"), [(50, 32), (400, 50), (2048, 256), (10_000, 256)])
def test_small_clean_sets_have_as_many_steps_as_for_d3(count: int, size: int) -> None:
    assert FinetuneSettings().recipe(count).batch_size == size
    assert FinetuneSettings(batch_size=7).recipe(count).batch_size == 7


@pytest.mark.parametrize("name", ["finetune", "random_head", "train_on_clean_only", "d3"])
def test_clean_images_that_are_scored_are_refused(name: str) -> None:
    case = tiny_case()
    with pytest.raises(InputError, match="overlaps the test set"):
        get_defense(name)(epochs=1).refuse(dataclasses.replace(case, clean=case.test))


# train_on_clean_only

PLAN = {"epochs": 1, "architecture": "fast_resnet"}


def test_it_is_the_control_of_that_name() -> None:
    case = tiny_case()
    trained = get_defense("train_on_clean_only")(**PLAN).run(case, Context(seed=2)).model
    assert trained is not None
    control = run_control("clean_only", case, Outcome(), Retraining(**PLAN), Context(seed=2))
    assert model_metrics(trained, case.test, case.test_poisoned) == control


def test_no_suspect_image_has_a_say() -> None:
    case = tiny_case()
    assert case.train is not None
    inverted = case.train.replace(images=255 - case.train.read(slice(None)), labels=case.train.labels[::-1])
    other = dataclasses.replace(case, train=inverted, truth=None, model=None)
    here = dataclasses.replace(case, model=None)
    models = [get_defense("train_on_clean_only")(**PLAN, augmentation={"flip": False}).run(each, Context()).model
              for each in (here, other)]  # fmt: skip
    assert moved(weights(models[0]), weights(models[1])) == set()


def test_nothing_of_the_suspect_set_is_kept() -> None:
    outcome = get_defense("train_on_clean_only")(**PLAN).run(tiny_case(), Context())
    assert outcome.kept is not None and outcome.kept.dtype == np.int64 and not len(outcome.kept)
    assert outcome.train is None and outcome.flagged is None


def test_a_network_without_a_name_is_drawn_anew() -> None:
    case = with_model(Classifier(Plain(), 4, mean=0.4, std=0.2))
    before = weights(case.model)
    model = get_defense("train_on_clean_only")(epochs=1).run(case, Context(any_model=True)).model
    assert model is not None and isinstance(model.module, Plain) and moved(before, weights(model)) == set(before)
    assert moved(before, weights(case.model)) == set() and model.mean.flatten().tolist() == pytest.approx([0.4])


def test_an_unknown_network_is_refused() -> None:
    with pytest.raises(SettingsError, match="unknown architecture"):
        get_defense("train_on_clean_only")(architecture="no_such_net").refuse(tiny_case())

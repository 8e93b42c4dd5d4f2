"""A hook that ends a training before the recipe's epochs are over."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from elixir_plugin.core.augmentation import Augmentation
from elixir_plugin.core.context import Context
from elixir_plugin.core.images import ImageSet
from elixir_plugin.training.batches import Samples, ShuffledBatches
from elixir_plugin.training.checkpoint import Checkpoint
from elixir_plugin.training.loop import Recipe, train

EPOCHS = 6


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
        )


def fit(model: nn.Module, epochs: int = EPOCHS, schedule: str = "constant", **options: Any) -> dict[str, list[float]]:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 6, 6, 3), np.uint8)
    samples = Samples(ImageSet(pixels, np.arange(12) % 3, 3), torch.device("cpu"))
    source = ShuffledBatches(samples, 4, Context(), Augmentation(crop=1))
    recipe = Recipe(epochs=epochs, batch_size=4, lr=0.05, schedule=schedule)  # type: ignore[arg-type]
    return train(model, source, recipe, Context(), **options)


def weights(model: nn.Module) -> list[Tensor]:
    return [value.clone() for value in model.state_dict().values()]


def equal(first: nn.Module, second: nn.Module) -> bool:
    return all(map(torch.equal, weights(first), weights(second)))


@pytest.mark.parametrize("last", [0, 1, 4, EPOCHS - 1])
def test_it_ends_after_the_epoch_that_the_hook_names(last: int) -> None:
    ended, whole, seen = network(), network(), []
    curves = fit(ended, until=lambda epoch: epoch == last, on_epoch=seen.append)
    assert curves == fit(whole, epochs=last + 1) and len(curves["loss"]) == last + 1
    assert equal(ended, whole) and seen == list(range(last + 1)) and not ended.training


def test_a_hook_that_never_says_so_changes_nothing() -> None:
    asked: list[int] = []
    ended, whole = network(), network()
    assert fit(ended, until=lambda epoch: bool(asked.append(epoch))) == fit(whole) and equal(ended, whole)
    assert asked == list(range(EPOCHS - 1)), "after the last epoch there is nothing to end"


def test_the_schedule_is_laid_out_for_all_epochs() -> None:
    """Ended halfway, a cosine has not fallen to zero."""
    ended, short = network(), network()
    fit(ended, schedule="cosine", until=lambda epoch: epoch == 2)
    fit(short, schedule="cosine", epochs=3)
    assert not equal(ended, short)


def test_it_sees_what_the_hooks_of_steps_and_epochs_have_changed() -> None:
    counted: list[str] = []
    fit(
        network(),
        after_step=lambda: counted.append("step"),
        on_epoch=lambda _: counted.append("epoch"),
        until=lambda _: counted.count("step") >= 5 and counted[-1] == "epoch",
    )
    assert counted.count("step") == 6 and counted.count("epoch") == 2


class Killed(Exception):
    pass


def stop_where_the_counter_says(counter: Tensor, killed_at: int | None = None) -> Callable[[int], bool]:
    """Return a hook that counts its calls and ends the training at the fourth one."""

    def until(epoch: int) -> bool:
        counter.add_(1)
        if epoch == killed_at:
            raise Killed
        return int(counter) == 4

    return until


@pytest.mark.parametrize("killed_at", [1, 2, 3])
def test_a_killed_training_ends_where_one_that_was_not_killed_does(tmp_path: Path, killed_at: int) -> None:
    model, whole = network(), network()
    expected = fit(whole, until=stop_where_the_counter_says(torch.tensor(0)))

    def kept(counter: Tensor) -> Checkpoint:
        return Checkpoint(tmp_path / "state", extra={"counter": counter}, every=0)

    counter = torch.tensor(0)
    with pytest.raises(Killed):
        fit(model, until=stop_where_the_counter_says(counter, killed_at), checkpoint=kept(counter))
    again, counter = network(), torch.tensor(0)
    curves = fit(again, until=stop_where_the_counter_says(counter), checkpoint=kept(counter))
    assert curves == expected and len(curves["loss"]) == 4 and equal(again, whole) and int(counter) == 4


def test_what_was_ended_stays_ended(tmp_path: Path) -> None:
    model, again = network(), network()
    curves = fit(model, until=lambda epoch: epoch == 1, checkpoint=Checkpoint(tmp_path / "state"))

    def refuse(epoch: int) -> bool:
        raise AssertionError(f"trained on, epoch {epoch}")

    assert fit(again, until=refuse, checkpoint=Checkpoint(tmp_path / "state")) == curves
    assert equal(again, model) and len(curves["loss"]) == 2

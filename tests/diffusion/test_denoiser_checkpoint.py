"""Training that is killed and goes on: bit-identical to training that was not, whatever the network and optimiser."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from elixir_plugin.core.augmentation import Augmentation
from elixir_plugin.core.context import Context
from elixir_plugin.core.images import ImageSet
from elixir_plugin.errors import ElixirError, InputError, RunError
from elixir_plugin.training import checkpoint as module
from elixir_plugin.training.batches import Batch, Samples, ShuffledBatches
from elixir_plugin.training.checkpoint import Checkpoint, TrainingState
from elixir_plugin.training.loop import Recipe, make_optimizer, make_schedule, train


class Killed(Exception):
    """Stands for SIGKILL."""


class Fragile:
    """Batches that stop in the middle of an epoch."""

    def __init__(self, source: ShuffledBatches, fails_in: int | None) -> None:
        self.steps, self._source, self._fails_in = source.steps, source, fails_in

    def epoch(self, number: int) -> Iterator[Batch]:
        for step, batch in enumerate(self._source.epoch(number)):
            if number == self._fails_in and step == 1:
                raise Killed
            yield batch


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4, 3),
        )


def source(fails_in: int | None = None, seed: int = 0) -> Fragile:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 6, 6, 3), np.uint8)
    samples = Samples(ImageSet(pixels, np.arange(12) % 3, 3), torch.device("cpu"))
    return Fragile(ShuffledBatches(samples, 4, Context(seed), Augmentation(crop=1, flip=True)), fails_in)


RECIPE = {"epochs": 4, "lr": 0.05, "schedule": "cosine"}


def fit(
    path: Path | None,
    fails_in: int | None = None,
    *,
    extra: Tensor | None = None,
    seed: int = 0,
    every: float = 0,
    identity: Any = None,
    **recipe: Any,
) -> tuple[dict[str, Tensor], dict[str, list[float]]]:
    model = network()
    counter = torch.zeros(2) if extra is None else extra
    kept = None if path is None else Checkpoint(path, identity or {"data": 1}, {"counter": counter}, every)
    curves = train(
        model,
        source(fails_in, seed),
        Recipe(**{**RECIPE, **recipe}),
        Context(seed),
        after_step=lambda: counter.add_(1),  # type: ignore[arg-type, return-value]
        checkpoint=kept,
    )
    return {**model.state_dict(), "counter": counter}, curves


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("channels_last", [True, False])
def test_a_run_killed_twice_ends_bit_identical(optimizer: str, channels_last: bool, tmp_path: Path) -> None:
    options = {"optimizer": optimizer, "channels_last": channels_last}
    expected, curves = fit(None, **options)
    for fails_in in (1, 3):
        with pytest.raises(Killed):
            fit(tmp_path / "state", fails_in, **options)
    found, again = fit(tmp_path / "state", **options)
    assert same(expected, found) and again == curves
    assert found["counter"].tolist() == [12, 12]


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    expected, curves = fit(tmp_path / "state")
    found, again = fit(tmp_path / "state", fails_in=0)
    assert same(expected, found) and again == curves


def test_a_checkpoint_changes_no_result(tmp_path: Path) -> None:
    assert same(fit(None)[0], fit(tmp_path / "state")[0])


def test_the_state_is_written_no_more_often_than_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Path] = []
    write = module.write_state

    def noting(path: Path, *rest: Any) -> None:
        written.append(path)
        write(path, *rest)

    monkeypatch.setattr(module, "write_state", noting)
    fit(tmp_path / "a", every=3600)
    assert len(written) == 1  # the last epoch
    fit(tmp_path / "b", every=0)
    assert len(written) == 5


@pytest.mark.parametrize(("takes", "written_after"), [(1.0, [3, 6, 8]), (5.0, [3, 8]), (10.0, [3, 8])])
def test_a_state_that_takes_long_to_write_is_written_less_often(
    takes: float, written_after: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Epochs of 12 s, and a state at most every 30 s, or 20 times what writing it takes."""
    now, done = 0.0, 0
    found: list[int] = []

    def written(*_: Any) -> None:
        nonlocal now
        now += takes
        found.append(done)

    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    monkeypatch.setattr(module, "write_state", written)
    model = network()
    optimizer = make_optimizer(model, Recipe())
    state = TrainingState(Checkpoint(tmp_path / "state"), {}, model, optimizer, make_schedule(optimizer, Recipe()))
    for done in range(1, 9):
        now += 12
        state.save(done, {}, last=done == 8)
    assert found == written_after


@pytest.mark.parametrize(
    "change", [{"lr": 0.1}, {"epochs": 5}, {"seed": 1}, {"identity": {"data": 2}}, {"extra": torch.zeros(3)}]
)
def test_the_state_of_another_run_is_refused_and_left_alone(change: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(Killed):
        fit(tmp_path / "state", fails_in=2)
    before = (tmp_path / "state").read_bytes()
    with pytest.raises(RunError, match="another run"):
        fit(tmp_path / "state", **change)
    assert (tmp_path / "state").read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"nonsense", None])
def test_a_damaged_state_is_named(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "state"
    fit(path)
    path.write_bytes(path.read_bytes()[:-10] if content is None else content)
    with pytest.raises(InputError, match="cannot be read") as caught:
        fit(path)
    assert str(path) in str(caught.value) and "remove the file" in str(caught.value)


def test_a_full_disk_keeps_the_state_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, _ = fit(None)
    with pytest.raises(Killed):
        fit(tmp_path / "state", fails_in=2)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module, "save", full)
        with pytest.raises(RunError, match="cannot write"):
            fit(tmp_path / "state")
    assert [path.name for path in tmp_path.iterdir()] == ["state"]
    assert same(expected, fit(tmp_path / "state")[0])


def test_the_file_holds_no_pickle(tmp_path: Path) -> None:
    fit(tmp_path / "state")
    tensors, facts = module.read_state(tmp_path / "state")
    assert facts["done"] == 4 and {name.split("/")[0] for name in tensors} == {"model", "optimizer", "extra"}
    assert Checkpoint(tmp_path / "state").discard() is None
    assert list(tmp_path.iterdir()) == []
    Checkpoint(tmp_path / "state").discard()
    assert issubclass(RunError, ElixirError)


def test_tied_weights_are_written_under_both_names(tmp_path: Path) -> None:
    layer = nn.Linear(2, 2)
    state = nn.Sequential(layer, layer).state_dict()
    module.write_state(tmp_path / "state", state, {"facts": "{}"})
    assert same(state, module.read_state(tmp_path / "state")[0])


def test_dropout_differs_between_epochs_and_follows_the_seed() -> None:
    drawn: list[Tensor] = []

    def look(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        drawn.append(torch.rand(4))
        return {"loss": model(batch.images).square().mean()}

    for seed in (0, 0, 1):
        train(network(), source(seed=seed), Recipe(epochs=2), Context(seed), objective=look)
    draws = torch.stack(drawn)
    assert torch.equal(draws[:6], draws[6:12]) and len(torch.unique(draws, dim=0)) == 12

"""Measuring what parts of a run cost, under a clock that the test turns."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from elixir_plugin.core.classifier.classifier import Classifier
from elixir_plugin.core.context import Context
from elixir_plugin.core.images import ImageSet
from elixir_plugin.diffusion.denoisers.denoiser import hexadecimal
from elixir_plugin.diffusion.fit import timing as fit_timing
from elixir_plugin.diffusion.fit.settings import FitSettings
from elixir_plugin.diffusion.fit.timing import denoiser_to_time
from elixir_plugin.diffusion.fit.train import fit_into
from elixir_plugin.testing.defenses import tiny_case
from elixir_plugin.training import timing
from elixir_plugin.training.loop import Recipe
from elixir_plugin.training.timing import STEPS, seconds_of, seconds_per_answer, seconds_per_view

FIT = FitSettings.build({"size": "tiny", "length": 100, "iterations": 1000, "batch_size": 4, "dropout": 0.0})


class Clock:
    """Shows what it is set to."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(timing, "time", made)
    return made


def clean() -> ImageSet:
    found = tiny_case().clean
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("takes", "wanted", "calls"), [([3.0, 9.0], 3, 1), ([0.25, 0.6], 1.1 / 3, 3), ([0.0], 0, timing.CALLS)]
)
def test_the_seconds_of_work_are_those_it_takes(clock: Clock, takes: list[float], wanted: float, calls: int) -> None:
    clock.now, done = 7.0, list[float]()

    def work() -> None:
        done.append(takes[len(done) % len(takes)])
        clock.now += done[-1]

    assert seconds_of(work) == pytest.approx(wanted) and len(done) == calls


@pytest.mark.parametrize(("batch", "timed"), [(4, 4), (64, fit_timing.CPU_BATCH)])
def test_training_a_denoiser_is_extrapolated_from_a_few_iterations(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, batch: int, timed: int
) -> None:
    asked: list[FitSettings] = []

    def fit(images: ImageSet, settings: FitSettings, context: Context, *, name: str) -> Any:
        asked.append(settings)
        assert context.work_dir is None and context.seed == 5
        clock.now += 100 * (len(asked) == 1) + 20 + 0.5 * settings.iterations * settings.batch_size
        return SimpleNamespace(number=len(asked))

    monkeypatch.setattr(fit_timing, "fit_denoiser", fit)
    settings = FIT.model_copy(update={"batch_size": batch, "compile": True})
    found = denoiser_to_time(None, clean(), settings, Context(seed=5), name="d")
    assert found is not None and found[1] == pytest.approx(0.5 * 1000 * batch)
    assert all((each.batch_size, each.compile, each.size) == (timed, False, "tiny") for each in asked)
    assert sum(each.iterations for each in asked) == 3 + STEPS


@pytest.mark.usefixtures("brief_measurements")
def test_a_denoiser_to_time_says_what_the_trained_one_will_have_seen(tmp_path: Path) -> None:
    found = denoiser_to_time(None, clean(), FIT, Context(work_dir=tmp_path), name="d")
    assert found is not None
    denoiser = found[0]
    assert denoiser.seen(clean()).all() and denoiser.card["images"]["content"] == hexadecimal(clean())
    assert denoiser.trained_steps == 100 and list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("brief_measurements")
def test_nothing_is_trained_where_there_is_a_denoiser(tmp_path: Path) -> None:
    assert denoiser_to_time("folder", None, FIT, Context(), name="d") is None
    short, context = FIT.model_copy(update={"iterations": 1}), Context(work_dir=tmp_path)
    assert denoiser_to_time(None, clean(), short, context, name="d") is not None
    fit_into(tmp_path / "d", clean(), short, context, name="d")
    assert denoiser_to_time(None, clean(), short, context, name="d") is None


def test_classifiers_are_timed_per_image(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def learn(model: Any, source: Any, recipe: Recipe, context: Context, **_: Any) -> None:
        seen.append(sum(len(batch.rows) for _ in range(recipe.epochs) for batch in source.epoch(0)))
        clock.now += (50 if len(seen) == 1 else 1) * seen[-1]

    def predict(model: Classifier, images: ImageSet) -> None:
        seen.append(len(images))
        clock.now += (50 if len(seen) == 3 else 0.25) * len(images)

    monkeypatch.setattr(timing, "train", learn)
    monkeypatch.setattr(Classifier, "predict", predict)
    model = Classifier.build("small_resnet", 4)
    assert seconds_per_view(model, clean(), Recipe(epochs=9, batch_size=8), Context()) == 1
    assert seconds_per_answer(model, clean(), 8) == 0.25
    assert seen == [8 * STEPS] * 4

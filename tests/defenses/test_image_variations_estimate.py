"""What a run of image variations would cost: counted exactly, extrapolated under a clock that the test turns."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_image_variations import SHORT, Blurred, Interrupted, Noisy, Stubbed, made, stubbed, suspects, tiny_denoiser
from torch import Tensor

from elixir_plugin.cli.text import estimate_lines
from elixir_plugin.core.case import Case
from elixir_plugin.core.context import Context
from elixir_plugin.core.outcome import same_outcome
from elixir_plugin.defense import Defense
from elixir_plugin.defenses.dataelixir.defense import DataElixir
from elixir_plugin.defenses.image_variations import estimate as estimating
from elixir_plugin.defenses.image_variations.defense import ImageVariations
from elixir_plugin.defenses.image_variations.generator import fit_settings
from elixir_plugin.defenses.image_variations.models import logit_mode
from elixir_plugin.defenses.image_variations.settings import ImageVariationsSettings
from elixir_plugin.defenses.image_variations.strength import possible
from elixir_plugin.defenses.image_variations.throughput import Throughput, evaluations, measure
from elixir_plugin.defenses.image_variations.variations import VariationGenerator, make_variations
from elixir_plugin.diffusion.denoisers.base import Prediction
from elixir_plugin.diffusion.denoisers.gaussian import GaussianDenoiser
from elixir_plugin.diffusion.fit import timing as fit_timing
from elixir_plugin.diffusion.generators.base import GeneratorSettings, ImageGenerator, SDEdit, sdedit_on
from elixir_plugin.diffusion.generators.pipelines import PipelineGenerator
from elixir_plugin.diffusion.schedule import Schedule
from elixir_plugin.errors import ElixirError, InputError, MissingNeedError, RunError, SettingsError
from elixir_plugin.runs.estimate import estimate_run
from elixir_plugin.runs.run import run_defense
from elixir_plugin.runs.spec import RunSpec
from elixir_plugin.testing.defenses import tiny_case
from elixir_plugin.training import timing

CPU = torch.device("cpu")
TRAINED: dict[str, Any] = {  # on the spot
    **SHORT,
    "backend": "sdedit",
    "num_inference_steps": 10,
    "fit": {"size": "tiny", "length": 100, "learn_sigma": False, "iterations": 500, "batch_size": 2},
}


class Counted(Blurred):
    """Says that it takes 10 evaluations at full strength, and 100 variations at once."""

    chunk = 100

    def with_strength(self, strength: float) -> Blurred:
        return Counted(strength)

    def facts(self) -> dict[str, Any]:
        return {"nfe_per_variation": round(10 * self.strength)}


class Clock:
    """Shows what it is set to."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def _measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "CALLS", 1)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    turned = Clock()
    monkeypatch.setattr(timing, "time", turned)
    return turned


def cost(
    generator: ImageGenerator | None = None, case: Case | None = None, work: Path | None = None, **values: Any
) -> dict[str, Any]:
    return stubbed(generator, **values).estimate(case or tiny_case(), Context(seed=0, work_dir=work))


def files(folder: Path) -> dict[str, tuple[int, bytes]]:
    found = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in found}


# what is counted


def test_variations_disk_and_memory_are_counted() -> None:
    found = cost(num_variations=3)
    assert (found["variations"], found["variations_kept"], found["variations_tried"]) == (288, 0, 0)
    assert found["disk_bytes"] == 288 * 192 and found["memory_bytes"] == 2 * 96 * 192 + 288 * 192
    assert found["generator"] == "stub" and found["strength"] == "the generator has none"
    assert not {"nfe_total", "denoiser", "kept_if"} & set(found)  # it does not say how many, and trains nothing
    assert found["seconds"]["variations"] > 0 and found["seconds"]["strength"] == found["seconds"]["generator"] == 0
    assert found["seconds_total"] == pytest.approx(sum(found["seconds"].values())) == found["seconds_at_most"]
    large = cost(store_size=16)
    assert large["disk_bytes"] == 96 * 16 * 16 * 3


@pytest.mark.parametrize(
    ("length", "values", "trained"),
    [
        (1000, {}, 700),
        (4000, {}, 2800),
        (999, {}, 700),
        (30, {"search": {"candidates": (0.1, 0.34)}}, 11),
        (1000, {"strength": 0.55}, 550),
        (1000, {"strength": 0.3333}, 333),
        (999, {"strength": 0.0}, 1),
        (50, {"search": {"candidates": (1.0,)}}, 50),
    ],
)
def test_a_denoiser_is_trained_as_far_as_the_deepest_candidate(
    length: int, values: dict[str, Any], trained: int
) -> None:
    chosen = ImageVariationsSettings.build({"fit": {"length": length}, **values})
    fit = fit_settings(chosen)
    assert fit.trained_steps == trained
    if chosen.strength == "auto":
        made = GaussianDenoiser(Schedule("linear", length), 0.0, 1.0)
        made.trained_steps = fit.trained_steps
        edit = sdedit_on(made, chosen, (8, 8, 3))
        assert possible(edit, chosen) == list(chosen.search.candidates)
        assert edit.with_strength(chosen.search.candidates[-1]).plan.t_star <= trained


@pytest.mark.parametrize("length", [1000, 4000])
def test_hundredths_of_the_usual_chains_are_whole_steps(length: int) -> None:
    for hundredths in range(1, 101):
        chosen = ImageVariationsSettings.build(
            {"fit": {"length": length}, "search": {"candidates": (hundredths / 100,)}}
        )
        assert fit_settings(chosen).trained_steps == length // 100 * hundredths


def test_the_search_of_the_strength_is_part_of_it() -> None:
    search = {"candidates": (0.05, 0.1, 0.2, 0.4, 0.8, 0.95), "images": 20}  # it can be set to 0.1 to 0.9
    found = cost(Counted(), search=search)
    assert found["strength"] == "searched among 0.1, 0.2, 0.4, 0.8; 0.2 assumed"
    assert found["nfe_per_variation"] == 2 and found["variations_tried"] == 3 * 20
    assert found["nfe_total"] == 96 * 2 + 20 * (1 + 2 + 4)
    assert found["nfe_at_most"] == 96 * 8 + 20 * (1 + 2 + 4 + 8)
    assert found["disk_bytes"] == (96 + 4 * 20) * 192 and found["seconds"]["strength"] > 0
    few = cost(Counted(), search={**search, "images": 1000})
    assert few["variations_tried"] == 3 * 48  # all reserved clean images
    given = cost(Counted(), strength=0.4)
    assert given["strength"] == "0.4, given" and given["nfe_total"] == given["nfe_at_most"] == 96 * 4
    lacking = cost(Counted(), dataclasses.replace(tiny_case(), clean=None))
    assert lacking["strength"] == "0.5, default" and lacking["variations_tried"] == 0


@pytest.mark.parametrize("named", [True, False])
def test_variations_that_are_there_are_not_counted_again(tmp_path: Path, named: bool) -> None:
    """In a folder that is named, or in the work folder."""
    work = None if named else tmp_path
    values = {"variations": str(tmp_path / "image_variations")} if named else {}
    assert cost(Noisy(), work=work, **values)["variations_kept"] == 0 and list(tmp_path.iterdir()) == []
    defense = stubbed(Noisy(last=32), **values)
    with pytest.raises(Interrupted):  # after two chunks of 16, while the third is locked
        defense.run(tiny_case(), Context(seed=0, work_dir=work))
    before = files(tmp_path)
    generator = Noisy()
    found = cost(generator, work=work, **values)
    assert found["variations_kept"] == 32 and found["disk_bytes"] == 0 and files(tmp_path) == before
    assert "kept_if" not in found and found["minutes_for_variations"] > 0
    stubbed(generator := Noisy(), **values).run(tiny_case(), Context(seed=0, work_dir=work))
    assert len(generator.seeds) == 96 - 32
    assert cost(work=work, **values)["seconds"]["variations"] == 0


def test_a_folder_of_other_settings_is_refused_as_in_a_run(tmp_path: Path) -> None:
    made(suspects(), tmp_path, num_variations=2)
    for values in ({"num_variations": 1}, {"num_variations": 2, "color_transfer": True}):
        with pytest.raises(RunError, match="other settings"):
            cost(variations=str(tmp_path), **values)
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot write"):
        cost(variations=str(tmp_path / "file" / "below"))


def test_what_only_a_run_can_know_about_a_folder_is_said(tmp_path: Path) -> None:
    """The strength is part of what variations belong to; all the rest is compared."""
    settings = ImageVariationsSettings.build(SHORT)
    seed = Context(seed=0).derive_seed("image_variations", "variations")
    make_variations(VariationGenerator(Counted(0.4), settings, suspects(), seed), tmp_path, Context(), "test")
    found = cost(Counted(), variations=str(tmp_path))
    assert found["variations_kept"] == 96 and "strength" in found["kept_if"]
    assert found["nfe_total"] == 48 * (1 + 2 + 3 + 4 + 5)  # of the search alone
    with pytest.raises(RunError, match="other settings"):
        cost(Counted(), variations=str(tmp_path), num_variations=2)
    with pytest.raises(RunError, match="other settings"):
        cost(Counted(), variations=str(tmp_path), strength=0.2)
    assert "kept_if" not in cost(Counted(), variations=str(tmp_path), strength=0.4)


def test_without_variations_only_the_training_counts() -> None:
    found = stubbed(student_data="originals").estimate(tiny_case(), Context())
    assert set(found["seconds"]) == {"train teacher", "train student", "compare"} and found["disk_bytes"] == 0
    assert found["seconds_total"] == found["seconds"]["train student"] > 0  # the teacher is the case's model


# how fast


class Slow(PipelineGenerator):
    """A pipeline that takes 2 seconds per image, and 3 per step; 90 more the first time."""

    pipeline, default, guidance = "Slow", "nobody/slow", 3.0

    def __init__(self, clock: Clock, steps: int, **values: Any) -> None:
        super().__init__(None, GeneratorSettings.build({"num_inference_steps": steps, "gen_size": 8, **values}), "here")
        self.clock, self.asked = clock, list[int]()

    def _call(self, images: Tensor, generators: list[torch.Generator]) -> Tensor:
        self.clock.now += len(images) * (2 + 3 * self.steps) + 90 * (not self.asked)
        self.asked.append(self.steps)
        return torch.stack([torch.rand(3, 8, 8, generator=each) for each in generators])

    def fingerprint(self) -> str:
        return "slow"

    def facts(self) -> dict[str, Any]:
        return {}


def producer(generator: ImageGenerator) -> VariationGenerator:
    return VariationGenerator(generator, ImageVariationsSettings.build({**SHORT, "num_variations": 2}), suspects(), 5)


def test_a_pipeline_is_timed_on_short_walks(clock: Clock) -> None:
    """With guidance, a step is two evaluations."""
    generator = Slow(clock, 50)
    assert evaluations(generator) == 100
    throughput = measure(producer(generator), CPU)
    assert (throughput.once, throughput.per_evaluation) == (pytest.approx(2), pytest.approx(1.5))
    assert max(generator.asked) < 5 and generator.steps == 50
    assert throughput.seconds(100) == pytest.approx(2 + 50 * 3)
    plain = Slow(clock, 7, guidance_scale=1.0)
    assert evaluations(plain) == 7 and measure(producer(plain), CPU).seconds(7) == pytest.approx(2 + 7 * 3)


class Ticking(GaussianDenoiser):
    """Takes 3 seconds per image."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(Schedule("linear", 1000), 0.0, 0.6)
        self.clock, self.calls = clock, 0

    def predict(self, states: Tensor, indices: Tensor) -> Prediction:
        self.clock.now += 3 * len(states)
        self.calls += 1
        return super().predict(states, indices)


@pytest.mark.parametrize(("steps", "strength", "nfe"), [(50, 0.5, 25), (4, 0.5, 2), (2, 0.5, 1), (50, 0.0, 0)])
def test_sdedit_is_timed_on_short_walks(clock: Clock, steps: int, strength: float, nfe: int) -> None:
    denoiser = Ticking(clock)
    generator = SDEdit(denoiser, (8, 8), strength, steps=steps)
    throughput = measure(producer(generator), CPU)
    assert evaluations(generator) == nfe and throughput.seconds(nfe) == pytest.approx(3 * nfe)
    assert denoiser.calls <= 5 and generator.plan.nfe == nfe


def test_any_other_generator_is_timed_on_whole_walks(clock: Clock) -> None:
    class Third(Noisy):
        def vary(self, images: Tensor, seeds: Tensor) -> Tensor:
            clock.now += 4 * len(images) + 50 * (not self.seeds)
            return super().vary(images, seeds)

    generator = Third()
    assert measure(producer(generator), CPU) == Throughput(4)
    assert evaluations(generator) is None and len(generator.seeds) == 4


def test_seconds_are_what_is_made_and_learned_times_the_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimating, "measure", lambda *_: Throughput(2.0, 10.0))
    monkeypatch.setattr(estimating, "seconds_per_view", lambda *_: 1.0)
    monkeypatch.setattr(estimating, "seconds_per_answer", lambda *_: 0.25)
    values = {"strength": 0.4, "num_variations": 2, "recipe": {"epochs": 8}}
    found = cost(Counted(), **values)
    assert found["seconds"] == {
        "generator": 0,
        "strength": 0,
        "variations": 192 * 42,
        "train teacher": 0,
        "train student": 192 * (8 + 2 * 0.25),  # the teacher is asked about the image and its mirror image
        "compare": 288 * 0.25,
    }
    assert found["seconds_per_1000_variations"] == 42_000 and found["minutes_for_variations"] == 192 * 42 / 60
    searched = cost(Counted(), **values | {"strength": "auto"}, search={"candidates": (0.1, 0.2, 0.3), "images": 20})
    assert searched["seconds"]["variations"] == 192 * 22
    assert searched["seconds"]["strength"] == 20 * (12 + 22 + 32 + 4 * 0.25)
    assert searched["seconds_at_most"] - searched["seconds_total"] == 192 * 10
    alone = cost(Counted(), **values, distill=False, teacher="train", architecture="fast_resnet", mixing=0.25)
    assert alone["seconds"]["train teacher"] == 96 * 8 and alone["seconds"]["train student"] == (192 + 24) * 8


@pytest.mark.parametrize(
    ("values", "how"),
    [
        ({}, "mirrored"),
        ({"recipe": {"augmentation": {"flip": False}}}, "once"),
        ({"augment_teacher": False, "recipe": {"augmentation": {"crop": 2}}}, "once"),
        ({"recipe": {"augmentation": {"crop": 2}}}, "always"),
        ({"cache_logits": False}, "always"),
    ],
)
def test_the_teacher_is_asked_as_often_as_it_must_be(values: dict[str, Any], how: str) -> None:
    assert logit_mode(ImageVariationsSettings.build(values)) == how


# a denoiser of its own, refusals, traces


@pytest.mark.usefixtures("brief_measurements")
def test_a_denoiser_is_not_trained_for_an_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    real = fit_timing.fit_denoiser

    def fit(images: Any, settings: Any, context: Context, *, name: str) -> Any:
        asked.append(settings.iterations)
        return real(images, settings, context, name=name)

    monkeypatch.setattr(fit_timing, "fit_denoiser", fit)
    found = ImageVariations(TRAINED, strength=0.3).estimate(tiny_case(), Context())
    assert 0 < sum(asked) < 10
    assert found["denoiser"].startswith("would be trained on 48 reserved clean images; an untrained one")
    assert found["nfe_per_variation"] == 3 and found["nfe_total"] == 96 * 3 and found["generator"] == "sdedit"
    assert any("nfe total:" in line and "288" in line for line in estimate_lines(found))


@pytest.mark.usefixtures("brief_measurements")
def test_a_denoiser_that_is_named_costs_no_training(tmp_path: Path) -> None:
    case = tiny_case()
    assert case.clean is not None
    folder = tiny_denoiser(tmp_path, case.clean)
    found = ImageVariations(TRAINED, denoiser=str(folder), strength=0.3).estimate(case, Context())
    assert "denoiser" not in found and found["seconds"]["generator"] == 0 and found["nfe_per_variation"] == 3


def overlapping() -> Case:
    """Return a case whose reserved clean set holds suspect images."""
    return dataclasses.replace(tiny_case(), clean=suspects().subset(np.arange(40)))


@pytest.mark.parametrize(
    ("values", "case", "error"),
    [
        ({"backend": "sdedt"}, tiny_case(), SettingsError),
        ({"dtype": "float16"}, tiny_case(), SettingsError),
        ({"strength": 0.3, "fit": {"t_train_max": 10}}, tiny_case(), SettingsError),
        ({"store_size": 8, "architecture": "no such"}, tiny_case(), SettingsError),
        ({"denoiser": "no such folder"}, tiny_case(), ElixirError),
        ({}, dataclasses.replace(tiny_case(), clean=None), MissingNeedError),
        ({"teacher": "case"}, dataclasses.replace(tiny_case(), model=None), MissingNeedError),
        ({}, overlapping(), InputError),
    ],
)
def test_what_a_run_refuses_an_estimate_refuses(values: dict[str, Any], case: Case, error: type[ElixirError]) -> None:
    short = {**TRAINED, **values, "fit": {**TRAINED["fit"], "iterations": 1, **values.get("fit", {})}}
    with pytest.raises(error) as run:
        ImageVariations(short).run(case)
    with pytest.raises(error) as estimate:
        ImageVariations(short).estimate(case, Context())
    assert str(estimate.value) == str(run.value)


@pytest.mark.parametrize("defense", [ImageVariations, DataElixir])
def test_a_denoiser_that_has_seen_suspects_is_refused_as_in_a_run(tmp_path: Path, defense: type[Defense]) -> None:
    informed = defense({"denoiser": str(tiny_denoiser(tmp_path, suspects()))})
    with pytest.raises(InputError, match="was trained on images of the suspect set"):
        informed.estimate(tiny_case(), Context())


@pytest.mark.usefixtures("brief_measurements", "no_figures")
def test_an_estimate_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = tiny_case()
    assert case.train is not None and case.clean is not None
    sets = {"train": case.train, "clean": case.clean}
    arrays = {f"x_{name}": each.read(slice(None)) for name, each in sets.items()}
    np.savez(tmp_path / "case.npz", **arrays, **{f"y_{name}": each.labels for name, each in sets.items()})
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.chdir(tmp_path)
    short = {**TRAINED, "fit": {**TRAINED["fit"], "iterations": 1}, "strength": 0.1}
    spec = RunSpec.build(
        {
            "defense": "image_variations",
            "source": {"adapter": "arrays", "path": str(tmp_path / "case.npz")},
            "settings": {**short, "variations": str(tmp_path / "kept")},
            "out": str(tmp_path / "run"),
            "device": "cpu",
        }
    )
    before = files(tmp_path)
    found = estimate_run(spec)
    assert found["seconds_total"] > 0 and files(tmp_path) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["case.npz", "temporary"]
    run_defense(spec)
    again = estimate_run(spec)
    assert again["variations_kept"] == 96 and "denoiser" in again["kept_if"]


@pytest.mark.usefixtures("brief_measurements")
def test_an_estimate_changes_nothing_for_the_run_after_it() -> None:
    case, state = tiny_case(), torch.random.get_rng_state()
    assert case.model is not None
    weights = [each.clone() for each in case.model.parameters()]
    defense = stubbed(teacher="case", store_size=16)
    defense.estimate(case, Context(seed=3))
    assert torch.equal(torch.random.get_rng_state(), state) and case.model.input_size is None
    assert all(torch.equal(a, b) for a, b in zip(weights, case.model.parameters(), strict=True))
    fresh = Stubbed(defense.settings)
    fresh.generator = Noisy()
    assert same_outcome(defense.run(case, Context(seed=3)), fresh.run(tiny_case(), Context(seed=3))) == []

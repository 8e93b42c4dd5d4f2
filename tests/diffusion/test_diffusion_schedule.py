"""Schedules, and noise levels that cannot be misread."""

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from elixir_plugin.diffusion.denoisers.checks import read_scheduler_config
from elixir_plugin.diffusion.fit.objective import NoisyBatch, Tables, denoising_objective
from elixir_plugin.diffusion.fit.settings import FitSettings
from elixir_plugin.diffusion.sampler import chain, even_grid
from elixir_plugin.diffusion.schedule import NoiseLevel, Schedule
from elixir_plugin.errors import InputError, SettingsError

COSINE, SHORT, LINEAR = Schedule("cosine", 4000), Schedule("cosine", 1000), Schedule("linear", 1000)


@pytest.mark.parametrize(
    ("length", "steps", "kept", "noise", "grey_levels"),
    [
        (4000, 50, 0.999135, 0.0294, 3.75),
        (4000, 100, 0.997513, 0.0499, 6.37),
        (4000, 150, 0.995136, 0.0697, 8.91),
        (1000, 25, 0.997513, 0.0499, 6.37),
        (1000, 100, 0.972093, 0.1671, 21.6),
    ],
)
def test_cosine_values(length, steps, kept, noise, grey_levels):
    schedule = Schedule("cosine", length)
    found = float(schedule.alphas_cumprod[steps - 1])
    assert found == pytest.approx(kept, abs=1e-6)
    assert math.sqrt(1 - found) == pytest.approx(noise, abs=1e-4)
    assert schedule.noise_std(steps) * 255 == pytest.approx(grey_levels, abs=0.01)


def test_the_same_noise_in_chains_of_other_length():
    assert float(COSINE.alphas_cumprod[99]) == pytest.approx(float(SHORT.alphas_cumprod[24]), abs=1e-12)


def test_linear_chain_at_the_levels_of_dataelixir():
    for steps, ratio in ((75, 0.26), (150, 0.52), (200, 0.72), (300, 1.24)):
        assert 2 * LINEAR.noise_std(steps) == pytest.approx(ratio, abs=0.007)


@pytest.mark.parametrize("schedule", [COSINE, SHORT, LINEAR, Schedule("scaled_linear", 500, 8.5e-4, 0.012)], ids=str)
def test_tables(schedule):
    tables = schedule.betas, schedule.alphas_cumprod, schedule.alphas_cumprod_prev, schedule.posterior_variance
    betas, kept, before, lower = tables
    assert all(table.dtype == torch.float64 and table.shape == (schedule.length,) for table in tables)
    assert betas.min() > 0 and betas.max() <= 0.999
    assert before[0] == 1 and torch.equal(before[1:], kept[:-1])
    assert lower[0] == 0 and (lower[1:] > 0).all() and (lower <= betas).all()
    assert (kept.diff() < 0).all()
    assert torch.allclose(kept, before * (1 - betas), rtol=1e-12)


@pytest.mark.parametrize("schedule", [COSINE, LINEAR, Schedule("scaled_linear", 500, 8.5e-4, 0.012)], ids=str)
def test_betas_are_those_of_diffusers(schedule):
    from diffusers import DDPMScheduler

    theirs = DDPMScheduler(**schedule.to_diffusers())
    assert torch.allclose(theirs.betas.double(), schedule.betas, rtol=1e-5, atol=1e-8)
    config = theirs.config
    names = ("beta_schedule", "num_train_timesteps", "beta_start", "beta_end")
    assert Schedule.from_diffusers(*(config[name] for name in names)) == schedule


def test_unknown_schedules_are_refused():
    with pytest.raises(SettingsError, match="unknown schedule"):
        Schedule.from_diffusers("squaredcos_cap_v3", 1000, 1e-4, 0.02)
    with pytest.raises(SettingsError, match="unknown schedule"):
        Schedule("squaredcos_cap_v2", 1000)


@pytest.mark.parametrize(
    "bad", [{"length": 0}, {"length": 2.5}, {"beta_start": 0.0}, {"beta_end": 1.0}, {"beta_end": 1e-5}]
)
def test_impossible_schedules_are_refused(bad):
    with pytest.raises(SettingsError):
        Schedule(**{"name": "linear", "length": 10, **bad})


BROKEN = [
    ({"length": 20_000}, "nothing is left", "up to about 159"),
    ({"length": 100_000}, "nothing is left", "up to about 159"),  # ᾱ is 0 in float64
    ({"beta_end": 0.999_999, "length": 200}, "nothing is left", "take a shorter chain"),
    ({"name": "scaled_linear", "length": 25_000}, "nothing is left", "up to about 223"),
    ({"beta_start": 1e-20}, "adds no noise", "1e-16"),
    ({"beta_start": 1e-300, "beta_end": 1e-300}, "adds no noise", "0.0001"),
]


@pytest.mark.parametrize(("values", "what", "says"), BROKEN)
def test_chains_whose_numbers_break_down_are_refused(values, what, says):
    with pytest.raises(SettingsError, match=what) as caught:
        Schedule(**{"name": "linear", "length": 1000, **values})
    assert says in str(caught.value) and caught.value.where and caught.value.hint


@pytest.mark.parametrize(
    "schedule",
    [
        Schedule("linear", 15_900),
        Schedule("linear", 1000, 2e-16),
        Schedule("cosine", 1),
        Schedule("cosine", 100_000),
        Schedule("scaled_linear", 3, 0.5, 0.999),
    ],
    ids=str,
)
def test_chains_that_are_not_refused_have_numbers_to_train_and_walk_with(schedule):
    tables = Tables(schedule, torch.device("cpu"))
    for name in ("signal", "noise", "unscale", "unnoise", "log_lower", "log_upper", "from_image", "from_state"):
        assert tables.at(name, torch.arange(schedule.length)).isfinite().all(), name
    objective = denoising_objective(schedule, timestep_scale=1.0, learn_sigma=True, device=torch.device("cpu"))
    indices = torch.tensor([0, schedule.length // 2, schedule.length - 1])
    pixels, noise = torch.full((3, 1, 2, 2), 0.5), torch.full((3, 1, 2, 2), 5.0)
    found = objective(Silent(), NoisyBatch(pixels, indices, indices, noise, indices))
    assert all(value.isfinite() for value in found.values())
    grid = even_grid(schedule.length, min(schedule.length, 50))
    for step in chain(schedule, grid):
        assert all(math.isfinite(value) for value in vars(step).values())


class Silent(torch.nn.Module):
    """Predicts noise 1 and the larger variance."""

    def forward(self, states, times, return_dict):
        return (torch.ones(len(states), 2, 2, 2),)


@pytest.mark.parametrize(("values", "what", "says"), BROKEN)
def test_a_foreign_chain_whose_numbers_break_down_is_refused_as_input(values, what, says, tmp_path):
    values = {"num_train_timesteps" if name == "length" else name: value for name, value in values.items()}
    values["beta_schedule"] = values.pop("name", "linear")
    path = tmp_path / "scheduler_config.json"
    path.write_text(json.dumps({"_class_name": "DDPMScheduler", **values}))
    with pytest.raises(InputError, match="config refused") as caught:
        read_scheduler_config(path)
    assert what in str(caught.value) and str(path) in str(caught.value)


def test_a_training_on_a_chain_whose_numbers_break_down_is_refused():
    with pytest.raises(SettingsError, match="settings refused") as caught:
        FitSettings.build({"schedule": "linear", "length": 20_000})
    assert "length = 20000" in str(caught.value) and "up to about 159" in str(caught.value)
    assert FitSettings.build({"schedule": "cosine", "length": 20_000}).length == 20_000


@given(steps=st.integers(0, 999), name=st.sampled_from(["linear", "cosine", "scaled_linear"]))
def test_noise_and_steps_are_inverse(steps, name):
    schedule = Schedule(name, 1000)
    assert schedule.steps_for(schedule.noise_std(steps)) == steps


def test_nearest_level_is_taken():
    between = (COSINE.noise_std(100) + COSINE.noise_std(101)) / 2
    assert COSINE.steps_for(between - 1e-6) == 100
    assert COSINE.steps_for(between + 1e-6) == 101


@pytest.mark.parametrize("sigma", [-0.1, 1e9, math.nan, math.inf])
def test_levels_beyond_the_chain_are_refused(sigma):
    with pytest.raises(SettingsError, match="outside the chain"):
        LINEAR.steps_for(sigma)
    with pytest.raises(SettingsError, match="outside the chain"):
        LINEAR.noise_std(1001)


@pytest.mark.parametrize(
    ("level", "schedule", "steps"),
    [
        ({"sigma": 0.02498}, COSINE, 100),
        ({"sigma": 0.02498}, SHORT, 25),
        ({"steps": 100, "of": 4000}, COSINE, 100),
        ({"steps": 100, "of": 4000}, SHORT, 25),
        ({"steps": 25, "of": 1000}, COSINE, 100),
        ({"steps": 100, "of": 1000}, COSINE, 401),
        ({"steps": 100, "of": 4000, "schedule": "cosine"}, LINEAR, LINEAR.steps_for(COSINE.noise_std(100))),
        ({"steps": 150, "of": 1000, "schedule": "linear"}, COSINE, COSINE.steps_for(LINEAR.noise_std(150))),
        ({"steps": 0, "of": 4000}, COSINE, 0),
        ({"sigma": 0}, LINEAR, 0),
        ({"steps": 4000, "of": 4000}, COSINE, 4000),
    ],
)
def test_a_level_keeps_its_noise_in_every_chain(level, schedule, steps):
    found = NoiseLevel.build(level).resolve(schedule)
    assert abs(found - steps) <= (1 if steps == 401 else 0)


@given(steps=st.integers(5, 900), of=st.sampled_from([1000, 2000, 4000]))
def test_resolving_finds_the_level_of_least_difference(steps, of):
    wanted = Schedule("cosine", of).noise_std(steps)
    found = NoiseLevel(steps=steps, of=of, schedule="cosine").resolve(LINEAR) if wanted > LINEAR.noise_std(1) else 1
    others = [abs(LINEAR.noise_std(each) - wanted) for each in (found - 1, found + 1)]
    assert abs(LINEAR.noise_std(found) - wanted) <= min(others)


def test_the_denoisers_own_betas_count_for_its_own_schedule():
    steep = Schedule("linear", 1000, 1e-4, 0.05)
    assert NoiseLevel(steps=30, of=1000).resolve(steep) == 30
    assert NoiseLevel(steps=30, of=1000, schedule="linear").resolve(steep) == 30


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"steps": 100},
        {"of": 4000},
        {"schedule": "cosine"},
        {"sigma": 0.02, "steps": 100, "of": 4000},
        {"sigma": 0.02, "of": 4000},
        {"sigma": 0.02, "schedule": "linear"},
        {"steps": 101, "of": 100},
        {"steps": -1, "of": 100},
        {"sigma": -0.1},
        {"sigma": math.nan},
        {"sigma": math.inf},
        {"steps": 100, "of": 4000, "schedule": "vp"},
        {"t_star": 100},
    ],
)
def test_levels_that_could_be_misread_are_refused(values):
    with pytest.raises(SettingsError):
        NoiseLevel.build(values)


def test_a_level_that_would_do_nothing_is_refused():
    with pytest.raises(SettingsError, match="below the first step"):
        NoiseLevel(sigma=1e-4).resolve(LINEAR)


def test_levels_survive_a_file():
    for level in (NoiseLevel(sigma=0.025), NoiseLevel(steps=3, of=9, schedule="linear")):
        assert NoiseLevel.build(level.dump()) == level

"""The reverse chain: grids, coefficients, variances; against diffusers and against exact answers."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from elixir_plugin.diffusion.denoisers.base import Prediction
from elixir_plugin.diffusion.denoisers.gaussian import GaussianDenoiser, OracleDenoiser
from elixir_plugin.diffusion.noise import normal_noise
from elixir_plugin.diffusion.plan import Purification, plan
from elixir_plugin.diffusion.purify import purify_batch
from elixir_plugin.diffusion.sampler import chain, even_grid, jump, noise_scale, predicted_image, reverse
from elixir_plugin.diffusion.schedule import NoiseLevel, Schedule
from elixir_plugin.errors import InputError, RunError, SettingsError

COSINE, LINEAR = Schedule("cosine", 4000), Schedule("linear", 1000)
T100 = {"steps": 100, "of": 4000}
STDS = (0.02, 0.05, 0.1, 0.3)  # of the Gaussian test images, model scale


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@given(data=st.data(), steps=st.integers(1, 4000))
def test_even_grids(data, steps):
    visited = data.draw(st.integers(2, steps)) if steps > 1 else 1
    dense = data.draw(st.integers(0, 20))
    grid = even_grid(steps, visited)
    assert len(grid) == visited and grid[0] == steps - 1 and grid[-1] == 0
    gaps = {earlier - later for earlier, later in pairwise(grid)}
    assert all(gap > 0 for gap in gaps) and (not gaps or max(gaps) - min(gaps) <= 1)
    assert even_grid(steps, visited, dense) == tuple(sorted({*grid, *range(min(dense, steps))}, reverse=True))


def test_grids_of_the_specification():
    assert even_grid(25, 5) == (24, 18, 12, 6, 0)
    assert even_grid(100) == tuple(range(99, -1, -1))
    assert even_grid(100, 1) == (99,)
    assert even_grid(0) == ()
    for visited in (0, 101):
        with pytest.raises(SettingsError, match="number of steps"):
            even_grid(100, visited)


@pytest.mark.parametrize("grid", [(0, 5), (5, 5, 0), (4000, 0), (5, -1)], ids=str)
def test_impossible_grids_are_refused(grid):
    with pytest.raises(SettingsError, match="not a grid"):
        chain(COSINE, grid)


def test_a_full_chain_has_the_tables_of_the_schedule():
    steps = chain(COSINE, even_grid(100))
    for step in steps[:-1]:
        i = step.index
        betas, kept, before = COSINE.betas[i], COSINE.alphas_cumprod[i], COSINE.alphas_cumprod_prev[i]
        assert step.log_upper == pytest.approx(math.log(betas), rel=1e-9)
        assert step.log_lower == pytest.approx(math.log(COSINE.posterior_variance[i]), rel=1e-9)
        assert step.from_image == pytest.approx(float(betas * before.sqrt() / (1 - kept)), rel=1e-8)
        assert step.from_state == pytest.approx(float((1 - before) * (1 - betas).sqrt() / (1 - kept)), rel=1e-8)
    last = steps[-1]
    assert last.last and (last.from_image, last.from_state) == (1.0, 0.0)
    assert last.log_lower == pytest.approx(math.log(COSINE.posterior_variance[1]), rel=1e-9)


@pytest.mark.parametrize("visited", [100, 25, 10, 2])
def test_respaced_steps_keep_the_marginals(visited):
    """One exact step maps N(√ᾱ_i x_0, 1 − ᾱ_i) to N(√ᾱ_prev x_0, 1 − ᾱ_prev) when its variance is β̃'."""
    steps = chain(COSINE, even_grid(100, visited))
    for step, after in pairwise(steps):
        mean = step.from_image + step.from_state * step.signal
        assert mean == pytest.approx(after.signal, rel=1e-9)
        variance = (step.from_state * step.noise) ** 2 + math.exp(step.log_lower)
        assert variance == pytest.approx(after.noise**2, rel=1e-6)


def take_one(schedule, index, variance, states, prediction, noise):
    step = chain(schedule, range(index, -1, -1))[0]
    image = predicted_image(step, states, prediction.eps, clip=True)
    return reverse(step, states, image, prediction, noise, sampler="ddpm", variance=variance)


@pytest.mark.parametrize(
    ("schedule", "variance", "tolerance"),
    [(LINEAR, "fixed_large", 1e-4), (LINEAR, "fixed_small", 1e-4), (COSINE, "learned_range", 7e-4)],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_step_is_that_of_diffusers(schedule, variance, tolerance, monkeypatch):
    from diffusers import DDPMScheduler
    from diffusers.schedulers import scheduling_ddpm

    theirs = DDPMScheduler(**schedule.to_diffusers(), variance_type=variance, clip_sample=True)
    noise = random(4, 3, 8, 8, seed=1)
    monkeypatch.setattr(scheduling_ddpm, "randn_tensor", lambda *_, **__: noise)
    image, eps = random(4, 3, 8, 8, seed=2).clamp(-1, 1), random(4, 3, 8, 8, seed=3)
    head = random(4, 3, 8, 8, seed=4).clamp(-1, 1) if variance == "learned_range" else None
    prediction = Prediction(eps * 0.8, head)
    output = prediction.eps if head is None else torch.cat([prediction.eps, head], 1)
    for index in range(149, -1, -1):
        states = jump(chain(schedule, range(index, -1, -1))[0], image, eps)
        noised = theirs.add_noise(image, eps, torch.tensor([index]))
        assert (states - noised).abs().max() < (5e-6 if schedule is LINEAR else 7e-5)
        ours = take_one(schedule, index, variance, states, prediction, noise)
        expected = theirs.step(output, index, states).prev_sample
        # 8.6e-5 at index 2 is the error of diffusers, which computes its factors in float32
        limit = 6e-5 if schedule is LINEAR and index in (149, 75, 10, 9, 1, 0) else tolerance
        assert (ours - expected).abs().max() < limit, index
    assert index == 0 and ours.abs().max() <= 1
    assert torch.equal(ours, take_one(schedule, 0, variance, states, prediction, None))  # free of noise


@pytest.mark.parametrize("variance", ["fixed_large", "fixed_small"])
def test_the_last_step_lies_in_the_range_of_images_whatever_came_in(variance):
    states, prediction = 5 * random(4, 3, 8, 8, seed=5), Prediction(20 * random(4, 3, 8, 8, seed=6))
    last = take_one(LINEAR, 0, variance, states, prediction, None)
    assert last.min() == -1 and last.max() == 1  # as far as it goes


def test_a_ddim_step_is_that_of_diffusers():
    from diffusers import DDIMScheduler

    theirs = DDIMScheduler(**LINEAR.to_diffusers(), clip_sample=True, set_alpha_to_one=True)
    theirs.set_timesteps(100)  # 990, 980, …, 0
    steps = chain(LINEAR, range(990, -1, -10))
    for step in (steps[0], steps[60], steps[-2]):
        states, eps = random(2, 3, 8, 8, seed=5), random(2, 3, 8, 8, seed=6)
        image = predicted_image(step, states, eps, clip=True)
        ours = reverse(step, states, image, Prediction(eps), None, sampler="ddim", variance="fixed_large")
        assert torch.allclose(ours, theirs.step(eps, step.index, states).prev_sample, atol=6e-5)


@pytest.mark.parametrize("grid", [range(99, -1, -1), (99, 60, 20, 0)], ids=["full", "respaced"])
def test_variance_head(grid):
    eps = torch.zeros(1, 1, 2, 2)
    for step in chain(COSINE, grid):
        low, high = math.exp(step.log_lower / 2), math.exp(step.log_upper / 2)
        for head, expected in ((-1.0, low), (1.0, high), (0.0, math.sqrt(low * high))):
            found = noise_scale("learned_range", step, Prediction(eps, torch.full_like(eps, head)))
            assert torch.allclose(found, torch.full_like(eps, expected), rtol=1e-5)
        assert noise_scale("fixed_small", step, Prediction(eps)) == pytest.approx(low)
        assert noise_scale("fixed_large", step, Prediction(eps)) == pytest.approx(high)


def test_a_promised_head_must_be_there():
    step = chain(COSINE, (5, 0))[0]
    with pytest.raises(RunError, match="no variance"):
        noise_scale("learned_range", step, Prediction(torch.zeros(1, 1, 2, 2)))


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
@pytest.mark.parametrize("visited", [None, 25, 5, 2, 1])
@pytest.mark.parametrize("options", [{}, {"head": 0.3}, {"variance": "fixed_small"}], ids=str)
def test_the_oracle_gives_the_clean_image_whatever_came_in(sampler, visited, options):
    clean = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    poisoned = (clean + 0.4 * random(6, 3, 8, 8)).clamp(0, 1)
    oracle = OracleDenoiser(COSINE, clean, **options)
    settings = Purification(level=NoiseLevel(**T100), sampler=sampler, steps=visited)
    out = purify_batch(oracle, plan(oracle, settings, (8, 8, 3)), poisoned, torch.arange(6), seed=3).images
    assert (out - clean).abs().max() < 1e-4


def test_the_oracle_answers_by_id():
    clean = torch.rand(4, 1, 4, 4)
    oracle = OracleDenoiser(COSINE, clean, ids=torch.tensor([10, 20, 30, 40]))
    planned = plan(oracle, Purification(level=NoiseLevel(**T100), steps=3), (4, 4, 1))
    out = purify_batch(oracle, planned, torch.rand(2, 1, 4, 4), torch.tensor([30, 10]), seed=0).images
    assert torch.allclose(out, clean[[2, 0]], atol=1e-4)
    with pytest.raises(InputError, match="no clean image"):
        purify_batch(oracle, planned, torch.rand(1, 1, 4, 4), torch.tensor([11]), seed=0)
    with pytest.raises(InputError, match="must be told"):
        oracle.predict(torch.zeros(1, 1, 4, 4), torch.tensor([3]))


def gaussian(visited, head=-1.0, **options):
    """Return a denoiser whose rows of pixels have the standard deviations STDS, and its plan; no clipping."""
    stds = torch.tensor(STDS).reshape(1, 4, 1)
    denoiser = GaussianDenoiser(COSINE, 0.0, stds, channels=1, head=head)
    settings = Purification(level=NoiseLevel(**T100), steps=visited, clip=False, **options)
    return denoiser, plan(denoiser, settings, (4, 1000, 1))


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
@pytest.mark.parametrize("visited", [100, 25, 10, 3, 1])
def test_offsets_shrink_by_the_wiener_gain(visited, sampler):
    """The same noise on both sides, so the difference is the gain exactly; 1 − ᾱ of the level is in both."""
    denoiser, planned = gaussian(visited, sampler=sampler)
    high, low = (
        purify_batch(denoiser, planned, torch.full((1, 1, 4, 1000), value), torch.tensor([0]), seed=1).images
        for value in (0.55, 0.45)
    )
    gain = ((high - low) / 0.1).mean((0, 1, 3))
    expected = torch.tensor([0.138, 0.501, 0.800, 0.973])
    if sampler == "ddpm" or visited == 1:
        assert torch.allclose(gain, expected, atol=0.01)
    elif visited == 100:  # without fresh noise, many steps map one normal distribution onto the other
        assert torch.allclose(gain, expected.sqrt(), atol=0.03)


@pytest.mark.parametrize(
    ("visited", "expected"), [(100, (0.961, 0.988, 0.994, 0.998)), (10, (0.797, 0.919, 0.969, 0.997))]
)
def test_resynthesised_spread_with_the_lower_variance(visited, expected):
    denoiser, planned = gaussian(visited)
    count, ids = 40, torch.arange(40)
    draws = normal_noise(7, ids, 0, 0, (1, 4, 1000), device="cpu") * torch.tensor(STDS).reshape(1, 4, 1)
    images = ((draws + 1) / 2).clamp(0, 1)
    out = purify_batch(denoiser, planned, images, ids, seed=1).images * 2 - 1
    spread = out.transpose(1, 2).transpose(0, 1).reshape(4, count * 1000).std(1) / torch.tensor(STDS)
    assert torch.allclose(spread, torch.tensor(expected), atol=0.01)


def test_a_head_belongs_to_learned_range():
    with pytest.raises(SettingsError, match="belongs to learned_range"):
        GaussianDenoiser(COSINE, 0.0, 1.0, variance="learned_range")
    with pytest.raises(SettingsError, match="belongs to learned_range"):
        GaussianDenoiser(COSINE, 0.0, 1.0, head=0.0, variance="fixed_small")
    with pytest.raises(SettingsError, match="not negative"):
        GaussianDenoiser(COSINE, 0.0, -1.0)


def test_fingerprints_tell_closed_forms_apart():
    made = [
        GaussianDenoiser(COSINE, 0.0, 1.0),
        GaussianDenoiser(COSINE, 0.1, 1.0),
        GaussianDenoiser(LINEAR, 0.0, 1.0),
        GaussianDenoiser(COSINE, 0.0, 1.0, head=1.0),
        OracleDenoiser(COSINE, torch.zeros(2, 3, 4, 4)),
        OracleDenoiser(COSINE, torch.zeros(2, 3, 4, 4), torch.tensor([1, 0])),
    ]
    assert len({each.fingerprint() for each in made}) == len(made)
    assert made[0].fingerprint() == GaussianDenoiser(COSINE, 0.0, 1.0).fingerprint()

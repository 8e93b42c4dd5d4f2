"""The hybrid loss, against references written from the formulas in float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from elixir_plugin.diffusion.fit.objective import (
    NoisyBatch,
    Tables,
    denoising_objective,
    level_log_likelihood,
    likelihood_bound,
    normal_kl,
)
from elixir_plugin.diffusion.schedule import Schedule

CPU = torch.device("cpu")
CHAIN = Schedule("cosine", 4000)
TABLES = Tables(CHAIN, CPU)
INDICES = torch.tensor([0, 1, 99, 2000, 3999])


class Outputs(nn.Module):
    """A network whose output is a parameter; notes what it is called with."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = nn.Parameter(output)
        self.calls: list[tuple[Tensor, Tensor]] = []

    def forward(self, states: Tensor, times: Tensor, return_dict: bool = True) -> tuple[Tensor]:
        assert not return_dict
        self.calls.append((states, times))
        return (self.output,)


def draws(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def batch(count: int = 5, channels: int = 3, edge: int = 4, indices: Tensor = INDICES) -> NoisyBatch:
    levels = torch.randint(0, 256, (count, channels, edge, edge), generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(count, dtype=torch.int64)
    return NoisyBatch(levels / 255, labels, torch.arange(count), draws(1, count, channels, edge, edge), indices)


def objective(schedule: Schedule = CHAIN, learn_sigma: bool = True) -> Any:
    scale = 1000 / schedule.length
    return denoising_objective(schedule, timestep_scale=scale, learn_sigma=learn_sigma, device=CPU)


# variance head


@pytest.mark.parametrize("index", [1, 2, 99, 3999])
def test_the_head_spans_from_posterior_variance_to_beta(index: int) -> None:
    lower, upper = float(CHAIN.posterior_variance[index]), float(CHAIN.betas[index])
    head = torch.tensor([-1.0, 0.0, 1.0])[:, None, None, None]
    variance = TABLES.log_variance(head, torch.full((3,), index)).double().exp().flatten()
    expected = torch.tensor([lower, math.sqrt(lower * upper), upper], dtype=torch.float64)
    assert torch.allclose(variance, expected, rtol=1e-5)


def test_the_first_index_borrows_the_lower_variance_of_the_second() -> None:
    low = TABLES.log_variance(-torch.ones(1, 1, 1, 1), torch.tensor([0]))
    assert float(low) == pytest.approx(math.log(float(CHAIN.posterior_variance[1])), rel=1e-6)


def test_the_head_is_not_clamped() -> None:
    beyond = TABLES.log_variance(torch.full((1, 1, 1, 1), 3.0), torch.tensor([99]))
    assert float(beyond) > float(CHAIN.betas[99].log())


# losses


def test_simple_loss_of_a_zero_output_is_the_noise_power() -> None:
    count = 64
    network = Outputs(torch.zeros(count, 6, 8, 8))
    given_batch = batch(
        count, edge=8, indices=torch.randint(4000, (count,), generator=torch.Generator().manual_seed(2))
    )
    losses = {name: value.detach() for name, value in objective()(network, given_batch).items()}
    assert float(losses["simple"]) == pytest.approx(float(given_batch.noise.square().mean()))
    assert float(losses["simple"]) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("length", [1000, 4000])
def test_total_weighs_the_bound_by_a_thousandth_of_the_chain(length: int) -> None:
    losses = objective(Schedule("cosine", length))(
        Outputs(draws(3, 5, 6, 4, 4)), batch(indices=torch.tensor([0, 1, 9, 500, 999]))
    )
    loss, simple, bound = (float(losses[name].detach()) for name in ("loss", "simple", "bound"))
    assert loss == pytest.approx(simple + length / 1000 * bound, rel=1e-6)


def test_the_network_is_called_once_with_noised_images_and_scaled_times() -> None:
    network, given_batch = Outputs(draws(3, 5, 6, 4, 4)), batch()
    objective()(network, given_batch)
    ((states, times),) = network.calls
    assert torch.equal(times, INDICES.float() / 4)
    kept = CHAIN.alphas_cumprod[INDICES][:, None, None, None]
    expected = kept.sqrt() * (2 * given_batch.images - 1) + (1 - kept).sqrt() * given_batch.noise
    assert torch.allclose(states.double(), expected, atol=1e-6)


def test_the_bound_trains_the_variance_alone_and_the_error_the_noise_alone() -> None:
    network = Outputs(draws(3, 5, 6, 4, 4))
    losses = objective()(network, batch())
    (of_bound,) = torch.autograd.grad(losses["bound"], network.output, retain_graph=True)
    (of_simple,) = torch.autograd.grad(losses["simple"], network.output)
    assert not of_bound[:, :3].any() and bool(of_bound[:, 3:].any())
    assert not of_simple[:, 3:].any() and bool(of_simple[:, :3].any())


def test_without_learned_variance_only_the_error_counts() -> None:
    losses = objective(learn_sigma=False)(Outputs(torch.zeros(5, 3, 4, 4)), batch())
    assert set(losses) == {"loss", "simple"} and torch.equal(losses["loss"], losses["simple"])


def reference_bound(images: Tensor, noise: Tensor, eps: Tensor, head: Tensor, index: int) -> float:
    """One sample's bound in bits per dimension, in float64, from Nichol & Dhariwal (2021), equations 14 to 17."""
    kept, betas = CHAIN.alphas_cumprod, CHAIN.betas
    a, beta = kept[index], betas[index]
    before = kept[index - 1] if index else torch.tensor(1.0, dtype=torch.float64)
    state = a.sqrt() * images + (1 - a).sqrt() * noise
    guess = (state - (1 - a).sqrt() * eps) / a.sqrt()

    def posterior(start: Tensor) -> Tensor:
        return beta * before.sqrt() / (1 - a) * start + (1 - before) * (1 - beta).sqrt() / (1 - a) * state

    low = CHAIN.posterior_variance[max(index, 1)]
    share = (head + 1) / 2
    std = (share * beta.log() + (1 - share) * low.log()).div(2).exp()
    if index:
        nats = kl_divergence(Normal(posterior(images), low.sqrt()), Normal(posterior(guess), std))
        return float(nats.mean()) / math.log(2)
    normal = Normal(guess, std)
    upper, lower = normal.cdf(images + 1 / 255), normal.cdf(images - 1 / 255)
    upper, lower = upper.masked_fill(images > 0.999, 1), lower.masked_fill(images < -0.999, 0)
    return float(-(upper - lower).clamp(min=1e-12).log().mean()) / math.log(2)


@pytest.mark.parametrize("row", range(5))
def test_the_bound_equals_a_reference(row: int) -> None:
    given_batch, eps, head = batch(), draws(4, 5, 3, 4, 4), draws(5, 5, 3, 4, 4)
    images = 2 * given_batch.images - 1
    eps = given_batch.noise + 0.1 * eps if row else given_batch.noise + 0.02 * eps  # likely, or the floor decides
    states = TABLES.noised(images, given_batch.noise, INDICES)
    found = likelihood_bound(TABLES, images, states, INDICES, eps=eps, head=head)[row]
    inputs = (each[row].double() for each in (images, given_batch.noise, eps, head))
    expected = reference_bound(*inputs, int(INDICES[row]))
    assert float(found) == pytest.approx(expected, rel=2e-3 if row else 2e-2, abs=1e-6)  # row 0: tanh, not erf


def test_a_perfect_prediction_with_the_lower_variance_costs_nothing() -> None:
    given_batch = batch(indices=torch.tensor([1, 5, 99, 500, 2000]))
    images = 2 * given_batch.images - 1
    states = TABLES.noised(images, given_batch.noise, given_batch.indices)
    lower, upper = (
        likelihood_bound(
            TABLES, images, states, given_batch.indices, eps=given_batch.noise, head=torch.full_like(images, w)
        )
        for w in (-1.0, 1.0)
    )
    assert torch.allclose(lower, torch.zeros(5), atol=1e-4) and bool((upper > lower).all())


@given(
    means=st.lists(st.floats(-2, 2), min_size=2, max_size=2), logs=st.lists(st.floats(-8, 1), min_size=2, max_size=2)
)
def test_kl_of_normals_equals_torch(means: list[float], logs: list[float]) -> None:
    (mean, other), (log, other_log) = torch.tensor(means).double(), torch.tensor(logs).double()
    expected = kl_divergence(Normal(mean, (log / 2).exp()), Normal(other, (other_log / 2).exp()))
    assert torch.allclose(normal_kl(mean, log, other, other_log), expected, rtol=1e-6, atol=1e-9)


@given(mean=st.floats(-1.2, 1.2), log_std=st.floats(-5, 1))
def test_probabilities_of_all_grey_levels_add_up_to_one(mean: float, log_std: float) -> None:
    levels = (2 * torch.arange(256).double() / 255 - 1)[:, None]
    logs = level_log_likelihood(levels, torch.full_like(levels, mean), torch.full_like(levels, log_std))
    assert float(logs.exp().sum()) == pytest.approx(1, abs=1e-6)


def test_an_impossible_level_costs_no_more_than_the_floor() -> None:
    far = level_log_likelihood(
        torch.tensor([-1.0, 0.0, 1.0]), torch.tensor([50.0, 50.0, -50.0]), torch.full((3,), -9.0)
    )
    assert np.allclose(far.numpy(), math.log(1e-12))


@given(index=st.integers(0, 3999), head=st.floats(-3, 3), size=st.floats(0, 4))
def test_losses_and_gradients_are_finite_over_the_whole_chain(index: int, head: float, size: float) -> None:
    output = torch.cat([size * draws(7, 5, 3, 4, 4), torch.full((5, 3, 4, 4), head)], 1)
    network = Outputs(output)
    losses = objective()(network, batch(indices=torch.full((5,), index)))
    losses["loss"].backward()
    assert all(bool(value.isfinite()) for value in losses.values())
    assert network.output.grad is not None and bool(network.output.grad.isfinite().all())

"""Steps of a reverse chain on any grid of indices: the numbers of each step, and the step itself.

Index ``i`` goes down a grid that starts at ``t* − 1``. On a respaced grid the betas are those of the jump:
β' = 1 − ᾱ_i/ᾱ_prev, where *prev* is the next index visited. The network still sees ``i``. The last
step always lands on the image: its coefficients are exactly 1 and 0, and it adds no noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from ..errors import RunError, SettingsError
from .denoisers.base import Prediction, Variance
from .schedule import Schedule

SamplerName = Literal["ddpm", "ddim"]


@dataclass(frozen=True)
class Step:
    """The numbers of one reverse step, computed in float64.

    They are plain numbers: torch passes them to its kernels as float32 arguments, without any copy to the device.

    :param index: ``i``, in the denoiser's own chain.
    :param signal, noise: √ᾱ_i and √(1 − ᾱ_i).
    :param from_image, from_state: factors of x̂_0 and of x_i in the mean of q(x_prev | x_i, x̂_0).
    :param log_lower, log_upper: log β̃' and log β'; at the end of the chain, where β̃' is 0, that of the step before.
    :param previous_signal, previous_noise: √ᾱ_prev and √(1 − ᾱ_prev), for DDIM.
    :param last: whether this step lands on the image.
    """

    index: int
    signal: float
    noise: float
    from_image: float
    from_state: float
    log_lower: float
    log_upper: float
    previous_signal: float
    previous_noise: float
    last: bool


def even_grid(steps: int, visited: int | None = None, dense_below: int = 0) -> tuple[int, ...]:
    """Return the indices to visit: *visited* evenly spaced ones from ``steps − 1`` to 0, and all below *dense_below*.

    One visit is the index ``steps − 1`` alone: a single prediction of the image.

    :param steps: ``t*``.
    :param visited: ``K``; None: all.
    :raises SettingsError: when *visited* is not in 1..t*.

    >>> even_grid(25, 5), even_grid(100, 3, dense_below=2)
    ((24, 18, 12, 6, 0), (99, 50, 1, 0))
    """
    if steps == 0:
        return ()
    count = steps if visited is None else visited
    if not 1 <= count <= steps:
        raise SettingsError("number of steps", where="steps", found=count, allowed=f"1..{steps}, as t* = {steps}")
    if count == 1:
        indices = {steps - 1}
    else:  # rounded in integers: neighbours at least 1 apart stay apart
        indices = {(2 * k * (steps - 1) + count - 1) // (2 * (count - 1)) for k in range(count)}
    return tuple(sorted(indices | set(range(min(dense_below, steps))), reverse=True))


def chain(schedule: Schedule, grid: Sequence[int]) -> tuple[Step, ...]:
    """Return the steps down *grid*, a strictly descending list of indices; the step after the last one is the image.

    :raises SettingsError: for a grid that does not descend or leaves the chain.
    """
    if any(not 0 <= i < schedule.length for i in grid) or any(later >= i for i, later in pairwise(grid)):
        raise SettingsError(
            "not a grid", where="grid", found=list(grid), allowed=f"descending indices in 0..{schedule.length - 1}"
        )
    if not grid:
        return ()
    kept = schedule.alphas_cumprod.tolist()
    before = [kept[i] for i in grid[1:]] + [1.0]
    betas = [1 - kept[i] / previous for i, previous in zip(grid, before, strict=True)]
    lower = [beta * (1 - previous) / (1 - kept[i]) for i, previous, beta in zip(grid, before, betas, strict=True)]
    lower[-1] = lower[-2] if len(grid) > 1 else betas[-1]
    return tuple(
        _step(i, kept[i], previous, beta, floor, last=k == len(grid) - 1)
        for k, (i, previous, beta, floor) in enumerate(zip(grid, before, betas, lower, strict=True))
    )


def _step(index: int, kept: float, previous: float, beta: float, lower: float, *, last: bool) -> Step:
    return Step(
        index=index,
        signal=math.sqrt(kept),
        noise=math.sqrt(1 - kept),
        from_image=1.0 if last else beta * math.sqrt(previous) / (1 - kept),
        from_state=0.0 if last else (1 - previous) * math.sqrt(1 - beta) / (1 - kept),
        log_lower=math.log(lower),
        log_upper=math.log(beta),
        previous_signal=math.sqrt(previous),
        previous_noise=math.sqrt(1 - previous),
        last=last,
    )


def jump(step: Step, states: Tensor, noise: Tensor) -> Tensor:
    """Noise images ``[B, C, H, W]`` (model scale) up to the index of *step*, in one jump."""
    return states * step.signal + noise * step.noise


def predicted_image(step: Step, states: Tensor, eps: Tensor, *, clip: bool) -> Tensor:
    """Return x̂_0 ``[B, C, H, W]`` in model scale, clipped to [-1, 1] if asked."""
    image = (states - eps * step.noise).div_(step.signal)
    return image.clamp_(-1, 1) if clip else image


def reverse(
    step: Step,
    states: Tensor,
    image: Tensor,
    prediction: Prediction,
    noise: Tensor | None,
    *,
    sampler: SamplerName,
    variance: Variance,
) -> Tensor:
    """Take one reverse step from *states* ``[B, C, H, W]`` (model scale, float32).

    :param image: x̂_0 from :func:`predicted_image`.
    :param noise: standard normal ``[B, C, H, W]``; None on the last step and for DDIM.
    :raises RunError: when a ``learned_range`` denoiser gave no variance.
    """
    if step.last:
        return image
    if sampler == "ddim":  # η = 0, and the network's own ε, as diffusers does by default
        return image * step.previous_signal + prediction.eps * step.previous_noise
    assert noise is not None
    mean = (image * step.from_image).add_(states, alpha=step.from_state)
    scale = noise_scale(variance, step, prediction)
    return mean.addcmul_(noise, scale) if isinstance(scale, Tensor) else mean.add_(noise, alpha=scale)


def noise_scale(variance: Variance, step: Step, prediction: Prediction) -> float | Tensor:
    """Return the standard deviation of a reverse step: a number, or ``[B, C, H, W]`` for ``learned_range``.

    ``learned_range`` mixes them in the log domain: v log β' + (1 − v) log β̃' with v = (w + 1)/2.
    """
    if variance == "fixed_small":
        return math.exp(step.log_lower / 2)
    if variance == "fixed_large":
        return math.exp(step.log_upper / 2)
    if prediction.variance is None:
        raise RunError(
            "the denoiser predicted no variance",
            where="Denoiser.predict",
            found="variance=None",
            allowed="a variance head [B, C, H, W], as the denoiser says learned_range",
        )
    quarter = (step.log_upper - step.log_lower) / 4  # of ½ log Σ, per unit of w
    return torch.exp(prediction.variance * quarter + (step.log_upper + step.log_lower) / 4)


def sampled(sampler: SamplerName, step: Step) -> bool:
    """Whether *step* needs fresh noise."""
    return sampler == "ddpm" and not step.last

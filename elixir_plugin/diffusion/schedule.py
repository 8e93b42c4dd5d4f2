"""Noise schedules in float64 tables, and noise levels that cannot be misread."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any, ClassVar, Literal, get_args

import torch
from pydantic import Field, model_validator
from torch import Tensor
from typing_extensions import Self

from ..core.settings import Settings
from ..errors import SettingsError, nearest

ScheduleName = Literal["linear", "cosine", "scaled_linear"]

DIFFUSERS_NAMES: MappingProxyType[str, ScheduleName] = MappingProxyType(
    {"linear": "linear", "squaredcos_cap_v2": "cosine", "scaled_linear": "scaled_linear"}
)
"""``beta_schedule`` in a diffusers scheduler config -> our name."""

MOST_RATIO = 1e35  # of √(1/ᾱ), which multiplies states and noise; float32 ends at 3e38
BETA_CAP = 0.999  # of the cosine schedule
COSINE_OFFSET = 0.008


@dataclass(frozen=True)
class Schedule:
    """A chain of ``length`` noising steps. All tables are float64 ``[T]`` on the CPU.

    :param name: ``linear`` and ``scaled_linear`` (linear in √β) run from *beta_start* to *beta_end*; ``cosine`` is the
        one of improved-diffusion, with β capped at 0.999.
    :param length: ``T``, the number of steps.
    :raises SettingsError: for an unknown name, a length below 1, betas outside 0 < start ≤ end < 1, or a chain that
        begins with less or ends with more noise than its numbers can express.

    >>> round(float(Schedule("cosine", 4000).alphas_cumprod[99]), 6)
    0.997513
    """

    name: ScheduleName
    length: int
    beta_start: float = 1e-4
    beta_end: float = 0.02

    def __post_init__(self) -> None:
        if self.name not in get_args(ScheduleName):
            known = get_args(ScheduleName)
            raise SettingsError(
                "unknown schedule", found=self.name, allowed=", ".join(known), hint=nearest(str(self.name), known)
            )
        if isinstance(self.length, bool) or not isinstance(self.length, int) or self.length < 1:
            raise SettingsError("a chain has at least one step", where="length", found=self.length, allowed="1, 2, …")
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise SettingsError(
                "betas out of range",
                where=f"{self.name} schedule",
                found=f"{self.beta_start}..{self.beta_end}",
                allowed="0 < beta_start ≤ beta_end < 1",
            )
        self._refuse_degenerate()

    def _refuse_degenerate(self) -> None:
        """Refuse a chain whose numbers would be 0 or infinite where training and sampling divide by them."""
        first, last = float(self.alphas_cumprod[0]), float(self.alphas_cumprod[-1])
        if first == 1:
            raise SettingsError(
                "the first step of the chain adds no noise",
                where=f"{self.name} schedule, beta_start",
                found=self.beta_start,
                allowed="from about 1e-16 on",
                hint="the usual value is 0.0001",
            )
        if last < MOST_RATIO**-2:
            spent = -float(torch.log1p(-self.betas).sum()) / (2 * math.log(MOST_RATIO))
            raise SettingsError(
                "nothing is left of the image at the end of the chain",
                where=f"{self.name} schedule, length",
                found=f"{self.length} steps",
                allowed=f"up to about {self.length / spent:.0f} steps with betas {self.beta_start}..{self.beta_end}",
                hint="take a shorter chain, or smaller betas",
            )

    @classmethod
    def from_diffusers(cls, beta_schedule: str, length: int, beta_start: float, beta_end: float) -> Schedule:
        """Make a schedule from the entries of a diffusers scheduler config.

        :raises SettingsError: for a ``beta_schedule`` that has no counterpart here.
        """
        if beta_schedule not in DIFFUSERS_NAMES:
            raise SettingsError(
                "unknown schedule",
                where="beta_schedule",
                found=beta_schedule,
                allowed=", ".join(DIFFUSERS_NAMES),
                hint=nearest(str(beta_schedule), DIFFUSERS_NAMES),
            )
        return cls(DIFFUSERS_NAMES[beta_schedule], length, beta_start, beta_end)

    def to_diffusers(self) -> dict[str, Any]:
        """Return the entries of a diffusers scheduler config that describe this schedule."""
        name = next(theirs for theirs, ours in DIFFUSERS_NAMES.items() if ours == self.name)
        return {
            "beta_schedule": name,
            "num_train_timesteps": self.length,
            "beta_start": self.beta_start,
            "beta_end": self.beta_end,
        }

    def facts(self) -> dict[str, Any]:
        """Return what decides the tables, in JSON types, for fingerprints; unused betas are left out."""
        betas = {} if self.name == "cosine" else {"beta_start": self.beta_start, "beta_end": self.beta_end}
        return {"name": self.name, "length": self.length, **betas}

    @cached_property
    def betas(self) -> Tensor:
        """β_i, the variance that step i adds."""
        if self.name == "linear":
            return torch.linspace(self.beta_start, self.beta_end, self.length, dtype=torch.float64)
        if self.name == "scaled_linear":
            ends = math.sqrt(self.beta_start), math.sqrt(self.beta_end)
            return torch.linspace(*ends, self.length, dtype=torch.float64).square()
        time = torch.arange(self.length + 1, dtype=torch.float64) / self.length
        kept = torch.cos((time + COSINE_OFFSET) / (1 + COSINE_OFFSET) * math.pi / 2).square()
        return (1 - kept[1:] / kept[:-1]).clamp(max=BETA_CAP)

    @cached_property
    def alphas_cumprod(self) -> Tensor:
        """ᾱ_i, the share of the image's variance that is left after step i."""
        return torch.cumprod(1 - self.betas, 0)

    @cached_property
    def alphas_cumprod_prev(self) -> Tensor:
        """ᾱ_{i−1}, with ᾱ_{−1} = 1."""
        return torch.cat([torch.ones(1, dtype=torch.float64), self.alphas_cumprod[:-1]])

    @cached_property
    def posterior_variance(self) -> Tensor:
        """β̃_i = β_i (1 − ᾱ_{i−1}) / (1 − ᾱ_i); exactly 0 at i = 0, with no floor."""
        return self.betas * (1 - self.alphas_cumprod_prev) / (1 - self.alphas_cumprod)

    def noise_std(self, steps: int) -> float:
        """Return the noise after *steps* forward steps, relative to the image, in pixel scale: √((1−ᾱ)/ᾱ)/2.

        :raises SettingsError: when the chain is shorter, or *steps* is negative.
        """
        if not 0 <= steps <= self.length:
            raise SettingsError(
                "noise level outside the chain", where="t*", found=steps, allowed=f"0..{self.length} steps"
            )
        return 0.0 if steps == 0 else float(self._noise_stds[steps - 1])

    def steps_for(self, sigma: float) -> int:
        """Return the ``t*`` whose :meth:`noise_std` is nearest to *sigma* (pixel scale).

        :raises SettingsError: for a negative *sigma*, or one beyond the end of the chain.
        """
        if not 0 <= sigma <= float(self._noise_stds[-1]):  # NaN fails too
            raise SettingsError(
                "noise level outside the chain",
                where="sigma",
                found=sigma,
                allowed=f"0..{float(self._noise_stds[-1]):.6g} in pixel scale ({self.length} {self.name} steps)",
                hint="sigma is in pixel scale, where images lie in [0, 1]: 6.37/255 is written 0.02498",
            )
        levels = torch.cat([torch.zeros(1, dtype=torch.float64), self._noise_stds])
        return int(torch.argmin((levels - sigma).abs()))

    @cached_property
    def _noise_stds(self) -> Tensor:
        return ((1 - self.alphas_cumprod) / self.alphas_cumprod).sqrt() / 2


class NoiseLevel(Settings):
    """How far images are noised before they are denoised: the noise level ``t*``.

    Given in one of two ways. A bare index is not possible: t* = 100 means 6.4/255 of noise in a cosine chain of 4000,
    and 21.3/255 in one of 1000.

    >>> NoiseLevel(steps=100, of=4000).resolve(Schedule("cosine", 1000))
    25
    >>> NoiseLevel(sigma=0.02498).resolve(Schedule("cosine", 4000))
    100
    """

    whole: ClassVar[bool] = True  # a level given as sigma must not be filled up with the steps of a default

    sigma: float | None = Field(
        None, ge=0, allow_inf_nan=False, description="noise relative to the image, in pixel scale; 6.37/255 = 0.02498"
    )
    steps: int | None = Field(None, ge=0, description="t*, in steps of a chain of length `of`")
    of: int | None = Field(None, ge=1, description="length of the chain that `steps` counts in")
    schedule: ScheduleName | None = Field(
        None, description="schedule of the chain that `steps` counts in; default: the denoiser's"
    )

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.steps is None) != (self.of is None):
            raise ValueError("`steps` means nothing without the chain length `of`: give both, e.g. steps=100, of=4000")
        if (self.sigma is None) == (self.steps is None):
            raise ValueError("give either `sigma`, or `steps` and `of`")
        if self.sigma is not None and self.schedule is not None:
            raise ValueError("`schedule` belongs to `steps` and `of`; `sigma` does not depend on it")
        if self.steps is not None and self.of is not None and self.steps > self.of:
            raise ValueError(f"`steps` lies outside the chain: {self.steps} of {self.of}")
        return self

    def resolve(self, schedule: Schedule) -> int:
        """Return ``t*`` in the chain of *schedule*; through σ when the level was given in another chain.

        Another schedule than the denoiser's has its usual betas (1e-4 to 0.02 for the linear ones), the same schedule
        has the denoiser's; betas do not change with the length.

        :raises SettingsError: when *schedule* has no such level, or only levels far above a positive one.
        """
        sigma = self.sigma
        if sigma is None:
            assert self.steps is not None and self.of is not None  # held by the validator
            same = self.schedule in (None, schedule.name)
            if same and self.of == schedule.length:
                return self.steps
            chain = (
                Schedule(schedule.name, self.of, schedule.beta_start, schedule.beta_end)
                if same
                else Schedule(self.schedule or schedule.name, self.of)
            )
            sigma = chain.noise_std(self.steps)
        steps = schedule.steps_for(sigma)
        if steps == 0 and sigma > 0:
            raise SettingsError(
                "noise level below the first step of the denoiser's chain: nothing would be purified",
                where="level",
                found=f"sigma {sigma:.3g}",
                allowed=f"0, or from about {schedule.noise_std(1):.3g}",
            )
        return steps

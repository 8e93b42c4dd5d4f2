"""Settings of how a denoiser is trained, and their presets."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from ...core.settings import Settings
from ...errors import SettingsError
from ..denoisers.unet import UNetSize
from ..schedule import Schedule, ScheduleName

WHOLE: dict[str, Any] = {  # the chain whose levels every defense that purifies can use
    "schedule": "linear",
    "length": 1000,
    "learn_sigma": False,
    "ema_warmup": True,
    "batch_size": 64,
    "precision": "fastest",
}


class FitSettings(Settings):
    """How to train a denoiser. The defaults are those of ECLIPSE for 32 pixels.

    ``fast`` and ``cpu`` are trained on the spot, for ECLIPSE alone. ``tiny``, ``small`` and ``ddpm`` are made once and
    kept: hours, a day and days of a CPU.
    """

    added: ClassVar[Mapping[str, Any]] = MappingProxyType({"block": None})
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
        {
            "paper": {},
            "fast": {
                "t_train_max": 200,
                "iterations": 20_000,
                "ema_decay": 0.999,
                "ema_warmup": True,
                "precision": "auto",
            },
            "cpu": {
                "size": "tiny",
                "length": 1000,
                "t_train_max": 40,
                "iterations": 2000,
                "batch_size": 32,
                "lr": 4e-4,
                "ema_decay": 0.995,
                "ema_warmup": True,
                "dropout": 0.0,
                "precision": "auto",
            },
            "tiny": {
                **WHOLE,
                "size": "tiny",
                "iterations": 20_000,
                "block": 50,
                "lr": 4e-4,
                "ema_decay": 0.999,
                "dropout": 0.0,
            },
            "small": {
                **WHOLE,
                "size": "small",
                "iterations": 60_000,
                "block": 20,
                "lr": 3e-4,
                "ema_decay": 0.9995,
                "dropout": 0.1,
            },
            "ddpm": {
                **WHOLE,
                "size": "ddpm",
                "iterations": 200_000,
                "block": 10,
                "lr": 2e-4,
                "ema_decay": 0.9999,
                "dropout": 0.1,
            },
        }
    )

    size: UNetSize = Field("eclipse", description="the network: tiny for CPUs and 16 to 32 px, small, ddpm, eclipse")
    schedule: ScheduleName = Field("cosine", description="noise schedule of the chain")
    length: int = Field(4000, ge=2, le=100_000, description="T, steps of the chain")
    learn_sigma: bool = Field(True, description="learn the variance too, with the hybrid loss")
    t_train_max: int | None = Field(
        None, ge=1, description="train on indices below this alone; noise levels above it cannot be used; None: all"
    )
    iterations: int = Field(250_000, ge=1, description="optimiser steps")
    batch_size: int = Field(128, ge=1, description="images per step")
    lr: float = Field(1e-4, gt=0, description="of AdamW with betas 0.9 and 0.999 and no weight decay; constant")
    ema_decay: float = Field(0.9999, ge=0, lt=1, description="of the averaged weights, which are the result")
    ema_warmup: bool = Field(False, description="after n updates use at most (1 + n)/(10 + n); better for short runs")
    dropout: float = Field(0.3, ge=0, lt=1, description="0.3 for 32 px, 0 for 64 px")
    replications: int = Field(
        4, ge=0, description="M, virtual copies of the images; counted in passes, changes no draw"
    )
    precision: Literal["auto", "fastest", "float32", "bf16"] = Field(
        "float32", description="auto: bf16 autocast on CUDA only; fastest: wherever the device has instructions for it"
    )
    compile: bool = Field(False, description="compile the network; worth it on a GPU, costs half a minute first")
    block: int | None = Field(
        None, ge=1, description="iterations between two points of the curves, and so between two states; None: 250"
    )

    @model_validator(mode="after")
    def _range_within_chain(self) -> Self:
        if self.t_train_max is not None and self.t_train_max > self.length:
            raise ValueError(f"t_train_max = {self.t_train_max} lies beyond the chain of length = {self.length}")
        return self

    @model_validator(mode="after")
    def _sound_chain(self) -> Self:
        try:
            Schedule(self.schedule, self.length)
        except SettingsError as error:
            raise ValueError(f"length = {self.length}, {self.schedule}: {error.what}; {error.allowed}") from None
        return self

    @property
    def trained_steps(self) -> int:
        """Number of indices that are trained."""
        return self.length if self.t_train_max is None else self.t_train_max

    @property
    def timestep_scale(self) -> float:
        """What the network gets as timestep per index: ``i · 1000/T``."""
        return 1000 / self.length

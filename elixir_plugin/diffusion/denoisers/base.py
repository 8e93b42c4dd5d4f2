"""What every denoiser offers, whether it is a network or a formula."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from typing_extensions import Self

from ..schedule import Schedule

Variance = Literal["fixed_small", "fixed_large", "learned_range"]


@dataclass(frozen=True)
class Prediction:
    """What a denoiser predicts for a batch of states ``[B, C, H, W]``.

    :param eps: float32, the predicted noise.
    :param variance: float32 head ``w`` of a ``learned_range`` denoiser, not clamped to [-1, 1]; else None.
    """

    eps: Tensor
    variance: Tensor | None = None


class Denoiser(ABC):
    """Predicts the noise in a noised image. Subclasses set the attributes and write the abstract methods.

    :ivar schedule: the chain the denoiser was made for.
    :ivar image_size: edge length in pixels it was trained for; None: any.
    :ivar channels: 1 or 3; other images are refused.
    :ivar stride: both image sides must be a multiple of this; purification pads and crops where they are not.
    :ivar variance: how the variance of a reverse step is found.
    :ivar trained_steps: indices below this were trained; noise levels above it are refused.
    :ivar device: where the states must be.
    :ivar notes: what a reader of results must know, e.g. which of several weight files was read.
    :ivar summary: the network in a few words; None for a formula.
    :ivar network: the module behind :meth:`predict`, or None for a formula. :meth:`predict` calls it through this
        attribute, because purification may give it another memory layout, or put a compiled twin in its place.
    """

    schedule: Schedule
    image_size: int | None = None
    channels: int = 3
    stride: int = 1
    variance: Variance = "fixed_large"
    trained_steps: int
    device: torch.device = torch.device("cpu")
    network: nn.Module | None = None
    notes: tuple[str, ...] = ()
    summary: str | None = None

    @abstractmethod
    def predict(self, states: Tensor, indices: Tensor) -> Prediction:
        """Predict the noise in *states*.

        :param states: float32 ``[B, channels, H, W]`` in model scale, on :attr:`device`.
        :param indices: int64 ``[B]`` in 0..T−1 of :attr:`schedule`, also when fewer steps than T are visited.
        """

    def for_samples(self, ids: Tensor) -> Denoiser:
        """Return the denoiser for the samples *ids*, int64 ``[B]``, in the order of the states to come.

        A denoiser is a function of state and index, so this is self; only one that knows its samples differs.
        """
        return self

    @abstractmethod
    def to(self, device: torch.device | str) -> Self:
        """Move to *device* and return self."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Return 12 hex digits over weights, schedule and settings; they go into manifests."""

"""Averages of a network's weights over its training: the weights that a trained denoiser uses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


class WeightAverage:
    """Exponential moving average of weights: ``average ← decay · average + (1 − decay) · weight`` per update.

    :param decay: constant; or, with *warmup*, at most (1 + n)/(10 + n) after n updates.
    :ivar average: the averaged tensors, in the order of *weights*; they start as copies.
    :ivar updates: int64 scalar on the CPU.
    """

    def __init__(self, weights: Sequence[Tensor], decay: float, *, warmup: bool) -> None:
        self._weights = [each.detach() for each in weights]
        self._decay, self._warmup = decay, warmup
        self.average = [each.clone() for each in self._weights]
        self.updates = torch.zeros((), dtype=torch.int64)

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights as they are now; nothing is copied back from the device."""
        done = int(self.updates)
        decay = min(self._decay, (1 + done) / (10 + done)) if self._warmup else self._decay
        torch._foreach_lerp_(self.average, self._weights, 1 - decay)
        self.updates += 1

    @torch.no_grad()
    def apply(self) -> None:
        """Overwrite the weights with their average."""
        for weight, value in zip(self._weights, self.average, strict=True):
            weight.copy_(value)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let the weights be their average for a while; what they were comes back bit for bit."""
        kept = [weight.clone() for weight in self._weights]
        self.apply()
        try:
            yield
        finally:
            with torch.no_grad():
                for weight, value in zip(self._weights, kept, strict=True):
                    weight.copy_(value)

    def state(self) -> dict[str, Tensor]:
        """Return all tensors by name, to be saved, and filled again in place."""
        return {"updates": self.updates, **{str(row): value for row, value in enumerate(self.average)}}

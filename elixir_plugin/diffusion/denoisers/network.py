"""What denoisers that are networks share, whichever project the network comes from."""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Self

from ...core.classifier.weights import unwrap
from .base import Denoiser, Prediction
from .weight_files import weights_digest


class NetworkDenoiser(Denoiser):
    """A network that predicts ε in its first channels, and perhaps the variance in as many more.

    :ivar timestep_scale: what an index is multiplied with before the network sees it.
    """

    network: nn.Module
    timestep_scale: float = 1.0

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(each.numel() for each in self.network.parameters())

    @abstractmethod
    def output(self, states: Tensor, times: Tensor) -> Tensor:
        """Return what the network makes of *states* at *times*, float32 ``[B]``."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """Return what decides the predictions besides the weights, in JSON types."""

    def predict(self, states: Tensor, indices: Tensor) -> Prediction:
        output = self.output(states, indices.to(torch.float32) * self.timestep_scale).float()
        head = output[:, self.channels :] if self.variance == "learned_range" else None
        return Prediction(output[:, : self.channels], head)

    def to(self, device: torch.device | str) -> Self:
        self.network.to(device)
        self.device = next(self.network.parameters()).device
        return self

    def fingerprint(self) -> str:
        """Return a hash of the facts and the weights."""
        digest = hashlib.sha256(json.dumps(self.facts(), sort_keys=True).encode())
        return weights_digest(digest, unwrap(self.network))

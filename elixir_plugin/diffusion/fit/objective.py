"""What a denoiser is trained to minimise: ε-prediction, and the bound on the likelihood for a learned variance.

Everything follows Nichol & Dhariwal, "Improved denoising diffusion probabilistic models"
(2021), equations 14 to 17.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...training.batches import Batch
from ...training.loop import Losses, Objective
from ..schedule import Schedule

HALF_BIN = 1 / 255  # half the width of a grey level, in model scale
EDGE = 0.999  # beyond this, a level's bin is open to the outside
FLOOR = 1e-12  # of probabilities, before their logarithm


@dataclass(frozen=True)
class NoisyBatch(Batch):
    """A batch with its draws.

    :param noise: float32 ``[B, C, H, W]``, standard normal.
    :param indices: int64 ``[B]`` in 0..T−1.
    """

    noise: Tensor
    indices: Tensor


class Tables:
    """Per-index factors, float32 ``[T]`` on a device, from float64 ones.

    :ivar log_lower, log_upper: log β̃, with β̃_1 in place of β̃_0 = 0, and log β.
    """

    def __init__(self, schedule: Schedule, device: torch.device) -> None:
        kept, before, betas = schedule.alphas_cumprod, schedule.alphas_cumprod_prev, schedule.betas
        lower = schedule.posterior_variance.clone()
        lower[0] = lower[1] if len(lower) > 1 else betas[0]
        tables = {
            "signal": kept.sqrt(),
            "noise": (1 - kept).sqrt(),
            "unscale": (1 / kept).sqrt(),
            "unnoise": (1 / kept - 1).sqrt(),
            "from_image": betas * before.sqrt() / (1 - kept),
            "from_state": (1 - before) * (1 - betas).sqrt() / (1 - kept),
            "log_lower": lower.log(),
            "log_upper": betas.log(),
        }
        self._tables = {name: table.float().to(device) for name, table in tables.items()}

    def at(self, name: str, indices: Tensor) -> Tensor:
        """Return one factor per sample, ``[B, 1, 1, 1]``."""
        return self._tables[name][indices][:, None, None, None]

    def noised(self, images: Tensor, noise: Tensor, indices: Tensor) -> Tensor:
        """Return x_i for images ``[B, C, H, W]`` in model scale."""
        return self.at("signal", indices) * images + self.at("noise", indices) * noise

    def log_variance(self, head: Tensor, indices: Tensor) -> Tensor:
        """Return log Σ for the variance head ``w``: -1 gives log β̃, 1 gives log β, linear between and beyond."""
        share = (head + 1) / 2
        return share * self.at("log_upper", indices) + (1 - share) * self.at("log_lower", indices)


def denoising_objective(
    schedule: Schedule, *, timestep_scale: float, learn_sigma: bool, device: torch.device
) -> Objective:
    """Return the objective ``L_simple``, plus ``T/1000 · L_vb`` when the variance is learned.

    The network is called once per sample. ``L_vb`` sees the predicted noise detached, so it trains the variance alone.

    :param timestep_scale: the network is told ``i · timestep_scale``.
    :return: maps network and :class:`NoisyBatch` to ``loss``, ``simple`` (mean squared error of ε̂) and ``bound`` (bits
        per dimension of one term of the likelihood bound; only for a learned variance).
    """
    tables = Tables(schedule, device)

    def objective(network: nn.Module, batch: Batch) -> Losses:
        assert isinstance(batch, NoisyBatch)
        images, indices = 2 * batch.images - 1, batch.indices
        states = tables.noised(images, batch.noise, indices)
        output = network(states, indices.float() * timestep_scale, return_dict=False)[0].float()
        eps, head = output.split(images.shape[1], dim=1) if learn_sigma else (output, None)
        simple = (batch.noise - eps).square().mean()
        if head is None:
            return {"loss": simple, "simple": simple}
        bound = likelihood_bound(tables, images, states, indices, eps=eps, head=head).mean()
        return {"loss": simple + schedule.length / 1000 * bound, "simple": simple, "bound": bound}

    return objective


def likelihood_bound(
    tables: Tables, images: Tensor, states: Tensor, indices: Tensor, *, eps: Tensor, head: Tensor
) -> Tensor:
    """Return ``L_vb(i)`` per sample, ``[B]``, in bits per dimension.

    KL(q(x_{i−1} | x_i, x_0) ‖ N(μ̂, Σ)) for i > 0, and the negative log-likelihood of the grey levels for i = 0.
    μ̂ comes from the detached ε̂, through an x̂_0 that is not clipped.

    :param images, states: x_0 and x_i, ``[B, C, H, W]`` in model scale.
    :param eps, head: what the network predicts, ``[B, C, H, W]`` each.
    """
    guess = tables.at("unscale", indices) * states - tables.at("unnoise", indices) * eps.detach()
    from_image, from_state = tables.at("from_image", indices), tables.at("from_state", indices)
    mean, true_mean = (from_image * start + from_state * states for start in (guess, images))
    log_variance = tables.log_variance(head, indices)
    apart = normal_kl(true_mean, tables.at("log_lower", indices), mean, log_variance)
    level = -level_log_likelihood(images, mean, log_variance / 2)
    nats = torch.where((indices == 0)[:, None, None, None], level, apart)
    return nats.mean(dim=(1, 2, 3)) / math.log(2)


def normal_kl(mean: Tensor, log_variance: Tensor, other_mean: Tensor, other_log_variance: Tensor) -> Tensor:
    """Return KL(N(mean, variance) ‖ N(other mean, other variance)) per element, in nats."""
    distance = (mean - other_mean).square() * torch.exp(-other_log_variance)
    return (other_log_variance - log_variance + torch.exp(log_variance - other_log_variance) + distance - 1) / 2


def level_log_likelihood(images: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Return the log-probability of each grey level under a Gaussian cut into 256 bins, in nats.

    :param images: model scale; the bin reaches ``1/255`` to both sides, and to infinity at black and white.
    """
    scale = torch.exp(-log_std)
    below_upper = _normal_cdf(scale * (images - mean + HALF_BIN))
    below_lower = _normal_cdf(scale * (images - mean - HALF_BIN))
    inside = torch.where(images < -EDGE, below_upper, below_upper - below_lower)
    return torch.where(images > EDGE, 1 - below_lower, inside).clamp(min=FLOOR).log()


def _normal_cdf(value: Tensor) -> Tensor:
    """Approximate the normal distribution function through tanh (Page, 1977), as the published loss does."""
    return (1 + torch.tanh(math.sqrt(2 / math.pi) * (value + 0.044715 * value**3))) / 2

"""Images of a class made from a classifier alone, after DeepInversion (Yin et al., CVPR 2020, arXiv 1912.08795).

An image of noise is moved until the classifier calls it the class. Batch norm keeps mean and variance of what each
layer saw in training; the images are held to these, and to being smooth, or they would be noise to all but the
classifier.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ...core.classifier.classifier import Classifier
from ...core.context import Context

STEPS, RATE = 200, 0.05  # of Adam
STATISTICS, SMOOTHNESS = 10.0, 0.5  # weights, against the cross-entropy
JITTER = 2  # pixels by which the images are rolled in each step
TINY = 1e-5


def keeps_statistics(model: nn.Module) -> bool:
    """Whether *model* has batch norm with statistics of its training images, without which there is nothing to dream.

    One layer will do.
    """
    return bool(_tracking(model))


def dream(model: Classifier, label: int, shape: tuple[int, int, int, int], context: Context, number: int = 0) -> Tensor:
    """Return images that *model* calls *label*, float32 *shape* ``[n, C, H, W]`` in [0, 1], on the model's device.

    :param model: in eval mode, frozen.
    :param number: of the batch; each has draws of its own.
    """
    generator = context.generator("d3", "dream", label, number)
    images = torch.rand(shape, generator=generator).to(model.device).requires_grad_(True)
    shifts = torch.randint(-JITTER, JITTER + 1, (STEPS, 2), generator=generator).tolist()
    wanted = torch.full(shape[:1], label, device=model.device)
    optimizer = torch.optim.Adam([images], RATE)
    with _deviations(model) as deviations:
        for shift in shifts:
            deviations.clear()
            loss = F.cross_entropy(model(images.roll(shift, (2, 3))).float(), wanted)
            loss = loss + STATISTICS * torch.stack(deviations).mean() + SMOOTHNESS * _roughness(images)
            (images.grad,) = torch.autograd.grad(loss, [images])
            optimizer.step()
            with torch.no_grad():
                images.clamp_(0, 1)
    return images.detach()


@contextmanager
def _deviations(model: nn.Module) -> Iterator[list[Tensor]]:
    """Collect how far the input of each batch norm is from its statistics, while the model runs."""
    found: list[Tensor] = []

    def measure(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        mean, variance = layer.running_mean, layer.running_var
        assert isinstance(mean, Tensor) and isinstance(variance, Tensor)
        values = inputs[0].float().transpose(0, 1).flatten(1)  # [channels, all else]
        spread = (variance + TINY).sqrt()
        own = (values.var(1, correction=0) + TINY).sqrt()
        found.append((((values.mean(1) - mean) / spread).square() + (own / spread - 1).square()).mean())

    handles = [layer.register_forward_pre_hook(measure) for layer in _tracking(model)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _tracking(model: nn.Module) -> list[nn.Module]:
    layers = (layer for layer in model.modules() if isinstance(layer, _BatchNorm))
    return [layer for layer in layers if layer.running_mean is not None and layer.running_var is not None]


def _roughness(images: Tensor) -> Tensor:
    """Return the mean absolute difference of neighbouring pixels, down and across."""
    down, across = images[:, :, 1:] - images[:, :, :-1], images[..., 1:] - images[..., :-1]
    return down.abs().mean() + across.abs().mean()

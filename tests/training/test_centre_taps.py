"""Convolutions over maps of one pixel: the same answer and gradients, from the centre of the kernel alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from elixir_plugin import Context
from elixir_plugin.core.classifier.classifier import Classifier
from elixir_plugin.core.images import ImageSet
from elixir_plugin.training.batches import Samples, ShuffledBatches
from elixir_plugin.training.device import CentreTaps
from elixir_plugin.training.loop import Recipe, train


def pass_through(layer: nn.Module, images: Tensor) -> tuple[Tensor, list[Tensor]]:
    layer.zero_grad()
    images = images.clone().requires_grad_()
    out = layer(images)
    (out * torch.linspace(-1, 1, out.numel()).reshape(out.shape)).sum().backward()
    return out.detach(), [images.grad, *(each.grad.clone() for each in layer.parameters())]


@pytest.mark.parametrize("side", [1, 2])
@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": 3, "padding": 1, "stride": 2, "bias": False},
        {"kernel_size": 5, "padding": 2, "groups": 2},
        {"kernel_size": (3, 1), "padding": (1, 0)},
        {"kernel_size": 3, "padding": "same"},
        {"kernel_size": 3, "padding": 2},
        {"kernel_size": 3, "padding": 2, "dilation": 2},
        {"kernel_size": 2, "padding": 1},
        {"kernel_size": 1},
        {"kernel_size": 3, "padding": 1, "padding_mode": "replicate"},
    ],
    ids=str,
)
def test_every_convolution_answers_as_before(options: dict[str, Any], side: int) -> None:
    torch.manual_seed(0)
    layer, images = nn.Conv2d(4, 6, **options), torch.rand(5, 4, side, side)
    expected, gradients = pass_through(layer, images)
    with CentreTaps():
        found, others = pass_through(layer, images)
    assert found.shape == expected.shape
    assert torch.allclose(found, expected, atol=1e-6)
    for one, other in zip(gradients, others, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


class Watching(TorchFunctionMode):
    """Notes the kernels of the convolutions that reach it: modes are asked from the inner to the outer."""

    def __init__(self) -> None:
        self.kernels: list[tuple[int, ...]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.conv2d:
            self.kernels.append(tuple(args[1].shape[-2:]))
        return func(*args, **(kwargs or {}))


def test_only_the_centre_is_multiplied_and_only_at_one_pixel() -> None:
    layer = nn.Conv2d(4, 6, 3, padding=1)
    with Watching() as watch, CentreTaps():
        layer(torch.rand(5, 4, 1, 1))
        layer(torch.rand(5, 4, 2, 1))
    assert watch.kernels == [(1, 1), (3, 3)]


def test_training_on_a_cpu_uses_it() -> None:
    model = Classifier.build("resnet18", 10, seed=1)
    images = ImageSet(np.zeros((4, 32, 32, 3), np.uint8), [0, 1, 2, 3], 10)
    recipe, context = Recipe(epochs=1, batch_size=4), Context()
    with Watching() as watch:
        samples = Samples(images, context.device)
        train(model, ShuffledBatches(samples, 4, context, recipe.augmentation, "x"), recipe, context)
    assert watch.kernels.count((1, 1)) == 3 + 3  # three shortcuts; the last block, but for its first layer


def test_a_network_made_for_large_images_gives_the_same() -> None:
    model = Classifier.build("resnet18", 10, seed=1).eval()
    images = torch.rand(4, 3, 32, 32)
    expected, gradients = pass_through(model, images)
    with CentreTaps():
        found, others = pass_through(model, images)
    assert torch.allclose(found, expected, atol=1e-5)
    scale = max(float(each.abs().max()) for each in gradients)
    assert max(float((one - other).abs().max()) for one, other in zip(gradients, others, strict=True)) < 1e-5 * scale

"""The built-in architectures. Module names follow the customary ones, so that checkpoints from elsewhere load by name.

Sources: He et al., "Deep Residual Learning" (CVPR 2016) and "Identity Mappings in Deep Residual Networks"
(ECCV 2016), both with the 3×3 stem that is usual for 32×32 images.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


def _conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1, bias=False)


class PreActBlock(nn.Module):
    """BN-ReLU-conv twice; the shortcut starts behind the first activation."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = _conv3x3(inputs, outputs, stride)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = _conv3x3(outputs, outputs)
        self.shortcut: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, kernel_size=1, stride=stride, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        skip = x if self.shortcut is None else self.shortcut(active)
        out: Tensor = self.conv2(F.relu(self.bn2(self.conv1(active))))
        return out + skip


class BasicBlock(nn.Module):
    """conv-BN-ReLU-conv-BN with the shortcut added before the last ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv3x3(inputs, outputs, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = _conv3x3(outputs, outputs)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, kernel_size=1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class ResNet(nn.Module):
    """3×3 stem, stages of residual blocks, global average pooling, one linear layer.

    :param block: :class:`BasicBlock` or :class:`PreActBlock`; the latter needs no batch norm behind the stem.
    :param widths: channels of each stage; every stage but the first halves the resolution.
    :param depth: blocks per stage.
    :param stem_stride: 2 halves the resolution at once, at a quarter of the cost.
    """

    def __init__(
        self,
        block: type[BasicBlock | PreActBlock],
        widths: Sequence[int],
        depth: int,
        num_classes: int,
        channels: int,
        *,
        stem_stride: int = 1,
    ) -> None:
        super().__init__()
        self.conv1 = _conv3x3(channels, widths[0], stem_stride)
        self.bn1 = nn.BatchNorm2d(widths[0]) if block is BasicBlock else None
        self.stages = len(widths)
        inputs = widths[0]
        for number, width in enumerate(widths, start=1):
            strides = [1 if number == 1 else 2] + [1] * (depth - 1)
            blocks = [block(inputs if i == 0 else width, width, stride) for i, stride in enumerate(strides)]
            self.add_module(f"layer{number}", nn.Sequential(*blocks))
            inputs = width
        self.linear = nn.Linear(inputs, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(x)
        if self.bn1 is not None:
            out = F.relu(self.bn1(out))
        for number in range(1, self.stages + 1):
            out = self.get_submodule(f"layer{number}")(out)
        logits: Tensor = self.linear(F.adaptive_avg_pool2d(out, 1).flatten(1))
        return logits


def preactresnet18(num_classes: int, channels: int = 3) -> ResNet:
    """Pre-activation ResNet-18; its pooled features pass no last activation, as is customary."""
    return ResNet(PreActBlock, (64, 128, 256, 512), 2, num_classes, channels)


def cifar_resnet18(num_classes: int, channels: int = 3) -> ResNet:
    """ResNet-18 with 3×3 stem and without max-pooling."""
    return ResNet(BasicBlock, (64, 128, 256, 512), 2, num_classes, channels)


def small_resnet(num_classes: int, channels: int = 3) -> ResNet:
    """ResNet-8 with widths 16-32-64, for work on a CPU."""
    return ResNet(BasicBlock, (16, 32, 64), 1, num_classes, channels)


def fast_resnet(num_classes: int, channels: int = 3) -> ResNet:
    """:func:`small_resnet` with a stem of stride 2, a quarter of its cost."""
    return ResNet(BasicBlock, (16, 32, 64), 1, num_classes, channels, stem_stride=2)


def narrow_resnet18(num_classes: int, channels: int = 3) -> ResNet:
    """ResNet-18 with widths 16-32-48-64, for many classes at a low resolution."""
    return ResNet(BasicBlock, (16, 32, 48, 64), 2, num_classes, channels)

"""A small convolutional network that learns 32×32 images in minutes on a CPU.

After Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU" (arXiv 2404.00498), section 3: a whitened 2×2 stem,
conv-pool-conv blocks with GELU, identity-like initial filters, global max-pooling. Here the widths are smaller, and
the filters of the stem are computed in closed form, not from the training images, so that weights fit into any model
of the same shape and a suspect set has no say in them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Standard deviations of natural images, each channel scaled to 1, along the stem's directions: brightness or colour of
# four neighbouring pixels; their mean, and how they differ across, down, and on the diagonals. Fine differences of
# colour are mostly noise of the camera or of JPEG, and are taken for larger than they are, so as not to raise them.
BRIGHTNESS = (3.2, 0.6, 0.6, 0.25)
COLOUR = (0.7, 0.2, 0.2, 0.1)
LOGIT_SCALE = 1 / 9  # of the pooled activations, arXiv 2404.00498, section 3.1


class WhitenedStem(nn.Module):
    """Fixed 2×2 filters, each with both signs, that give all directions of a 2×2 patch about the same strength.

    The directions are those of a Haar transform of the pixels and a cosine transform of the channels, which come close
    to the principal components of natural images. Whitened along them, a patch is turned back to its channels (ZCA,
    Bell and Sejnowski 1997), so that each filter also answers to brightness. Filters of colour alone would answer to
    grey images with a constant, whose rounding errors batch norm raises to full strength. Only the biases are learned.
    """

    filters: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        patches = torch.tensor([[[1, 1], [1, 1]], [[1, -1], [1, -1]], [[1, 1], [-1, -1]], [[1, -1], [-1, 1]]]) / 2
        steps = torch.arange(channels)
        mixes = torch.cos(math.pi / channels * steps[:, None] * (steps + 0.5))  # for RGB: grey, red-blue, green-magenta
        mixes = mixes / mixes.norm(dim=1, keepdim=True)
        scales = torch.tensor([BRIGHTNESS] + [COLOUR] * (channels - 1))
        whitening = mixes[:, None, :, None, None] * patches[None, :, None] / scales[..., None, None, None]
        filters = torch.einsum("mr,mpcij->rpcij", mixes, whitening).flatten(0, 1)
        self.register_buffer("filters", torch.cat([filters, -filters]), persistent=False)
        self.bias = nn.Parameter(torch.empty(len(self.filters)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(F.conv2d(x, self.filters, self.bias))


class IdentityConv(nn.Conv2d):
    """3×3 convolution whose first filters start as the identity, the others at random."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, kernel_size=3, padding=1, bias=False)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        with torch.no_grad():
            nn.init.dirac_(self.weight[: self.in_channels])


class PoolBlock(nn.Module):
    """conv-pool-BN-GELU-conv-BN-GELU; halves the resolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = IdentityConv(inputs, outputs)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = IdentityConv(outputs, outputs)
        self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(x)
        if min(out.shape[2:]) > 1:
            out = F.max_pool2d(out, 2)
        out = F.gelu(self.bn1(out))
        return F.gelu(self.bn2(self.conv2(out)))


class FastConvNet(nn.Module):
    """Whitened stem, blocks of *widths*, global max-pooling, one linear layer without bias."""

    def __init__(self, widths: Sequence[int], num_classes: int, channels: int) -> None:
        super().__init__()
        self.stem = WhitenedStem(channels)
        inputs = len(self.stem.filters)
        blocks = []
        for width in widths:
            blocks.append(PoolBlock(inputs, width))
            inputs = width
        self.blocks = nn.Sequential(*blocks)
        self.linear = nn.Linear(inputs, num_classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = self.blocks(self.stem(x))
        logits: Tensor = self.linear(F.adaptive_max_pool2d(out, 1).flatten(1) * LOGIT_SCALE)
        return logits


def fast_convnet(num_classes: int, channels: int = 3) -> FastConvNet:
    """Widths 32-128-384: 2 million weights, 58 million multiply-adds for an image of 32×32 pixels."""
    return FastConvNet((32, 128, 384), num_classes, channels)

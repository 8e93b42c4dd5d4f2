"""DataElixir, SELECT: which of a sample's images stands for it afterwards.

The distance of an image to the original is λ times what differs in structure (SSIM) plus 1 − λ times what differs in
the features of the probe. The choice is far from the original, so that a trigger is gone, but not the farthest, so
that the content is kept: position ⌊0.8 · L⌋ of L images in the order of distance.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from ...core.settings import Settings

C1, C2 = 0.01**2, 0.03**2  # Wang et al., 2004, for images in [0, 1]
SMALL_IMAGE = 16  # pixels; below, the window is 3


class Selection(Settings):
    """How SELECT measures and chooses."""

    weight: float = Field(0.5, ge=0, le=1, description="λ: structure against features")
    quantile: float = Field(0.8, ge=0, lt=1, description="how far from the original, among the images of a sample")
    ssim: Literal["2d", "vol3d"] = Field(
        "2d", description="mean over channels; or one volume of height, width and channel, as the released code has it"
    )
    window: int | None = Field(
        None, ge=3, le=63, description="edge of the SSIM window; default: 7; 3 below 16 pixels and for volumes"
    )


def ssim(first: Tensor, second: Tensor, mode: Literal["2d", "vol3d"] = "2d", window: int | None = None) -> Tensor:
    """Return the mean structural similarity of image pairs, float64 ``[B]``, in [-1, 1].

    Uniform window, sample covariance, data range 1; the mean is over places where the window fits. Equal images have
    1, constant ones too: the constants of the formula keep 0/0 out.

    :param first, second: ``[B, C, H, W]`` in [0, 1].
    :param mode: ``"2d"``: per channel. ``"vol3d"``: with a cubic window over height, width and channel; images with
        fewer channels than the window is long are measured per channel.
    :param window: odd edge length; cut to what fits.
    """
    height, width = first.shape[-2:]
    edge = window or (7 if mode == "2d" and min(height, width) >= SMALL_IMAGE else 3)
    edge = min(edge, height, width)
    edge -= edge % 2 == 0
    x, y = (_float64(each).unsqueeze(1) for each in (first, second))  # [B, 1, C, H, W]
    depth = edge if mode == "vol3d" and first.shape[1] >= edge else 1

    def mean(values: Tensor) -> Tensor:
        return F.avg_pool3d(values, (depth, edge, edge), stride=1)

    count = depth * edge * edge
    unbiased = count / (count - 1) if count > 1 else 1.0
    mean_x, mean_y = mean(x), mean(y)
    var_x = (mean(x * x) - mean_x * mean_x) * unbiased
    var_y = (mean(y * y) - mean_y * mean_y) * unbiased
    cov = (mean(x * y) - mean_x * mean_y) * unbiased
    light = (2 * mean_x * mean_y + C1) / (mean_x * mean_x + mean_y * mean_y + C1)
    structure = (2 * cov + C2) / (var_x + var_y + C2)
    return (light * structure).flatten(1).mean(1)


def _float64(values: Tensor) -> Tensor:
    return values.float() if values.device.type == "mps" else values.double()  # MPS has no float64


def distances(images: Tensor, features: Tensor, settings: Selection) -> Tensor:
    """Return the distance of each image to the original, ``[B, M]`` in [0, 1]; 0 for the original itself.

    :param images: ``[B, M, C, H, W]`` in [0, 1]; slot 0 is the original.
    :param features: ``[B, M, D]``; a vector of zeros has no direction and counts as orthogonal.
    """
    count, slots = images.shape[:2]
    original = images[:, :1].expand_as(images)
    alike = ssim(original.flatten(0, 1), images.flatten(0, 1), settings.ssim, settings.window).reshape(count, slots)
    inner = _float64(features)
    cosine = F.cosine_similarity(inner[:, :1].expand_as(inner), inner, dim=2).clamp(-1, 1)
    distance = settings.weight * (1 - alike.clamp(-1, 1)) / 2 + (1 - settings.weight) * (1 - cosine) / 2
    distance[:, 0] = 0
    return distance


def choose(distance: Tensor, listed: Tensor, quantile: float) -> Tensor:
    """Return the chosen slot of each sample, int64 ``[B]``.

    :param distance: ``[B, M]``.
    :param listed: bool ``[B, M]``, the slots to choose from; at least one each.
    :param quantile: position ⌊quantile · L⌋ among the L listed slots, nearest first; ties in the order of slots.
    """
    order = torch.where(listed, distance, math.inf).sort(dim=1, stable=True).indices
    lengths = listed.sum(1)
    position = (lengths.double() * quantile + 1e-9).floor().long()  # 0.29 · 100 is 28.999… in binary
    return order.gather(1, torch.minimum(position, lengths - 1)[:, None])[:, 0]

"""The network of improved-diffusion and guided-diffusion, under the names its checkpoints use.

Nichol & Dhariwal, "Improved Denoising Diffusion Probabilistic Models" (2021), and Dhariwal & Nichol, "Diffusion Models
Beat GANs on Image Synthesis" (2021). Inference alone: no dropout, and one class for all images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GROUPS = 32  # of every normalisation
PERIOD = 10_000  # of the slowest wave of the time embedding


@dataclass(frozen=True)
class GuidedPlan:
    """What decides the shapes of the weights; all of it can be read from them.

    :param in_channels, out_channels: of images; twice as many out when the variance is learned.
    :param base: channels of the time embedding before its layers, those that the widths are multiples of.
    :param first: channels after the first convolution.
    :param widths: channels of each level; the image is halved between levels.
    :param blocks: residual blocks per level on the way down; one more on the way up.
    :param attention: whether each level attends; the middle always does.
    :param scale_shift: the embedding scales and shifts what is normalised, where otherwise it is added before.
    :param block_resampling: residual blocks halve and double the image, where otherwise convolutions do.
    :param classes: number of classes of a conditional network; else None.
    """

    in_channels: int
    out_channels: int
    base: int
    first: int
    widths: tuple[int, ...]
    blocks: int
    attention: tuple[bool, ...]
    scale_shift: bool
    block_resampling: bool
    classes: int | None

    @property
    def stride(self) -> int:
        """Both image sides must be a multiple of this."""
        return int(2 ** (len(self.widths) - 1))

    @property
    def attended(self) -> tuple[int, ...]:
        """Channels of everything that attends."""
        levels = [width for width, attends in zip(self.widths, self.attention, strict=True) if attends]
        return (*levels, self.widths[-1])


@dataclass(frozen=True)
class Heads:
    """How attention is divided into heads, which no shape shows.

    :param count: heads on the way down and in the middle.
    :param count_up: heads on the way up.
    :param channels: per head; instead of both counts.
    :param split_first: queries, keys and values are divided first and heads second (guided-diffusion's
        ``use_new_attention_order``).
    """

    count: int | None
    count_up: int | None
    channels: int | None
    split_first: bool

    def of(self, width: int, *, up: bool) -> int:
        """Return the number of heads at *width* channels; 0 where they do not divide it."""
        heads = (self.count_up if up else self.count) if self.channels is None else width // self.channels
        return heads if heads and width % heads == 0 and self.channels in (None, width // heads) else 0


def time_embedding(times: Tensor, width: int) -> Tensor:
    """Return sinusoids ``[B, width]`` of *times* ``[B]``, cosines first; *width* is even."""
    half = width // 2
    rates = torch.exp(-math.log(PERIOD) * torch.arange(half, dtype=torch.float32, device=times.device) / half)
    angles = times.float()[:, None] * rates
    return torch.cat([angles.cos(), angles.sin()], 1)


class _Halve(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, states: Tensor, _: Tensor) -> Tensor:
        halved: Tensor = self.op(states)
        return halved


class _Double(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, states: Tensor, _: Tensor) -> Tensor:
        doubled: Tensor = self.conv(F.interpolate(states, scale_factor=2.0, mode="nearest"))
        return doubled


class _First(nn.Conv2d):
    def forward(self, states: Tensor, _: Any = None) -> Tensor:
        return super().forward(states)


class _Residual(nn.Module):
    """A residual block; *resample* is -1 to halve the image on the way, 1 to double it."""

    def __init__(self, plan: GuidedPlan, width_in: int, width: int, resample: int = 0) -> None:
        super().__init__()
        self.scale_shift, self.resample = plan.scale_shift, resample
        norm = nn.GroupNorm(GROUPS, width_in), nn.GroupNorm(GROUPS, width)
        self.in_layers = nn.Sequential(norm[0], nn.SiLU(), nn.Conv2d(width_in, width, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(4 * plan.base, width * (2 if plan.scale_shift else 1)))
        no_dropout = nn.Identity()
        self.out_layers = nn.Sequential(norm[1], nn.SiLU(), no_dropout, nn.Conv2d(width, width, 3, padding=1))
        self.skip_connection = nn.Identity() if width_in == width else nn.Conv2d(width_in, width, 1)

    def forward(self, states: Tensor, embedding: Tensor) -> Tensor:
        inner = self._resampled(self.in_layers[:2](states))
        inner = self.in_layers[2](inner)
        moved = self.emb_layers(embedding)[:, :, None, None]
        if self.scale_shift:
            scale, shift = moved.chunk(2, 1)
            inner = self.out_layers[1:](self.out_layers[0](inner) * (1 + scale) + shift)
        else:
            inner = self.out_layers(inner + moved)
        summed: Tensor = self.skip_connection(self._resampled(states)) + inner
        return summed

    def _resampled(self, states: Tensor) -> Tensor:
        if self.resample == 0:
            return states
        halve = self.resample < 0
        return F.avg_pool2d(states, 2) if halve else F.interpolate(states, scale_factor=2.0, mode="nearest")


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int, *, split_first: bool) -> None:
        super().__init__()
        self.heads, self.split_first = heads, split_first
        self.norm = nn.GroupNorm(GROUPS, width)
        self.qkv = nn.Conv1d(width, 3 * width, 1)
        self.proj_out = nn.Conv1d(width, width, 1)

    def forward(self, states: Tensor, _: Tensor) -> Tensor:
        batch, width, *sides = states.shape
        flat = states.reshape(batch, width, -1)
        shape = (3, self.heads) if self.split_first else (self.heads, 3)
        parts = self.qkv(self.norm(flat)).reshape(batch, *shape, width // self.heads, -1)
        query, key, value = (part.transpose(-1, -2) for part in parts.unbind(1 if self.split_first else 2))
        attended = F.scaled_dot_product_attention(query, key, value).transpose(-1, -2).reshape(batch, width, -1)
        summed: Tensor = flat + self.proj_out(attended)
        return summed.reshape(batch, width, *sides)


class GuidedUNet(nn.Module):
    """The network; its output is the noise, and the variance behind it where that is learned.

    :param label: the class that every image is taken for, for a conditional network.
    :raises ValueError: when the widths cannot be normalised in 32 groups.
    """

    def __init__(self, plan: GuidedPlan, heads: Heads, label: int | None = None) -> None:
        super().__init__()
        self.plan, self.label = plan, label
        inner = 4 * plan.base
        self.time_embed = nn.Sequential(nn.Linear(plan.base, inner), nn.SiLU(), nn.Linear(inner, inner))
        if plan.classes is not None:
            self.label_emb = nn.Embedding(plan.classes, inner)
        width, passed = plan.first, [plan.first]
        down: list[nn.Module] = [_stage(_First(plan.in_channels, plan.first, 3, padding=1))]
        for level, (wide, attends) in enumerate(zip(plan.widths, plan.attention, strict=True)):
            for _ in range(plan.blocks):
                down.append(_stage(_Residual(plan, width, wide), *_attending(attends, wide, heads, up=False)))
                width = wide
                passed.append(width)
            if level < len(plan.widths) - 1:
                down.append(_stage(_Residual(plan, width, width, -1) if plan.block_resampling else _Halve(width)))
                passed.append(width)
        self.input_blocks = nn.ModuleList(down)
        middle = _Residual(plan, width, width), *_attending(True, width, heads, up=False), _Residual(plan, width, width)
        self.middle_block = _stage(*middle)
        up: list[nn.Module] = []
        for level, (wide, attends) in reversed(list(enumerate(zip(plan.widths, plan.attention, strict=True)))):
            for number in range(plan.blocks + 1):
                parts = [_Residual(plan, width + passed.pop(), wide), *_attending(attends, wide, heads, up=True)]
                width = wide
                if level and number == plan.blocks:
                    parts.append(_Residual(plan, width, width, 1) if plan.block_resampling else _Double(width))
                up.append(_stage(*parts))
        self.output_blocks = nn.ModuleList(up)
        last = nn.Conv2d(width, plan.out_channels, 3, padding=1)
        self.out = nn.Sequential(nn.GroupNorm(GROUPS, width), nn.SiLU(), last)

    def forward(self, states: Tensor, times: Tensor) -> Tensor:
        """Return ``[B, out_channels, H, W]`` for *states* ``[B, in_channels, H, W]`` and *times* ``[B]``."""
        embedding = self.time_embed(time_embedding(times, self.plan.base))
        if self.label is not None:
            embedding = embedding + self.label_emb.weight[self.label]
        passed = []
        for stage in self.input_blocks:
            states = _through(stage, states, embedding)
            passed.append(states)
        states = _through(self.middle_block, states, embedding)
        for stage in self.output_blocks:
            states = _through(stage, torch.cat([states, passed.pop()], 1), embedding)
        output: Tensor = self.out(states)
        return output


def _stage(*parts: nn.Module) -> nn.ModuleList:
    return nn.ModuleList(parts)


def _attending(attends: bool, width: int, heads: Heads, *, up: bool) -> list[nn.Module]:
    return [_Attention(width, heads.of(width, up=up), split_first=heads.split_first)] if attends else []


def _through(stage: Any, states: Tensor, embedding: Tensor) -> Tensor:
    for part in stage:
        states = part(states, embedding)
    return states

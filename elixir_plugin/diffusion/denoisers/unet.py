"""The networks that denoisers are trained as: ``UNet2DModel`` of diffusers in four sizes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import nn

from ...errors import InputError, SettingsError, nearest

UNetSize = Literal["tiny", "small", "ddpm", "eclipse"]


@dataclass(frozen=True)
class Architecture:
    """One size of network; everything else follows from the image.

    :param channels: of each level; the image is halved between levels.
    :param blocks: residual blocks per level.
    :param attention: whether each level attends; the middle always does.
    :param options: further arguments of ``UNet2DModel``.
    """

    channels: tuple[int, ...]
    blocks: int
    attention: tuple[bool, ...]
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def stride(self) -> int:
        """Both image sides must be a multiple of this."""
        return int(2 ** (len(self.channels) - 1))


_ADAPTIVE = {  # of improved-diffusion; without attn_norm_num_groups the middle would silently lose its GroupNorm
    "resnet_time_scale_shift": "scale_shift",
    "norm_eps": 1e-5,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "downsample_padding": 1,
}
_PLAIN = {  # of DDPM
    "resnet_time_scale_shift": "default",
    "norm_eps": 1e-6,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "downsample_padding": 0,
    "attention_head_dim": None,
}
SIZES: Mapping[str, Architecture] = MappingProxyType(
    {
        "tiny": Architecture((32, 64, 64), 1, (False, False, True), {**_ADAPTIVE, "attention_head_dim": 32}),
        "small": Architecture((64, 128, 128), 2, (False, False, True), {**_ADAPTIVE, "attention_head_dim": 64}),
        "ddpm": Architecture((128, 256, 256, 256), 2, (False, True, False, False), _PLAIN),
        "eclipse": Architecture(
            (128, 256, 256, 256), 3, (False, True, True, False), {**_ADAPTIVE, "attention_head_dim": 64}
        ),
    }
)
ECLIPSE_64 = Architecture(  # 3 heads at 384 channels, 4 at 512; upstream has 4 at both
    (128, 256, 384, 512), 3, (False, False, True, True), {**_ADAPTIVE, "attention_head_dim": 128}
)


def architecture_of(size: str, image_size: tuple[int, int]) -> Architecture:
    """Return the network of *size* for images of ``(H, W)`` = *image_size*; ``eclipse`` grows from 64 pixels on.

    :raises SettingsError: for an unknown size.
    """
    if size not in SIZES:
        raise SettingsError("unknown size of network", found=size, allowed=", ".join(SIZES), hint=nearest(size, SIZES))
    return ECLIPSE_64 if size == "eclipse" and min(image_size) >= 64 else SIZES[size]


def build_unet(
    size: UNetSize | Architecture,
    image_size: int | tuple[int, int],
    channels: int = 3,
    learn_sigma: bool = False,
    *,
    dropout: float = 0.0,
    seed: int = 0,
) -> nn.Module:
    """Return a fresh ``UNet2DModel`` whose output is exactly 0: what is added last in each block starts at zero.

    Parameters with 3 channels: ``tiny`` 1,193,254 and ``small`` 6,950,918 (learned variance), ``ddpm`` 35,746,307
    (fixed variance), ``eclipse`` 52,546,438 and, from 64 pixels on, 121,063,942 (learned variance).

    :param image_size: edge length, or ``(H, W)``, in pixels; the network's config says it as it is given.
    :param channels: of the images, 1 or 3.
    :param learn_sigma: predict the variance too: ``2 · channels`` outputs.
    :param seed: of the weights.
    :raises InputError: when a side is no multiple of the network's stride.
    """
    sides = (image_size, image_size) if isinstance(image_size, int) else image_size
    plan = architecture_of(size, sides) if isinstance(size, str) else size
    refuse_misfit(sides, plan.stride)
    groups = math.gcd(*plan.channels, max(1, plan.channels[0] // 4))
    config = {
        "sample_size": image_size,
        "in_channels": channels,
        "out_channels": channels * (2 if learn_sigma else 1),
        "block_out_channels": plan.channels,
        "layers_per_block": plan.blocks,
        "down_block_types": tuple("AttnDownBlock2D" if each else "DownBlock2D" for each in plan.attention),
        "up_block_types": tuple("AttnUpBlock2D" if each else "UpBlock2D" for each in reversed(plan.attention)),
        "norm_num_groups": groups,
        "attn_norm_num_groups": groups,
        "dropout": dropout,
        **plan.options,
    }
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reach the host's CUDA streams too
        unet = instantiate(config)
        zero_initialise(unet)
    refuse_missing_groupnorm(unet, str(size))
    return unet


def instantiate(config: Mapping[str, Any]) -> nn.Module:
    """Make a ``UNet2DModel`` of arguments that are known to be good."""
    from diffusers import UNet2DModel  # noqa: PLC0415  (slow to import)

    unet: Any = UNet2DModel
    made: nn.Module = unet(**config)
    return made


def zero_initialise(unet: nn.Module) -> None:
    """Zero the second convolution of residual blocks, the output of attention, and the last convolution.

    diffusers does not, improved-diffusion does.
    """
    for name, module in unet.named_modules():
        if name.endswith((".conv2", ".to_out.0")) or name == "conv_out":
            for parameter in module.parameters():
                nn.init.zeros_(parameter)


def refuse_missing_groupnorm(unet: nn.Module, where: object) -> None:
    """Refuse a network with attention that is not normalised.

    Under ``resnet_time_scale_shift="scale_shift"`` diffusers leaves it out in the middle unless
    ``attn_norm_num_groups`` is set: another network than intended, and nothing else says so.

    :raises InputError: naming the modules.
    """
    bare = [
        name
        for name, module in unet.named_modules()
        if hasattr(module, "to_q") and getattr(module, "group_norm", None) is None
    ]
    if bare:
        raise InputError(
            "attention without its GroupNorm",
            where=where,
            found=", ".join(bare[:4]),
            allowed="a network whose attention is normalised",
            hint='set "attn_norm_num_groups" in config.json, and train the network with it',
        )


def refuse_misfit(sides: tuple[int, int], stride: int) -> None:
    """Refuse image sides that the levels of a network cannot halve.

    :raises InputError: naming sides and stride.
    """
    if any(side < stride or side % stride for side in sides):
        raise InputError(
            "image side does not fit the network",
            where="image size",
            found=f"{sides[0]}×{sides[1]}",
            allowed=f"multiples of {stride}",
            hint="resize the images, or take a network with fewer levels (size=tiny halves twice)",
        )

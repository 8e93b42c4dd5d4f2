"""Random changes of training images, applied to whole batches on the device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from ..errors import SettingsError
from .images import Images, ImageSet
from .pixels import changed
from .settings import Settings


class Augmentation(Settings):
    """Random changes of training images, drawn anew for every sample and epoch."""

    crop: int = Field(0, ge=0, description="zero-pad by this many pixels, then crop back at random")
    flip: bool | Literal["auto"] = Field(
        False, description="mirror left-right with probability 1/2; auto: where that is known, or found, to do no harm"
    )
    rotation: float = Field(0.0, ge=0, le=180, description="rotate by up to this many degrees either way")
    grayscale: float = Field(0.0, ge=0, le=1, description="probability of replacing all channels by their luminance")
    noise: float = Field(0.0, ge=0, le=1, description="standard deviation of Gaussian noise per pixel and channel")


def augment(pixels: Tensor, settings: Augmentation, draws: Mapping[str, Tensor]) -> Tensor:
    """Crop, flip, rotate, grey and add noise to each image of ``[B, H, W, C]`` by its own draw; type and shape stay.

    :param draws: ``top``, ``left`` in 0..2·crop; ``mirror`` bool; ``angle`` in degrees; ``grey`` bool; each ``[B]``;
        ``noise`` ``[B, H, W, C]``, standard normal.
    """
    count, height, width, _ = pixels.shape
    _refuse_open(settings)
    if settings.crop or settings.flip:
        rows = torch.arange(height, device=pixels.device).expand(count, height)
        cols = torch.arange(width, device=pixels.device).expand(count, width)
        if settings.flip:
            cols = torch.where(draws["mirror"][:, None], width - 1 - cols, cols)
        if settings.crop:
            pad = settings.crop
            pixels = F.pad(pixels, (0, 0, pad, pad, pad, pad))
            rows, cols = rows + draws["top"][:, None], cols + draws["left"][:, None]
        each = torch.arange(count, device=pixels.device)[:, None, None]
        pixels = pixels[each, rows[:, :, None], cols[:, None, :]]
    if settings.rotation:
        pixels = _rotate(pixels, draws["angle"])
    if settings.grayscale:
        pixels = torch.where(draws["grey"][:, None, None, None], luminance(pixels), pixels)
    if settings.noise:
        scale = 255 if pixels.dtype == torch.uint8 else 1
        noisy = torch.add(pixels.float(), draws["noise"], alpha=settings.noise * scale).clamp_(0, scale)
        pixels = noisy.round_().to(torch.uint8) if pixels.dtype == torch.uint8 else noisy
    return pixels


def luminance(pixels: Tensor) -> Tensor:
    """Return ``[..., C]`` with every channel replaced by ``0.299 R + 0.587 G + 0.114 B`` (ITU-R BT.601).

    uint8 is rounded. A single channel is its own luminance.
    """
    if pixels.shape[-1] == 1:
        return pixels
    weights = torch.tensor([0.299, 0.587, 0.114], device=pixels.device)
    grey = (pixels.float() * weights).sum(-1, keepdim=True)
    grey = grey.round_().to(torch.uint8) if pixels.dtype == torch.uint8 else grey.clamp_(0, 1)
    return grey.expand(pixels.shape)


def draw_augmentation(
    settings: Augmentation, n: int, generator: torch.Generator, device: torch.device
) -> dict[str, Tensor]:
    """Draw an epoch's augmentation for all samples; on the CPU, so that every device sees the same."""
    draws: dict[str, Tensor] = {}
    _refuse_open(settings)
    if settings.crop:
        for name in ("top", "left"):
            draws[name] = torch.randint(0, 2 * settings.crop + 1, (n,), generator=generator)
    if settings.flip:
        draws["mirror"] = torch.rand(n, generator=generator) < 0.5
    if settings.rotation:
        draws["angle"] = (2 * torch.rand(n, generator=generator) - 1) * settings.rotation
    if settings.grayscale:
        draws["grey"] = torch.rand(n, generator=generator) < settings.grayscale
    return {name: draw.to(device) for name, draw in draws.items()}


def draw_noise(
    settings: Augmentation, shape: torch.Size, generator: torch.Generator, device: torch.device
) -> dict[str, Tensor]:
    """Draw the noise of one batch; a whole epoch's would not fit into memory."""
    return {"noise": torch.randn(shape, generator=generator).to(device)} if settings.noise else {}


def augmented_once(images: ImageSet, settings: Augmentation, generator: torch.Generator) -> ImageSet:
    """Return *images*, each changed by one draw: for whoever trains without drawing anew."""
    draws = draw_augmentation(settings, len(images), generator, torch.device("cpu"))

    def once(rows: slice, pixels: Images) -> Images:
        chunk = torch.from_numpy(pixels)
        chosen = {name: draw[rows] for name, draw in draws.items()}
        chosen |= draw_noise(settings, chunk.shape, generator, torch.device("cpu"))
        return augment(chunk, settings, chosen).numpy()

    return changed(images, once)


class _Mirrored:
    """Images mirrored left-right as they are read."""

    def __init__(self, images: ImageSet) -> None:
        self._set = images
        self.shape: tuple[int, ...] = images.images.shape
        self.dtype: np.dtype[Any] = images.images.dtype

    def __getitem__(self, index: Any, /) -> Any:
        return self._set.read(index)[:, :, ::-1]


def mirrored(images: ImageSet) -> ImageSet:
    """Return the same samples, mirrored left-right when they are read."""
    return images.replace(images=_Mirrored(images))


def _refuse_open(settings: Augmentation) -> None:
    """Refuse ``flip: auto``, which says nothing before :func:`~.mirroring.settled` has decided it for a case."""
    if settings.flip == "auto":
        raise SettingsError(
            "whether to mirror is not decided",
            where="augmentation.flip",
            found="auto",
            allowed="true, false",
            hint="elixir_plugin.core.mirroring.settled decides it for a case",
        )


def _rotate(pixels: Tensor, degrees: Tensor) -> Tensor:
    radians = torch.deg2rad(degrees)
    cos, sin, zero = radians.cos(), radians.sin(), torch.zeros_like(radians)
    images = pixels.permute(0, 3, 1, 2).float()
    aspect = images.shape[3] / images.shape[2]  # the grid's coordinates are in -1..1 along both edges
    matrix = torch.stack([torch.stack([cos, -sin / aspect, zero], 1), torch.stack([sin * aspect, cos, zero], 1)], 1)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    turned = F.grid_sample(images, grid, align_corners=False).permute(0, 2, 3, 1)
    return turned.round().to(pixels.dtype) if pixels.dtype == torch.uint8 else turned.clamp(0, 1)

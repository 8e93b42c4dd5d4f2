"""WaNet: a backdoor whose trigger is a smooth, hardly visible warp of the whole image."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from pydantic import Field

from ..core import settings as config
from ..core.context import derive_seed
from ..core.images import ImageSet, Index
from ..errors import SettingsError
from .base import Backdoor, BackdoorSettings, Pixels
from .indiscriminate import Values


class WaNetSettings(BackdoorSettings):
    """Settings of :class:`WaNet`; ``grid`` and ``strength`` are the paper's k and s.

    :param grid: number of control points along each side.
    :param strength: mean |offset| of the control points per axis, in half pixels.
    :param noise: largest random offset per axis that is added for cover samples, in half pixels.
    :param cover_rate: ρ_n, share of all training samples that becomes cover samples.
    :param pattern_seed: decides the warp and the random offsets.
    """

    grid: int = Field(4, ge=2)
    strength: float = Field(0.5, gt=0, allow_inf_nan=False)
    noise: float = Field(1.0, gt=0, allow_inf_nan=False)
    cover_rate: float = Field(0.2, ge=0, le=1)
    pattern_seed: int = 0


class WaNet(Backdoor):
    """Elastic warp, with cover samples under other random warps so that only this warp becomes the trigger.

    Nguyen and Tran, "WaNet – Imperceptible Warping-based Backdoor Attack", ICLR 2021, arXiv 2102.10369: k × k control
    offsets uniform in [-1, 1], divided by their mean size, times s, enlarged bicubically; sampling places are clipped
    to the image; bilinear sampling. Offsets are in the authors' unit: s / H on a side that spans 2, so s is in half
    pixels. Their noise mode: the warp plus uniform noise in ±1 of the same unit at every pixel, drawn per sample;
    labels stay. Here the set is poisoned once; the paper draws anew in every training step. On the digits at 16×16
    the default strength plants half a backdoor (ASR 53 %), ``strength=2`` a good one (90 %).
    """

    name: ClassVar[str] = "wanet"
    Settings: ClassVar[type[config.Settings]] = WaNetSettings
    settings: WaNetSettings

    def choose_cover(self, train: ImageSet, chosen: Index, seed: int) -> Index:
        """Return ``round(cover_rate · N)`` positions from all classes."""
        eligible = np.setdiff1d(np.arange(len(train)), chosen)
        seed = derive_seed(seed, "cover", self.name)
        return self._drawn(eligible, self.settings.cover_rate, len(train), seed, "cover_rate")

    def trigger(self, images: Pixels, labels: Index, ids: Index) -> Pixels:
        rows, columns = np.moveaxis(self.offsets(images.shape[1], images.shape[2]), 2, 0)
        return _warped(images, rows[None], columns[None])

    def cover_trigger(self, images: Pixels, labels: Index, ids: Index) -> Pixels:
        """Return *images* under the warp plus random offsets, a function of the sample's id."""
        height, width = images.shape[1:3]
        warp = _within(self.offsets(height, width))  # the authors clip before and after the noise
        noise = self.noise(ids, height, width) * self.settings.noise * _unit(height, width)
        rows, columns = np.moveaxis(warp + noise, 3, 0)
        return _warped(images, rows, columns)

    def noise(self, ids: Index, height: int, width: int) -> Values:
        """Return random offsets in ±1, ``[n, H, W, 2]``, down and right."""
        seed = self._seed("noise")
        noise = np.empty((len(ids), height, width, 2))
        for out, sample in zip(noise, ids.tolist(), strict=True):
            out[:] = np.random.default_rng(derive_seed(seed, sample)).uniform(-1, 1, out.shape)
        return noise

    def offsets(self, height: int, width: int) -> Values:
        """Return the warp: offsets ``[H, W, 2]`` of the sampling places, down and right, in pixels.

        :raises SettingsError: when the image has fewer pixels along a side than there are control points.
        """
        grid = self.settings.grid
        if grid > min(height, width):
            raise SettingsError(
                "more control points than pixels",
                where="settings of poison wanet: grid",
                found=grid,
                allowed=f"2..{min(height, width)}",
            )
        points = self.control_points()
        points = points * (self.settings.strength / np.abs(points).mean())
        return enlarged(points, height, width) * _unit(height, width)

    def control_points(self) -> Values:
        """Return the offsets that the warp is enlarged from, ``[k, k, 2]``, down and right; their size is free."""
        grid = self.settings.grid
        return np.random.default_rng(self._seed("pattern")).uniform(-1, 1, (grid, grid, 2))

    def _seed(self, *name: object) -> int:
        return derive_seed(self.settings.pattern_seed, self.name, *name)


def _unit(height: int, width: int) -> Values:
    """Return the authors' unit of offset, down and right, in pixels: 1 / H where a side spans 2."""
    return np.array([height - 1, width - 1]) / (2 * height)


def enlarged(points: Values, height: int, width: int) -> Values:
    """Interpolate ``[k, k, 2]`` bicubically to ``[H, W, 2]``; the outer points lie on the corners."""
    grid = torch.from_numpy(points).permute(2, 0, 1)[None]
    large = torch.nn.functional.interpolate(grid, size=(height, width), mode="bicubic", align_corners=True)
    return np.ascontiguousarray(large[0].permute(1, 2, 0).numpy())


def _within(offsets: Values) -> Values:
    """Return offsets ``[H, W, 2]`` in pixels, shortened where they lead out of the image."""
    height, width = offsets.shape[:2]
    own = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"), 2)
    return np.clip(own + offsets, 0, [height - 1, width - 1]) - own


def _warped(images: Pixels, rows: Values, columns: Values) -> Pixels:
    """Sample *images* bilinearly at every pixel's own place plus an offset; places are clipped to the image.

    :param images: ``[n, H, W, C]``.
    :param rows: offsets down in pixels, ``[n or 1, H, W]``; *columns* to the right.
    """
    n, height, width, _ = images.shape
    y = np.clip(np.arange(height)[:, None] + rows, 0, height - 1)
    x = np.clip(np.arange(width) + columns, 0, width - 1)
    top, left = np.floor(y).astype(int), np.floor(x).astype(int)
    below, beside = np.minimum(top + 1, height - 1), np.minimum(left + 1, width - 1)
    down, right = (y - top)[..., None].astype(np.float32), (x - left)[..., None].astype(np.float32)
    sample = np.arange(n)[:, None, None]
    upper = (1 - right) * images[sample, top, left] + right * images[sample, top, beside]
    lower = (1 - right) * images[sample, below, left] + right * images[sample, below, beside]
    out: Pixels = (1 - down) * upper + down * lower
    return out

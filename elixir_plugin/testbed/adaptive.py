"""Adaptive backdoors: poison samples that carry only a part of the trigger, and covers that carry it with true labels.

Qi, Xie, Li, Mahloujifar and Mittal, "Revisiting the Assumption of Latent Separability for Backdoor Defenses", ICLR
2023. Both keep poison and clean samples of the target class from falling apart in the features of the model. At test
time the attacker shows the whole trigger.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from ..core import settings as config
from ..core.context import derive_seed
from ..core.images import ImageSet, Index
from ..errors import SettingsError
from .base import Backdoor, BackdoorSettings, Pixels
from .patterns import PATTERNS
from .poisons import Blended, BlendedSettings

OPACITIES = (0.5, 0.2, 0.5, 0.3)  # of the four patches in training, those of the released code


class Covered(Backdoor):
    """A backdoor with covers from all classes, as many as the setting ``cover_rate`` says."""

    def choose_cover(self, train: ImageSet, chosen: Index, seed: int) -> Index:
        """Return ``round(cover_rate · N)`` positions from all classes."""
        rate: float = self.settings.cover_rate  # type: ignore[attr-defined]
        eligible = np.setdiff1d(np.arange(len(train)), chosen)
        return self._drawn(eligible, rate, len(train), derive_seed(seed, "cover", self.name), "cover_rate")


class AdaptiveBlendSettings(BlendedSettings):
    """Settings of :class:`AdaptiveBlend`; the defaults are those of the paper for CIFAR-10.

    :param alpha: weight of the picture in training.
    :param test_alpha: its weight at test time.
    :param cover_rate: share of all training samples that becomes cover samples.
    :param pieces: pieces that the picture is cut into; a square number.
    :param shown: share of the pieces that each training sample shows.
    """

    rate: float = Field(0.003, ge=0, le=1)
    labels: Literal["all_to_one"] = "all_to_one"
    picture: str = "shapes"
    alpha: float = Field(0.15, gt=0, le=1)
    test_alpha: float = Field(0.2, gt=0, le=1)
    cover_rate: float = Field(0.003, ge=0, le=1)
    pieces: int = Field(16, ge=1)
    shown: float = Field(0.5, gt=0, le=1)

    added: ClassVar[Mapping[str, Any]] = MappingProxyType({})

    @field_validator("pieces")
    @classmethod
    def _square(cls, value: int) -> int:
        if round(value**0.5) ** 2 != value:
            raise ValueError("the pieces form a square: 4, 9, 16, …")
        return value


class AdaptiveBlend(Covered, Blended):
    """A picture that is blended in; each training sample shows half of its pieces, drawn for that sample."""

    name: ClassVar[str] = "adaptive_blend"
    Settings: ClassVar[type[config.Settings]] = AdaptiveBlendSettings
    settings: AdaptiveBlendSettings

    def trigger(self, images: Pixels, labels: Index, ids: Index) -> Pixels:
        height, width = images.shape[1:3]
        weights = self.settings.alpha * self._masks(ids, height, width)[..., None]
        out: Pixels = images + weights * (self.pattern(images.shape[1:]) - images)
        return out

    def test_trigger(self, images: Pixels, labels: Index, ids: Index) -> Pixels:
        alpha = np.float32(self.settings.test_alpha)
        return (1 - alpha) * images + alpha * self.pattern(images.shape[1:])

    def _masks(self, ids: Index, height: int, width: int) -> NDArray[np.float32]:
        """Return which pixels each sample shows, ``[n, H, W]`` of 0 and 1."""
        side = round(self.settings.pieces**0.5)
        if side > min(height, width):
            raise SettingsError(
                "more pieces than pixels",
                where=f"settings of poison {self.name}: pieces",
                found=self.settings.pieces,
                allowed=f"at most {min(height, width) ** 2}",
            )
        hidden = self.settings.pieces - round(self.settings.shown * self.settings.pieces)
        pieces = np.ones((len(ids), self.settings.pieces), np.float32)
        seed = derive_seed(self.settings.pattern_seed, self.name, "pieces")
        for row, sample in zip(pieces, ids.tolist(), strict=True):
            row[np.random.default_rng(derive_seed(seed, sample)).permutation(len(row))[:hidden]] = 0
        down, across = (np.arange(edge) * side // edge for edge in (height, width))
        return pieces.reshape(-1, side, side)[:, down[:, None], across]


class AdaptivePatchSettings(BackdoorSettings):
    """Settings of :class:`AdaptivePatch`; the defaults are those of the paper for CIFAR-10.

    :param size: edge length of the patches in pixels.
    :param opacities: of the patches in training, in the order of the corners.
    :param test_opacity: of all patches at test time.
    :param cover_rate: share of all training samples that becomes cover samples.
    :param pattern_seed: decides which sample carries which patch, and the many-coloured one.
    """

    rate: float = Field(0.003, ge=0, le=1)
    labels: Literal["all_to_one"] = "all_to_one"
    size: int = Field(6, ge=2)
    opacities: tuple[float, float, float, float] = OPACITIES
    test_opacity: float = Field(1.0, gt=0, le=1)
    cover_rate: float = Field(0.006, ge=0, le=1)
    pattern_seed: int = 0

    @field_validator("opacities")
    @classmethod
    def _shares(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0 < each <= 1 for each in values):
            raise ValueError("opacities lie above 0 and up to 1")
        return values


class AdaptivePatch(Covered):
    """Four half-transparent patches, one in each corner; each training sample carries one of them.

    At test time the attacker shows all four. The authors' patches are logos; these are a checkerboard, a ring, a
    diagonal, and a many-coloured square.
    """

    name: ClassVar[str] = "adaptive_patch"
    Settings: ClassVar[type[config.Settings]] = AdaptivePatchSettings
    settings: AdaptivePatchSettings

    def trigger(self, images: Pixels, labels: Index, ids: Index) -> Pixels:
        seed = derive_seed(self.settings.pattern_seed, self.name, "corner")
        corners = np.array([derive_seed(seed, sample) % 4 for sample in ids.tolist()], int)
        out = images.copy()
        for corner, opacity in enumerate(self.settings.opacities):
            rows = np.flatnonzero(corners == corner)
            out[rows] = self._stamped_corner(out[rows], corner, opacity)
        return out

    def test_trigger(self, images: Pixels, labels: Index, ids: Index) -> Pixels:
        out = images.copy()
        for corner in range(4):
            out = self._stamped_corner(out, corner, self.settings.test_opacity)
        return out

    def _stamped_corner(self, images: Pixels, corner: int, opacity: float) -> Pixels:
        size = self.settings.size
        height, width, channels = images.shape[1:]
        if 2 * size > min(height, width):
            raise SettingsError(
                "the patches overlap",
                where=f"settings of poison {self.name}: size",
                found=size,
                allowed=f"at most {min(height, width) // 2} pixels",
            )
        rows = slice(0, size) if corner < 2 else slice(height - size, height)
        columns = slice(0, size) if corner % 2 == 0 else slice(width - size, width)
        out = images.copy()
        out[:, rows, columns] += np.float32(opacity) * (self.patch(corner, channels) - out[:, rows, columns])
        return out

    def patch(self, corner: int, channels: int) -> Pixels:
        """Return the patch ``[size, size, C]`` of a corner: 0, 1 above, 2, 3 below, left before right."""
        size = self.settings.size
        if corner == 0:
            edges = np.minimum(np.arange(size), np.arange(size)[::-1])
            ring = np.minimum(edges[:, None], edges) % 2 == 0
            return np.repeat(ring.astype(np.float32)[..., None], channels, axis=2)
        if corner == 1:
            rng = np.random.default_rng(derive_seed(self.settings.pattern_seed, "pattern", self.name))
            return rng.integers(0, 2, (size, size, channels)).astype(np.float32)
        return PATTERNS["diagonal" if corner == 2 else "checkerboard"](size, channels)

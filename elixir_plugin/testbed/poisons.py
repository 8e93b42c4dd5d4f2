"""Backdoor poisons that need no training: a suspect set and its truth in milliseconds.

For demos, tests and comparisons. Poisons without a trigger are in :mod:`.indiscriminate` and its neighbours.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator
from typing_extensions import Self

from ..core import settings as config
from ..core.context import derive_seed
from ..core.images import ImageSet, Index
from ..errors import SettingsError
from ..io.images import read_image, resized
from .base import Backdoor, BackdoorSettings, Pixels, Poison
from .patterns import PATTERNS, PRESETS, Pattern, shapes

__all__ = ["Backdoor", "BackdoorSettings", "BadNets", "Blended", "Pixels", "Poison", "Sig", "TaCT", "Trojan"]


class PatchSettings(BackdoorSettings):
    """Settings of :class:`PatchBackdoor`.

    :param size: edge length of the patch in pixels.
    :param margin: pixels between the patch and the lower and right border.
    """

    size: int = Field(3, ge=1)
    margin: int = Field(1, ge=0)


class PatchBackdoor(Backdoor):
    """A small patch near the lower right corner. Subclasses write :meth:`patch` alone."""

    Settings: ClassVar[type[config.Settings]] = PatchSettings
    settings: PatchSettings

    def trigger(self, images: Pixels, labels: Index, ids: Index) -> Pixels:
        size, margin = self.settings.size, self.settings.margin
        height, width, channels = images.shape[1:]
        if size + margin > min(height, width):
            raise SettingsError(
                "the patch does not fit",
                where=f"settings of poison {self.name}: size, margin",
                found=f"{size} + {margin}",
                allowed=f"together at most {min(height, width)} pixels",
            )
        out = images.copy()
        rows, columns = (slice(edge - margin - size, edge - margin) for edge in (height, width))
        patch = self.patch(channels)
        out[:, rows, columns] = np.where(np.isnan(patch), out[:, rows, columns], patch)
        return out

    @abstractmethod
    def patch(self, channels: int) -> Pixels:
        """Return the patch ``[size, size, channels]``; NaN leaves a value of the image as it is."""


class BadNetsSettings(PatchSettings):
    """Settings of :class:`BadNets`.

    :param pattern: what the patch looks like, see :mod:`.patterns`. The presets are the patches of other authors.
    :param picture: path of an image file that is the patch instead; it is scaled to ``size``.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = PRESETS
    added: ClassVar[Mapping[str, Any]] = MappingProxyType({"pattern": "checkerboard", "picture": None})

    pattern: Pattern = "checkerboard"
    picture: str | None = Field(None, min_length=1)


class BadNets(PatchBackdoor):
    """By default a black-and-white checkerboard patch with white corners.

    Gu, Dolan-Gavitt and Garg, "BadNets: Identifying Vulnerabilities in the Machine Learning Model Supply Chain",
    arXiv 1708.06733. ``size=1`` is their single-pixel trigger, ``pattern=diagonal`` their pattern.
    """

    name: ClassVar[str] = "badnets"
    Settings: ClassVar[type[config.Settings]] = BadNetsSettings
    settings: BadNetsSettings

    def patch(self, channels: int) -> Pixels:
        """Return the patch ``[size, size, channels]``.

        :raises InputError: when the image file cannot be read.
        """
        size = self.settings.size
        if self.settings.picture is not None:
            return _picture(self.settings.picture, (size, size, channels))
        return PATTERNS[self.settings.pattern](size, channels)


class BlendedSettings(BackdoorSettings):
    """Settings of :class:`Blended`.

    :param alpha: weight of the picture.
    :param picture: ``noise``: uniform noise. ``shapes``: a built-in drawing. Else the path of an image file, which is
        scaled to the size of the images.
    :param pattern_seed: decides the noise.
    """

    added: ClassVar[Mapping[str, Any]] = MappingProxyType({"picture": "noise"})

    alpha: float = Field(0.2, gt=0, le=1)
    picture: str = Field("noise", min_length=1)
    pattern_seed: int = 0


class Blended(Backdoor):
    """One fixed picture ``n``, by default of uniform noise, blended in: ``(1 − α) x + α n``.

    Chen, Liu, Li, Lu and Song, "Targeted Backdoor Attacks on Deep Learning Systems Using Data Poisoning", arXiv
    1712.05526: blended injection strategy with a random pattern, α = 0.2. Training and test samples have the same α.
    """

    name: ClassVar[str] = "blended"
    Settings: ClassVar[type[config.Settings]] = BlendedSettings
    settings: BlendedSettings

    def trigger(self, images: Pixels, labels: Index, ids: Index) -> Pixels:
        alpha = np.float32(self.settings.alpha)
        return (1 - alpha) * images + alpha * self.pattern(images.shape[1:])

    def pattern(self, shape: tuple[int, ...]) -> Pixels:
        """Return the picture for images of *shape* ``(H, W, C)``.

        :raises InputError: when the image file cannot be read.
        """
        picture, (height, width, channels) = self.settings.picture, shape
        if picture == "noise":
            rng = np.random.default_rng(derive_seed(self.settings.pattern_seed, "pattern", self.name))
            return rng.random(shape, np.float32)
        if picture == "shapes":
            return shapes(height, width, channels)
        return _picture(picture, shape)


def _picture(path: str, shape: tuple[int, ...]) -> Pixels:
    """Return the image file at *path*, scaled to *shape* ``(H, W, C)``.

    :raises InputError: when it cannot be read.
    """
    height, width, channels = shape
    return resized(read_image(Path(path), channels), (height, width)).astype(np.float32) / np.float32(255)


class SigSettings(BackdoorSettings):
    """Settings of :class:`Sig`.

    :param amplitude: Δ, in units of the pixel range [0, 1].
    :param frequency: periods across the width of the image.
    """

    rate: float = Field(0.05, ge=0, le=1)  # of all samples; the target class must hold as many
    labels: Literal["all_to_one", "all_to_all", "clean_label"] = "clean_label"
    amplitude: float = Field(40 / 255, gt=0, le=1)
    frequency: int = Field(6, ge=1)


class Sig(Backdoor):
    """A horizontal sinusoid ``v(i, j) = Δ sin(2π j f / W)`` added to every row; clean-label by default.

    Barni, Kallas and Tondi, "A New Backdoor Attack in CNNs by Training Set Corruption Without Label Poisoning",
    arXiv 1902.11237, with f = 6. Δ = 40/255 is the default of BackdoorBench (``config/attack/sig``).
    The defaults plant no backdoor in a set as easy as the digits; ``rate=0.08, amplitude=80/255`` does, in part.
    """

    name: ClassVar[str] = "sig"
    Settings: ClassVar[type[config.Settings]] = SigSettings
    settings: SigSettings

    def trigger(self, images: Pixels, labels: Index, ids: Index) -> Pixels:
        width, frequency = images.shape[2], self.settings.frequency
        if 2 * frequency >= width:  # the samples would show a lower frequency, or nothing at all
            raise SettingsError(
                "the image is too narrow for this frequency",
                where="settings of poison sig: frequency",
                found=f"{frequency} at a width of {width} pixels",
                allowed=f"1..{(width - 1) // 2}",
            )
        wave = self.settings.amplitude * np.sin(2 * np.pi * frequency * np.arange(width) / width)
        out: Pixels = images + wave.astype(np.float32)[:, None]
        return out


class TrojanSettings(PatchSettings):
    """Settings of :class:`Trojan`.

    :param pattern_seed: decides the colours of the patch.
    """

    size: int = Field(5, ge=1)
    pattern_seed: int = 0


class Trojan(PatchBackdoor):
    """A square patch of many colours near the lower right corner; every value is 0 or 1, drawn once.

    After the square trojan trigger of Liu, Ma, Aafer, Lee, Zhai, Wang and Zhang, "Trojaning Attack on Neural
    Networks", NDSS 2018. Theirs is optimised to excite chosen neurons of a given model; this one is not optimised,
    it is pseudo-random, as in the static "trojan patch" of poison-only comparisons.
    """

    name: ClassVar[str] = "trojan"
    Settings: ClassVar[type[config.Settings]] = TrojanSettings
    settings: TrojanSettings

    def patch(self, channels: int) -> Pixels:
        size = self.settings.size
        rng = np.random.default_rng(derive_seed(self.settings.pattern_seed, "pattern", self.name))
        return rng.integers(0, 2, (size, size, channels)).astype(np.float32)


class TaCTSettings(BadNetsSettings):
    """Settings of :class:`TaCT`.

    :param rate: share of *all* training samples that is poisoned; they come from the source class.
    :param source: the class whose samples the trigger sends to ``target``.
    :param cover_rate: share of all training samples that becomes cover samples.
    :param cover_classes: the classes that cover samples come from; None: all but source and target.
    :param labels: ``all_to_one`` is the only one that makes sense.
    """

    rate: float = Field(0.02, ge=0, le=1)
    source: int = Field(1, ge=0)
    cover_rate: float = Field(0.02, ge=0, le=1)
    cover_classes: tuple[int, ...] | None = None
    labels: Literal["all_to_one"] = "all_to_one"

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if self.source == self.target:
            raise ValueError(f"source and target must differ; both are {self.source}")
        if self.cover_classes is not None and {self.source, self.target} & set(self.cover_classes):
            raise ValueError(f"cover_classes must hold neither source ({self.source}) nor target ({self.target})")
        return self


class TaCT(BadNets):
    """Targeted contamination: the trigger works on one source class alone.

    Tang, Wang, Tang and Zhang, "Demon in the Variant: Statistical Analysis of DNNs for Robust Backdoor Contamination
    Detection", USENIX Security 2021, arXiv 1908.00686. Samples of the source class get the trigger and the target
    label. Cover samples, of other classes, get the trigger and keep their label. Triggered test samples are those
    of the source class. The trigger is a patch of :class:`BadNets`; the idea works with any.
    """

    name: ClassVar[str] = "tact"
    Settings: ClassVar[type[config.Settings]] = TaCTSettings
    settings: TaCTSettings

    def choose_cover(self, train: ImageSet, chosen: Index, seed: int) -> Index:
        settings = self.settings
        classes = settings.cover_classes
        if classes is None:
            classes = tuple(set(range(train.num_classes)) - {settings.source, settings.target})
        if not classes:  # two classes: nothing to cover with
            return super().choose_cover(train, chosen, seed)
        eligible = np.flatnonzero(np.isin(train.labels, classes))
        seed = derive_seed(seed, "cover", self.name)
        return self._drawn(eligible, settings.cover_rate, len(train), seed, "cover_rate")

    def _attacked(self, labels: Index) -> NDArray[np.bool_]:
        source: NDArray[np.bool_] = labels == self.settings.source
        return source

    def _eligible(self, labels: Index) -> NDArray[np.bool_]:
        return self._attacked(labels)

    def _refuse_foreign_target(self, num_classes: int) -> None:
        super()._refuse_foreign_target(num_classes)
        foreign = [each for each in (self.settings.source, *(self.settings.cover_classes or ())) if each >= num_classes]
        if foreign:
            raise SettingsError(
                "class out of range",
                where="settings of poison tact: source, cover_classes",
                found=foreign[0],
                allowed=f"0..{num_classes - 1}",
            )

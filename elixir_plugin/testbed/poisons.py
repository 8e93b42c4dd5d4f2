"""Poisons that need no training: a suspect set and its truth in milliseconds, for demos, tests and comparisons."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from .. import config
from ..case import Images, ImageSet, Index, TriggeredSet, Truth
from ..context import derive_seed
from ..errors import SettingsError

Pixels = NDArray[np.float32]  # [n, H, W, C] in [0, 1]


class Poison(ABC):
    """One way to poison a training set. Subclasses set the class attributes and write the abstract methods.

    Both kinds of poison fit: a backdoor (:class:`Backdoor`) changes a few samples and shows in triggered test
    samples; an indiscriminate poison changes all of them, class by class, and has no trigger to test with.

    :param settings: a settings object, a mapping, or None for the defaults.
    :param values: single settings by keyword.
    """

    name: ClassVar[str]
    Settings: ClassVar[type[config.Settings]] = config.Settings
    settings: config.Settings

    def __init__(self, settings: config.Settings | Mapping[str, Any] | None = None, **values: Any) -> None:
        self.settings = self.Settings.coerce(settings, values, where=f"settings of poison {self.name}")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.settings!r})"

    @property
    @abstractmethod
    def kind(self) -> str:
        """What the truth says: ``"dirty-label"``, ``"clean-label"`` or ``"indiscriminate"``."""

    @abstractmethod
    def choose(self, train: ImageSet, seed: int) -> Index:
        """Return the positions to poison, ascending; a function of labels, settings and *seed* alone."""

    @abstractmethod
    def trigger(self, images: Pixels, labels: Index, ids: Index) -> Pixels:
        """Return poisoned copies of *images*.

        A function of the arguments, sample by sample, and of constants drawn under a setting: never of the order or
        number of the samples.

        :param images: float32 ``[n, H, W, C]`` in [0, 1]; must not be changed.
        :param labels: ``[n]`` labels before poisoning.
        :param ids: ``[n]`` sample ids, the key for noise that differs from sample to sample.
        :return: float32 ``[n, H, W, C]``; values outside [0, 1] are clipped by the caller.
        """

    def relabel(self, labels: Index, num_classes: int) -> Index:
        """Return the labels ``[n]`` that the attacker gives to chosen samples; by default they stay."""
        return labels

    def poison(self, train: ImageSet, seed: int = 0) -> tuple[ImageSet, Truth]:
        """Return the poisoned set, in the order and pixel type of *train*, and what was done to it.

        :param seed: decides which samples are chosen. The pattern of the trigger does not depend on it.
        :raises SettingsError: when *train* does not hold enough samples to choose from, or is too small.
        """
        rows = self.choose(train, seed)
        images = train.read(slice(None))  # a new array
        labels = train.labels.copy()
        images[rows] = self._stamped(images[rows], labels[rows], train.ids[rows])
        labels[rows] = self.relabel(labels[rows], train.num_classes)
        mask = np.zeros(len(train), bool)
        mask[rows] = True
        truth = Truth(mask, original_labels=train.labels, kind=self.kind if len(rows) else "none")
        return train.replace(images=images, labels=labels), truth

    def triggered_test(self, test: ImageSet) -> TriggeredSet | None:
        """Return triggered test samples with the labels the attacker wants, or None for poisons without a trigger."""
        return None

    def _stamped(self, images: Images, labels: Index, ids: Index) -> Images:
        """Apply the trigger and keep the pixel type: uint8 is rounded to the nearest value, float32 stays exact."""
        if images.dtype == np.uint8:
            pixels = self._clipped(images.astype(np.float32) / np.float32(255), labels, ids)
            return np.rint(pixels * 255).astype(np.uint8)
        return self._clipped(images, labels, ids)

    def _clipped(self, pixels: Pixels, labels: Index, ids: Index) -> Pixels:
        return np.clip(self.trigger(pixels, labels, ids), 0, 1).astype(np.float32, copy=False)


class BackdoorSettings(config.Settings):
    """What all backdoor poisons share.

    :param rate: share of *all* training samples that is poisoned; the number is rounded to the nearest integer.
    :param target: the target label; without meaning for ``all_to_all``.
    :param labels: ``all_to_one``: samples of other classes get the target label. ``all_to_all``: samples of every
        class get the label of the next class. ``clean_label``: samples of the target class keep their label.
    """

    rate: float = Field(0.1, ge=0, le=1)
    target: int = Field(0, ge=0)
    labels: Literal["all_to_one", "all_to_all", "clean_label"] = "all_to_one"


class Backdoor(Poison):
    """A poison with a trigger. Subclasses write :meth:`trigger` alone."""

    Settings: ClassVar[type[config.Settings]] = BackdoorSettings
    settings: BackdoorSettings

    @property
    def kind(self) -> str:
        return "clean-label" if self.settings.labels == "clean_label" else "dirty-label"

    def choose(self, train: ImageSet, seed: int) -> Index:
        """Return exactly ``round(rate · N)`` positions; a lower rate chooses a subset of what a higher one does."""
        self._refuse_foreign_target(train.num_classes)
        eligible = np.flatnonzero(self._eligible(train.labels))
        count = round(self.settings.rate * len(train))
        if count > len(eligible):
            raise SettingsError(
                "not enough samples to poison",
                where=f"settings of poison {self.name}: rate",
                found=f"{self.settings.rate} ({count} of {len(train)} samples)",
                allowed=f"{len(eligible)} samples may be chosen with labels={self.settings.labels}",
                hint="lower the rate",
            )
        rng = np.random.default_rng(derive_seed(seed, "poison", self.name))
        return np.sort(rng.permutation(eligible)[:count])

    def relabel(self, labels: Index, num_classes: int) -> Index:
        if self.settings.labels == "all_to_all":
            return (labels + 1) % num_classes
        return np.full_like(labels, self.settings.target)

    def triggered_test(self, test: ImageSet) -> TriggeredSet:
        """Return every test sample that the attacker wants to see misclassified, with the trigger.

        ``all_to_all``: all samples. Else: samples of other classes than the target class.
        """
        self._refuse_foreign_target(test.num_classes)
        everyone = self.settings.labels == "all_to_all"
        kept = test.subset(np.flatnonzero(everyone | (test.labels != self.settings.target)))
        images = self._stamped(kept.read(slice(None)), kept.labels, kept.ids)
        wanted = self.relabel(kept.labels, test.num_classes)
        return TriggeredSet(kept.replace(images=images, labels=wanted), kept.labels)

    def _eligible(self, labels: Index) -> NDArray[np.bool_]:
        if self.settings.labels == "all_to_all":
            return np.ones(len(labels), bool)
        at_target: NDArray[np.bool_] = labels == self.settings.target
        return at_target if self.settings.labels == "clean_label" else ~at_target

    def _refuse_foreign_target(self, num_classes: int) -> None:
        if self.settings.target >= num_classes:
            raise SettingsError(
                "target label out of range",
                where=f"settings of poison {self.name}: target",
                found=self.settings.target,
                allowed=f"0..{num_classes - 1}",
            )


class BadNetsSettings(BackdoorSettings):
    """Settings of :class:`BadNets`.

    :param size: edge length of the patch in pixels.
    :param margin: pixels between the patch and the lower and right border.
    """

    size: int = Field(3, ge=1)
    margin: int = Field(1, ge=0)


class BadNets(Backdoor):
    """A black-and-white checkerboard patch with white corners near the lower right corner.

    Gu, Dolan-Gavitt and Garg, "BadNets: Identifying Vulnerabilities in the Machine Learning Model Supply Chain",
    arXiv 1708.06733. ``size=1`` is their single-pixel trigger.
    """

    name: ClassVar[str] = "badnets"
    Settings: ClassVar[type[config.Settings]] = BadNetsSettings
    settings: BadNetsSettings

    def trigger(self, images: Pixels, labels: Index, ids: Index) -> Pixels:
        size, margin = self.settings.size, self.settings.margin
        height, width = images.shape[1:3]
        if size + margin > min(height, width):
            raise SettingsError(
                "the patch does not fit",
                where="settings of poison badnets: size, margin",
                found=f"{size} + {margin}",
                allowed=f"together at most {min(height, width)} pixels",
            )
        rows, columns = np.indices((size, size))
        patch = ((rows + columns) % 2 == 0).astype(np.float32)
        out = images.copy()
        out[:, height - margin - size : height - margin, width - margin - size : width - margin] = patch[..., None]
        return out


class BlendedSettings(BackdoorSettings):
    """Settings of :class:`Blended`.

    :param alpha: weight of the noise image.
    :param pattern_seed: decides the noise image.
    """

    alpha: float = Field(0.2, gt=0, le=1)
    pattern_seed: int = 0


class Blended(Backdoor):
    """One fixed image of uniform noise ``n``, blended in: ``(1 − α) x + α n``.

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
        """Return the noise image for images of *shape* ``(H, W, C)``."""
        rng = np.random.default_rng(derive_seed(self.settings.pattern_seed, "pattern", self.name))
        return rng.random(shape, np.float32)


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

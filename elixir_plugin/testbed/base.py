"""What every poison of the testbed builds on: :class:`Poison`, and :class:`Backdoor` for those with a trigger."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from typing_extensions import Self

from ..core import settings as config
from ..core.case import TriggeredSet, Truth
from ..core.context import Context, derive_seed
from ..core.images import CHUNK, Images, ImageSet, Index
from ..errors import SettingsError

Pixels = NDArray[np.float32]  # [n, H, W, C] in [0, 1]
Stamp = Callable[[Pixels, Index, Index], Pixels]  # images, labels, ids -> changed images


class Poison(ABC):
    """One way to poison a training set. Subclasses set the class attributes and write the abstract methods.

    Both kinds of poison fit: a backdoor (:class:`Backdoor`) changes a few samples and shows in triggered test
    samples; an indiscriminate poison changes all of them, class by class, and has no trigger to test with.

    :param settings: a settings object, a mapping, or None for the defaults.
    :param values: single settings by keyword.
    :ivar context: device, cache and progress of what the poison learns; its seed is not used. None: on the CPU, kept
        nowhere.
    """

    name: ClassVar[str]
    Settings: ClassVar[type[config.Settings]] = config.Settings
    settings: config.Settings
    context: Context | None = None

    def __init__(self, settings: config.Settings | Mapping[str, Any] | None = None, **values: Any) -> None:
        self.settings = self.Settings.coerce(settings, values, where=f"settings of poison {self.name}")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.settings!r})"

    @property
    @abstractmethod
    def kind(self) -> str:
        """What the truth says: ``"dirty-label"``, ``"clean-label"`` or ``"indiscriminate"``."""

    @property
    def learns(self) -> bool:
        """Whether it learns something from the whole set before it can change a sample, see :meth:`fitted`."""
        return type(self).fitted is not Poison.fitted

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

    def fitted(self, train: ImageSet) -> Self:
        """Return the poison with whatever it learns from the whole set; most learn nothing. Called by :meth:`poison`.

        The result must depend on the samples and their ids alone, not on their order. Where learning is costly, a
        poison that is fitted to *train* already should return itself.
        """
        return self

    def choose_cover(self, train: ImageSet, chosen: Index, seed: int) -> Index:
        """Return the positions of cover samples, none of them in *chosen*; by default there are none."""
        return np.empty(0, np.int64)

    def cover_trigger(self, images: Pixels, labels: Index, ids: Index) -> Pixels:
        """Return what cover samples look like, as :meth:`trigger` does; by default they carry the trigger itself."""
        return self.trigger(images, labels, ids)

    def poison(self, train: ImageSet, seed: int = 0) -> tuple[ImageSet, Truth]:
        """Return the poisoned set, in the order and pixel type of *train*, and what was done to it.

        :param seed: decides which samples are chosen. The pattern of the trigger does not depend on it.
        :raises SettingsError: when *train* does not hold enough samples to choose from, or is too small.
        """
        attack = self.fitted(train)
        rows = attack.choose(train, seed)
        cover = attack.choose_cover(train, rows, seed)
        images = train.read(slice(None))  # a new array
        labels = train.labels.copy()
        images[rows] = attack._stamped(images[rows], labels[rows], train.ids[rows])
        images[cover] = attack._stamped(images[cover], labels[cover], train.ids[cover], attack.cover_trigger)
        labels[rows] = attack.relabel(labels[rows], train.num_classes)
        mask, covers = (np.isin(np.arange(len(train)), positions) for positions in (rows, cover))
        truth = Truth(mask, covers, train.labels, kind=attack.kind if len(rows) else "none")
        return train.replace(images=images, labels=labels), truth

    def triggered_test(self, test: ImageSet) -> TriggeredSet | None:
        """Return triggered test samples with the labels the attacker wants, or None for poisons without a trigger."""
        return None

    def _stamped(self, images: Images, labels: Index, ids: Index, stamp: Stamp | None = None) -> Images:
        """Apply *stamp*, the trigger by default, and keep the pixel type.

        uint8 is rounded to the nearest value, float32 stays exact. Works in blocks, so that memory beyond the result
        does not grow with the set.
        """
        stamp = stamp or self.trigger
        out = np.empty_like(images)
        for start in range(0, len(images), CHUNK):
            part = slice(start, start + CHUNK)
            if images.dtype == np.uint8:
                pixels = images[part].astype(np.float32) / np.float32(255)
                out[part] = np.rint(np.clip(stamp(pixels, labels[part], ids[part]), 0, 1) * 255)
            else:
                out[part] = np.clip(stamp(images[part], labels[part], ids[part]), 0, 1)
        return out


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
        return self._drawn(eligible, self.settings.rate, len(train), derive_seed(seed, "poison", self.name), "rate")

    def relabel(self, labels: Index, num_classes: int) -> Index:
        if self.settings.labels == "all_to_all":
            return (labels + 1) % num_classes
        return np.full_like(labels, self.settings.target)

    def triggered_test(self, test: ImageSet) -> TriggeredSet:
        """Return every test sample that the attacker wants to see misclassified, with the trigger.

        ``all_to_all``: all samples. Else: samples of other classes than the target class.
        """
        self._refuse_foreign_target(test.num_classes)
        kept = test.subset(np.flatnonzero(self._attacked(test.labels)))
        images = self._stamped(kept.read(slice(None)), kept.labels, kept.ids, self.test_trigger)
        wanted = self.relabel(kept.labels, test.num_classes)
        return TriggeredSet(kept.replace(images=images, labels=wanted), kept.labels)

    def test_trigger(self, images: Pixels, labels: Index, ids: Index) -> Pixels:
        """Return what the attacker shows at test time, as :meth:`trigger` does; by default that trigger."""
        return self.trigger(images, labels, ids)

    def _attacked(self, labels: Index) -> NDArray[np.bool_]:
        """Mark the test samples that the attacker wants to see misclassified."""
        away: NDArray[np.bool_] = labels != self.settings.target
        return away | (self.settings.labels == "all_to_all")

    def _eligible(self, labels: Index) -> NDArray[np.bool_]:
        """Mark the training samples that may be chosen."""
        if self.settings.labels == "all_to_all":
            return np.ones(len(labels), bool)
        at_target: NDArray[np.bool_] = labels == self.settings.target
        return at_target if self.settings.labels == "clean_label" else ~at_target

    def _drawn(self, eligible: Index, rate: float, size: int, seed: int, setting: str) -> Index:
        """Return ``round(rate · size)`` of the *eligible* positions, ascending.

        :param setting: the setting that holds *rate*, for the message.
        :raises SettingsError: when there are fewer.
        """
        count = round(rate * size)
        if count > len(eligible):
            raise SettingsError(
                "not enough samples to poison" if setting == "rate" else "not enough samples for covers",
                where=f"settings of poison {self.name}: {setting}",
                found=f"{rate} ({count} of {size} samples)",
                allowed=f"{len(eligible)} samples may be chosen under these settings",
                hint=f"lower the {setting}",
            )
        return np.sort(np.random.default_rng(seed).permutation(eligible)[:count])

    def _refuse_foreign_target(self, num_classes: int) -> None:
        if self.settings.target >= num_classes:
            raise SettingsError(
                "target label out of range",
                where=f"settings of poison {self.name}: target",
                found=self.settings.target,
                allowed=f"0..{num_classes - 1}",
            )

"""What the steps of a pipeline hand on: the set, the flags, the model; and what a step is given of them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...core.augmentation import Augmentation
from ...core.case import Case
from ...core.classifier.classifier import Classifier
from ...core.context import derive_seed
from ...core.images import Images, ImageSet, Index, LazyImages
from ...core.outcome import Outcome
from ...core.pixels import rms_changes, to_bytes, to_floats
from ...errors import InputError
from ...training.batches import IN_MEMORY
from .plan import Step

Mask = NDArray[np.bool_]
SHARE = 0.25  # of the flagged samples of the class with most, from which on a class counts as target


@dataclass
class Given:
    """What a step is given.

    :param case: for its defense.
    :param rows: positions ``[n]`` of its samples in the suspect set.
    :param suspects: bool ``[n]``, those that it may change; None: all.
    :param targets: classes that it is told are the targets of the attack; None: it is told nothing.
    :param dropped: samples that were left out for it, and stay out.
    :param unverified: samples in its reserved clean set that nobody has verified.
    """

    case: Case
    rows: Index
    suspects: Mask | None = None
    targets: tuple[int, ...] | None = None
    dropped: int = 0
    unverified: int = 0


@dataclass
class State:
    """What is known after some steps; arrays are over the ``N`` samples of the suspect set.

    :param case: what came in.
    :param images: the suspect set as it is by then, with the samples that have been dropped.
    :param rows: positions of the samples that are left.
    :param flagged: bool ``[N]``, samples that any step has flagged; all False before.
    :param detected: whether any step has looked for poison.
    :param changed: bool ``[N]``, samples whose image or label a step has changed.
    :param repaired: bool ``[N]``, flagged samples that have been changed since.
    :param held: bool ``[N]``, flagged samples that have been set aside; no step sees them any more.
    :param model: the model that the last step which makes one has made.
    :param hold_back: share of newly flagged samples to set aside; drawn under *seed*.
    :param added, static, noise_level: as in ``Outcome``, of the last step that changed the set.
    """

    case: Case
    images: ImageSet | None
    rows: Index
    flagged: Mask
    changed: Mask
    repaired: Mask
    held: Mask
    detected: bool = False
    model: Classifier | None = None
    added: Augmentation | None = None
    static: Augmentation | None = None
    noise_level: float | None = None
    hold_back: float = 0.0
    seed: int = 0

    @classmethod
    def start(cls, case: Case) -> State:
        """Return the state before the first step."""
        count = 0 if case.train is None else len(case.train)
        none = np.zeros(count, bool)
        return cls(case, case.train, np.arange(count), none, none.copy(), none.copy(), none.copy())

    def give(self, step: Step) -> Given | str:
        """Return what *step* is given, after leaving out what it says to drop; or why there is nothing for it to do.

        :raises InputError: when it would be left without samples.
        """
        options, dropped = step.options, 0
        if options.drop is not None:
            out = self.flagged & ~self.repaired if options.drop == "unrepaired" else self.flagged
            before, self.rows = len(self.rows), self.rows[~out[self.rows]]
            dropped = before - len(self.rows)
        suspects = self.flagged[self.rows] if options.only is not None else None
        if (suspects is not None or options.target is not None) and not self.flagged[self.rows].any():
            return "nothing was flagged"
        if self.images is not None and not len(self.rows) and "train" in step.defense.needs:
            raise InputError("no sample is left", where=f"step {step.label}", found="all have been dropped before")
        rows = self.rows
        if suspects is not None and step.defense.by_image:
            rows, suspects = rows[suspects], None
        clean, unverified = self._clean(step)
        targets = self._targets() if options.target is not None else None
        case = Case(self._subset(rows), clean, self._model(step), mirror=self.case.mirror)
        return Given(case, rows, suspects, targets, dropped, unverified)

    def take(self, given: Given, outcome: Outcome, step: Step) -> Outcome:
        """Take over what *step* made of *given*; return its outcome as it counts, with all but suspects unchanged."""
        outcome = dataclasses.replace(outcome)
        if step.kind == "detect":
            if outcome.flagged is None and outcome.kept is not None:
                outcome.flagged = ~_mask(outcome.kept, len(given.rows))
            if outcome.flagged is not None:
                found = given.rows[outcome.flagged]
                self._hold_back(found[~self.flagged[found]], step)
                self.flagged[found], self.repaired[found] = True, False
            self.detected = True
        elif given.case.train is not None:
            left = _mask(outcome.kept_rows(len(given.rows)), len(given.rows))
            if given.suspects is not None:
                left |= ~given.suspects
            self.rows = np.setdiff1d(self.rows, given.rows[~left], assume_unique=True)
        if outcome.train is not None:
            self._take_set(given, outcome, step)
        if outcome.model is not None:
            self.model = outcome.model
        if step.kind == "purify":
            self.added, self.static = outcome.augmentation, outcome.static_augmentation
            self.noise_level = None if step.options.only is not None else outcome.noise_level
        return outcome

    def _hold_back(self, found: Index, step: Step) -> None:
        """Set a share of the samples *found* aside."""
        count = round(self.hold_back * len(found))
        order = np.random.default_rng(derive_seed(self.seed, "pipeline", "held back", step.number)).permutation(found)
        self.held[order[:count]] = True
        self.rows = self.rows[~self.held[self.rows]]

    def good_rows(self) -> Index:
        """Return positions of the samples to go on with: those left that are not suspect, or have been repaired."""
        return self.rows[~(self.flagged & ~self.repaired)[self.rows]]

    def status(self) -> dict[str, int]:
        """Return how many samples stand where: every one under one word."""
        if self.images is None or self.case.train is None:
            return {}
        left = _mask(self.rows, len(self.flagged))
        relabelled, suspect = self.images.labels != self.case.train.labels, self.flagged & ~self.repaired
        groups = {
            "as it came": left & ~suspect & ~self.changed,
            "flagged": left & suspect,
            "purified": left & ~suspect & self.changed & ~relabelled,
            "relabelled": left & ~suspect & self.changed & relabelled,
            "dropped": ~left,
        }
        return {name: int(rows.sum()) for name, rows in groups.items()}

    def _take_set(self, given: Given, outcome: Outcome, step: Step) -> None:
        """Put what the step made of its samples in their place, and leave all that is not suspect as it was."""
        assert outcome.train is not None and given.case.train is not None and self.images is not None
        made, before = outcome.train, given.case.train
        moved: Mask = (rms_changes(before, made) != 0) | (
            made.labels != before.labels
        )  # NaN, another size, is a change
        if given.suspects is not None:
            if (moved & ~given.suspects).any() and outcome.model is not None:
                outcome.model = None  # it was trained on a set that there is not
                outcome.notes = [*outcome.notes, "the model of this step saw changes that only=flagged takes back: it "
                                 "is not handed on"]  # fmt: skip
            moved &= given.suspects
        whole = len(given.rows) == len(self.images) and given.suspects is None
        if whole:
            self.images = self.images.replace(images=made.images, labels=made.labels)
        else:
            chosen = np.flatnonzero(moved)
            self.images = replaced(self.images, given.rows[chosen], made.subset(chosen), f"step {step.label}")
        self.changed[given.rows[moved]] = True
        self.repaired |= self.changed & self.flagged & _mask(given.rows[moved], len(self.flagged))
        outcome.train = self._subset(given.rows)

    def _subset(self, rows: Index) -> ImageSet | None:
        if self.images is None or len(rows) == len(self.images):
            return self.images
        return self.images.subset(rows)

    def _model(self, step: Step) -> Classifier | None:
        chosen = step.options.on or ("model" if step.kind == "repair" else "suspect")
        return self.case.model if chosen == "suspect" or self.model is None else self.model

    def _clean(self, step: Step) -> tuple[ImageSet | None, int]:
        """Return the reserved clean set for *step*, and how many samples in it nobody has verified."""
        clean = self.case.clean
        if step.options.clean_from is None or self.images is None:
            return clean, 0
        kept = self.images.subset(self.rows[~self.flagged[self.rows]])
        if clean is None or not len(clean):
            return (kept, len(kept)) if len(kept) else (clean, 0)
        if kept.image_shape != clean.image_shape:
            raise InputError(
                "what is kept has images of another size", where=f"step {step.label}: clean_from",
                found=kept.image_shape, allowed=clean.image_shape,
            )  # fmt: skip
        parts: list[Images] = [each.read(slice(0, len(each))) for each in (clean, kept)]
        if parts[0].dtype != parts[1].dtype:
            parts = [to_floats(each) for each in parts]
        labels = np.concatenate([clean.labels, kept.labels])
        return ImageSet(np.concatenate(parts), labels, clean.num_classes, classes=clean.classes), len(kept)

    def _targets(self) -> tuple[int, ...]:
        assert self.images is not None
        return most_flagged(self.images.labels[self.rows[self.flagged[self.rows]]])


def most_flagged(labels: Index) -> tuple[int, ...]:
    """Return the classes that hold most flagged samples: at least a quarter as many as the class with most.

    :param labels: of the flagged samples, at least one.

    >>> most_flagged(np.array([3, 3, 3, 3, 3, 3, 3, 3, 5, 7, 7]))
    (3, 7)
    """
    counts = np.bincount(labels)
    return tuple(int(each) for each in np.flatnonzero((counts > 0) & (counts >= SHARE * counts.max())))


def replaced(images: ImageSet, rows: Index, made: ImageSet, where: str) -> ImageSet:
    """Return *images* with the samples at *rows* replaced by *made*; pixels of all others stay the same bits.

    A set that fits into memory becomes an array; of a larger one, only the new images are held.

    :raises InputError: when *made* has images of another size.
    """
    labels = images.labels.copy()
    labels[rows] = made.labels
    if not len(rows):
        return images
    if made.image_shape != images.image_shape:
        raise InputError(
            "some samples cannot have another size than the others", where=where, found=made.image_shape,
            allowed=images.image_shape,
        )  # fmt: skip
    new = made.read(slice(0, len(made)))
    new = to_bytes(new) if images.images.dtype == np.uint8 else to_floats(new)
    if np.prod(images.images.shape) * new.dtype.itemsize <= IN_MEMORY:
        pixels = images.read(slice(0, len(images)))
        pixels[rows] = new
        return images.replace(images=pixels, labels=labels)
    place = {int(row): position for position, row in enumerate(rows)}

    def read(position: int) -> Images:
        image: Images = new[place[position]] if position in place else images.read(slice(position, position + 1))[0]
        return image

    return images.replace(images=LazyImages(read, len(images), images.image_shape, new.dtype), labels=labels)


def _mask(rows: Index, count: int) -> Mask:
    mask = np.zeros(count, bool)
    mask[rows] = True
    return mask

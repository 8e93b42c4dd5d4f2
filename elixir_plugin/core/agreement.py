"""Whether a suspect model and a labelled set belong together, as they were read.

A backdoored model still gives clean images their labels. One that does not was read in another way than it was trained:
channels in another order, another normalisation, classes in another order. Every number that follows would be wrong,
and nothing else would show it. So the agreement is measured before any work, other readings are tried where it is low,
and a case that does not fit is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]
from scipy.special import bdtrc, betaincinv  # type: ignore[import-untyped]
from torch import Tensor

from ..errors import InputError
from .case import Case
from .classifier.classifier import Classifier, to_batch
from .classifier.modes import evaluating
from .images import ImageSet, Index

SAMPLES = 512  # looked at for the agreement as read
TRIED = 128  # of these, looked at for each other reading
ENOUGH = 0.9  # agreement above which no other reading is tried
GAIN = 0.1  # another reading must agree this much better,
GAIN_P = 1e-4  # with a sign test below this level,
DECENT = 0.25  # and go so far from chance to full agreement; a model surely below that does not fit
CONFIDENCE = 0.99
BATCH = 64

Hits = NDArray[np.bool_]

NORMALISATIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "pixels in 0..1 without normalisation": ((0.0,), (1.0,)),
    "pixels in 0..255": ((0.0,), (1 / 255,)),
    "pixels in -1..1": ((0.5,), (0.5,)),
    "ImageNet's mean and standard deviation": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "CIFAR-10's mean and standard deviation": ((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)),
    "MNIST's mean and standard deviation": ((0.1307,), (0.3081,)),
}


@dataclass(frozen=True)
class Reading:
    """Another way to read model and set, and how well it fits.

    :param name: what would be different.
    :param agreed: share of samples with their label, on those it was tried on.
    :param better: clearly better than as read: by :data:`GAIN`, by a sign test on the same samples, and well above
        chance.
    :param hint: the next step, if this is how it should be read.
    """

    name: str
    agreed: float
    better: bool
    hint: str


@dataclass(frozen=True)
class Agreement:
    """How far a model gives the samples of a set their labels.

    :param part: ``"clean"`` or ``"train"``, the set that was looked at.
    :param samples: how many of its samples.
    :param agreed: share of them that get their label.
    :param chance: the same share, if labels and predictions had nothing to do with each other.
    :param low: near chance, and surely less than a model that belongs to this set would show.
    :param unclear: too few samples to tell it from chance.
    :param readings: other readings that were tried, best first; empty where the agreement is high.
    :param suspect: share of the suspect samples that get their label, where that was looked at beside the clean set.
    """

    part: str
    samples: int
    agreed: float
    chance: float
    low: bool
    unclear: bool = False
    readings: tuple[Reading, ...] = ()
    suspect: float | None = None

    @property
    def otherwise(self) -> Reading | None:
        """The reading that fits clearly better than this one, or None."""
        return next((each for each in self.readings if each.better), None)

    def sentence(self) -> str:
        """Return what the report says.

        >>> Agreement("clean", 250, 0.932, 0.1, low=False).sentence()
        'the suspect model gives 93.2 % of 250 reserved clean samples their label (by chance: 10.0 %)'
        """
        name = {"clean": "reserved clean samples", "train": "suspect samples"}[self.part]
        text = (
            f"the suspect model gives {_percent(self.agreed)} of {self.samples} {name} their label "
            f"(by chance: {_percent(self.chance)})"
        )
        if self.part == "clean" and self.low and self.suspect is not None:
            text += (
                f", but {_percent(self.suspect)} of the suspect samples: a poison that spoils training altogether does "
                "that, and so does a clean set of another kind"
            )
        elif self.otherwise is not None:
            text += f"; read otherwise ({self.otherwise.name}), {_percent(self.otherwise.agreed)}"
        elif self.unclear:
            text += ": too few samples to tell whether the two belong together"
        elif self.low:
            text += ": it may belong to other data, or be read in another way than it was trained"
        return text

    def refuse(self) -> None:
        """Raise when another reading fits clearly better, or the model fits the clean set in no reading.

        :raises InputError: naming the readings that were tried, and what to do about the best.
        """
        other = self.otherwise
        if other is None and not (self.low and self.part == "clean" and self.suspect is None):
            return
        name = {"clean": "reserved clean", "train": "suspect"}[self.part]
        tried = "; ".join(f"{each.name}: {_percent(each.agreed)}" for each in self.readings[:6])
        raise InputError(
            f"the suspect model does not fit the {name} set as both were read",
            where="model",
            found=f"it gives {_percent(self.agreed)} of {self.samples} {name} samples their label (by chance: "
            f"{_percent(self.chance)}). Read otherwise: {tried or 'nothing else was tried'}",
            allowed="a model that was trained on such images, with the same classes in the same order",
            hint=(other.hint if other else "check that model, images and labels belong together")
            + "; {argument:any_model} goes on all the same",
        )


def measure_agreement(case: Case, device: torch.device | None = None) -> Agreement | None:
    """Return how far the suspect model of *case* agrees with the reserved clean labels, else with the suspect ones.

    At most 512 samples are looked at, evenly spread over the set. Clean labels that are all the same, as of a set that
    was never labelled, say nothing: then the suspect ones count. Below 90 %, other readings are tried on 128 of them.
    Where the clean labels are met no better than by chance, the suspect set is looked at too: a model that fits it was
    read rightly, and spoilt by an indiscriminate poison.

    :param device: where to compute; default: where the model is.
    :returns: None without a model, or without samples.
    """
    labelled = {"clean": case.clean, "train": case.train}
    present = [name for name, each in labelled.items() if each is not None and len(each)]
    if case.model is None or not present:
        return None
    part = next((name for name in present if len(np.unique(getattr(case, name).labels)) > 1), present[0])
    model = case.model if device in (None, case.model.device) else case.model.clone().to(device)
    found = _measured(model, getattr(case, part), part)
    if part == "clean" and found.low and found.otherwise is None and len(case.train or ()):
        beside = _measured(model, case.train, "train", readings=False)  # type: ignore[arg-type]
        if not beside.low and beside.agreed >= (1 + beside.chance) / 2:
            return replace(found, suspect=beside.agreed)
    return found


def _measured(model: Classifier, samples: ImageSet, part: str, *, readings: bool = True) -> Agreement:
    rows = _spread(len(samples), SAMPLES)
    images, labels = samples.read(rows), samples.labels[rows]
    guesses = _guesses(model, images)
    hits = guesses == labels
    classes = model.num_classes
    shares = [np.bincount(each, minlength=classes) / max(1, len(rows)) for each in (labels, guesses)]
    chance = float(shares[0] @ shares[1])
    agreed = float(hits.mean())
    tried: list[Reading] = []
    if readings and agreed < ENOUGH:
        few = _spread(len(rows), TRIED)
        tried = [*_permutations(guesses, labels, classes), *_other_pixels(model, images[few], labels[few], hits[few])]
        decent = chance + DECENT * (1 - chance)
        tried = [replace(each, better=each.better and each.agreed >= decent) for each in tried]
        tried.sort(key=lambda each: (not each.better, -each.agreed))
    low, unclear = _judged(int(hits.sum()), len(rows), chance)
    return Agreement(part, len(rows), agreed, chance, low, unclear, tuple(tried))


def _judged(hits: int, samples: int, chance: float) -> tuple[bool, bool]:
    """Tell whether the agreement is near chance and surely below what a fitting model shows, and whether it is unclear.

    The upper confidence bound (Clopper and Pearson, 1934) keeps a handful of samples from deciding anything.
    """
    bound = 1.0 if hits == samples else float(betaincinv(hits + 1, samples - hits, CONFIDENCE))
    like_chance = _tail(hits, samples, chance) > 1 - CONFIDENCE
    low = (like_chance or hits < 2 * chance * samples) and bound < chance + DECENT * (1 - chance)
    return low, like_chance and not low


def _permutations(guesses: Index, labels: Index, classes: int) -> list[Reading]:
    """Try other orders of the classes: usual mistakes first, then the one that fits these samples best.

    The best fit is found on one half of the samples and counted on the other, so that it gains nothing by chance.
    """
    numbers = list(range(classes))
    as_text = sorted(numbers, key=str)
    usual = {
        "the model's classes in the order of their numbers as text (0, 1, 10, 2, …)": as_text,
        "the set's classes in the order of their numbers as text (0, 1, 10, 2, …)": np.argsort(as_text).tolist(),
        "labels of the set one too high": [*numbers[1:], 0],
        "labels of the set one too low": [numbers[-1], *numbers[:-1]],
    }
    hits = guesses == labels
    found = [
        _reading(name, np.asarray(order)[guesses] == labels, hits, _AS_TEXT if "as text" in name else _ORDER)
        for name, order in usual.items()
        if order != numbers
    ]
    crossed = np.zeros_like(hits)
    half = np.random.default_rng(0).permutation(len(labels)) % 2  # position alone may go with the class
    for fold in (0, 1):
        fitted = half == fold
        crossed[~fitted] = _best_order(guesses[fitted], labels[fitted], classes)[guesses[~fitted]] == labels[~fitted]
    order = _best_order(guesses, labels, classes)
    moved = [f"{label} → {order[label]}" for label in numbers if order[label] != label]
    name = f"classes in another order (model's → set's: {', '.join(moved[:6])}{', …' if len(moved) > 6 else ''})"
    return [*found, _reading(name, crossed, hits, _ORDER)] if moved else found


_ORDER = "say the order of the classes that the model was trained with, or correct the labels"
_AS_TEXT = "read numbers as text, or as numbers, on both sides: of class folders, with {option:class_order=text}"
_CHANNELS = "model and images disagree on whether red or blue comes first: turn the channels of one of them"
_PIXELS = "pass the mean and the standard deviation that the model was trained with, for pixels in [0, 1]"
_AXES = "rows and columns of the images are exchanged: turn them"
_NEGATIVE = "dark and bright are exchanged: invert the images"


def _best_order(guesses: Index, labels: Index, classes: int) -> Index:
    """Return the permutation ``[num_classes]``, model's class -> label, that meets most labels; ties stay in place."""
    counts = np.zeros((classes, classes))
    np.add.at(counts, (guesses, labels), 1)
    order: Index = linear_sum_assignment(counts + 0.5 * np.eye(classes) / classes, maximize=True)[1]
    return order


def _other_pixels(model: Classifier, images: NDArray[np.generic], labels: Index, hits: Hits) -> list[Reading]:
    """Try what may have been done to the images between the disk and the model."""
    mean, std = model.mean, model.std

    def renormalised(other_mean: Sequence[float], other_std: Sequence[float]) -> Callable[[Tensor], Tensor]:
        wanted, spread = (mean.new_tensor(each).reshape(1, -1, 1, 1) for each in (other_mean, other_std))
        return lambda batch: (batch - wanted) / spread * std + mean

    changes: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {}
    if images.shape[3] == 3:
        changes["blue before red"] = (lambda batch: batch.flip(1), _CHANNELS)
    for name, (other_mean, other_std) in NORMALISATIONS.items():
        here = [each.flatten().tolist() for each in (mean, std)]
        same = all(
            np.allclose(given, wanted, atol=5e-3) for given, wanted in zip(here, (other_mean, other_std), strict=True)
        )
        if len(other_mean) in (1, images.shape[3]) and not same:
            changes[name] = (renormalised(other_mean, other_std), _PIXELS)
    if images.shape[1] == images.shape[2]:
        changes["rows and columns exchanged"] = (lambda batch: batch.transpose(2, 3), _AXES)
    changes["dark and bright exchanged"] = (lambda batch: 1 - batch, _NEGATIVE)
    return [
        _reading(name, _guesses(model, images, change) == labels, hits, hint)
        for name, (change, hint) in changes.items()
    ]


def _reading(name: str, other: Hits, hits: Hits, hint: str) -> Reading:
    gained, lost = int((other & ~hits).sum()), int((hits & ~other).sum())
    agreed = float(other.mean())
    clear = agreed - float(hits.mean()) >= GAIN and _tail(gained, gained + lost, 0.5) < GAIN_P
    return Reading(name, agreed, bool(clear), hint)


def _tail(hits: int, samples: int, share: float) -> float:
    """Return the probability of *hits* or more among *samples*, each with probability *share*."""
    return 1.0 if hits == 0 else float(bdtrc(hits - 1, samples, share))


@torch.inference_mode()
def _guesses(model: Classifier, images: NDArray[np.generic], change: Callable[[Tensor], Tensor] | None = None) -> Index:
    """Return the predicted classes ``[n]`` of images ``[n, H, W, C]``, each batch gone through *change* first."""
    found = []
    with evaluating(model):
        for start in range(0, len(images), BATCH):
            batch = to_batch(images[start : start + BATCH], model.device)
            found.append(model(batch if change is None else change(batch)).argmax(1).cpu())
    return torch.cat(found).numpy()


def _spread(total: int, count: int) -> Index:
    """Return at most *count* positions, evenly spread over *total*."""
    return np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(np.int64))


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"

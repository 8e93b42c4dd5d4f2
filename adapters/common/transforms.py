"""Transforms of a host's data sets taken apart: what is random, what every image goes through, and how it normalises.

Only what is known to be random may be left out of what a model is shown. Everything else stays, or is refused by name.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from ...api.arrays import Normalisation
from ...api.convert import streams_aside
from ...errors import InputError

# fmt: off
RANDOM = frozenset({  # of torchvision, both versions of its transforms; those that hold others go with what they hold
    "AugMix", "AutoAugment", "ColorJitter", "CutMix", "ElasticTransform", "GaussianBlur", "GaussianNoise", "JPEG",
    "MixUp", "RandAugment", "RandomAdjustSharpness", "RandomAffine", "RandomApply", "RandomAutocontrast",
    "RandomChannelPermutation", "RandomChoice", "RandomCrop", "RandomEqualize", "RandomErasing", "RandomGrayscale",
    "RandomHorizontalFlip", "RandomInvert", "RandomIoUCrop", "RandomOrder", "RandomPerspective",
    "RandomPhotometricDistort", "RandomPosterize", "RandomResize", "RandomResizedCrop", "RandomRotation",
    "RandomShortestSize", "RandomSolarize", "RandomVerticalFlip", "RandomZoomOut", "ScaleJitter",
    "TrivialAugmentWide",
})
# fmt: on
TO_TENSOR = frozenset({"ToTensor", "PILToTensor", "ToImage", "ConvertImageDtype", "ToDtype", "ToPureTensor"})
DRAWS = 12
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


class Chain:
    """Transforms one after the other."""

    def __init__(self, transforms: Sequence[Any]) -> None:
        self.transforms = list(transforms)

    def __call__(self, image: Any) -> Any:
        for transform in self.transforms:
            image = transform(image)
        return image


def steps_of(transform: Any) -> list[Any]:
    """Return the single transforms of compositions in compositions; anything else is a single one."""
    if transform is None:
        return []
    kind = type(transform)
    if kind is nn.Sequential:
        parts = list(transform)
    elif kind is Chain or (kind.__name__ == "Compose" and _of_torchvision(kind)):
        parts = transform.transforms
    else:
        return [transform]
    return [step for part in parts for step in steps_of(part)]


def name_of(step: Any) -> str:
    """Return how a reader would call a transform."""
    inner = getattr(step, "lambd", None) if type(step).__name__ == "Lambda" else None
    named = inner if inner is not None else step
    name = getattr(named, "__qualname__", None) or type(named).__qualname__
    return f"Lambda({name})" if inner is not None else str(name)


def known_random(step: Any) -> bool:
    """Tell whether a transform is one of torchvision's random ones, or a kind of one."""
    return any(base.__name__ in RANDOM and _of_torchvision(base) for base in type(step).__mro__)


def is_normalize(step: Any) -> bool:
    """Tell a transform that takes off a mean and divides by a deviation."""
    named = any(base.__name__ == "Normalize" for base in type(step).__mro__)
    return named and hasattr(step, "mean") and hasattr(step, "std")


def is_to_tensor(step: Any) -> bool:
    """Tell a transform that makes pictures into tensors, or bytes into floats."""
    return type(step).__name__ in TO_TENSOR


def normalisation_in(steps: Sequence[Any]) -> tuple[list[float], list[float]] | None:
    """Return mean and deviation of all normalisations among *steps*, one after the other; None without any.

    ``((x − m₁)/s₁ − m₂)/s₂`` is ``(x − (m₁ + s₁ m₂))/(s₁ s₂)``.

    :raises InputError: when they are of different length.
    """
    mean, std, found = np.zeros(1), np.ones(1), False
    for step in filter(is_normalize, steps):
        more, by = (np.asarray(each, np.float64).reshape(-1) for each in (step.mean, step.std))
        if len({len(mean), len(more), len(by)} - {1}) > 1:
            raise InputError(
                "normalisations do not fit each other", where="transform", found=f"{len(mean)} and {len(more)} channels"
            )
        mean, std, found = mean + std * more, std * by, True
    return (mean.tolist(), std.tolist()) if found else None


def undone(stats: tuple[Sequence[float], Sequence[float]] | None) -> Normalisation | None:
    """Return *stats* as something to undo."""
    return None if stats is None else Normalisation(*stats)


def without_random(steps: Sequence[Any], pictures: Sequence[Any], where: str) -> tuple[list[Any], list[Any]]:
    """Return the transforms that every image goes through, and those left out because they are random.

    A random transform whose parameters leave nothing to chance (``RandomHorizontalFlip(p=1)``) stays.

    :param pictures: what the first step gets, for a few samples: unknown transforms are tried on them.
    :raises InputError: naming a transform that is random though it is none of torchvision's.
    """
    kept: list[Any] = []
    left: list[Any] = []
    shown = list(pictures)
    for place, step in enumerate(steps):
        drawn = _outputs(step, shown) if not _surely_random(step) and not _surely_fixed(step) else None
        varies = _surely_random(step) or (drawn is not None and any(not _all_same(each) for each in drawn))
        if known_random(step):
            idle = drawn is not None and all(
                each[0] is None or same(each[0], given) for each, given in zip(drawn, shown, strict=True)
            )
            if varies or idle:
                left.append(step)
                continue
        elif varies:
            raise InputError(
                "a transform is random, and it is unknown what images are without it",
                where=f"{where}[{place}]",
                found=name_of(step),
                allowed="transforms that do the same at every call, and torchvision's random ones, which are left out",
                hint="hand over a data set without it, or with torchvision's transform of that kind",
            )
        kept.append(step)
        shown = [each for each in (_once(step, image) for image in shown) if each is not None]
    return kept, left


def marked(steps: Sequence[Any], benign: Sequence[Any]) -> list[int | None]:
    """Return for each of *steps* its position in *benign*, or None for what was put in: a trigger."""
    wanted, found = [_key(step) for step in benign], [_key(step) for step in steps]
    # the longest common subsequence; transforms are few
    best = np.zeros((len(found) + 1, len(wanted) + 1), int)
    for i in range(len(found) - 1, -1, -1):
        for j in range(len(wanted) - 1, -1, -1):
            best[i, j] = best[i + 1, j + 1] + 1 if found[i] == wanted[j] else max(best[i + 1, j], best[i, j + 1])
    places: list[int | None] = [None] * len(found)
    i = j = 0
    while i < len(found) and j < len(wanted):
        if found[i] == wanted[j]:
            places[i] = j
            i, j = i + 1, j + 1
        elif best[i + 1, j] >= best[i, j + 1]:
            i += 1
        else:
            j += 1
    return places


def same(first: Any, second: Any) -> bool:
    """Compare pictures, arrays, tensors, or groups of them."""
    if isinstance(first, tuple | list) and isinstance(second, tuple | list):
        return len(first) == len(second) and all(same(a, b) for a, b in zip(first, second, strict=True))
    one, other = _values(first), _values(second)
    return one.dtype == other.dtype and np.array_equal(one, other)


def _surely_random(step: Any) -> bool:
    chance = getattr(step, "p", None)
    return known_random(step) and isinstance(chance, float | int) and 0 < chance < 1


def _surely_fixed(step: Any) -> bool:
    return not known_random(step) and _of_torchvision(type(step)) and type(step).__name__ != "Lambda"


def _of_torchvision(kind: type) -> bool:
    return kind.__module__.startswith("torchvision.transforms")


def _outputs(step: Any, pictures: Sequence[Any]) -> list[list[Any]]:
    """Return what a copy of *step* makes of each picture under different seeds."""
    mine = _own(step)
    found = []
    for image in pictures:
        drawn = []
        for seed in range(DRAWS):
            with streams_aside(seed):
                drawn.append(_once(mine, image))
        found.append(drawn)
    return found


def _once(step: Callable[[Any], Any], image: Any) -> Any:
    """Return what *step* makes of an image, or None where it fails: reading will say so, with the position."""
    try:
        return step(copy.deepcopy(image))
    except Exception:
        return None


def _own(step: Any) -> Any:
    """Return a copy, so that a generator inside stays where it is; what cannot be copied as it is."""
    try:
        return copy.deepcopy(step)
    except Exception:
        return step


def _all_same(drawn: Sequence[Any]) -> bool:
    return all(same(each, drawn[0]) for each in drawn[1:])


def _values(value: Any) -> NDArray[Any]:
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)


def _key(step: Any) -> str:
    """Return what a transform and its deep copy have in common."""
    return f"{type(step).__module__}.{type(step).__qualname__} {_ADDRESS.sub('', repr(step))}"

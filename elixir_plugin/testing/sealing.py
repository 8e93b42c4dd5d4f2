"""Whether what a defense is handed leads to the truth or to test data; see :mod:`elixir_plugin.core.sealing`."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..core.case import Case
from ..core.images import ImageSet
from .reachable import reachable

FEW = 4  # values that a list of one entry per sample may have to count as a division of the samples


def leaks(case: Case, handed: Any = None, *, name: str = "case") -> list[str]:
    """Return every way from what a defense is handed to what it may not see, as ``how: what``.

    Looked for are the very objects, memory shared with them, the file behind a memory map, the poison as a mask or as
    positions, original labels, a list with an entry per sample that tells poison from the rest, the path that the case
    was read from, and names or ids of samples.

    :param handed: what the defense gets; default: ``case.visible()``. May be any object, e.g. ``(case, context)``.
    :param name: what it is called in the answer.

    >>> from elixir_plugin.testing import tiny_case
    >>> leaks(tiny_case()), leaks(tiny_case(), tiny_case().visible())
    ([], [])
    """
    handed = case.visible() if handed is None else handed
    secrets = _Secrets(case, handed)
    said = [f"{how}: {what}" for how, found in reachable(handed, name) for what in secrets.told_by(how, found)]
    return list(dict.fromkeys(said))


class _Secrets:
    """What a defense may not see of a case."""

    def __init__(self, case: Case, handed: Any) -> None:
        triggered = None if case.test_poisoned is None else case.test_poisoned.samples
        held = [("test", case.test), ("test_poisoned", triggered)]
        self.sets = [(what, each) for what, each in held if each is not None]
        self.objects: dict[int, tuple[str, Any]] = {}
        self.arrays: list[tuple[str, NDArray[Any]]] = []
        self.files: set[str] = set()
        self._hold("the case as it was read", case)
        self._hold("truth", case.truth)
        self._hold("test_poisoned", case.test_poisoned)
        if case.origin.facts:
            self._hold("origin", case.origin)
            self._hold("facts of the origin", case.origin.facts)
        for what, each in self.sets:
            self._hold(what, each)
            self._hold(f"images of {what}", each.images)
        if case.truth is not None:
            for key, value in vars(case.truth).items():
                if isinstance(value, np.ndarray):
                    self._hold(f"truth.{key}", value)
        if case.origin.path and os.sep in case.origin.path:
            self.files.add(case.origin.path)
        self.names = {name for part in (case.train, case.clean) if part is not None for name in part.names or ()}
        self.names |= {name for _, part in self.sets for name in part.names or ()}
        self.names = {name for name in self.names if not name.isdigit()}
        self.poison = None if case.truth is None else case.truth.poison
        mixed = self.poison is not None and self.poison.any() and not self.poison.all()
        self.mask = self.poison if mixed else None
        original = None if case.truth is None else case.truth.original_labels
        self.shown = np.empty(0, np.int64) if case.train is None else case.train.labels
        self.original = None if original is None or np.array_equal(original, self.shown) else original

    def _hold(self, what: str, value: Any) -> None:
        if value is None:
            return
        self.objects[id(value)] = (what, value)
        while isinstance(value, np.ndarray):
            self.objects.setdefault(id(value), (what, value))
            self.arrays.append((what, value))
            if (file := getattr(value, "filename", None)) is not None:
                self.files.add(str(file))
            value = value.base if isinstance(value.base, np.ndarray) else None

    def told_by(self, how: str, found: Any) -> Iterator[str]:
        """Yield what *found* gives away."""
        if id(found) in self.objects and not isinstance(found, (bool, int, str, type(None))):
            yield self.objects[id(found)][0]
        elif isinstance(found, str | pathlib.PurePath | bytes):
            yield from self._told_by_text(os.fsdecode(found) if not isinstance(found, str) else found)
        elif isinstance(found, np.ndarray | torch.Tensor):
            yield from self._told_by_numbers(_as_array(found))
        elif isinstance(found, ImageSet):
            yield from _told_by_set(found)
        elif isinstance(found, list | tuple | set | frozenset | dict):
            yield from self._told_by_container(found)

    def _told_by_text(self, text: str) -> Iterator[str]:
        yield from (f"the path {file}" for file in sorted(self.files) if file in text)
        if text in self.names:
            yield f"the name of a sample, {text}"

    def _told_by_numbers(self, array: NDArray[Any]) -> Iterator[str]:
        for what, secret in self.arrays:
            if np.may_share_memory(array, secret):  # bounds alone: an array between two others is no accident either
                yield f"memory of {what}"
                return
        if array.dtype.kind in "biuf":
            yield from self._told_by_values(array.reshape(-1) if array.size < 1 << 20 else array)

    def _told_by_container(self, found: Any) -> Iterator[str]:
        values = list(found)
        if values and all(isinstance(each, int | float | np.integer | np.bool_) for each in values):
            unordered = isinstance(found, set | frozenset | dict)
            yield from self._told_by_values(np.array(sorted(values) if unordered else values))
        if isinstance(found, dict):
            values = list(found.values())
        if self.mask is None or len(values) != len(self.mask) or isinstance(found, set | frozenset):
            return
        keys: Sequence[Callable[[Any], Any]] = (lambda each: type(each).__name__, _written)
        if any(self._divides([key(each) for each in values]) for key in keys):
            yield "entries that tell poison from other samples"

    def _told_by_values(self, values: NDArray[Any]) -> Iterator[str]:
        if self.mask is not None and values.ndim == 1:
            if len(values) == len(self.mask):
                if self._divides(values.tolist()) and not np.array_equal(values, self.shown):
                    yield "the poison, as a mask"
            elif len(values) == self.mask.sum() and np.array_equal(np.sort(values), np.flatnonzero(self.mask)):
                yield "the poison, as positions"
        if self.original is not None and values.shape == self.original.shape and (values == self.original).all():
            yield "original labels"

    def _divides(self, values: list[Any]) -> bool:
        """Tell whether a few distinct *values*, one per sample, never stand for poison and others at once."""
        assert self.mask is not None
        try:
            poison = {value for value, bad in zip(values, self.mask, strict=True) if bad}
            others = {value for value, bad in zip(values, self.mask, strict=True) if not bad}
        except TypeError:  # cannot be hashed
            return False
        return not poison & others and len(poison) + len(others) <= FEW


def _told_by_set(found: ImageSet) -> Iterator[str]:
    if found.names is not None:
        yield "names of samples"
    if not np.array_equal(found.ids, np.arange(len(found))):
        yield "ids that are not counted from 0"


def _as_array(found: Any) -> NDArray[Any]:
    """Return an array over all the memory that a tensor keeps alive, or the array itself."""
    if isinstance(found, np.ndarray):
        return found
    plain = found.detach()
    if plain.is_meta or plain.device.type != "cpu" or plain.layout != torch.strided or plain.is_quantized:
        return np.empty(0)
    if plain.untyped_storage().nbytes() != plain.nbytes:
        return _whole(plain)
    return np.asarray(plain.view(torch.uint8).numpy() if plain.dtype == torch.bfloat16 else plain.numpy())


def _whole(plain: torch.Tensor) -> NDArray[Any]:
    whole = torch.empty(0, dtype=torch.uint8)
    whole.set_(plain.untyped_storage())
    return np.asarray(whole.numpy())


def _written(value: Any) -> Any:
    """Return what the path or text of one sample has in common with others: folder and suffix; else None or not."""
    if isinstance(value, str | pathlib.PurePath):
        path = pathlib.PurePath(value)
        return str(path.parent), path.suffix
    return value is None

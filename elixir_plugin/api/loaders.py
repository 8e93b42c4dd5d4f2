"""Which samples of its data set a ``DataLoader`` goes through: all of them, each once, or positions are unclear."""

from __future__ import annotations

import operator
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    default_collate,
    default_convert,
)

from ..errors import InputError, reason_of

CHUNK = 256


@dataclass(frozen=True)
class Batching:
    """How a loader makes batches.

    :param size: samples of a batch; None: the loader hands out single samples.
    :param collate: its ``collate_fn``; None: the default, which only stacks.
    :param drop_last: a batch always has *size* samples.
    """

    size: int | None
    collate: Any
    drop_last: bool

    def batches(self, length: int) -> Iterator[range]:
        """Yield positions that cover ``0..length-1`` in batches as the loader makes them."""
        size = self.size or CHUNK
        for start in range(0, length, size):
            stop = min(start + size, length)
            yield range(max(0, stop - size), stop) if self.drop_last else range(start, stop)


def refuse_stream(loader: DataLoader[Any], where: str) -> None:
    """Refuse a loader over an iterable data set: its workers may repeat samples, or share them in any order."""
    if isinstance(loader.dataset, IterableDataset):
        raise _unclear(where, type(loader.dataset).__name__, "pass the data set itself: it is read once, in its order")


def batching_of(loader: DataLoader[Any], length: int, where: str) -> Batching:
    """Return how *loader* makes batches, after making sure that it goes through all of its data set.

    :param length: of the data set.
    :raises InputError: for samplers that leave samples out, repeat them, or do not name positions.
    """
    own: Any = loader.batch_sampler
    batched = type(own) is BatchSampler
    sampler = loader.sampler if own is None else own.sampler if batched else own
    if not _goes_through_all(sampler, length):
        _refuse_part(sampler, loader, length, where)
    size = None if own is None else own.batch_size if batched else CHUNK
    drop = batched and bool(own.drop_last)
    if drop and size is not None and size > length > 0:
        raise InputError("this loader gives no batch", where=where, found=f"{length} samples, batches of {size}")
    plain = loader.collate_fn in (default_collate, default_convert)
    return Batching(size, None if plain else loader.collate_fn, drop)


def _goes_through_all(sampler: Any, length: int) -> bool:
    """Tell whether torch's own *sampler* is sure to name every position of a data set once."""
    if type(sampler) is RandomSampler:
        full = not sampler.replacement and sampler.num_samples == len(sampler.data_source)
        return full and len(sampler.data_source) == length
    return type(sampler) is SequentialSampler and len(sampler.data_source) == length


def _refuse_part(sampler: Any, loader: DataLoader[Any], length: int, where: str) -> None:
    """Refuse a sampler whose positions, listed once, are not all of ``0..length-1``."""
    kind = type(sampler).__name__
    try:
        with _generators_aside(loader, sampler, getattr(sampler, "sampler", None)):
            listed = _positions(sampler, length)
    except Exception as error:
        raise _unclear(where, f"{kind}: {reason_of(error)}", "pass the data set itself") from error
    if sorted(listed) == list(range(length)):
        return
    known = [each for each in set(listed) if 0 <= each < length]
    raise _unclear(
        where,
        f"{kind} names {len(known)} of {length} positions in {len(listed)}{' or more' * (len(listed) > length)} draws",
        "pass the data set itself, or the part that is meant: torch.utils.data.Subset(dataset, rows)",
    )


def _positions(sampler: Any, length: int) -> list[int]:
    """Return what *sampler* names in one pass, as far as that is not more than there are samples."""

    def flat() -> Iterator[int]:
        for each in sampler:
            if isinstance(each, list | tuple):
                yield from map(operator.index, each)
            else:
                yield operator.index(each)

    return list(islice(flat(), length + 1))


@contextmanager
def _generators_aside(*holders: Any) -> Iterator[None]:
    """Put the random generators that *holders* keep back as they were."""
    states: list[tuple[Any, Any]] = []
    for holder in holders:
        for value in getattr(holder, "__dict__", {}).values():
            if isinstance(value, torch.Generator):
                states.append((value.set_state, value.get_state()))
            elif isinstance(value, random.Random):
                states.append((value.setstate, value.getstate()))
            elif isinstance(value, np.random.Generator):
                bits = value.bit_generator
                states.append((lambda state, bits=bits: setattr(bits, "state", state), bits.state))
    try:
        yield
    finally:
        for restore, state in states:
            restore(state)


def _unclear(where: str, found: str, hint: str) -> InputError:
    return InputError(
        "the samples of this loader have no fixed positions",
        where=where,
        found=found,
        allowed="a loader that goes through all of a map-style data set, each sample once",
        hint=hint,
    )

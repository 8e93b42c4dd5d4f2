"""Samples of a host read into memory, with proof that each stands at its own position.

A map-style data set is read twice. All samples are compared, because a transform that changes one image in a hundred
shows in a hundred others only: comparing some of the samples would miss it. The price, a second pass, is small against
what any defense does with the images. The second pass of a loader goes through its own batches, so that a
``collate_fn`` that mixes, reorders or leaves out samples shows too, as does a buffer that all samples share.

A stream can be read only once, and nothing about it can be compared.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from ..core.images import Images
from ..errors import InputError, reason_of
from .items import Form, rows_of
from .loaders import CHUNK, Batching, batching_of, refuse_stream

EARLY = 8  # samples compared before the first pass, so that augmentation is refused at once
STREAM_BYTES = 4 << 30  # of pixels that are kept of a stream; more is refused
Sample = tuple[Images, NDArray[Any]]


def read_map(data: Any, form: Form, where: str, *, changing: bool | Collection[int] = False) -> Sample:
    """Return images ``[N, H, W, C]`` and labels ``[N]`` or ``[N, K]`` of a map-style data set or a loader over one.

    Everything is read in this process; the workers of a loader are not started. All samples of a loader's data set are
    read, also those that ``drop_last`` leaves out of an epoch.

    :param changing: positions whose images may change from one access to the next; True: all.
    :raises InputError: naming the position where a sample cannot be read, or differs from the others or from itself.
    """
    dataset: Any = data.dataset if isinstance(data, DataLoader) else data
    if isinstance(data, DataLoader):
        refuse_stream(data, where)
    with _guarded(where, "the data set has no length"):
        length = len(dataset)
    batching = batching_of(data, length, where) if isinstance(data, DataLoader) else None
    if length == 0:
        raise InputError("the data set is empty", where=where)
    reader = _Reader(dataset, batching, form, length, where)
    fixed = [position for position in range(min(EARLY, length)) if not _may_change(changing, position)]
    for position in fixed:
        reader.refuse_change(position, reader.sample(position), reader.sample(position))
    kept = _Kept(where, length)
    for position in range(length):
        kept.put(position, reader.sample(position))
    if changing is not True:
        for position, again in reader.second_pass():
            if not _may_change(changing, position):
                reader.refuse_change(position, kept.sample(position), again)
    return kept.done()


def read_stream(data: Iterable[Any], form: Form, where: str) -> Sample:
    """Return images and labels of a stream, read once: positions are the order in which its samples come.

    :raises InputError: when its pixels need more than ``STREAM_BYTES``, as those of an endless stream do; and as
        :func:`read_map` does.
    """
    kept = _Kept(where)
    with _guarded(where, "the stream cannot be started"):
        items = iter(data)
    position = 0
    while True:
        place = f"{where}[{position}]"
        with _guarded(place, "the stream failed"):
            item = next(items, _END)
        if item is _END:
            break
        with _guarded(place, "a sample cannot be read"):
            kept.put(position, form.sample(item, place))
        position += 1
        if kept.bytes > STREAM_BYTES:
            raise InputError(
                "the stream is endless, or too large for memory",
                where=where,
                found=f"{position} samples, {kept.bytes / 2**30:.1f} GiB of pixels",
                allowed=f"up to {STREAM_BYTES / 2**30:.1f} GiB",
                hint="pass its beginning: itertools.islice(stream, n); or an ImageSet over a numpy.memmap",
            )
    if not position:
        raise InputError("the data set is empty", where=where)
    return kept.done()


class _Reader:
    """Reads samples of a map-style data set: alone, or in the batches of a loader."""

    def __init__(self, dataset: Any, batching: Batching | None, form: Form, length: int, where: str) -> None:
        self.dataset, self.batching, self.form, self.length, self.where = dataset, batching, form, length, where
        self.collate = None if batching is None else batching.collate

    def sample(self, position: int) -> Sample:
        """Return one sample, as it is if nothing else is in the batch; an array of its own."""
        place = f"{self.where}[{position}]"
        item = self._item(position)
        if self.collate is None:
            return self._read(item, place)
        single = self.batching is not None and self.batching.size is None
        with _guarded(place, "collate_fn failed on this sample alone", _COLLATE):
            made = self.collate(item if single else [item])
            return self._read(made, place) if single else self._read(rows_of(made, 1, self.form, place)[0], place, True)

    def second_pass(self) -> Iterator[tuple[int, Sample]]:
        """Yield position and sample, once more for every position; a loader's in its batches."""
        if self.batching is None or self.batching.size is None:
            yield from ((position, self.sample(position)) for position in range(self.length))
            return
        for positions in self.batching.batches(self.length):
            place = f"{self.where}[{positions[0]}..{positions[-1]}]"
            with _guarded(place, "the data set failed on this batch"):
                rows, collated = self._batch(positions, place), self.collate is not None
            for position, row in zip(positions, rows, strict=True):
                yield position, self._read(row, f"{self.where}[{position}]", collated)

    def refuse_change(self, position: int, first: Sample, second: Sample) -> None:
        """Refuse a sample that is not the same twice."""
        if all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in zip(first, second, strict=True)):
            return
        batched = self.batching is not None and self.batching.size is not None
        also = ", or collate_fn mixes or reorders samples, or all samples share one buffer" if batched else ""
        raise InputError(
            "images or labels change from one access to the next" + also,
            where=f"{self.where}[{position}]",
            found=_difference(first, second),
            hint="hand the dataset over without random augmentation; the defense adds its own"
            + (f"; or {_COLLATE}" if self.collate is not None else ""),
        )

    def _item(self, position: int) -> Any:
        with _guarded(f"{self.where}[{position}]", "the data set failed at a sample", f"its length is {self.length}"):
            return self.dataset[position]

    def _batch(self, positions: range, place: str) -> list[Any]:
        """Return the samples of a batch: as the loader fetches them, and what its ``collate_fn`` makes of them."""
        fetch = getattr(self.dataset, "__getitems__", None)
        items = fetch(list(positions)) if callable(fetch) else [self.dataset[position] for position in positions]
        if self.collate is not None:
            return rows_of(self.collate(items), len(positions), self.form, place)
        if len(items) != len(positions):
            raise InputError("the data set leaves out samples", where=place, found=f"{len(items)} of {len(positions)}")
        return list(items)

    def _read(self, item: Any, place: str, collated: bool = False) -> Sample:
        with _guarded(place, "a sample cannot be read"):
            return self.form.pair(item, place) if collated else self.form.sample(item, place)


class _Kept:
    """Samples in the order they come, in arrays of their own.

    :param length: how many there will be; None: unknown.
    """

    def __init__(self, where: str, length: int | None = None) -> None:
        self.where, self.length = where, length
        self.bytes = 0
        self.first: Sample | None = None
        self.chunks: list[Images] = []
        self.labels: list[NDArray[Any]] = []

    def put(self, position: int, sample: Sample) -> None:
        """Copy one sample.

        :raises InputError: when it is of another size or type than the first.
        """
        image, label = sample
        if self.first is None:
            self.first = image.copy(), label.copy()
        for one, other in zip(sample, self.first, strict=True):
            if one.shape != other.shape or (one.dtype != other.dtype and one is image):
                raise InputError(
                    "images of mixed size or type" if one is image else "labels of mixed kind",
                    where=f"{self.where}[{position}]",
                    found=f"{one.dtype} {one.shape}",
                    allowed=f"{other.dtype} {other.shape}, as the first",
                    hint="resize them in the transform" if one is image else None,
                )
        row = position % CHUNK
        if row == 0:
            rows = CHUNK if self.length is None else min(CHUNK, self.length - position)
            self.chunks.append(np.empty((rows, *image.shape), image.dtype))
        self.chunks[-1][row] = image
        self.labels.append(label.copy())
        self.bytes += image.nbytes

    def sample(self, position: int) -> Sample:
        """Return a sample again."""
        return self.chunks[position // CHUNK][position % CHUNK], self.labels[position]

    def done(self) -> Sample:
        """Return images and labels, stacked; nothing can be put any more."""
        out = np.empty((len(self.labels), *self.chunks[0].shape[1:]), self.chunks[0].dtype)
        for place, chunk in enumerate(self.chunks):
            rows = out[place * CHUNK : (place + 1) * CHUNK]
            rows[:] = chunk[: len(rows)]
            self.chunks[place] = chunk[:0]  # memory is needed once, not twice
        return out, np.stack(self.labels)


_END = object()
_COLLATE = (
    "pass the data set itself: what collate_fn does to each image belongs into its transform, samples to leave out "
    "into a torch.utils.data.Subset"
)


@contextmanager
def _guarded(where: str, what: str, hint: str | None = None) -> Iterator[None]:
    """Turn whatever the host's code raises into an error that says where; the traceback stays with it."""
    try:
        yield
    except InputError as error:
        if str(error.where or "").startswith(where.split("[", 1)[0]):  # says where already
            raise
        raise InputError(what, where=where, found=reason_of(error), hint=error.hint or hint) from error
    except Exception as error:
        raise InputError(what, where=where, found=reason_of(error), hint=hint) from error


def _may_change(changing: bool | Collection[int], position: int) -> bool:
    return changing if isinstance(changing, bool) else position in changing


def _difference(first: Sample, second: Sample) -> str:
    (image, label), (other, moved) = first, second
    if image.shape != other.shape or image.dtype != other.dtype:
        return f"{image.dtype} {image.shape}, then {other.dtype} {other.shape}"
    share = float((image != other).mean())
    return f"{share:.1%} of the pixels differ" if share else f"label {label.tolist()}, then {moved.tolist()}"

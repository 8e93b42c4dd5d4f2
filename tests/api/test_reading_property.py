"""Whatever torch data is like, it is read as a straightforward reading gives it, or refused; nothing else happens."""

from __future__ import annotations

import copy
import random
from collections import namedtuple
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from PIL import Image
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Subset,
    SubsetRandomSampler,
    WeightedRandomSampler,
    default_collate,
)

from elixir_plugin.api.convert import to_raw
from elixir_plugin.errors import InputError

Sample = tuple[Any, int]  # pixels [H, W, C] and label, as they should be read
Named = namedtuple("Named", ["picture", "kind", "note"])


@dataclass
class Situation:
    """Torch data, how it is read, and the straightforward reading of it.

    :param samples: the straightforward reading, in the order of the positions.
    :param odd: what is odd about it, so that it may be refused.
    :param hopeless: it must be.
    """

    data: Any
    samples: list[Sample]
    keys: dict[str, Any] = field(default_factory=dict)
    odd: set[str] = field(default_factory=set)
    hopeless: bool = False


class Stored(Dataset[Any]):
    """Items made of stored samples; one of them may fail or change, or all share a buffer."""

    def __init__(self, samples: list[Sample], length: int, item: Callable[[Any, int], Any], fault: str) -> None:
        self.samples, self.length, self.item, self.fault = samples, length, item, fault
        self.buffer = np.empty_like(samples[0][0])

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        pixels, label = self.samples[index]
        middle = index == len(self.samples) // 2
        if self.fault == "fails" and middle:
            raise ValueError("unreadable")
        if self.fault == "changes" and middle:
            noise = np.random.rand(*pixels.shape)  # noqa: NPY002  (a host's stream)
            pixels = (noise * (255 if pixels.dtype == np.uint8 else 1)).astype(pixels.dtype)
        if self.fault == "relabels" and middle:
            label = random.randrange(10**9)
        if self.fault == "buffer":
            self.buffer[:] = pixels
            pixels = self.buffer
        return self.item(pixels, label)


class Stream(IterableDataset[Any]):
    def __init__(self, data: Any) -> None:
        self.data = data

    def __iter__(self) -> Iterator[Any]:
        return (self.data[i] for i in range(len(self.data)))


def first(x: Any) -> Any:
    return np.ascontiguousarray(x.transpose(2, 0, 1))


IMAGES: dict[str, Callable[[Any], Any]] = {
    "array": lambda x: x,
    "array, channels first": first,
    "tensor": lambda x: torch.from_numpy(first(x)),
    "tensor, channels last": torch.from_numpy,
    "half": lambda x: torch.from_numpy(first(x)).half() if x.dtype.kind == "f" else x,
    "double": lambda x: x.astype(np.float64) if x.dtype.kind == "f" else x,
    "flat": lambda x: x[:, :, 0] if x.shape[2] == 1 else x,
    "picture": lambda x: Image.fromarray(x[:, :, 0] if x.shape[2] == 1 else x) if x.dtype == np.uint8 else x,
}
LABELS: dict[str, Callable[[int], Any]] = {
    "int": int,
    "numpy": np.int64,
    "column": lambda y: np.array([y]),
    "tensor": torch.tensor,
    "small": lambda y: torch.tensor(y % 4, dtype=torch.uint8),
    "one-hot": lambda y: np.eye(4)[y % 4],
}
ITEMS: dict[str, tuple[Callable[[Any, Any], Any], dict[str, Any]]] = {
    "pair": (lambda x, y: (x, y), {}),
    "list": (lambda x, y: [x, y], {}),
    "more": (lambda x, y: (x, y, 7, "text"), {}),
    "dict": (lambda x, y: {"label": y, "image": x}, {"image_key": "image", "label_key": "label"}),
    "fields": (lambda x, y: Named(x, y, None), {"image_key": "picture", "label_key": "kind"}),
    "backwards": (lambda x, y: (y, x), {"image_key": -1, "label_key": 0}),
}
COLLATES: dict[str, Any] = {
    "default": None,
    "list": list,
    "tuple": tuple,
    "columns": lambda batch: tuple(zip(*batch, strict=True)),
    "stacked": lambda batch: default_collate(batch),  # noqa: PLW0108  (not torch's own: it is called)
    "leaves out": lambda batch: [item for place, item in enumerate(batch) if place % 3 != 1],
    "turns round": lambda batch: list(batch)[::-1],
    "rotates": lambda batch: [*batch[1:], batch[0]],
    "doubles": lambda batch: [*batch, *batch],
    "nothing": lambda batch: None,
}


WAYS = [
    "in order",
    "last dropped",
    "single",
    "part",
    "batches of a part",
    "shuffled",
    "batches",
    "weighted",
    "repeated",
]


@st.composite
def datasets(draw: DrawFn) -> Situation:
    """A map-style data set below wrappers."""
    dtype = draw(st.sampled_from([np.uint8, np.float32]))
    shape = (draw(st.integers(4, 6)), draw(st.integers(4, 6)), draw(st.sampled_from([1, 3])))
    image, label, form = (draw(st.sampled_from(list(ways))) for ways in (IMAGES, LABELS, ITEMS))
    make, keys = ITEMS[form]
    faults = ["none"] * 6 + ["fails", "changes", "buffer"] + ["relabels"] * (label not in ("small", "one-hot"))

    def stored() -> Situation:
        count = draw(st.integers(1, 9))
        rng = np.random.default_rng(draw(st.integers(0, 2**20)))
        pixels = rng.integers(2, 256, (count, *shape), np.uint8)
        values = pixels if dtype == np.uint8 else pixels.astype(np.float32) / np.float32(255)
        samples = [(x, int(y)) for x, y in zip(values, rng.integers(0, 4, count), strict=True)]
        length, fault = count + draw(st.sampled_from([0, 0, 0, 0, -1, 1])), draw(st.sampled_from(faults))
        data = Stored(samples, length, lambda x, y: make(IMAGES[image](x), LABELS[label](y)), fault)
        odd = ({fault} if fault != "none" else set()) | ({"too long"} if length > count else set())
        return Situation(data, samples[:length], keys, odd)

    whole = stored()
    for wrap in draw(st.lists(st.sampled_from(["subset", "concat"]), max_size=2)):
        if wrap == "concat":
            more = stored()
            odd = whole.odd | more.odd
            whole = Situation(ConcatDataset([whole.data, more.data]), [*whole.samples, *more.samples], keys, odd)
            if "too long" in odd:
                whole.samples = []  # positions behind it are shifted: there is no reading to compare with
        elif whole.samples and "too long" not in whole.odd:
            rows = draw(st.lists(st.integers(0, len(whole.samples) - 1), min_size=1, max_size=12))
            whole = Situation(Subset(whole.data, rows), [whole.samples[row] for row in rows], keys, whole.odd)
    whole.odd |= {f"label {label}", f"image {image}", f"item {form}"} if whole.odd else set()
    whole.hopeless = len(whole.data) == 0 or "too long" in whole.odd
    return whole


@st.composite
def loaders(draw: DrawFn, way: str = "", name: str = "") -> Situation:
    """A loader over such a data set.

    :param way: how it goes through it.
    :param name: of its collate_fn.
    """
    found = draw(datasets())
    data, length, size = found.data, len(found.data), draw(st.integers(1, 6))
    name = name or draw(st.sampled_from(["default", "list", "tuple", "columns", "stacked", *COLLATES]))
    collate: Any = {"collate_fn": COLLATES[name]}
    rows = draw(st.lists(st.integers(0, length - 1), max_size=length)) if length else []
    whole = sorted(rows) == list(range(length))
    way = way or draw(st.sampled_from(WAYS))
    way = way if length or way in WAYS[:4] else "in order"  # torch refuses to make the others
    found.hopeless |= (way == "last dropped" and size > length) or (way in ("part", "batches of a part") and not whole)
    found.odd |= {name} if name not in ("default", "list", "tuple") else set()
    found.odd |= {way} if way in ("weighted", "repeated") else set()
    if way == "single":
        found.data, found.odd = DataLoader(data, batch_size=None), found.odd - {name}
    elif way == "part":
        found.data = DataLoader(data, size, sampler=SubsetRandomSampler(rows), **collate)
    elif way == "batches of a part":
        found.data = DataLoader(data, batch_sampler=[rows[k : k + size] for k in range(0, len(rows), size)], **collate)
    elif way == "batches":
        found.data = DataLoader(data, batch_sampler=BatchSampler(RandomSampler(data), size, True), **collate)
        found.hopeless |= size > length
    elif way == "weighted":
        found.data = DataLoader(data, size, sampler=WeightedRandomSampler([1.0] * length, length), **collate)
    elif way == "repeated":
        found.data = DataLoader(data, size, sampler=RandomSampler(data, replacement=True), **collate)
    else:
        found.data = DataLoader(data, size, shuffle=way == "shuffled", drop_last=way == "last dropped", **collate)
    plain = name == "stacked" or (name == "columns" and not found.keys)
    if plain and not found.odd - {name} and way in ("in order", "shuffled") and length and not _picky(data):
        found.odd = set()  # these treat each sample for itself, and must be read
    return found


def _picky(data: Any) -> bool:
    """Tell items that torch's default collate does not take."""
    item = data[0]
    return any(
        isinstance(part, Image.Image) or part is None for part in (item.values() if isinstance(item, dict) else item)
    )


@st.composite
def in_turn(draw: DrawFn, way: str) -> Situation:
    """The same samples in a list, or in what can be gone through only once."""
    found = draw(datasets())
    if {"changes", "relabels", "buffer"} & found.odd:
        found.data = copy.deepcopy(found.data)
        for part in _leaves(found.data):
            part.fault = "none" if part.fault != "fails" else "fails"  # nothing to compare with
    data = found.data
    if way == "list" and not found.odd:
        found.data = [data[i] for i in range(len(data))]
    elif way == "generator":
        found.data = (data[i] for i in range(len(data)))
    elif way == "loader over a stream":
        found.data, found.hopeless = DataLoader(Stream(data)), True
    else:
        found.data = Stream(data)
    return found


def _leaves(data: Any) -> Iterator[Stored]:
    if isinstance(data, Stored):
        yield data
    for part in getattr(data, "datasets", None) or [
        each for each in [getattr(data, "dataset", None)] if each is not None
    ]:
        yield from _leaves(part)


KINDS: dict[str, st.SearchStrategy[Situation]] = {
    "data sets": datasets(),
    **{f"loaders: {way}": loaders(way=way) for way in WAYS},
    **{f"collate_fn: {name}": loaders(name=name) for name in COLLATES},
    **{way: in_turn(way) for way in ("list", "stream", "generator", "loader over a stream")},
}


@pytest.mark.parametrize("kind", KINDS)
@given(st.data())
def test_what_is_read_is_the_straightforward_reading_or_it_is_refused(kind: str, data: st.DataObject) -> None:
    situation = data.draw(KINDS[kind])
    states = random.getstate(), torch.get_rng_state()
    try:
        found = to_raw(situation.data, **situation.keys)
    except InputError as error:
        assert situation.odd or situation.hopeless, f"refused without a reason: {error}"
        return
    finally:
        assert random.getstate() == states[0] and torch.equal(torch.get_rng_state(), states[1])
    assert not situation.hopeless, f"read in spite of {situation.odd}"
    expected = np.stack([image for image, _ in situation.samples])
    labels = found.labels
    if labels.ndim == 2:
        labels = labels.argmax(1) if labels.shape[1] > 1 else labels[:, 0]
    assert labels.tolist() == [label for _, label in situation.samples]
    assert found.images.dtype == expected.dtype and found.images.shape == expected.shape
    room = 1e-3 if expected.dtype == np.float32 else 0  # half precision is one of the ways
    np.testing.assert_allclose(found.images, expected, rtol=0, atol=room)

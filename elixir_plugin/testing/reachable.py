"""Everything that can be reached from an object through attributes, containers, closures, bases and references.

Left out, because all of Python is behind them: modules, globals of functions, classes that can be imported, frames of
callers, and the heap as the garbage collector knows it.
"""

from __future__ import annotations

import datetime
import itertools
import operator
import pathlib
import types
import weakref
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import torch

LEAVES = (str, bytes, int, float, complex, bool, type(None), type(Ellipsis), types.ModuleType, types.CodeType,
          types.FrameType, torch.dtype, torch.device, np.dtype, datetime.date, pathlib.PurePath)  # fmt: skip
ITERATORS: tuple[Any, ...] = (map, filter, zip, enumerate, reversed, itertools.chain, itertools.islice,
             itertools.starmap, itertools.cycle, itertools.repeat, type(iter([])), type(iter(())), type(iter(int, 0)),
             operator.itemgetter, operator.attrgetter, operator.methodcaller)  # fmt: skip  # their __reduce__ tells all
HELD = ("__self__", "__func__", "__wrapped__", "__closure__", "__defaults__", "__kwdefaults__",
        "func", "args", "keywords", "fget", "fset", "fdel", "cell_contents")  # fmt: skip
FRAMES = ("gi_frame", "cr_frame", "ag_frame")  # of a generator or coroutine that waits
ARRAYS = ("base", "filename", "_mmap")
TENSORS = ("_base", "grad", "grad_fn", "_backward_hooks")


def reachable(root: Any, name: str = "", *, leaves: bool = True) -> Iterator[tuple[str, Any]]:
    """Yield ``(how, object)`` for *root* and every object that it leads to, each once, nearest first.

    :param name: what *root* is called at the start of ``how``, e.g. ``"case"`` in ``case.train.images.base``.
    :param leaves: also yield plain values: text, numbers, paths.

    >>> import functools
    >>> secret = [1, 2]
    >>> read = functools.partial(print, end=lambda found=secret: found)
    >>> [how for how, found in reachable(read, "read") if found is secret]
    ["read.keywords['end'].__defaults__[0]"]
    """
    seen: dict[int, Any] = {}  # keeps what is made on the way, so that no id comes twice
    left = deque([(name, root)])
    while left:
        how, found = left.popleft()
        if isinstance(found, LEAVES):
            if leaves:
                yield how, found
            continue
        if id(found) in seen:
            continue
        seen[id(found)] = found
        yield how, found
        left.extend((how + step, part) for step, part in _parts(found))


def _parts(found: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(found, type):
        if "<locals>" in found.__qualname__:  # made by the code that made the object
            yield from ((f".{key}", value) for key, value in vars(found).items())
        return
    yield from _items(found)
    yield from _attributes(found)
    yield from _of_numbers(found)
    if isinstance(found, memoryview):
        yield ".obj", found.obj
    elif isinstance(found, weakref.ReferenceType):
        yield "()", found()
    elif isinstance(found, ITERATORS):
        yield ".__reduce__()", found.__reduce__()
    for key in FRAMES:
        if (frame := getattr(found, key, None)) is not None:
            yield f".{key}.f_locals", dict(frame.f_locals)


def _items(found: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(found, Mapping):
        for key, value in list(found.items()):
            yield "{key}", key
            yield f"[{key!r}]"[:60], value
    elif isinstance(found, list | tuple | set | frozenset | deque):
        yield from ((f"[{number}]", value) for number, value in enumerate(list(found)))


def _of_numbers(found: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(found, np.ndarray):
        yield from ((f".{key}", getattr(found, key)) for key in ARRAYS if hasattr(found, key))
        yield ".dtype.metadata", found.dtype.metadata and dict(found.dtype.metadata)
        if found.dtype.hasobject:
            yield from ((f".flat[{number}]", value) for number, value in enumerate(found.flat))
    elif isinstance(found, torch.Tensor):
        yield from ((f".{key}", getattr(found, key)) for key in TENSORS if found.is_leaf or key != "grad")


def _attributes(found: Any) -> Iterator[tuple[str, Any]]:
    """Yield what is kept in the object: not what a property would compute."""
    kept = getattr(found, "__dict__", None)
    if isinstance(kept, Mapping):
        yield from ((f".{key}", value) for key, value in list(kept.items()))
    held = HELD if type(found).__module__ in ("builtins", "functools") else ("__wrapped__",)
    for key in (*(name for cls in type(found).__mro__ for name in _slots(cls)), *held):
        value = None
        with suppress(Exception):  # an empty slot, an empty cell
            value = getattr(found, key)
        yield f".{key}", value
    yield ".__class__", type(found)


def _slots(cls: type) -> tuple[str, ...]:
    names = cls.__dict__.get("__slots__", ())
    names = (names,) if isinstance(names, str) else tuple(names)
    private = f"_{cls.__name__.lstrip('_')}"
    hidden = [f"{private}{name}" for name in names if name.startswith("__") and not name.endswith("__")]
    return (*(name for name in names if name not in ("__dict__", "__weakref__")), *hidden)

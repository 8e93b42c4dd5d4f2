"""What reading a pickle would cost and call, found out from its opcodes before anything in it is built.

A pickle is a program. A few bytes of it can ask for gigabytes, e.g. by a place in the memo, or by lists that hold each
other again and again; some of that costs nothing until the result is hashed, compared or shown. So the program is gone
through once without building anything: every declared size is compared with the bytes that are there, and every
reference to a container counts as the container, as if the file held it there in full. That count, and the depth, the
number of opcodes and of containers, are limited; what may be called is listed, with the arguments it may get.
"""

from __future__ import annotations

import math
import pickle
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import torch

from ..errors import InputError

HEAD = 2**20  # bytes that are read at first
MOST = 2**32  # bytes of a pickle
SHARED = 32  # times its own bytes that a pickle may stand for, once all references are written out ...
FREE = 16 * 2**20  # ... and so many bytes more
TIMES = f"{SHARED} times what the file holds up to there, and {FREE:,} bytes"
OPCODES = 2**24
CONTAINERS = 2**22
DEPTH = 100  # levels of containers
MARKS = 4 * DEPTH  # containers that are begun at once
INTEGER = 32  # bytes of an integer
LINE = 400  # characters of a number written as text
NAME = 1000  # characters of the name of a class, and of a text that is looked into
SHORT = 32  # bytes of text up to which nothing is kept on its size

_NUMPY = ("multiarray._reconstruct", "multiarray.scalar", "numeric._frombuffer")
_TENSORS = ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3", "_rebuild_qtensor")
_WRAPPED = ("_rebuild_parameter", "_rebuild_parameter_with_state")
_OTHERS = ("_rebuild_sparse_tensor", "_rebuild_meta_tensor_no_storage")
_OF_TENSORS = {f"torch._utils.{name}" for name in _TENSORS}
_HASHED_ONCE = ("text", "_codecs.encode")
_SINGLE = {f"{package}.multiarray.scalar" for package in ("numpy.core", "numpy._core")}
_HASHING = {"builtins.set", "builtins.frozenset"}
_MAPPINGS = {"collections.OrderedDict", "collections.Counter"}
_FROM_TYPE = "torch._tensor._rebuild_from_type_v2"
CALLS = {
    *_OF_TENSORS,
    *(f"torch._utils.{name}" for name in (*_WRAPPED, *_OTHERS)),
    *(f"{package}.{name}" for package in ("numpy.core", "numpy._core") for name in _NUMPY),
    *_HASHING,
    *_MAPPINGS,
    _FROM_TYPE,
    *("numpy.dtype", "numpy.ndarray", "builtins.bytes", "builtins.bytearray", "builtins.complex", "_codecs.encode"),
    *("torch.Size", "torch.device", "torch.nn.parameter.Parameter", "torch.serialization._get_layout"),
    "PIL.Image.Image",
}  # fmt: skip
_STORAGES = {"Untyped": 1, "Double": 8, "Float": 4, "Half": 2, "BFloat16": 2, "Long": 8, "Int": 4, "Short": 2}
_STORAGES |= {
    "Char": 1,
    "Byte": 1,
    "Bool": 1,
    "ComplexDouble": 16,
    "ComplexFloat": 8,
    "QUInt8": 1,
    "QInt8": 1,
    "QInt32": 4,
}
_STORAGES |= {"QUInt4x2": 1, "QUInt2x4": 1}
ITEM_BYTES = {f"torch.{name}Storage": size for name, size in _STORAGES.items()}
ITEM_BYTES["torch.storage.UntypedStorage"] = 1


class _Node:
    """A container, a long text, or what a call returns.

    :ivar kind: ``tuple``, ``list``, ``dict``, ``set``, ``text``, ``number``, ``storage``, or the name of what was
        called.
    :ivar weight: bytes it stands for, with all references written out.
    :ivar items: what a tuple or list holds, the keys of a dict.
    :ivar closed: whether something else holds it by now. What grows after that is not counted where it is held, so it
        must not grow; and a container that holds itself has no size.
    :ivar numel: numbers in a storage.
    """

    __slots__ = ("closed", "depth", "items", "kind", "numel", "weight")

    def __init__(self, kind: str, weight: int, depth: int, items: list[Entry]) -> None:
        self.kind, self.weight, self.depth, self.items = kind, weight, depth, items
        self.closed, self.numel = False, 0


Entry = Any  # a _Node; or, for whatever is small by itself, the place of its opcode (int)


T = TypeVar("T")


def read_head(file: BinaryIO, examine: Callable[[bytes], T]) -> tuple[T, bytes]:
    """Return what *examine* finds in the beginning of *file*, and that: as much of it as there must be.

    A large file that is no pickle is so left after its first bytes.

    :raises ValueError: when all of it, or ``MOST`` bytes, are not enough.
    """
    size = HEAD
    while True:
        file.seek(0)
        head = file.read(size)
        try:
            return examine(head), head
        except EndsEarly:
            if len(head) < size or size >= MOST:
                raise
        size = min(8 * size, MOST)


class EndsEarly(ValueError):
    """The data end before the pickle does."""


class Survey:
    """What one pickle holds.

    :param where: the file, for messages.
    :param more: names of further classes that it may make instances of.
    :ivar end: where the pickle ends in the data.
    :ivar storages: bytes of each storage of tensors that it refers to.
    :ivar result: what it gives.
    :raises InputError: when it costs more than it may.
    :raises pickle.UnpicklingError: with the name of what it must not call.
    :raises ValueError: when it is damaged.
    """

    def __init__(self, data: bytes, start: int = 0, *, where: Path, more: Sequence[str] = ()) -> None:
        self.data, self._where, self._more = data, where, more
        self.storages: dict[str, int] = {}
        self._numbers: dict[str, int] = {}  # in each storage
        self._stack: list[Entry] = []
        self._marks: list[tuple[int, int, int]] = []  # height of the stack, bytes, and depth there
        self._memo: dict[int, Entry] = {}
        self._spans: dict[int, int] = {}  # bytes of what is small, by its place in the memo
        self._names: dict[int, str] = {}  # of classes and functions, by the place of their opcode
        self._high = 0  # of what was put on the stack since the last mark, the depth
        self._referred = self._work = self._odd = self._containers = 0
        self._start = start
        try:
            self.end = self._run(start)
            self.result = self._stack[-1]
        except IndexError:
            raise EndsEarly("the pickle is damaged, or only a part of one") from None
        except KeyError as error:
            raise ValueError(f"the pickle refers to place {error} of its memo, which is empty") from None

    def _run(self, pos: int) -> int:
        data, stack, memo, spans = self.data, self._stack, self._memo, self._spans
        for _ in range(OPCODES):
            op = data[pos]
            width = _FIXED[op]
            if width:
                stack.append(pos)
                pos += width
            elif op in _PUTS:
                size = _PUTS[op]
                index = data[pos + 1] if size == 1 else int.from_bytes(data[pos + 1 : pos + 5], "little")
                if index > pos:
                    self._refuse_place(index, pos)
                entry = memo[index] = stack[-1]
                if entry.__class__ is int:
                    spans[index] = pos - entry
                pos += 1 + size
            elif op == _STOP:
                return pos + 1
            else:
                handler = _HANDLERS[op]
                if handler is None:
                    raise ValueError(f"opcode {bytes([op])!r} is none of plain data")
                pos = handler(self, pos)
        raise self._excess(f"more than {OPCODES:,} opcodes", f"{OPCODES:,}")

    # What is found too large

    def _excess(self, found: str, allowed: str) -> InputError:
        return InputError(
            "file refused: a part of it says that it is larger than the file accounts for",
            where=self._where,
            found=found,
            allowed=allowed,
            hint="no program that saves plain data writes such a file: do not use it unless you made it yourself",
        )

    def _allowed(self, pos: int) -> int:
        """Return how many bytes the file may stand for up to *pos*."""
        return SHARED * (pos - self._start) + FREE

    def _spend(self, work: int, pos: int) -> None:
        self._work += work
        if self._work > self._allowed(pos):
            raise self._excess(f"{self._work:,} bytes to hash or copy", TIMES)

    def _within(self, size: int, end: int, what: str) -> int:
        """Return *end*, the place behind *size* bytes, when the data are that long."""
        if end > len(self.data):
            there = max(0, len(self.data) - end + size)
            raise EndsEarly(f"{what} of {size:,} bytes, of which {there:,} are there")
        return end

    # The stack

    def _push(self, node: _Node) -> None:
        self._containers += 1
        if self._containers > CONTAINERS:
            raise self._excess(f"more than {CONTAINERS:,} containers", f"{CONTAINERS:,}")
        self._stack.append(node)
        self._raise(node.depth)

    def _raise(self, depth: int) -> None:
        if depth > self._high:
            if depth > DEPTH:
                raise self._excess(f"containers nested more than {DEPTH} deep", f"{DEPTH} levels")
            self._high = depth

    def _weigh(self, entry: Entry) -> int:
        if isinstance(entry, _Node):
            entry.closed = True
            return entry.weight
        return _FIXED[self.data[entry]] or SHORT

    def _since_mark(self, pos: int) -> tuple[list[Entry], int, int]:
        """Take all from the last mark on off the stack; return it with its weight and depth."""
        start, before, high = self._marks.pop()
        items = self._stack[start:]
        del self._stack[start:]
        if self._high:
            for item in items:
                if isinstance(item, _Node):
                    item.closed = True
        depth, self._high = self._high, high
        return items, pos + self._referred - before, depth

    def _target(self) -> _Node:
        node = self._stack[-1]
        if not isinstance(node, _Node):
            raise ValueError("something is put into what is no container")
        if node.closed:
            raise self._excess("a container that changes after another one took it, or holds itself", "finished parts")
        return node

    def _grow(self, node: _Node, weight: int, depth: int) -> None:
        node.weight += weight
        node.depth = max(node.depth, depth + 1)
        self._raise(node.depth)

    def _newline(self, pos: int) -> int:
        found = self.data.find(b"\n", pos)
        if found < 0:
            raise IndexError
        return found

    # What small entries say

    def text(self, entry: Entry) -> str | None:
        """Return the text at *entry* when it is a short one."""
        if isinstance(entry, _Node):
            if entry.kind != "text" or entry.weight > NAME:
                return None
            entry = entry.items[0]
        data, op = self.data, self.data[entry]
        if op in b"SV":
            line = data[entry + 1 : data.index(b"\n", entry)]
            return line.decode("latin1").strip("'\"" if op == ord("S") else "")
        size = _SIZED.get(op)
        if size is None or op == _LONG1:
            return None
        start = entry + 1 + size
        return data[start : start + int.from_bytes(data[entry + 1 : start], "little")].decode("utf-8", "replace")

    def number(self, entry: Entry) -> int:
        """Return the integer at *entry*.

        :raises ValueError: when it is none.
        """
        if isinstance(entry, _Node) and entry.kind == "number":
            entry = entry.items[0]
        if not isinstance(entry, _Node):
            data, op = self.data, self.data[entry]
            if op in b"JKM":
                return int.from_bytes(data[entry + 1 : entry + _FIXED[op]], "little", signed=op == ord("J"))
            if op in (_LONG1, _LONG4):
                start = entry + (2 if op == _LONG1 else 5)
                return int.from_bytes(data[start : start + data[entry + 1]], "little", signed=True)
            if op in b"IL":
                return int(data[entry + 1 : data.index(b"\n", entry)].rstrip(b"L"))
        raise ValueError("something else where an integer belongs")

    def parts(self, entry: Entry) -> list[Entry]:
        """Return what the tuple or list at *entry* holds.

        :raises ValueError: when it is none.
        """
        if isinstance(entry, _Node) and entry.kind in ("tuple", "list"):
            return entry.items
        if isinstance(entry, int) and self.data[entry] == ord(")"):
            return []
        raise ValueError("something else where a tuple belongs")

    def keys(self) -> list[str]:
        """Return the texts in the result, a list."""
        return [text for text in map(self.text, self.parts(self.result)) if text is not None]

    # Opcodes: each gets its place, and returns the place of the next one

    def _skip(self, pos: int) -> int:
        return pos + 2

    def _frame(self, pos: int) -> int:
        size = int.from_bytes(self.data[pos + 1 : pos + 9], "little")
        self._within(size, pos + 9 + size, "a frame")
        return pos + 9

    def _mark(self, pos: int) -> int:
        if len(self._marks) > MARKS:
            raise self._excess(f"more than {MARKS} parts that are not finished", f"{MARKS}")
        self._marks.append((len(self._stack), pos + self._referred, self._high))
        self._high = 0
        return pos + 1

    def _pop(self, pos: int) -> int:
        if self._marks and self._marks[-1][0] == len(self._stack):
            self._high = self._marks.pop()[2]
        else:
            self._stack.pop()
        return pos + 1

    def _pop_mark(self, pos: int) -> int:
        self._since_mark(pos)
        return pos + 1

    def _dup(self, pos: int) -> int:
        self._refer(self._stack[-1], SHORT, pos)
        return pos + 1

    def _line(self, pos: int) -> int:
        end = self._newline(pos) + 1
        if self.data[pos] in b"FIL" and end - pos > (LINE if self.data[pos] in b"F" else 3 * INTEGER):
            raise self._excess(f"a number of {end - pos:,} characters", f"integers of {INTEGER} bytes")
        self._push_text(pos, end)
        return end

    def _sized(self, pos: int) -> int:
        width = _SIZED[self.data[pos]]
        size = int.from_bytes(self.data[pos + 1 : pos + 1 + width], "little")
        end = self._within(size, pos + 1 + width + size, "a text")
        self._push_text(pos, end)
        return end

    def _push_text(self, pos: int, end: int) -> None:
        if end - pos <= SHORT:
            self._stack.append(pos)
        else:
            self._stack.append(_Node("text", end - pos, 0, [pos]))

    def _integer(self, pos: int) -> int:
        width = 1 if self.data[pos] == _LONG1 else 4
        size = int.from_bytes(self.data[pos + 1 : pos + 1 + width], "little")
        if size > INTEGER:
            raise self._excess(f"an integer of {size:,} bytes", f"{INTEGER} bytes")
        end = self._within(size, pos + 1 + width + size, "an integer")
        self._stack.append(pos if size <= 8 and width == 1 else _Node("number", end - pos, 0, [pos]))
        return end

    def _global(self, pos: int) -> int:
        middle = self._newline(pos)
        end = self._newline(middle + 1)
        self._name(pos, self.data[pos + 1 : middle].decode(), self.data[middle + 1 : end].decode())
        return end + 1

    def _stack_global(self, pos: int) -> int:
        module, name = self._stack[-2:]
        del self._stack[-2:]
        texts = [self._long_text(each) for each in (module, name)]
        self._name(pos, *texts)
        return pos + 1

    def _long_text(self, entry: Entry) -> str:
        text = self.text(entry)
        if text is None:
            raise pickle.UnpicklingError("a class or function without a plain name")
        return text

    def _name(self, pos: int, module: str, name: str) -> None:
        if len(module) + len(name) > NAME:
            raise pickle.UnpicklingError(f"{module[:100]}….{name[:100]}…")
        self._names[pos] = f"{_MODULES.get(module, module)}.{name}"
        self._stack.append(pos)

    def _line_put(self, pos: int) -> int:
        end = self._newline(pos)
        self._put(int(self.data[pos + 1 : end][:LINE]), pos)
        return end + 1

    def _memoize(self, pos: int) -> int:
        self._put(len(self._memo), pos)
        return pos + 1

    def _put(self, index: int, pos: int) -> None:
        if index > pos:
            self._refuse_place(index, pos)
        entry = self._stack[-1]
        self._memo[index] = entry
        if isinstance(entry, int):
            self._spans[index] = pos - entry

    def _refuse_place(self, index: int, pos: int) -> None:
        raise self._excess(f"place {index:,} in the memo, {pos:,} bytes into the file", "places used in turn")

    def _get(self, pos: int) -> int:
        return self._recall(self.data[pos + 1], pos + 2)

    def _long_get(self, pos: int) -> int:
        return self._recall(int.from_bytes(self.data[pos + 1 : pos + 5], "little"), pos + 5)

    def _line_get(self, pos: int) -> int:
        end = self._newline(pos)
        return self._recall(int(self.data[pos + 1 : end][:LINE]), end + 1)

    def _recall(self, index: int, end: int) -> int:
        self._refer(self._memo[index], self._spans.get(index, 0), end)
        return end

    def _refer(self, entry: Entry, span: int, pos: int) -> None:
        if isinstance(entry, _Node):
            span, entry.closed = entry.weight, True
            self._raise(entry.depth)
        self._referred += span
        if self._referred > self._allowed(pos):
            raise self._excess(f"references that stand for {self._referred:,} bytes", TIMES)
        self._stack.append(entry)

    def _tuple(self, pos: int) -> int:
        items, weight, depth = self._since_mark(pos)
        self._push(_Node("tuple", weight, depth + 1, items))
        return pos + 1

    def _small_tuple(self, pos: int) -> int:
        count = self.data[pos] - _TUPLE1 + 1
        items = self._stack[-count:]
        if len(items) < count:
            raise IndexError
        del self._stack[-count:]
        depth = max((item.depth for item in items if isinstance(item, _Node)), default=0)
        self._push(_Node("tuple", sum(map(self._weigh, items)), depth + 1, items))
        return pos + 1

    def _empty(self, pos: int) -> int:
        self._push(_Node(_EMPTY[self.data[pos]], 1, 1, []))
        return pos + 1

    def _list(self, pos: int) -> int:
        items, weight, depth = self._since_mark(pos)
        self._push(_Node("list", weight, depth + 1, items))
        return pos + 1

    def _dict(self, pos: int) -> int:
        items, weight, depth = self._since_mark(pos)
        self._hash(items[::2], pos)
        self._push(_Node("dict", weight, depth + 1, items[::2]))
        return pos + 1

    def _frozenset(self, pos: int) -> int:
        items, weight, depth = self._since_mark(pos)
        self._hash(items, pos)
        self._push(_Node("set", weight, depth + 1, []))
        return pos + 1

    def _append(self, pos: int) -> int:
        item = self._stack.pop()
        weight, node = self._weigh(item), self._target()
        self._grow(node, weight, item.depth if isinstance(item, _Node) else 0)
        node.items.append(item)
        return pos + 1

    def _appends(self, pos: int) -> int:
        items, weight, depth = self._since_mark(pos)
        node = self._target()
        self._grow(node, weight, depth)
        node.items += items
        return pos + 1

    def _additems(self, pos: int) -> int:
        items, weight, depth = self._since_mark(pos)
        self._hash(items, pos)
        self._grow(self._target(), weight, depth)
        return pos + 1

    def _setitem(self, pos: int) -> int:
        key, value = self._stack[-2:]
        del self._stack[-2:]
        weight, node = self._weigh(key) + self._weigh(value), self._target()
        self._hash([key], pos)
        self._grow(node, weight, max(each.depth if isinstance(each, _Node) else 0 for each in (key, value)))
        node.items.append(key)
        return pos + 1

    def _setitems(self, pos: int) -> int:
        items, weight, depth = self._since_mark(pos)
        keys, node = items[::2], self._target()
        self._hash(keys, pos)
        self._grow(node, weight, depth)
        node.items += keys
        return pos + 1

    def _hash(self, keys: list[Entry], pos: int) -> None:
        """Account for hashing *keys*; tuples and long integers can be made to share one hash, and are compared then."""
        for key in keys:
            if isinstance(key, _Node) and key.kind not in _HASHED_ONCE:
                self._odd += key.kind not in _SINGLE
                self._spend(key.weight * (1 if key.kind in _SINGLE else self._odd), pos)

    def _persistent(self, pos: int) -> int:
        parts = self.parts(self._stack.pop())
        name = self._names.get(parts[1], "") if isinstance(parts[1], int) else ""
        if self.text(parts[0]) != "storage" or name not in ITEM_BYTES:
            raise pickle.UnpicklingError(name or "persistent data of another kind than storages")
        key, count = self.text(parts[2]), self.number(parts[4])
        if key is None or count < 0:
            raise ValueError("a storage without a plain key and size")
        self.storages.setdefault(key, count * ITEM_BYTES[name])
        node = _Node("storage", SHORT, 0, [])
        node.numel = self._numbers.setdefault(key, count)
        self._push(node)
        return pos + 1

    def _reduce(self, pos: int) -> int:
        arguments, function = self._stack.pop(), self._stack.pop()
        name = self._called(function, arguments, pos)
        weight = self._weigh(arguments)
        self._spend(weight, pos)
        depth = arguments.depth if isinstance(arguments, _Node) else 0
        self._push(_Node(name, weight + SHORT, depth + 1, []))
        return pos + 1

    def _newobj(self, pos: int) -> int:
        arguments, cls = self._stack.pop(), self._stack.pop()
        if self.parts(arguments) and self._called(cls, arguments, pos) != "torch.nn.parameter.Parameter":
            raise pickle.UnpicklingError(f"{self._names.get(cls)} with arguments")
        name = self._called(cls, arguments, pos)
        self._push(_Node(name, SHORT, 1, []))
        return pos + 1

    def _build(self, pos: int) -> int:
        state = self._stack.pop()
        weight, node = self._weigh(state), self._target()
        self._spend(weight, pos)
        if node.kind in _MAPPINGS:
            self._refuse_attributes(state, OrderedDict)
        self._grow(node, weight, state.depth if isinstance(state, _Node) else 0)
        return pos + 1

    # Calls

    def _called(self, function: Entry, arguments: Entry, pos: int) -> str:
        """Return the name of *function*, once it is sure that it may be called with *arguments*."""
        name = self._names.get(function) if isinstance(function, int) else None
        if name is None or (name not in CALLS and name not in self._more):
            raise pickle.UnpicklingError(name or "a call of what is no function")
        given = self.parts(arguments)
        if name in _OF_TENSORS:
            self._count_repeated(given, pos)
        elif name == "_codecs.encode" and self.text(given[1]) not in ("latin1", "latin-1"):
            raise pickle.UnpicklingError(f"_codecs.encode with {self.text(given[1])!r}")
        elif name == "builtins.bytearray" and given and self.text(given[0]) is None and isinstance(given[0], int):
            raise pickle.UnpicklingError("builtins.bytearray of a size")
        elif name in _HASHING and given:
            self._hash(self.parts(given[0]), pos)
        elif name in _MAPPINGS and given:
            if not (isinstance(given[0], _Node) and given[0].kind == "dict"):
                self._hash([self.parts(pair)[0] for pair in self.parts(given[0])], pos)
        elif name == _FROM_TYPE:
            self._called(given[0], given[2], pos)
            self._refuse_attributes(given[3], torch.Tensor)
        elif name.endswith("_with_state"):
            self._refuse_attributes(given[3], torch.Tensor)
        return name

    def _count_repeated(self, given: list[Entry], pos: int) -> None:
        """Account for a tensor that has more numbers than its storage, which strides of 0 allow."""
        storage, shape = given[0], [self.number(each) for each in self.parts(given[2])]
        if not isinstance(storage, _Node) or storage.kind != "storage" or min(shape, default=0) < 0:
            raise ValueError("a tensor without a storage, or of negative size")
        if (count := math.prod(shape)) > storage.numel:
            self._work += count
            if self._work > self._allowed(pos):
                raise self._excess(
                    f"a tensor of {' × '.join(map(str, shape))} numbers that repeats {storage.numel:,} of them",
                    "tensors that hold each of their numbers",
                )

    def _refuse_attributes(self, state: Entry, cls: type) -> None:
        """Refuse attributes that take the place of what *cls* has under that name."""
        names = state.items if isinstance(state, _Node) and state.kind == "dict" else []
        if isinstance(state, _Node) and state.kind == "tuple":  # of two dicts
            names = [key for part in state.items if isinstance(part, _Node) for key in part.items]
        for name in names:
            text = self.text(name)
            if text is not None and hasattr(cls, text):
                raise pickle.UnpicklingError(f"attribute {text!r} of {cls.__name__}")


_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg"}
_STOP, _TUPLE1, _LONG1, _LONG4 = pickle.STOP[0], pickle.TUPLE1[0], pickle.LONG1[0], pickle.LONG4[0]
_PUTS = {pickle.BINPUT[0]: 1, pickle.LONG_BINPUT[0]: 4}
_EMPTY = {pickle.EMPTY_LIST[0]: "list", pickle.EMPTY_DICT[0]: "dict", pickle.EMPTY_SET[0]: "set"}
_FIXED = [0] * 256  # bytes of what is small and of one size
for _op, _width in (
    *((pickle.NONE, 1), (pickle.NEWTRUE, 1), (pickle.NEWFALSE, 1), (pickle.EMPTY_TUPLE, 1)),
    *((pickle.BININT1, 2), (pickle.BININT2, 3), (pickle.BININT, 5), (pickle.BINFLOAT, 9)),
):
    _FIXED[_op[0]] = _width
_SIZED = {  # bytes in which a size is written
    pickle.SHORT_BINUNICODE[0]: 1,
    pickle.SHORT_BINBYTES[0]: 1,
    pickle.SHORT_BINSTRING[0]: 1,
    pickle.BINUNICODE[0]: 4,
    pickle.BINBYTES[0]: 4,
    pickle.BINSTRING[0]: 4,
    pickle.BINUNICODE8[0]: 8,
    pickle.BINBYTES8[0]: 8,
    pickle.BYTEARRAY8[0]: 8,
}
_HANDLERS: list[Callable[[Survey, int], int] | None] = [None] * 256
for _ops, _handler in (
    (pickle.PROTO, Survey._skip),
    (pickle.FRAME, Survey._frame),
    (pickle.MARK, Survey._mark),
    (pickle.POP, Survey._pop),
    (pickle.POP_MARK, Survey._pop_mark),
    (pickle.DUP, Survey._dup),
    (pickle.FLOAT + pickle.INT + pickle.LONG + pickle.STRING + pickle.UNICODE, Survey._line),
    (bytes(_SIZED), Survey._sized),
    (pickle.LONG1 + pickle.LONG4, Survey._integer),
    (pickle.GLOBAL, Survey._global),
    (pickle.STACK_GLOBAL, Survey._stack_global),
    (pickle.PUT, Survey._line_put),
    (pickle.MEMOIZE, Survey._memoize),
    (pickle.BINGET, Survey._get),
    (pickle.LONG_BINGET, Survey._long_get),
    (pickle.GET, Survey._line_get),
    (pickle.TUPLE, Survey._tuple),
    (pickle.TUPLE1 + pickle.TUPLE2 + pickle.TUPLE3, Survey._small_tuple),
    (bytes(_EMPTY), Survey._empty),
    (pickle.LIST, Survey._list),
    (pickle.DICT, Survey._dict),
    (pickle.FROZENSET, Survey._frozenset),
    (pickle.APPEND, Survey._append),
    (pickle.APPENDS, Survey._appends),
    (pickle.ADDITEMS, Survey._additems),
    (pickle.SETITEM, Survey._setitem),
    (pickle.SETITEMS, Survey._setitems),
    (pickle.BINPERSID, Survey._persistent),
    (pickle.REDUCE, Survey._reduce),
    (pickle.NEWOBJ, Survey._newobj),
    (pickle.BUILD, Survey._build),
):
    for _op_code in _ops:
        _HANDLERS[_op_code] = _handler

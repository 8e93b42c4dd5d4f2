"""What reading a pickle would cost and call, found out from its opcodes before anything in it is built.

A pickle is a program. A few bytes of it can ask for gigabytes, e.g. by a place in the memo, or by lists that hold each
other again and again; some of that costs nothing until the result is hashed, compared or shown. So the program is gone
through once without building anything: every declared size is compared with the bytes that are there, and every
reference to a container counts as the container, as if the file held it there in full. That count, and the depth, the
number of opcodes and of containers, are limited; what may be called is listed, with the arguments it may get.
"""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, TypeVar

from .calls import FILLED, ITEM_BYTES, MAPPINGS
from .machine import EMPTY, OPCODES, Machine
from .opcodes import FIXED, SHORT, SIZED, EndsEarly, Node

HEAD = 2**20  # bytes that are read at first
MOST = 2**32  # bytes of a pickle
T = TypeVar("T")


def read_head(file: BinaryIO, examine: Callable[[bytes], T]) -> tuple[T, bytes]:
    """Return what *examine* finds in the beginning of *file*, and that: as much of it as there must be.

    A large file that is no pickle is so left after its first bytes.

    :raises ValueError: when all of it, or ``MOST`` bytes, are not enough.
    """
    there = file.seek(0, os.SEEK_END)
    size = there if there <= 8 * HEAD else HEAD
    while True:
        file.seek(0)
        head = file.read(size)
        try:
            return examine(head), head
        except EndsEarly:
            if len(head) < size or size >= min(there, MOST):
                raise
        size = min(8 * size, there, MOST)


class Survey(Machine):
    """What one pickle holds.

    :cvar handlers: what goes through an opcode; None for one that is refused.

    :param where: the file, for messages.
    :param more: names of further classes that it may make instances of.
    :ivar end: where the pickle ends in the data.
    :ivar storages: bytes of each storage of tensors that it refers to.
    :ivar result: what it gives.
    :raises InputError: when it costs more than it may.
    :raises pickle.UnpicklingError: with the name of what it must not call.
    :raises ValueError: when it is damaged.
    """

    handlers: ClassVar[list[Callable[[Any, int], int] | None]]

    def __init__(self, data: bytes, start: int = 0, *, where: Path, more: Sequence[str] = ()) -> None:
        super().__init__(data, start, where, more)
        self.storages: dict[str, int] = {}
        self._numbers: dict[str, int] = {}  # in each storage
        try:
            self._steps = iter(range(OPCODES))
            self.end = self._run(start)
            self.result = self._stack[-1]
        except IndexError:
            raise EndsEarly("the pickle is damaged, or only a part of one") from None
        except KeyError as error:
            raise ValueError(f"the pickle refers to place {error} of its memo, which is empty") from None

    def _run(self, pos: int) -> int:
        data, stack, memo, spans, handlers = self.data, self._stack, self._memo, self._spans, self.handlers
        for _ in self._steps:
            op = data[pos]
            width = FIXED[op]
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
            elif op in _GETS:
                size = _GETS[op]
                index = data[pos + 1] if size == 1 else int.from_bytes(data[pos + 1 : pos + 5], "little")
                pos += 1 + size
                entry = memo[index]
                if entry.__class__ is int and (span := spans[index]) <= SHORT:
                    self._referred += span  # by themselves, no number of these exceeds the budget
                    stack.append(entry)
                elif entry.__class__ is int:
                    self._refer(entry, span, pos)
                else:
                    self._refer(entry, 0, pos)
            elif op == _STOP:
                return pos + 1
            else:
                handler = handlers[op]
                if handler is None:
                    raise ValueError(f"opcode {bytes([op])!r} is none of plain data")
                pos = handler(self, pos)
        raise self._excess(f"more than {OPCODES:,} opcodes", f"{OPCODES:,}")

    def keys(self) -> list[str]:
        """Return the texts in the result, a list."""
        return [text for text in map(self.text, self.parts(self.result)) if text is not None]

    def _persistent(self, pos: int) -> int:
        parts = self.parts(self._stack.pop())
        name = self._names.get(parts[1], "") if isinstance(parts[1], int) else ""
        if self.text(parts[0]) != "storage" or name not in ITEM_BYTES:
            raise pickle.UnpicklingError(name or "persistent data of another kind than storages")
        key, count = self.text(parts[2]), self.number(parts[4])
        if key is None or count < 0:
            raise ValueError("a storage without a plain key and size")
        self.storages.setdefault(key, count * ITEM_BYTES[name])
        node = Node("storage", SHORT, 0, [])
        node.numel = self._numbers.setdefault(key, count)
        self._push(node)
        return pos + 1

    def _reduce(self, pos: int) -> int:
        arguments, function = self._stack.pop(), self._stack.pop()
        name = self._called(function, arguments, pos)
        weight = self._weigh(arguments)
        self._spend(weight, pos)
        depth = arguments.depth if isinstance(arguments, Node) else 0
        self._push(Node(name, weight + SHORT, depth + 1, []))
        return pos + 1

    def _newobj(self, pos: int) -> int:
        arguments, cls = self._stack.pop(), self._stack.pop()
        if self.parts(arguments) and self._called(cls, arguments, pos) != "torch.nn.parameter.Parameter":
            raise pickle.UnpicklingError(f"{self._names.get(cls)} with arguments")
        name = self._called(cls, arguments, pos)
        self._push(Node(name, SHORT, 1, []))
        return pos + 1

    def _build(self, pos: int) -> int:
        state = self._stack.pop()
        weight, node = self._weigh(state), self._target({*FILLED, *self._more})
        self._spend(weight, pos)
        if node.kind in MAPPINGS:
            self._refuse_attributes(state, OrderedDict)
        elif node.kind in self._more:
            self._refuse_attributes(state, object)
        self._grow(node, weight, state.depth if isinstance(state, Node) else 0)
        return pos + 1


class TorchSurvey(Survey):
    """The same, of a pickle that has no opcodes but those that :func:`torch.save` writes."""


_STOP = pickle.STOP[0]
_GETS = {pickle.BINGET[0]: 1, pickle.LONG_BINGET[0]: 4}
_PUTS = {pickle.BINPUT[0]: 1, pickle.LONG_BINPUT[0]: 4}
_BY_TORCH = pickle.PROTO + pickle.MARK + pickle.BINUNICODE + pickle.SHORT_BINSTRING + pickle.LONG1 + pickle.GLOBAL
_BY_TORCH += (
    pickle.TUPLE + pickle.TUPLE1 + pickle.TUPLE2 + pickle.TUPLE3 + bytes(EMPTY) + pickle.APPEND + pickle.APPENDS
)
_BY_TORCH += pickle.SETITEM + pickle.SETITEMS + pickle.BINPERSID + pickle.REDUCE + pickle.NEWOBJ + pickle.BUILD
_HANDLERS: list[Callable[[Survey, int], int] | None] = [None] * 256
for _ops, _handler in (
    (pickle.PROTO, Survey._skip),
    (pickle.FRAME, Survey._frame),
    (pickle.MARK, Survey._mark),
    (pickle.POP, Survey._pop),
    (pickle.POP_MARK, Survey._pop_mark),
    (pickle.DUP, Survey._dup),
    (pickle.FLOAT + pickle.INT + pickle.LONG + pickle.STRING + pickle.UNICODE, Survey._line),
    (bytes(SIZED), Survey._sized),
    (pickle.LONG1 + pickle.LONG4, Survey._integer),
    (pickle.GLOBAL, Survey._global),
    (pickle.STACK_GLOBAL, Survey._stack_global),
    (pickle.PUT, Survey._line_put),
    (pickle.MEMOIZE, Survey._memoize),
    (pickle.GET, Survey._line_get),
    (pickle.TUPLE, Survey._tuple),
    (pickle.TUPLE1 + pickle.TUPLE2 + pickle.TUPLE3, Survey._small_tuple),
    (bytes(EMPTY), Survey._empty),
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
Survey.handlers = _HANDLERS
TorchSurvey.handlers = [each if op in _BY_TORCH else None for op, each in enumerate(_HANDLERS)]

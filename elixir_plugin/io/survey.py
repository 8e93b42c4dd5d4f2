"""What reading a pickle would cost and call, found out from its opcodes before anything in it is built.

A pickle is a program. A few bytes of it can ask for gigabytes, e.g. by a place in the memo, or by lists that hold each
other again and again; some of that costs nothing until the result is hashed, compared or shown. So the program is gone
through once without building anything: every declared size is compared with the bytes that are there, and every
reference to a container counts as the container, as if the file held it there in full. That count, and the depth, the
number of opcodes and of containers, are limited; what may be called is listed, with the arguments it may get.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO, TypeVar

from .calls import ITEM_BYTES, MAPPINGS, Calls
from .opcodes import FIXED, INTEGER, LINE, MARKS, NAME, SHORT, SIZED, EndsEarly, Entry, Node

HEAD = 2**20  # bytes that are read at first
MOST = 2**32  # bytes of a pickle
OPCODES = 2**24
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


class Survey(Calls):
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
        super().__init__(data, start, where, more)
        self.storages: dict[str, int] = {}
        self._numbers: dict[str, int] = {}  # in each storage
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
                if entry.__class__ is int:  # at most SHORT bytes: by themselves, no number of them exceeds the budget
                    self._referred += spans[index]
                    stack.append(entry)
                else:
                    self._refer(entry, 0, pos)
            elif op == _STOP:
                return pos + 1
            else:
                handler = _HANDLERS[op]
                if handler is None:
                    raise ValueError(f"opcode {bytes([op])!r} is none of plain data")
                pos = handler(self, pos)
        raise self._excess(f"more than {OPCODES:,} opcodes", f"{OPCODES:,}")

    def keys(self) -> list[str]:
        """Return the texts in the result, a list."""
        return [text for text in map(self.text, self.parts(self.result)) if text is not None]

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
        width = SIZED[self.data[pos]]
        size = int.from_bytes(self.data[pos + 1 : pos + 1 + width], "little")
        end = self._within(size, pos + 1 + width + size, "a text")
        self._push_text(pos, end)
        return end

    def _push_text(self, pos: int, end: int) -> None:
        if end - pos <= SHORT:
            self._stack.append(pos)
        else:
            self._stack.append(Node("text", end - pos, 0, [pos]))

    def _integer(self, pos: int) -> int:
        width = 1 if self.data[pos] == _LONG1 else 4
        size = int.from_bytes(self.data[pos + 1 : pos + 1 + width], "little")
        if size > INTEGER:
            raise self._excess(f"an integer of {size:,} bytes", f"{INTEGER} bytes")
        end = self._within(size, pos + 1 + width + size, "an integer")
        self._stack.append(pos if size <= 8 and width == 1 else Node("number", end - pos, 0, [pos]))
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

    def _tuple(self, pos: int) -> int:
        items, weight, depth = self._since_mark(pos)
        self._push(Node("tuple", weight, depth + 1, items))
        return pos + 1

    def _small_tuple(self, pos: int) -> int:
        count = self.data[pos] - _TUPLE1 + 1
        items = self._stack[-count:]
        if len(items) < count:
            raise IndexError
        del self._stack[-count:]
        depth = max((item.depth for item in items if isinstance(item, Node)), default=0)
        self._push(Node("tuple", sum(map(self._weigh, items)), depth + 1, items))
        return pos + 1

    def _empty(self, pos: int) -> int:
        self._push(Node(_EMPTY[self.data[pos]], 1, 1, []))
        return pos + 1

    def _list(self, pos: int) -> int:
        items, weight, depth = self._since_mark(pos)
        self._push(Node("list", weight, depth + 1, items))
        return pos + 1

    def _dict(self, pos: int) -> int:
        items, weight, depth = self._since_mark(pos)
        self._hash(items[::2], pos)
        self._push(Node("dict", weight, depth + 1, items[::2]))
        return pos + 1

    def _frozenset(self, pos: int) -> int:
        items, weight, depth = self._since_mark(pos)
        self._hash(items, pos)
        self._push(Node("set", weight, depth + 1, []))
        return pos + 1

    def _append(self, pos: int) -> int:
        item = self._stack.pop()
        weight, node = self._weigh(item), self._target()
        self._grow(node, weight, item.depth if isinstance(item, Node) else 0)
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
        self._grow(node, weight, max(each.depth if isinstance(each, Node) else 0 for each in (key, value)))
        node.items.append(key)
        return pos + 1

    def _setitems(self, pos: int) -> int:
        items, weight, depth = self._since_mark(pos)
        keys, node = items[::2], self._target()
        self._hash(keys, pos)
        self._grow(node, weight, depth)
        node.items += keys
        return pos + 1

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
        weight, node = self._weigh(state), self._target()
        self._spend(weight, pos)
        if node.kind in MAPPINGS:
            self._refuse_attributes(state, OrderedDict)
        self._grow(node, weight, state.depth if isinstance(state, Node) else 0)
        return pos + 1


_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg"}
_STOP, _TUPLE1, _LONG1 = pickle.STOP[0], pickle.TUPLE1[0], pickle.LONG1[0]
_GETS = {pickle.BINGET[0]: 1, pickle.LONG_BINGET[0]: 4}
_PUTS = {pickle.BINPUT[0]: 1, pickle.LONG_BINPUT[0]: 4}
_EMPTY = {pickle.EMPTY_LIST[0]: "list", pickle.EMPTY_DICT[0]: "dict", pickle.EMPTY_SET[0]: "set"}
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

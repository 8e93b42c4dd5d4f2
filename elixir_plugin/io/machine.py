"""What each opcode of a pickle does to the stack and memo, in terms of what it would cost; see :mod:`.survey`."""

from __future__ import annotations

import pickle
from collections.abc import Collection, Iterator
from itertools import islice
from operator import sub

from .calls import MAPPINGS, Calls
from .opcodes import FIXED, INTEGER, LINE, MARKS, MIDDLE, NAME, SHORT, SIZED, Entry, Node
from .runs import same_opcode, texts

OPCODES = 2**24
_LISTS, _DICTS, _SETS = {"list"}, {"dict", *MAPPINGS}, {"set"}
_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg"}
_TUPLE1, _LONG1 = pickle.TUPLE1[0], pickle.LONG1[0]
EMPTY = {pickle.EMPTY_LIST[0]: "list", pickle.EMPTY_DICT[0]: "dict", pickle.EMPTY_SET[0]: "set"}


class Machine(Calls):
    """Takes the place of an opcode, and returns that of the next one."""

    _steps: Iterator[int]  # one for each opcode that there may still be

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
        if self._stack and isinstance(top := self._stack[-1], Node) and top.kind == "list":
            return self._items(pos + 1)
        return pos + 1

    def _items(self, pos: int) -> int:
        """Go through what a list gets as far as that is numbers of one kind, or short texts, and return the end."""
        if width := FIXED[self.data[pos]]:
            starts = same_opcode(self.data, pos, width)
            self._stack += starts
            self._take(len(starts))
            return starts.stop
        if (run := texts(self.data, pos)) is None:
            return pos
        places: Collection[int] = run.places or range(len(self._memo), len(self._memo) + len(run.starts))
        if run.places is None and not self._memo.keys().isdisjoint(places):  # the next place is not always one more
            return pos
        if max(places) > pos:
            return pos
        self._take(2 * len(places))
        self._stack += run.starts
        self._memo.update(zip(places, run.starts, strict=True))
        self._spans.update(zip(places, map(sub, run.puts, run.starts), strict=True))
        return run.end

    def _take(self, count: int) -> None:
        """Count opcodes that were gone through at once."""
        next(islice(self._steps, count - 1, count), None)

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
        self._refer(self._stack[-1], self._weigh(self._stack[-1]), pos)
        return pos + 1

    def _line(self, pos: int) -> int:
        end = self._newline(pos) + 1
        if self.data[pos] in b"FIL" and end - pos > (LINE if self.data[pos] in b"F" else 3 * INTEGER):
            raise self._excess(f"a number of {end - pos:,} characters", f"integers of {INTEGER} bytes")
        self._push_text(pos, end, SHORT)
        return end

    def _sized(self, pos: int) -> int:
        width = SIZED[self.data[pos]]
        size = int.from_bytes(self.data[pos + 1 : pos + 1 + width], "little")
        end = self._within(size, pos + 1 + width + size, "a text")
        self._push_text(pos, end, MIDDLE)
        return end

    def _push_text(self, pos: int, end: int, most: int) -> None:
        if end - pos <= most:
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
        self._push(Node(EMPTY[self.data[pos]], 1, 1, []))
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
        weight, node = self._weigh(item), self._target(_LISTS)
        self._grow(node, weight, item.depth if isinstance(item, Node) else 0)
        node.items.append(item)
        return pos + 1

    def _appends(self, pos: int) -> int:
        items, weight, depth = self._since_mark(pos)
        node = self._target(_LISTS)
        self._grow(node, weight, depth)
        node.items += items
        return pos + 1

    def _additems(self, pos: int) -> int:
        items, weight, depth = self._since_mark(pos)
        self._hash(items, pos)
        self._grow(self._target(_SETS), weight, depth)
        return pos + 1

    def _setitem(self, pos: int) -> int:
        key, value = self._stack[-2:]
        del self._stack[-2:]
        weight, node = self._weigh(key) + self._weigh(value), self._target(_DICTS)
        self._hash([key], pos)
        self._grow(node, weight, max(each.depth if isinstance(each, Node) else 0 for each in (key, value)))
        node.items.append(key)
        return pos + 1

    def _setitems(self, pos: int) -> int:
        items, weight, depth = self._since_mark(pos)
        keys, node = items[::2], self._target(_DICTS)
        self._hash(keys, pos)
        self._grow(node, weight, depth)
        node.items += keys
        return pos + 1

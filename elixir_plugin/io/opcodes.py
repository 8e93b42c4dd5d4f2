"""What the parts of a pickle would cost, kept account of while its opcodes are gone through; see :mod:`.survey`."""

from __future__ import annotations

import pickle
from collections.abc import Collection
from pathlib import Path
from typing import Any

from ..errors import InputError

SHARED = 32  # times its own bytes that a pickle may stand for, once all references are written out ...
FREE = 16 * 2**20  # ... and so many bytes more
TIMES = f"{SHARED} times what the file holds up to there, and {FREE:,} bytes"
CONTAINERS = 2**22
DEPTH = 100  # levels of containers
MARKS = 4 * DEPTH  # containers that are begun at once
INTEGER = 32  # bytes of an integer
LINE = 400  # characters of a number written as text
NAME = 1000  # characters of the name of a class, and of a text that is looked into
SHORT = 32  # bytes that a reference may stand for without being compared with the budget: less than that grows by it
MIDDLE = 260  # bytes of text up to which nothing is kept on its size, which one byte tells


_LONG1, _LONG4 = pickle.LONG1[0], pickle.LONG4[0]
FIXED = [0] * 256  # bytes of what is small and of one size
for _op, _width in (
    *((pickle.NONE, 1), (pickle.NEWTRUE, 1), (pickle.NEWFALSE, 1), (pickle.EMPTY_TUPLE, 1)),
    *((pickle.BININT1, 2), (pickle.BININT2, 3), (pickle.BININT, 5), (pickle.BINFLOAT, 9)),
):
    FIXED[_op[0]] = _width
SIZED = {  # bytes in which a size is written
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


class Node:
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


Entry = Any  # a Node; or, for whatever is small by itself, the place of its opcode (int)


class EndsEarly(ValueError):
    """The data end before the pickle does."""


class Accounts:
    """The stack and memo of the machine that a pickle runs on, with what everything there would cost.

    :param where: the file, for messages.
    """

    def __init__(self, data: bytes, start: int, where: Path) -> None:
        self.data, self._start, self._where = data, start, where
        self._stack: list[Entry] = []
        self._marks: list[tuple[int, int, int]] = []  # height of the stack, bytes, and depth there
        self._memo: dict[int, Entry] = {}
        self._spans: dict[int, int] = {}  # bytes of what is small, by its place in the memo
        self._high = 0  # of what was put on the stack since the last mark, the depth
        self._referred = self._work = self._containers = 0

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

    def _push(self, node: Node) -> None:
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
        if isinstance(entry, Node):
            entry.closed = True
            return entry.weight
        op = self.data[entry]
        return FIXED[op] or (SHORT + self.data[entry + 1] if op in SIZED else SHORT)

    def _since_mark(self, pos: int) -> tuple[list[Entry], int, int]:
        """Take all from the last mark on off the stack; return it with its weight and depth."""
        start, before, high = self._marks.pop()
        items = self._stack[start:]
        del self._stack[start:]
        if self._high:
            for item in items:
                if isinstance(item, Node):
                    item.closed = True
        depth, self._high = self._high, high
        return items, pos + self._referred - before, depth

    def _target(self, kinds: Collection[str]) -> Node:
        node = self._stack[-1]
        if not isinstance(node, Node) or node.kind not in kinds:
            raise ValueError("something is put into what does not hold such things")
        if node.closed:
            raise self._excess("a container that changes after another one took it, or holds itself", "finished parts")
        return node

    def _grow(self, node: Node, weight: int, depth: int) -> None:
        node.weight += weight
        node.depth = max(node.depth, depth + 1)
        self._raise(node.depth)

    def _newline(self, pos: int) -> int:
        found = self.data.find(b"\n", pos)
        if found < 0:
            raise IndexError
        return found

    def text(self, entry: Entry) -> str | None:
        """Return the text at *entry* when it is a short one."""
        if isinstance(entry, Node):
            if entry.kind != "text" or entry.weight > NAME:
                return None
            entry = entry.items[0]
        data, op = self.data, self.data[entry]
        if op in b"SV":
            line = data[entry + 1 : data.index(b"\n", entry)]
            return line.decode("latin1").strip("'\"" if op == ord("S") else "")
        size = SIZED.get(op)
        if size is None or op == _LONG1:
            return None
        start = entry + 1 + size
        return data[start : start + int.from_bytes(data[entry + 1 : start], "little")].decode("utf-8", "replace")

    def number(self, entry: Entry) -> int:
        """Return the integer at *entry*.

        :raises ValueError: when it is none.
        """
        if isinstance(entry, Node) and entry.kind == "number":
            entry = entry.items[0]
        if not isinstance(entry, Node):
            data, op = self.data, self.data[entry]
            if op in b"JKM":
                return int.from_bytes(data[entry + 1 : entry + FIXED[op]], "little", signed=op == ord("J"))
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
        if isinstance(entry, Node) and entry.kind in ("tuple", "list"):
            return entry.items
        if isinstance(entry, int) and self.data[entry] == ord(")"):
            return []
        raise ValueError("something else where a tuple belongs")

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

    def _line_get(self, pos: int) -> int:
        end = self._newline(pos)
        index = int(self.data[pos + 1 : end][:LINE])
        self._refer(self._memo[index], self._spans.get(index, 0), end)
        return end + 1

    def _refer(self, entry: Entry, span: int, pos: int) -> None:
        if isinstance(entry, Node):
            span, entry.closed = entry.weight, True
            self._raise(entry.depth)
        self._referred += span
        if self._referred > self._allowed(pos):
            raise self._excess(f"references that stand for {self._referred:,} bytes", TIMES)
        self._stack.append(entry)

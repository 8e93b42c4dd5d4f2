"""Long lists of numbers or of texts in a pickle, gone through at once: that is where plain data have many opcodes.

What is found is what going through it opcode by opcode finds. A run begins where an opcode begins, and each part of it
is matched from its opcode through all of its bytes, so what stands inside a text is never taken for an opcode.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

PIECE = 2**16  # bytes of one run; pickles put 1,000 items at a time into a list
LONGEST = 127  # bytes of a text
_PUTS = {
    pickle.MEMOIZE[0]: 0,
    pickle.BINPUT[0]: 1,
    pickle.LONG_BINPUT[0]: 4,
}  # bytes of the place in the memo, behind the opcode
_SIZES = {ord("\x8c"): 1, ord("U"): 1, ord("C"): 1, ord("X"): 4}
_END: Callable[[re.Match[bytes]], int] = re.Match.end


def same_opcode(data: bytes, pos: int, width: int) -> range:
    """Return where the opcodes of *width* bytes begin that are the same as that at *pos*, one behind the other."""
    opcodes = data[pos : pos + PIECE : width]
    count = len(opcodes) - len(opcodes.lstrip(opcodes[:1]))
    return range(pos, pos + count * width, width)


class Texts(NamedTuple):
    """Short texts one behind the other, each of which is put into the memo.

    :ivar starts: where they begin.
    :ivar puts: where the opcodes begin that put them there.
    :ivar places: of the memo; None where each takes the next one.
    :ivar end: where the last of those opcodes ends.
    """

    starts: list[int]
    puts: list[int]
    places: list[int] | None
    end: int


def texts(data: bytes, pos: int) -> Texts | None:
    """Return the texts from *pos* on that have the same opcodes, or None where none there is put into the memo."""
    width = _SIZES.get(data[pos])
    put = 0 if width is None else data[pos + 1 + width + data[pos + 1]]
    if put not in _PUTS:
        return None
    ends: list[int] = list(map(_END, iter(_pattern(data[pos], put).scanner(data, pos, pos + PIECE).match, None)))
    if not ends:
        return None
    size = _PUTS[put]
    places = [int.from_bytes(data[end - size : end], "little") for end in ends] if size else None
    return Texts([pos, *ends[:-1]], [end - 1 - size for end in ends], places, ends[-1])


@cache
def _pattern(op: int, put: int) -> Any:
    """Return what matches one text of *op*, as far as its size says, and the opcode *put* behind it."""
    high = rb"\0\0\0" if _SIZES[op] == 4 else b""
    sized = b"|".join(re.escape(bytes([size])) + high + b".{%d}" % size for size in range(LONGEST + 1))
    return re.compile(
        re.escape(bytes([op])) + b"(?:" + sized + b")" + re.escape(bytes([put])) + b".{%d}" % _PUTS[put], re.DOTALL
    )

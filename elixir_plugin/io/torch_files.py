"""Torch files are held against what they claim before torch reads them: the archive, the pickle in it, every storage.

What ``torch.save`` has written for years is a zip archive that compresses nothing. Older files are pickles in a row
with the numbers behind them.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import InputError
from .opening import refuse_holes
from .survey import MOST, Survey, read_head
from .zips import STORED, read_directory, stored

MEMBERS = 2**18
ZIP = b"PK\x03\x04"
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


def checked(file: BinaryIO, where: Path, more: Sequence[str] = ()) -> BinaryIO:
    """Return what torch may read in place of *file*, at its beginning, once nothing in it is larger than it is there.

    :param more: names of classes that it may hold beside plain data.
    :raises InputError: when it claims more than it holds.
    :raises pickle.UnpicklingError: with the name of what it must not call.
    :raises ValueError: when it is damaged.
    """
    refuse_holes(file, where)
    is_zip = file.read(len(ZIP)) == ZIP
    if is_zip:
        _check_archive(file, where, more)
    else:
        _check_row(file, where, more)
    file.seek(0)
    return file if is_zip else io.BufferedReader(_Nameless(file))


class _Nameless(io.RawIOBase):
    """A file without a descriptor: torch takes what has one for a tar archive first."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def readinto(self, buffer: Any) -> int:
        return self._file.readinto(buffer)  # type: ignore[attr-defined,no-any-return]


def _check_archive(file: BinaryIO, where: Path, more: Sequence[str]) -> None:
    members = read_directory(file, where, MEMBERS)
    if not members:
        raise ValueError("an archive without members")
    packed = [each.name for each in members if each.method != STORED]
    if packed:
        raise InputError(
            "torch file refused: it is compressed",
            where=where,
            found=packed[0],
            allowed="what torch.save writes, which is not compressed",
            hint="unpack it, and pack it again with 'zip -0', if you know who made it",
        )
    root = members[0].name.partition("/")[0]
    there = {each.name: each for each in members}
    if f"{root}/data.pkl" not in there:
        raise ValueError("a zip archive that torch.save did not write: no data.pkl")
    pickled = there[f"{root}/data.pkl"]
    if pickled.size > MOST:
        raise InputError("file is too large", where=where, found=f"{pickled.size:,} bytes beside tensors", allowed=MOST)
    survey = Survey(stored(file, pickled), where=where, more=more)
    for key, size in survey.storages.items():
        member = there.get(f"{root}/data/{key}")
        if member is None:
            raise ValueError(f"storage {key} is not there")
        if size > member.size:
            raise _short(where, key, size, member.size)


def _check_row(file: BinaryIO, where: Path, more: Sequence[str]) -> None:
    (storages, end), _ = read_head(file, lambda head: _row(head, where, more))
    length = file.seek(0, os.SEEK_END)
    if (claimed := sum(storages.values())) > length - end:
        raise _short(where, f"all {len(storages)}", claimed, length - end)


def _row(head: bytes, where: Path, more: Sequence[str]) -> tuple[dict[str, int], int]:
    """Return the bytes of each storage, and where they begin."""
    first = Survey(head, where=where)
    if first.number(first.result) != _MAGIC:
        raise ValueError("not a torch file")
    second = Survey(head, first.end, where=where)
    if second.number(second.result) != _PROTOCOL:
        raise ValueError("a torch file of an unknown kind")
    third = Survey(head, second.end, where=where)
    content = Survey(head, third.end, where=where, more=more)
    last = Survey(head, content.end, where=where)
    if sorted(last.keys()) != sorted(content.storages):
        raise ValueError("the list of its storages is not complete")
    return content.storages, last.end


def _short(where: Path, key: str, claimed: int, there: int) -> InputError:
    return InputError(
        "torch file refused: it says that it holds more than it does",
        where=where,
        found=f"storage {key}: {claimed:,} bytes, of which {there:,} are there",
        allowed="storages as large as the file says",
        hint="a copy or download may have stopped halfway: fetch the file again",
    )

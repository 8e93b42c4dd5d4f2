"""Torch files are held against what they claim before torch reads them: the archive, the pickle in it, every storage.

What ``torch.save`` has written for years is a zip archive that compresses nothing. Older files are pickles in a row
with the numbers behind them.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch

from ..errors import InputError
from .opening import refuse_holes
from .pickles import STAND_INS, TorchUnpickler
from .survey import MOST, Survey, TorchSurvey, read_head
from .zips import STORED, read_directory, read_into, stored

MEMBERS = 2**18
ZIP = b"PK\x03\x04"
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


def load(file: BinaryIO, where: Path, more: Sequence[type] = ()) -> Any:
    """Return what *file*, at its beginning, holds, once nothing in it is larger than it is there.

    :param more: classes that it may hold beside plain data.
    :raises InputError: when it claims more than it holds.
    :raises pickle.UnpicklingError: with the name of what it must not call.
    :raises ValueError: when it is damaged.
    """
    refuse_holes(file, where)
    names = {f"{each.__module__}.{each.__qualname__}": each for each in more}
    if file.read(len(ZIP)) == ZIP:
        return _Archive(file, where).load(names)
    _check_row(file, where, list(names))
    file.seek(0)
    with torch.serialization.safe_globals([*STAND_INS.values(), *more]):
        return torch.load(io.BufferedReader(_Nameless(file)), map_location="cpu", weights_only=True)


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


class _Archive:
    """An archive whose members are where its directory says; what is checked is what is read, by one reader."""

    def __init__(self, file: BinaryIO, where: Path) -> None:
        self._file, self._where = file, where
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
        self._root = members[0].name.partition("/")[0]
        self._members = {each.name: each for each in members}
        self._storages: dict[str, torch.storage.TypedStorage] = {}
        self._sizes: dict[str, int] = {}

    def load(self, more: Mapping[str, type]) -> Any:
        pickled = self._members.get(f"{self._root}/data.pkl")
        if pickled is None:
            raise ValueError("a zip archive that torch.save did not write: no data.pkl")
        if f"{self._root}/constants.pkl" in self._members:
            raise ValueError("a TorchScript archive, which holds a program")
        if pickled.size > MOST:
            found = f"{pickled.size:,} bytes beside tensors"
            raise InputError("file is too large", where=self._where, found=found, allowed=MOST)
        content = stored(self._file, pickled)
        self._sizes = TorchSurvey(content, where=self._where, more=list(more)).storages
        for key, size in self._sizes.items():
            member = self._members.get(f"{self._root}/data/{key}")
            if member is None:
                raise ValueError(f"storage {key} is not there")
            if size > member.size:
                raise _short(self._where, key, size, member.size)
        order = self._members.get(f"{self._root}/byteorder")
        self._swapped = order is not None and stored(self._file, order) != sys.byteorder.encode()
        return TorchUnpickler(content, self._storage, more).load()

    def _storage(self, key: str, dtype: torch.dtype) -> torch.storage.TypedStorage:
        if key not in self._storages:
            member = self._members[f"{self._root}/data/{key}"]
            room = torch.empty(member.size, dtype=torch.uint8).numpy()
            read_into(self._file, member, room.data)
            content = torch.from_numpy(room[: self._sizes[key]]).untyped_storage()  # of a size that nothing changes
            if self._swapped:
                content.byteswap(dtype)  # type: ignore[no-untyped-call]
            typed: Any = torch.storage.TypedStorage
            self._storages[key] = typed(wrap_storage=content, dtype=dtype, _internal=True)
        return self._storages[key]


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

"""The directory of a zip archive, read strictly: what its members claim is known before anything is unpacked.

Readers differ in which of two directories they believe, and which of two members of one name they take, so an archive
that leaves room for that is refused: the directory ends the file, no name comes twice, and no two members share bytes.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from ..errors import InputError

STORED, DEFLATED = 0, 8
NAME_ROOM = 512  # bytes per member that a directory may have, on average
_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR = struct.Struct("<4sLQL")
_ENTRY = struct.Struct("<4s4B4HL2L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_FULL, _FULL64 = 0xFFFFFFFF, 0xFFFF


class Member(NamedTuple):
    """One member of an archive, as its directory describes it.

    :param packed: bytes in the archive.
    :param size: bytes it says it unpacks to.
    :param start: where it begins, with a header of its own.
    """

    name: str
    method: int
    packed: int
    size: int
    start: int

    @property
    def least(self) -> int:
        """Bytes from its start that belong to it, at least."""
        return _LOCAL.size + len(self.name) + self.packed


def read_directory(file: BinaryIO, where: Path, limit: int) -> list[Member]:
    """Return the members of an archive in the order of its directory.

    :param where: the file, for messages.
    :param limit: how many there may be.
    :raises InputError: for more members, two of one name (whatever the case of its letters), and shared bytes.
    :raises ValueError: when it is damaged, or something else stands in front of or behind the archive.
    """
    length = file.seek(0, os.SEEK_END)
    entries, size, start = _end(file, length)
    if entries > limit or size > limit * NAME_ROOM:
        raise _refused(where, f"{entries:,} members in a directory of {size:,} bytes", f"{limit:,} members")
    content = _part(file, start, size)
    members = list(_members(content, start))
    if len(members) != entries:
        raise ValueError(f"its directory holds {len(members)} members, and says {entries}")
    names = [each.name.lower() for each in members]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise _refused(where, f"two members of one name: {twice}", "each name once")
    ordered = sorted(members, key=lambda each: each.start)
    for one, other in zip(ordered, [*(each.start for each in ordered[1:]), start], strict=True):
        if one.start + one.least > other:
            raise _refused(where, f"{one.name} shares bytes with what follows it", "members one after the other")
    return members


def stored(file: BinaryIO, member: Member) -> bytes:
    """Return the content of a member that is not compressed.

    :raises ValueError: when its own header is damaged.
    """
    return _part(file, _content(file, member), member.size)


def read_into(file: BinaryIO, member: Member, room: memoryview) -> None:
    """Put the content of a member that is not compressed into *room*, which is as large.

    :raises ValueError: when its own header is damaged.
    """
    file.seek(_content(file, member))
    if file.readinto(room) != member.size:  # type: ignore[attr-defined]
        raise ValueError("it ends too early")


def _content(file: BinaryIO, member: Member) -> int:
    header = _LOCAL.unpack(_part(file, member.start, _LOCAL.size))
    if header[0] != b"PK\x03\x04":
        raise ValueError(f"no header in front of {member.name}")
    return member.start + _LOCAL.size + int(header[-2]) + int(header[-1])


def _end(file: BinaryIO, length: int) -> tuple[int, int, int]:
    """Return the number of entries of the directory, its bytes, and where it starts."""
    if length < _END.size:
        raise ValueError("not a zip archive, or only a part of one")
    end = length - _END.size
    mark, disk, first, here, entries, size, start, comment = _END.unpack(_part(file, end, _END.size))
    if mark != b"PK\x05\x06" or comment or (disk, first) not in ((0, 0), (_FULL64, _FULL64)):
        raise ValueError("not a zip archive, only a part of one, or something stands behind it")
    if end >= _LOCATOR.size + _END64.size:
        place = end - _LOCATOR.size - _END64.size
        mark, _, offset, _ = _LOCATOR.unpack(_part(file, end - _LOCATOR.size, _LOCATOR.size))
        if mark == b"PK\x06\x07":
            wide = _END64.unpack(_part(file, place, _END64.size))
            if offset != place or wide[0] != b"PK\x06\x06":
                raise ValueError("the end of its directory is damaged")
            here, entries, size, start = wide[6:]
            end = place
    if here != entries or start + size != end:
        raise ValueError("its directory is not where it says, or something stands in front of it")
    return entries, size, start


def _members(content: bytes, end: int) -> Iterator[Member]:
    at = 0
    while at < len(content):
        if at + _ENTRY.size > len(content):
            raise ValueError("its directory is damaged")
        entry = _ENTRY.unpack_from(content, at)
        mark, flags, method = entry[0], entry[5], entry[6]
        packed, size, names, extras, comments, _, _, _, start = entry[10:]
        if mark != b"PK\x01\x02" or flags & 1:
            raise ValueError("its directory is damaged, or it is encrypted")
        at += _ENTRY.size
        name, extra = content[at : at + names], content[at + names : at + names + extras]
        at += names + extras + comments
        if _FULL in (size, packed, start):
            size, packed, start = _wide(extra, size, packed, start)
        if b"\0" in name or at > len(content) or start >= end or (method == STORED and size != packed):
            raise ValueError("its directory is damaged")
        yield Member(name.decode("utf-8" if flags & 0x800 else "cp437", "replace"), method, packed, size, start)


def _wide(extra: bytes, *values: int) -> list[int]:
    """Return *values*, those that do not fit into 32 bits from where they are written in full."""
    found = list(values)
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            full = [place for place, value in enumerate(found) if value == _FULL]
            if length < 8 * len(full) or at + 4 + length > len(extra):
                raise ValueError("its directory is damaged")
            for number, place in enumerate(full):
                (found[place],) = struct.unpack_from("<Q", extra, at + 4 + 8 * number)
            break
        at += 4 + length
    return found


def _part(file: BinaryIO, start: int, size: int) -> bytes:
    file.seek(start)
    content = file.read(size)
    if len(content) != size:
        raise ValueError("it ends too early")
    return content


def _refused(where: Path, found: str, allowed: str) -> InputError:
    return InputError(
        "archive refused: it may cost more to read than its size says, or be read in two ways",
        where=where,
        found=found,
        allowed=allowed,
        hint="no program that saves plain data writes such a file: do not use it unless you made it yourself",
    )

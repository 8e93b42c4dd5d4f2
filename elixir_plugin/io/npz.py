"""``.npz`` files: plain numeric arrays, whose sizes are checked before any of them is unpacked."""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from ..errors import InputError
from .files import atomic_file
from .opening import open_file, refuse_holes
from .zips import DEFLATED, STORED, Member, read_directory

MEMBERS = 1000
RATIO = 32  # times the file's size that compressed arrays may unpack to ...
FREE = 256 * 2**20  # ... or so many bytes, where that is more
HEADER = 10_000  # characters of the description of an array
BLOCK = 2**20
KINDS = "biufc"
_NPY = ".npy"
_WRITTEN_BY = "an .npz file of plain numeric arrays, written by numpy.savez"


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """Read all arrays of an ``.npz`` file.

    :raises InputError: when it is missing, damaged, holds anything but numbers, or would unpack to more than
        ``RATIO`` times its size and more than ``FREE`` bytes.
    """
    try:
        with open_file(path) as file:
            refuse_holes(file, path)
            if file.read(len(npy.MAGIC_PREFIX)) == npy.MAGIC_PREFIX:
                raise ValueError("a single array")
            members = read_directory(file, path, MEMBERS)
            _refuse_bombs(members, file, path)
            file.seek(0)
            with zipfile.ZipFile(file) as archive:
                return {each.name.removesuffix(_NPY): _array(archive, each) for each in members}
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError("file not found", where=path) from None
    except Exception as error:  # a corrupt archive may fail anywhere inside the reader
        raise InputError(
            "file cannot be read",
            where=path,
            found=" ".join(str(error).split())[:200] or type(error).__name__,
            allowed=_WRITTEN_BY,
        ) from None


def write_npz(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays to an ``.npz`` file atomically; the same arrays give the same bytes."""
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def _refuse_bombs(members: list[Member], file: BinaryIO, path: Path) -> None:
    if strange := [each.name for each in members if each.method not in (STORED, DEFLATED)]:
        raise ValueError(f"{strange[0]} is packed in a way that numpy does not write")
    total = sum(each.size for each in members)
    limit = max(FREE, RATIO * file.seek(0, os.SEEK_END))
    if total > limit:
        raise InputError(
            "file refused: it unpacks to far more than its size",
            where=path,
            found=f"{total:,} bytes",
            allowed=f"{limit:,} bytes: {RATIO} times the file's size, at least {FREE:,}",
            hint="if the arrays are yours, write them with numpy.savez, which does not compress",
        )


def _array(archive: zipfile.ZipFile, member: Member) -> NDArray[Any]:
    """Return one array; memory is taken only once its description fits the bytes that are there."""
    if not member.name.endswith(_NPY):
        raise ValueError(f"no array: {member.name}")
    with archive.open(member.name) as stream:
        version = npy.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"{member.name} is of format {version}, which only names of fields need")
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = read(stream, max_header_size=HEADER)
        if dtype.hasobject:
            raise ValueError(f"Object arrays are not read, as {member.name} is")
        if dtype.kind not in KINDS:
            raise ValueError(f"{member.name} holds no numbers: {str(dtype)[:80]}")
        size, there = math.prod(shape) * dtype.itemsize, member.size - stream.tell()
        if size != there:
            raise ValueError(f"{member.name} says {size:,} bytes of numbers, and holds {there:,}")
        array: NDArray[Any] = np.empty(math.prod(shape), dtype)
        content, filled = array.view(np.uint8), 0
        while filled < size and (part := stream.read(BLOCK)):
            content[filled : filled + len(part)] = np.frombuffer(part, np.uint8)
            filled += len(part)
        if filled < size or stream.read(1):  # which also compares the checksum
            raise ValueError(f"{member.name} is damaged, or only a part of it is there")
    return array.reshape(shape[::-1]).T if fortran else array.reshape(shape)

"""Checks on what a BackdoorBench record holds: paths, positions, lists and numbers of any content, or an error."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ...core.images import Index
from ...errors import InputError
from ...io.files import inside
from ..common.untrusted import numbers


def rebased(folder: Path, save_folder: Any, path: Any, where: str) -> Path:
    """Return the PNG file a sample lies in: ``<record>/<last component of save_folder>/<last two of path>``.

    The recorded paths start at the working directory of the attack, ``./record/<name>/…`` or ``../record/<name>/…``,
    which means nothing here. Anything of another form is refused, not bent into shape.

    :raises InputError: when a path is absolute, climbs, does not lie in *save_folder*, or is a link out of the record.
    """
    start, steps = (PurePosixPath(str(each).replace("\\", "/")) for each in (save_folder, path))
    plain = start.parts[1:] if start.parts[:1] == ("..",) else start.parts
    if (
        not isinstance(save_folder, str)
        or not isinstance(path, str)
        or start.is_absolute()
        or not plain
        or ".." in (*plain, *steps.parts[-2:])
        or steps.parts[:-2] != start.parts
    ):
        raise InputError(
            "image path leaves its record",
            where=where,
            found=f"path {path!r} in folder {save_folder!r}",
            allowed="<save folder>/<original label>/<original index>.png, relative, without '..'",
            hint="do not use this record unless you know who made it",
        )
    return inside(folder, Path(plain[-1], *steps.parts[-2:]))


def positions(value: Any, length: int, where: str) -> Index:
    """Return *value* as positions below *length*, each at most once."""
    array = numbers(value, where)
    if array.ndim != 1 or (array.dtype.kind not in "iu" and array.size):
        raise InputError("broken record", where=where, found=f"{array.dtype} {array.shape}", allowed="integers [n]")
    array = array.astype(np.int64)
    if len(array) and not (array.min() >= 0 and array.max() < length):
        raise InputError(
            "position out of range", where=where, found=f"{array.min()}..{array.max()}", allowed=f"0..{length - 1}"
        )
    if len(np.unique(array)) != len(array):
        raise InputError("position given twice", where=where, allowed="each at most once")
    return array


def rows(value: Any, where: object, what: str) -> list[Any]:
    """Return *value* as a list when it is one."""
    if not isinstance(value, list | tuple | np.ndarray):
        raise InputError("broken record", where=f"{where}: {what}", found=type(value).__name__, allowed="a list")
    return list(value)


def as_int(value: Any, where: object, what: str) -> int:
    """Return *value* as an int when it is one of 64 bits, of Python's or numpy's kind."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        shown = repr(value[:80]) if isinstance(value, str | bytes) else value  # the whole of a list may be endless
        found = shown if isinstance(value, str | bytes | bool | float) else type(value).__name__
        raise InputError("broken record", where=f"{where}: {what}", found=found, allowed="an integer")
    if not -(2**63) <= value < 2**63:
        raise InputError("broken record", where=f"{where}: {what}", found=value, allowed="an integer of 64 bits")
    return int(value)


def expect(value: Any, kind: type, where: object, what: str) -> Any:
    """Return *value* when it is of *kind*."""
    if not isinstance(value, kind):
        raise InputError("broken record", where=f"{where}: {what}", found=type(value).__name__, allowed=kind.__name__)
    return value

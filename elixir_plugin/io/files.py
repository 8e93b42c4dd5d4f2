"""Atomic writing and path checks: nothing half-written takes the place of a file, and no path leaves its folder."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save

from ..errors import InputError, RunError

NAME_BYTES = 255  # the longest file name of common file systems
_ASIDE = ".old.part"  # ends the name of a folder that another one is just replacing
_LEFTOVER = re.compile(r"\.(?P<name>.+)\.(?!old\.part)\w+(?P<aside>\.old)?\.part")


def inside(root: Path, relative: str | Path) -> Path:
    """Return ``root / relative``, refusing anything that leaves *root*, also through a symbolic link.

    :raises InputError: when the path climbs out.
    """
    try:
        base = root.resolve()
        path = (base / relative).resolve()
    except (ValueError, OSError, RuntimeError) as error:  # a NUL byte, a loop of links
        raise InputError("not a usable path", where=root, found=repr(str(relative)), hint=str(error)) from None
    if path != base and base not in path.parents:
        raise InputError("path leaves its folder", where=root, found=relative, allowed=f"paths below {root}")
    return path


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path; it becomes *path* only when the block ends without an error."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=_hidden(path), suffix=".part", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            temporary.chmod(0o666 & ~_umask())
            yield temporary
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder; it replaces *path* only when the block ends without an error."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=_hidden(path), suffix=".part", dir=path.parent))
        try:
            temporary.chmod(0o777 & ~_umask())
            yield temporary
            _take_place(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _hidden(path: Path) -> str:
    """Return how the name of what becomes *path* begins; cut where the rest would not fit into a file name."""
    name, room = f".{path.name}", NAME_BYTES - 32
    whole = os.fsencode(name)
    return f"{name if len(whole) <= room else whole[:room].decode(errors='ignore')}."


def _take_place(new: Path, path: Path) -> None:
    """Move *new* to *path*; what was there takes the name *new*, or comes back where that fails."""
    aside = new.with_suffix(_ASIDE)
    try:
        if path.exists():  # moved aside first: there is no folder for the time of a rename, not of a removal
            path.replace(aside)
        new.replace(path)
    finally:
        if aside.exists():
            aside.replace(new if path.exists() else path)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a failure to write *path* into a clear error."""
    try:
        yield
    except OSError as error:
        raise RunError(
            "cannot write",
            where=path,
            found=error.strerror or str(error),
            hint="free space or choose another folder, then run it again",
        ) from error


def refuse_unwritable(folder: Path) -> None:
    """Make sure that *folder* can be written or made, and leave no trace.

    :raises RunError: when it cannot.
    """
    parent = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    with writing(folder), tempfile.TemporaryFile(dir=parent):
        pass


def remove_leftovers(folder: Path, name: str | None = None) -> None:
    """Remove what :func:`atomic_file` and :func:`atomic_folder` had under way in *folder* when they were killed.

    A folder that had been moved aside, and not been replaced yet, goes back to its place.

    :param name: of the file or folder they were writing, where others may be at work on their own.
    """
    for left in sorted(folder.glob(".*.part")):
        found = _LEFTOVER.fullmatch(left.name)
        if name is not None and (found is None or found["name"] != name):
            continue
        if found and found["aside"] and not (folder / found["name"]).exists():
            left.rename(folder / found["name"])
        elif left.is_dir():
            shutil.rmtree(left)
        else:
            left.unlink()


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically; numpy numbers and arrays become plain ones, NaN and infinities become null."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(to_json_types(value), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def to_json_types(value: Any) -> Any:
    """Turn *value* into JSON types.

    >>> to_json_types({"a": np.float32(0.5), "b": np.arange(2), "c": float("nan")})
    {'a': 0.5, 'b': [0, 1], 'c': None}
    """
    if isinstance(value, Mapping):
        return {str(key): to_json_types(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | torch.Tensor):
        return to_json_types(value.tolist())
    if isinstance(value, list | tuple | set | frozenset):
        return [to_json_types(item) for item in value]
    if isinstance(value, np.generic):
        return to_json_types(value.item())
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    return value


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV file atomically; text that UTF-8 does not have is escaped."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    with atomic_file(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8", errors="backslashreplace")


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor | NDArray[Any]]) -> None:
    """Write tensors to a safetensors file atomically; those that share memory are written one by one."""
    content = save(contiguous_copies(tensors))
    with atomic_file(path) as temporary:  # not save_file: its own temporary file is private, and would outlive a kill
        temporary.write_bytes(content)


def contiguous_copies(tensors: Mapping[str, torch.Tensor | NDArray[Any]]) -> dict[str, torch.Tensor]:
    """Return *tensors* as safetensors takes them: contiguous, on the CPU, no two in the same memory.

    They are copied only where need be, so that they change with the given ones.
    """
    found: dict[str, torch.Tensor] = {}
    taken: set[int] = set()
    for name, value in tensors.items():
        tensor = _contiguous(value)
        memory = tensor.untyped_storage().data_ptr()
        found[name] = tensor.clone() if memory in taken else tensor
        taken.add(memory)
    return found


def _contiguous(value: torch.Tensor | NDArray[Any]) -> torch.Tensor:
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().contiguous()
    as_it_is = value.flags.c_contiguous and value.flags.writeable  # torch takes no read-only array
    return torch.from_numpy(value if as_it_is else np.array(value, order="C"))


def write_torch(path: Path, value: Any) -> None:
    """Write plain data (tensors, numbers, text, containers) in torch's format, for toolkits that read nothing else."""
    with atomic_file(path) as temporary, temporary.open("wb") as file:  # a path would leave its name in the content
        torch.save(value, file)

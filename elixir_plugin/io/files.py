"""The one door to disk: restricted reading of untrusted files, atomic writing, path checks.

Nothing here executes code from a file. Pickles are read through an allow-list that holds plain containers, numbers,
tensors and numpy arrays; images must decode completely; a relative path may not leave the folder it belongs to.
"""

from __future__ import annotations

import csv
import io
import json
import os
import pickle
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save

from ..errors import InputError, RunError
from .pickles import NUMPY, PlainUnpickler, allowed

STOPPED = "a copy or download may have stopped halfway: fetch the file again"
NAME_BYTES = 255  # the longest file name of common file systems
_ASIDE = ".old.part"  # ends the name of a folder that another one is just replacing
_POINTER = b"version https://git-lfs"  # begins what a clone without Git LFS holds instead of a large file
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


def read_torch(path: Path, *more: type) -> Any:
    """Read a torch file that holds tensors, numbers, text, containers, numpy arrays or PIL images, and no more.

    :param more: further classes it may hold, none of which does anything when an instance is made or filled.
    :raises InputError: for anything else, naming what the file asked for. Nothing it names is imported or run.
    """
    with (
        _reading(
            path,
            allowed="tensors, numbers, text, lists, dicts, numpy arrays, images",
            asked_for=lambda error: _forbidden(path) or _asked_for(error),
            hint="a file that needs more can run code when opened: do not use it unless you made it yourself",
        ),
        allowed(Image.Image, *more),
    ):
        return torch.load(path, map_location="cpu", weights_only=True)


def _forbidden(path: Path) -> str | None:
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # only used to improve a message
        return None
    return ", ".join(sorted(set(names) - {*NUMPY, "PIL.Image.Image"})) or None


def _asked_for(error: BaseException) -> str:
    """Return what the file asked for, where only torch's long message tells."""
    match = re.search(r"\bGLOBAL (\S+)|WeightsUnpickler error:\s*(\S.*)", str(error))
    return (match[1] or match[2])[:200] if match else _first_sentence(error)


def _first_sentence(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text.split(". ")[0][:200]


def read_plain_pickle(path: Path) -> Any:
    """Read a plain pickle (e.g. a CIFAR batch) that holds only containers, numbers, text, bytes and numpy arrays.

    :raises InputError: for anything else, without importing or running what the file names.
    """
    with (
        _reading(path, allowed="numbers, text, bytes, lists, dicts, numpy arrays", asked_for=str),
        path.open("rb") as file,
    ):
        return PlainUnpickler(file, encoding="bytes").load()


@contextmanager
def _reading(
    path: Path, *, allowed: str, asked_for: Callable[[Exception], str], hint: str | None = None
) -> Iterator[None]:
    """Turn every failure to read a file of plain data into a clear error.

    :param asked_for: says what a file that is refused asked for.
    """
    try:
        yield
    except FileNotFoundError:
        raise InputError("file not found", where=path) from None
    except pickle.UnpicklingError as error:
        _refuse_pointer(path)
        raise InputError(
            "file refused: it holds objects that are not plain data",
            where=path,
            found=asked_for(error),
            allowed=allowed,
            hint=hint,
        ) from None
    except Exception as error:  # a corrupt file may fail anywhere inside the reader
        _refuse_pointer(path)
        hint = None if isinstance(error, OSError) else STOPPED
        raise InputError("file cannot be read", where=path, found=_first_sentence(error), hint=hint) from None


def _refuse_pointer(path: Path) -> None:
    """Say so when *path* only says where the real file is kept, or holds nothing."""
    with suppress(OSError), path.open("rb") as file:
        head = file.read(len(_POINTER))
        if head == _POINTER:
            raise InputError(
                "the file itself is not here, only its Git LFS pointer",
                where=path,
                hint="run 'git lfs pull' where it was cloned, or download the file by itself",
            )
        if not head:
            raise InputError("file cannot be read: it is empty", where=path, hint=STOPPED)


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


def read_json(path: Path) -> Any:
    """Read a JSON file.

    :raises InputError: when it is missing or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError("file not found", where=path) from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError("file is not JSON", where=path, found=_first_sentence(error)) from None


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


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read a safetensors file.

    :raises InputError: when it is missing or damaged.
    """
    try:
        return load_file(path)
    except FileNotFoundError:
        raise InputError("file not found", where=path) from None
    except Exception as error:  # safetensors raises its own, undocumented class
        _refuse_pointer(path)
        hint = None if isinstance(error, OSError) else STOPPED
        raise InputError(
            "not a safetensors file, or only a part of one", where=path, found=_first_sentence(error), hint=hint
        ) from None


def write_torch(path: Path, value: Any) -> None:
    """Write plain data (tensors, numbers, text, containers) in torch's format, for toolkits that read nothing else."""
    with atomic_file(path) as temporary:
        torch.save(value, temporary)

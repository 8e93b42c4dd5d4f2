"""Files in plain formats, written atomically, and path checks: no path leaves its folder."""

from __future__ import annotations

import csv
import errno
import io
import json
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save

from ..errors import InputError
from .atomic import (
    NAME_BYTES,
    alone_in,
    atomic_file,
    atomic_files,
    atomic_folder,
    cut_name,
    is_leftover,
    refuse_unwritable,
    remove_folder,
    remove_leftovers,
    writing,
)

__all__ = [
    "NAME_BYTES",
    "alone_in",
    "atomic_file",
    "atomic_files",
    "atomic_folder",
    "contiguous_copies",
    "cut_name",
    "inside",
    "is_leftover",
    "refuse_unwritable",
    "remove_folder",
    "remove_leftovers",
    "to_json_types",
    "write_csv",
    "write_json",
    "write_tensors",
    "write_torch",
    "writing",
]


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
    """Write plain data (tensors, numbers, text, containers) in torch's format, for toolkits that read nothing else.

    The same content gives the same bytes: torch names the archive inside after the file it is given, which has a
    temporary name, and writes what a tensor is a part of, and equal texts as often as there are objects.
    """
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        try:
            torch.save(_by_content(value, {}, set()), file)
        except RuntimeError as error:  # what torch makes of an error of the system
            raise _of_system(error) from error


def _of_system(error: BaseException) -> OSError:
    """Return the error of the system that led to *error*, or one that says the same."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError):
            return cause
        cause = cause.__cause__ or cause.__context__
    return OSError(errno.EIO, str(error).splitlines()[0])


def _by_content(value: Any, texts: dict[str, str], taken: set[int]) -> Any:
    """Return *value* with one object for equal texts, and every tensor alone in its memory.

    :param taken: the memory of tensors before this one.
    """
    if isinstance(value, str):
        return texts.setdefault(value, value)
    if type(value) is torch.Tensor and value.layout == torch.strided:
        memory, size = value.untyped_storage(), value.numel() * value.element_size()
        alone = value.is_contiguous() and memory.nbytes() == size and memory.data_ptr() not in taken
        taken.add(memory.data_ptr())
        return value.detach() if alone else value.detach().clone(memory_format=torch.contiguous_format)
    if type(value) in (dict, OrderedDict):
        return type(value)(
            (_by_content(key, texts, taken), _by_content(item, texts, taken)) for key, item in value.items()
        )
    if type(value) in (list, tuple):
        return type(value)(_by_content(item, texts, taken) for item in value)
    return value

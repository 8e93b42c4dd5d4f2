"""Restricted reading of untrusted files: nothing here executes code from a file.

Pickles are read through an allow-list that holds plain containers, numbers, tensors and numpy arrays.
"""

from __future__ import annotations

import io
import os
import pickle
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from ..errors import InputError
from . import torch_files
from .documents import read_json
from .opening import open_file, refuse_holes
from .pickles import STAND_INS, PlainUnpickler
from .survey import Survey, read_head
from .uncollected import uncollected

__all__ = ["STOPPED", "read_json", "read_plain_pickle", "read_tensors", "read_torch"]

STOPPED = "a copy or download may have stopped halfway: fetch the file again"
HEADER = 16 * 2**20  # bytes of the header of a safetensors file
_POINTER = b"version https://git-lfs"  # begins what a clone without Git LFS holds instead of a large file


def read_torch(path: Path, *more: type) -> Any:
    """Read a torch file that holds tensors, numbers, text, containers, numpy arrays or PIL images, and no more.

    Images come as :class:`~elixir_plugin.io.pickled_images.PickledImage`.

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
        open_file(path) as file,
        uncollected(),
    ):
        return torch_files.load(file, path, more)


def _forbidden(path: Path) -> str | None:
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # only used to improve a message
        return None
    return ", ".join(sorted(set(names) - set(STAND_INS))) or None


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
        open_file(path) as file,
        uncollected(),
    ):
        refuse_holes(file, path)
        _, content = read_head(file, lambda head: Survey(head, where=path))
        return PlainUnpickler(io.BytesIO(content), encoding="bytes").load()


@contextmanager
def _reading(
    path: Path, *, allowed: str, asked_for: Callable[[Exception], str], hint: str | None = None
) -> Iterator[None]:
    """Turn every failure to read a file of plain data into a clear error.

    :param asked_for: says what a file that is refused asked for.
    """
    try:
        yield
    except InputError:
        raise
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
    with suppress(OSError), open_file(path) as file:
        head = file.read(len(_POINTER))
        if head == _POINTER:
            raise InputError(
                "the file itself is not here, only its Git LFS pointer",
                where=path,
                hint="run 'git lfs pull' where it was cloned, or download the file by itself",
            )
        if not head:
            raise InputError("file cannot be read: it is empty", where=path, hint=STOPPED)


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read a safetensors file.

    :raises InputError: when it is missing or damaged.
    """
    return read_tensors_and_facts(path)[0]


def read_tensors_and_facts(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Read a safetensors file, and the texts in its header.

    :raises InputError: when it is missing or damaged, or its header is larger than ``HEADER``.
    """
    try:
        _check_header(path)
        with safe_open(path, "pt") as file:
            return dict(file.get_tensors()), dict(file.metadata() or {})
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError("file not found", where=path) from None
    except Exception as error:  # safetensors raises its own, undocumented class
        _refuse_pointer(path)
        hint = None if isinstance(error, OSError) else STOPPED
        raise InputError(
            "not a safetensors file, or only a part of one", where=path, found=_first_sentence(error), hint=hint
        ) from None


def _check_header(path: Path) -> None:
    """Compare the size that the header says it has with the file's, and with what any header has."""
    with open_file(path) as file:
        refuse_holes(file, path)
        size = int.from_bytes(file.read(8), "little")
        there = max(0, file.seek(0, os.SEEK_END) - 8)
    if not 2 <= size <= there:
        raise ValueError(f"a header of {size:,} bytes, of which {there:,} are there")
    if size > HEADER:
        raise InputError(
            "safetensors file refused: its header is too large",
            where=path,
            found=f"{size:,} bytes",
            allowed=f"{HEADER:,} bytes, which describe some 100,000 tensors",
        )

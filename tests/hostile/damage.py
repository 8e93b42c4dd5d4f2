"""Ways to damage a file that a program of ours wrote, for whatever reads it back."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ODD: tuple[Any, ...] = (None, True, -1, 10**30, 1e308, float("nan"), float("inf"), "text", "a\0b", "", [], {}, [[]])
Damage = tuple[str, Callable[[Path], object]]


def damaged_json(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Yield *value* with each of its fields removed, and replaced by each of :data:`ODD`; of a list, its two ends."""
    for odd in ODD:
        yield f"{_name(path)} = {odd!r}", odd
    if isinstance(value, dict):
        for key, item in value.items():
            yield f"{_name((*path, key))} removed", {name: each for name, each in value.items() if name != key}
            for said, damaged in damaged_json(item, (*path, key)):
                yield said, {**value, key: damaged}
    elif isinstance(value, list) and value:
        for row in {0, len(value) - 1}:
            yield f"{_name((*path, row))} removed", value[:row] + value[row + 1 :]
            for said, damaged in damaged_json(value[row], (*path, row)):
                yield said, [*value[:row], damaged, *value[row + 1 :]]


def json_damages(value: Any) -> Iterator[Damage]:
    """Yield what writes *value* with one fault to a file."""
    for said, damaged in damaged_json(value):
        yield said, lambda path, damaged=damaged: path.write_text(json.dumps(damaged))  # type: ignore[misc]


def byte_damages(content: bytes) -> Iterator[Damage]:
    """Yield what cuts a file off at every tenth of it, overwrites a part, or puts something else in its place."""
    for tenth in range(10):
        at = len(content) * tenth // 10
        yield f"cut off at {tenth}/10", lambda path, at=at: path.write_bytes(content[:at])  # type: ignore[misc]
        for other in (b"\0" * 8, b"\xff" * 8, b"[" * 8):
            part = content[:at] + other + content[at + 8 :]
            yield f"{other[:1]!r} at {tenth}/10", lambda path, part=part: path.write_bytes(part)  # type: ignore[misc]
    yield "nested", lambda path: path.write_bytes(b"[" * 100_000)
    yield "long number", lambda path: path.write_bytes(b"9" * 10_000)


def place_damages() -> Iterator[Damage]:
    """Yield what puts something that is no file in the place of one."""
    yield "absent", lambda path: path.unlink()
    yield "empty", lambda path: path.write_bytes(b"")
    yield "a folder", lambda path: (path.unlink(), path.mkdir())
    yield "a link to itself", lambda path: (path.unlink(), path.symlink_to(path.name))
    yield "a link to nothing", lambda path: (path.unlink(), path.symlink_to("nothing"))
    if hasattr(os, "mkfifo"):
        yield "a FIFO", lambda path: (path.unlink(), os.mkfifo(path))


def restored(path: Path, content: bytes) -> None:
    """Put the sound file back."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.write_bytes(content)


def _name(path: tuple[Any, ...]) -> str:
    return ".".join(map(str, path)) or "the whole"

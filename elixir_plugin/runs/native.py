"""Files in a toolkit's own format: written by an adapter, listed in a note, and cleared before the next ones come.

A folder that a user chose holds the results of one defense alone: what it wrote there before is taken away first, so
that no file of an earlier run stands between those of a later one. Where a toolkit looks for results, several defenses
share a folder, and each clears what it wrote itself.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .._version import __version__
from ..adapter import Adapter
from ..core.case import Case
from ..core.metrics import Evaluation
from ..core.outcome import Outcome
from ..errors import InputError, RunError, preview_list
from ..io.files import inside, write_json
from ..io.reading import read_json
from .spec import RunSpec

NOTE = ".elixir_plugin_written.json"


def refuse_mixture(
    target: Path | None, spec: RunSpec, adapter: Adapter, case: Case, known: Iterable[Path] = ()
) -> None:
    """Make sure that results of *spec* can go to *target* without mixing with others, or replacing edited files.

    Where the toolkit itself looks for results, there is nothing to refuse.

    :param known: files there that this run wrote itself.
    :raises RunError: when other files are there, or files that were changed since a run wrote them.
    """
    if target is None or not target.is_dir() or is_toolkits_own(target, adapter.result_folder(case, spec.defense)):
        return
    note = _read(target)
    if not note:
        mine = {path.absolute() for path in known}
        if others := [path.name for path in sorted(target.iterdir()) if not _is_mine(path, mine)]:
            raise RunError(
                "folder for results is not empty",
                where=target,
                found=preview_list(others),
                allowed="a new folder, or one that only a run of the same defense wrote to",
                hint="choose another {argument:write_to}",
            )
    for defense, entry in note.items():
        if defense != spec.defense and any((target / name).exists() for name in entry["files"]):
            raise RunError(
                "folder holds results of another defense",
                where=target,
                found=f"{defense}: {preview_list(list(entry['files']))}",
                hint="choose another {argument:write_to}",
            )
        if defense == spec.defense and not entry["complete"] and entry["identity"] != spec.identity():
            raise RunError(
                "folder holds results that another run was writing when it was killed",
                where=target,
                found=f"run {entry['identity']}",
                hint="run that one again, or choose another {argument:write_to}",
            )
    if edited := _edited(target, note.get(spec.defense)):
        raise RunError(
            "results were changed since they were written",
            where=target,
            found=preview_list(edited),
            hint="move them elsewhere, or choose another {argument:write_to}",
        )


def is_toolkits_own(target: Path, own: Path | None) -> bool:
    """Tell whether *target* is, or lies beside, *own*, where a toolkit looks for results."""
    return own is not None and target.is_relative_to(own.parent)


def written_by_another(target: Path, spec: RunSpec) -> bool:
    """Tell whether another run of the same defense was the last to write to *target*; False where nothing is noted."""
    entry = _read(target).get(spec.defense)
    return entry is not None and entry["identity"] != spec.identity()


def write_native(
    adapter: Adapter, spec: RunSpec, target: Path, *, case: Case, outcome: Outcome, evaluation: Evaluation
) -> list[Path]:
    """Let *adapter* write to *target*, without what this defense wrote there before; return the files written.

    Files that were changed since they were written are kept, with a warning in the log.
    """
    target.mkdir(parents=True, exist_ok=True)
    note = _read(target)
    _clear(target, note.get(spec.defense))
    _write(target, note, spec, complete=False, files={})
    written = adapter.write(case, outcome, evaluation, target, spec.defense)
    files = _sums(written, target)
    if files or len(note) > (spec.defense in note):
        _write(target, note, spec, complete=True, files=files)
    else:
        (target / NOTE).unlink()
    return written


def _clear(target: Path, entry: Mapping[str, Any] | None) -> None:
    """Remove the files of *entry* that are as they were written, and folders that are then empty."""
    if entry is None:
        return
    edited = _edited(target, entry)
    if edited:
        logging.getLogger(__name__).warning(
            "%s: files that were changed since an earlier run wrote them are kept: %s", target, preview_list(edited)
        )
    gone = [target / name for name in entry["files"] if name not in edited]
    for path in gone:
        path.unlink(missing_ok=True)
    for folder in sorted(
        {parent for path in gone for parent in path.parents if target in parent.parents}, reverse=True
    ):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _edited(target: Path, entry: Mapping[str, Any] | None) -> list[str]:
    files = {} if entry is None else entry["files"]
    return [name for name, digest in files.items() if (target / name).is_file() and _digest(target / name) != digest]


def _sums(written: Iterable[Path], target: Path) -> dict[str, str]:
    """Return the files at and below the paths *written*, relative to *target*, with their SHA-256."""
    files = {file for path in written for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file()}
    here = sorted(file for file in files if target in file.parents)
    return {file.relative_to(target).as_posix(): _digest(file) for file in here}


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _is_mine(path: Path, known: set[Path]) -> bool:
    path = path.absolute()
    left = path.name.startswith(".") and path.name.endswith(".part")
    return left or any(path == each or path in each.parents for each in known)


def _write(target: Path, note: Mapping[str, Any], spec: RunSpec, *, complete: bool, files: Mapping[str, str]) -> None:
    entry = {"identity": spec.identity(), "complete": complete, "files": dict(files)}
    content = {
        "about": "what elixir-plugin wrote here; it is cleared before the next results of the same defense",
        "version": __version__,
        "written": {**note, spec.defense: entry},
    }
    write_json(target / NOTE, content)


def _read(target: Path) -> dict[str, Any]:
    """Return defense -> what it wrote; paths are held inside *target*, for a folder may come from anywhere."""
    file = target / NOTE
    if not file.is_file():
        return {}
    content = read_json(file)
    note = content.get("written") if isinstance(content, dict) else None
    entries = list(note.values()) if isinstance(note, dict) else [None]
    for each in entries:
        entry = each if isinstance(each, dict) else {}
        files = entry.get("files")
        if not isinstance(files, dict) or not {"identity", "complete"} <= entry.keys():
            raise InputError(
                "list of written files is broken", where=file, hint="choose another folder, or empty this one"
            )
        for name in files:
            inside(target, name)
    return dict(note or {})

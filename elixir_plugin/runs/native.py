"""Files in a toolkit's own format: written by an adapter, listed in a note, and cleared when the next ones are there.

A folder that a user chose holds the results of one defense alone: what it wrote there before is taken away, so that no
file of an earlier run stands between those of a later one. Where a toolkit looks for results, several defenses share a
folder, and each clears what it wrote itself. While results are replaced, the note says so and lists the former files:
the next command of the same run completes what a kill has interrupted.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, BinaryIO, NamedTuple

from pydantic import Field

from .._version import __version__
from ..adapter import Adapter
from ..core.case import Case
from ..core.metrics import Evaluation
from ..core.outcome import Outcome
from ..errors import RunError, preview_list
from ..io.checked import Facts, Flag, checked, refuse_newer
from ..io.files import alone_in, inside, is_leftover, write_json, writing
from ..io.opening import is_there, open_file
from ..io.reading import read_json
from .spec import RunSpec

NOTE = ".elixir_plugin_written.json"
SCHEMA = 1  # of the note; those of earlier versions have none
BLOCK = 1 << 20  # bytes of a file that are read at once


class Entry(Facts):
    """What one defense wrote.

    :param complete: False while it is writing; then the files are those of the run before.
    :param files: path relative to the folder -> SHA-256.
    :param sizes: path -> bytes; a file of another size was changed, and is not read to find that out.
    """

    identity: str
    complete: Flag
    files: dict[str, str]
    sizes: dict[str, Annotated[int, Field(ge=0)]] = Field({})


class File(NamedTuple):
    """What tells a file apart.

    :param digest: its SHA-256.
    :param size: bytes; None where a former version did not note it.
    """

    digest: str
    size: int | None


class WrittenFacts(Facts):
    """The content of the note."""

    written: dict[str, Entry]


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
    _refuse_another_defense(target, note, spec)
    entry = note.get(spec.defense)
    if entry is not None and not entry["complete"] and entry["identity"] != spec.identity():
        raise RunError(
            "folder holds results that another run was writing when it was killed",
            where=target,
            found=f"run {entry['identity']}",
            hint="run that one again, or choose another {argument:write_to}",
        )
    if entry is not None and entry["complete"] and (edited := _edited(target, entry)):
        raise RunError(
            "results were changed since they were written",
            where=target,
            found=preview_list(edited),
            hint="move them elsewhere, or choose another {argument:write_to}",
        )


def _refuse_another_defense(target: Path, note: Mapping[str, Any], spec: RunSpec) -> None:
    for defense, entry in note.items():
        if defense == spec.defense:
            continue
        found = preview_list([name for name in entry["files"] if (target / name).exists()])
        if not entry["complete"]:
            found = "it is writing, or was killed while it wrote"
        if found:
            raise RunError(
                "folder holds results of another defense",
                where=target,
                found=f"{defense}: {found}",
                hint="choose another {argument:write_to}",
            )


def is_toolkits_own(target: Path, own: Path | None) -> bool:
    """Tell whether *target* is, or lies beside, *own*, where a toolkit looks for results."""
    return own is not None and target.is_relative_to(own.parent)


def is_out_of_date(target: Path, spec: RunSpec) -> bool:
    """Tell whether another run of the same defense was the last to write to *target*, or one that was killed meanwhile.

    False where nothing is noted.
    """
    entry = _read(target).get(spec.defense)
    return entry is not None and (entry["identity"] != spec.identity() or not entry["complete"])


def write_native(
    adapter: Adapter, spec: RunSpec, target: Path, *, case: Case, outcome: Outcome, evaluation: Evaluation
) -> list[Path]:
    """Let *adapter* write to *target*, then clear what else this defense wrote there before; return the files written.

    Files that were changed since they were written are kept, with a warning in the log. Another process that writes
    there is waited for.

    :raises RunError: when another defense has written there since :func:`refuse_mixture` looked.
    """
    with writing(target):
        target.mkdir(parents=True, exist_ok=True)
    with alone_in(target):
        note = _read(target)
        if not is_toolkits_own(target, adapter.result_folder(case, spec.defense)):
            _refuse_another_defense(target, note, spec)
        before = _known(target, note.get(spec.defense))
        _write(target, note, spec, complete=False, files=before)
        written = adapter.write(case, outcome, evaluation, target, spec.defense)
        files = _facts(written, target)
        _clear(target, {name: facts for name, facts in before.items() if name not in files})
        if files or len(note) > (spec.defense in note):
            _write(target, note, spec, complete=True, files=files)
        else:
            (target / NOTE).unlink()
    return written


def _known(target: Path, entry: Mapping[str, Any] | None) -> dict[str, File]:
    """Return the files of *entry*, without those that were changed since."""
    if entry is None:
        return {}
    edited = _edited(target, entry)
    if edited and entry["complete"]:  # else those an attempt that was killed has replaced
        logging.getLogger(__name__).warning(
            "%s: files that were changed since an earlier run wrote them are kept: %s", target, preview_list(edited)
        )
    return {name: facts for name, facts in _files(entry).items() if name not in edited}


def _files(entry: Mapping[str, Any]) -> dict[str, File]:
    return {name: File(digest, entry["sizes"].get(name)) for name, digest in entry["files"].items()}


def _clear(target: Path, files: Mapping[str, File]) -> None:
    """Remove *files* that are as they were written, and folders that are then empty."""
    with writing(target):
        for name, facts in files.items():
            if _is_as_written(target / name, facts):
                (target / name).unlink()
        gone = [target / name for name in files if not os.path.lexists(target / name)]  # some by a killed attempt
        for folder in sorted(
            {parent for path in gone for parent in path.parents if target in parent.parents}, reverse=True
        ):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


def _edited(target: Path, entry: Mapping[str, Any] | None) -> list[str]:
    files = {} if entry is None else _files(entry)
    return [name for name, facts in files.items() if _is_as_written(target / name, facts) is False]


def _facts(written: Iterable[Path], target: Path) -> dict[str, File]:
    """Return what tells apart the files at and below the paths *written*; their paths are relative to *target*."""
    files = {file for path in written for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file()}
    here = sorted(file for file in files if target in file.parents)
    return {file.relative_to(target).as_posix(): File(_digest(file), file.stat().st_size) for file in here}


def _digest(path: Path) -> str:
    with open_file(path) as file:
        return _digest_of(file)


def _digest_of(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while block := file.read(BLOCK):
        digest.update(block)
    return digest.hexdigest()


def _is_as_written(path: Path, facts: File) -> bool | None:
    """Tell whether a file has the content that was written; None where there is no file."""
    try:
        with open_file(path) as file:
            same_size = facts.size is None or os.fstat(file.fileno()).st_size == facts.size
            return same_size and _digest_of(file) == facts.digest
    except FileNotFoundError:
        return None


def _is_mine(path: Path, known: set[Path]) -> bool:
    path = path.absolute()
    return is_leftover(path.name) or any(path == each or path in each.parents for each in known)


def _write(target: Path, note: Mapping[str, Any], spec: RunSpec, *, complete: bool, files: Mapping[str, File]) -> None:
    entry = {
        "identity": spec.identity(),
        "complete": complete,
        "files": {name: facts.digest for name, facts in files.items()},
        "sizes": {name: facts.size for name, facts in files.items() if facts.size is not None},
    }
    content = {
        "about": "what elixir-plugin wrote here; it is cleared before the next results of the same defense",
        "schema": SCHEMA,
        "version": __version__,
        "written": {**note, spec.defense: entry},
    }
    write_json(target / NOTE, content)


def _read(target: Path) -> dict[str, Any]:
    """Return defense -> what it wrote; paths are held inside *target*, for a folder may come from anywhere."""
    file = target / NOTE
    if not is_there(file):
        return {}
    content = read_json(file)
    refuse_newer(content, SCHEMA, file)
    facts = checked(
        WrittenFacts,
        content,
        what="list of written files is broken",
        where=file,
        hint="choose another folder, or empty this one",
    )
    for entry in facts.written.values():
        for name in entry.files:
            inside(target, name)
    return {defense: entry.model_dump() for defense, entry in facts.written.items()}

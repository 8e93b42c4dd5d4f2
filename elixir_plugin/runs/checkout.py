"""Files placed in somebody else's checkout: never over a file that is not ours, and taken away without a trace.

What was placed is written down in ``.elixir_plugin.json`` at the root of the checkout, with a hash of every file. The
note is written before the first file, so that an install that was killed is completed, or undone, by the next command.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from .._version import __version__
from ..adapter import Placement
from ..errors import InputError, RunError
from ..io.checked import Facts, checked, refuse_newer
from ..io.files import alone_in, atomic_file, inside, refuse_unwritable, remove_leftovers, write_json
from ..io.opening import is_there, read_bytes
from ..io.reading import read_json

NOTE = ".elixir_plugin.json"
SCHEMA = 1  # of the note; those of earlier versions have none
Modified = Literal["refuse", "keep", "discard"]


class Note(Facts):
    """What is written down of an earlier install.

    :param files: relative path -> SHA-256 of what was placed there; the old and the new one while an install is under
        way.
    :param folders: folders that were made for them.
    """

    toolkit: str
    version: str
    defenses: tuple[str, ...]
    files: Mapping[str, str]
    folders: tuple[str, ...]


@dataclass(frozen=True)
class Change:
    """One line of an answer: a relative path, and what happened to it or how it is."""

    path: str
    state: str


def place(placement: Placement, root: Path, *, modified: Modified = "refuse") -> list[Change]:
    """Bring the files of *placement* into the checkout at *root*.

    :param modified: what to do with placed files that were changed since: leave everything as it is and say so, keep
        the changed files, or put the original content back.
    :returns: one entry per file: ``placed``, ``updated``, ``kept (edited)``, ``there already`` or ``removed``.
    :raises InputError: when a file that was not placed by an earlier install is in the way.
    :raises RunError: when the checkout cannot be written, or placed files were edited.
    """
    with _alone_at(root):
        note = _read_note(root)
        if note is not None and note.toolkit != placement.toolkit:
            raise _other_toolkit(root, note.toolkit, placement.toolkit)
        known = {} if note is None else dict(note.files)
        _refuse_strangers(placement.files, known, root)
        changed = _edited(known, root)
        _refuse_modified(changed, modified, root)
        plan = {name: _digest(text.encode()) for name, text in placement.files.items()}
        refuse_unwritable(root)
        kept = {name: known[name] for name in changed} if modified == "keep" else {}
        gone = [name for name in known if name not in plan and name not in kept]
        folders = {*(note.folders if note else ()), *_new_folders(placement.files, root)}
        either = {name: " ".join(filter(None, (known.get(name), plan.get(name)))) for name in {**known, **plan}}
        _write_note(root, placement, either, folders)
        done = [Change(name, _put(name, text, name in kept, root)) for name, text in placement.files.items()]
        done += [_remove(name, root) for name in gone]
        _write_note(root, placement, {**plan, **kept}, _still_needed(folders, {**plan, **kept}, root))
        return done


def remove(root: Path, toolkit: str, *, modified: Modified = "refuse") -> list[Change]:
    """Take away what was placed in *root*, the folders made for it, and the note.

    :param modified: as in :func:`place`; kept files are the user's own from now on.
    :raises InputError: when nothing is written down of an install here.
    """
    with _alone_at(root):
        note = _known_note(root, toolkit)
        changed = _edited(note.files, root)
        _refuse_modified(changed, modified, root)
        spared = changed if modified == "keep" else []
        done = [Change(name, "kept (edited)") if name in spared else _remove(name, root) for name in note.files]
        _still_needed(note.folders, spared, root)
        remove_leftovers(root, NOTE)
        (root / NOTE).unlink()
        return done


def placed_defenses(root: Path, toolkit: str) -> tuple[str, ...]:
    """Return the names of the defenses that an install placed files for.

    :raises InputError: when nothing is written down of an install here.
    """
    return _known_note(root, toolkit).defenses


def inspect(root: Path, placement: Placement) -> list[Change]:
    """Say how every placed file is: ``in place``, ``edited``, ``missing``, or ``outdated`` against *placement*.

    :raises InputError: when nothing is written down of an install here.
    """
    note = _known_note(root, placement.toolkit)
    new = {name: _digest(text.encode()) for name, text in placement.files.items()}
    states = []
    for name, digest in note.files.items():
        there = _digest_of(inside(root, name))
        state = "missing" if there is None else "in place" if there in digest.split() else "edited"
        if state == "in place" and new.get(name) != there:
            state = "outdated: install again"
        states.append(Change(name, state))
    return states + [Change(name, "not placed: install again") for name in new if name not in note.files]


def _alone_at(root: Path) -> AbstractContextManager[None]:
    """Hold the lock on the checkout, where it is there."""
    return alone_in(root) if root.is_dir() else nullcontext()


def _read_note(root: Path) -> Note | None:
    """Read the note; its paths are held inside *root*, because a checkout may come from anywhere."""
    file = root / NOTE
    if not is_there(file):
        return None
    content = read_json(file)
    refuse_newer(content, SCHEMA, file)
    note = checked(
        Note,
        content,
        what="note of placed files is broken",
        where=file,
        hint="get it back, or remove the files by hand",
    )
    for name in (*note.files, *note.folders):
        _own_path(root, name)
    return note


def _known_note(root: Path, toolkit: str) -> Note:
    note = _read_note(root)
    if note is None:
        raise InputError("nothing is installed here", where=root, found=f"no {NOTE}", hint="check the path")
    if note.toolkit != toolkit:
        raise _other_toolkit(root, note.toolkit, toolkit)
    return note


def _other_toolkit(root: Path, found: str, wanted: str) -> InputError:
    return InputError("files of another toolkit are installed here", where=root, found=found, allowed=wanted)


def _own_path(root: Path, name: str) -> Path:
    path = inside(root, name)
    if PurePosixPath(name).is_absolute() or path == root.resolve() or (root / name).is_symlink():
        raise InputError("path is not that of a placed file", where=root, found=name, allowed="files below the root")
    return path


def _write_note(root: Path, placement: Placement, files: Mapping[str, str], folders: Iterable[str]) -> None:
    content: dict[str, Any] = {
        "about": "files placed by 'elixir-plugin toolkit install'; 'elixir-plugin toolkit uninstall' takes them away",
        "schema": SCHEMA,
        "toolkit": placement.toolkit,
        "version": __version__,
        "defenses": list(placement.defenses),
        "files": dict(sorted(files.items())),
        "folders": sorted(folders),
    }
    write_json(root / NOTE, content)


def _refuse_strangers(files: Iterable[str], known: Mapping[str, str], root: Path) -> None:
    there = [name for name in files if _own_path(root, name).exists() and name not in known]
    if there:
        raise InputError(
            "files are in the way that were not placed by an install",
            where=root,
            found=", ".join(there[:6]) + (f" and {len(there) - 6} more" if there[6:] else ""),
            allowed="no file at the places where ours go",
            hint="move or rename them; nothing was changed",
        )


def _refuse_modified(changed: list[str], modified: Modified, root: Path) -> None:
    if changed and modified == "refuse":
        raise RunError(
            "placed files were edited since",
            where=root,
            found=", ".join(changed),
            hint="choose {argument:modified=keep} or {argument:modified=discard}; nothing was changed",
        )


def _edited(known: Mapping[str, str], root: Path) -> list[str]:
    return [name for name, digest in known.items() if _digest_of(inside(root, name)) not in (None, *digest.split())]


def _new_folders(files: Iterable[str], root: Path) -> set[str]:
    parents = {parent for name in files for parent in PurePosixPath(name).parents if parent != PurePosixPath(".")}
    return {str(parent) for parent in parents if not (root / parent).exists()}


def _put(name: str, text: str, kept: bool, root: Path) -> str:
    path = _own_path(root, name)
    there = _digest_of(path)
    if kept:
        return "kept (edited)"
    if there == _digest(text.encode()):
        return "there already"
    with atomic_file(path) as temporary:
        temporary.write_bytes(text.encode())
    return "placed" if there is None else "updated"


def _remove(name: str, root: Path) -> Change:
    path = _own_path(root, name)
    remove_leftovers(path.parent, path.name)
    if not path.exists():
        return Change(name, "was missing")
    path.unlink()
    return Change(name, "removed")


def _still_needed(folders: Iterable[str], files: Iterable[str], root: Path) -> list[str]:
    """Remove those of our *folders* that are empty and lead to none of *files*; return the others."""
    wanted = {str(parent) for name in files for parent in PurePosixPath(name).parents}
    left = []
    for name in sorted(folders, key=len, reverse=True):  # the inner ones first
        folder = root / name
        if name not in wanted and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
        elif folder.is_dir():
            left.append(name)
    return left


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _digest_of(path: Path) -> str | None:
    return _digest(read_bytes(path)) if is_there(path) else None

"""Looking through folders of files: what lies below one, link by link and name by name, before any of it is read."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError
from .files import NAME_BYTES, inside
from .images import JUNK, SUFFIXES
from .text import escape_name

DEPTH = 64  # folders within each other
PATH_BYTES = 2048  # of a file's name with its folders: results repeat it below a path of their own
LINK_HINT = "move or copy what the link points to"


def is_folder(path: Path) -> bool:
    """Whether *path* is a folder, or a link to one.

    :raises InputError: when it cannot be said: for a path that is none, a loop of links, a folder that may not be
        entered.
    """
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:
        raise InputError("folder cannot be read", where=shortened(path), found=_reason(error)) from None


def shortened(path: Path) -> str:
    """Return *path* so that it can be shown."""
    return escape_name(str(path))


def is_file_name(name: str) -> bool:
    """Whether a file or folder can have this name."""
    try:
        return 0 < len(os.fsencode(name)) <= NAME_BYTES and not {"/", "\0"} & set(name) and name not in (".", "..")
    except UnicodeEncodeError:  # half of a pair of surrogates
        return False


def is_image(name: str) -> bool:
    """Whether a file of this name is taken for an image."""
    return name.lower().endswith(SUFFIXES)


@dataclass(frozen=True)
class Walk:
    """A way through all folders below one; hidden files and folders are passed over.

    :param root: the folder, resolved; names are relative to it, with forward slashes.
    :param follow: follow links to folders, and to files outside of *root*; else they are refused.
    :param junk_below: pass over the folders in :data:`~elixir_plugin.io.images.JUNK`, which systems leave behind.
    :param link_hint: what to do about a link that is not followed.
    :param skip_file: tells by their names which files are passed over.
    """

    root: Path
    follow: bool = False
    junk_below: bool = True
    link_hint: str = LINK_HINT
    skip_file: Callable[[str], bool] = lambda name: False

    def entries(self, name: str) -> list[os.DirEntry[str]]:
        """Return what is visible in a folder.

        :raises InputError: when it cannot be read.
        """
        try:
            with os.scandir(self.root / name) as entries:
                return [entry for entry in entries if not entry.name.startswith(".")]
        except (OSError, ValueError) as error:
            where = shortened(self.root / name)
            raise InputError("folder cannot be read", where=where, found=_reason(error)) from None

    def below(self, name: str) -> Iterator[str]:
        """Yield all files below a folder: by folder name, then by file name, as torchvision sorts them.

        What is no regular file is among them, and so is a folder that is called like an image and holds none: opening
        it says what it is.

        :raises InputError: as :meth:`scan`.
        """
        found = dict(self.scan(name))
        filled = {folder for folder, files in found.items() if any(map(is_image, files))}
        for folder in list(filled):
            while (folder := folder.rpartition("/")[0]) and folder not in filled:
                filled.add(folder)
        for folder in found:
            above, _, last = folder.rpartition("/")
            if folder != name and is_image(last) and folder not in filled:
                found[above].append(last)
        for folder, files in sorted(found.items()):
            yield from (f"{folder}/{file}" if folder else file for file in sorted(files))

    def scan(self, name: str) -> Iterator[tuple[str, list[str]]]:
        """Yield each folder at or below *name* with the names of its files, in no particular order.

        :raises InputError: for a folder that cannot be read, a link that is not followed or leads round in a circle,
            folders too deep within each other, and names too long.
        """
        self._check_folder(name)
        waiting: list[tuple[str, tuple[str, ...]]] = [(name, (os.path.realpath(self.root / name),))]
        while waiting:
            folder, above = waiting.pop()
            files = []
            for entry in self.entries(folder):
                full = f"{folder}/{entry.name}" if folder else entry.name
                if 4 * len(full) > PATH_BYTES and len(os.fsencode(full)) > PATH_BYTES:
                    raise _too_long(self.root, full)
                if not is_folder_entry(entry):
                    if not self.skip_file(entry.name):
                        self._check_link(full, entry)
                        files.append(entry.name)
                elif not (self.junk_below and entry.name.lower() in JUNK):
                    waiting.append((full, self._entered(full, entry, above)))
            yield folder, files

    def _entered(self, name: str, entry: os.DirEntry[str], above: tuple[str, ...]) -> tuple[str, ...]:
        """Return the real paths of a folder and of all those it lies in."""
        linked = entry.is_symlink()
        if linked:
            self._check_folder(name)
        real = os.path.realpath(self.root / name) if linked else f"{above[-1]}/{entry.name}"
        if real in above:
            where = shortened(self.root / name)
            raise InputError("link leads round in a circle", where=where, found=f"a link to {real}", hint="remove it")
        if len(above) >= DEPTH:
            raise InputError(
                "folders are nested too deeply",
                where=shortened(self.root / name),
                allowed=f"at most {DEPTH} folders within each other",
                hint="give the folder in which the images lie",
            )
        return (*above, real)

    def _check_folder(self, name: str) -> None:
        if name and not self.follow and (self.root / name).is_symlink():
            raise InputError(
                "links to folders are not followed",
                where=shortened(self.root / name),
                allowed="real folders below the given one",
                hint=self.link_hint,
            )

    def _check_link(self, name: str, entry: os.DirEntry[str]) -> None:
        if entry.is_symlink() and not self.follow:
            try:
                inside(self.root, name)
            except InputError as error:
                error.hint = error.hint or self.link_hint
                raise


def is_folder_entry(entry: os.DirEntry[str]) -> bool:
    """Whether an entry of a folder is a folder, or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _too_long(root: Path, name: str) -> InputError:
    return InputError(
        "file name is too long",
        where=shortened(root),
        found=f"{len(os.fsencode(name)):,} bytes: {escape_name(name)}",
        allowed=f"{PATH_BYTES:,} bytes with its folders, {NAME_BYTES} for each",
        hint="rename the folders it lies in",
    )


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)

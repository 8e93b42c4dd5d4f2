"""Every reader on every kind of hostile input, in children with limits; see :mod:`sandbox` for what is watched."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from canary import MARK
from kinds import Kind, all_kinds, make
from readers import READERS, Reader, clear, put
from sandbox import Job, Limits, Result, run_jobs

WHOLE = ("trees", "special")  # families of what can stand in the place of a folder
HASHED = 1 << 22  # bytes of files whose content is compared, too; the state of larger ones says as much


class Hostile:
    """Rooms and kinds on disk, made once.

    :param folder: for all of it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rooms: dict[object, Path] = {}
        self.kinds: dict[str, Path] = {}

    def room(self, make_room: Callable[[Path], None]) -> Path:
        """Return a folder of valid input."""
        if make_room not in self.rooms:
            place = self.folder / "rooms" / str(len(self.rooms))
            place.parent.mkdir(parents=True, exist_ok=True)
            make_room(place)
            self.rooms[make_room] = place
        return self.rooms[make_room]

    def input(self, kind: Kind) -> Path | None:
        """Return where *kind* is; None where it is made anew in its place: a folder, or what is linked by its place."""
        if kind.family in WHOLE:
            return None
        name = str(kind)
        if name not in self.kinds:
            self.kinds[name] = make(kind, self.folder / "kinds" / str(len(self.kinds)))
        return self.kinds[name]

    def place(self, reader: Reader) -> Path:
        """Return the folder in which *reader* reads."""
        return self.folder / "at" / hashlib.sha256(reader.name.encode()).hexdigest()[:8]

    def run(self, pairs: Iterable[tuple[Reader, Kind]], limits: Limits | None = None) -> Iterator[Result]:
        """Yield the result of each pair; its name is that of the reader, a bar, and that of the kind."""
        jobs = [self._job(reader, kind) for reader, kind in pairs]
        MARK.unlink(missing_ok=True)
        before = {name: digest(path) for name, path in self.kinds.items()}
        try:
            yield from run_jobs(jobs, self.folder / "child", limits)
        finally:
            clear(self.folder / "at")
        for name, path in self.kinds.items():
            if digest(path) != before[name]:
                yield Result(f"any reader | {name}", "changed", "its content is another one")
        if MARK.exists():
            yield Result("any reader", "ran", f"{MARK} is there")

    def settled(self, reader: Reader) -> Reader:
        """Return *reader* with its slot spelled out, where that has a name that only the room knows."""
        if "*" not in reader.slot:
            return reader
        room = self.room(reader.room)
        (place,) = room.glob(reader.slot)
        return replace(reader, slot=place.relative_to(room).as_posix())

    def _job(self, reader: Reader, kind: Kind) -> Job:
        room, source = self.room(reader.room), self.input(kind)
        reader = self.settled(reader)
        place = self.place(reader)
        writes = (place,) if reader.adds else tuple(place / name for name in reader.writes)
        whole = place / reader.slot if reader.writes else place
        return Job(
            f"{reader.name} | {kind}",
            partial(read_watched, reader, place),
            partial(_prepare, reader, room, partial(_made, kind, source), place),
            kept=() if reader.adds else (whole,) if source is None else (source.parent, whole),
            free=writes,
        )


def _made(kind: Kind, source: Path | None, slot: Path) -> None:
    """Put *kind* at *slot*."""
    if source is not None:
        put(source, slot)
        return
    clear(slot)
    clear(slot.with_name(f"{slot.name}.links"))  # what one kind has beside it
    kind.build(slot)


def _prepare(reader: Reader, room: Path, make_input: Callable[[Path], object], place: Path) -> None:
    """Put the hostile input into a room, a fresh one where the last reading may have changed it."""
    slot = place / reader.slot
    place.parent.mkdir(parents=True, exist_ok=True)
    if reader.writes or reader.adds or slot == place or not place.is_dir() or place.is_symlink():
        clear(place)
        if slot != place:
            shutil.copytree(room, place, symlinks=True)
    make_input(slot)


def read_watched(reader: Reader, place: Path) -> None:
    """Read, and look for what would be there if anything had been run."""
    reader.read(place)
    if MARK.exists():
        MARK.unlink()
        raise AssertionError("something in the file was run")


def digest(path: Path) -> str:
    """Return what is at *path*: what kind of file, and for a regular one of moderate size, its content."""
    try:
        seen = path.lstat()
    except OSError as error:
        return str(error.errno)
    if stat.S_ISLNK(seen.st_mode):
        return f"link to {os.readlink(path)!r}"  # noqa: PTH115
    if stat.S_ISREG(seen.st_mode) and seen.st_size <= HASHED:
        return hashlib.sha256(path.read_bytes()).hexdigest() if os.access(path, os.R_OK) else "closed"
    return f"{stat.S_IFMT(seen.st_mode)} of {seen.st_size}"


def pairs(*, close: bool) -> list[tuple[Reader, Kind]]:
    """Return readers with kinds.

    :param close: only the families that are close to what a reader reads, and what is no file at all, for each; else
        all of them.
    """
    found = []
    for reader in READERS.values():
        for kind in all_kinds().values():
            is_folder = "trees" in reader.kin
            if is_folder and kind.family not in WHOLE:
                continue
            if not is_folder and kind.family == "trees":
                continue
            if not close or kind.family in (*reader.kin, "special"):
                found.append((reader, kind))
    return found

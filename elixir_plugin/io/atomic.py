"""Atomic writing: nothing half-written takes the place of a file or folder, and nothing half-written stays for ever.

What is under way has a name of its own, ``.NAME.xxxxxxxx.part`` beside NAME, and its process holds the lock on it. So
what a killed process has left can be told from what another one is just writing. It goes with the next writing of NAME,
or with :func:`remove_leftovers`.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from ..errors import RunError
from .holding import hold, open_folder

NAME_BYTES = 255  # the longest file name of common file systems
ATTEMPTS = 8  # where two processes get in each other's way
_PLAINLY = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
_ASIDE = ".old.part"  # ends the name of a folder that another one is just replacing
_LEFTOVER = re.compile(r"\.(?P<name>.+)\.[a-z0-9_]{8}(?P<aside>\.old)?\.part", re.DOTALL)


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


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path; it becomes *path* only when the block ends without an error."""
    with writing(path), _under_way(path, folder=False) as temporary:
        temporary.chmod(0o666 & ~_umask())
        yield temporary
        temporary.replace(path)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder; it replaces *path* only when the block ends without an error."""
    with writing(path), _under_way(path, folder=True) as temporary:
        temporary.chmod(0o777 & ~_umask())
        yield temporary
        _take_place(temporary, path)


@contextmanager
def atomic_files(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder; its files move to the same places in *folder* when the block ends without an error.

    Other files in *folder* stay. Each file is moved by itself, those in sub-folders first: then tables at the top never
    name a file that is not there yet.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with _under_way(folder / "elixir_plugin", folder=True) as temporary:
            temporary.chmod(0o777 & ~_umask())
            yield temporary
            files = sorted(path.relative_to(temporary) for path in temporary.rglob("*") if not path.is_dir())
            for parent in sorted({name.parent for name in files}):
                (folder / parent).mkdir(parents=True, exist_ok=True)
            for name in sorted(files, key=lambda name: (-len(name.parts), name)):
                (temporary / name).replace(folder / name)


def remove_leftovers(folder: Path, name: str | None = None) -> None:
    """Remove what atomic writing had under way in *folder* when it was killed; what is still under way stays.

    A folder that had been moved aside, and not been replaced yet, goes back to its place.

    :param name: of the file or folder that was written; None: whatever it was.
    """
    wanted = None if name is None else _hidden(name)
    try:
        with os.scandir(folder) as entries:
            names = sorted(each.name for each in entries if each.name.endswith(".part"))
    except FileNotFoundError:
        return
    for left in names:
        found = _LEFTOVER.fullmatch(left)
        if found is None or wanted not in (None, f".{found['name']}."):
            continue
        with ExitStack() as stack:
            if _take(folder / left, stack):
                place = folder / (name or found["name"])
                if found["aside"] and not os.path.lexists(place):
                    (folder / left).rename(place)
                else:
                    _discard(folder / left)


def is_leftover(name: str) -> bool:
    """Whether a file of this *name* is, or was, under way.

    >>> is_leftover(".report.json.k3_x9z0q.part"), is_leftover(".my.part")
    (True, False)
    """
    return _LEFTOVER.fullmatch(name) is not None


def refuse_unwritable(folder: Path) -> None:
    """Make sure that *folder* can be written or made, and leave no trace.

    :raises RunError: when it cannot.
    """
    parent = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    with writing(folder), tempfile.TemporaryFile(prefix=".elixir_plugin.", suffix=".part", dir=parent):
        pass


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold the lock on *folder* itself, which must be there, as soon as no other process does.

    :raises RunError: when it is no folder.
    """
    with writing(folder):
        handle = open_folder(folder.resolve())
    try:
        if handle is not None:
            hold(handle, wait=True)
        yield
    finally:
        if handle is not None:
            os.close(handle)


@contextmanager
def _under_way(path: Path, *, folder: bool) -> Iterator[Path]:
    """Yield a new file or folder beside *path*, locked; it is gone afterwards, if it has not become *path*."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent, path.name)
    with ExitStack() as stack:
        temporary = _made(path, folder, stack)
        try:
            yield temporary
        finally:
            stack.close()  # a process without a free handle could remove nothing
            with suppress(OSError):
                _discard(temporary)


def _made(path: Path, folder: bool, stack: ExitStack) -> Path:
    for _ in range(ATTEMPTS):
        if folder:
            name = tempfile.mkdtemp(prefix=_hidden(path.name), suffix=".part", dir=path.parent)
        else:
            handle, name = tempfile.mkstemp(prefix=_hidden(path.name), suffix=".part", dir=path.parent)
            os.close(handle)
        if _take(Path(name), stack):
            return Path(name)
    raise OSError(errno.EAGAIN, "another process removes what is written")  # it took it for a leftover each time


def _take(path: Path, stack: ExitStack) -> bool:
    """Hold the lock on the file or folder *path* as long as *stack*; return False when it is another's, or is gone."""
    try:
        handle = open_folder(path) if path.is_dir() else os.open(path, _PLAINLY)
    except OSError as error:
        return error.errno not in (errno.ENOENT, errno.EACCES, errno.EMFILE, errno.ENFILE)
    if handle is None:
        return True
    stack.callback(os.close, handle)
    return hold(handle, wait=False) and os.path.lexists(path) and os.path.samestat(os.fstat(handle), path.lstat())


def _hidden(name: str) -> str:
    """Return how the name of what becomes *name* begins; cut where the rest would not fit into a file name."""
    return f"{cut_name(f'.{name}', NAME_BYTES - 32)}."


def cut_name(name: str, room: int) -> str:
    """Return *name*, cut where it has more than *room* bytes."""
    whole = os.fsencode(name)
    return name if len(whole) <= room else whole[:room].decode(errors="ignore")


def _take_place(new: Path, path: Path) -> None:
    """Move *new* to *path*; what was there goes, or comes back where that fails."""
    aside = new.with_suffix(_ASIDE)
    with ExitStack() as stack:
        try:
            for attempt in range(ATTEMPTS):
                if os.path.lexists(path):
                    # moved aside first: there is nothing for the time of a rename, not of a removal
                    _take(path, stack)
                    path.replace(aside)
                try:
                    new.replace(path)
                except OSError as error:  # another process has put its own there meanwhile
                    if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or attempt == ATTEMPTS - 1:
                        raise
                    _discard(aside)
                else:
                    break
        finally:
            if os.path.lexists(aside):
                if os.path.lexists(path):
                    _discard(aside)
                else:
                    aside.replace(path)


def remove_folder(path: Path) -> bool:
    """Remove a folder as far as possible; return False for anything else, which stays: a FIFO would be waited for."""
    if not path.is_dir() or path.is_symlink():
        return False
    shutil.rmtree(path, ignore_errors=True)
    return True


def _discard(path: Path) -> None:
    if not remove_folder(path):
        path.unlink(missing_ok=True)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current

"""Files that one process at a time may work on.

``filelock`` does not serve: callers append to the very file they lock, which it opens for itself and in some versions
empties, it leaves its file behind, and a file system without locks, which is no reason to stop here, is an error to it.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

from .files import writing

if sys.platform != "win32":
    import fcntl

NO_SUPPORT = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENOLCK)


@contextmanager
def locked(path: Path, *, wait: bool) -> Iterator[FileIO | None]:
    """Hold the lock on *path*, which is made when missing, and yield it opened for appending.

    Yields None when another process holds the lock and *wait* is False.
    """
    with writing(path):
        file = path.open("ab", buffering=0)  # with a buffer, closing would write again what a full disk refused
    with file:
        with writing(path):
            free = _lock(file, wait)
        yield file if free else None


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold the lock on *path* as soon as no other process does; the file is made, and gone afterwards.

    :raises RunError: when it cannot be made.
    """
    if sys.platform == "win32":  # no such locks
        yield
        return
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    wait = False
    while True:
        with locked(path, wait=wait) as file:
            if file is None:
                logging.getLogger(__name__).warning("another process holds %s; waiting for it", path)
                wait = True
            elif os.fstat(file.fileno()).st_nlink:  # else the process before has removed it, and a new one may be held
                try:
                    yield
                finally:
                    with suppress(OSError):
                        path.unlink()
                return


def _lock(file: FileIO, wait: bool) -> bool:
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_SUPPORT:
            raise
    return True

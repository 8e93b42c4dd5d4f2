"""Files that one process at a time may work on."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from .storage import writing

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

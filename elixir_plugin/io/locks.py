"""Files that one process at a time may work on.

``filelock`` does not serve: callers append to the very file they lock, which it opens for itself and in some versions
empties, it leaves its file behind, and a file system without locks, which is no reason to stop here, is an error to it.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

from .atomic import writing
from .holding import hold
from .opening import without_waiting


@contextmanager
def locked(path: Path, *, wait: bool) -> Iterator[FileIO | None]:
    """Hold the lock on *path*, which is made when missing, and yield it opened for appending.

    Yields None when another process holds the lock and *wait* is False.
    """
    with writing(path):
        # without a buffer: closing would write again what a full disk refused
        file = open(path, "ab", buffering=0, opener=without_waiting)  # noqa: SIM115
    with file:
        with writing(path):
            free = hold(file.fileno(), wait=wait)
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

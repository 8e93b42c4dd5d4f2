"""The system's lock on an open file or folder; the system itself releases it when the process ends, however it does."""

from __future__ import annotations

import errno
import os
import sys

if sys.platform != "win32":
    import fcntl

NO_SUPPORT = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENOLCK)
_NO_FOLDERS = (*NO_SUPPORT, errno.EBADF)  # NFS locks only what is open for writing, and so no folder


def hold(handle: int, *, wait: bool) -> bool:
    """Take the lock on *handle* until it is closed; return False when another one holds it and *wait* is False.

    Where the file system or platform has no such locks, it counts as taken: that is no reason to stop.
    """
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_FOLDERS:
            raise
    return True


def open_folder(path: str | os.PathLike[str]) -> int | None:
    """Open a folder to :func:`hold` it; None on Windows, where that is not possible.

    :raises OSError: when it is not there, or no folder, but a link to one.
    """
    if sys.platform == "win32":
        return None
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)

"""How every file is opened for reading: it must be a regular file, and may be no larger than its kind ever is.

A FIFO in place of a file would make the reader wait for ever, a device might never end, and opening either can have
effects. So each file is opened without waiting, and looked at before anything is read from it. Both concern what was
opened, not its name, which may come to mean another file in between.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

from ..errors import InputError

TEXT_LIMIT = 64 * 2**20  # bytes; far above any list, log or settings file that is read as a whole
HOLES = 64 * 2**20  # bytes from which on a file is compared with what it occupies on the disk
HOLES_RATIO = 64
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO (named pipe)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_NO_WAIT = getattr(os, "O_NONBLOCK", 0)  # Windows has neither the flag nor FIFOs among its files


def open_file(path: Path) -> BinaryIO:
    """Open *path* for reading.

    :raises FileNotFoundError: when nothing is there, or a link that leads nowhere.
    :raises InputError: for anything but a regular file, and for one that cannot be opened.
    """
    try:
        handle = os.open(path, os.O_RDONLY | _NO_WAIT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise _cannot_open(path, error) from None
    try:
        _refuse_irregular(path, os.fstat(handle).st_mode)
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def without_waiting(path: str, flags: int) -> int:
    """Open what is written to, as the ``opener`` of :func:`open`; a FIFO, whose reader may never come, is refused.

    :raises InputError: for a FIFO or a socket.
    """
    try:
        handle = os.open(path, flags | _NO_WAIT | getattr(os, "O_CLOEXEC", 0), 0o666)
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.EOPNOTSUPP):
            raise _cannot_open(Path(path), error) from None
        raise
    mode = os.fstat(handle).st_mode
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
        os.close(handle)
        _refuse_irregular(Path(path), mode)
    return handle


def is_there(path: Path) -> bool:
    """Whether *path* is a file; what is there and is none, or cannot be looked at, is refused, not taken for absent.

    :raises InputError: for a folder, FIFO, socket or device, a loop of links, and a folder that may not be entered.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:
        raise _cannot_open(path, error) from None
    _refuse_irregular(path, mode)
    return True


def refuse_unusable(path: Path) -> None:
    """Refuse a path that the system takes for none, whether or not there is something.

    :raises InputError: for NUL, a name or path that is too long, a loop of links, what cannot be encoded, and a folder
        that may not be entered.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as error:
        raise _cannot_open(path, error, "not a usable path") from None


def refuse_holes(file: BinaryIO, path: Path) -> None:
    """Refuse a file that is nearly all holes: it takes memory by its size, and no room on the disk.

    :raises InputError: naming both sizes. File systems that do not tell what a file occupies are left alone.
    """
    status = os.fstat(file.fileno())
    occupied = 512 * getattr(status, "st_blocks", 0)
    if status.st_size > HOLES and 0 < occupied * HOLES_RATIO < status.st_size:
        raise InputError(
            "file is nearly all holes",
            where=path,
            found=f"{status.st_size:,} bytes, of which {occupied:,} are on the disk",
            allowed="files whose content is there",
            hint="a copy or download may have stopped halfway: fetch the file again",
        )


def read_bytes(path: Path, limit: int = TEXT_LIMIT) -> bytes:
    """Read the whole of *path*.

    :param limit: bytes it may have.
    :raises FileNotFoundError: when nothing is there.
    :raises InputError: when it is no regular file, larger, or cannot be read.
    """
    with open_file(path) as file:
        try:
            size = os.fstat(file.fileno()).st_size
            # takes memory for all that is asked for; None where reading would wait, as some files of the kernel do
            content = file.read(min(size, limit) + 1) or b""
            if size < len(content) <= limit:  # it has grown meanwhile
                content += file.read(limit + 1 - len(content)) or b""
        except OSError as error:
            raise _cannot_open(path, error) from None
    if len(content) > limit:
        raise InputError(
            "file is too large", where=path, found=f"more than {limit:,} bytes", allowed=f"{limit:,} bytes"
        )
    return content


def read_text(path: Path, limit: int = TEXT_LIMIT, encoding: str = "utf-8") -> str:
    """Read *path* as text; any of the usual line ends becomes one newline.

    :param limit: bytes it may have.
    :raises FileNotFoundError: when nothing is there.
    :raises InputError: as :func:`read_bytes`, and for bytes that are no text.
    """
    content = read_bytes(path, limit)
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise InputError(
            "file is not text", where=path, found=f"{error.reason} at byte {error.start:,}", allowed="UTF-8"
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _refuse_irregular(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise InputError(
            "not a regular file",
            where=path,
            found=_KINDS.get(stat.S_IFMT(mode), "something else"),
            allowed="a file, or a link to one",
            hint="put the file itself there",
        )


def _cannot_open(path: Path, error: OSError | ValueError, what: str = "file cannot be read") -> InputError:
    if isinstance(error, OSError) and error.errno in (errno.ENXIO, errno.EOPNOTSUPP):  # what opening a socket gives
        return InputError("not a regular file", where=path, found="a socket or device", allowed="a file")
    found = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return InputError(what, where=path, found=found)

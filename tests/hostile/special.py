"""What is no regular file, in the place of one: it may wait for ever, never end, or lead elsewhere."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

from canary import MARK


def fifo(path: Path) -> None:
    os.mkfifo(path)


def unix_socket(path: Path) -> None:
    """Bind a socket: its path may be no longer than 107 bytes, so it is made in its own folder."""
    here = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(path.name)
    finally:
        os.chdir(here)


def device(path: Path, number: tuple[int, int], name: str) -> None:
    """Make a device where the user may, else a link to one."""
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(*number))
        path.open("rb").close()
    except OSError:
        path.unlink(missing_ok=True)
        path.symlink_to(name)


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def long_chain(path: Path) -> None:
    """A chain of links that is longer than any system follows."""
    folder = path.with_name(f"{path.name}.links")
    folder.mkdir()
    for number in range(60):
        (folder / str(number)).symlink_to(folder / str(number + 1))
    path.symlink_to(folder / "0")


def sparse(path: Path) -> None:
    """A file of a terabyte that takes no room on the disk."""
    with path.open("wb") as file:
        file.truncate(1 << 40)


def sparse_after(head: bytes, size: int = 1 << 36) -> Callable[[Path], None]:
    def build(path: Path) -> None:
        path.write_bytes(head)
        with path.open("r+b") as file:
            file.truncate(size)

    return build


def forbidden(path: Path) -> None:
    path.write_bytes(b"secret")
    path.chmod(0)


def folder(path: Path) -> None:
    path.mkdir()


def folder_of_folders(path: Path) -> None:
    (path / "a" / "b").mkdir(parents=True)


def closed_folder(path: Path) -> None:
    path.mkdir()
    (path / "x").write_bytes(b"")
    path.chmod(0)


def linked(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


KINDS: dict[str, Callable[[Path], None]] = {
    "fifo": fifo,
    "socket": unix_socket,
    "device without end": lambda path: device(path, (1, 5), "/dev/zero"),
    "device of random bytes": lambda path: device(path, (1, 9), "/dev/urandom"),
    "device that is empty": lambda path: device(path, (1, 3), "/dev/null"),
    "device that is full": lambda path: device(path, (1, 7), "/dev/full"),
    "link to a device": linked("/dev/zero"),
    "link to the terminal": linked("/dev/tty"),
    "link to itself": loop,
    "chain of links": long_chain,
    "link to nothing": linked("nothing"),
    "link to a folder": linked("/usr"),
    "link to the root": linked("/"),
    "link up": linked(".."),
    "link out": linked("/etc/hostname"),
    "link to a process": linked("/proc/self/mem"),
    "link to the kernel": linked("/proc/kmsg"),
    "link to a file of no size": linked("/proc/self/maps"),
    "link to the mark": linked(str(MARK)),
    "terabyte of nothing": sparse,
    "png of 64 gigabytes": sparse_after(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x08\0\0\0\x08\x08\x02\0\0\0"),
    "zip of 64 gigabytes": sparse_after(b"PK\x03\x04"),
    "pickle of 64 gigabytes": sparse_after(b"\x80\x02"),
    "safetensors of 64 gigabytes": sparse_after((1 << 35).to_bytes(8, "little") + b"{"),
    "npy of 64 gigabytes": sparse_after(b"\x93NUMPY\x02\0\xff\xff\xff\x7f{"),
    "json of 64 gigabytes": sparse_after(b"["),
    "yaml of 64 gigabytes": sparse_after(b"a: "),
    "without permission": forbidden,
    "folder": folder,
    "folder of folders": folder_of_folders,
    "folder without permission": closed_folder,
}

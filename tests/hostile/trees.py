"""Folders whose names, depth, numbers or links are the trouble; what is in them is sound."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import rooms
from image_bytes import plain

Build = Callable[[Path], None]
SOUND = plain("PNG")


def holding(*names: bytes | str) -> Build:
    """Return what makes files of these names, with an image in each; folders in them are made."""

    def build(path: Path) -> None:
        path.mkdir()
        _fill(path, names)

    return build


def classes(names: Iterable[bytes | str], count: int = 2) -> Build:
    """Return what makes class folders of these names, beside ``cat``."""

    def build(path: Path) -> None:
        path.mkdir()
        places = [os.fsencode(name) for name in ("cat", *names)]
        _fill(path, [place + b"/%d.png" % number for place in places for number in range(count)])

    return build


def _fill(path: Path, names: Iterable[bytes | str]) -> None:
    root = os.fsencode(path)
    for name in names:
        place = root + b"/" + os.fsencode(name)
        os.makedirs(os.path.dirname(place), exist_ok=True)  # noqa: PTH103, PTH120  (bytes)
        with open(place, "wb") as file:  # noqa: PTH123
            file.write(SOUND)


def nested(depth: int, end: str = "0.png") -> Build:
    """Return what makes so many folders in each other; from some depth on, no path is short enough to name them."""

    def build(path: Path) -> None:
        path.mkdir()
        (path / "cat").mkdir()
        (path / "cat" / "0.png").write_bytes(SOUND)
        here = os.open(".", os.O_RDONLY)
        try:
            os.chdir(path)
            for _ in range(depth):
                os.mkdir("d")  # noqa: PTH102
                os.chdir("d")
            Path(end).write_bytes(SOUND)
        finally:
            os.fchdir(here)
            os.close(here)

    return build


def changed(change: Callable[[Path], object]) -> Build:
    """Return what makes class folders, and then changes them."""

    def build(path: Path) -> None:
        rooms.class_folders(path, 2)
        change(path)

    return build


def _loop(path: Path) -> None:
    (path / "cat" / "again").symlink_to(path)


def _two_loops(path: Path) -> None:
    (path / "cat" / "a").symlink_to(path / "dog")
    (path / "dog" / "b").symlink_to(path / "cat")


def _many_folders(path: Path) -> None:
    for number in range(3000):
        (path / f"class{number}").mkdir()


def _many_files(path: Path) -> None:
    first = path / "cat" / "0.png"
    for number in range(3000):
        os.link(first, path / "dog" / f"x{number}.png")


def _member(name: str) -> Build:
    """Return what puts something that is no file, from the kinds in ``special``, among images."""

    def change(path: Path) -> None:
        from special import KINDS as special

        special[name](path / "dog" / "9.png")

    return changed(change)


KINDS: dict[str, Build] = {
    "empty folder": lambda path: path.mkdir(),
    "file in place of a folder": lambda path: path.write_bytes(SOUND),
    "empty class": changed(lambda path: (path / "emu").mkdir()),
    "one class": holding("cat/0.png"),
    "names not of utf-8": holding(b"cat/\xff\xfe.png", b"dog/\x80.png"),
    "class not of utf-8": classes([b"\xff\xfe"]),
    "names of control characters": holding("cat/a\x1b[2J.png", "dog/b\r\n\x07.png"),
    "class of control characters": classes(["\x1b]0;x\x07"]),
    "class of a line break": classes(["a\nb"]),
    "names of bidirectional marks": holding("cat/\u202egnp.exe.png", "dog/\u2066x.png"),
    "class of bidirectional marks": classes(["\u202etac"]),
    "names of 255 bytes": holding("cat/" + "a" * 251 + ".png", "dog/" + "é" * 125 + ".png"),
    "class of 255 bytes": classes(["a" * 255]),
    "class of 254 bytes": classes(["ü" * 127]),
    "names that begin with a dot": holding("cat/.a.png", "dog/.b.png"),
    "names of blanks": holding("cat/ .png", "dog/  .png", " /x.png"),
    "class of one blank": classes([" "]),
    "names of flags": holding("cat/-rf.png", "dog/--help.png"),
    "class of flags": classes(["--out=x"]),
    "names of formulas": holding("cat/=cmd|x.png", "dog/@SUM(A1).png"),
    "class of a formula": classes(["=1+1"]),
    "names of shell": holding("cat/$(touch x).png", "dog/`id`;.png"),
    "class of shell": classes(["$(id)"]),
    "class of html": classes(["<script>alert(1)<"]),
    "class of a mark of ours": classes(["{option:x}"]),
    "class of braces": classes(["{0.__class__}"]),
    "class of percent": classes(["%s%n%d"]),
    "class of windows": classes(["CON", "nul", "a:b"]),
    "class of backslashes": classes(["..\\..\\x"]),
    "classes of one name but case": classes(["Cat", "CAT"]),
    "classes of one name but form": classes(["caf\u00e9", "cafe\u0301"]),
    "classes that are numbers": holding("1/0.png", "01/0.png", "1e0/0.png"),
    "classes of huge numbers": holding("9" * 250 + "/0.png", "8" * 250 + "/0.png"),
    "classes of other digits": holding("\u0661/0.png", "\u00b2/0.png"),
    "class of zero width": classes(["\u200b", "\ufeff"]),
    "splits in splits": holding("train/train/cat/0.png", "train/train/dog/0.png", "train/test/cat/0.png"),
    "images beside classes": changed(lambda path: (path / "x.png").write_bytes(SOUND)),
    "other files beside images": changed(lambda path: (path / "cat" / "x.txt").write_text("x")),
    "40 folders in each other": nested(40),
    "900 folders in each other": nested(900),
    "1,500 folders in each other": nested(1500),
    "5,000 folders in each other": nested(5000),
    "link into itself": changed(_loop),
    "links into each other": changed(_two_loops),
    "link to nothing": changed(lambda path: (path / "cat" / "x.png").symlink_to("gone")),
    "class that is a link to the root": changed(lambda path: (path / "emu").symlink_to("/")),
    "class that is a link to itself": changed(lambda path: (path / "emu").symlink_to("emu")),
    "image that is a link out": changed(lambda path: (path / "cat" / "x.png").symlink_to("/etc/hostname")),
    "image that is a folder": changed(lambda path: (path / "cat" / "x.png").mkdir()),
    "class without permission": changed(lambda path: (path / "dog").chmod(0)),
    "image without permission": changed(lambda path: (path / "cat" / "0.png").chmod(0)),
    "3,000 classes": changed(_many_folders),
    "3,000 images": changed(_many_files),
    "fifo among images": _member("fifo"),
    "socket among images": _member("socket"),
    "device among images": _member("device without end"),
    "terabyte among images": _member("terabyte of nothing"),
}

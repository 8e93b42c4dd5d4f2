"""One folder per class: what lies in them, in which order the classes come, and what is no class at all."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import InputError, preview_list
from ...io.files import inside
from ...io.images import JUNK, SUFFIXES
from ...io.text import escape_name

JUNK_FILES = {"thumbs.db", "ehthumbs.db", "desktop.ini"}
OTHER_FORMATS = (  # files that surely are images, and that torchvision's ImageFolder passes over too
    ".apng", ".avif", ".dng", ".gif", ".heic", ".heif", ".ico", ".jfif", ".jp2", ".jpe", ".jxl", ".pbm", ".pnm", ".psd",
    ".svg", ".tga",
)  # fmt: skip
LINK_HINT = "move or copy what the link points to"


@dataclass(frozen=True)
class ClassFolders:
    """Class folders as they lie on disk; all names are relative to :attr:`root`, with forward slashes.

    :param files: class folder -> its images; both in the order of torchvision's ``ImageFolder``.
    :param ignored: files that are not images.
    :param other_formats: image files of formats that are not read.
    :param loose: images that are in no class folder.
    :param junk: folders that were passed over.
    """

    root: Path
    files: Mapping[str, tuple[str, ...]]
    ignored: tuple[str, ...] = ()
    other_formats: tuple[str, ...] = ()
    loose: tuple[str, ...] = ()
    junk: tuple[str, ...] = ()

    @property
    def filled(self) -> tuple[str, ...]:
        """The class folders that hold an image."""
        return tuple(name for name, files in self.files.items() if files)


@dataclass(frozen=True)
class Listing:
    """Image files, class by class.

    :param classes: names of the classes, in the order of the labels.
    :param names: file names relative to :attr:`root`, with forward slashes.
    :param labels: position of each file's class in :attr:`classes`.
    """

    root: Path
    classes: tuple[str, ...]
    names: tuple[str, ...]
    labels: tuple[int, ...]

    @property
    def paths(self) -> list[Path]:
        return [self.root / name for name in self.names]


def list_images(root: Path, what: str = "image folder") -> Listing:
    """Find the images in ``root/<class>/…`` in the order of torchvision's ``ImageFolder``; empty class folders count.

    :raises InputError: as :func:`class_folders` does.
    """
    folders = class_folders(root, what, junk_below=False)
    return arranged(folders, tuple(folders.files))


def arranged(folders: ClassFolders, classes: Sequence[str]) -> Listing:
    """List the images of *folders* class by class, in the order of *classes*, which names each folder with an image."""
    names: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = folders.files.get(name, ())
        names += found
        labels += [label] * len(found)
    return Listing(folders.root, tuple(classes), tuple(names), tuple(labels))


def class_folders(
    root: Path,
    what: str = "image folder",
    *,
    skip: Collection[str] = (),
    follow_links: bool = False,
    junk_below: bool = True,
    link_hint: str = LINK_HINT,
) -> ClassFolders:
    """Look through ``root/<class>/…``.

    Hidden files and folders are passed over, and so is known junk.

    :param what: how to call the folder in a message.
    :param skip: names of folders that are no classes.
    :param follow_links: follow links to folders, and to files outside of *root*.
    :param junk_below: pass over junk inside class folders too.
    :param link_hint: what to do about a link that is not followed.
    :raises InputError: when there is no image in any class folder, a folder cannot be read, a link leads out of *root*
        or to a folder, or round in a circle.
    """
    if not root.is_dir():
        raise InputError(f"{what} not found", where=root, allowed="a folder with one sub-folder per class")
    walk = _Walk(root.resolve(), follow_links, junk_below, link_hint)
    top = walk.entries("")
    folders = sorted(entry.name for entry in top if _is_folder(entry) and entry.name not in skip)
    found = {name: list(walk.below(name)) for name in folders if name.lower() not in JUNK}
    files = {name: tuple(file for file in found[name] if _is_image(file)) for name in found}
    others = [file for name in found for file in found[name] if not _is_image(file)]
    loose = sorted(entry.name for entry in top if not _is_folder(entry) and entry.name.lower() not in JUNK_FILES)
    others += [name for name in loose if not _is_image(name)]
    scan = ClassFolders(
        root=walk.root,
        files=files,
        ignored=tuple(sorted(name for name in others if not name.lower().endswith(OTHER_FORMATS))),
        other_formats=tuple(sorted(name for name in others if name.lower().endswith(OTHER_FORMATS))),
        loose=tuple(name for name in loose if _is_image(name)),
        junk=tuple(name for name in folders if name.lower() in JUNK),
    )
    if not scan.filled:
        images = f", {len(scan.loose)} images beside each other" if scan.loose else ""
        raise InputError(
            f"no images in {what}",
            where=root,
            found=f"{len(files)} class folders, {len(others)} other files{images}",
            allowed=f"<class>/<file> with one of {', '.join(SUFFIXES)}",
            hint="sort the images into one folder per class"
            if scan.loose
            else "check the path: it must be the folder that holds the class folders",
        )
    return scan


def visible_folders(root: Path) -> list[str]:
    """Return the names of the folders in *root* that may be classes or splits, sorted."""
    entries = _Walk(root, True, True, "").entries("")
    return sorted(entry.name for entry in entries if _is_folder(entry) and entry.name.lower() not in JUNK)


def holds_images(folder: Path, *, follow_links: bool, link_hint: str = LINK_HINT) -> tuple[bool, bool]:
    """Tell whether images lie in *folder* itself, and whether any lie in its sub-folders."""
    walk = _Walk(folder.resolve(), follow_links, True, link_hint)
    top = walk.entries("")
    direct = any(_is_image(entry.name) for entry in top if not _is_folder(entry))
    inner = (entry.name for entry in top if _is_folder(entry) and entry.name.lower() not in JUNK)
    return direct, any(_is_image(file) for name in inner for _, files in walk.scan(name) for file in files)


def left_out(folders: ClassFolders) -> list[str]:
    """Return notes on what lies in the folder and is not read."""
    name, found = escape_name(folders.root.name), []
    if folders.junk:
        found.append(f"{name}: folders that are no classes were left out: {named(folders.junk)}")
    if folders.ignored:
        count = len(folders.ignored)
        found.append(f"{name}: {count} files are not images and were ignored: {named(folders.ignored)}")
    if folders.loose:
        found.append(
            f"{name}: {len(folders.loose)} images are in no class folder and were left out: {named(folders.loose)}"
        )
    if folders.other_formats:
        count = len(folders.other_formats)
        found.append(
            f"{name}: {count} image files of formats that are not read, as in torchvision, were left out: "
            f"{named(folders.other_formats)}"
        )
    return found


def named(names: Sequence[str], limit: int = 3) -> str:
    """Return the first of *names*, safe to show."""
    return preview_list([escape_name(name) for name in names], limit)


@dataclass(frozen=True)
class _Walk:
    root: Path
    follow: bool
    junk_below: bool
    link_hint: str

    def entries(self, name: str) -> list[os.DirEntry[str]]:
        """Return what is visible in a folder."""
        try:
            with os.scandir(self.root / name) as entries:
                return [entry for entry in entries if not entry.name.startswith(".")]
        except OSError as error:
            raise InputError("folder cannot be read", where=self.root / name, found=error.strerror) from None

    def below(self, name: str) -> Iterator[str]:
        """Yield all files below a folder: by folder name, then by file name, as torchvision sorts them."""
        for folder, files in sorted(self.scan(name), key=lambda item: item[0]):
            yield from (f"{folder}/{file}" for file in sorted(files))

    def scan(self, name: str, above: tuple[str, ...] = ()) -> Iterator[tuple[str, list[str]]]:
        """Yield each folder at or below *name*, the inner ones first, with the names of its files."""
        path = self.root / name
        if path.is_symlink() and not self.follow:
            raise InputError(
                "links to folders are not followed",
                where=path,
                allowed="real folders below the given one",
                hint=self.link_hint,
            )
        real = os.path.realpath(path)
        if real in above:
            raise InputError("link leads round in a circle", where=path, found=f"a link to {real}", hint="remove it")
        files = []
        for entry in self.entries(name):
            if _is_folder(entry):
                if not (self.junk_below and entry.name.lower() in JUNK):
                    yield from self.scan(f"{name}/{entry.name}", (*above, real))
            elif entry.name.lower() not in JUNK_FILES and not _is_special(entry):
                self._check_link(name, entry)
                files.append(entry.name)
        yield name, files

    def _check_link(self, name: str, entry: os.DirEntry[str]) -> None:
        if entry.is_symlink() and not self.follow:
            try:
                inside(self.root, f"{name}/{entry.name}")
            except InputError as error:
                error.hint = error.hint or self.link_hint
                raise


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_special(entry: os.DirEntry[str]) -> bool:
    """Whether this is a pipe, a socket or a device: one may wait without end for such a file."""
    try:
        return not stat.S_ISREG(entry.stat().st_mode)
    except OSError:  # a link that leads nowhere: an image that is missing
        return False


def _is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)

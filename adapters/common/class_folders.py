"""One folder per class: what lies in them, in which order the classes come, and what is no class at all."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import InputError, preview_list
from ...io.folders import LINK_HINT, Walk, is_folder, is_folder_entry, is_image
from ...io.images import JUNK, SUFFIXES
from ...io.text import escape_name

JUNK_FILES = {"thumbs.db", "ehthumbs.db", "desktop.ini"}
OTHER_FORMATS = (  # files that surely are images, and that torchvision's ImageFolder passes over too
    ".apng", ".avif", ".dng", ".gif", ".heic", ".heif", ".ico", ".jfif", ".jp2", ".jpe", ".jxl", ".pbm", ".pnm", ".psd",
    ".svg", ".tga",
)  # fmt: skip


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
    :raises InputError: when there is no image in any class folder, a folder cannot be read or is nested too deeply, a
        name is too long, a link leads out of *root* or to a folder, or round in a circle.
    """
    if not is_folder(root):
        raise InputError(f"{what} not found", where=root, allowed="a folder with one sub-folder per class")
    walk = _walk(root, follow_links, junk_below, link_hint)
    top = walk.entries("")
    folders = sorted(entry.name for entry in top if is_folder_entry(entry) and entry.name not in skip)
    found = {name: list(walk.below(name)) for name in folders if name.lower() not in JUNK}
    files = {name: tuple(file for file in found[name] if is_image(file)) for name in found}
    others = [file for name in found for file in found[name] if not is_image(file)]
    loose = sorted(entry.name for entry in top if not is_folder_entry(entry) and entry.name.lower() not in JUNK_FILES)
    others += [name for name in loose if not is_image(name)]
    scan = ClassFolders(
        root=walk.root,
        files=files,
        ignored=tuple(sorted(name for name in others if not name.lower().endswith(OTHER_FORMATS))),
        other_formats=tuple(sorted(name for name in others if name.lower().endswith(OTHER_FORMATS))),
        loose=tuple(name for name in loose if is_image(name)),
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
    entries = Walk(root).entries("")
    return sorted(entry.name for entry in entries if is_folder_entry(entry) and entry.name.lower() not in JUNK)


def holds_images(folder: Path, *, follow_links: bool, link_hint: str = LINK_HINT) -> tuple[bool, bool]:
    """Tell whether images lie in *folder* itself, and whether any lie in its sub-folders."""
    walk = _walk(folder, follow_links, link_hint=link_hint)
    top = walk.entries("")
    direct = any(is_image(entry.name) for entry in top if not is_folder_entry(entry))
    inner = (entry.name for entry in top if is_folder_entry(entry) and entry.name.lower() not in JUNK)
    return direct, any(is_image(file) for name in inner for _, files in walk.scan(name) for file in files)


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


def _walk(root: Path, follow_links: bool, junk_below: bool = True, link_hint: str = LINK_HINT) -> Walk:
    return Walk(root.resolve(), follow_links, junk_below, link_hint, lambda name: name.lower() in JUNK_FILES)

"""What the folders in a folder are: the classes of one set, or splits (``train``, ``test``, …) with classes in them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ...errors import InputError
from ...io.folders import LINK_HINT, is_folder
from .class_folders import holds_images, named, visible_folders

Layout = Literal["classes", "splits"]
SPLITS = {
    "train": "train", "training": "train", "clean": "clean", "test": "test", "testing": "test",
    "val": "val", "valid": "val", "validation": "val",
}  # fmt: skip


@dataclass(frozen=True)
class Splits:
    """The splits in a folder.

    :param folders: ``train``, and ``clean``, ``test`` and ``val`` where they are there -> the folder.
    :param others: names of folders that are none of them.
    """

    folders: dict[str, Path]
    others: tuple[str, ...]


def find_splits(
    path: Path, layout: Layout | None, *, skip: Collection[str] = (), follow_links: bool, link_hint: str = LINK_HINT
) -> Splits | None:
    """Tell splits from classes; None: the folders in *path* are the classes of one set.

    Folders are splits when they are called so, in any case, and class folders with images lie in them, and no other
    folder beside them holds an image.

    :param layout: what they are, where the user says it.
    :param skip: names of folders that are neither.
    :raises InputError: when they could be either, one split is there twice, or there is no training split.
    """
    if layout == "classes" or not is_folder(path):
        return None
    names = [name for name in visible_folders(path) if name not in skip]
    splits = [name for name in names if name.casefold() in SPLITS]
    if not splits and layout is None:
        return None
    held = {name: holds_images(path / name, follow_links=follow_links, link_hint=link_hint) for name in names}
    others = tuple(name for name in names if name not in splits)
    if layout is None:
        nested = [name for name in splits if held[name][1]]
        strangers = [name for name in others if any(held[name])]
        flat = [name for name in splits if held[name][0]]
        if not nested and (others or not flat):
            return None
        if not nested:
            raise _two_readings(
                path,
                f"{named(flat)}: called like splits, but without class folders",
                "class folders in each split",
            )
        if strangers:
            found = f"{named(nested)}: splits by name, with class folders; beside them {named(strangers)}"
            raise _two_readings(path, found, "splits alone, or classes alone")
    folders: dict[str, Path] = {}
    for name in splits:
        role = SPLITS[name.casefold()]
        if role in folders:
            raise InputError(
                "one split in two folders", where=path, found=named([folders[role].name, name]), allowed="one of them"
            )
        folders[role] = path / name
    if "train" not in folders:
        raise _two_readings(path, f"{named(splits) or 'no split'}, but no folder train", "a folder train")
    return Splits(folders, others)


def _two_readings(path: Path, found: str, allowed: str) -> InputError:
    return InputError(
        "folders that could be classes or splits",
        where=path,
        found=found,
        allowed=allowed,
        hint="say what they are, {option:layout=classes} or {option:layout=splits}, or give the folder of one set",
    )

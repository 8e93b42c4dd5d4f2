"""Names of classes, taken from folders or from a file: which there are, and in which order."""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from ...core.classes import checked_count
from ...core.classifier.classifier import Classifier
from ...errors import InputError, preview_list
from ...io.documents import parse_json
from ...io.files import NAME_BYTES
from ...io.folders import is_file_name
from ...io.opening import read_text
from ...io.text import escape_name
from .class_folders import ClassFolders, named

Order = Literal["number", "text"]


def choose_classes(
    found: Mapping[str, ClassFolders],
    file: Path | None,
    order: Order | None,
    model: Classifier | None,
    notes: list[str],
) -> tuple[str, ...]:
    """Return the names of the classes in the order of the labels, and note what a reader should know about them.

    :param found: name of a set -> its class folders; ``train`` is the suspect set.
    :param file: where the user names the classes; see :func:`read_class_names`.
    :param order: see :func:`in_order`.
    :param model: the suspect model: it may know of classes that have no image.
    :raises InputError: when the sets have different class folders, one has no image in any of them, or there is one
        class alone.
    """
    suspect = found["train"]
    if file is not None:
        classes = read_class_names(file)
        _refuse_unwritable(classes, file)
        for folders in found.values():
            _refuse_unnamed(folders, classes, file, notes)
    else:
        for folders in found.values():
            _refuse_other_classes(folders, suspect)
        if len(suspect.files) < 2:
            raise _one_class(suspect)
        classes, told = in_order(suspect.files, order, suspect.root)
        if told:
            notes.append(
                f"classes are in the order of their numbers, {named(classes, 12)}; torchvision sorts them as text: "
                f"{named(sorted(classes), 4)} (options class_order=text, classes=FILE)"
            )
        _refuse_empty(found, classes, model)
    if empty := [name for name in classes if not suspect.files.get(name)]:
        notes.append(f"{escape_name(suspect.root.name)}: classes without an image: {named(empty, 12)}")
    if pairs := look_alikes(classes):
        both = named([f"{one} and {other}" for one, other in pairs])
        notes.append(f"names that differ in case or Unicode form alone are taken for different classes: {both}")
    return classes


def in_order(names: Iterable[str], order: Order | None, where: Path) -> tuple[tuple[str, ...], bool]:
    """Return class names in order, and whether that order is neither asked for nor that of torchvision.

    :param order: ``number``, and by default: names that are all whole numbers come by their value. ``text``: as
        torchvision sorts them.
    :raises InputError: for two names of one number.
    """
    text = tuple(sorted(names))
    if order == "text" or not all(re.fullmatch(r"-?[0-9]+", name) for name in text):
        return text, False
    by_number = tuple(sorted(text, key=int))
    for one, other in itertools.pairwise(by_number):
        if int(one) == int(other):
            raise InputError(
                "two class folders name one number",
                where=where,
                found=f"{one} and {other}",
                allowed="one folder per class",
                hint="join the two, or take them for two classes with {option:class_order=text}",
            )
    return by_number, order is None and by_number != text


def read_class_names(file: Path) -> tuple[str, ...]:
    """Read the names of the classes, in the order of the labels: one per line in UTF-8, or a JSON list.

    :raises InputError: when the file cannot be read, or holds fewer than two names, a name twice, or no folder name.
    """
    try:
        text = read_text(file, encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError("file not found", where=file) from None
    as_json = text.lstrip()[:1] in ("[", "{")
    names = parse_json(text, where=file) if as_json else [line.strip() for line in text.splitlines() if line.strip()]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError("not a list of class names", where=file, allowed="one name per line, or a JSON list of text")
    checked_count(len(names), str(file))
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    odd = [name for name in names if "/" in name or "\0" in name or name in ("", ".", "..")]
    if twice or odd or len(names) < 2:
        found = f"twice: {preview_list(twice)}" if twice else repr(odd[0]) if odd else f"{len(names)} names"
        raise InputError(
            "not a list of class names", where=file, found=found, allowed="at least two distinct folder names"
        )
    return tuple(names)


def look_alikes(names: Iterable[str]) -> list[tuple[str, str]]:
    """Return pairs of names that differ in case or Unicode form alone: many systems take them for one name."""
    seen: dict[str, str] = {}
    pairs = []
    for name in sorted(names):
        first = seen.setdefault(folded(name), name)
        if first != name:
            pairs.append((first, name))
    return pairs


def folded(name: str) -> str:
    """Return *name* as systems that know neither case nor Unicode forms compare it."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _refuse_unwritable(classes: Iterable[str], file: Path) -> None:
    """Refuse names that no folder can have: results are sorted into folders of these names."""
    for name in classes:
        if not is_file_name(name):
            raise InputError(
                "not a name of a folder",
                where=file,
                found=escape_name(name),
                allowed=f"at most {NAME_BYTES} bytes of text",
                hint="give the class a shorter name, without characters that no file name has",
            )


def _refuse_other_classes(folders: ClassFolders, suspect: ClassFolders) -> None:
    odd = sorted(folders.files.keys() ^ suspect.files.keys())
    if odd:
        alike = look_alikes(odd)
        raise InputError(
            "class folders differ from those of the suspect set",
            where=folders.root,
            found=f"only on one side: {named(odd, 10)}",
            allowed=f"the {len(suspect.files)} class folders of {suspect.root}; they may be empty",
            hint=f"{alike[0][0]} and {alike[0][1]} differ in case or Unicode form alone: give them one name"
            if alike
            else "name all classes with {option:classes=FILE} where a set lacks some",
        )


def _refuse_unnamed(folders: ClassFolders, classes: Sequence[str], file: Path, notes: list[str]) -> None:
    """Refuse class folders that the list of classes does not name; such folders without an image are only noted."""
    known = set(classes)
    odd = [name for name in folders.files if name not in known]
    if filled := [name for name in odd if folders.files[name]]:
        raise InputError(
            "class folders that are not in the list of classes",
            where=folders.root,
            found=named(filled, 10),
            allowed=f"the {len(classes)} names in {file}",
        )
    if odd:
        notes.append(
            f"{escape_name(folders.root.name)}: folders that were left out, as they are in no list: {named(odd)}"
        )


def _refuse_empty(found: Mapping[str, ClassFolders], classes: Sequence[str], model: Classifier | None) -> None:
    """Refuse folders that may be no classes: without an image in any set, and unknown to the model."""
    empty = [name for name in classes if not any(folders.files.get(name) for folders in found.values())]
    if model is not None and (
        len(classes) == model.num_classes if model.classes is None else set(empty) <= set(model.classes)
    ):
        return
    if empty:
        raise InputError(
            "class folders without an image",
            where=found["train"].root,
            found=f"{named(empty, 10)} ({len(empty)} of {len(classes)})",
            allowed="an image of every class in one of the sets, or a model with these classes",
            hint="remove the folders, or name the classes that count with {option:classes=FILE}",
        )


def _one_class(suspect: ClassFolders) -> InputError:
    (name,) = suspect.files
    nested = all(file.count("/") > 1 for file in suspect.files[name])
    return InputError(
        "only one class folder",
        where=suspect.root,
        found=escape_name(name),
        allowed="a folder with at least two class folders",
        hint=f"if the class folders are those in it, give {suspect.root / name}"
        if nested
        else "sort the images into one folder per class, or name classes without images with {option:classes=FILE}",
    )

"""Writing class folders of images: whole sets, and what a defense changed."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ...core.case import Case
from ...core.classifier.classifier import Classifier
from ...core.images import ImageSet
from ...core.pixels import to_bytes
from ...errors import InputError
from ...io.files import NAME_BYTES, write_csv
from ...io.folders import PATH_BYTES, is_file_name
from ...io.images import JUNK
from ...io.text import escape_cell
from .class_names import folded, in_order, look_alikes
from .images import different, inexact, save_png
from .results import Unreadable

CLASSES_FILE = "classes.json"
HEADER = ("name", "old label", "new label", "image changed", "file")


def write_changes(
    before: ImageSet, after: ImageSet, classes: Sequence[str], folder: Path, lost: Sequence[Unreadable] = ()
) -> list[Path]:
    """Write ``<class>/<stem>.png`` for every sample that changed, and ``changes.csv``, which lists them.

    :param folder: one that takes its place when all is written.
    :param classes: names of the classes, in the order of the labels.
    :param lost: samples that could not be read; the table then has a column for the reason.
    """
    names = before.names or [f"{classes[label]}/{position:06d}" for position, label in enumerate(before.labels)]
    stems = Counter(folded(_stem(name)) for name in names)
    written: list[Path] = []
    rows: list[tuple[int, list[Any]]] = []
    for part, old in before.chunks():
        new = after.read(part)
        repainted = different(old, new)
        for offset, position in enumerate(range(part.start, part.stop)):
            label, new_label = int(before.labels[position]), int(after.labels[position])
            if not repainted[offset] and label == new_label:
                continue
            sample = int(before.ids[position])
            stem = _free_stem(names[position], None if label == new_label else classes[new_label], sample, stems)
            written.append(folder / f"{stem}.png")
            written[-1].parent.mkdir(parents=True, exist_ok=True)
            save_png(to_bytes(new[offset]), written[-1])
            cells = [names[position], classes[label], classes[new_label], bool(repainted[offset]), f"{stem}.png"]
            rows.append((sample, [*cells, ""] if lost else cells))
    rows += [(each.index, [each.name, classes[each.label], "", "", "", each.reason]) for each in lost]
    cells_of = [[escape_cell(cell) if isinstance(cell, str) else cell for cell in row] for _, row in sorted(rows)]
    write_csv(folder / "changes.csv", [*HEADER, "unreadable"] if lost else HEADER, cells_of)
    return [*written, folder / "changes.csv"]


def class_names(case: Case) -> list[str]:
    """Return folder names for the classes: the names they have, where these can be names of folders, else numbers."""
    if case.train is None:
        raise InputError("no suspect set", where="case", allowed="a case with a suspect set")
    parts = (case.train, case.clean, case.test, case.model)
    named = next((each.classes for each in parts if each is not None and each.classes is not None), ())
    given = [str(name) for name in named or case.origin.facts.get("classes", ())]
    if len(given) == case.num_classes and all(map(_is_folder_name, given)) and not look_alikes(given):
        return given
    digits = len(str(case.num_classes - 1))
    return [f"{label:0{digits}}" for label in range(case.num_classes)]


def renamed(model: Classifier, classes: Sequence[str]) -> Classifier:
    """Return *model*, or a copy without names of classes where these are not those of the folders."""
    if model.classes is None or list(model.classes) == list(classes):
        return model
    copy = model.clone()
    copy.classes = None
    return copy


def needs_class_names(classes: Sequence[str], sets: Iterable[ImageSet]) -> bool:
    """Tell whether class folders alone do not say which classes there are, and in which order."""
    try:
        alone, _ = in_order(classes, None, Path())
    except InputError:  # two names of one number
        return True
    present = {int(label) for images in sets for label in np.unique(images.labels)}
    return list(alone) != list(classes) or len(present) < len(classes)


def write_images(images: ImageSet, classes: Sequence[str], folder: Path) -> None:
    """Write ``<class>/<name>.png`` for all samples, so that they are read back in this order; 8 bits per value."""
    names = _file_names(images, classes)
    for name in classes:
        (folder / name).mkdir(parents=True)
    rounded = 0
    for part, pixels in images.chunks():
        rounded += int(inexact(pixels).sum())
        for name, image in zip(names[part], to_bytes(pixels), strict=True):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            save_png(image, folder / name)
    if rounded:
        logging.getLogger(__name__).warning(
            "%s: %d images had finer steps than the 8 bits of this format, and were rounded", folder.name, rounded
        )


def _file_names(images: ImageSet, classes: Sequence[str]) -> list[str]:
    """Return the samples' own names where reading them back gives the same order, else numbers."""
    own = [f"{_stem(name)}.png" for name in images.names or ()]
    at_home = all(name.startswith(f"{classes[label]}/") for name, label in zip(own, images.labels, strict=False))
    plain = all(is_file_name(part) and part[0] != "." for name in own for part in name.split("/"))
    plain &= all(4 * len(name) <= PATH_BYTES or len(os.fsencode(name)) <= PATH_BYTES for name in own if plain)
    if own and at_home and plain and len(set(own)) == len(own) and own == sorted(own, key=_reading_order):
        return own
    digits = len(str(max(0, len(images) - 1)))
    return [f"{classes[label]}/{position:0{digits}}.png" for position, label in enumerate(images.labels)]


def _reading_order(name: str) -> tuple[str, str]:
    """Return what ``list_images`` sorts by: the folder, then the file."""
    folder, _, file = name.rpartition("/")
    return folder, file


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def _is_folder_name(name: str) -> bool:
    plain = name.isprintable() and name == name.strip() and "/" not in name
    return plain and name[:1] not in ("", ".") and len(os.fsencode(name)) <= NAME_BYTES and name.lower() not in JUNK


def _free_stem(name: str, new_class: str | None, sample: int, stems: Counter[str]) -> str:
    """Return where to put a sample, below its *new_class* if it has one, without meeting another sample.

    :param stems: how many samples have a stem, as systems that do not know case compare them; kept up to date.
    """
    stem = _stem(name)
    if new_class is None and stems[folded(stem)] == 1:
        return stem
    if new_class is not None:
        stem = str(PurePosixPath(new_class, *PurePosixPath(stem).parts[1:]))
    tail = ""
    while stems[folded(found := _with_tail(stem, tail))]:
        tail += f"-{sample}"
    stems[folded(found)] += 1
    return found


def _with_tail(stem: str, tail: str) -> str:
    """Return *stem* with *tail* behind it, cut where a file name would become too long."""
    folder, _, file = stem.rpartition("/")
    room = NAME_BYTES - len(f"{tail}.png")
    whole = os.fsencode(file)
    file = file if len(whole) <= room else whole[:room].decode(errors="ignore")
    return f"{folder}/{file}{tail}"

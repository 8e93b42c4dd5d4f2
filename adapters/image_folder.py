"""Class folders of image files, the layout of torchvision's ``ImageFolder``."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from ..adapter import Adapter, Source
from ..core.case import Case, Origin
from ..core.images import ImageSet
from ..core.metrics import Evaluation
from ..core.outcome import Outcome
from ..core.pixels import to_bytes
from ..errors import InputError, preview_list
from ..io.files import atomic_file, atomic_folder, write_csv
from ..io.images import image_shape
from .common.images import Listing, different, eager_or_lazy, file_reader, in_threads, inexact, list_images, save_png
from .common.results import save_model, write_suspects
from .common.suspect import ModelOptions, suspect_model

EAGER_BYTES = 1 << 30


class ImageFolderOptions(ModelOptions):
    """How to read image folders.

    :param clean: folder with the reserved clean set; default: ``<path>/clean`` when the suspect set is in
        ``<path>/train``.
    :param test: folder with clean test images; default: ``<path>/test``, likewise.
    :param size: edge length to resize to; default: all images have the same size already.
    :param channels: 3 for colour, 1 for grey.
    """

    added: ClassVar[Mapping[str, Any]] = {**ModelOptions.added}

    clean: Path | None = None
    test: Path | None = None
    size: int | None = Field(None, ge=8, le=4096)
    channels: Literal[1, 3] = 3


class ImageFolder(Adapter):
    """``<path>/<class>/<file>``, or ``<path>/train/<class>/<file>`` with ``clean`` and ``test`` beside ``train``.

    Classes are the folder names in sorted order; ``names`` are file names relative to the folder of the suspect set.
    Up to 1 GiB of pixels is decoded at once. In a larger set every file's header is checked, and a file is decoded
    when it is used.
    """

    name = "image_folder"
    Options = ImageFolderOptions
    options: ImageFolderOptions

    def read(self, path: Path, seed: int = 0) -> Case:
        """Read the suspect set at *path*, and the reserved clean set, the test set and the model where given."""
        split = _is_split(path)
        notes: list[str] = []
        suspect = list_images(path / "train" if split else path)
        folders = {"clean": self.options.clean, "test": self.options.test}
        if split:
            folders = {name: folder or _if_there(path / name) for name, folder in folders.items()}
        listings = {"train": suspect}
        for name, folder in folders.items():
            if folder is not None:
                listings[name] = _same_classes(list_images(folder, f"{name} set"), suspect)
        edge = (self.options.size,) * 2 if self.options.size else _common_size(list(listings.values()))
        sets = {name: self._set(listing, edge, notes) for name, listing in listings.items()}
        model = suspect_model(self.options, sets["train"].read(slice(0, 2)), notes, len(suspect.classes))
        return Case(
            train=sets["train"],
            clean=sets.get("clean"),
            test=sets.get("test"),
            model=model,
            origin=Origin(self.name, str(path), {"classes": list(suspect.classes)}),
            notes=tuple(notes),
        )

    def write(self, case: Case, outcome: Outcome, evaluation: Evaluation, folder: Path, defense: str) -> list[Path]:
        """Write what the outcome holds.

        - ``model/``: the model, as a saved Classifier.
        - ``<class>/<stem>.png`` and ``changes.csv``: images that changed, under their new class. A number is added to
          a name that another sample has already. Float pixels are rounded to 8 bits.
        - ``suspects.csv``: score, flag and whether the sample is kept, for every suspect sample.
        """
        written = []
        if outcome.model is not None:
            written.append(save_model(outcome.model, folder))
        if case.train is not None and outcome.train is not None:
            classes = case.origin.facts.get("classes") or [str(label) for label in range(case.num_classes)]
            written += _write_changes(case.train, outcome.train, list(classes), folder)
        return [*written, *write_suspects(case.train, outcome, folder)]

    def export(self, case: Case, folder: Path) -> Source:
        """Write ``train/<class>/<file>.png``, ``clean`` and ``test`` likewise, and the model as a saved Classifier.

        Files keep their names where these keep their order; else they are numbered, so that reading them gives the
        samples class by class. The format has no place for the truth and for triggered test samples.
        """
        classes = _class_names(case)
        with atomic_folder(folder) as part:
            for name, images in (("train", case.train), ("clean", case.clean), ("test", case.test)):
                if images is not None:
                    _write_images(images, classes, part / name)
            options: dict[str, Any] = {}
            if case.model is not None:
                options["model"] = str(folder / save_model(case.model, part).name)
        if case.truth is not None or case.test_poisoned is not None:
            logging.getLogger(__name__).warning("truth and triggered test samples have no place in image folders")
        channels = next((each.image_shape[2] for each in (case.train, case.clean, case.test) if each is not None), 3)
        if channels == 1:
            options["channels"] = 1
        return Source(adapter=self.name, path=str(folder), options=options)

    def _set(self, listing: Listing, size: tuple[int, int], notes: list[str]) -> ImageSet:
        if listing.ignored:
            named = preview_list(listing.ignored, 3)
            notes.append(f"{listing.root.name}: {len(listing.ignored)} files are not images and were ignored: {named}")
        shape = (*size, self.options.channels)
        resize = size if self.options.size else None
        read = file_reader(listing.paths, self.options.channels, resize=resize, shape=shape)
        images = eager_or_lazy(read, len(listing.names), shape, EAGER_BYTES)
        if resize and not isinstance(images, np.ndarray):
            _check_headers(listing)
        return ImageSet(images, listing.labels, len(listing.classes), listing.names)


def _is_split(path: Path) -> bool:
    """Tell ``<path>/train/<class>/…`` from a class that happens to be called "train"."""
    train = path / "train"
    return train.is_dir() and any(entry.is_dir() and entry.name[0] != "." for entry in train.iterdir())


def _if_there(folder: Path) -> Path | None:
    return folder if folder.is_dir() else None


def _same_classes(listing: Listing, suspect: Listing) -> Listing:
    if listing.classes != suspect.classes:
        other = sorted(set(listing.classes) ^ set(suspect.classes))
        raise InputError(
            "class folders differ from those of the suspect set",
            where=listing.root,
            found=f"only on one side: {', '.join(other[:10])}",
            allowed=f"the {len(suspect.classes)} class folders of {suspect.root}; they may be empty",
        )
    return listing


def _check_headers(listing: Listing) -> None:
    for _ in in_threads(image_shape, listing.paths):
        pass


def _common_size(listings: list[Listing]) -> tuple[int, int]:
    """Return the one ``(H, W)`` of all images, from their headers."""
    paths = [path for listing in listings for path in listing.paths]
    sizes = Counter((height, width) for height, width, _ in in_threads(image_shape, paths))
    if len(sizes) > 1:
        counts = ", ".join(f"{height}×{width}: {n}" for (height, width), n in sizes.most_common(5))
        raise InputError(
            "images of mixed size",
            where=listings[0].root,
            found=counts + (", …" if len(sizes) > 5 else ""),
            allowed="one size for all images",
            hint="let them be resized, e.g. with {option:size=64}",
        )
    return next(iter(sizes))


def _write_changes(before: ImageSet, after: ImageSet, classes: list[str], folder: Path) -> list[Path]:
    names = before.names or [f"{classes[label]}/{position:06d}" for position, label in enumerate(before.labels)]
    stems = Counter(_stem(name) for name in names)
    written: list[Path] = []
    rows: list[list[Any]] = []
    for part, old in before.chunks():
        new = after.read(part)
        repainted = different(old, new)
        for offset, position in enumerate(range(part.start, part.stop)):
            label, new_label = int(before.labels[position]), int(after.labels[position])
            if not repainted[offset] and label == new_label:
                continue
            stem = _free_stem(names[position], None if label == new_label else classes[new_label], position, stems)
            written.append(folder / f"{stem}.png")
            with atomic_file(written[-1]) as temporary:
                save_png(to_bytes(new[offset]), temporary)
            rows.append([names[position], classes[label], classes[new_label], bool(repainted[offset]), f"{stem}.png"])
    write_csv(folder / "changes.csv", ["name", "old label", "new label", "image changed", "file"], rows)
    return [*written, folder / "changes.csv"]


def _class_names(case: Case) -> list[str]:
    """Return folder names whose sorted order is that of the labels."""
    if case.train is None:
        raise InputError("no suspect set", where="case", allowed="a case with a suspect set")
    given = [str(name) for name in case.origin.facts.get("classes", ())]
    if len(given) == case.num_classes and given == sorted(given):
        return given
    digits = len(str(case.num_classes - 1))
    return [f"{label:0{digits}}" for label in range(case.num_classes)]


def _write_images(images: ImageSet, classes: list[str], folder: Path) -> None:
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


def _file_names(images: ImageSet, classes: list[str]) -> list[str]:
    """Return the samples' own names where reading them back gives the same order, else numbers."""
    own = [f"{_stem(name)}.png" for name in images.names or ()]
    at_home = all(name.startswith(f"{classes[label]}/") for name, label in zip(own, images.labels, strict=False))
    plain = not any(part.startswith(".") for name in own for part in PurePosixPath(name).parts)
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


def _free_stem(name: str, new_class: str | None, position: int, stems: Counter[str]) -> str:
    """Return where to put a sample, below its *new_class* if it has one, without meeting another sample."""
    stem = _stem(name)
    if new_class is None and stems[stem] == 1:
        return stem
    if new_class is not None:
        stem = str(PurePosixPath(new_class, *PurePosixPath(stem).parts[1:]))
    while stems[stem]:
        stem += f"-{position}"
    stems[stem] += 1
    return stem

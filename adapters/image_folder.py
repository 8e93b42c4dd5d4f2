"""Class folders of image files, the layout of torchvision's ``ImageFolder``."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from ..adapter import Adapter, Source
from ..core.case import Case, Origin
from ..core.classifier.intake import examined
from ..core.images import ImageSet
from ..core.metrics import Evaluation
from ..core.outcome import Outcome
from ..errors import InputError
from ..io.files import atomic_files, atomic_folder, write_json
from ..io.folders import is_folder
from ..io.images import Header, image_header
from ..io.text import escape_control, escape_name
from .common.class_folders import ClassFolders, Listing, arranged, class_folders, left_out, visible_folders
from .common.class_names import Order, choose_classes, folded
from .common.folder_files import (
    CLASSES_FILE,
    class_names,
    needs_class_names,
    renamed,
    write_changes,
    write_images,
)
from .common.folder_layout import Layout, find_splits
from .common.images import attempts, decoded, file_reader
from .common.results import Unreadable, save_model, write_suspects
from .common.suspect import ModelOptions, suspect_model

EAGER_BYTES = 1 << 30
FOLLOW = "let links be followed with {option:follow_symlinks=true}, if you know where they lead; or copy the files"


class ImageFolderOptions(ModelOptions):
    """How to read image folders.

    :param clean: folder with the reserved clean set; default: the folder `clean` beside `train`, if there are splits.
    :param test: folder with clean test images; default: the folder `test` beside `train`, likewise.
    :param size: edge length to resize to; default: all images have the same size already.
    :param channels: 3 for colour, 1 for grey.
    :param layout: what the folders in the path are, where their names leave it open: the `classes` of one set, or
        `splits` such as `train` and `test` with class folders in them.
    :param class_order: order of the classes: by `number`, where all names are whole numbers, or as `text`, as
        torchvision sorts them; default: `number`, and a note where the two differ.
    :param classes: file with the names of the classes in the order of the labels, one per line or as a JSON list; a
        class without a folder has no samples.
    :param exif: `transpose` turns images upright as their EXIF orientation says; `ignore` reads them as stored, as
        torchvision does, and a note says so.
    :param unreadable: `refuse` images that cannot be decoded, or `skip` them: then they keep their position, and their
        row in the tables.
    :param follow_symlinks: follow links that lead out of the folder, and links to folders.
    """

    added: ClassVar[Mapping[str, Any]] = {
        **ModelOptions.added,
        "layout": None,
        "class_order": None,
        "classes": None,
        "exif": "ignore",
        "unreadable": "refuse",
        "follow_symlinks": False,
    }

    clean: Path | None = None
    test: Path | None = None
    size: int | None = Field(None, ge=8, le=4096)
    channels: Literal[1, 3] = 3
    layout: Layout | None = None
    class_order: Order | None = None
    classes: Path | None = None
    exif: Literal["ignore", "transpose"] = "ignore"
    unreadable: Literal["refuse", "skip"] = "refuse"
    follow_symlinks: bool = False


class ImageFolder(Adapter):
    """``<path>/<class>/<file>``, or ``<path>/train/<class>/<file>`` with ``clean`` and ``test`` beside ``train``.

    Classes are the folder names, sorted as numbers where all are whole numbers, else as text; ``names`` are file names
    relative to the folder of the suspect set. Up to 1 GiB of pixels is decoded at once; the images of a larger set are
    decoded when they are used, and once before, so that all damaged files are found before any work starts.
    """

    name = "image_folder"
    Options = ImageFolderOptions
    options: ImageFolderOptions

    def read(self, path: Path, seed: int = 0) -> Case:
        """Read the suspect set at *path*, and the reserved clean set, the test set and the model where given.

        :raises InputError: for what cannot be read, and for folders that can be read in two ways.
        """
        notes: list[str] = []
        found = self._folders(path, notes)
        model = suspect_model(self.options, None, notes, channels=self.options.channels)
        classes = choose_classes(found, self.options.classes, self.options.class_order, model, notes)
        listings = {name: arranged(folders, classes) for name, folders in found.items()}
        sets, faults = self._decode(listings, notes)
        if model is not None:
            model = examined(model, sets["train"].read(slice(0, 2)))
        lost = [
            Unreadable(row, listings["train"].names[row], listings["train"].labels[row], reason)
            for row, reason in faults.get("train", {}).items()
        ]
        facts: dict[str, Any] = {"classes": list(classes)}
        if lost:
            facts["unreadable"] = [vars(each) for each in lost]
        return Case(
            train=sets["train"],
            clean=sets.get("clean"),
            test=sets.get("test"),
            model=model,
            origin=Origin(self.name, str(path), facts),
            notes=tuple(notes),
        )

    def write(self, case: Case, outcome: Outcome, evaluation: Evaluation, folder: Path, defense: str) -> list[Path]:
        """Write what the outcome holds.

        - ``model/``: the model, as a saved Classifier.
        - ``<class>/<stem>.png`` and ``changes.csv``: images that changed, under their new class. A number is added to
          a name that another sample has already. Float pixels are rounded to 8 bits.
        - ``suspects.csv``: score, flag and whether the sample is kept, for every suspect sample.

        All of it is written beside its place first, and moved there when it is complete.

        Samples that were left out because they cannot be read have a row with the reason in both tables. Names are
        written as :func:`~elixir_plugin.io.text.escape_cell` makes them safe.
        """
        lost = [Unreadable(**each) for each in case.origin.facts.get("unreadable", ())]
        with atomic_files(folder) as part:
            written = []
            if outcome.model is not None:
                written.append(save_model(outcome.model, part))
            if case.train is not None and outcome.train is not None:
                classes = case.origin.facts.get("classes") or [str(label) for label in range(case.num_classes)]
                written += write_changes(case.train, outcome.train, list(classes), part, lost)
            written += write_suspects(case.train, outcome, part, lost)
        return [folder / path.relative_to(part) for path in written]

    def export(self, case: Case, folder: Path) -> Source:
        """Write ``train/<class>/<file>.png``, ``clean`` and ``test`` likewise, and the model as a saved Classifier.

        Files keep their names where these keep their order; else they are numbered, so that reading them gives the
        samples class by class. Classes without an image anywhere are named in ``classes.json``, and so is an order of
        the classes that is not that of their names. The format has no place for the truth and for triggered test
        samples.
        """
        classes = class_names(case)
        sets = {"train": case.train, "clean": case.clean, "test": case.test}
        present = {name: images for name, images in sets.items() if images is not None}
        options: dict[str, Any] = {}
        with atomic_folder(folder) as part:
            for name, images in present.items():
                write_images(images, classes, part / name)
            if needs_class_names(classes, present.values()):
                write_json(part / CLASSES_FILE, classes)
                options["classes"] = str(folder / CLASSES_FILE)
            if case.model is not None:
                options["model"] = str(folder / save_model(renamed(case.model, classes), part).name)
        if case.truth is not None or case.test_poisoned is not None:
            logging.getLogger(__name__).warning("truth and triggered test samples have no place in image folders")
        channels = next((each.image_shape[2] for each in present.values()), 3)
        if channels == 1:
            options["channels"] = 1
        return Source(adapter=self.name, path=str(folder), options=options)

    def _folders(self, path: Path, notes: list[str]) -> dict[str, ClassFolders]:
        """Find the class folders of each set, and note what is left out."""
        given = {"clean": self.options.clean, "test": self.options.test}
        for each in (path, *given.values(), self.options.model):
            if each is not None:
                is_folder(each)  # what cannot be looked at is refused; what is not there, where it is read
        taken = [each.resolve() for each in (*given.values(), self.options.model) if each is not None]
        skip = [each.name for each in taken if each.parent == path.resolve()]  # neither classes nor splits
        follow = self.options.follow_symlinks
        splits = find_splits(path, self.options.layout, skip=skip, follow_links=follow, link_hint=FOLLOW)
        beside = {} if splits is None else splits.folders
        found = {"train": self._scan(beside.get("train", path), "image folder", skip)}
        unused = [] if splits is None else [f"{escape_name(name)} (no split)" for name in splits.others]
        for name in ("clean", "test"):
            folder = given[name] or beside.get(name)
            if folder is None:
                continue
            if given[name] is None and name == "test" and not _shares_a_class(folder, found["train"]):
                unused.append(f"{folder.name} (no class folder of the suspect set in it)")
                continue
            if given[name] is not None and name in beside:
                unused.append(f"{beside[name].name} (option {name} names another folder)")
            found[name] = self._scan(folder, f"{name} set")
        if "val" in beside:
            unused.append(f"{beside['val'].name} (options clean and test can name it)")
        if unused:
            notes.append(f"{escape_name(path.resolve().name)}: folders that were left out: {', '.join(unused)}")
        for folders in found.values():
            notes += left_out(folders)
        return found

    def _scan(self, folder: Path, what: str, skip: Sequence[str] = ()) -> ClassFolders:
        follow = self.options.follow_symlinks
        return class_folders(folder, what, skip=skip, follow_links=follow, link_hint=FOLLOW)

    def _decode(
        self, listings: Mapping[str, Listing], notes: list[str]
    ) -> tuple[dict[str, ImageSet], dict[str, dict[int, str]]]:
        """Decode all sets; also return which images cannot be read, and why: position in the listing -> reason."""
        upright = self.options.exif == "transpose"
        headers = {name: list(attempts(image_header, listing.paths)) for name, listing in listings.items()}
        edge = (self.options.size,) * 2 if self.options.size else _common_size(listings, headers, upright)
        sets: dict[str, ImageSet] = {}
        faults: dict[str, dict[int, str]] = {}
        for name, listing in listings.items():
            errors = {row: each for row, each in enumerate(headers[name]) if isinstance(each, InputError)}
            rows = [row for row in range(len(listing.names)) if row not in errors]
            shape = (*edge, self.options.channels)
            resize = edge if self.options.size else None
            read = file_reader(listing.paths, self.options.channels, resize=resize, shape=shape, upright=upright)
            images, sound, more = decoded(read, rows, shape, EAGER_BYTES)
            errors |= more
            if errors:
                faults[name] = {row: _why(errors[row]) for row in sorted(errors)}
            labels = np.array(listing.labels, np.int64)[sound]
            names = [listing.names[row] for row in sound]
            ids = sound if errors else None
            sets[name] = ImageSet(images, labels, len(listing.classes), names, ids, classes=listing.classes)
        self._refuse_unreadable(listings, faults, notes)
        if not upright:
            notes += _turned(listings, headers)
        return sets, faults

    def _refuse_unreadable(
        self, listings: Mapping[str, Listing], faults: Mapping[str, Mapping[int, str]], notes: list[str]
    ) -> None:
        """Refuse images that cannot be read, or note that they are left out."""
        if not faults:
            return
        rows = [(name, row) for name, found in faults.items() for row in found]
        suffix = {name: "" if name == "train" else f" ({name} set)" for name in faults}
        said = [f"{escape_name(listings[name].names[row])}{suffix[name]}: {faults[name][row]}" for name, row in rows]
        total = sum(len(listing.names) for listing in listings.values())
        lost = [name for name, found in faults.items() if len(found) == len(listings[name].names)]
        if self.options.unreadable == "refuse" or lost:
            raise InputError(
                f"{len(said)} of {total} image files cannot be decoded",
                where=listings["train"].root,
                found="; ".join(said[:10]) + (f"; and {len(said) - 10} more" if said[10:] else ""),
                allowed=f"a readable image in the {lost[0]} set" if lost else None,
                hint="restore or remove them, or leave them out with {option:unreadable=skip}",
            )
        notes.append(
            f"{len(said)} of {total} image files cannot be read and were left out (option unreadable=skip): "
            + "; ".join(said[:3])
            + (f"; and {len(said) - 3} more" if said[3:] else "")
        )


def _shares_a_class(folder: Path, suspect: ClassFolders) -> bool:
    known = {folded(name) for name in suspect.files}
    return any(folded(name) in known for name in visible_folders(folder))


def _why(error: InputError) -> str:
    """Return why an image cannot be read, in one line without its path."""
    parts = [error.what, error.found, error.allowed]
    return escape_control(": ".join(str(part) for part in parts if part is not None)).replace("\n", " ")


def _turned(listings: Mapping[str, Listing], headers: Mapping[str, Sequence[Header | InputError]]) -> list[str]:
    """Return a note on images that their EXIF orientation would turn or mirror."""
    turned = [
        listings[name].names[row]
        for name, found in headers.items()
        for row, header in enumerate(found)
        if isinstance(header, Header) and header.orientation != 1
    ]
    if not turned:
        return []
    return [
        f"{len(turned)} images have an EXIF orientation, which is ignored, as torchvision does: first "
        f"{escape_name(turned[0])} (option exif=transpose turns them upright)"
    ]


def _common_size(
    listings: Mapping[str, Listing], headers: Mapping[str, Sequence[Header | InputError]], upright: bool
) -> tuple[int, int]:
    """Return the one ``(H, W)`` of all images whose header can be read."""
    sizes = Counter(each.size(upright) for found in headers.values() for each in found if isinstance(each, Header))
    if len(sizes) > 1:
        counts = ", ".join(f"{height}×{width}: {n}" for (height, width), n in sizes.most_common(5))
        raise InputError(
            "images of mixed size",
            where=listings["train"].root,
            found=counts + (", …" if len(sizes) > 5 else ""),
            allowed="one size for all images",
            hint="let them be resized, e.g. with {option:size=64}",
        )
    return next(iter(sizes), (1, 1))

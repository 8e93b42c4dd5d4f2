"""An adapter: reads a format into a case, writes results, and writes whole cases."""

import logging
from pathlib import Path

import numpy as np

from elixir_plugin import Case, Classifier, ImageSet, Truth
from elixir_plugin.adapter import Adapter
from elixir_plugin.case import Origin
from elixir_plugin.config import Source
from elixir_plugin.errors import InputError
from elixir_plugin.storage import atomic_folder, write_csv

PARTS = ("train", "clean", "test")


class PixelTables(Adapter):
    """A folder with ``train.csv``, ``clean.csv``, ``test.csv``, ``truth.csv`` and ``model/``, each optional.

    The first row of a table is ``height,width,channels,classes``, every other one a label and uint8 pixels; a row of
    ``truth.csv`` is 0 or 1 (poison) and the label before the attack.
    """

    name = "pixel_tables"

    def read(self, path: Path, seed: int = 0) -> Case:
        sets = {part: _read(path / f"{part}.csv") for part in PARTS if (path / f"{part}.csv").is_file()}
        if not sets:
            raise InputError("no tables", where=path, allowed=", ".join(f"{part}.csv" for part in PARTS))
        truth = None
        if (path / "truth.csv").is_file():
            rows = _numbers(path / "truth.csv")
            truth = Truth(rows[:, 0] == 1, original_labels=rows[:, 1])
        model = Classifier.load(path / "model") if (path / "model").is_dir() else None
        return Case(**sets, model=model, truth=truth, origin=Origin(self.name, str(path)))

    def write(self, case, outcome, evaluation, folder, defense):
        written = []
        if outcome.model is not None:
            with atomic_folder(folder / "model") as part:
                outcome.model.save(part)
            written.append(folder / "model")
        if outcome.flagged is not None:
            write_csv(folder / "flagged.csv", ["flagged"], outcome.flagged.astype(int)[:, None].tolist())
            written.append(folder / "flagged.csv")
        return written

    def export(self, case: Case, folder: Path) -> Source:
        if case.test_poisoned is not None:
            logging.getLogger(__name__).warning("pixel_tables has no place for triggered test samples")
        with atomic_folder(folder) as part:
            for name in PARTS:
                if (samples := getattr(case, name)) is not None:
                    _write(part / f"{name}.csv", samples)
            if case.truth is not None:
                original = case.train.labels if case.truth.original_labels is None else case.truth.original_labels
                rows = np.stack([case.truth.poison.astype(int), original], 1).tolist()
                write_csv(part / "truth.csv", rows[0], rows[1:])
            if case.model is not None and case.model.architecture is not None:
                case.model.save(part / "model")
        return Source(adapter=self.name, path=str(folder))


def _read(path: Path) -> ImageSet:
    shape, *rows = _ragged(path)
    if len(shape) != 4:
        raise InputError("no shape", where=f"{path}: row 1", found=shape, allowed="height,width,channels,classes")
    height, width, channels, classes = shape
    pixels = height * width * channels
    for number, row in enumerate(rows, start=2):
        if len(row) != pixels + 1 or not all(0 <= value <= 255 for value in row[1:]):
            raise InputError("not an image", where=f"{path}: row {number}", allowed=f"a label and {pixels} of 0..255")
    table = np.array(rows, np.int64).reshape(len(rows), pixels + 1)
    images = table[:, 1:].astype(np.uint8).reshape(-1, height, width, channels)
    return ImageSet(images, table[:, 0], classes)


def _write(path: Path, samples: ImageSet) -> None:
    images = samples.read(slice(None))
    if images.dtype != np.uint8:
        raise InputError("pixels would be rounded", where=path.name, found=images.dtype, allowed="uint8")
    rows = np.concatenate([samples.labels[:, None], images.reshape(len(images), -1)], 1)
    write_csv(path, [*samples.image_shape, samples.num_classes], rows.tolist())


def _ragged(path: Path) -> list[list[int]]:
    try:
        return [[int(cell) for cell in line.split(",")] for line in path.read_text(encoding="utf-8").split()]
    except (OSError, ValueError) as error:
        raise InputError("not a table of integers", where=path, found=str(error)) from None


def _numbers(path: Path) -> np.ndarray:
    rows = _ragged(path)
    if any(len(row) != 2 or row[0] not in (0, 1) for row in rows):
        raise InputError("not a truth", where=path, allowed="rows of 0 or 1 and a label")
    return np.array(rows, np.int64)

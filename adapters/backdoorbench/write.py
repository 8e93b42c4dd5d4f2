"""Writing ``attack_result.pt`` of BackdoorBench, with its PNG files, and the toolkit's table of detections."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...core.case import Case
from ...core.images import Images, ImageSet, Index
from ...core.outcome import Outcome
from ...core.pixels import to_bytes
from ...errors import InputError
from ...evaluation.metrics import confusion
from ...io.files import atomic_file, atomic_folder, write_torch
from ...io.opening import is_there, read_bytes
from ...io.text import escape_cell
from ..common.images import different, inexact, save_png
from .record import FILE, Held

SUFFIX = ".png"
DETECTION = ("record", "TN", "FP", "FN", "TP", "TPR", "FPR", "target")


@dataclass(frozen=True)
class Head:
    """Everything of a record but its two sets."""

    model_name: str
    num_classes: int
    weights: Mapping[str, Any]
    data_path: str
    dataset: str
    shape: tuple[int, int, int]
    train_size: int
    test_size: int


@dataclass
class _Store:
    """Where changed images go: PNG files beside the record, named as BackdoorBench opens them, or into the record.

    :param folder: where files are written.
    :param named: the same folder as seen from the root of the checkout, or None: keep images in the record.
    """

    folder: Path
    named: str | None
    held: dict[int, Any] = field(default_factory=dict)

    @classmethod
    def make(cls, record: Path, named: str | None, name: str) -> _Store:
        return cls(record / name, None if named is None else f"{named}/{name}")

    def add(self, index: int, image: NDArray[np.uint8], label: int, original: int) -> None:
        if self.named is None:
            self.held[index] = (Image.fromarray(image), label, original)
            return
        name = f"{original}/{index}{SUFFIX}"
        target = self.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        save_png(image, target)
        self.held[index] = {"path": f"{self.named}/{name}", "other_info": [label, original]}


def write_record(head: Head, case: Case, held: Held | None, originals: Index | None, folder: Path) -> Path:
    """Write *case* as a record and return ``attack_result.pt``; the folder appears only when it is complete.

    Below a folder ``record`` of a checkout, changed images become PNG files. Elsewhere they stay inside the file: the
    paths BackdoorBench opens begin at its root, which is not known there.

    :param held: ``[N]`` bool, suspect samples to store; all others are the clean sample of the same position.
    :param originals: ``[N]`` labels before the attack.
    """
    named = _named(folder)
    with atomic_folder(folder) as part:
        train = None
        if case.train is not None and held is not None and originals is not None:
            store = _Store.make(part, named, "bd_train_dataset")
            train = _state(case.train, held, originals, head.train_size, store)
            write_torch(part / "train_poison_index_list.pickle", train["poison_indicator"])
        triggered = case.test_poisoned
        if triggered is None:
            _log("no triggered test samples in this case: bd_test is empty, and BackdoorBench cannot measure ASR on it")
            empty = np.empty((0, *head.shape), np.uint8)
            samples, labels = ImageSet(empty, np.empty(0, np.int64), head.num_classes), np.empty(0, np.int64)
        else:
            samples, labels = triggered.samples, triggered.original_labels
        every = np.ones(len(samples), bool)
        content = {
            "model_name": head.model_name,
            "num_classes": head.num_classes,
            "model": dict(head.weights),
            "data_path": head.data_path,
            "img_size": head.shape,
            "clean_data": head.dataset,
            "bd_train": train,
            "bd_test": _state(samples, every, labels, head.test_size, _Store.make(part, named, "bd_test_dataset")),
        }
        write_torch(part / FILE, content)
    return folder / FILE


def changed_rows(suspects: ImageSet, clean: ImageSet, index: Index) -> Held:
    """Tell which samples are not the clean sample of their position, in label or in pixels; ``[N]``."""
    changed: Held = suspects.labels != clean.labels[index]
    for part, images in suspects.chunks():
        changed[part] |= different(images, clean.read(index[part]))
    return changed


def append_detection(file: Path, case: Case, outcome: Outcome) -> None:
    """Add what was found to the table of detections, with a header line each time, as the toolkit itself does.

    What it ends with already is not added again.

    The toolkit's own definition counts here: cover samples are poison.
    """
    assert case.truth is not None and case.train is not None and outcome.flagged is not None
    tn, fp, fn, tp = confusion(outcome.flagged, case.truth, cover_is_poison=True)
    targets = np.unique(case.train.labels[outcome.flagged]).tolist()
    row = [
        escape_cell(Path(case.origin.path).name),
        tn,
        fp,
        fn,
        tp,
        _share(tp, fn),
        _share(fp, tn),
        " ".join(map(str, targets)) or "None",
    ]
    before = read_bytes(file) if is_there(file) else b""
    lines = f"{','.join(DETECTION)}\n{','.join(map(str, row))}\n".encode()
    if before.endswith(lines):  # written by an attempt that was killed, or by the same run when it was found done
        return
    with atomic_file(file) as temporary:
        temporary.write_bytes(before + lines)


def workspace(folder: Path) -> Path | None:
    """Return the root of the checkout as BackdoorBench finds it from *folder*: what comes before ``record``.

    It looks for the first "record" in the whole path, wherever that is; None when that is no folder of this name.
    """
    real = Path(os.path.realpath(folder))
    before = str(real).partition("record")[0]
    root = Path(before)
    inside = before.endswith(os.sep) and (real == root / "record" or root / "record" in real.parents)
    return root if inside else None


def checked_ids(samples: ImageSet, originals: Index | None, clean: ImageSet, what: str) -> None:
    """Refuse samples that are not at home in *clean* at the positions they name.

    :param originals: labels before the attack, or None when they are not known.
    :raises InputError: when a position is out of range, or the original label there is another one.
    """
    hint = "name the clean data the attack started from: {to_option:dataset=NAME} {to_option:data=DIR}"
    if len(samples.ids) and not (samples.ids.min() >= 0 and samples.ids.max() < len(clean)):
        raise InputError(
            f"{what} and clean data do not belong together",
            where="ids",
            found=f"{samples.ids.min()}..{samples.ids.max()}",
            allowed=f"positions 0..{len(clean) - 1} in the clean data",
            hint=hint,
        )
    if originals is None:
        return
    other = np.flatnonzero(clean.labels[samples.ids] != originals)
    if len(other):
        raise InputError(
            f"{what} and clean data do not belong together",
            where=f"sample {samples.ids[other[0]]}",
            found=f"original label {originals[other[0]]}, {clean.labels[samples.ids[other[0]]]} in the clean data"
            f" ({len(other)} of {len(samples)} differ)",
            allowed="the same samples at the same positions",
            hint=hint,
        )


def _share(part: int, rest: int) -> float:
    return part / (part + rest) if part + rest else 0.0


def _named(folder: Path) -> str | None:
    root = workspace(folder)
    return None if root is None else f"./{Path(os.path.realpath(folder)).relative_to(root).as_posix()}"


def _state(samples: ImageSet, held: Held, originals: Index, size: int, store: _Store) -> dict[str, Any]:
    """Return what the toolkit keeps of one set of *size* clean samples, and write the images it names."""
    rounded = 0
    for chunk, images in samples.chunks():
        rows = np.flatnonzero(held[chunk]) + chunk.start
        rounded += _add(store, samples, rows, images[rows - chunk.start], originals)
    if rounded:
        _log(f"{store.folder.name}: {rounded} images had finer steps than the 8 bits of this format, and were rounded")
    indicator = np.zeros(size)
    indicator[samples.ids[held]] = 1
    folder = store.named
    return {
        "bd_data_container": {
            "save_folder_path": folder,
            "data_dict": store.held,
            "save_file_format": SUFFIX,
        },
        "getitem_all": True,
        "getitem_all_switch": False,
        "original_index_array": np.array(samples.ids),
        "poison_indicator": indicator,
        "save_folder_path": folder,
    }


def _add(store: _Store, samples: ImageSet, rows: Index, images: Images, originals: Index) -> int:
    """Store the *images* at *rows*; return how many of them had to be rounded."""
    for row, image in zip(rows, to_bytes(images), strict=True):
        store.add(int(samples.ids[row]), image, int(samples.labels[row]), int(originals[row]))
    return int(inexact(images).sum())


def _log(text: str) -> None:
    logging.getLogger(__name__).warning(text)

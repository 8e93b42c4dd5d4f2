"""``attack_result.pt`` of BackdoorBench: both its formats, checked piece by piece, without the toolkit.

Since v2 a record keeps the changed samples as PNG files next to ``attack_result.pt`` (or, when told to, as images
inside it); v1 kept them inside. Everything that is not listed as changed is the clean sample of the same position.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.case import Truth
from ...core.classes import checked_count
from ...core.images import Images, ImageSet, Index, checked_labels
from ...errors import InputError
from ...io.folders import is_folder
from ...io.image_files import refuse_pixels
from ...io.opening import is_there
from ...io.pickled_images import PickledImage
from ...io.reading import read_torch
from ..common.images import file_reader
from ..common.untrusted import numbers
from .checks import as_int, expect, positions, rebased, rows

FILE = "attack_result.pt"
KEYS = ("model_name", "num_classes", "model", "data_path", "img_size", "clean_data", "bd_train", "bd_test")
Held = NDArray[np.bool_]


@dataclass(frozen=True)
class Record:
    """The checked head of a record; the two parts are still raw."""

    folder: Path
    model_name: str
    num_classes: int
    weights: Any
    data_path: str
    shape: tuple[int, int, int]
    dataset: str
    train: Mapping[str, Any] | None
    test: Mapping[str, Any]

    @property
    def file(self) -> Path:
        return self.folder / FILE


@dataclass(frozen=True)
class Part:
    """``bd_train`` or ``bd_test``; ``n`` samples, ``k`` of them held by the record, the others clean.

    :param index: ``[n]`` position of each sample in the clean set.
    :param held: ``[n]`` bool, the toolkit's own poison indicator; it also marks cover samples.
    :param labels: ``[k]`` labels the attack gave.
    :param original_labels: ``[k]`` labels before the attack, as recorded or as the clean set has them.
    :param read: 0..k-1 -> image ``[H, W, C]``.
    """

    index: Index
    held: Held
    labels: Index
    original_labels: Index
    read: Callable[[int], Images]


def read_record(path: Path) -> Record:
    """Read the file, and check everything in it but the samples.

    :param path: the record folder or the ``attack_result.pt`` in it.
    :raises InputError: when it is missing, hostile, or no attack result.
    """
    file = path / FILE if is_folder(path) or path.name != FILE else path
    if not is_there(file):
        below = sorted(found.parent.name for found in path.glob(f"*/{FILE}"))
        hint = "give the folder that an attack script of BackdoorBench filled, e.g. record/badnet_0_1"
        raise InputError(
            "BackdoorBench record not found",
            where=path,
            found=f"no {FILE}",
            allowed=f"a folder record/<name> with {FILE}",
            hint=f"records below this folder: {', '.join(below[:5])}" if below else hint,
        )
    content = read_torch(file)
    missing = [key for key in KEYS if not (isinstance(content, dict) and key in content)]
    if missing:
        found = f"keys {', '.join(map(str, content))}" if isinstance(content, dict) else type(content).__name__
        raise InputError(
            "not a BackdoorBench attack result",
            where=file,
            found=found[:200],
            allowed=f"keys {', '.join(KEYS)}",
            hint="give the attack's own record, not a defense_result.pt",
        )
    text = {key: expect(content[key], str, file, key) for key in ("model_name", "data_path", "clean_data")}
    shape = [as_int(edge, file, "img_size") for edge in rows(content["img_size"], file, "img_size")]
    if len(shape) != 3 or min(shape) < 1:
        raise InputError("broken record", where=f"{file}: img_size", found=shape, allowed="(height, width, channels)")
    refuse_pixels(shape[1], shape[0], f"{file}: img_size")
    num_classes = checked_count(as_int(content["num_classes"], file, "num_classes"), f"{file}: num_classes")
    train = content["bd_train"]
    if isinstance(train, dict) and "x" in train and train["x"] is None:  # how v1 says "none"
        train = None
    return Record(
        folder=file.parent,
        model_name=text["model_name"],
        num_classes=num_classes,
        weights=content["model"],
        data_path=text["data_path"],
        shape=(shape[0], shape[1], shape[2]),
        dataset=text["clean_data"],
        train=None if train is None else expect(train, dict, file, "bd_train"),
        test=expect(content["bd_test"], dict, file, "bd_test"),
    )


def read_part(record: Record, name: str, clean: ImageSet) -> Part:
    """Check ``bd_train`` or ``bd_test`` against the *clean* set of the same split.

    Images are not decoded here, but paths are checked.

    :raises InputError: for labels, lengths, positions or paths out of bounds, and when the record was made from
        other data than *clean*.
    """
    where = f"{record.file}: {name}"
    state = record.train if name == "bd_train" else record.test
    assert state is not None
    index, held, samples = (_old if "x" in state else _current)(record, state, where, len(clean))
    given = np.array([each.label for each in samples], np.int64)
    labels = checked_labels(given, len(samples), clean.num_classes, f"{where} labels")
    original = clean.labels[index[held]]
    pairs = zip(samples, original, strict=True)
    recorded = np.array([true if each.original is None else each.original for each, true in pairs], np.int64)
    if len(other := np.flatnonzero(recorded != original)):
        raise InputError(
            "record and clean data do not belong together",
            where=f"{where}, sample {index[held][other[0]]}",
            found=f"original label {recorded[other[0]]} in the record, {original[other[0]]} in the clean data"
            f" ({len(other)} of {len(recorded)} differ)",
            allowed="the clean data the attack started from, in the order in which BackdoorBench reads them",
            hint="name them, e.g. with {option:data=data/cifar10}",
        )
    return Part(index, held, labels, original, _reader(samples, record, where))


def truth_of(part: Part, clean: ImageSet) -> Truth:
    """Sort the held samples into poison and cover.

    BackdoorBench keeps one indicator for both. What sets them apart is the label:

    - No held sample has a changed label: a clean-label attack, all of them are poison.
    - Some have, all those with *one* target label, and the unchanged ones have that label too: an all-to-one attack
      that also put its trigger on samples of the target class. They teach the trigger as well: all are poison.
    - Else the unchanged ones carry the trigger under their true label: cover samples (WaNet, Input-aware, BPP). Poison
      of the target class cannot be told from cover there, and counts as cover.
    """
    poison, cover = part.held.copy(), np.zeros_like(part.held)
    changed = part.labels != part.original_labels
    targets = np.unique(part.labels[changed])
    if len(targets) > 1 or (len(targets) == 1 and (part.labels[~changed] != targets[0]).any()):
        poison[part.held] = changed
        cover[part.held] = ~changed
    kind = "dirty-label" if changed.any() else "clean-label" if poison.any() else "none"
    return Truth(poison, cover, clean.labels[part.index], kind)


@dataclass(frozen=True)
class _Sample:
    index: int
    image: Path | PickledImage
    label: int
    original: int | None


def _current(record: Record, state: Mapping[str, Any], where: str, length: int) -> tuple[Index, Held, list[_Sample]]:
    """Read the format of v2."""
    container = expect(state.get("bd_data_container"), dict, where, "bd_data_container")
    images = expect(container.get("data_dict"), dict, where, "data_dict")
    images = {as_int(key, where, "key of data_dict"): value for key, value in images.items()}
    indicator = numbers(state.get("poison_indicator"), f"{where} poison_indicator")
    if indicator.shape != (length,) or indicator.dtype.kind not in "biuf" or not np.isin(indicator, (0, 1)).all():
        raise InputError(
            "broken record",
            where=f"{where} poison_indicator",
            found=f"{indicator.dtype} {indicator.shape}",
            allowed=f"0 or 1 for each of the {length} clean samples",
            hint="check that the clean data are those the attack started from",
        )
    index = positions(state.get("original_index_array"), length, f"{where} original_index_array")
    held = indicator[index] == 1
    if missing := [int(i) for i in index[held] if int(i) not in images]:
        raise InputError("broken record", where=where, found=f"no image for samples {missing[:5]}", allowed="one each")
    save_folder = container.get("save_folder_path")
    samples = [_sample(int(i), images[int(i)], record.folder, save_folder, where) for i in index[held]]
    return index, held, samples


def _sample(index: int, value: Any, folder: Path, save_folder: Any, where: str) -> _Sample:
    where = f"{where}, sample {index}"
    if isinstance(value, dict):  # {"path": …, "other_info": [label, original label]}
        image: Any = rebased(folder, save_folder, value.get("path"), where)
        labels = value.get("other_info")
    else:  # (image, label, original label)
        image, *labels = value if isinstance(value, list | tuple) and value else [None]
    if not isinstance(image, Path | PickledImage) or not isinstance(labels, list | tuple) or len(labels) != 2:
        raise InputError(
            "broken record", where=where, found=type(value).__name__, allowed="an image with label and original label"
        )
    return _Sample(index, image, as_int(labels[0], where, "label"), as_int(labels[1], where, "original label"))


def _old(record: Record, state: Mapping[str, Any], where: str, length: int) -> tuple[Index, Held, list[_Sample]]:
    """Read the format of v1: parallel lists of the changed samples only.

    A training set is complete; a test set holds the changed samples and nothing else.
    """
    images, labels = (rows(state.get(key), where, key) for key in ("x", "y"))
    index = positions(state.get("original_index"), length, f"{where} original_index")
    indicator = state.get("poison_indicator")
    if indicator is not None and len(index) != len(labels):  # the late v1 files list the clean samples too
        flags = numbers(indicator, f"{where} poison_indicator")
        index = index[flags == 1] if flags.shape == index.shape else index
    originals = state.get("original_targets")
    originals = [None] * len(index) if originals is None else rows(originals, where, "original_targets")
    if not len(images) == len(labels) == len(index) == len(originals):
        raise InputError(
            "broken record",
            where=where,
            found=f"{len(images)} images, {len(labels)} and {len(originals)} labels, {len(index)} positions",
            allowed="as many of each",
        )
    samples = {}
    for position, image, label, original in zip(index, images, labels, originals, strict=True):
        here = f"{where}, sample {position}"
        if not isinstance(image, PickledImage):
            raise InputError("broken record", where=here, found=type(image).__name__, allowed="an image")
        true = None if original is None else as_int(original, here, "original label")
        samples[int(position)] = _Sample(int(position), image, as_int(label, here, "label"), true)
    complete = np.arange(length) if state is record.train else index
    return complete, np.isin(complete, index), [samples[int(i)] for i in complete if int(i) in samples]


def _reader(samples: Sequence[_Sample], record: Record, where: str) -> Callable[[int], Images]:
    def read(position: int) -> Images:
        source = samples[position].image
        if isinstance(source, Path):
            return _from_file(source, record)
        return source.pixels(record.shape, f"{where}, sample {samples[position].index}")

    return read


def _from_file(path: Path, record: Record) -> Images:
    height, width, channels = record.shape
    try:
        return file_reader([path], channels, shape=record.shape)(0)
    except InputError as error:  # the file alone does not say what the record asks for
        error.allowed = error.allowed or f"a whole image of {height} × {width} pixels"
        error.hint = error.hint or "copy the record again"
        raise

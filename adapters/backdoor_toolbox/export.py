"""Whole cases as sets of backdoor-toolbox, and what that toolkit knows of the data sets it names."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...adapter import Source
from ...core.case import Case
from ...core.images import ImageSet
from ...errors import InputError
from ...io.files import atomic_folder
from .write import root_of, write_set, write_split, write_weights

CLEAN_LABEL = ("clean_label", "SIG", "SleeperAgent")  # attacks that leave labels as they are


@dataclass(frozen=True)
class DataSet:
    """What the toolkits know about a data set by its name."""

    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    mirror: bool | None = None  # whether the toolkit mirrors its images in training; None: it has no transform for it


IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
DATASETS = {
    "cifar10": DataSet(10, (0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261), mirror=True),
    "gtsrb": DataSet(43, (0.3337, 0.3064, 0.3171), (0.2672, 0.2564, 0.2629), mirror=False),
    "imagenette": DataSet(10, *IMAGENET, mirror=True),
    "imagenet": DataSet(1000, *IMAGENET),
}
ARCHITECTURE, SEED = "cifar_resnet18", 2333  # the toolkit's defaults


def export_case(case: Case, folder: Path, seed: int, read_split: Callable[[Path, int], ImageSet]) -> Source:
    """Write *case* to the set folder *folder*, and say how to read it back; see ``BackdoorToolbox.export``.

    :param seed: the toolkit's ``-seed``, part of the name of the model file.
    :param read_split: reads a clean set or test set that is there already: folder, number of classes -> set.
    :raises InputError: when *case* holds no suspect set or no truth, or other clean data are in the way.
    """
    root, dataset = root_of(folder), folder.parent.name
    if case.train is None or case.truth is None:
        raise InputError(
            "a set of backdoor-toolbox says which of its samples are poison",
            where="case",
            found="no suspect set" if case.train is None else "no truth",
            allowed="a case with a suspect set and its truth",
            hint="the toolkit's own scripts read poison_indices; without them, write an image_folder",
        )
    splits = _splits(case, root / "clean_set" / dataset, read_split)
    _warn(case, folder.name)
    found: dict[str, Any] = {}
    for images, split, labels in splits:  # first: the folder of the set says that all is written
        write_split(images, split, labels)
    with atomic_folder(folder) as part:
        write_set(case.train, case.truth, part)
        if case.model is not None:
            write_weights(case.model, part / f"full_base_aug_seed={seed}.pt")
            found = _how_to_read(case, dataset)
    if seed != SEED:
        found["seed"] = seed
    if dataset not in DATASETS or DATASETS[dataset].num_classes != case.num_classes:
        found["num_classes"] = case.num_classes
    return Source(adapter="backdoor_toolbox", path=str(folder), options=found)


def _splits(case: Case, folder: Path, read_split: Callable[[Path, int], ImageSet]) -> list[tuple[ImageSet, Path, str]]:
    """Return the clean data still to be written; what is there already must be the same."""
    left = []
    for images, name, labels in ((case.clean, "clean_split", "clean_labels"), (case.test, "test_split", "labels")):
        split = folder / name
        if images is None:
            continue
        if not split.exists():
            left.append((images, split, labels))
        elif read_split(split, case.num_classes).fingerprint() != images.fingerprint():
            raise InputError(
                "other clean data are there already",
                where=split,
                allowed="those of the case, or none",
                hint="choose a folder below another root",
            )
    return left


def _how_to_read(case: Case, dataset: str) -> dict[str, Any]:
    assert case.model is not None
    found: dict[str, Any] = {}
    if case.model.architecture != ARCHITECTURE:
        found["architecture"] = case.model.architecture
        _log("the toolkit builds the network named in its config.py; this model is a %s", case.model.architecture)
    known = DATASETS.get(dataset, DataSet(0, (0.0,), (1.0,)))
    for name, usual in (("mean", known.mean), ("std", known.std)):
        values = getattr(case.model, name).flatten().numpy()
        own, theirs = np.broadcast_arrays(values, np.asarray(usual, np.float32))  # one may stand for all channels
        if not np.array_equal(own, theirs):
            found[name] = values.tolist()
            _log("the toolkit normalises %s with %s %s; this model expects %s", dataset, name, usual, found[name])
    return found


def _warn(case: Case, directory: str) -> None:
    assert case.truth is not None
    if case.test_poisoned is not None:
        _log("triggered test samples have no place in this format: the toolkit makes them from the trigger")
    said = "clean-label" if directory.startswith(CLEAN_LABEL) else "dirty-label" if case.truth.poison.any() else "none"
    if said != case.truth.kind:
        _log("a folder called %s says %s poison; this is %s", directory, said, case.truth.kind)


def _log(text: str, *values: object) -> None:
    logging.getLogger(__name__).warning(text, *values)

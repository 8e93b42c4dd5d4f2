"""The clean data behind a BackdoorBench record: where they lie, and readers for their formats.

A record stores only the samples the attack changed; all others come from here, found by their position. So the order
must be the one BackdoorBench reads in: batch by batch for CIFAR, as listed in the CSV files for GTSRB, and the order
of torchvision's ``ImageFolder`` for everything else.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np

from ...core.images import Images, ImageSet, checked_labels
from ...errors import InputError
from ...io.documents import read_table
from ...io.files import inside
from ...io.folders import is_folder
from ...io.opening import is_there, open_file
from ...io.reading import read_plain_pickle
from ..common.class_folders import Listing, list_images
from ..common.images import eager_or_lazy, file_reader
from ..common.untrusted import numbers

EAGER_BYTES = 4 << 30
Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Dataset:
    """What BackdoorBench fixes per data set."""

    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    mirror: bool = False  # in training


_IDENTITY = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
DATASETS = {
    "cifar10": Dataset(10, (0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261), mirror=True),
    "cifar100": Dataset(100, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "gtsrb": Dataset(43, *_IDENTITY),
    "celeba": Dataset(8, *_IDENTITY),
    "tiny": Dataset(200, (0.4802, 0.4481, 0.3975), (0.2302, 0.2265, 0.2262)),
    "imagenet": Dataset(1000, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


@dataclass(frozen=True)
class CleanData:
    """The whole training and test set before the attack, in the toolkit's order."""

    train: ImageSet
    test: ImageSet
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Cifar:
    """File names and MD5 sums of one of the two CIFAR sets, as distributed."""

    folder: str
    labels: str
    train: dict[str, str]
    test: dict[str, str]


CIFAR = {
    "cifar10": _Cifar(
        "cifar-10-batches-py",
        "labels",
        {
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        },
        {"test_batch": "40351d587109b95175f43aff81a1287e"},
    ),
    "cifar100": _Cifar(
        "cifar-100-python",
        "fine_labels",
        {"train": "16019d7e3df5f24257cddd939b257f8d"},
        {"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
    ),
}


def find_data(record: Path, data_path: str, option: Path | None) -> Path:
    """Return the folder of the clean data: *option*, or ``<parent of the record>/<end of data_path>``.

    Only the last two components of the recorded path count: where the attack ran says nothing about this machine.

    :raises InputError: naming every place that was looked at.
    """
    if option is not None:
        if not is_folder(option):
            raise InputError("clean data not found", where="option data", found=option, allowed="an existing folder")
        return option
    recorded = PureWindowsPath(data_path)  # splits at / and at \
    plain = itertools.takewhile(lambda part: part not in ("..", recorded.anchor), reversed(recorded.parts))
    tail = list(plain)[1::-1]
    looked = [parent.joinpath(*tail) for parent in record.resolve().parents] if tail else []
    for folder in looked:
        if is_folder(folder):
            return folder
    raise InputError(
        "clean data not found",
        where=record,
        found=f"the record names {data_path!r}; looked for " + (", ".join(map(str, looked)) or "nothing"),
        allowed="a folder with the clean data the attack started from",
        hint="name it, e.g. with {option:data=data/cifar10}",
    )


def read_clean(dataset: str, folder: Path, num_classes: int, shape: Shape) -> CleanData:
    """Read the clean training and test sets of *dataset* from *folder*.

    :param num_classes, shape: as the record has them.
    :raises InputError: when files are missing, damaged or hostile, or contradict the record.
    """
    if dataset == "mnist":
        raise InputError("MNIST records are not supported", where=folder, allowed=", ".join(DATASETS))
    if dataset in DATASETS and num_classes != DATASETS[dataset].num_classes:
        raise InputError(
            "record contradicts its data set",
            where="num_classes",
            found=num_classes,
            allowed=f"{DATASETS[dataset].num_classes} for {dataset}",
        )
    if shape[2] != 3:
        raise InputError("record contradicts its data set", where="img_size", found=shape, allowed="3 channels")
    if dataset in CIFAR:
        return _read_cifar(dataset, folder, shape)
    if dataset == "gtsrb":
        return _read_gtsrb(folder, shape)
    return _read_folders(dataset, folder, num_classes, shape)


def _read_cifar(dataset: str, folder: Path, shape: Shape) -> CleanData:
    files = CIFAR[dataset]
    if shape != (32, 32, 3):
        raise InputError(
            "record contradicts its data set", where="img_size", found=shape, allowed=f"(32, 32, 3) for {dataset}"
        )
    root = folder / files.folder if is_folder(folder / files.folder) else folder
    expected = files.train | files.test
    if missing := [name for name in expected if not is_there(root / name)]:
        raise InputError(
            "clean data incomplete",
            where=root,
            found=f"no {', '.join(missing)}",
            allowed=f"{files.folder}/{{{', '.join(expected)}}}",
            hint=f"name the folder, e.g. with {{option:data=data/{dataset}}}",
        )
    sums = {name: _md5(root / name) for name in expected}
    other = [name for name in expected if sums[name] != expected[name]]
    notes: tuple[str, ...] = ()
    if other:
        which = f"{len(other)} of {len(expected)} {dataset} files"
        notes = (f"clean data: {which} are not the canonical files, e.g. {other[0]}, md5 {sums[other[0]]}",)
    classes = DATASETS[dataset].num_classes
    parts = ([root / name for name in names] for names in (files.train, files.test))
    train, test = (_cifar_set(paths, files.labels, classes) for paths in parts)
    return CleanData(train, test, notes)


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with open_file(path) as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _cifar_set(paths: Sequence[Path], label_key: str, num_classes: int) -> ImageSet:
    batches = [_cifar_batch(path, label_key, num_classes) for path in paths]
    images, labels = zip(*batches, strict=True)
    return ImageSet(np.concatenate(images), np.concatenate(labels), num_classes)


def _cifar_batch(path: Path, label_key: str, num_classes: int) -> tuple[Images, Any]:
    content = read_plain_pickle(path)
    if not isinstance(content, dict):
        raise InputError("not a CIFAR batch", where=path, found=type(content).__name__, allowed="a dict")
    batch = {key.decode("latin1") if isinstance(key, bytes) else key: value for key, value in content.items()}
    data, labels = batch.get("data"), batch.get(label_key)
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
        found = (data.dtype, data.shape) if isinstance(data, np.ndarray) else type(data).__name__
        raise InputError("not a CIFAR batch", where=f"{path}: data", found=found, allowed="uint8 [n, 3072]")
    where = f"{path}: {label_key}"
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise InputError("not a CIFAR batch", where=where, found=type(labels).__name__, allowed="a list of integers")
    images = np.ascontiguousarray(data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    return images, checked_labels(numbers(labels, where), len(images), num_classes, where)


def _read_gtsrb(folder: Path, shape: Shape) -> CleanData:
    num_classes = DATASETS["gtsrb"].num_classes
    tables = [folder / "Train" / f"{label:05d}" / f"GT-{label:05d}.csv" for label in range(num_classes)]
    test = [folder / "Test" / "GT-final_test.csv"]
    if missing := [table for table in tables + test if not is_there(table)]:
        raise InputError(
            "clean data incomplete",
            where=folder,
            found=f"no {missing[0].relative_to(folder)}" + (f" and {len(missing) - 1} more" if missing[1:] else ""),
            allowed="Train/<5-digit class>/GT-<class>.csv and Test/GT-final_test.csv, with the images beside them",
            hint="name the folder, e.g. with {option:data=data/gtsrb}",
        )
    return CleanData(_gtsrb_set(tables, num_classes, shape), _gtsrb_set(test, num_classes, shape))


def _gtsrb_set(tables: Sequence[Path], num_classes: int, shape: Shape) -> ImageSet:
    paths: list[Path] = []
    labels: list[int] = []
    for table in tables:
        for number, row in enumerate(itertools.islice(read_table(table, ";"), 1, None), start=2):
            if len(row) < 8 or re.fullmatch("[0-9]{1,9}", row[7]) is None:
                raise InputError(
                    "not a GTSRB table", where=f"{table}:{number}", found=row, allowed="8 columns, the last a class id"
                )
            labels.append(int(row[7]))
            paths.append(inside(table.parent, row[0]))
    read = file_reader(paths, 3, resize=shape[:2])
    return ImageSet(eager_or_lazy(read, len(paths), shape, EAGER_BYTES), numbers(labels, tables[0].parent), num_classes)


def _read_folders(dataset: str, folder: Path, num_classes: int, shape: Shape) -> CleanData:
    nested = folder / "tiny-imagenet-200"
    root = nested if dataset == "tiny" and is_folder(nested) else folder
    # the test part of these two comes without labels, so BackdoorBench scores on val
    names = ("val", "test") if dataset in ("tiny", "imagenet") else ("test", "val")
    test = next((root / name for name in names if is_folder(root / name)), root / "test")
    for part in (root / "train", test):
        if not is_folder(part):
            raise InputError(
                "clean data incomplete",
                where=root,
                found=f"no folder {part.name}",
                allowed=f"train/<class>/… and test/<class>/… (or val/): how {dataset!r} is read",
                hint=f"name the folder, e.g. with {{option:data=data/{dataset}}}",
            )
    listings = [list_images(part, "clean data") for part in (root / "train", test)]
    for listing in listings:
        if listing.classes != listings[0].classes or len(listing.classes) != num_classes:
            raise InputError(
                "clean data contradict the record",
                where=listing.root,
                found=f"{len(listing.classes)} class folders",
                allowed=f"{num_classes} class folders, with the same names in train and test",
            )
    train, test_set = (_folder_set(listing, num_classes, shape) for listing in listings)
    return CleanData(train, test_set)


def _folder_set(listing: Listing, num_classes: int, shape: Shape) -> ImageSet:
    read = file_reader(listing.paths, 3, resize=shape[:2])
    return ImageSet(eager_or_lazy(read, len(listing.names), shape, EAGER_BYTES), listing.labels, num_classes)

"""CIFAR-10 and CIFAR-100 as distributed: pickled batches, the files that torchvision unpacks."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...core.images import Images, ImageSet, checked_labels
from ...errors import InputError
from ...io.folders import is_folder
from ...io.opening import is_there, open_file
from ...io.reading import read_plain_pickle

FILE_BYTES = 1 << 30  # far above the 155 MB of the largest file


@dataclass(frozen=True)
class CifarFiles:
    """File names and MD5 sums of one of the two sets, as distributed.

    :param names: the file with the names of the classes, and their key in it.
    """

    folder: str
    labels: str
    num_classes: int
    train: dict[str, str]
    test: dict[str, str]
    names: tuple[str, str]

    @property
    def batches(self) -> dict[str, str]:
        """All files with samples."""
        return self.train | self.test


CIFAR = {
    "cifar10": CifarFiles(
        "cifar-10-batches-py",
        "labels",
        10,
        {
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        },
        {"test_batch": "40351d587109b95175f43aff81a1287e"},
        ("batches.meta", "label_names"),
    ),
    "cifar100": CifarFiles(
        "cifar-100-python",
        "fine_labels",
        100,
        {"train": "16019d7e3df5f24257cddd939b257f8d"},
        {"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
        ("meta", "fine_label_names"),
    ),
}


@dataclass(frozen=True)
class CifarSet:
    """Both parts of a set, in the order of its files; ``folder`` is where they lie."""

    train: ImageSet
    test: ImageSet
    folder: Path
    notes: tuple[str, ...]


def missing_files(dataset: str, folder: Path) -> tuple[Path, list[str]]:
    """Return where the files of *dataset* lie, *folder* or the one in it that goes by their name, and which lack."""
    files = CIFAR[dataset]
    root = folder / files.folder if is_folder(folder / files.folder) else folder
    return root, [name for name in files.batches if not is_there(root / name)]


def read_cifar(dataset: str, folder: Path, hint: str) -> CifarSet:
    """Read *dataset* from *folder*, or from the folder in it that goes by the name of the set.

    Files other than the distributed ones are read too, with a note.

    :param hint: what to do where a file is missing.
    :raises InputError: when files are missing, damaged or hostile.
    """
    files = CIFAR[dataset]
    root, missing = missing_files(dataset, folder)
    if missing:
        raise InputError(
            "clean data incomplete",
            where=root,
            found=f"no {', '.join(missing)}",
            allowed=f"{files.folder}/{{{', '.join(files.batches)}}}",
            hint=hint,
        )
    sums = {name: _md5(root / name) for name in files.batches}
    other = [name for name in sums if sums[name] != files.batches[name]]
    notes: tuple[str, ...] = ()
    if other:
        which = f"{len(other)} of {len(sums)} {dataset} files"
        notes = (f"clean data: {which} are not the canonical files, e.g. {other[0]}, md5 {sums[other[0]]}",)
    parts = ([root / name for name in names] for names in (files.train, files.test))
    train, test = (_images(paths, files.labels, files.num_classes) for paths in parts)
    return CifarSet(train, test, root, notes)


def class_names(dataset: str, root: Path) -> tuple[str, ...] | None:
    """Return the names of the classes, or None where the file that holds them is not there, or says something else."""
    files = CIFAR[dataset]
    file, key = files.names
    if not is_there(root / file):
        return None
    names = _texts_as_keys(read_plain_pickle(root / file)).get(key)
    if not isinstance(names, list) or len(set(map(str, names))) != files.num_classes:
        return None
    return tuple(name.decode("latin1") if isinstance(name, bytes) else str(name) for name in names)


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with open_file(path) as file:
        if (size := os.fstat(file.fileno()).st_size) > FILE_BYTES:
            raise InputError("file is too large", where=path, found=f"{size:,} bytes", allowed=f"{FILE_BYTES:,} bytes")
        try:
            while block := file.read(2**20):
                digest.update(block)
        except OSError as error:
            raise InputError("file cannot be read", where=path, found=error.strerror) from None
    return digest.hexdigest()


def _images(paths: Sequence[Path], label_key: str, num_classes: int) -> ImageSet:
    batches = [_batch(path, label_key, num_classes) for path in paths]
    images, labels = zip(*batches, strict=True)
    return ImageSet(np.concatenate(images), np.concatenate(labels), num_classes)


def _batch(path: Path, label_key: str, num_classes: int) -> tuple[Images, Any]:
    content = read_plain_pickle(path)
    if not isinstance(content, dict):
        raise InputError("not a CIFAR batch", where=path, found=type(content).__name__, allowed="a dict")
    batch = _texts_as_keys(content)
    data, labels = batch.get("data"), batch.get(label_key)
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
        found = (data.dtype, data.shape) if isinstance(data, np.ndarray) else type(data).__name__
        raise InputError("not a CIFAR batch", where=f"{path}: data", found=found, allowed="uint8 [n, 3072]")
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise InputError(
            "not a CIFAR batch", where=f"{path}: {label_key}", found=type(labels).__name__, allowed="a list of integers"
        )
    images = np.ascontiguousarray(data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    return images, checked_labels(np.array(labels, np.int64), len(images), num_classes, f"{path}: {label_key}")


def _texts_as_keys(content: Any) -> dict[Any, Any]:
    if not isinstance(content, dict):
        return {}
    return {key.decode("latin1") if isinstance(key, bytes) else key: value for key, value in content.items()}

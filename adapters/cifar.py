"""CIFAR-10 and CIFAR-100 in the files that torchvision unpacks, ``cifar-10-batches-py`` and ``cifar-100-python``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ..adapter import Adapter
from ..core.case import Case, Origin
from ..core.images import ImageSet
from ..core.settings import Settings
from ..errors import InputError
from .common.cifar import CIFAR, class_names, missing_files, read_cifar
from .common.mirroring import mirror_of


class CifarOptions(Settings):
    """How to read CIFAR.

    :param dataset: which of the two; default: the one whose files are there.
    """

    dataset: Literal["cifar10", "cifar100"] | None = None


class Cifar(Adapter):
    """The folder of batches, or the folder that it is in (the ``root`` of torchvision's class).

    Training set and test set are in the order of the files; ``ids`` are positions in them. The batches are pickles, and
    read as plain data: nothing in them is run. Nothing is downloaded.
    """

    name = "cifar"
    Options = CifarOptions
    options: CifarOptions

    def read(self, path: Path, seed: int = 0) -> Case:
        """Read both parts.

        :raises InputError: when files are missing, damaged or hostile, or both sets are there.
        """
        dataset = self.options.dataset or _found(path)
        read = read_cifar(dataset, path, "torchvision.datasets.CIFAR10(root, download=True) fetches them")
        classes = class_names(dataset, read.folder)
        train, test = (
            ImageSet(each.images, each.labels, each.num_classes, classes=classes) for each in (read.train, read.test)
        )
        files = CIFAR[dataset]
        facts = {
            "dataset": dataset,
            "files": [str(read.folder.absolute() / name) for name in files.batches]
            + [str(read.folder.absolute() / files.names[0])] * (classes is not None),
            "folder": files.folder,
        }
        return Case(
            train=train,
            test=test,
            origin=Origin(self.name, str(path), facts),
            notes=read.notes,
            mirror=mirror_of([dataset]),
        )


def _found(path: Path) -> str:
    """Return the set whose files lie at *path*.

    :raises InputError: when that is none, or both.
    """
    found = [dataset for dataset in CIFAR if not missing_files(dataset, path)[1]]
    if len(found) == 1:
        return found[0]
    folders = " or ".join(each.folder for each in CIFAR.values())
    raise InputError(
        "two CIFAR sets in one folder" if found else "no CIFAR set found",
        where=path,
        found=", ".join(found) or ("no such folder" if not path.is_dir() else "none of their files, or not all"),
        allowed=f"the folder {folders}, or the folder it is in",
        hint="say which: {option:dataset=cifar10}" if found else None,
    )

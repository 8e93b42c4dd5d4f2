"""Writing sets in the layouts of backdoor-toolbox: ``imgs`` or ``data/<i>.png``, ``labels``, lists of positions."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch

from ...core.case import Case, Truth
from ...core.classifier.classifier import Classifier
from ...core.images import ImageSet
from ...core.outcome import Outcome
from ...core.pixels import to_bytes
from ...errors import InputError
from ...io.files import atomic_folder, write_torch
from ..common.images import inexact, save_png

TREE = "poisoned_train_set"


def write_set(images: ImageSet, truth: Truth | None, folder: Path) -> None:
    """Write a training set to *folder*, which is made here.

    Float images become one tensor ``imgs``, 8-bit images ``data/<i>.png``: the toolkit reads both, and nothing is
    rounded.
    """
    if images.images.dtype == np.float32:
        if "data" in folder.as_posix().split(f"{TREE}/", maxsplit=1)[-1]:
            _log("the toolkit takes a set for a folder of PNG files when its path holds 'data': %s", folder)
        height, width, channels = images.image_shape
        tensor = torch.empty((len(images), channels, height, width))
        for part, pixels in images.chunks():
            tensor[part] = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        write_torch(folder / "imgs", tensor)
    else:
        write_pngs(images, folder / "data")
    write_torch(folder / "labels", torch.tensor(images.labels))
    if truth is not None:
        write_torch(folder / "poison_indices", np.flatnonzero(truth.poison).tolist())
        if truth.cover is not None and truth.cover.any():
            write_torch(folder / "cover_indices", np.flatnonzero(truth.cover).tolist())


def write_pngs(images: ImageSet, folder: Path) -> None:
    """Write ``<folder>/<i>.png``."""
    folder.mkdir(parents=True)
    rounded = 0
    for part, pixels in images.chunks():
        rounded += int(inexact(pixels).sum())
        for position, image in enumerate(to_bytes(pixels), start=part.start):
            save_png(image, folder / f"{position}.png")
    if rounded:
        _log("%s: %d images had finer steps than the 8 bits of this format, and were rounded", folder, rounded)


def write_split(images: ImageSet, folder: Path, labels: str) -> None:
    """Write a reserved clean set or a test set; it appears only when it is complete."""
    with atomic_folder(folder) as part:
        write_pngs(images, part / "data")
        write_torch(part / labels, torch.tensor(images.labels))


def write_sanitised(case: Case, outcome: Outcome, folder: Path) -> Path:
    """Write the purified set of *outcome*, all samples of it, as a set of its own."""
    assert outcome.train is not None
    with atomic_folder(folder) as part:
        write_set(outcome.train, case.truth, part)
    return folder


def write_weights(model: Classifier, file: Path) -> Path:
    """Write the bare state dict, as the toolkit keeps models."""
    state = model.module.state_dict()
    write_torch(file, {name: value.detach().cpu().clone() for name, value in state.items()})
    return file


def purified_name(defense: str) -> str:
    """Return the folder name of a purified set; in capitals, because the toolkit trips over "data" in a path."""
    return f"purified_{defense.upper()}"


def root_of(folder: Path) -> Path:
    """Return the checkout that the set folder *folder* belongs to.

    :raises InputError: when the toolkit could not find a set there.
    """
    if folder.parent.parent.name != TREE:
        raise InputError(
            "the toolkit would not find a set here",
            where=folder,
            allowed=f"<checkout>/{TREE}/<dataset>/<type>_<rate>_poison_seed=0, e.g. badnet_0.050_poison_seed=0",
        )
    return folder.parent.parent.parent


def dataset_of(folder: Path) -> tuple[str, str]:
    """Return data set and directory of a set from its path; a purified set lies one folder deeper."""
    for each in (folder, folder.parent):
        if each.parent.parent.name == TREE:
            return each.parent.name, each.name
    return folder.parent.name, folder.name


def _log(text: str, *values: object) -> None:
    logging.getLogger(__name__).warning(text, *values)

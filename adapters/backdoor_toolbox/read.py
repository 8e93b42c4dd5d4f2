"""Reading one folder of a set: images in either layout, labels, and lists of positions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ...adapter import existing
from ...core.case import Truth
from ...core.images import ImageBacking, Images, ImageSet, Index, checked_labels
from ...core.scale import in_unit_range
from ...errors import InputError
from ...io.folders import Walk, is_folder
from ...io.images import image_shape
from ...io.opening import is_there
from ...io.reading import read_torch
from ..common.images import eager_or_lazy, file_reader
from ..common.untrusted import numbers
from .export import CLEAN_LABEL

EAGER_BYTES = 1 << 30


def labels_of(split: Path) -> Path:
    """Return the labels file of a clean folder; the toolkits call it by two names."""
    found = [split / name for name in ("clean_labels", "labels") if is_there(split / name)]
    return found[0] if found else split / "labels"


def read_labels(file: Path) -> Index:
    """Read the labels int64 ``[N]``, as the toolkits save them.

    :raises InputError: for anything but integers in one dimension.
    """
    array = numbers(read_torch(file), file)
    if array.ndim != 1 or (array.dtype.kind not in "iu" and len(array)):
        raise InputError(
            "labels must be integers [N]", where=file, found=f"{array.dtype} {array.shape}", allowed="int64 [N]"
        )
    return array.astype(np.int64)


def read_set(folder: Path, labels: Index, num_classes: int, file: Path) -> ImageSet:
    """Read one folder in either layout; which one is told by what is there, never by names of parent folders."""
    labels = checked_labels(labels, len(labels), num_classes, str(file))
    if is_there(folder / "imgs"):
        images: ImageBacking = _read_tensor(folder / "imgs")
        names = None
        _refuse_other_length(images.shape[0], len(labels), folder / "imgs", file)
    elif is_folder(folder / "data"):
        found = (Path(entry.name) for entry in Walk(folder / "data").entries(""))
        stems = {path.stem for path in found if path.suffix == ".png" and path.stem.isdecimal()}
        _refuse_other_length(len(stems), len(labels), folder / "data", file)
        names = [f"data/{position}.png" for position in range(len(labels))]
        paths = [folder / name for name in names]
        shape = (*image_shape(existing(paths[0], "image 0"))[:2], 3)
        images = eager_or_lazy(file_reader(paths, 3, shape=shape), len(paths), shape, EAGER_BYTES)
    else:
        raise InputError("no images", where=folder, allowed="a file imgs, or a folder data with <i>.png")
    return ImageSet(images, labels, num_classes, names)


def _read_tensor(file: Path) -> Images:
    tensor = read_torch(file)
    array = numbers(tensor, file)
    if not isinstance(tensor, torch.Tensor) or array.ndim != 4 or array.dtype != np.float32:
        found = f"{type(tensor).__name__} {array.dtype} {array.shape}"
        raise InputError("images must be a float32 tensor", where=file, found=found, allowed="float32 [N, 3, H, W]")
    return in_unit_range(np.ascontiguousarray(array.transpose(0, 2, 3, 1)), file)


def _refuse_other_length(images: int, labels: int, where: Path, file: Path) -> None:
    if images != labels or not labels:
        raise InputError(
            "one label per image",
            where=where,
            found=f"{images} images, {labels} labels in {file.name}",
            allowed="the same number, at least one",
            hint="the set is incomplete, or labels belong to another set",
        )


def read_truth(folder: Path, directory: str, n: int, notes: list[str]) -> Truth | None:
    """Read which samples are poison and which are covers; None, with a note, when the set does not say.

    :param directory: name of the set, which tells clean-label attacks from others.
    :param n: size of the set.
    """
    if not is_there(folder / "poison_indices"):
        notes.append("no poison_indices: TPR and FPR are not measured")
        return None
    poison = _mask(folder / "poison_indices", n)
    cover = _mask(folder / "cover_indices", n) if is_there(folder / "cover_indices") else None
    kind = "clean-label" if directory.startswith(CLEAN_LABEL) else "dirty-label"
    return Truth(poison, cover, kind=kind if poison.any() else "none")


def _mask(file: Path, n: int) -> NDArray[np.bool_]:
    array = numbers(read_torch(file), file)
    if array.ndim != 1 or (len(array) and array.dtype.kind not in "iu"):
        raise InputError("not a list of positions", where=file, found=f"{array.dtype} {array.shape}")
    bad = array[(array < 0) | (array >= n)]
    if len(bad):
        found = f"{bad[0]} ({len(bad)} such)"
        raise InputError("position out of range", where=file, found=found, allowed=f"0..{n - 1}")
    mask = np.zeros(n, bool)
    mask[array.astype(np.int64)] = True
    return mask

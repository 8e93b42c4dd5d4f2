"""BackdoorBox's datasets, read by what they have rather than by what they are: BackdoorBox is never imported.

A poisoned dataset makes its samples on demand: ``poisoned_set`` says which, ``poisoned_transform`` is the user's own
transform with the trigger put in. How its items are read is in :mod:`.plain`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, Subset

from ...api.models import as_classifier
from ...api.names import parts_of
from ...core.case import Truth
from ...core.classifier.classifier import Classifier
from ...core.images import ImageSet, Index
from ...errors import InputError, reason_of
from ..common.mirroring import mirror_of
from ..common.transforms import normalisation_in, steps_of

BY_FILE_NAME = "CreatePoisonedTargetDataset"  # its poisoned_set holds numbers of files, not positions
Stats = tuple[Sequence[float], Sequence[float]]
COVERS = ("noise_set", "covered_set")  # triggered, label kept


class Swapped(nn.Module):
    """A module that was trained on images with the channels in reverse order (``cv2.imread``), fed with RGB."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.inner(images.flip(1))
        return logits


class Adapted(nn.Module):
    """A classifier for images as a host's datasets give them: normalised, maybe with blue first."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: Classifier, mean: Sequence[float], std: Sequence[float], swap: bool) -> None:
        super().__init__()
        self.model, self.swap = model, swap
        self.register_buffer("mean", torch.tensor(mean).reshape(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).reshape(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        images = images * self.std + self.mean
        logits: Tensor = self.model(images.flip(1) if self.swap else images)
        return logits


def truth_of(dataset: Any, labels: Index) -> Truth | None:
    """Return what the dataset says about itself, or None when it says nothing.

    :param labels: ``[N]`` as a model is trained with.
    """
    if all(getattr(part, "poisoned_set", None) is None for part in parts_of(dataset)):
        return None
    poison, cover = membership(dataset)
    original = original_labels(dataset)
    moved = bool((original != labels)[poison].any())
    kind = "none" if not poison.any() else "dirty-label" if moved else "clean-label"
    return Truth(poison, cover, original, kind)


def membership(dataset: Any) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which samples carry the trigger, as bool ``[N]``: poison, and covers."""

    def named(names: Sequence[str]) -> Callable[[Any], NDArray[Any]]:
        def of(part: Any) -> NDArray[np.bool_]:
            keys = _file_numbers(part) if type(part).__name__ == BY_FILE_NAME else np.arange(len(part))
            members = {int(key) for name in names for key in getattr(part, name, None) or ()}
            return np.isin(keys, np.fromiter(members, np.int64, len(members)))

        return of

    poison, cover = (per_sample(dataset, named(names)) for names in (("poisoned_set",), COVERS))
    return poison, cover & ~poison


def original_labels(dataset: Any) -> Index:
    """Return the labels ``[N]`` before poisoning."""

    def of(part: Any) -> Index:
        targets = getattr(part, "targets", None)
        if targets is None:
            raise InputError("the dataset does not know its labels", where=type(part).__name__, allowed=".targets")
        return np.array([int(each) for each in targets], np.int64)

    return per_sample(dataset, of)


def per_sample(dataset: Any, of: Callable[[Any], NDArray[Any]]) -> NDArray[Any]:
    """Return one value per sample, put together from those of the datasets below all subsets and concatenations.

    :raises InputError: for a subset that counts from the end: ``poisoned_set`` does not.
    """
    if isinstance(dataset, Subset):
        rows = np.asarray(dataset.indices, np.int64)
        if rows.size and rows.min() < 0:
            raise InputError(
                "negative positions in a subset", where="Subset.indices", found=rows.min(), allowed="0 or more"
            )
        return per_sample(dataset.dataset, of)[rows]
    if isinstance(dataset, ConcatDataset):
        return np.concatenate([per_sample(part, of) for part in dataset.datasets])
    return of(dataset)


def classes_of(dataset: Any) -> int:
    """Return the number of classes the dataset names, or 0."""
    return max(len(getattr(part, "classes", ()) or ()) for part in parts_of(dataset))


def may_mirror(dataset: Any) -> bool | None:
    """Return whether images of *dataset* may be mirrored, as far as its class or the folder it reads says."""
    found = {
        mirror_of([*(cls.__name__ for cls in type(part).__mro__), *Path(str(getattr(part, "root", ""))).parts])
        for part in parts_of(dataset)
    }
    return found.pop() if len(found) == 1 else None


def is_bgr(dataset: Any, color: str | None, where: str) -> bool:
    """Tell whether images come with blue first.

    :raises InputError: when the loader gives plain arrays and nothing says which.
    """
    if color is not None:
        if color not in ("rgb", "bgr"):
            raise InputError("unknown order of channels", where="color", found=color, allowed="rgb, bgr")
        return color == "bgr"
    found = {_part_is_bgr(part, where) for part in parts_of(dataset)}
    if len(found) > 1:
        raise InputError("blue comes first in some parts only", where=where, hint="hand the parts over one by one")
    return found.pop()


def _part_is_bgr(dataset: Any, where: str) -> bool:
    loader, samples = getattr(dataset, "loader", None), getattr(dataset, "samples", None)
    if loader is None or not samples:
        return False  # MNIST, CIFAR10 and the like: pictures
    if getattr(loader, "__name__", "") == "imread" and str(getattr(loader, "__module__", "cv2")).startswith("cv2"):
        return True
    try:
        image = loader(samples[0][0])
    except Exception as error:
        raise InputError("the data set failed at a sample", where=f"{where}[0]", found=reason_of(error)) from error
    if isinstance(image, np.ndarray) and image.ndim == 3 and image.shape[2] == 3:
        raise InputError(
            "it is unclear whether blue or red comes first", where=f"{where}.loader",
            found=getattr(loader, "__qualname__", type(loader).__name__), allowed="color='bgr' (cv2.imread) or 'rgb'",
        )  # fmt: skip
    return False


def refuse_other_inputs(datasets: Mapping[str, Any], color: str | None, stats: Stats | None = None) -> None:
    """Refuse datasets that show one model differently made images: normalised otherwise, or with other channels first.

    :param stats: mean and deviation that hold for all, whatever the datasets say.
    """
    for what, of in (
        ("normalise differently", lambda name: stats or normalisation_of(datasets[name])),
        ("have their channels in different order", lambda name: is_bgr(datasets[name], color, name)),
    ):
        found = {name: of(name) for name in datasets}
        if len({repr(value) for value in found.values()}) > 1:
            raise InputError(
                f"the datasets {what}, and the model can only know one of it", where=", ".join(datasets), found=found,
                hint="give all of them the same transform, or the same loader",
            )  # fmt: skip


def host_classifier(
    module: nn.Module, dataset: Any, shown: ImageSet, *, color: str | None, stats: Stats | None = None
) -> Classifier:
    """Return a copy of a host's network as a classifier of RGB images in [0, 1].

    :param dataset: one the network works on: says how it normalises, and which channel comes first.
    :param shown: the same dataset, read.
    :param stats: mean and deviation, instead of what the dataset says.
    """
    mean, std = stats or normalisation_of(dataset) or ([0.0], [1.0])
    if is_bgr(dataset, color, "dataset"):
        module, mean, std = Swapped(module), [*mean][::-1], [*std][::-1]
    images = shown.read(slice(0, 2))
    return as_classifier(module, images=images, num_classes=shown.num_classes, mean=mean, std=std)


def host_module(model: Classifier, dataset: Any, color: str | None) -> nn.Module:
    """Return what a host can use on *dataset*: its own kind of module if nothing is lost by it."""
    swap = is_bgr(dataset, color, "dataset")
    mean, std = normalisation_of(dataset) or ([0.0], [1.0])
    expected = [each[::-1] if swap else each for each in (mean, std)]
    same = all(
        torch.allclose(given.flatten().cpu(), torch.tensor(wanted).expand(given.numel()), atol=1e-6)
        for given, wanted in zip((model.mean, model.std), expected, strict=True)
        if len(wanted) in (1, given.numel())
    ) and all(len(wanted) in (1, model.mean.numel()) for wanted in expected)
    if same and isinstance(model.module, Swapped) == swap and model.input_size is None:
        return own_module(model)
    return Adapted(model, mean, std, swap).eval()


def own_module(model: Classifier) -> nn.Module:
    """Return the module inside *model* without the swap of channels."""
    return model.module.inner if isinstance(model.module, Swapped) else model.module


def normalisation_of(dataset: Any) -> tuple[list[float], list[float]] | None:
    """Return mean and deviation that the dataset's transform normalises with, or None.

    Several normalisations count as the one that they come to.

    :raises InputError: when the parts of a concatenation normalise differently.
    """
    found = [normalisation_in(steps_of(getattr(part, "transform", None))) for part in parts_of(dataset)]
    if any(each != found[0] for each in found):
        raise InputError("the parts of the dataset normalise differently", where=type(dataset).__name__, found=found)
    return found[0]


def _file_numbers(dataset: Any) -> NDArray[np.int64]:
    return np.array([int(Path(path).name.split(".")[0]) for path, _ in dataset.samples], np.int64)

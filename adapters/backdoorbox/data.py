"""BackdoorBox's datasets, read by what they have rather than by what they are: BackdoorBox is never imported.

A poisoned dataset makes its samples on demand: ``poisoned_set`` says which, ``poisoned_transform`` is the user's own
transform with the trigger put in. What is read here are its own items, with everything random taken out of the
transforms and the trigger left in.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset

from ...api.convert import RawDataset, to_raw
from ...api.models import as_classifier
from ...core.case import Truth
from ...core.classifier.classifier import Classifier
from ...core.images import ImageSet, Index
from ...errors import InputError
from ..common.mirroring import mirror_of

BY_FILE_NAME = "CreatePoisonedTargetDataset"  # its poisoned_set holds numbers of files, not positions
KEPT = {"ToPILImage", "Resize", "CenterCrop", "Grayscale", "ToTensor", "PILToTensor", "ConvertImageDtype"}
TO_TENSOR = {"ToTensor", "PILToTensor", "ConvertImageDtype"}
Stats = tuple[Sequence[float], Sequence[float]]
COVERS = ("noise_set", "covered_set")  # triggered, label kept


class Chain:
    """Transforms one after the other; the toolkit itself inserts further ones."""

    def __init__(self, transforms: Sequence[Any]) -> None:
        self.transforms = list(transforms)

    def __call__(self, image: Any) -> Any:
        for transform in self.transforms:
            image = transform(image)
        return image


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


class Plain(Dataset[Any]):
    """Items of a dataset, channels turned to RGB."""

    def __init__(self, dataset: Any, swap: bool) -> None:
        self.dataset, self.swap = dataset, swap

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image, label = self.dataset[index][:2]
        if self.swap:
            image = image.flip(0) if isinstance(image, Tensor) else np.asarray(image)[..., ::-1]
        return image, int(label)


def read_plain(dataset: Any, *, color: str | None = None, seed: int = 0, where: str = "dataset") -> RawDataset:
    """Return images and labels of a dataset, poisoned or not, without random augmentation; RGB.

    :param color: ``"rgb"`` or ``"bgr"``: what the dataset's loader gives; default: found out.
    :param seed: for triggers that are drawn anew at every access; one draw is taken.
    """
    swap = is_bgr(dataset, color, where)
    return to_raw(Plain(without_randomness(dataset), swap), seed=seed, where=where, changing=True)


def truth_of(dataset: Any, labels: Index) -> Truth | None:
    """Return what the dataset says about itself, or None when it says nothing.

    :param labels: ``[N]`` as a model is trained with.
    """
    inner, rows = _base(dataset)
    poisoned = getattr(inner, "poisoned_set", None)
    if poisoned is None:
        return None
    keys = _file_numbers(inner) if type(inner).__name__ == BY_FILE_NAME else np.arange(len(inner))
    poison = np.isin(keys, np.fromiter(poisoned, np.int64, len(poisoned)))
    cover = np.zeros_like(poison)
    for name in COVERS:
        members = getattr(inner, name, ())
        cover |= np.isin(keys, np.fromiter(members, np.int64, len(members)))
    original = original_labels(dataset)
    moved = bool((original != labels)[poison[rows]].any())
    kind = "none" if not poison[rows].any() else "dirty-label" if moved else "clean-label"
    return Truth(poison[rows], (cover & ~poison)[rows], original, kind)


def original_labels(dataset: Any) -> Index:
    """Return the labels ``[N]`` before poisoning."""
    inner, rows = _base(dataset)
    targets = getattr(inner, "targets", None)
    if targets is None:
        raise InputError("the dataset does not know its labels", where=type(inner).__name__, allowed=".targets")
    return np.array([int(each) for each in targets], np.int64)[rows]


def classes_of(dataset: Any) -> int:
    """Return the number of classes the dataset names, or 0."""
    inner, _ = _base(dataset)
    return len(getattr(inner, "classes", ()) or ())


def may_mirror(dataset: Any) -> bool | None:
    """Return whether images of *dataset* may be mirrored, as far as its class or the folder it reads says."""
    inner, _ = _base(dataset)
    return mirror_of([*(cls.__name__ for cls in type(inner).__mro__), *Path(str(getattr(inner, "root", ""))).parts])


def is_bgr(dataset: Any, color: str | None, where: str) -> bool:
    """Tell whether images come with blue first.

    :raises InputError: when the loader gives plain arrays and nothing says which.
    """
    if color is not None:
        if color not in ("rgb", "bgr"):
            raise InputError("unknown order of channels", where="color", found=color, allowed="rgb, bgr")
        return color == "bgr"
    inner, _ = _base(dataset)
    loader, samples = getattr(inner, "loader", None), getattr(inner, "samples", None)
    if loader is None or not samples:
        return False  # MNIST, CIFAR10 and the like: pictures
    if getattr(loader, "__name__", "") == "imread" and str(getattr(loader, "__module__", "cv2")).startswith("cv2"):
        return True
    image = loader(samples[0][0])
    if isinstance(image, np.ndarray) and image.ndim == 3 and image.shape[2] == 3:
        raise InputError(
            "it is unclear whether blue or red comes first", where=f"{where}.loader",
            found=getattr(loader, "__qualname__", type(loader).__name__), allowed="color='bgr' (cv2.imread) or 'rgb'",
        )  # fmt: skip
    return False


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


def without_randomness(dataset: Any) -> Any:
    """Return a dataset with the same samples whose transforms draw nothing at random; the given one stays."""
    if isinstance(dataset, Subset):
        return Subset(without_randomness(dataset.dataset), dataset.indices)
    plain = copy.copy(dataset)
    benign = {type(each).__name__ for each in _steps(getattr(dataset, "transform", None))}
    kept = {
        name: [step for step in _steps(transform) if type(step).__name__ in KEPT or _is_trigger(step, benign)]
        for name, transform in vars(dataset).items()
        if "transform" in name and "target" not in name and callable(transform)
    }
    tensors = any(_trigger_behind_tensor(steps, benign) for steps in kept.values())
    for name, steps in kept.items():
        while not tensors and steps and type(steps[-1]).__name__ in TO_TENSOR:
            steps.pop()  # pixels stay as they are stored
        setattr(plain, name, Chain(steps))
    return plain


def normalisation_of(dataset: Any) -> tuple[list[float], list[float]] | None:
    """Return mean and deviation that the dataset's transform normalises with, or None."""
    inner, _ = _base(dataset)
    for step in _steps(getattr(inner, "transform", None)):
        if type(step).__name__ == "Normalize":
            return [float(each) for each in step.mean], [float(each) for each in step.std]
    return None


def _is_trigger(step: Any, benign: set[str]) -> bool:
    kind = type(step).__name__
    return kind.startswith("Add") or kind not in benign


def _trigger_behind_tensor(steps: Sequence[Any], benign: set[str]) -> bool:
    """Tell whether a trigger works on float tensors; then all samples must be read as such."""
    kinds = [type(step).__name__ in TO_TENSOR for step in steps]
    return any(_is_trigger(step, benign) and any(kinds[:place]) for place, step in enumerate(steps) if not kinds[place])


def _steps(transform: Any) -> list[Any]:
    if transform is None:
        return []
    return list(getattr(transform, "transforms", [transform]))


def _base(dataset: Any) -> tuple[Any, NDArray[np.int64]]:
    """Return the dataset below all subsets, and which of its positions are meant."""
    if isinstance(dataset, Subset):
        inner, rows = _base(dataset.dataset)
        return inner, rows[np.asarray(dataset.indices, np.int64)]
    return dataset, np.arange(len(dataset))


def _file_numbers(dataset: Any) -> NDArray[np.int64]:
    return np.array([int(Path(path).name.split(".")[0]) for path, _ in dataset.samples], np.int64)

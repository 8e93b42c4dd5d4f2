"""What a host hands over in memory: datasets, loaders, arrays and modules become image sets and classifiers.

Only the image and the label of a sample are looked at. Some toolkits' datasets also tell whether it is poisoned; that
is never read.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ..core.classes import shown_classes
from ..core.classifier.classifier import to_batch
from ..core.images import Images, ImageSet
from ..core.scale import refuse_zeros_and_ones
from ..errors import InputError, preview_list
from .arrays import Layout, Normalisation, array_images, integer_labels, is_one_hot
from .items import Form, Key, as_array
from .models import as_classifier  # noqa: F401  (its former home)
from .names import class_names, parts_of
from .reading import read_map, read_stream


@dataclass(frozen=True)
class RawDataset:
    """Images ``[N, H, W, C]`` and labels as they came, before the number of classes is known.

    :param classes: names of the classes as the host has them.
    :param notes: what a reader should know about the reading.
    """

    images: Images
    labels: NDArray[Any]
    layout: str = "nhwc"
    classes: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()

    def least_classes(self) -> int:
        """Return the width of one-hot labels, else the number of names, or the highest label plus one if it is more.

        :raises InputError: when that is no number of classes, see :func:`~elixir_plugin.core.classes.shown_classes`.
        """
        return least_classes([self])

    def image_set(self, num_classes: int, where: str) -> ImageSet:
        """Return the checked image set; it has names of classes where there are as many distinct ones as classes."""
        refuse_zeros_and_ones(self.images, f"{where}: images")
        labels = integer_labels(self.labels, num_classes, f"{where}: labels")
        named = self.classes is not None and len(set(self.classes)) == len(self.classes) == num_classes
        return ImageSet(self.images, labels, num_classes, classes=self.classes if named else None)


def least_classes(parts: Iterable[RawDataset], named: int = 0) -> int:
    """Return what one-hot labels and names say, at least *named*, or the highest label plus one if it is more.

    :raises InputError: when that is no number of classes, see :func:`~elixir_plugin.core.classes.shown_classes`.
    """
    labels = []
    for part in parts:
        one_hot = is_one_hot(part.labels)
        named = max(named, part.labels.shape[1] if one_hot else len(part.classes or ()))
        if not one_hot and part.labels.size and part.labels.dtype.kind in "iu":
            labels.append(part.labels)
    beyond = any(int(array.max()) >= named for array in labels)
    return shown_classes(labels) if beyond else named


def to_raw(
    data: Any,
    *,
    layout: Layout = "auto",
    normalised: Normalisation | None = None,
    image_key: Key = None,
    label_key: Key = None,
    changing: bool | Collection[int] = False,
    seed: int = 0,
    where: str = "data",
) -> RawDataset:
    """Read what a host calls a data set, in its own order.

    A map-style dataset is read twice and compared, so that each sample is sure to stand at its own position. A
    ``DataLoader`` must go through all of its dataset, each sample once; positions are those of the dataset, whatever
    the order of an epoch. An iterable dataset is read once, into memory: positions are the order of that pass.

    :param data: ``(images, labels)`` as arrays or tensors; a map-style dataset whose items start with image and label
        (``(image, label)``, or longer: the rest is not looked at), or are dicts; a ``DataLoader`` over one; an iterable
        of such items; or an :class:`ImageSet`.
    :param layout: of array images and of array items; see :func:`array_images`.
    :param normalised: what float pixels went through; it is undone.
    :param image_key, label_key: where image and label are: names in dict items, or positions in tuples.
    :param changing: take one look at images that change from one access to the next, instead of refusing them; or the
        positions of those that may change.
    :param seed: for transforms that draw random numbers; the host's streams are left as they were.
    :raises InputError: for anything else, for images that change from one access to the next (augmentation), that
        differ in size or leave [0, 1], for loaders whose samples have no fixed positions, for datasets that put the
        true label in the label's place, and, with the position, for whatever the dataset itself raises.
    """
    if isinstance(data, ImageSet):
        return RawDataset(data.load().read(slice(None)), data.labels, classes=data.classes)
    if _is_pair(data):
        images, labels = (
            as_array(part, f"{where}: {name}") for part, name in zip(data, ("images", "labels"), strict=True)
        )
        prefer = "nchw" if isinstance(data[0], Tensor) and layout == "auto" else None
        pixels, found = array_images(images, layout, f"{where}: images", normalised=normalised, prefer=prefer)
        return RawDataset(_owned(pixels, images), labels, found)
    form = Form(layout, normalised, image_key, label_key)
    with streams_aside(seed):
        if _is_stream(data):
            pixels, labels = read_stream(data, form, where)
            note = f"{where}: a stream, read once; positions are the order in which its {len(labels)} samples came"
            return RawDataset(pixels, labels, classes=class_names(data, label_key), notes=(note,))
        _refuse_others(data, where)
        pixels, labels = read_map(data, form, where, changing=changing)
    return RawDataset(pixels, labels, classes=class_names(data, label_key))


def as_image_set(data: Any, num_classes: int | None = None, *, where: str = "data", **options: Any) -> ImageSet:
    """Return *data* as an :class:`ImageSet`; an image set comes back as it is.

    :param num_classes: default: from one-hot labels, else the number of names that the data set has for its classes, or
        the highest label plus one if that is more.
    :param options: of :func:`to_raw`.

    >>> as_image_set((np.zeros((2, 8, 8, 3), np.uint8), [0, 1]))
    ImageSet(2 × (8, 8, 3), uint8, 2 classes)
    """
    if isinstance(data, ImageSet):
        return data
    raw = to_raw(data, where=where, **options)
    return raw.image_set(num_classes or raw.least_classes(), where)


class TensorImages(Dataset[tuple[Any, int]]):
    """An image set as a torch dataset: items ``(float32 [C, H, W] in [0, 1], int label)``.

    :param transform: applied to the image.

    >>> from elixir_plugin.testing import tiny_case
    >>> image, label = TensorImages(tiny_case().train)[0]
    >>> float(image.max()) <= 1, type(label)
    (True, <class 'int'>)
    """

    def __init__(self, images: ImageSet, transform: Any = None) -> None:
        self.images, self.transform = images, transform
        self.targets = images.labels.tolist()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        position = range(len(self))[index]
        pixels = self.images.read(slice(position, position + 1))
        image = to_batch(pixels, torch.device("cpu"))[0].contiguous()
        return (image if self.transform is None else self.transform(image)), self.targets[position]


@contextmanager
def streams_aside(seed: int) -> Iterator[None]:
    """Seed torch's, numpy's and Python's global streams for a while, and put them back as they were.

    For code of a host that draws from them; our own code has generators.
    """
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002  (the host's stream)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reach the host's CUDA streams too
        np.random.seed(seed % 2**32)  # noqa: NPY002
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)  # noqa: NPY002
            random.setstate(python_state)


def _is_pair(data: Any) -> bool:
    """Tell ``(images, labels)`` from a list of samples."""
    if not isinstance(data, tuple | list) or len(data) != 2:
        return False
    return isinstance(data[0], np.ndarray | Tensor) and data[0].ndim == 4


def _is_stream(data: Any) -> bool:
    """Tell what can only be gone through from what has samples at positions."""
    if isinstance(data, DataLoader | Mapping | Set | str | bytes | np.ndarray | Tensor):
        return False
    return isinstance(data, IterableDataset) or (hasattr(data, "__iter__") and not hasattr(data, "__getitem__"))


def _refuse_others(data: Any, where: str) -> None:
    """Refuse what has no samples at positions, and data sets that hand out true labels."""
    readable = hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, Mapping | str | bytes)
    if not isinstance(data, DataLoader) and not readable:
        named = isinstance(data, Mapping)
        raise InputError(
            "not a data set",
            where=where,
            found=f"{type(data).__name__} of {preview_list(list(data), 8)}" if named else type(data).__name__,
            allowed="a pair (images, labels), a torch Dataset, a DataLoader, or an ImageSet",
            hint="pass one of its parts" if named else None,
        )
    if any(getattr(part, "getitem_all_switch", False) is True for part in parts_of(data)):
        raise InputError(
            "the dataset puts the true label where the label belongs", where=f"{where}.getitem_all_switch", found=True,
            allowed="False: (image, label, …)",
        )  # fmt: skip


def _owned(pixels: Images, given: NDArray[Any]) -> Images:
    """Return a copy where *pixels* still are the host's own memory: it may go on writing there."""
    return pixels.copy() if np.shares_memory(pixels, given) else pixels

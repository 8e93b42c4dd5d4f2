"""What a host hands over in memory: datasets, loaders, arrays and modules become image sets and classifiers.

Only the image and the label of a sample are looked at. Some toolkits' datasets also tell whether it is poisoned; that
is never read.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, SequentialSampler

from ..core.classifier.classifier import to_batch
from ..core.images import Images, ImageSet
from ..errors import InputError
from ..io.images import refuse_deep
from .arrays import Layout, Normalisation, array_images, integer_labels, is_one_hot
from .models import as_classifier  # noqa: F401  (its former home)

CHUNK = 256


@dataclass(frozen=True)
class RawDataset:
    """Images ``[N, H, W, C]`` and labels as they came, before the number of classes is known."""

    images: Images
    labels: NDArray[Any]
    layout: str = "nhwc"

    def least_classes(self) -> int:
        """Return the width of one-hot labels, else the highest label plus one."""
        if is_one_hot(self.labels):
            return int(self.labels.shape[1])
        return int(self.labels.max()) + 1 if self.labels.size and self.labels.dtype.kind in "iu" else 0

    def image_set(self, num_classes: int, where: str) -> ImageSet:
        """Return the checked image set."""
        return ImageSet(self.images, integer_labels(self.labels, num_classes, f"{where}: labels"), num_classes)


def to_raw(
    data: Any,
    *,
    layout: Layout = "auto",
    normalised: Normalisation | None = None,
    changing: bool = False,
    seed: int = 0,
    where: str = "data",
) -> RawDataset:
    """Read what a host calls a data set, in its own order.

    :param data: ``(images, labels)`` as arrays or tensors; a map-style dataset whose items start with image and label
        (``(image, label)``, or longer: the rest is not looked at); a ``DataLoader`` over one; or an :class:`ImageSet`.
    :param layout: of array images and of array items; see :func:`array_images`.
    :param normalised: what float pixels went through; it is undone.
    :param changing: take one look at images that change from one access to the next, instead of refusing them.
    :param seed: for transforms that draw random numbers; the host's streams are left as they were.
    :raises InputError: for anything else, for images that change from one access to the next (augmentation), that
        differ in size or leave [0, 1], and for datasets that put the true label in the label's place.
    """
    if isinstance(data, ImageSet):
        return RawDataset(data.load().read(slice(None)), data.labels)
    if _is_pair(data):
        images, labels = (_array(part) for part in data)
        prefer = "nchw" if isinstance(data[0], Tensor) and layout == "auto" else None
        pixels, found = array_images(images, layout, f"{where}: images", normalised=normalised, prefer=prefer)
        return RawDataset(_owned(pixels, images), labels, found)
    with streams_aside(seed):
        return _read_dataset(data, layout, normalised, where, changing=changing)


def as_image_set(data: Any, num_classes: int | None = None, *, where: str = "data", **options: Any) -> ImageSet:
    """Return *data* as an :class:`ImageSet`; an image set comes back as it is.

    :param num_classes: default: from one-hot labels, else the highest label plus one.
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


def _read_dataset(
    data: Any, layout: Layout, normalised: Normalisation | None, where: str, *, changing: bool
) -> RawDataset:
    batches, dataset = _batches(data, where)
    if getattr(dataset, "getitem_all_switch", False):
        raise InputError(
            "the dataset puts the true label where the label belongs", where=f"{where}.getitem_all_switch", found=True,
            allowed="False: (image, label, …)",
        )  # fmt: skip
    if not changing:
        _refuse_changing(dataset, where)
    images: Images | None = None
    labels: list[NDArray[Any]] = []
    filled = 0
    for batch in batches:
        pixels, numbers = _columns(batch, layout, normalised, f"{where}[{filled}…]")
        if images is None:
            images = np.empty((len(dataset), *pixels.shape[1:]), pixels.dtype)
        if pixels.shape[1:] != images.shape[1:] or pixels.dtype != images.dtype:
            raise _mixed(where, f"{pixels.dtype} {pixels.shape[1:]}", f"{images.dtype} {images.shape[1:]}")
        images[filled : filled + len(pixels)] = pixels
        filled += len(pixels)
        labels.append(numbers)
    if images is None:
        raise InputError("the data set is empty", where=where)
    return RawDataset(images[:filled], np.concatenate(labels))


def _batches(data: Any, where: str) -> tuple[DataLoader[Any], Any]:
    """Return a loader that goes through the samples in their own order, and the dataset behind it."""
    if isinstance(data, DataLoader):
        plain = type(data.sampler) in (SequentialSampler, RandomSampler)
        if isinstance(data.dataset, IterableDataset) or not plain:
            raise InputError(
                "the samples of this loader have no fixed positions",
                where=where,
                found=type(data.dataset if plain else data.sampler).__name__,
                allowed="a loader that goes through all of a map-style dataset",
                hint="pass the dataset itself, or a torch.utils.data.Subset of it",
            )
        ordered: DataLoader[Any] = DataLoader(
            data.dataset, data.batch_size or CHUNK, num_workers=data.num_workers, collate_fn=data.collate_fn
        )
        return ordered, data.dataset
    readable = hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, Mapping | str)
    if isinstance(data, IterableDataset) or not readable:
        raise InputError(
            "not a data set",
            where=where,
            found=type(data).__name__,
            allowed="a pair (images, labels), a map-style torch Dataset, a DataLoader, or an ImageSet",
        )
    return DataLoader(data, CHUNK, collate_fn=list), data


def _refuse_changing(dataset: Any, where: str) -> None:
    """Refuse a dataset whose first images differ from one access to the next."""
    for position in range(min(8, len(dataset))):
        first, second = (_image(_sample(dataset[position], f"{where}[{position}]")[0], "auto") for _ in range(2))
        if first.shape != second.shape or not np.array_equal(first, second):
            raise InputError(
                "images change from one access to the next",
                where=f"{where}[{position}]",
                hint="hand the dataset over without random augmentation; the defense adds its own",
            )


def _sample(item: Any, where: str) -> Sequence[Any]:
    if not isinstance(item, tuple | list) or len(item) < 2:
        raise InputError(
            "a sample is not (image, label, …)", where=where, found=type(item).__name__, allowed="a tuple of 2 or more"
        )
    return item


def _columns(batch: Any, layout: Layout, normalised: Normalisation | None, where: str) -> tuple[Images, NDArray[Any]]:
    """Return images and labels of a list of samples, or of a batch that a loader has collated."""
    if isinstance(batch, list) and batch and isinstance(batch[0], tuple | list):
        samples = [_sample(item, where) for item in batch]
        pictures = [_image(item[0], layout) for item in samples]
        kinds = {(each.shape, each.dtype.str) for each in pictures}
        if len(kinds) > 1:
            raise _mixed(where, *(f"{dtype} {shape}" for shape, dtype in sorted(kinds)[:2]))
        stacked, labels = np.stack(pictures), np.stack([_array(item[1]) for item in samples])
        layout = "nhwc"
    else:
        first, *rest = _sample(batch, where)
        stacked, labels = _array(first), _array(rest[0])
        if layout == "auto" and isinstance(first, Tensor) and stacked.ndim == 4:
            layout = "nchw" if stacked.shape[1] in (1, 3) else "nhwc"
    return array_images(stacked, layout, where, normalised=normalised)[0], labels


def _image(value: Any, layout: Layout) -> NDArray[Any]:
    """Return one image ``[H, W, C]`` from a picture, an array (channels last if it may be) or a tensor (first)."""
    array = _array(value)
    if array.ndim == 2:
        return array[:, :, None]
    if array.ndim != 3:
        return array  # refused, with its shape, where the batch is checked
    first, last = array.shape[0] in (1, 3), array.shape[2] in (1, 3)
    channels_first = layout == "nchw" or (layout == "auto" and first and (isinstance(value, Tensor) or not last))
    return array.transpose(1, 2, 0) if channels_first else array


def _array(value: Any) -> NDArray[Any]:
    if isinstance(value, Tensor):
        return value.detach().cpu().numpy()
    mode = getattr(value, "mode", None)  # a PIL image
    if isinstance(mode, str) and hasattr(value, "convert"):
        refuse_deep(value, "a picture of the data set")
        value = value if mode in ("L", "RGB") else value.convert("RGB")
    return np.asarray(value)


def _is_pair(data: Any) -> bool:
    """Tell ``(images, labels)`` from a list of samples."""
    if not isinstance(data, tuple | list) or len(data) != 2:
        return False
    return isinstance(data[0], np.ndarray | Tensor) and data[0].ndim == 4


def _owned(pixels: Images, given: NDArray[Any]) -> Images:
    """Return a copy where *pixels* still are the host's own memory: it may go on writing there."""
    return pixels.copy() if np.shares_memory(pixels, given) else pixels


def _mixed(where: str, found: str, allowed: str) -> InputError:
    return InputError(
        "images of mixed size or type", where=where, found=found, allowed=allowed, hint="resize them in the transform"
    )

"""One sample as a host has it: which part is the image, which the label, and both as arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..core.images import Images
from ..errors import InputError, nearest, preview_list
from ..io.images import refuse_deep
from .arrays import Layout, Normalisation, array_images

Key = str | int | None
USUAL_IMAGE = ("image", "img", "images", "pixel_values", "picture", "x")  # for a hint alone
USUAL_LABEL = ("label", "labels", "fine_label", "target", "class", "y")


@dataclass(frozen=True)
class Form:
    """How to read samples.

    :param layout: of arrays and tensors; see :func:`~elixir_plugin.api.arrays.array_images`.
    :param normalised: what float pixels went through; it is undone.
    :param image_key, label_key: names of the parts of dict items, or positions in tuples; default: first and second.
    """

    layout: Layout = "auto"
    normalised: Normalisation | None = None
    image_key: Key = None
    label_key: Key = None

    def sample(self, item: Any, where: str) -> tuple[Images, NDArray[Any]]:
        """Return image ``[H, W, C]`` and label, ``[]`` or ``[K]``, of one item.

        :raises InputError: for items of another kind, and images or labels that cannot be read.
        """
        return self.pair(self.parts(item, where), where)

    def pair(self, parts: tuple[Any, Any], where: str) -> tuple[Images, NDArray[Any]]:
        """Return the same of ``(image, label)`` taken from an item already."""
        return self.image(parts[0], where), label_array(parts[1], f"{where}: label")

    def parts(self, item: Any, where: str) -> tuple[Any, Any]:
        """Return what stands for image and label in an item, or in a batch of them."""
        if isinstance(item, Mapping):
            return self._named(item, where)
        fields = getattr(item, "_fields", ())
        if isinstance(item, tuple | list) and len(item) >= 2:
            keys = (0 if self.image_key is None else self.image_key, 1 if self.label_key is None else self.label_key)
            named = [fields.index(key) if key in fields else key for key in keys]
            places = [place for place in named if isinstance(place, int) and -len(item) <= place < len(item)]
            if len(places) == 2:
                return item[places[0]], item[places[1]]
        raise InputError(
            "a sample is not (image, label, …)",
            where=where,
            found=f"{type(item).__name__}{f' of {len(item)}' if isinstance(item, tuple | list) else ''}",
            allowed=f"a tuple of 2 or more{self._asked()}, or a dict",
        )

    def image(self, value: Any, where: str) -> Images:
        """Return one image ``[H, W, C]`` from a picture, an array, or a tensor (channels first if they may be)."""
        array, layout = as_array(value, where), self.layout
        if array.ndim == 2:
            array, layout = array[:, :, None], "nhwc"
        elif _is_picture(value):
            layout = "nhwc"
        prefer = "nchw" if isinstance(value, Tensor) else None
        pixels: Images = array_images(array[None], layout, where, normalised=self.normalised, prefer=prefer)[0][0]
        return pixels

    def _named(self, item: Mapping[Any, Any], where: str) -> tuple[Any, Any]:
        names = preview_list(list(item), 12)
        if self.image_key is None or self.label_key is None:
            raise InputError(
                "a sample is a dict, not (image, label, …)",
                where=where,
                found=f"keys {names}",
                hint=f"say which are meant: {_suggested('image_key', item, USUAL_IMAGE)}, "
                f"{_suggested('label_key', item, USUAL_LABEL)}",
            )
        for key in (self.image_key, self.label_key):
            if key not in item:
                raise InputError(
                    f"a sample has no {key!r}",
                    where=where,
                    found=f"keys {names}",
                    hint=nearest(str(key), map(str, item)),
                )
        return item[self.image_key], item[self.label_key]

    def _asked(self) -> str:
        given = {"image_key": self.image_key, "label_key": self.label_key}
        text = ", ".join(f"{name}={key!r}" for name, key in given.items() if key is not None)
        return f" with {text}" if text else ""


def as_array(value: Any, where: str) -> NDArray[Any]:
    """Return a tensor, a picture or whatever numpy takes as an array.

    :raises InputError: for what numpy does not take.
    """
    try:
        if isinstance(value, Tensor):
            tensor = value.detach().cpu()
            return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
        if _is_picture(value):
            refuse_deep(value, where)
            mode = {"L": "L", "1": "L"}.get(value.mode, "RGB")  # bilevel pictures hold black and white
            value = value if mode == value.mode else value.convert(mode)
        return np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:  # ragged lists; quantised, sparse and meta tensors
        raise InputError("not an array", where=where, found=f"{type(value).__name__}: {error}"[:200]) from error


def label_array(value: Any, where: str) -> NDArray[Any]:
    """Return a label as an array ``[]``, or ``[K]`` where it is a one-hot row.

    :raises InputError: for anything but numbers.
    """
    array = as_array(value, where)
    if array.ndim > 1 or array.dtype.kind not in "biuf":
        raise InputError(
            "labels must be integers",
            where=where,
            found=f"{type(value).__name__} {preview_list([value])}"[:80] if array.ndim == 0 else f"shape {array.shape}",
            allowed="an integer, or a one-hot row",
        )
    return array


def rows_of(batch: Any, count: int, form: Form, where: str) -> list[tuple[Any, Any]]:
    """Return ``count`` pairs (image, label) of what a ``collate_fn`` made of as many samples.

    :param batch: images and labels, each with one entry per sample, in a tuple or dict; or a list of samples.
    :raises InputError: for another number of entries, because positions are then unclear.
    """
    if isinstance(batch, tuple | list) and not _is_columns(batch, form):
        pairs = [form.parts(item, where) for item in batch]
        counts = [len(pairs)]
    else:
        images, labels = form.parts(batch, where)
        counts = [_length(images), _length(labels)]
        pairs = list(zip(images, labels, strict=True)) if counts == [count, count] else []
    if any(each != count for each in counts):
        raise InputError(
            "collate_fn leaves out or adds samples",
            where=where,
            found=f"{' and '.join(map(str, counts))} of {count}",
            allowed="one image and one label for each sample, in their order",
            hint="pass the data set itself, without the samples to leave out: torch.utils.data.Subset(dataset, rows)",
        )
    return pairs


def _is_columns(batch: Sequence[Any], form: Form) -> bool:
    """Tell images and labels from a list of samples."""
    place = form.image_key if isinstance(form.image_key, int) else 0
    if not -len(batch) <= place < len(batch):
        return False
    first = batch[place]
    if isinstance(first, tuple | list):
        return len(first) > 0 and all(_is_picture(each) or getattr(each, "ndim", 0) >= 2 for each in first)
    return not isinstance(first, Mapping)


def _length(column: Any) -> int:
    return len(column) if hasattr(column, "__len__") and getattr(column, "ndim", 1) != 0 else 0


def _is_picture(value: Any) -> bool:
    """Tell a PIL image."""
    return isinstance(getattr(value, "mode", None), str) and hasattr(value, "convert")


def _suggested(argument: str, item: Mapping[Any, Any], usual: Sequence[str]) -> str:
    fits = [name for name in usual if name in item]
    return f"{{argument:{argument}={fits[0] if len(fits) == 1 else 'NAME'}}}"

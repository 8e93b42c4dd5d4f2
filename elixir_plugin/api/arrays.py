"""Arrays from elsewhere: images in either layout, labels as integers or one-hot rows, normalised pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..core.images import Images, Index, checked_labels
from ..core.scale import TOLERANCE, in_unit_range
from ..errors import InputError

Layout = Literal["auto", "nhwc", "nchw"]
HALF = 1e-3  # what half precision leaves of a pixel behind an undone normalisation


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation per channel that float pixels have gone through: ``(pixel − mean) / std``."""

    mean: Sequence[float]
    std: Sequence[float]

    def undo(self, images: NDArray[Any], where: object = "images") -> NDArray[np.float32]:
        """Return images ``[..., C]`` in [0, 1]; what arithmetic leaves just outside is clipped.

        :raises InputError: for a mean or deviation of neither one value nor one per channel, and for what is outside.
        """
        mean, std = (np.asarray(each, np.float64).reshape(-1) for each in (self.mean, self.std))
        if any(len(each) not in (1, images.shape[-1]) for each in (mean, std)):
            raise InputError(
                "mean and std do not fit the images",
                where=where,
                found=f"{len(mean)} and {len(std)} values",
                allowed=f"one value, or one per channel ({images.shape[-1]})",
            )
        pixels: NDArray[np.float32] = (images * std + mean).astype(np.float32)
        return in_unit_range(pixels, where, tolerance=HALF if images.dtype == np.float16 else TOLERANCE)


def array_images(
    array: NDArray[Any],
    layout: Layout,
    where: str,
    *,
    normalised: Normalisation | None = None,
    prefer: str | None = None,
) -> tuple[Images, str]:
    """Return images ``[N, H, W, C]``, uint8 or float32 in [0, 1], and the layout they had.

    :param layout: ``"auto"``: whichever has 1 or 3 channels; *prefer* decides where both have.
    :raises InputError: for other shapes, types and values, naming what was found.
    """
    if array.ndim != 4:
        raise InputError(
            "images must have four axes", where=where, found=array.shape, allowed="[N, H, W, C] or [N, C, H, W]"
        )
    found = _layout(array.shape, where, prefer) if layout == "auto" else layout
    if found == "nchw":
        array = array.transpose(0, 2, 3, 1)
    if array.dtype.kind == "f":
        if normalised is not None:
            array = normalised.undo(array, where)
        array = in_unit_range(array, where).astype(np.float32, copy=False)
    elif array.dtype != np.uint8:
        raise InputError(
            "pixels of this type are not read",
            where=where,
            found=array.dtype,
            allowed="uint8 or float",
            hint=_as_pixels(array),
        )
    return np.ascontiguousarray(array), found


def _as_pixels(array: NDArray[Any]) -> str | None:
    """Return how to turn images of another type into pixels, where it is plain."""
    if array.dtype.kind == "b":
        return "multiply by 255, as uint8, if True is white"
    if array.dtype.kind in "iu" and array.size and array.min() >= 0 and 1 < array.max() <= 255:
        return "turn them into uint8"
    return None


def is_one_hot(array: NDArray[Any]) -> bool:
    """Tell whether labels are rows ``[N, K]`` rather than integers."""
    return array.ndim == 2 and array.shape[1] > 1


def integer_labels(array: NDArray[Any], num_classes: int, where: str) -> Index:
    """Return labels ``[N]`` from integers ``[N]``, a column ``[N, 1]`` or one-hot rows ``[N, K]``.

    :raises InputError: for anything else, and labels outside ``0..num_classes-1``.
    """
    if is_one_hot(array):
        if array.shape[1] != num_classes or not np.isin(array, (0, 1)).all() or (array.sum(axis=1) != 1).any():
            raise InputError(
                "labels are neither integers nor one-hot",
                where=where,
                found=f"{array.dtype} {array.shape}",
                allowed=f"integers [N], or [N, {num_classes}] with a single 1 in each row",
            )
        rows: Index = np.argmax(array, axis=1)
        return rows
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise InputError(
            "labels must be integers",
            where=where,
            found=f"{array.dtype} {array.shape}",
            allowed="integers [N] or one-hot [N, K]",
        )
    return checked_labels(array, len(array), num_classes, where)


def _layout(shape: Sequence[int], where: str, prefer: str | None) -> str:
    fits = [name for name, axis in (("nchw", 1), ("nhwc", 3)) if shape[axis] in (1, 3)]
    if prefer in fits:
        return str(prefer)
    if len(fits) != 1:
        what = "both layouts fit" if fits else "no axis has 1 or 3 channels"
        raise InputError(
            f"layout of the images is unclear: {what}",
            where=where,
            found=tuple(shape),
            allowed="[N, H, W, C] or [N, C, H, W] with 1 or 3 channels",
            hint="say which, e.g. {option:layout=nhwc}",
        )
    return fits[0]

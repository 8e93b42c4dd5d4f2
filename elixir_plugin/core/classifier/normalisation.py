"""Mean and standard deviation as people hold them: a number, a sequence, an array or a tensor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ...errors import InputError, preview_list

PerChannel: TypeAlias = float | Sequence[float] | NDArray[Any] | Tensor
"""One number for all channels, or one per channel; arrays may have further axes along which they are constant."""


def per_channel(value: PerChannel, channels: int | None = None, *, where: str = "mean") -> tuple[float, ...]:
    """Return one number, or one per channel.

    :param channels: of the images; None: as many as there are numbers.
    :raises InputError: for anything else.

    >>> per_channel(0.5), per_channel(np.full((3, 1, 1), 0.25))
    ((0.5,), (0.25, 0.25, 0.25))
    """
    try:
        plain = value.detach().cpu().numpy() if isinstance(value, Tensor) else value
        array = np.asarray(plain, np.float64)
    except (ValueError, TypeError):
        array = np.empty(0)
    if array.size == 0:
        raise InputError("not numbers", where=where, found=value, allowed="one number, or one per channel")
    if array.size == 1:
        return (float(array.reshape(())),)
    lengths = [channels] if channels is not None else [max(array.shape)] if array.size == max(array.shape) else []
    for axis, length in enumerate(array.shape):
        rows = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)
        if length in lengths and (rows == rows[:, :1]).all():
            return tuple(float(each) for each in rows[:, 0])
    raise InputError(
        "not one number per channel",
        where=where,
        found=f"{array.size} numbers, shape {array.shape}",
        allowed="one number" if channels is None else f"one number, or {channels}",
    )


def refuse_other_scale(mean: Sequence[float], std: Sequence[float]) -> None:
    """Refuse a normalisation that is meant for pixels of another range than [0, 1], e.g. a mean of 123.7."""
    bad = [f"mean {value}" for value in mean if not 0 <= value <= 1]
    bad += [f"std {value}" for value in std if not 0 < value <= 1]
    if bad:
        raise InputError(
            "mean and standard deviation are not those of pixels in [0, 1]",
            where="mean, std",
            found=preview_list(bad),
            allowed="mean in [0, 1], std above 0 and at most 1",
            hint="divide both by 255 when they are meant for pixels in 0..255",
        )

"""Mean and standard deviation as people hold them: a number, a sequence, an array or a tensor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ...errors import InputError

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

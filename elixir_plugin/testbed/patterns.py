"""What the poisons that add noise share: draws that follow a sample by its id, and budgets."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..core.case import Index

Values = NDArray[np.float64]
Norm = Literal["l2", "linf"]

_CIFAR_PIXELS = 3072  # values of a 32×32 RGB image, for which the papers state their L2 budgets


def sample_normals(seed: int, ids: Index, shape: tuple[int, ...]) -> Values:
    """Return standard normal noise ``[n, *shape]``: row ``i`` is a function of *seed* and ``ids[i]`` alone.

    :param seed: 0 ≤ seed < 2⁶⁴.
    :param ids: ``[n]`` sample ids.
    """
    out = np.empty((len(ids), *shape))
    for row, sample in zip(out, ids.astype(np.uint64), strict=True):  # a negative id wraps around; ids stay unique
        key = np.array([seed, sample], np.uint64)
        np.random.Generator(np.random.Philox(key=key)).standard_normal(out=row)
    return out


def rescaled(delta: NDArray[Any], epsilon: float, norm: Norm) -> Values:
    """Return *delta* ``[n, H, W, C]`` with every sample brought to its full budget, pixel scale.

    :param epsilon: ``l2``: ‖δ‖₂ of a 32×32 RGB image; other sizes get ε·√(HWC/3072), the same strength per pixel.
        ``linf``: max |δ|.
    """
    flat = np.asarray(delta, np.float64).reshape(len(delta), int(np.prod(delta.shape[1:])))
    if norm == "l2":
        size = np.sqrt((flat * flat).sum(axis=1))
        budget = epsilon * np.sqrt(flat.shape[1] / _CIFAR_PIXELS)
    else:
        size, budget = np.abs(flat).max(axis=1), epsilon
    scale = budget / np.maximum(size, np.finfo(np.float64).tiny)  # no noise at all stays none
    out: Values = flat * scale[:, None]
    return out.reshape(delta.shape)

"""What values pixels may have: the one check of floats, and the one of 8-bit images that hold only 0 and 1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError

TOLERANCE = 1e-4  # how far outside [0, 1] a float pixel is taken for rounding
STEP = 1 / 255 * (1 + 1e-3)  # of 8 bits, with room for rounding


def in_unit_range(pixels: NDArray[Any], where: object, *, tolerance: float = TOLERANCE) -> NDArray[Any]:
    """Return float pixels in [0, 1]: what arithmetic left just outside is clipped, in a copy.

    :param tolerance: how far outside a value may be.
    :return: *pixels* itself where nothing is outside.
    :raises InputError: for values further outside, and NaN.

    >>> in_unit_range(np.array([0.5, 1.0000001], np.float32), "images").tolist()
    [0.5, 1.0]
    """
    if not pixels.size:
        return pixels
    low, high = float(pixels.min()), float(pixels.max())
    if low >= 0 and high <= 1:  # NaN fails both, here and below
        return pixels
    if low >= -tolerance * (1 + 1e-3) and high <= 1 + tolerance * (1 + 1e-3):  # float32 has no 1.0001 itself
        clipped: NDArray[Any] = np.clip(pixels, 0, 1)
        return clipped
    raise InputError(
        "pixel value out of range",
        where=where,
        found=f"{low}..{high}",
        allowed="float in [0, 1], or uint8 in 0..255",
        hint=_way_back(low, high),
    )


def refuse_zeros_and_ones(images: Any, where: object) -> None:
    """Refuse 8-bit images in which 1 is the highest value: white, or almost black?

    Images that are black throughout are the same in both readings. Sets that are not in memory are not looked through.

    :param images: ``[N, H, W, C]``.
    :raises InputError: naming both ways out.
    """
    if isinstance(images, np.ndarray) and images.dtype == np.uint8 and _highest(images, 1) == 1:
        raise InputError(
            "8-bit images that hold only 0 and 1",
            where=where,
            found="uint8 0..1",
            allowed="uint8 in 0..255, or float in [0, 1]",
            hint="if 1 is white, multiply them by 255 (image files: save them anew); if they are that dark, pass them "
            "as float32, divided by 255",
        )


def scale_notes(sets: Mapping[str, Any]) -> list[str]:
    """Return what a reader should know of float images none of whose values reaches 1/255.

    That is what is left of images in [0, 1] that are divided by 255 once more.

    :param sets: name -> image set; those not in memory are not looked through.
    """
    notes = []
    for name, each in sets.items():
        if isinstance(each.images, np.ndarray) and each.images.dtype == np.float32:
            highest = _highest(each.images, STEP)
            if 0 < highest <= STEP:
                notes.append(
                    f"{name}: no pixel is above {highest:.4f}, where 1 is white; were the images divided by 255 twice?"
                )
    return notes


def _highest(images: NDArray[Any], enough: float) -> float:
    """Return the highest value, or the first found that is above *enough*."""
    highest = 0.0
    for start in range(0, len(images), 256):
        highest = max(highest, float(images[start : start + 256].max(initial=0)))
        if highest > enough:
            break
    return highest


def _way_back(low: float, high: float) -> str:
    if low >= -1 - TOLERANCE and high <= 1 + TOLERANCE:
        return "if they are in [-1, 1], pass (x + 1) / 2, or undo the normalisation"
    return "divide by 255, or undo the normalisation"

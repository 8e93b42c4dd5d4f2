"""Image files: decoding many of them at once, comparing and writing them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...core.images import ImageBacking, Images, LazyImages
from ...core.pixels import to_bytes, to_floats
from ...errors import InputError
from ...io.images import read_image, resized

WORKERS = min(8, os.cpu_count() or 1)

T = TypeVar("T")
U = TypeVar("U")


def file_reader(
    paths: Sequence[Path],
    channels: int,
    *,
    resize: tuple[int, int] | None = None,
    shape: Sequence[int] | None = None,
    upright: bool = False,
) -> Callable[[int], Images]:
    """Return a function position -> uint8 ``[H, W, channels]``.

    :param resize: ``(H, W)`` to resize to.
    :param shape: ``(H, W, C)`` to insist on where nothing is resized.
    :param upright: apply the EXIF orientation.
    """
    size = None if shape is None or resize is not None else (int(shape[0]), int(shape[1]))

    def read(position: int) -> Images:
        image = read_image(paths[position], channels, upright=upright, size=size)
        return image if resize is None else resized(image, resize)

    return read


def in_threads(function: Callable[[T], U], items: Iterable[T]) -> Iterator[U]:
    """Map in a small thread pool; results, and the first error, come in the order of *items*."""
    with ThreadPoolExecutor(WORKERS) as pool:
        yield from pool.map(function, items)


def attempts(function: Callable[[T], U], items: Iterable[T]) -> Iterator[U | InputError]:
    """Map in a small thread pool; in place of the result of an item that is refused, its error comes."""

    def attempt(item: T) -> U | InputError:
        try:
            return function(item)
        except InputError as error:
            return error

    return in_threads(attempt, items)


def decoded(
    read: Callable[[int], Images], rows: Sequence[int], shape: Sequence[int], limit: int
) -> tuple[ImageBacking, list[int], dict[int, InputError]]:
    """Decode the images at *rows* and go on behind those that cannot be.

    :param limit: images that need more bytes are not kept, but left to be read again when used.
    :returns: the sound images, their positions, and the errors of the others.
    """
    keep = len(rows) * int(np.prod(shape)) <= limit
    images = np.empty((len(rows) if keep else 0, *shape), np.uint8)
    faults: dict[int, InputError] = {}
    look = read if keep else lambda row: read(row)[:0].copy()  # results wait until it is their turn: they must be small
    for place, (row, result) in enumerate(zip(rows, attempts(look, rows), strict=True)):
        if isinstance(result, InputError):
            faults[row] = result
        elif keep:
            images[place] = result
    sound = [row for row in rows if row not in faults]
    if not keep:
        return LazyImages(lambda position: read(sound[position]), len(sound), shape), sound, faults
    return images[[row not in faults for row in rows]] if faults else images, sound, faults


def eager_or_lazy(read: Callable[[int], Images], length: int, shape: Sequence[int], limit: int) -> ImageBacking:
    """Decode all images into one array when they need at most *limit* bytes; else leave them to be read when used."""
    lazy = LazyImages(read, length, shape)
    if length * int(np.prod(shape)) > limit:
        return lazy
    out = np.empty(lazy.shape, np.uint8)
    fill(out, range(length), read)
    return out


def fill(out: Any, rows: Iterable[int], read: Callable[[int], Images]) -> None:
    """Write image ``k`` of *read* to ``out[rows[k]]``.

    :raises InputError: naming all images that cannot be read.
    """
    rows = list(rows)
    faults = []
    for row, image in zip(rows, attempts(read, range(len(rows))), strict=True):
        if isinstance(image, InputError):
            faults.append(image)
            continue
        assert image.shape == out.shape[1:]
        out[row] = image
    refuse(faults, len(rows))


def refuse(faults: Sequence[InputError], total: int) -> None:
    """Raise one error for all *faults*, those of images that cannot be read, of *total*; none for none.

    :raises InputError: that of the only one, or one that names the first ten.
    """
    if len(faults) == 1:
        raise faults[0]
    if faults:
        said = [f"{each.where}: {each.what}" for each in faults[:10]]
        raise InputError(
            f"{len(faults)} of {total} images cannot be read",
            found="; ".join(said) + (f"; and {len(faults) - 10} more" if faults[10:] else ""),
            allowed=faults[0].allowed,
            hint=faults[0].hint,
        )


def different(old: Images, new: Images) -> NDArray[np.bool_]:
    """Compare image by image, in 8 bits when only one side is float; ``[n]``. Another size is a difference."""
    if old.shape[1:] != new.shape[1:]:
        return np.ones(len(old), bool)
    if old.dtype != new.dtype:
        old, new = to_bytes(old), to_bytes(new)
    changed: NDArray[np.bool_] = (old != new).reshape(len(old), -1).any(axis=1)
    return changed


def inexact(images: Images) -> NDArray[np.bool_]:
    """Tell which images have finer steps than 8 bits; ``[n]``."""
    if images.dtype == np.uint8:
        return np.zeros(len(images), bool)
    lost = to_floats(to_bytes(images)) != images
    rows: NDArray[np.bool_] = lost.reshape(len(images), -1).any(axis=1)
    return rows


def save_png(image: NDArray[np.uint8], path: Path) -> None:
    """Write one image ``[H, W, C]``."""
    Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(path, format="PNG")

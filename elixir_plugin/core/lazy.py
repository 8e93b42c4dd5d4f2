"""Images that are read when they are asked for, behind a reader that does not say where from."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError

Images = NDArray[Any]  # [n, H, W, C], uint8 or float32
Index = NDArray[np.int64]
F = TypeVar("F", bound=Callable[..., Any])


class ImageBacking(Protocol):
    """What can stand behind an image set: an array, a memory map, or a lazy reader."""

    @property
    def shape(self) -> tuple[int, ...]:
        """``(N, H, W, C)``."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """uint8, or float32 in [0, 1]."""
        ...

    def __getitem__(self, index: Any, /) -> Any: ...


class LazyImages:
    """Images read one by one when they are asked for, e.g. from files.

    No attribute leads to *read* or to what it holds: paths of files tell a defense what was poisoned. So a reader can
    be copied, but not pickled.

    :param read: position -> image ``[H, W, C]``.
    :param length: number of images.
    :param shape: ``(H, W, C)`` that every image must have.
    :param dtype: ``uint8`` or ``float32``.
    :ivar found: what was learned by decoding all images, kept because that takes long: ``"hashes"`` of
        ``ImageSet.content_hashes``, and of ``ImageSet.fingerprint`` the digest up to the labels, by number of classes.
    """

    def __init__(self, read: Callable[[int], Images], length: int, shape: Sequence[int], dtype: Any = np.uint8) -> None:
        self.shape: tuple[int, ...] = (length, *shape)
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self.found: dict[str | int, Any] = {}
        self._fetch = concealed(functools.partial(_one_by_one, read, self.shape, self.dtype))

    @classmethod
    def over(cls, backing: ImageBacking) -> LazyImages:
        """Return a reader of the same images with none of the attributes of *backing*."""
        new = cls.__new__(cls)
        new.shape, new.dtype = tuple(map(int, backing.shape)), np.dtype(backing.dtype.str)
        plain = type(backing) is LazyImages
        new.found = backing.found if plain else {}  # type: ignore[attr-defined]
        new._fetch = backing._fetch if plain else concealed(functools.partial(_copied, backing))  # type: ignore[attr-defined]
        return new

    def __getitem__(self, index: slice | Index) -> Images:
        """Return the images at *index* as a new array, which shares memory with nothing else."""
        images: Images = self._fetch(index)
        return images

    def __len__(self) -> int:
        return self.shape[0]

    def __reduce__(self) -> Any:
        raise TypeError("a lazy reader of images cannot be pickled: pickle ImageSet.load(), which holds the pixels")

    def __copy__(self) -> LazyImages:
        return LazyImages.over(self)

    def __deepcopy__(self, memo: Any) -> LazyImages:
        return LazyImages.over(self)


class Rows:
    """Some of the images of *backing*, in the order of *rows*."""

    def __init__(self, backing: ImageBacking, rows: Index) -> None:
        self.backing, self.rows = backing, rows
        self.shape: tuple[int, ...] = (len(rows), *backing.shape[1:])
        self.dtype: np.dtype[Any] = backing.dtype

    def __getitem__(self, index: slice | Index) -> Images:
        images: Images = self.backing[self.rows[index]]
        return images


def concealed(function: F) -> F:
    """Return *function* behind an object that has no attribute which leads to it.

    The wrapper of ``functools.lru_cache`` keeps the function where only the garbage collector sees it; with
    ``maxsize=0`` it keeps no results.
    """
    wrapper: Any = functools.lru_cache(maxsize=0)(function)
    vars(wrapper).clear()  # __wrapped__ among them
    hidden: F = wrapper
    return hidden


def _one_by_one(
    read: Callable[[int], Images], shape: tuple[int, ...], dtype: np.dtype[Any], index: slice | Index
) -> Images:
    positions = np.arange(shape[0])[index]
    out = np.empty((len(positions), *shape[1:]), dtype)
    for row, position in enumerate(positions):
        image = read(int(position))
        if image.shape != shape[1:]:
            raise InputError("images of mixed size", where=f"image {position}", found=image.shape, allowed=shape[1:])
        out[row] = image
    return out


def _copied(backing: ImageBacking, index: slice | Index) -> Images:
    return plain_copy(backing[index])


def plain_copy(array: NDArray[Any]) -> NDArray[Any]:
    """Return the same numbers as an array of numpy's own, in memory of its own, of a type without metadata."""
    copy = np.empty(array.shape, np.dtype(array.dtype.str))
    copy[...] = array
    return copy

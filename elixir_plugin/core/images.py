"""Images with labels: in memory, memory-mapped, or read file by file."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, preview_list
from ..io.process import stop_if_asked
from .classes import checked_count
from .lazy import ImageBacking, Images, Index, LazyImages, Rows
from .scale import in_unit_range

__all__ = [
    "CHUNK",
    "ImageBacking",
    "ImageSet",
    "Images",
    "Index",
    "LazyImages",
    "checked_classes",
    "checked_labels",
    "frozen",
]
CHUNK = 1024
CHUNK_BYTES = 1 << 30  # of a chunk, unless one image has more


class ImageSet:
    """Labelled images in a fixed order.

    :param images: ``[N, H, W, C]`` uint8 or float32 in [0, 1]; an array, a memory map or a :class:`LazyImages`.
    :param labels: ``[N]`` integers in ``0..num_classes-1``.
    :param num_classes: number of classes, also of those without a sample.
    :param names: optional ``[N]`` file names, for messages and result files.
    :param ids: optional ``[N]`` unique integers that follow a sample through :meth:`subset`; default ``0..N-1``.
    :param classes: optional ``[num_classes]`` distinct names of the classes, in the order of the labels.
    :ivar mark: an object that this set shares with its sealed copies alone, to tell that they are the same.
    :raises InputError: when shapes, types, label range, ids or names of classes break these rules.

    >>> s = ImageSet(np.zeros((3, 8, 8, 3), np.uint8), [0, 1, 1], num_classes=2)
    >>> len(s), s.image_shape, s.subset([2, 0]).ids.tolist()
    (3, (8, 8, 3), [2, 0])
    """

    def __init__(
        self,
        images: ImageBacking,
        labels: Any,
        num_classes: int,
        names: Sequence[str] | None = None,
        ids: Any = None,
        *,
        classes: Sequence[str] | None = None,
    ) -> None:
        self.images = _checked_images(images)
        n = images.shape[0]
        self.num_classes = checked_count(num_classes)
        self.labels: Index = checked_labels(labels, n, self.num_classes)
        self.names = None if names is None else tuple(names)
        self.classes = checked_classes(classes, self.num_classes)
        self.ids: Index = frozen(np.arange(n) if ids is None else np.array(ids, np.int64))
        if self.names is not None and len(self.names) != n:
            raise InputError("one name per image", where="names", found=len(self.names), allowed=n)
        if ids is not None and (self.ids.shape != (n,) or len(np.unique(self.ids)) != n):
            raise InputError("ids must be unique, one per image", where="ids", found=self.ids.shape, allowed=(n,))
        self.mark = object()

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"ImageSet({len(self)} × {self.image_shape}, {self.images.dtype}, {self.num_classes} classes)"

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(H, W, C)``."""
        height, width, channels = self.images.shape[1:]
        return height, width, channels

    def read(self, index: slice | Index) -> Images:
        """Return the images at *index* as a new array ``[n, H, W, C]``.

        Float pixels that rounding left just outside [0, 1] are clipped.

        :raises InputError: when float pixels are further outside, or not finite.
        """
        owned = type(self.images) is LazyImages  # what it hands out is new
        out: Images = self.images[index] if owned else np.array(self.images[index])
        return in_unit_range(out, "images") if out.dtype == np.float32 else out

    def chunks(self, size: int = CHUNK) -> Iterator[tuple[slice, Images]]:
        """Yield ``(slice, images)`` in order; works the same for sets larger than memory.

        :param size: images per chunk at most; fewer where they would take more than :data:`CHUNK_BYTES`.
        """
        each = math.prod(self.image_shape) * np.dtype(self.images.dtype).itemsize
        size = max(1, min(size, CHUNK_BYTES // max(1, each)))
        for start in range(0, len(self), size):
            stop_if_asked()
            part = slice(start, min(start + size, len(self)))
            yield part, self.read(part)

    def load(self) -> ImageSet:
        """Return the same set with all images in one array, decoded once."""
        if isinstance(self.images, np.ndarray) and not isinstance(self.images, np.memmap):
            return self
        return self.replace(images=self.read(slice(0, len(self))))

    def subset(self, index: Any) -> ImageSet:
        """Return the samples at *index* in that order; ids and names go with them. Lazy sets stay lazy.

        :param index: ``[n]`` positions without repetition, or a bool mask ``[N]``.
        """
        rows = _positions(index, len(self))
        images: ImageBacking
        if isinstance(self.images, np.ndarray) and not isinstance(self.images, np.memmap):
            images = self.images[rows]
        else:
            images = LazyImages.over(Rows(self.images, rows))
        names = None if self.names is None else [self.names[i] for i in rows]
        return ImageSet(images, self.labels[rows], self.num_classes, names, self.ids[rows], classes=self.classes)

    def replace(self, *, images: ImageBacking | None = None, labels: Any = None) -> ImageSet:
        """Return the same samples with other images or labels."""
        return ImageSet(
            self.images if images is None else images,
            self.labels if labels is None else labels,
            self.num_classes,
            self.names,
            self.ids,
            classes=self.classes,
        )

    def class_counts(self) -> Index:
        """Number of samples per class, ``[num_classes]``."""
        return np.bincount(self.labels, minlength=self.num_classes)

    def content_hashes(self) -> NDArray[np.bytes_]:
        """Return ``[N]`` 16-byte hashes of shape, type and pixels; equal images have equal hashes."""
        if isinstance(self.images, LazyImages):
            found = self.images.found
            if "hashes" not in found:
                found["hashes"] = frozen(self._hashed())
            hashes: NDArray[np.bytes_] = found["hashes"]
            return hashes
        return self._hashed()

    def _hashed(self) -> NDArray[np.bytes_]:
        head = repr((self.image_shape, self.images.dtype.str)).encode()
        rows = [
            hashlib.blake2b(np.ascontiguousarray(image).tobytes(), digest_size=16, key=head[:64]).digest()
            for _, images in self.chunks()
            for image in images
        ]
        return np.array(rows, dtype="V16").view("S16") if rows else np.empty(0, "S16")

    def fingerprint(self) -> str:
        """Return 12 hex digits over all pixels and labels, in order."""
        known: dict[Any, Any] = self.images.found if isinstance(self.images, LazyImages) else {}  # arrays may change
        if self.num_classes not in known:
            known[self.num_classes] = self._pixel_digest()
        digest = known[self.num_classes].copy()
        digest.update(self.labels.tobytes())
        return str(digest.hexdigest()[:12])

    def _pixel_digest(self) -> Any:
        digest = hashlib.sha256(repr((self.image_shape, self.images.dtype.str, self.num_classes)).encode())
        for _, images in self.chunks():
            digest.update(np.ascontiguousarray(images).tobytes())
        return digest


def checked_labels(labels: Any, n: int, num_classes: int, where: str = "labels") -> Index:
    """Return *labels* as a read-only int64 array ``[n]`` with values in ``0..num_classes-1``.

    :raises InputError: otherwise, naming the first offender.
    """
    array = np.asarray(labels)
    if array.shape != (n,):
        raise InputError("one label per image", where=where, found=array.shape, allowed=(n,))
    if array.dtype.kind not in "iu" and n:
        raise InputError("labels must be integers", where=where, found=array.dtype)
    array = array.astype(np.int64)
    bad = np.flatnonzero((array < 0) | (array >= num_classes))
    if len(bad):
        raise InputError(
            "label out of range",
            where=f"{where}[{bad[0]}]",
            found=f"{array[bad[0]]} ({len(bad)} such labels)",
            allowed=f"0..{num_classes - 1}",
            hint="correct the labels, or the number of classes",
        )
    return frozen(array)


def checked_classes(classes: Sequence[str] | None, num_classes: int, where: str = "classes") -> tuple[str, ...] | None:
    """Return the names of the classes as a tuple, one for each class; None stays None.

    :raises InputError: for another number of names, or a name twice.
    """
    if classes is None:
        return None
    names = tuple(str(name) for name in classes)
    if len(names) != num_classes or len(set(names)) != num_classes:
        raise InputError(
            "one distinct name per class", where=where, found=preview_list(names), allowed=f"{num_classes} names"
        )
    return names


def frozen(array: NDArray[Any]) -> NDArray[Any]:
    """Return a read-only view; the caller's own array stays as it is."""
    view = array.view()
    view.flags.writeable = False
    return view


def _positions(index: Any, n: int) -> Index:
    """Turn positions or a bool mask ``[n]`` into positions; a mask taken for positions would pick wrong samples."""
    rows = np.asarray(index)
    if rows.dtype == bool and rows.shape == (n,):
        return np.flatnonzero(rows)
    if rows.ndim != 1 or (rows.size and rows.dtype.kind not in "iu"):
        raise InputError(
            "not an index",
            where="index",
            found="None" if index is None else f"{rows.dtype} {rows.shape}",
            allowed=f"[n] integers or [{n}] bools",
            hint="outcome.kept may be None: outcome.sanitised() is the set to go on with" if index is None else None,
        )
    return rows.astype(np.int64)


def _checked_images(images: ImageBacking) -> ImageBacking:
    shape, dtype = tuple(images.shape), images.dtype
    if len(shape) != 4 or shape[3] not in (1, 3) or 0 in shape[1:]:
        raise InputError("images must be [N, H, W, C] with 1 or 3 channels", where="images", found=shape)
    if dtype not in (np.uint8, np.float32):
        raise InputError("images must be uint8, or float32 in [0, 1]", where="images", found=dtype)
    if isinstance(images, np.ndarray):
        return frozen(images)
    return images

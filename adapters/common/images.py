"""Image files: finding them in class folders, and decoding many of them at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...core.images import ImageBacking, Images, LazyImages
from ...core.pixels import to_bytes, to_floats
from ...errors import InputError
from ...io.files import inside
from ...io.images import SUFFIXES, read_image, resized

WORKERS = min(8, os.cpu_count() or 1)

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True)
class Listing:
    """Image files below one folder per class, in the order of torchvision's ``ImageFolder``.

    :param names: file names relative to :attr:`root`, with forward slashes.
    :param labels: position of each file's class in :attr:`classes`.
    :param ignored: names of files that are not images.
    """

    root: Path
    classes: tuple[str, ...]
    names: tuple[str, ...]
    labels: tuple[int, ...]
    ignored: tuple[str, ...]

    @property
    def paths(self) -> list[Path]:
        return [self.root / name for name in self.names]


def list_images(root: Path, what: str = "image folder") -> Listing:
    """Find the images in ``root/<class>/…``.

    Hidden files and folders are passed over. An empty class folder counts as a class.

    :raises InputError: when there is no class folder or no image, or when a link leads out of *root*.
    """
    if not root.is_dir():
        raise InputError(f"{what} not found", where=root, allowed="a folder with one sub-folder per class")
    root = root.resolve()
    classes = tuple(sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and entry.name[0] != "."))
    names: list[str] = []
    labels: list[int] = []
    ignored = [entry.name for entry in os.scandir(root) if entry.is_file() and entry.name[0] != "."]
    for label, name in enumerate(classes):
        for file in _files_below(root, name):
            if file.lower().endswith(SUFFIXES):
                names.append(file)
                labels.append(label)
            else:
                ignored.append(file)
    if not names:
        raise InputError(
            f"no images in {what}",
            where=root,
            found=f"{len(classes)} class folders, {len(ignored)} other files",
            allowed=f"<class>/<file> with one of {', '.join(SUFFIXES)}",
            hint="check the path: it must be the folder that holds the class folders",
        )
    return Listing(root, classes, tuple(names), tuple(labels), tuple(sorted(ignored)))


def file_reader(
    paths: Sequence[Path], channels: int, *, resize: tuple[int, int] | None = None, shape: Sequence[int] | None = None
) -> Callable[[int], Images]:
    """Return a function position -> uint8 ``[H, W, channels]``.

    :param resize: ``(H, W)`` to resize to.
    :param shape: ``(H, W, C)`` to insist on.
    """

    def read(position: int) -> Images:
        image = read_image(paths[position], channels)
        if resize is not None:
            image = resized(image, resize)
        if shape is not None and image.shape != tuple(shape):
            raise InputError("image of another size", where=paths[position], found=image.shape, allowed=tuple(shape))
        return image

    return read


def in_threads(function: Callable[[T], U], items: Iterable[T]) -> Iterator[U]:
    """Map in a small thread pool; results, and the first error, come in the order of *items*."""
    with ThreadPoolExecutor(WORKERS) as pool:
        yield from pool.map(function, items)


def eager_or_lazy(read: Callable[[int], Images], length: int, shape: Sequence[int], limit: int) -> ImageBacking:
    """Decode all images into one array when they need at most *limit* bytes; else leave them to be read when used."""
    lazy = LazyImages(read, length, shape)
    if length * int(np.prod(shape)) > limit:
        return lazy
    out = np.empty(lazy.shape, np.uint8)
    fill(out, range(length), read)
    return out


def fill(out: Any, rows: Iterable[int], read: Callable[[int], Images]) -> None:
    """Write image ``k`` of *read* to ``out[rows[k]]``."""
    rows = list(rows)
    for row, image in zip(rows, in_threads(read, range(len(rows))), strict=True):
        assert image.shape == out.shape[1:]
        out[row] = image


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


def _files_below(root: Path, name: str) -> list[str]:
    """Return all visible files below ``root/name``: by folder name, then by file name, as torchvision sorts them."""
    folders = sorted(_scan(root, name), key=lambda item: item[0])
    return [f"{folder}/{file}" for folder, files in folders for file in sorted(files)]


def _scan(root: Path, name: str) -> Iterator[tuple[str, list[str]]]:
    if (root / name).is_symlink():
        raise InputError(
            "links to folders are not followed",
            where=root / name,
            allowed="real folders below the given one",
            hint="move or copy the folder, or give the folder the link points to",
        )
    files = []
    with os.scandir(root / name) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _scan(root, f"{name}/{entry.name}")
            else:
                if entry.is_symlink():
                    inside(root, f"{name}/{entry.name}")
                files.append(entry.name)
    yield name, files

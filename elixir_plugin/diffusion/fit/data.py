"""Images that a denoiser is trained on, read from files; labels play no part here."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...core.images import ImageBacking, ImageSet, LazyImages
from ...errors import InputError
from ...io.folders import Walk, is_folder, is_image
from ...io.images import SUFFIXES, image_shape, read_image, resized

EAGER_BYTES = 1 << 30  # decoded at once; larger sets are read as they are used


def read_pictures(folder: Path, channels: int = 3, resize: int | None = None, limit: int | None = None) -> ImageSet:
    """Read all image files below *folder*, in any layout, sorted by path; all get label 0.

    Hidden files, files that are not images, and folders that systems leave behind are passed over.

    :param resize: edge length to resize to; None: all images have one size already.
    :param limit: read only so many, the first ones.
    :raises InputError: for a missing folder, no image, a link that leads elsewhere, images of mixed size, or a file
        that cannot be decoded.
    """
    names = _names(folder)[:limit]
    paths = [folder / name for name in names]
    sides = (resize, resize) if resize is not None else _common_size(folder, paths)

    def read(position: int) -> NDArray[np.uint8]:
        return resized(read_image(paths[position], channels), sides)

    lazy = LazyImages(read, len(paths), (*sides, channels))
    images: ImageBacking = lazy
    if int(np.prod(lazy.shape)) <= EAGER_BYTES:
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            images = np.stack(list(pool.map(read, range(len(paths)))))
    return ImageSet(images, np.zeros(len(paths), np.int64), 1, names)


def _names(folder: Path) -> list[str]:
    if not is_folder(folder):
        raise InputError("image folder not found", where=folder)
    walk = Walk(folder.resolve(), link_hint="name the folder it points to, or copy the images")
    names = sorted(name for name in walk.below("") if is_image(name))
    if not names:
        raise InputError("no images in folder", where=folder, allowed=f"files ending in {', '.join(SUFFIXES)}")
    return names


def _common_size(folder: Path, paths: Sequence[Path]) -> tuple[int, int]:
    sizes = {image_shape(path)[:2] for path in paths}
    if len(sizes) > 1:
        found = ", ".join(f"{height}×{width}" for height, width in sorted(sizes)[:5])
        raise InputError(
            "images of mixed size",
            where=folder,
            found=found,
            allowed="one size",
            hint="resize them: {argument:resize=32}",
        )
    return sizes.pop()

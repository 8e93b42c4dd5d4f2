"""Image files in, image grids out: what the command line needs around denoisers. Labels play no part here."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..core.case import ImageBacking, ImageSet, LazyImages
from ..errors import InputError
from .files import atomic_file, inside
from .image_files import image_shape, read_image

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
EAGER_BYTES = 1 << 30  # decoded at once; larger sets are read as they are used
TILE = 64  # pixels a tile of a grid should have at least, so that a person can see it
GAP = 2  # pixels between tiles


def read_pictures(folder: Path, channels: int = 3, resize: int | None = None, limit: int | None = None) -> ImageSet:
    """Read all image files below *folder*, in any layout, sorted by path; all get label 0.

    Hidden files and files that are not images are passed over.

    :param resize: edge length to resize to; None: all images have one size already.
    :param limit: read only so many, the first ones.
    :raises InputError: for a missing folder, no image, a link that leads elsewhere, images of mixed size, or a file
        that cannot be decoded.
    """
    names = _names(folder)[:limit]
    paths = [folder / name for name in names]
    sides = (resize, resize) if resize is not None else _common_size(folder, paths)

    def read(position: int) -> NDArray[np.uint8]:
        return _resized(read_image(paths[position], channels), sides)

    lazy = LazyImages(read, len(paths), (*sides, channels))
    images: ImageBacking = lazy
    if int(np.prod(lazy.shape)) <= EAGER_BYTES:
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            images = np.stack(list(pool.map(read, range(len(paths)))))
    return ImageSet(images, np.zeros(len(paths), np.int64), 1, names)


def write_grid(path: Path, rows: Sequence[Tensor]) -> None:
    """Write images as a PNG grid, one row each; small images are enlarged by a whole factor.

    :param rows: each float ``[n, C, H, W]`` in [0, 1], of one image size; the first is the longest.
    :raises RunError: when the file cannot be written.
    """
    count, channels, height, width = rows[0].shape
    factor = max(1, -(-TILE // max(height, width)))
    tall, wide = height * factor + GAP, width * factor + GAP
    canvas = np.full((tall * len(rows) + GAP, wide * count + GAP, channels), 255, np.uint8)
    for i, row in enumerate(rows):
        pixels = row.detach().float().cpu().clamp(0, 1).mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        for j, tile in enumerate(pixels.repeat(factor, 1).repeat(factor, 2)):
            top, left = GAP + i * tall, GAP + j * wide
            canvas[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    with atomic_file(path) as temporary:
        Image.fromarray(canvas[..., 0] if channels == 1 else canvas).save(temporary, format="PNG")


def _names(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise InputError("image folder not found", where=folder)
    names = []
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(each for each in folders if not each.startswith("."))
        for each in folders:
            if (Path(root) / each).is_symlink():
                raise InputError("links to folders are not followed", where=Path(root) / each)
        for file in files:
            if file.lower().endswith(SUFFIXES) and not file.startswith("."):
                name = (Path(root) / file).relative_to(folder).as_posix()
                inside(folder, name)
                names.append(name)
    if not names:
        raise InputError("no images in folder", where=folder, allowed=f"files ending in {', '.join(SUFFIXES)}")
    return sorted(names)


def _common_size(folder: Path, paths: Sequence[Path]) -> tuple[int, int]:
    sizes = {image_shape(path)[:2] for path in paths}
    if len(sizes) > 1:
        found = ", ".join(f"{height}×{width}" for height, width in sorted(sizes)[:5])
        raise InputError(
            "images of mixed size", where=folder, found=found, allowed="one size", hint="resize them with --resize 32"
        )
    return sizes.pop()


def _resized(image: NDArray[np.uint8], sides: tuple[int, int]) -> NDArray[np.uint8]:
    if image.shape[:2] == sides:
        return image
    picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    small = picture.resize((sides[1], sides[0]), Image.Resampling.BILINEAR)
    return np.asarray(small).reshape(*sides, image.shape[2])

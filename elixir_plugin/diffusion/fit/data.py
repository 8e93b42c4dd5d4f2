"""Images that a denoiser is trained on, read from files; labels play no part here."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...adapter import Source, get_adapter
from ...core.images import ImageBacking, ImageSet, LazyImages
from ...errors import InputError, SettingsError
from ...io.folders import Walk, is_folder, is_image
from ...io.images import SUFFIXES, image_shape, read_image, resized

EAGER_BYTES = 1 << 30  # decoded at once; larger sets are read as they are used
Part = Literal["auto", "clean", "train", "test"]
PARTS = {"clean": "reserved clean set", "train": "training set", "test": "test set"}


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


def read_images(
    source: str,
    options: dict[str, Any],
    part: Part = "auto",
    *,
    channels: int = 3,
    resize: int | None = None,
    seed: int,
) -> tuple[ImageSet, list[str]]:
    """Read the images of *source*, a folder in any layout or ``ADAPTER:PATH``, and say what a reader should know.

    :param options: of the adapter.
    :param part: of what the adapter reads; auto: the reserved clean set, else the training set.
    :param channels, resize: see :func:`read_pictures`; adapters have options of their own.
    :raises InputError: for a training set that is known to be poisoned, and whatever the reader refuses.
    :raises SettingsError: for options or a part of a plain folder.
    """
    if is_folder(Path(source)) or ":" not in source:
        if options or part != "auto":
            raise SettingsError(
                "a folder of images has no such option",
                where=source,
                found=", ".join(options) or f"part {part}",
                hint="name an adapter: ADAPTER:PATH",
            )
        return read_pictures(Path(source), channels, resize), []
    if resize is not None:
        raise SettingsError(
            "images of an adapter are not resized here",
            where="{argument:resize}",
            found=resize,
            hint="an option of the adapter may do it, as {option:size=32} of image_folder",
        )
    parsed = Source.parse(source, options)
    case = get_adapter(parsed.adapter)(parsed.options).read(Path(parsed.path), seed)
    held = {"clean": case.clean, "train": case.train, "test": case.test}
    if part == "auto":
        part = "clean" if case.clean is not None and len(case.clean) else "train"
    images = held[part]
    if images is None or not len(images):
        there = [name for name, each in held.items() if each is not None and len(each)]
        raise InputError("no such images", where=source, found=f"no {part} set", allowed=", ".join(there) or None)
    if part == "train" and case.truth is not None and bool(case.truth.poison.any()):
        raise InputError(
            "these images are poisoned: a denoiser would learn the trigger",
            where=source,
            found=f"{int(case.truth.poison.sum()):,} poison samples",
            allowed="clean images",
            hint="give others, or the reserved clean set: {argument:part=clean}",
        )
    notes = [f"trained on the {PARTS[part]} of {source}"]
    if part != "clean":
        notes.append(f"a defense of a suspect set that holds any of these {PARTS[part]} images refuses this denoiser")
    return images, [*case.notes, *notes]


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

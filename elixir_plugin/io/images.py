"""Image files in, image grids out: what the command line needs around denoisers. Labels play no part here."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor

from ..errors import InputError
from .files import atomic_file
from .image_files import FORMATS, OtherFormatError, from_image, largest, too_deep, too_large
from .image_parts import SIMPLE, sound_exif

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
JUNK = {  # folders that systems and archivers leave behind, lower case; they may hold images, such as thumbnails
    "__macosx", "__pycache__", "@eadir", "@recycle", "#recycle", "#snapshot", "lost+found", "lost+found.000",
    "$recycle.bin", "recycler", "system volume information",
}  # fmt: skip
TILE = 64  # pixels a tile of a grid should have at least, so that a person can see it
GAP = 2  # pixels between tiles


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


T = TypeVar("T")
_MODES = {1: "L", 3: "RGB"}
_HUGE = (Image.DecompressionBombError, Image.DecompressionBombWarning)
EXIF_BYTES = 1 << 20  # of a chunk behind the pixels of a PNG file
_TURNS = {  # EXIF orientation -> what makes the image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class Header:
    """What an image file says before its pixels.

    :param height, width: of the pixels as they are stored.
    :param mode: Pillow's mode.
    :param orientation: EXIF orientation, 1 to 8, that :func:`read_image` applies with *upright* alone; 1 where there is
        none, and for TIFF, which Pillow always turns upright.
    """

    height: int
    width: int
    mode: str
    orientation: int = 1

    def size(self, upright: bool) -> tuple[int, int]:
        """Return ``(H, W)`` as :func:`read_image` decodes it."""
        sides = (self.height, self.width)
        return sides[::-1] if upright and self.orientation >= 5 else sides


def read_image(
    path: Path, channels: int = 3, *, upright: bool = False, size: tuple[int, int] | None = None
) -> NDArray[np.uint8]:
    """Decode one image file to uint8 ``[H, W, channels]``; of several images in it, the first.

    Transparency is dropped, as torchvision drops it.

    :param upright: turn or mirror the pixels as the file's EXIF orientation says; torchvision does not.
    :param size: ``(H, W)`` that the image must have; told from its header, before it is decoded.
    :raises InputError: when the file is missing, truncated, too large, not an image of a format that is read, of more
        than 8 bits, or of another size.
    """
    mode = _MODES[channels]

    def pixels(image: Image.Image) -> NDArray[np.uint8]:
        refuse_deep(image, path)
        orientation = _orientation(image) if upright else 1
        if size is not None:
            _refuse_other_size(Header(image.height, image.width, mode, orientation), channels, upright, size, path)
        if image.mode == "P":
            image.info.pop("transparency", None)  # only a warning would come of it
        plain = image.convert(mode)
        return np.asarray(plain if orientation == 1 else plain.transpose(_TURNS[orientation]))

    array = _made(path, pixels, "decoded", hint="restore the file or remove its sample")
    return array if array.ndim == 3 else array[..., None]


def _refuse_other_size(header: Header, channels: int, upright: bool, size: tuple[int, int], path: Path) -> None:
    if header.size(upright) != tuple(size):
        found, allowed = ((*sides, channels) for sides in (header.size(upright), size))
        raise InputError("image of another size", where=path, found=found, allowed=allowed)


def _made(path: Path, use: Callable[[Image.Image], T], done: str, hint: str | None = None) -> T:
    """Return what *use* makes of an image; every failure becomes a clear error.

    :param done: what could not be done with it.
    """
    try:
        return from_image(path, use)
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError("image file not found", where=path) from None
    except _HUGE as error:
        raise too_large(path, str(error), largest()) from None
    except OtherFormatError as error:
        hint = f"restore the file, convert it to one of {', '.join(FORMATS)}, or remove its sample"
        raise InputError(f"image file cannot be {done}", where=path, found=str(error), hint=hint) from None
    except Exception as error:  # a damaged file may fail anywhere inside the decoder
        raise InputError(f"image file cannot be {done}", where=path, found=_reason(error), hint=hint) from None


def resized(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize uint8 ``[H, W, C]`` to ``(H, W)`` = *size*: bilinear with antialiasing, as Pillow and torchvision do."""
    if image.shape[:2] == size:
        return image
    small = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).resize(
        (size[1], size[0]), Image.Resampling.BILINEAR
    )
    return np.asarray(small).reshape(*size, image.shape[2])


def image_header(path: Path) -> Header:
    """Return size, mode and orientation; pixels are not decoded.

    :raises InputError: when it is no header of an image, or of one that is too large or of more than 8 bits.
    """

    def header(image: Image.Image) -> Header:
        refuse_deep(image, path)
        width, height = image.size
        return Header(height, width, image.mode, _orientation(image))

    return _made(path, header, "opened")


def image_shape(path: Path) -> tuple[int, int, str]:
    """Return ``(H, W, mode)`` from the header alone; see :func:`image_header`."""
    header = image_header(path)
    return header.height, header.width, header.mode


def _reason(error: Exception) -> str:
    """Return what Pillow says, without the path that it may hold."""
    if isinstance(error, UnidentifiedImageError) and not isinstance(error, OtherFormatError):
        return "not an image of a known format"
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation that is still to be applied; 1 where there is none that can be read."""
    if image.format == "TIFF":
        return 1
    try:
        if image.format == "PNG" and "exif" not in image.info and (found := _png_exif(image)) is not None:
            image.info["exif"] = found
        exif = image.info.get("exif") or b""
        if len(exif) > SIMPLE and not sound_exif(exif):
            return 1
        value = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)  # that of PNG files would decode the image
    except Exception:  # from anywhere inside the reader: such EXIF data say nothing, and the pixels may be sound
        return 1
    return value if value in _TURNS else 1


def _png_exif(image: Image.Image) -> bytes | None:
    """Return the EXIF chunk of a PNG file, which Pillow finds before the pixels only."""
    file: BinaryIO = image.fp  # type: ignore[attr-defined]
    before = file.tell()
    try:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            if kind == b"eXIf":
                return file.read(length) if length <= EXIF_BYTES else None
            file.seek(length + 4, os.SEEK_CUR)
        return None
    finally:
        file.seek(before)


def refuse_deep(image: Image.Image, where: object) -> None:
    """Refuse pixels of more than 8 bits.

    :raises InputError: naming Pillow's mode of the image.
    """
    mode = image.mode
    if mode in ("I", "F") or mode.startswith("I;"):
        raise too_deep(mode, where)

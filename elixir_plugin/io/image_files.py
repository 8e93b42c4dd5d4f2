"""Opening image files: the one place where Pillow is given a file.

Pillow chooses a decoder by what a file holds, whatever its name; some of the fifty start other programs. So the format
is told here, from the first bytes, and only the formats in :data:`FORMATS` are decoded.
"""

from __future__ import annotations

import io
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, TypeVar

from PIL import Image, ImageFile, TiffImagePlugin, UnidentifiedImageError, WebPImagePlugin  # noqa: F401 - both register

from ..errors import InputError
from .image_parts import PIXELS, SIMPLE, Excess, check_parts, check_scans, check_stepwise
from .opening import open_file

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")  # of JPEG, MPO files are a kind; of PPM, PGM and PBM
FILE_BYTES = 512 * 2**20  # of the largest file; more than the largest image takes without any compression
AT_ONCE = 1 << 24  # pixels beyond which images are decoded one by one, whatever the number of threads
_LARGE = threading.Lock()
T = TypeVar("T")
_BEGINNING = re.compile(
    rb"(?P<PNG>\x89PNG\r\n\x1a\n)|(?P<JPEG>\xff\xd8\xff)|(?P<BMP>BM)|(?P<GIF>GIF8[79]a)"
    rb"|(?P<TIFF>II[*+]\0|MM\0\*)|(?P<WEBP>RIFF....WEBP)|(?P<PPM>P[1-6])",
    re.DOTALL,
)
_OTHERS = (
    (b"%!PS", "a PostScript file"), (b"\xc5\xd0\xd3\xc6", "a PostScript file (EPS)"), (b"%PDF", "a PDF file"),
    (b"\0\0\1\0", "an icon (ICO)"), (b"\0\0\2\0", "a TGA image, or a cursor"), (b"icns", "an icon (ICNS)"),
    (b"8BPS", "a Photoshop file"), (b"gimp xcf", "a GIMP file"), (b"\xd7\xcd\xc6\x9a", "a Windows metafile"),
    (b"\1\0\0\0", "a Windows metafile, or no image"), (b"\0\0\0\x0cjP  ", "a JPEG 2000 image"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 image"), (b"\0\0\0\x0cJXL ", "a JPEG XL image"),
    (b"\xff\x0a", "a JPEG XL image"),
    (b"DDS ", "a DDS texture"), (b"SIMPLE", "a FITS file"), (b"v/1\1", "an OpenEXR image"), (b"qoif", "a QOI image"),
    (b"#?RADIANCE", "a Radiance image"), (b"\x0a\5\1", "a PCX image"), (b"PF", "an image of floats (PFM)"),
    (b"Pf", "an image of floats (PFM)"), (b"P7", "a PAM image"), (b"<", "XML, HTML or SVG text"),
    (b"\xef\xbb\xbf<", "XML, HTML or SVG text"), (b"PK\3\4", "a zip archive"), (b"\x1f\x8b", "a gzip archive"),
    (b"\x93NUMPY", "a numpy file"), (b"\x80", "a pickle, or no image"), (b"\x7fELF", "a program"), (b"MZ", "a program"),
    (b"#!", "a script"), (b"version https://git-lfs", "the Git LFS pointer of a file, not the file itself"),
)  # fmt: skip
_BRANDS = {b"avif": "an AVIF image", b"avis": "an AVIF image", b"qt  ": "a QuickTime film", b"isom": "an MP4 film"}


class OtherFormatError(UnidentifiedImageError):
    """The file is none of the formats that are read; says what it is."""


def from_image(path: Path, use: Callable[[Image.Image], T]) -> T:
    """Open an image file and return what *use* makes of it; pixels are decoded only when that asks for them.

    :raises FileNotFoundError: when nothing is there.
    :raises OtherFormatError: for a file of any other format than :data:`FORMATS`.
    :raises InputError: for anything but a regular file, one of too many bytes or pixels, and one that would take the
        decoder much longer than its image is worth. Nothing is decoded then.
    """
    with open_file(path) as file, _STRICT:
        try:
            size = os.fstat(file.fileno()).st_size
            # small files are read at once: decoders take them in many small pieces
            source: BinaryIO = file if size > SIMPLE else io.BytesIO(file.read(size))
            format = _format(source, size, path)
            check_parts(source, size, format)
            image = Image.open(source, formats=(format,))
            width, height = image.size
            pixels = width * height
            refuse_pixels(width, height, path)
            if format == "JPEG":
                check_scans(source, size, pixels)
            elif image.tile:
                check_stepwise(image.tile[0][0], size, pixels)
            if pixels <= AT_ONCE:
                return use(image)
            with _LARGE:
                return use(image)
        except Excess as error:
            raise InputError(
                "image cannot be read: decoding it would take too much",
                where=path,
                found=str(error),
                hint="write the image again with another program, or leave it out",
            ) from None


def refuse_pixels(width: int, height: int, where: object) -> None:
    """Refuse an image of too many pixels for one.

    :raises InputError: with its size.
    """
    most = largest()
    if width * height > most:
        raise too_large(where, f"{width} × {height} pixels", most)


def largest() -> int:
    """Return how many pixels an image may have: a fixed number, or what Pillow was told where that is less."""
    return PIXELS if Image.MAX_IMAGE_PIXELS is None else min(PIXELS, int(Image.MAX_IMAGE_PIXELS))


def too_large(where: object, found: str, most: int) -> InputError:
    """Return the error for an image of too many pixels."""
    return InputError(
        "image cannot be read: it is too large",
        where=where,
        found=found,
        allowed=f"at most {most:,} pixels: a small file can hold an image that fills all memory",
        hint="scale the image down, or leave it out",
    )


def too_deep(mode: str, where: object) -> InputError:
    """Return the error for an image of more than 8 bits: turned into 8 bits, pixels are clipped, not scaled."""
    return InputError(
        "image has more than 8 bits per value",
        where=where,
        found=f"mode {mode}",
        allowed="8-bit images",
        hint="convert it first: only you know which value is white",
    )


def _format(file: BinaryIO, size: int, path: Path) -> str:
    """Return the format of a file by how it begins.

    :raises OtherFormatError: when it is none of :data:`FORMATS`.
    """
    if size > FILE_BYTES:
        raise InputError(
            "image cannot be read: its file is too large",
            where=path,
            found=f"{size:,} bytes",
            allowed=f"at most {FILE_BYTES:,} bytes",
            hint="scale the image down, or leave it out",
        )
    head = file.read(32)
    found = _BEGINNING.match(head)
    if found is not None:
        return str(found.lastgroup)
    raise OtherFormatError(_other(head))


def _other(head: bytes) -> str:
    if not head:
        return "an empty file"
    if head[4:8] == b"ftyp":
        return _BRANDS.get(head[8:12], "an HEIF image, or a film")
    return next((said for beginning, said in _OTHERS if head.startswith(beginning)), "not an image of a known format")


class _Strict:
    """Pillow's own limits as they should be while files are read, whatever the rest of the program has set.

    They are two global switches. Where they are set otherwise, the first reader sets them, and the last one, of all
    threads, sets them back.
    """

    def __init__(self) -> None:
        self.lock, self.readers = threading.Lock(), 0
        self.former: tuple[bool, int | None] = (False, PIXELS)
        self.counted = threading.local()

    def __enter__(self) -> None:
        # the order matters: whoever finds the switches set by another reader finds that reader counted, too
        as_wanted = not ImageFile.LOAD_TRUNCATED_IMAGES and (Image.MAX_IMAGE_PIXELS or PIXELS + 1) <= PIXELS
        self.counted.here = not as_wanted or self.readers > 0
        if self.counted.here:
            with self.lock:
                self.readers += 1
                if self.readers == 1:
                    self.former = ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS
                    ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS = False, largest()

    def __exit__(self, *_: object) -> None:
        if self.counted.here:
            with self.lock:
                if self.readers == 1:
                    ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS = self.former
                self.readers -= 1


_STRICT = _Strict()

"""What a decoder would do with an image file, told from its structure before the decoder sees the file.

Decoders follow what a file says of itself. Values of a TIFF directory, or of EXIF data, that all lie in the same place
of a small file fill any memory; a file of a million empty parts, or of a thousand scans over one large image, takes
minutes. What is looked at here costs little beside decoding; sound files pass.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Callable, Iterator
from typing import BinaryIO

from PIL.JpegImagePlugin import MARKER

PIXELS = 89_478_485  # of one image: about 256 MiB of colours, which is also what Pillow takes by default
SIMPLE = 64 * 2**10  # bytes of a file that is too small to hold much beside its pixels
PARTS = 100_000  # chunks, segments or blocks that a file may consist of
BESIDE_PIXELS = 16 * 2**20  # bytes of a file that are no pixels, where decoders go through them in steps
BEFORE_GIF = 2 * 2**20  # the same in a GIF file, whose comments come in steps of 255 bytes
DIRECTORY = 64 * 2**20  # bytes of all values of a TIFF directory, where the file has not more
OFFSETS = 1 << 18  # strips or tiles of a TIFF image
SPARE_TILE = 1 << 24  # pixels that the tiles of a TIFF image may have beyond those of the image
SCANNED = 40 * PIXELS  # pixels of all scans of a JPEG file, each of which may go over the whole image
PLAIN_HEADER = 64 * 2**10  # bytes of the header of a PPM file
PLAIN_COMMENTS = 1000  # in a PPM file that is text
STEPWISE = 1 << 22  # pixels of an image that Pillow decodes in Python, one by one
STEPWISE_BYTES = 16  # of its file for each of them
_UNUSABLE = (struct.error, OverflowError, ValueError, OSError)  # what a directory that cannot be followed gives
_STEPWISE = ("bmp_rle", "ppm", "ppm_plain")  # the decoders that do so
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_WIDTH, _HEIGHT, _STRIPS, _STRIP_ROWS, _TILE_WIDTH, _TILE_HEIGHT, _TILES = 256, 257, 273, 278, 322, 323, 324


class Excess(Exception):
    """Decoding the file would take far more than its image is worth; says why."""


def check_parts(file: BinaryIO, size: int, format: str) -> None:
    """Refuse a file by its structure; *file* may be left anywhere.

    :param size: of the file, in bytes.
    :param format: Pillow's name of it.
    :raises Excess: saying what there is too much of.
    """
    if size > SIMPLE or format in ("TIFF", "WEBP"):  # a few bytes of these can ask for any amount
        _CHECKS.get(format, _nothing)(file, size)


def check_scans(file: BinaryIO, size: int, pixels: int) -> None:
    """Refuse a JPEG file whose scans go over more pixels than the largest image that is read has.

    :raises Excess: with their number.
    """
    if size * pixels <= 10 * SCANNED:  # a scan takes ten bytes at least
        return
    count = sum(block.count(b"\xff\xda") for block in _blocks(file))
    if count * pixels > SCANNED:
        raise Excess(f"{count:,} scans of {pixels:,} pixels")


def check_stepwise(decoder: str, size: int, pixels: int) -> None:
    """Refuse large images of the kinds that are decoded pixel by pixel in Python.

    :param decoder: Pillow's name of it.
    :raises Excess: with their number of pixels, or the bytes of the file.
    """
    if decoder not in _STEPWISE:
        return
    if pixels > STEPWISE:
        raise Excess(f"{pixels:,} pixels in a form that is read pixel by pixel: at most {STEPWISE:,}")
    if size > STEPWISE_BYTES * pixels + BESIDE_PIXELS // 16:
        raise Excess(f"{size:,} bytes for {pixels:,} pixels")


def sound_exif(data: bytes) -> bool:
    """Whether the values in EXIF data, which are a TIFF directory, can be read: they may lie in the same place."""
    while data.startswith(b"Exif\0\0"):
        data = data[6:]
    try:
        return _total(_directory(io.BytesIO(data)), len(data)) <= DIRECTORY
    except _UNUSABLE:  # nothing can be read of it
        return True
    except Excess:
        return False


def _nothing(file: BinaryIO, size: int) -> None:
    pass


def _png(file: BinaryIO, size: int) -> None:
    file.seek(8)
    parts = beside = 0
    while len(head := file.read(8)) == 8 and head[4:] != b"IEND":
        length = int.from_bytes(head[:4], "big")
        parts, beside = parts + 1, beside + length * (head[4:] not in (b"IDAT", b"fdAT"))
        _bounded(parts, min(beside, size), BESIDE_PIXELS)
        file.seek(length + 4, os.SEEK_CUR)


def _jpeg(file: BinaryIO, size: int) -> None:
    """Go through the segments up to the first scan, as Pillow does."""
    file.seek(2)
    exif, parts = b"", 0
    while byte := file.read(1):
        parts += 1
        _bounded(parts, file.tell(), BESIDE_PIXELS)
        if byte != b"\xff":
            continue
        marker = file.read(1)
        if marker == b"\xda":
            break
        if marker == b"\xff":  # a filler: what follows it may be the marker
            file.seek(-1, os.SEEK_CUR)
        if not marker or MARKER.get(0xFF00 | marker[0], ("", "", None))[2] is None:
            continue
        length = max(0, int.from_bytes(file.read(2), "big") - 2)
        if marker == b"\xe1":
            content = file.read(length)
            exif += content[6:] if content.startswith(b"Exif\0\0") else b""
        else:
            file.seek(length, os.SEEK_CUR)
    if not sound_exif(exif):
        raise Excess(f"EXIF data of {len(exif):,} bytes whose values take more than {DIRECTORY:,} bytes")


def _gif(file: BinaryIO, size: int) -> None:
    """Go through the blocks up to the first frame."""
    file.seek(10)
    flags = file.read(1) or b"\0"
    file.seek(2 + (3 << (flags[0] & 7) + 1 if flags[0] & 128 else 0), os.SEEK_CUR)
    parts, within = 0, False  # within: an extension, which is blocks up to an empty one
    while byte := file.read(1):
        parts += 1
        _bounded(parts, file.tell(), BEFORE_GIF)
        if within:
            within = byte != b"\0"
            file.seek(byte[0], os.SEEK_CUR)
        elif byte in b",;":
            return
        elif byte == b"!" and (label := file.read(1)):
            within = True
            if label != b"\xfe":  # not a comment: its first block may be empty
                file.seek((file.read(1) or b"\0")[0], os.SEEK_CUR)


def _webp(file: BinaryIO, size: int) -> None:
    """Look at the size of the canvas, which the decoder takes memory for before anybody can ask it for that size."""
    file.seek(12)
    head = file.read(18)
    if head[:4] == b"VP8X" and len(head) == 18:
        width, height = (int.from_bytes(head[start : start + 3], "little") + 1 for start in (12, 15))
        if width * height > PIXELS:
            raise Excess(f"{width} × {height} pixels")


def _tiff(file: BinaryIO, size: int) -> None:
    file.seek(0)
    try:
        entries = _directory(file)
    except _UNUSABLE:  # the decoder says what is wrong with it
        return
    total = _total(entries, size)
    if total > max(size, DIRECTORY):
        raise Excess(f"values of {total:,} bytes in the directory of a file of {size:,} bytes")
    given = {tag: value for tag, (_, count, value) in entries.items() if count == 1}
    strips = max(entries[tag][1] if tag in entries else 0 for tag in (_STRIPS, _TILES))
    if strips > OFFSETS:
        raise Excess(f"{strips:,} strips or tiles")
    width, height = given.get(_WIDTH, 0), given.get(_HEIGHT, 0)
    tile = given.get(_TILE_WIDTH, 0) * given.get(_TILE_HEIGHT, 0)
    if tile > width * height + SPARE_TILE:
        raise Excess(f"tiles of {tile:,} pixels for an image of {width} × {height}")


def _plain(file: BinaryIO, size: int) -> None:
    """Look at the header and the comments of a PPM file."""
    file.seek(0)
    head = file.read(PLAIN_HEADER)
    lines = head.replace(b"\r", b"\n").split(b"\n")
    if len(b" ".join(line.partition(b"#")[0] for line in lines).split()) < 4:  # kind, width, height and what follows
        raise Excess(f"a header of more than {PLAIN_HEADER:,} bytes")
    if head[1:2] in b"123" and sum(block.count(b"#") for block in _blocks(file)) > PLAIN_COMMENTS:
        raise Excess(f"more than {PLAIN_COMMENTS:,} comments")


_CHECKS: dict[str, Callable[[BinaryIO, int], None]] = {
    "PNG": _png, "JPEG": _jpeg, "GIF": _gif, "WEBP": _webp, "TIFF": _tiff, "PPM": _plain,
}  # fmt: skip


def _bounded(parts: int, taken: int, most: int) -> None:
    if parts > PARTS:
        raise Excess(f"more than {PARTS:,} parts")
    if taken > most:
        raise Excess(f"more than {most:,} bytes beside the pixels")


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    """Yield the file piece by piece; each but the first begins with the last byte of the one before."""
    file.seek(0)
    last = b""
    while block := file.read(1 << 20):
        yield last + block
        last = block[-1:]


def _total(entries: dict[int, tuple[int, int, int]], size: int) -> int:
    """Return how many bytes of data of *size* bytes reading all entries takes."""
    return sum(min(size, _SIZES.get(kind, 0) * count) for kind, count, _ in entries.values())


def _directory(file: BinaryIO) -> dict[int, tuple[int, int, int]]:
    """Return tag -> type, number of values and the value itself, where it is one whole number, of a TIFF directory.

    :raises struct.error: when there is none.
    """
    head = file.read(16)
    order = "<" if head[:2] == b"II" else ">"
    big = head[2:3] == b"+"  # as Pillow tells it
    (offset,) = struct.unpack_from(f"{order}Q" if big else f"{order}L", head, 8 if big else 4)
    file.seek(offset)
    (count,) = struct.unpack(f"{order}Q" if big else f"{order}H", file.read(8 if big else 2))
    entry = struct.Struct(f"{order}HHQ8s" if big else f"{order}HHL4s")
    if count > PARTS:
        raise Excess(f"{count:,} entries in a directory")
    block = file.read(count * entry.size)
    entries: dict[int, tuple[int, int, int]] = {}
    for tag, kind, number, raw in entry.iter_unpack(block[: len(block) // entry.size * entry.size]):
        value = raw[: _SIZES.get(kind, 0)]
        entries.setdefault(tag, (kind, number, int.from_bytes(value, "little" if order == "<" else "big")))
    return entries

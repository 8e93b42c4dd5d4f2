"""Images made byte by byte: sound ones, and what lets a header, a length or a sum lie."""

from __future__ import annotations

import io
import random
import struct
import zlib

from canary import command
from PIL import Image

SIDE = 8


def plain(format: str, mode: str = "RGB", size: tuple[int, int] = (SIDE, SIDE), **options: object) -> bytes:
    """Return a sound image."""
    draws = random.Random(0)
    image = Image.new(mode, size)
    bands = len(image.getbands())
    values = [tuple(draws.randrange(250) for _ in range(bands)) for _ in range(size[0] * size[1])]
    if mode not in ("1", "I", "F", "I;16"):
        image.putdata([value[0] for value in values] if bands == 1 else values)
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def chunk(kind: bytes, content: bytes, length: int | None = None, sum_: int | None = None) -> bytes:
    """Return a chunk of a PNG file; its length and its sum may be wrong."""
    crc = zlib.crc32(kind + content) if sum_ is None else sum_
    return struct.pack(">I", len(content) if length is None else length) + kind + content + struct.pack(">I", crc)


def header(width: int, height: int, depth: int = 8, colour: int = 2) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))


SIGN, END = b"\x89PNG\r\n\x1a\n", chunk(b"IEND", b"")
ROWS = zlib.compress(b"".join(b"\0" + bytes(range(3 * SIDE)) for _ in range(SIDE)))
PIXELS = chunk(b"IDAT", ROWS)


def png(*chunks: bytes) -> bytes:
    return SIGN + b"".join(chunks)


def deflated_zeros(megabytes: int) -> bytes:
    """Return so many megabytes of zeros, as a stream of deflate without head and tail; one block again and again."""
    packer = zlib.compressobj(9, wbits=-15)
    block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return block * megabytes + packer.flush()


def zeros(size: int) -> bytes:
    """Return *size* zeros, in whole megabytes, compressed."""
    megabytes = size >> 20
    total = struct.pack(">I", ((megabytes << 20) % 65521 << 16) + 1)
    return b"\x78\xda" + deflated_zeros(megabytes) + total


def eps(head: bytes = b"%!PS-Adobe-3.0 EPSF-3.0\n", box: str = "0 0 8 8") -> bytes:
    program = f"(%pipe%{command()}) (w) file closefile\n(%stdout) (w) file closefile\nshowpage\n"
    return head + f"%%BoundingBox: {box}\n%%EndComments\n{program}%%EOF\n".encode()


def wmf() -> bytes:
    return struct.pack("<IHhhhhHIH", 0x9AC6CDD7, 0, 0, 0, 8, 8, 96, 0, 0) + b"\x01\x00\x09\x00" + bytes(40)


def emf() -> bytes:
    return struct.pack("<II", 1, 108) + struct.pack("<8i", 0, 0, 8, 8, 0, 0, 8, 8) + b" EMF" + bytes(200)


def ole(size: int = 4096) -> bytes:
    """Return the head of a compound file, as FPX and MIC images are."""
    return b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(16) + struct.pack("<HHHHH", 62, 3, 65534, 9, 6) + bytes(size)


def exif(*entries: bytes, next_: int = 0) -> bytes:
    """Return EXIF data with one folder of *entries*, and the place of the next folder."""
    body = b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + b"".join(entries) + struct.pack("<I", next_)
    return b"Exif\0\0" + body


def entry(tag: int, kind: int, count: int, value: int) -> bytes:
    return struct.pack("<HHII", tag, kind, count, value & 0xFFFFFFFF)


def jpeg_with(segment: bytes, marker: int = 0xE1) -> bytes:
    sound = plain("JPEG")
    return sound[:2] + struct.pack(">BBH", 0xFF, marker, len(segment) + 2) + segment + sound[2:]


def png_with_exif(content: bytes) -> bytes:
    return png(header(SIDE, SIDE), chunk(b"eXIf", content.removeprefix(b"Exif\0\0")), PIXELS, END)


def tiff(entries: list[bytes], *, tail: bytes = b"", next_: int = 0, first: int = 8) -> bytes:
    folder = struct.pack("<H", len(entries)) + b"".join(entries) + struct.pack("<I", next_)
    return b"II*\0" + struct.pack("<I", first) + folder + tail


def tiff_of(width: int, height: int, **more: int) -> list[bytes]:
    """Return the entries of a plain colour TIFF; *more* changes single ones, ``t278=…``."""
    values = {256: width, 257: height, 258: 8, 259: 1, 262: 2, 273: 200, 277: 3, 278: height, 279: 3 * width * height}
    values |= {int(name[1:]): value for name, value in more.items()}
    return [entry(tag, 4, 1, value) for tag, value in sorted(values.items())]


def gif(width: int, height: int, frames: int = 1) -> bytes:
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, min(width, 8), min(height, 8), 0) + b"\x02\x02\x4c\x01\x00"
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6) + frame * frames + b"\x3b"


def bmp(width: int, height: int, bits: int = 24, colours: int = 0, compression: int = 0) -> bytes:
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, 0, 0, 0, colours, 0)
    return b"BM" + struct.pack("<IHHI", 54 + 192, 0, 0, 54) + info + bytes(192)


def ico(count: int, size: int, offset: int, kind: int = 1) -> bytes:
    return struct.pack("<HHH", 0, kind, count) + struct.pack("<BBBBHHII", 8, 8, 0, 0, 1, 32, size, offset) * min(
        count, 3
    )


def icns(size: int) -> bytes:
    return b"icns" + struct.pack(">I", size) + b"ic07" + struct.pack(">I", size - 8 & 0xFFFFFFFF) + plain("PNG")


def psd(width: int, height: int, channels: int = 3) -> bytes:
    return (
        b"8BPS"
        + struct.pack(">H6xHIIHH", 1, channels, height, width, 8, 3)
        + bytes(12)
        + struct.pack(">H", 1)
        + bytes(64)
    )


def fli(width: int, height: int, frames: int = 1) -> bytes:
    head = struct.pack("<IHHHHHHI", 1 << 20, 0xAF12, frames, width, height, 8, 3, 10)
    return head.ljust(128, b"\0") + struct.pack("<IHH", 1 << 20, 0xF1FA, 65535) + struct.pack("<IH", 6, 4) * 50


def webp(size: int, canvas: int | None = None) -> bytes:
    if canvas is None:
        return b"RIFF" + struct.pack("<I", size) + plain("WEBP")[8:]
    extended = b"VP8X" + struct.pack("<II", 10, 0) + (canvas - 1).to_bytes(3, "little") * 2
    return b"RIFF" + struct.pack("<I", size) + b"WEBP" + extended


def jp2(width: int, height: int) -> bytes:
    box = struct.pack(">IIHBBBB", height, width, 3, 7, 7, 0, 0)
    head = struct.pack(">I", 22) + b"ihdr" + box
    return (
        b"\0\0\0\x0cjP  \r\n\x87\n"
        + b"\0\0\0\x14ftypjp2 \0\0\0\0jp2 "
        + struct.pack(">I", 8 + len(head))
        + b"jp2h"
        + head
    )


def dds(width: int, height: int) -> bytes:
    return b"DDS " + struct.pack("<7I", 124, 0x1007, height, width, 0, 0, 1).ljust(124, b"\0")


def sgi(width: int, height: int) -> bytes:
    return struct.pack(">HBBHHHH", 474, 1, 1, 3, width, height, 3).ljust(512, b"\0") + bytes(64)


def tga(width: int, height: int, kind: int = 10) -> bytes:
    return struct.pack("<BBBHHBHHHHBB", 0, 0, kind, 0, 0, 0, 0, 0, width, height, 24, 0) + b"\xff" * 64


def pcx(width: int, height: int) -> bytes:
    return struct.pack("<BBBBHHHH", 10, 5, 1, 8, 0, 0, width - 1, height - 1).ljust(128, b"\0") + b"\xff" * 64


def cut(content: bytes, share: float) -> bytes:
    return content[: int(len(content) * share)]


def noise(size: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(size)


def flipped(content: bytes, seed: int, count: int = 8) -> bytes:
    draws, made = random.Random(seed), bytearray(content)
    for _ in range(count):
        made[draws.randrange(len(made))] ^= 1 << draws.randrange(8)
    return bytes(made)


def progressive_bomb() -> bytes:
    """Return a JPEG whose many empty scans each walk over a large image."""
    sound = plain("JPEG", size=(16, 16), progressive=True)
    start = sound.index(b"\xff\xc2")
    large = sound[: start + 5] + struct.pack(">HH", 9000, 9000) + sound[start + 9 :]
    scan = large.rindex(b"\xff\xda")
    return large[:scan] + large[scan:-2] * 2000 + b"\xff\xd9"

"""Hostile images: formats that start programs, under names of others; headers that lie; bombs; cut and mixed files."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

from canary import MARK, code, command
from PIL import Image

Build = Callable[[Path], None]
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


def _contents() -> dict[str, Callable[[], bytes]]:
    """Return what is in each kind of file."""
    huge, sound, photo = 60_000, plain("PNG"), plain("JPEG")
    found: dict[str, Callable[[], bytes]] = {
        # what a decoder may hand to a program, or to other code
        "eps": eps,
        "eps with a binary head": lambda: struct.pack("<IIIIIII", 0xC6D3D0C5, 32, 400, 0, 0, 0, 0).ljust(32, b"\0") + eps(),
        "eps of a huge box": lambda: eps(box="0 0 200000 200000"),
        "eps of endless comments": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n" + b"%%X: y\n" * 300_000 + eps(),
        "eps with a line of megabytes": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%" + b"a" * (8 << 20) + eps(),
        "postscript": lambda: b"%!PS\n" + f"(%pipe%{command()}) (w) file\nshowpage\n".encode(),
        "pdf": lambda: b"%PDF-1.4\n1 0 obj<</OpenAction<</S/Launch/F(touch)>>>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF",
        "svg with an entity": lambda: f'<!DOCTYPE s [<!ENTITY x SYSTEM "file://{MARK}">]><svg>&x;</svg>'.encode(),
        "svg with a script": lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><script>fetch("http://127.0.0.1:9")</script></svg>',
        "html": lambda: b"<html><img src=x onerror=alert(1)></html>",
        "wmf": wmf,
        "emf": emf,
        "fpx": ole,
        "mic": lambda: ole(1 << 16),
        "hdf5": lambda: b"\x89HDF\r\n\x1a\n" + bytes(512),
        "grib": lambda: b"GRIB" + bytes(3) + b"\x01" + bytes(512),
        "bufr": lambda: b"BUFR" + bytes(512),
        "fits": lambda: b"SIMPLE  =                    T".ljust(80) + b"END".ljust(2800),
        "mpeg": lambda: b"\0\0\x01\xb3" + bytes(64),
        "python code": lambda: code().encode(),
        "shell script": lambda: f"#!/bin/sh\n{command()}\n".encode(),
        "pickle": lambda: f"cos\nsystem\n(S{command()!r}\ntR.".encode(),
        "mvg of imagemagick": lambda: f"push graphic-context\nimage over 0,0 0,0 '|{command()}'\n".encode(),
        "elf": lambda: b"\x7fELF\x02\x01\x01" + bytes(100),
        # other formats under the name of this one
        "icns": lambda: icns(200),
        "icns of a huge size": lambda: icns(0xFFFFFFFF),
        "icns of size 0": lambda: b"icns" + struct.pack(">I", 64) + b"ic07\0\0\0\0" * 5,
        "ico": lambda: plain("ICO"),
        "ico outside the file": lambda: ico(1, 1 << 30, 1 << 30),
        "ico of many": lambda: ico(65535, 100, 22),
        "ico around a bomb": lambda: ico(1, len(sound), 22) + png(header(huge, huge), PIXELS, END),
        "cur": lambda: ico(1, 100, 22, 2) + bytes(100),
        "psd": lambda: psd(8, 8),
        "psd huge": lambda: psd(300_000, 300_000),
        "psd of many channels": lambda: psd(8, 8, 65535),
        "fli": lambda: fli(8, 8),
        "fli huge": lambda: fli(65535, 65535, 65535),
        "dds": lambda: dds(8, 8),
        "dds huge": lambda: dds(huge, huge),
        "sgi": lambda: sgi(8, 8),
        "sgi huge": lambda: sgi(huge, huge),
        "tga": lambda: tga(8, 8),
        "tga huge": lambda: tga(huge, huge),
        "pcx": lambda: pcx(8, 8),
        "pcx huge": lambda: pcx(huge, huge),
        "jpeg 2000": lambda: jp2(8, 8),
        "jpeg 2000 huge": lambda: jp2(2_000_000_000, 2_000_000_000),
        "xbm": lambda: b"#define im_width 8\n#define im_height 8\nstatic char im_bits[] = {" + b"0x00," * 8 + b"};",
        "xbm huge": lambda: b"#define im_width 99999\n#define im_height 99999\nstatic char im_bits[] = {0x00};",
        "xpm": lambda: b'/* XPM */\nstatic char*x[]={"8 8 1 1",".c #000",' + b'"........",' * 8 + b"};",
        "ppm": lambda: plain("PPM"),
        "ppm huge": lambda: b"P6\n100000 100000\n255\n",
        "ppm of deep values": lambda: b"P6\n8 8\n65535\n" + bytes(384),
        "ppm of a number without end": lambda: b"P6\n" + b"9" * 300_000 + b" 8\n255\n",
        "ppm of a comment without end": lambda: b"P6\n#" + b"a" * (8 << 20),
        "pfm": lambda: b"PF\n8 8\n-1.0\n" + bytes(768),
        "qoi huge": lambda: b"qoif" + struct.pack(">IIBB", huge, huge, 3, 0) + bytes(8),
        "avif": lambda: b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf" + bytes(256),
        "heic": lambda: b"\0\0\0\x18ftypheic\0\0\0\0heicmif1" + bytes(256),
        "im": lambda: b"Image type: RGB\r\nImage size (x*y): 8*8\r\nFile size (no of images): 1\r\n".ljust(511, b"\0") + b"\x1a" + bytes(192),
        "spider": lambda: struct.pack(">27f", *([1.0] * 27)).ljust(1024, b"\0"),
        "mcidas": lambda: b"\0\0\0\0\0\0\0\x04".ljust(256, b"\0"),
        "gbr": lambda: struct.pack(">IIIII", 28, 1, huge, huge, 4) + b"x\0" * 10,
        "ftex": lambda: struct.pack("<4sIIIII", b"FTEX", 1, huge, huge, 1, 1) + bytes(64),
        "blp": lambda: b"BLP1" + struct.pack("<IIIII", 0, 0, huge, huge, 0) + bytes(512),
        "pixar": lambda: b"\200\350\000\000".ljust(512, b"\0"),
        "sun raster huge": lambda: struct.pack(">8I", 0x59A66A95, huge, huge, 24, 0, 1, 0, 0) + bytes(64),
        "photo cd": lambda: bytes(2048) + b"PCD_" + bytes(4096),
        "dcx": lambda: struct.pack("<II", 0x3ADE68B1, 1 << 30) + bytes(64),
        # PNG
        "png of a huge header": lambda: png(header(2**31 - 1, 2**31 - 1), PIXELS, END),
        "png just too large": lambda: png(header(9500, 9500), PIXELS, END),
        "png bomb": lambda: png(header(9000, 9000), chunk(b"IDAT", zeros(243 << 20)), END),
        "png bomb beyond its header": lambda: png(header(8, 8), chunk(b"IDAT", zeros(300 << 20)), END),
        "png of no width": lambda: png(header(0, 8), PIXELS, END),
        "png of one pixel": lambda: png(header(1, 1), chunk(b"IDAT", zlib.compress(bytes(4))), END),
        "png of one long row": lambda: png(header(80_000_000, 1), chunk(b"IDAT", zlib.compress(bytes(64))), END),
        "png of 16 bits": lambda: png(header(8, 8, 16, 0), chunk(b"IDAT", zlib.compress(bytes(17) * 8)), END),
        "png of strange bits": lambda: png(header(8, 8, 7, 9), PIXELS, END),
        "png of palette without palette": lambda: png(header(8, 8, 8, 3), chunk(b"IDAT", zlib.compress(bytes(9) * 8)), END),
        "png of long palette": lambda: png(header(8, 8, 8, 3), chunk(b"PLTE", bytes(3 * 5000)), chunk(b"IDAT", zlib.compress(bytes(9) * 8)), END),
        "png without pixels": lambda: png(header(8, 8), END),
        "png without an end": lambda: png(header(8, 8), PIXELS),
        "png of a header alone": lambda: png(header(8, 8)),
        "png of the sign alone": lambda: SIGN,
        "png of a wrong sum": lambda: png(header(8, 8), chunk(b"IDAT", ROWS, sum_=1), END),
        "png of a wrong sum in the header": lambda: png(chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0), sum_=7), PIXELS, END),
        "png of a long chunk": lambda: png(header(8, 8), chunk(b"IDAT", ROWS, length=2**31 - 1), END),
        "png of a negative chunk": lambda: png(header(8, 8), chunk(b"tEXt", b"a\0b", length=2**32 - 1), PIXELS, END),
        "png of damaged pixels": lambda: png(header(8, 8), chunk(b"IDAT", noise(200, 3)), END),
        "png of half the pixels": lambda: png(header(8, 8), chunk(b"IDAT", ROWS[: len(ROWS) // 2]), END),
        "png of endless chunks": lambda: png(header(8, 8), *[chunk(b"tIME", bytes(7))] * 100_000, PIXELS, END),
        "png of a text bomb": lambda: png(header(8, 8), chunk(b"zTXt", b"a\0\0" + zeros(200 << 20)), PIXELS, END),
        "png of many texts": lambda: png(header(8, 8), *[chunk(b"tEXt", b"k%d\0" % i + b"a" * 1000) for i in range(2000)], PIXELS, END),
        "png of an icc bomb": lambda: png(header(8, 8), chunk(b"iCCP", b"a\0\0" + zeros(200 << 20)), PIXELS, END),
        "png of two headers": lambda: png(header(8, 8), header(huge, huge), PIXELS, END),
        "png of interlaced rows": lambda: png(chunk(b"IHDR", struct.pack(">IIBBBBB", 9000, 9000, 8, 2, 0, 0, 1)), PIXELS, END),
        "png of a million frames": lambda: png(header(8, 8), chunk(b"acTL", struct.pack(">II", 10**6, 0)), PIXELS, END),
        "png of frames out of order": lambda: png(header(8, 8), chunk(b"acTL", struct.pack(">II", 2, 0)), chunk(b"fdAT", bytes(4) + ROWS), PIXELS, END),
        "png with a tail": lambda: sound + noise(1 << 16, 1),
        "png behind a zip": lambda: sound + b"PK\x03\x04" + bytes(100) + b"PK\x05\x06" + bytes(18),
        "png that is a pickle, too": lambda: sound + f"\ncos\nsystem\n(S{command()!r}\ntR.".encode(),
        "png that is code, too": lambda: sound + b"\n" + code().encode(),
        # EXIF
        "png exif that loops": lambda: png_with_exif(exif(entry(0x0112, 3, 1, 6), next_=8)),
        "png exif of a huge count": lambda: png_with_exif(exif(entry(0x0112, 3, 2**32 - 1, 8))),
        "png exif of odd orientation": lambda: png_with_exif(exif(entry(0x0112, 3, 1, 77))),
        "png exif of no bytes": lambda: png(header(8, 8), chunk(b"eXIf", b""), PIXELS, END),
        "png exif in a long chunk": lambda: png(header(8, 8), PIXELS, chunk(b"eXIf", b"II*\0", length=2**31 - 1)),
        "png exif behind the pixels": lambda: png(header(8, 8), PIXELS, chunk(b"eXIf", exif(entry(0x0112, 3, 1, 6))[6:]), END),
        "jpeg exif that loops": lambda: jpeg_with(exif(entry(0x0112, 3, 1, 6), entry(0x8769, 4, 1, 8), next_=8)),
        "jpeg exif into itself": lambda: jpeg_with(exif(entry(0x8769, 4, 1, 8), entry(0x8825, 4, 1, 8), entry(0xA005, 4, 1, 8))),
        "jpeg exif of a huge count": lambda: jpeg_with(exif(entry(0x0112, 2, 2**32 - 1, 8))),
        "jpeg exif outside the file": lambda: jpeg_with(exif(entry(0x010F, 2, 1000, 2**31), next_=2**31)),
        "jpeg exif of rationals by zero": lambda: jpeg_with(exif(entry(0x011A, 5, 1, 8))),
        "jpeg exif of text as orientation": lambda: jpeg_with(exif(entry(0x0112, 2, 4, 0x41414141))),
        "jpeg exif of list as orientation": lambda: jpeg_with(exif(entry(0x0112, 3, 2, 0x00060006))),
        "jpeg exif turned": lambda: jpeg_with(exif(entry(0x0112, 3, 1, 6))),
        "jpeg exif of noise": lambda: jpeg_with(b"Exif\0\0" + noise(500, 4)),
        "jpeg of xmp": lambda: jpeg_with(b'http://ns.adobe.com/xap/1.0/\0<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>'),
        "jpeg of photoshop data": lambda: jpeg_with(b"Photoshop 3.0\x008BIM\x04\x04\0\0\xff\xff\xff\xff", 0xED),
        "jpeg of mpf": lambda: jpeg_with(b"MPF\0II*\0\x08\0\0\0" + struct.pack("<H", 65535), 0xE2),
        "jpeg of icc parts missing": lambda: jpeg_with(b"ICC_PROFILE\0\x01\xff" + bytes(20), 0xE2),
        # JPEG
        "jpeg of a huge header": lambda: photo.replace(struct.pack(">BHH", 8, 8, 8), struct.pack(">BHH", 8, 65500, 65500), 1),
        "jpeg of no height": lambda: photo.replace(struct.pack(">BHH", 8, 8, 8), struct.pack(">BHH", 8, 0, 8), 1),
        "jpeg of 12 bits": lambda: photo.replace(struct.pack(">BHH", 8, 8, 8), struct.pack(">BHH", 12, 8, 8), 1),
        "jpeg of cmyk": lambda: plain("JPEG", "CMYK"),
        "jpeg progressive": lambda: plain("JPEG", progressive=True),
        "jpeg of endless scans": lambda: progressive_bomb(),
        "jpeg of the sign alone": lambda: b"\xff\xd8\xff",
        "jpeg of markers alone": lambda: b"\xff\xd8" + b"\xff" * (1 << 20),
        "jpeg without tables": lambda: b"\xff\xd8\xff\xc0\x00\x11\x08\x00\x08\x00\x08\x03\x01\x11\x00\x02\x11\x01\x03\x11\x01\xff\xda" + bytes(40),
        # TIFF
        "tiff": lambda: plain("TIFF"),
        "tiff huge": lambda: tiff(tiff_of(2**31 - 1, 2**31 - 1)),
        "tiff of folders that loop": lambda: tiff(tiff_of(8, 8), tail=bytes(400), next_=8),
        "tiff of a folder outside": lambda: tiff(tiff_of(8, 8), first=2**31),
        "tiff of a huge count": lambda: tiff([*tiff_of(8, 8), entry(700, 1, 2**32 - 1, 8)], tail=bytes(400)),
        "tiff of 65535 entries": lambda: b"II*\0\x08\0\0\0\xff\xff" + b"".join(entry(tag, 4, 1, 1) for tag in range(65535)),
        "tiff of 1000 bits": lambda: tiff(tiff_of(8, 8, t258=1000), tail=bytes(400)),
        "tiff of 16 bits": lambda: plain("TIFF", "I;16"),
        "tiff of floats": lambda: plain("TIFF", "F"),
        "tiff of many samples": lambda: tiff(tiff_of(8, 8, t277=60_000), tail=bytes(400)),
        "tiff of a strange compression": lambda: tiff(tiff_of(8, 8, t259=50001), tail=bytes(400)),
        "tiff of lzma": lambda: tiff(tiff_of(8, 8, t259=34925), tail=bytes(400)),
        "tiff of old jpeg": lambda: tiff(tiff_of(8, 8, t259=6), tail=bytes(400)),
        "tiff of fax": lambda: tiff(tiff_of(8, 8, t259=4, t258=1, t277=1), tail=bytes(400)),
        "tiff of deflated zeros": lambda: tiff(tiff_of(9000, 9000, t259=8, t279=300_000), tail=zeros(243 << 20)),
        "tiff of no rows in a strip": lambda: tiff(tiff_of(8, 8, t278=0), tail=bytes(400)),
        "tiff of tiles outside": lambda: tiff([*tiff_of(8, 8), entry(322, 4, 1, 65536), entry(323, 4, 1, 65536), entry(324, 4, 1, 2**31)]),
        "tiff of bytes apart": lambda: b"MM\0+\0\x08\0\0\0\0\0\0\0\0\0\x10" + bytes(64),
        # GIF, BMP, WEBP
        "gif": lambda: plain("GIF"),
        "gif huge": lambda: gif(65535, 65535),
        "gif of many frames": lambda: gif(8, 8, 20_000),
        "gif without a frame": lambda: b"GIF89a" + struct.pack("<HHBBB", 8, 8, 0, 0, 0) + b"\x3b",
        "gif of endless comments": lambda: gif(8, 8)[:19] + b"\x21\xfe" + (b"\xff" + b"a" * 255) * 30_000 + b"\0" + gif(8, 8)[19:],
        "bmp": lambda: plain("BMP"),
        "bmp huge": lambda: bmp(2**31 - 1, 2**31 - 1),
        "bmp of negative height": lambda: bmp(8, -8),
        "bmp of negative width": lambda: bmp(-8, 8),
        "bmp of many colours": lambda: bmp(8, 8, 8, 2**31 - 1),
        "bmp of 1000 bits": lambda: bmp(8, 8, 1000),
        "bmp of runs": lambda: bmp(9000, 9000, 8, 0, 1),
        "bmp of a huge head": lambda: b"BM" + struct.pack("<IHHII", 300, 0, 0, 54, 2**31 - 1) + bytes(200),
        "webp": lambda: plain("WEBP"),
        "webp of a huge canvas": lambda: webp(30, 16_383_000),
        "webp of a wrong size": lambda: webp(2**32 - 2),
        "webp of lossless noise": lambda: b"RIFF" + struct.pack("<I", 60) + b"WEBPVP8L" + struct.pack("<I", 48) + b"\x2f" + noise(47, 2),
        # modes, cuts, noise
        "alpha": lambda: plain("PNG", "RGBA"),
        "grey with alpha": lambda: plain("PNG", "LA"),
        "one bit": lambda: plain("PNG", "1"),
        "palette with transparency": lambda: plain("PNG", "P", transparency=0),
        "lab": lambda: plain("TIFF", "LAB"),
        "ycbcr": lambda: plain("TIFF", "YCbCr"),
        "cmyk": lambda: plain("TIFF", "CMYK"),
        "another size": lambda: plain("PNG", size=(9, 7)),
        "empty": lambda: b"",
        "one byte": lambda: b"\x89",
        "zeros": lambda: bytes(4096),
        "ones": lambda: b"\xff" * 4096,
        "text": lambda: b"this is no image\n" * 10,
        "a zip": lambda: b"PK\x03\x04" + bytes(60),
        "gzip": lambda: b"\x1f\x8b\x08" + bytes(60),
        "lfs pointer": lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
    }  # fmt: skip
    for share in (0.02, 0.2, 0.5, 0.9, 0.99):
        for name in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "PPM"):
            found[f"{name.lower()} cut at {share:.0%}"] = lambda name=name, share=share: cut(plain(name), share)
    for seed in range(4):
        for name in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"):
            found[f"{name.lower()} with bits flipped {seed}"] = lambda name=name, seed=seed: flipped(plain(name), seed)
        found[f"noise {seed}"] = lambda seed=seed: noise(2000, seed)
    return found


def progressive_bomb() -> bytes:
    """Return a JPEG whose many empty scans each walk over a large image."""
    sound = plain("JPEG", size=(16, 16), progressive=True)
    start = sound.index(b"\xff\xc2")
    large = sound[: start + 5] + struct.pack(">HH", 9000, 9000) + sound[start + 9 :]
    scan = large.rindex(b"\xff\xda")
    return large[:scan] + large[scan:-2] * 2000 + b"\xff\xd9"


def _written(content: Callable[[], bytes]) -> Build:
    def build(path: Path) -> None:
        path.write_bytes(content())

    return build


KINDS: dict[str, Build] = {name: _written(content) for name, content in _contents().items()}

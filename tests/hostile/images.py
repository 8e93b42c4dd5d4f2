"""Hostile images: formats that start programs, under names of others; headers that lie; bombs; cut and mixed files."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

from canary import MARK, code, command
from image_bytes import (
    END,
    PIXELS,
    ROWS,
    SIGN,
    bmp,
    chunk,
    cut,
    dds,
    emf,
    entry,
    eps,
    exif,
    fli,
    flipped,
    gif,
    header,
    icns,
    ico,
    jp2,
    jpeg_with,
    noise,
    ole,
    pcx,
    plain,
    png,
    png_with_exif,
    progressive_bomb,
    psd,
    sgi,
    tga,
    tiff,
    tiff_of,
    webp,
    wmf,
    zeros,
)

Build = Callable[[Path], None]


def _contents() -> dict[str, Callable[[], bytes]]:
    """Return what is in each kind of file."""
    huge, sound, photo = 60_000, plain("PNG"), plain("JPEG")
    found: dict[str, Callable[[], bytes]] = {
        # what a decoder may hand to a program, or to other code
        "eps": eps,
        "eps with a binary head": lambda: (
            struct.pack("<IIIIIII", 0xC6D3D0C5, 32, 400, 0, 0, 0, 0).ljust(32, b"\0") + eps()
        ),
        "eps of a huge box": lambda: eps(box="0 0 200000 200000"),
        "eps of endless comments": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n" + b"%%X: y\n" * 300_000 + eps(),
        "eps with a line of megabytes": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%" + b"a" * (8 << 20) + eps(),
        "postscript": lambda: b"%!PS\n" + f"(%pipe%{command()}) (w) file\nshowpage\n".encode(),
        "pdf": lambda: b"%PDF-1.4\n1 0 obj<</OpenAction<</S/Launch/F(touch)>>>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF",
        "svg with an entity": f'<!DOCTYPE s [<!ENTITY x SYSTEM "file://{MARK}">]><svg>&x;</svg>'.encode,
        "svg with a script": lambda: (
            b'<svg xmlns="http://www.w3.org/2000/svg"><script>fetch("http://127.0.0.1:9")</script></svg>'
        ),
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
        "shell script": f"#!/bin/sh\n{command()}\n".encode,
        "pickle": f"cos\nsystem\n(S{command()!r}\ntR.".encode,
        "mvg of imagemagick": f"push graphic-context\nimage over 0,0 0,0 '|{command()}'\n".encode,
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
        "im": lambda: (
            b"Image type: RGB\r\nImage size (x*y): 8*8\r\nFile size (no of images): 1\r\n".ljust(511, b"\0")
            + b"\x1a"
            + bytes(192)
        ),
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
        "png of palette without palette": lambda: png(
            header(8, 8, 8, 3), chunk(b"IDAT", zlib.compress(bytes(9) * 8)), END
        ),
        "png of long palette": lambda: png(
            header(8, 8, 8, 3), chunk(b"PLTE", bytes(3 * 5000)), chunk(b"IDAT", zlib.compress(bytes(9) * 8)), END
        ),
        "png without pixels": lambda: png(header(8, 8), END),
        "png without an end": lambda: png(header(8, 8), PIXELS),
        "png of a header alone": lambda: png(header(8, 8)),
        "png of the sign alone": lambda: SIGN,
        "png of a wrong sum": lambda: png(header(8, 8), chunk(b"IDAT", ROWS, sum_=1), END),
        "png of a wrong sum in the header": lambda: png(
            chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0), sum_=7), PIXELS, END
        ),
        "png of a long chunk": lambda: png(header(8, 8), chunk(b"IDAT", ROWS, length=2**31 - 1), END),
        "png of a negative chunk": lambda: png(header(8, 8), chunk(b"tEXt", b"a\0b", length=2**32 - 1), PIXELS, END),
        "png of damaged pixels": lambda: png(header(8, 8), chunk(b"IDAT", noise(200, 3)), END),
        "png of half the pixels": lambda: png(header(8, 8), chunk(b"IDAT", ROWS[: len(ROWS) // 2]), END),
        "png of endless chunks": lambda: png(header(8, 8), *[chunk(b"tIME", bytes(7))] * 100_000, PIXELS, END),
        "png of a text bomb": lambda: png(header(8, 8), chunk(b"zTXt", b"a\0\0" + zeros(200 << 20)), PIXELS, END),
        "png of many texts": lambda: png(
            header(8, 8), *[chunk(b"tEXt", b"k%d\0" % i + b"a" * 1000) for i in range(2000)], PIXELS, END
        ),
        "png of an icc bomb": lambda: png(header(8, 8), chunk(b"iCCP", b"a\0\0" + zeros(200 << 20)), PIXELS, END),
        "png of two headers": lambda: png(header(8, 8), header(huge, huge), PIXELS, END),
        "png of interlaced rows": lambda: png(
            chunk(b"IHDR", struct.pack(">IIBBBBB", 9000, 9000, 8, 2, 0, 0, 1)), PIXELS, END
        ),
        "png of a million frames": lambda: png(header(8, 8), chunk(b"acTL", struct.pack(">II", 10**6, 0)), PIXELS, END),
        "png of frames out of order": lambda: png(
            header(8, 8), chunk(b"acTL", struct.pack(">II", 2, 0)), chunk(b"fdAT", bytes(4) + ROWS), PIXELS, END
        ),
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
        "png exif behind the pixels": lambda: png(
            header(8, 8), PIXELS, chunk(b"eXIf", exif(entry(0x0112, 3, 1, 6))[6:]), END
        ),
        "jpeg exif that loops": lambda: jpeg_with(exif(entry(0x0112, 3, 1, 6), entry(0x8769, 4, 1, 8), next_=8)),
        "jpeg exif into itself": lambda: jpeg_with(
            exif(entry(0x8769, 4, 1, 8), entry(0x8825, 4, 1, 8), entry(0xA005, 4, 1, 8))
        ),
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
        "jpeg of a huge header": lambda: photo.replace(
            struct.pack(">BHH", 8, 8, 8), struct.pack(">BHH", 8, 65500, 65500), 1
        ),
        "jpeg of no height": lambda: photo.replace(struct.pack(">BHH", 8, 8, 8), struct.pack(">BHH", 8, 0, 8), 1),
        "jpeg of 12 bits": lambda: photo.replace(struct.pack(">BHH", 8, 8, 8), struct.pack(">BHH", 12, 8, 8), 1),
        "jpeg of cmyk": lambda: plain("JPEG", "CMYK"),
        "jpeg progressive": lambda: plain("JPEG", progressive=True),
        "jpeg of endless scans": progressive_bomb,
        "jpeg of the sign alone": lambda: b"\xff\xd8\xff",
        "jpeg of markers alone": lambda: b"\xff\xd8" + b"\xff" * (1 << 20),
        "jpeg without tables": lambda: (
            b"\xff\xd8\xff\xc0\x00\x11\x08\x00\x08\x00\x08\x03\x01\x11\x00\x02\x11\x01\x03\x11\x01\xff\xda" + bytes(40)
        ),
        # TIFF
        "tiff": lambda: plain("TIFF"),
        "tiff huge": lambda: tiff(tiff_of(2**31 - 1, 2**31 - 1)),
        "tiff of folders that loop": lambda: tiff(tiff_of(8, 8), tail=bytes(400), next_=8),
        "tiff of a folder outside": lambda: tiff(tiff_of(8, 8), first=2**31),
        "tiff of a huge count": lambda: tiff([*tiff_of(8, 8), entry(700, 1, 2**32 - 1, 8)], tail=bytes(400)),
        "tiff of 65535 entries": lambda: (
            b"II*\0\x08\0\0\0\xff\xff" + b"".join(entry(tag, 4, 1, 1) for tag in range(65535))
        ),
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
        "tiff of tiles outside": lambda: tiff(
            [*tiff_of(8, 8), entry(322, 4, 1, 65536), entry(323, 4, 1, 65536), entry(324, 4, 1, 2**31)]
        ),
        "tiff of bytes apart": lambda: b"MM\0+\0\x08\0\0\0\0\0\0\0\0\0\x10" + bytes(64),
        # GIF, BMP, WEBP
        "gif": lambda: plain("GIF"),
        "gif huge": lambda: gif(65535, 65535),
        "gif of many frames": lambda: gif(8, 8, 20_000),
        "gif without a frame": lambda: b"GIF89a" + struct.pack("<HHBBB", 8, 8, 0, 0, 0) + b"\x3b",
        "gif of endless comments": lambda: (
            gif(8, 8)[:19] + b"\x21\xfe" + (b"\xff" + b"a" * 255) * 30_000 + b"\0" + gif(8, 8)[19:]
        ),
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
        "webp of lossless noise": lambda: (
            b"RIFF" + struct.pack("<I", 60) + b"WEBPVP8L" + struct.pack("<I", 48) + b"\x2f" + noise(47, 2)
        ),
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
    }
    for share in (0.02, 0.2, 0.5, 0.9, 0.99):
        for name in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "PPM"):
            found[f"{name.lower()} cut at {share:.0%}"] = lambda name=name, share=share: cut(plain(name), share)
    for seed in range(4):
        for name in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"):
            found[f"{name.lower()} with bits flipped {seed}"] = lambda name=name, seed=seed: flipped(plain(name), seed)
        found[f"noise {seed}"] = lambda seed=seed: noise(2000, seed)
    return found


def _written(content: Callable[[], bytes]) -> Build:
    def build(path: Path) -> None:
        path.write_bytes(content())

    return build


KINDS: dict[str, Build] = {name: _written(content) for name, content in _contents().items()}

"""Image files of up to some megabytes that would cost a decoder minutes or gigabytes, and a child that reads them.

    python tests/io/image_bombs.py FOLDER [NAME ...]

reads each of them in a process of its own, under limits, and prints what came of it as JSON.
"""

from __future__ import annotations

import io
import json
import os
import resource
import struct
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

from PIL import Image

MEMORY = 3 << 29  # bytes of address space beyond those of the child when it starts
SECONDS = 4  # of CPU time for both readings
MPO_COUNT = struct.pack("<HHL", 0xB001, 4, 1)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(*before: bytes, after: bytes = b"") -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(72)))
    return b"".join([b"\x89PNG\r\n\x1a\n", head, *before, pixels, after, chunk(b"IEND", b"")])


def saved(format: str, size: tuple[int, int] = (64, 64), mode: str = "RGB", **how: object) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, format, **how)
    return buffer.getvalue()


def jpeg(*segments: bytes) -> bytes:
    plain = saved("JPEG")
    return plain[:2] + b"".join(segments) + plain[2:]


def segment(marker: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


def tiff(entries: list[tuple[int, int, int, int | None]], data: bytes) -> bytes:
    """Return a TIFF file; None as the value of an entry is the place of *data*."""
    place = 14 + 12 * len(entries)
    rows = (struct.pack("<HHLL", tag, kind, n, place if value is None else value) for tag, kind, n, value in entries)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + b"".join(sorted(rows)) + bytes(4) + data


def shared(count: int, size: int) -> bytes:
    """Return a TIFF directory with *count* values that all lie in the same *size* bytes."""
    return tiff([(1000 + tag, 7, size, None) for tag in range(count)], bytes(size))


def grey(*more: tuple[int, int, int, int | None]) -> list[tuple[int, int, int, int | None]]:
    """Return the entries of a grey image of 8 × 8 pixels."""
    return sorted([(256, 4, 1, 8), (257, 4, 1, 8), (258, 3, 1, 8), (262, 3, 1, 1), (277, 3, 1, 1), *more])


def split_exif() -> bytes:
    data = shared(50_000, 2_000_000)
    return jpeg(*(segment(0xE1, b"Exif\0\0" + data[at : at + 65000]) for at in range(0, len(data), 65000)))


def scans(count: int) -> bytes:
    whole = saved("JPEG", (8000, 8000), progressive=True)
    return whole[:-2] + whole[whole.rindex(b"\xff\xda") : -2] * count + whole[-2:]


def gif(before: bytes, size: tuple[int, int] = (8, 8)) -> bytes:
    frame = b"," + struct.pack("<HHHHB", 0, 0, *size, 0) + b"\x02\x02\x44\x01\x00"
    return b"GIF89a" + struct.pack("<HHBBB", *size, 0x80, 0, 0) + bytes(6) + before + frame + b";"


def rle_bitmap(width: int, height: int) -> bytes:
    body = b"\x01\0\0\0" * height + b"\0\x01"
    info = struct.pack("<LllHHLLllLL", 40, width, height, 1, 8, 1, len(body), 0, 0, 256, 0)
    return b"BM" + struct.pack("<LHHL", 0, 0, 0, 54 + 1024) + info + bytes(1024) + body


def canvas(width: int, height: int) -> bytes:
    sides = b"".join((side - 1).to_bytes(3, "little") for side in (width, height))
    body = b"WEBPVP8X" + struct.pack("<LL", 10, 2) + sides + b"ANIM" + struct.pack("<LLH", 6, 0, 0)
    return b"RIFF" + struct.pack("<L", len(body)) + body


def many_frames() -> bytes:
    pictures = [Image.new("P", (8, 8), each % 256) for each in range(300)]
    buffer = io.BytesIO()
    pictures[0].save(buffer, "GIF", save_all=True, append_images=pictures[1:])
    return buffer.getvalue()


def broken_mpo() -> bytes:
    whole = saved("MPO", save_all=True, append_images=[Image.new("RGB", (64, 64))])
    at = whole.index(MPO_COUNT) + len(MPO_COUNT)
    return whole[:at] + struct.pack("<L", 0xFFFFFF) + whole[at + 4 :]


TOO_MUCH, LARGE = "decoding it would take too much", "too large"
BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {  # name -> content, what reading says ("": it is read)
    "PNG: a chunk of 4 GB": (lambda: png()[:-12] + b"\xff\xff\xff\xf0eXIfII*\0", "Truncated"),
    "PNG: a million chunks before the pixels": (lambda: png(chunk(b"teSt", b"") * 1_000_000), TOO_MUCH),
    "PNG: two million chunks behind the pixels": (lambda: png(after=chunk(b"teSt", b"") * 2_000_000), TOO_MUCH),
    "PNG: text of 200 MB": (lambda: png(chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(10**6))) * 200), "text chunks"),
    "PNG: a colour profile of 256 MB": (lambda: png(chunk(b"iCCP", b"k\0\0" + zlib.compress(bytes(1 << 28)))), "large"),
    "PNG: values that share their place": (lambda: png(chunk(b"eXIf", shared(50_000, 2_000_000))), ""),
    "JPEG: three million empty segments": (lambda: jpeg(segment(0xE5, b"") * 3_000_000), TOO_MUCH),
    "JPEG: 40 MB of fillers": (lambda: jpeg(b"\xff" * 40_000_000), TOO_MUCH),
    "JPEG: EXIF data of 39 MB": (lambda: jpeg(segment(0xE1, b"Exif\0\0" + bytes(64_994)) * 600), TOO_MUCH),
    "JPEG: values that share their place": (split_exif, TOO_MUCH),
    "JPEG: a thousand scans": (lambda: scans(1000), TOO_MUCH),
    "JPEG: an MPO file of 16 million images": (broken_mpo, ""),
    "GIF: a comment of 25 MB": (lambda: gif(b"!\xfe" + (b"\xff" + bytes(255)) * 100_000 + b"\0"), TOO_MUCH),
    "GIF: three million extensions": (lambda: gif(b"!\xf9\0\0" * 3_000_000), TOO_MUCH),
    "GIF: a screen of 4 billion pixels": (lambda: gif(b"!\xf9\4\x08\0\0\0\0", (65535, 65535)), LARGE),
    "GIF: 300 frames": (many_frames, ""),
    "WEBP: a canvas of 4 billion pixels": (lambda: canvas(65536, 65535), TOO_MUCH),
    "PPM: half a million comments": (lambda: b"P3\n8 8\n255\n" + b"#\n" * 500_000, TOO_MUCH),
    "PPM: 81 million numbers as text": (lambda: b"P2\n9000 9000\n255\n" + b"1 " * 10**7, TOO_MUCH),
    "PPM: a comment of 30 MB": (lambda: b"P6\n#" + b"x" * 30_000_000 + b"\n8 8\n255\n" + bytes(192), TOO_MUCH),
    "PPM: an odd white in 81 million pixels": (lambda: b"P5\n9000 9000\n254\n" + bytes(10**7), TOO_MUCH),
    "BMP: 89 million pixels, run by run": (lambda: rle_bitmap(60_000, 1490), TOO_MUCH),
    "TIFF: values that share their place": (lambda: shared(50_000, 2_000_000), TOO_MUCH),
    "TIFF: four billion offsets": (lambda: tiff(grey((273, 4, 0xFFFFFFFF, 200)), bytes(100)), TOO_MUCH),
    "TIFF: four million strips": (
        lambda: tiff(grey((259, 3, 1, 1), (273, 4, 4_000_000, None), (278, 4, 1, 1)), bytes(16_000_000)), TOO_MUCH
    ),
    "TIFF: a tile of a billion pixels": (
        lambda: tiff(
            grey((259, 3, 1, 8), (322, 4, 1, 1 << 15), (323, 4, 1, 1 << 15), (324, 4, 1, None), (325, 4, 1, 100_000)),
            zlib.compress(bytes(100_000_000)),
        ),
        TOO_MUCH,
    ),
}  # fmt: skip


def read_in_child(path: Path) -> dict[str, object]:
    """Read header and pixels of *path* in a fork of this process, under limits."""
    from elixir_plugin.errors import ElixirError
    from elixir_plugin.io.images import image_header, read_image

    seen, told = os.pipe()
    child = os.fork()
    if not child:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        said: list[str] = []
        for reading in (image_header, lambda file: read_image(file, upright=True)):
            try:
                reading(path)
                said.append("")
            except ElixirError as error:
                said.append(f"{error.what}: {error.found}")
            except BaseException as error:  # what a caller would see as a traceback
                said.append(f"traceback: {error!r}"[:200])
        os.write(told, json.dumps({"said": said, "seconds": time.process_time()}).encode())
        os._exit(0)
    os.close(told)
    _, status = os.waitpid(child, 0)
    with os.fdopen(seen, "rb") as answer:
        text = answer.read()
    return json.loads(text) if text else {"said": [f"killed: {status}"] * 2, "seconds": SECONDS}


def main(folder: Path, *names: str) -> None:
    results = {}
    for name in names or BOMBS:
        path = folder / "a.png"
        path.write_bytes(BOMBS[name][0]())
        results[name] = read_in_child(path)
    sys.stdout.write(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])

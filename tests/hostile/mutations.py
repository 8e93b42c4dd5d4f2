"""Seeded mutations of valid files: of their bytes, and of what they hold, for each form that the project reads.

A seed decides everything: which part of the file, which changes, and how many.
"""

from __future__ import annotations

import io
import itertools
import json
import pickletools
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import yaml

Draws = random.Random
NUMBERS = (
    0,
    1,
    -1,
    2,
    127,
    128,
    255,
    256,
    32767,
    65535,
    65536,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**40,
    2**63 - 1,
    2**64 - 1,
)
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 0.5, -0.0, 1e308, float("nan"), float("inf"), 2**31, 2**40, 2**64, 10**300,
    -(2**63), "", "x", "0", "null", "a" * 5000, "\x00", "\x1b[2J", "\u202e", "\ud800", "../../x", "/etc/passwd", "cuda",
    "nan", [], {}, [[]], [None], [0] * 3000, {"": None}, {"a": {"b": {}}}, [[[[[[[[[[]]]]]]]]]], ["x", 1, None],
)  # fmt: skip
WORDS = (
    b"&a ",
    b"*a",
    b"!!python/name:os.system ",
    b"!x ",
    b"<<: ",
    b"? ",
    b"- ",
    b"[",
    b"{",
    b"\t",
    b"\n",
    b"---\n",
    b"%",
    b"'",
    b'"',
    b"\\u0000",
)
MOST = 4  # changes in one file


def mutated(content: bytes, form: str, seed: int, keep: Sequence[int] | None = None) -> bytes:
    """Return *content* with some changes.

    :param form: of the file, see ``FORMS``.
    :param keep: which of the changes to make, by number; default: all.
    """
    draws = Draws(seed)
    count = draws.randint(1, MOST)
    for number in range(count):
        own = Draws(f"{seed} {number}")
        if keep is not None and number not in keep:
            continue
        change = FORMS.get(form) if own.random() < 0.6 else None
        try:
            content = (change or of_bytes)(content, own)
        except Exception:  # a file that has been changed already may no longer be of its form
            content = of_bytes(content, own)
    return content


def count_of(seed: int) -> int:
    """Return how many changes *seed* makes."""
    return Draws(seed).randint(1, MOST)


def of_bytes(content: bytes, draws: Draws) -> bytes:
    made = bytearray(content)
    size = len(made)
    if not size:
        return draws.randbytes(draws.randint(1, 50))
    # most files are longer than what decides how they are read
    place = draws.randrange(size) if draws.random() < 0.5 else min(size - 1, int(draws.expovariate(1 / 40)))
    match draws.randrange(9):
        case 0:
            made[place] ^= 1 << draws.randrange(8)
        case 1:
            made[place] = draws.choice((0, 1, 0x7F, 0x80, 0xFF, draws.randrange(256)))
        case 2:
            del made[place:]
        case 3:
            del made[place : place + draws.choice((1, 2, 4, 8, 64))]
        case 4:
            made[place:place] = draws.randbytes(draws.choice((1, 2, 4, 8, 64)))
        case 5:
            end = place + draws.choice((1, 4, 16, 200))
            made[place:place] = made[place:end] * draws.choice((1, 2, 50))
        case 6:
            other = draws.randrange(size)
            length = draws.choice((1, 4, 16, 64))
            made[place : place + length] = made[other : other + length]
        case 7:
            length = draws.choice((1, 2, 4, 8))
            value = draws.choice(NUMBERS) % (1 << 8 * length)
            made[place : place + length] = value.to_bytes(length, draws.choice(("little", "big")))
        case _:
            made[place : place + draws.choice((0, 1))] = draws.choice(WORDS)
    return bytes(made)


def of_value(value: Any, draws: Draws) -> Any:
    """Return *value*, of JSON types, with one part of it changed."""
    if isinstance(value, dict) and value and draws.random() < 0.85:
        key = draws.choice(list(value))
        match draws.randrange(8):
            case 0:
                return {name: each for name, each in value.items() if name != key}
            case 1:
                return {
                    draws.choice(("", "x", "\x1b", key + key)) if name == key else name: each
                    for name, each in value.items()
                }
            case 2:
                return value | {draws.choice(("x", "__class__", "")): draws.choice(VALUES)}
            case _:
                return value | {key: of_value(value[key], draws)}
    if isinstance(value, list) and value and draws.random() < 0.7:
        place = draws.randrange(len(value))
        match draws.randrange(5):
            case 0:
                return value[:place] + value[place + 1 :]
            case 1:
                return value[:place] * draws.choice((2, 100)) + value[place:]
            case _:
                return [*value[:place], of_value(value[place], draws), *value[place + 1 :]]
    if isinstance(value, int | float) and not isinstance(value, bool) and draws.random() < 0.4:
        return draws.choice((-value, value + 1, value * 1e10, float(value), str(value), value + 0.5))
    if isinstance(value, str) and draws.random() < 0.4:
        place = draws.randint(0, len(value))
        return value[:place] + draws.choice(("\x00", "/", "..", "é", "\ud800", "{", "x" * 300)) + value[place:]
    return draws.choice(VALUES)


def of_json(content: bytes, draws: Draws) -> bytes:
    made = json.dumps(of_value(json.loads(content), draws), ensure_ascii=draws.random() < 0.7)
    return made.encode("utf-8", "surrogatepass")


def of_lines(content: bytes, draws: Draws) -> bytes:
    lines = content.splitlines()
    place = draws.randrange(len(lines))
    match draws.randrange(4):
        case 0:
            del lines[place]
        case 1:
            lines.insert(place, lines[draws.randrange(len(lines))])
        case 2:
            lines[place] = lines[place][: draws.randrange(len(lines[place]) + 1)]
        case _:
            lines[place] = of_json(lines[place], draws)
    return b"\n".join(lines) + b"\n"


def of_yaml(content: bytes, draws: Draws) -> bytes:
    made = of_value(yaml.safe_load(content), draws)
    text = yaml.safe_dump(made, default_flow_style=draws.choice((None, True, False)), allow_unicode=True)
    return text.encode("utf-8", "surrogatepass")


def of_pickle(content: bytes, draws: Draws) -> bytes:
    """Drop, repeat, move or replace operations of a pickle, or change the number that one is given."""
    places = [place for _, _, place in pickletools.genops(content)] + [len(content)]
    parts = [content[start:end] for start, end in itertools.pairwise(places)]
    place = draws.randrange(len(parts))
    match draws.randrange(6):
        case 0:
            del parts[place]
        case 1:
            parts.insert(place, parts[draws.randrange(len(parts))])
        case 2:
            parts[place : place + 1] = parts[place : place + 1] * draws.choice((2, 200))
        case 3:
            other = draws.randrange(len(parts))
            parts[place], parts[other] = parts[other], parts[place]
        case 4:
            parts.insert(
                place,
                draws.choice(
                    (
                        b"0",
                        b"2",
                        b"(",
                        b"]",
                        b"}",
                        b")",
                        b"N",
                        b"K\x01",
                        b"\x85",
                        b"R",
                        b"b",
                        b"Q",
                        b"s",
                        b"a",
                        b"cbuiltins\nexec\n",
                        b"r\xff\xff\xff\x0f",
                    )
                ),
            )
        case _:
            part = parts[place]
            parts[place] = part[:1] + of_bytes(part[1:], draws) if len(part) > 1 else part
    return b"".join(parts)


def of_zip(content: bytes, draws: Draws) -> bytes:
    """Change one member of an archive, and pack all of it again."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    name = draws.choice([name for name in members if name.endswith(("pkl", "npy"))] or list(members))
    match draws.randrange(8):
        case 0:
            del members[draws.choice(list(members))]
        case 1:
            members[draws.choice(("x", "../x", name + "x"))] = members[name]
        case 2:
            other = draws.choice(list(members))
            members[other] = of_bytes(members[other], draws)
        case _:
            inner = {"pkl": of_pickle, "npy": of_npy}.get(name[-3:], of_bytes)
            members[name] = inner(members[name], draws)
    out = io.BytesIO()
    with zipfile.ZipFile(
        out, "w", draws.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    ) as archive:
        for each, value in members.items():
            info = zipfile.ZipInfo(each)  # made at a fixed time
            info.compress_type = archive.compression
            archive.writestr(info, value)
    return out.getvalue()


def of_npy(content: bytes, draws: Draws) -> bytes:
    """Change the head of an array, its length being kept right."""
    length = struct.unpack("<H", content[8:10])[0]
    head, body = content[10 : 10 + length], content[10 + length :]
    old, new = draws.choice(
        (
            (b"|u1", draws.choice((b"|O", b"|b1", b"<f4", b"<M8[s]", b"|V8", b"<U9", b"<c8", b"<i8"))),
            (b"<i8", draws.choice((b"|O", b"<f8", b"<u8", b"|u1", b"<U2"))),
            (b"(", draws.choice((b"(0, ", b"(-1, ", b"(99999999999, ", b"((", b"(True, "))),
            (b"False", draws.choice((b"True", b"None", b"0"))),
        )
    )
    head = head.replace(old, new, 1) if old in head else of_bytes(head, draws)
    return content[:8] + struct.pack("<H", len(head) % 65536) + head + body


def of_safetensors(content: bytes, draws: Draws) -> bytes:
    length = struct.unpack("<Q", content[:8])[0]
    head = of_json(content[8 : 8 + length], draws)
    return struct.pack("<Q", len(head)) + head + content[8 + length :]


def of_png(content: bytes, draws: Draws) -> bytes:
    """Change, drop or repeat a chunk, the sums being kept right."""
    chunks, place = [], 8
    while place < len(content):
        length = struct.unpack(">I", content[place : place + 4])[0]
        chunks.append((content[place + 4 : place + 8], content[place + 8 : place + 8 + length]))
        place += 12 + length
    number = draws.randrange(len(chunks))
    match draws.randrange(5):
        case 0:
            del chunks[number]
        case 1:
            chunks.insert(number, chunks[draws.randrange(len(chunks))])
        case 2:
            kind = draws.choice(
                (b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"PLTE", b"tRNS", b"acTL", b"fcTL", b"iCCP", b"pHYs", b"gAMA")
            )
            chunks.insert(number, (kind, draws.randbytes(draws.choice((0, 1, 4, 8, 26)))))
        case _:
            kind, held = chunks[number]
            chunks[number] = (kind, of_bytes(held, draws))
    made = [
        struct.pack(">I", len(held)) + kind + held + struct.pack(">I", zlib.crc32(kind + held)) for kind, held in chunks
    ]
    return content[:8] + b"".join(made)


FORMS: dict[str, Callable[[bytes, Draws], bytes]] = {
    "json": of_json,
    "jsonl": of_lines,
    "yaml": of_yaml,
    "pickle": of_pickle,
    "zip": of_zip,
    "safetensors": of_safetensors,
    "png": of_png,
    "text": of_bytes,
    "bytes": of_bytes,
}


def form_of(content: bytes, name: str) -> str:
    """Return the form of a valid file."""
    suffix = name.rpartition(".")[2]
    if suffix in ("json", "jsonl", "yaml", "safetensors"):
        return suffix
    if content.startswith(b"PK"):
        return "zip"
    if content.startswith(b"\x89PNG"):
        return "png"
    if content.startswith(b"\x80"):
        return "pickle"
    return "text" if suffix in ("txt", "csv") else "bytes"

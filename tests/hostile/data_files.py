"""Hostile pickles, torch files, ``.npz`` and safetensors files, made from code.

``KINDS`` maps a name to what writes one file of that kind at a path. Names begin with the format.
"""

from __future__ import annotations

import io
import itertools
import json
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

Build = Callable[[Path], None]
P = 2**61 - 1  # integers are hashed modulo this
PROTO2, PROTO4 = b"\x80\x02", b"\x80\x04"


# Pickles, put together from opcodes


def text(value: str) -> bytes:
    encoded = value.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def number(value: int) -> bytes:
    if 0 <= value < 256:
        return b"K" + bytes([value])
    encoded = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(encoded)]) + encoded


def call(name: str, *arguments: bytes) -> bytes:
    module, _, function = name.rpartition(".")
    return f"c{module}\n{function}\n".encode() + b"(" + b"".join(arguments) + b"tR"


def put(place: int) -> bytes:
    return b"r" + struct.pack("<I", place)


def get(place: int) -> bytes:
    return b"j" + struct.pack("<I", place)


def tower(kind: str, levels: int, width: int = 2) -> bytes:
    """Return a container that holds another one *width* times, and so on: width ** levels in the end."""
    begin, end = {"list": (b"](", b"e"), "tuple": (b"(", b"t"), "dict": (b"}(", b"u"), "set": (b"(", b"\x91")}[kind]
    content = b"K\x01" + put(0)
    for level in range(levels):
        if kind == "dict":
            items = b"".join(number(place) + get(level) for place in range(width))
        elif kind == "set":
            items = get(level) + number(level + 2)
        else:
            items = get(level) * width
        content += b"0" + begin + items + end + put(level + 1)
    return content


def deep(kind: str, levels: int) -> bytes:
    if kind == "list":
        return b"]" * levels + b"a" * (levels - 1)
    if kind == "tuple":
        return b"N" + b"\x85" * levels
    return b"}K\x00" * (levels - 1) + b"}" + b"s" * (levels - 1)


def same_hashes(count: int) -> bytes:
    """Return *count* different integers of one hash, as keys."""
    return b"".join(number(P * (place + 1) + 5) + b"N" for place in range(count))


def same_tuples(count: int) -> bytes:
    """Return *count* different tuples of one hash, as keys: those of -1 and -2 are alike."""
    ends = (b"J\xff\xff\xff\xff", b"J\xfe\xff\xff\xff")
    pairs = itertools.islice(itertools.product(ends, repeat=16), count)
    return b"".join(b"(" + b"".join(each) + b"tN" for each in pairs)


BUFFER = b"B" + struct.pack("<I", 2**20) + bytes(2**20)
U1 = call("numpy.dtype", text("u1"))
IMAGE = b"cPIL.Image\nImage\n)\x81"
LONG = "x" * 2**20
PICKLES: dict[str, Callable[[], bytes]] = {
    "lists that hold one list twice, 60 times": lambda: PROTO2 + tower("list", 60) + b".",
    "lists that hold one list ten times, 12 times": lambda: PROTO2 + tower("list", 12, 10) + b".",
    "tuples that hold one tuple twice, 60 times": lambda: PROTO2 + tower("tuple", 60) + b".",
    "dicts that hold one dict twice, 60 times": lambda: PROTO2 + tower("dict", 60) + b".",
    "a tuple that is doubled on the stack": lambda: PROTO2 + b"N" + b"2\x86" * 60 + b".",
    "a key whose hash takes for ever": lambda: PROTO2 + tower("tuple", 40) + b"0}" + get(40) + b"Ns.",
    "keys whose hashes take for ever": lambda: PROTO2 + tower("tuple", 40) + b"0}(" + (get(40) + b"N") * 9 + b"u.",
    "a member whose hash takes for ever": lambda: PROTO4 + tower("tuple", 40) + b"0\x8f(" + get(40) + b"\x90.",
    "frozen members whose hash takes for ever": lambda: PROTO4 + tower("tuple", 40) + b"0(" + get(40) + b"\x91.",
    "a set called with what takes for ever to hash": lambda: (
        PROTO2 + tower("tuple", 40) + b"0" + call("builtins.set", b"](" + get(40) + b"e") + b"."
    ),
    "an OrderedDict of pairs whose keys take for ever": lambda: (
        PROTO2 + tower("tuple", 40) + b"0" + call("collections.OrderedDict", b"](](" + get(40) + b"Nee") + b"."
    ),
    "20,000 integers of one hash as keys": lambda: PROTO2 + b"}(" + same_hashes(20_000) + b"u.",
    "20,000 tuples of one hash as keys": lambda: PROTO2 + b"}(" + same_tuples(20_000) + b"u.",
    "20,000 tuples of one hash in a set": lambda: (
        PROTO2 + call("builtins.set", b"](" + same_tuples(20_000).replace(b"tN", b"t") + b"e") + b"."
    ),
    "place 2**28 in the memo": lambda: PROTO2 + b"N" + put(2**28) + b".",
    "place 2**31 in the memo": lambda: PROTO2 + b"N" + put(2**31) + b".",
    "place 999999999 in the memo, in digits": lambda: b"Np999999999\n.",
    "bytes of 2**60 that are not there": lambda: PROTO4 + b"\x8e" + struct.pack("<Q", 2**60) + b"a.",
    "a bytearray of 2**62 that is not there": lambda: b"\x80\x05\x96" + struct.pack("<Q", 2**62) + b"a.",
    "text of 2**60 that is not there": lambda: PROTO4 + b"\x8d" + struct.pack("<Q", 2**60) + b"a.",
    "text of 4 GiB that is not there": lambda: PROTO2 + b"X\xff\xff\xff\xffa.",
    "bytes of 4 GiB that are not there": lambda: PROTO4 + b"B\xff\xff\xff\xffa.",
    "a string of 2 GiB that is not there": lambda: PROTO2 + b"T\xff\xff\xff\x7fa.",
    "a frame of 2**60": lambda: PROTO4 + b"\x95" + struct.pack("<Q", 2**60) + b"N.",
    "a list 100,000 deep": lambda: PROTO2 + deep("list", 100_000) + b".",
    "a tuple 100,000 deep": lambda: PROTO2 + deep("tuple", 100_000) + b".",
    "a dict 100,000 deep": lambda: PROTO2 + deep("dict", 100_000) + b".",
    "a list that holds itself": lambda: PROTO2 + b"]" + put(0) + get(0) + b"a.",
    "a tuple that holds itself, through a list": lambda: PROTO2 + b"](" + put(0) + get(0) + b"ta.",
    "lists that are filled after others took them": lambda: (
        PROTO2
        + b"".join(b"]" + put(place) + b"0" for place in range(60))
        + b"".join(get(place) + get(place + 1) * 2 + b"aa" for place in range(58, 0, -1))[:0]
        + b"".join(get(place) + b"(" + get(place + 1) * 2 + b"e0" for place in range(59))
        + get(0)
        + b"."
    ),
    "an integer of 2 MiB": lambda: PROTO2 + b"\x8b" + struct.pack("<I", 2**21) + b"\x7f" * 2**21 + b".",
    "an integer of 300 digits": lambda: PROTO2 + b"\x8a" + bytes([125]) + b"\x7f" * 125 + b".",
    "an integer of a million digits": lambda: b"L" + b"7" * 10**6 + b"L\n.",
    "a float of a million digits": lambda: b"F" + b"7" * 10**6 + b"\n.",
    "five million marks": lambda: PROTO2 + b"(" * 5_000_000 + b".",
    "six million dicts": lambda: PROTO2 + b"(" + b"}" * 6_000_000 + b"l.",
    "20 million opcodes": lambda: PROTO2 + b"N0" * 10_000_000 + b"N.",
    "a text of 1 MiB 100,000 times": lambda: PROTO2 + b"](" + text(LONG) + put(0) + get(0) * 100_000 + b"e.",
    "copies of one buffer": lambda: (
        PROTO4
        + b"cnumpy._core.numeric\n_frombuffer\n"
        + put(0)
        + b"0("
        + BUFFER
        + U1
        + b"("
        + number(2**20)
        + b"t"
        + text("C")
        + b"t"
        + put(1)
        + b"0]("
        + (get(0) + get(1) + b"R") * 20_000
        + b"e."
    ),
    "copies of one text as bytes": lambda: (
        PROTO2
        + b"c_codecs\nencode\n"
        + put(0)
        + b"0("
        + text(LONG)
        + text("latin1")
        + b"t"
        + put(1)
        + b"0]("
        + (get(0) + get(1) + b"R") * 20_000
        + b"e."
    ),
    "text encoded in punycode": lambda: PROTO2 + call("_codecs.encode", text("ü" * 10**5), text("punycode")) + b".",
    "a bytearray of a terabyte": lambda: PROTO2 + call("builtins.bytearray", number(2**40)) + b".",
    "an array of 10**18 numbers in 8 bytes": lambda: (
        PROTO2
        + call("numpy.core.multiarray._reconstruct", b"cnumpy\nndarray\n", b"K\x00\x85", text("b"))
        + b"("
        + b"K\x01"
        + number(10**18)
        + b"\x85"
        + U1
        + b"\x89"
        + text("12345678")
        + b"tb."
    ),
    "a dtype of 1 MiB of text": lambda: PROTO2 + call("numpy.dtype", text("i4," * 350_000)) + b".",
    "an image of 60,000 x 60,000 pixels in no bytes": lambda: (
        PROTO2 + IMAGE + b"](}" + text("RGB") + number(60_000) + number(60_000) + b"\x86N" + text("") + b"eb."
    ),
    "an image of 60,000 x 60,000 pixels in bytes": lambda: (
        PROTO4 + IMAGE + b"](}" + text("L") + number(60_000) + number(60_000) + b"\x86NC\x04abcdeb."
    ),
    "an image of negative size": lambda: (
        PROTO4 + IMAGE + b"](}" + text("L") + b"J\xff\xff\xff\xffJ\xff\xff\xff\xff\x86NC\x01aeb."
    ),
    "an OrderedDict without its method": lambda: (
        PROTO2 + b"ccollections\nOrderedDict\n)R" + b"}" + text("items") + b"K\x01sb."
    ),
    "code to run": lambda: PROTO2 + call("os.system", text("touch canary")) + b".",
    "code to run, by an old instruction": lambda: b"(ios\nsystem\n(S'touch canary'\ntR.",
    "code to run, by a class": lambda: PROTO2 + b"(csubprocess\nPopen\n" + text("touch") + b"o.",
    "an extension of the registry": lambda: PROTO2 + b"\x84\x01\x00\x00\x00.",
    "a global of 1 MiB of text": lambda: PROTO2 + b"c" + LONG.encode() + b"\n" + LONG.encode() + b"\n.",
    "a buffer from elsewhere": lambda: b"\x80\x05\x97.",
    "nothing behind the header": lambda: PROTO2,
    "a function that is changed": lambda: PROTO2 + b"ctorch\nSize\n}" + text("numel") + b"K\x01sb.",
}


# Torch files


def archive(path: Path, pickled: bytes, storages: Mapping[str, bytes], root: str = "archive") -> None:
    """Write what torch.save writes, with *pickled* in place of its pickle."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"{root}/data.pkl", pickled)
        file.writestr(f"{root}/byteorder", "little")
        for key, content in storages.items():
            file.writestr(f"{root}/data/{key}", content)
        file.writestr(f"{root}/version", "3\n")


def row(path: Path, pickled: bytes, keys: list[str], content: bytes = b"") -> None:
    """Write a torch file of the older kind, with *pickled* in place of its pickle."""
    info = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    head = b"".join(pickle.dumps(each, 2) for each in (0x1950A86A20F9469CFC6C, 1001, info))
    path.write_bytes(head + pickled + pickle.dumps(keys, 2) + content)


def storage(count: int, key: bytes = text("0"), kind: str = "FloatStorage", more: bytes = b"") -> bytes:
    return b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + key + text("cpu") + number(count) + more + b"tQ"


def shaped(*lengths: int) -> bytes:
    return b"(" + b"".join(map(number, lengths)) + b"t"


def tensor(count: int, *shape: int, stride: int = 0, **named: Any) -> bytes:
    strides = shaped(*(stride for _ in shape))
    hooks = b"ccollections\nOrderedDict\n)R"
    parts = (storage(count, **named), b"K\x00", shaped(*shape), strides, b"\x89", hooks)
    return call("torch._utils._rebuild_tensor_v2", *parts)


def _quantised() -> bytes:
    quantizer = b"(ctorch\nper_tensor_affine\nG" + struct.pack(">d", 1.0) + b"K\x00t"
    hooks = b"ccollections\nOrderedDict\n)R"
    given = (storage(1, kind="QInt8Storage"), b"K\x00", shaped(10**11), shaped(1), quantizer, b"\x89", hooks)
    return PROTO2 + call("torch._utils._rebuild_qtensor", *given) + b"."


FOUR = {"0": bytes(16)}
TORCH: dict[str, tuple[Callable[[], bytes], dict[str, bytes]]] = {
    "a tensor of 10**12 numbers in 4": (lambda: PROTO2 + tensor(4, 10**12) + b".", FOUR),
    "a tensor of 2**96 numbers in 4": (lambda: PROTO2 + tensor(4, 2**32, 2**32, 2**32) + b".", FOUR),
    "a tensor of negative size": (lambda: PROTO2 + tensor(4, -3) + b".", FOUR),
    "a tensor of 300,000 axes of 2**62": (
        lambda: (
            PROTO2
            + call("torch._utils._rebuild_tensor", storage(4), b"K\x00", b"(" + number(2**62) * 300_000 + b"t")
            + b"."
        ),
        FOUR,
    ),
    "a tensor of a million axes of 1": (
        lambda: (
            PROTO2 + call("torch._utils._rebuild_tensor", storage(4), b"K\x00", b"(" + b"K\x01" * 10**6 + b"t") + b"."
        ),
        FOUR,
    ),
    "a thousand references to a tensor of 10**7 numbers in 4": (
        lambda: PROTO2 + tensor(4, 10**7) + put(9) + b"0](" + get(9) * 1000 + b"e.",
        FOUR,
    ),
    "a quantised tensor of 10**11 numbers in 1": (_quantised, {"0": b"a"}),
    "a storage of a terabyte in 16 bytes": (lambda: PROTO2 + tensor(2**38, 2**38, stride=1) + b".", FOUR),
    "a storage larger than its record": (lambda: PROTO2 + tensor(2**20, 2**20, stride=1) + b".", FOUR),
    "a storage that is not there": (lambda: PROTO2 + tensor(4, 4, stride=1, key=text("7")) + b".", FOUR),
    "a storage outside the archive": (lambda: PROTO2 + tensor(4, 4, key=text("../../secret")) + b".", FOUR),
    "a storage whose key takes for ever": (
        lambda: PROTO2 + tower("tuple", 40) + b"0" + tensor(4, 4, key=get(40)) + b".",
        FOUR,
    ),
    "one record under a thousand spellings": (
        lambda: (
            PROTO2
            + b"]("
            + b"".join(
                tensor(2**18, 2**18, stride=1, key=text("".join(each)))
                for each in itertools.product(*(("a", "A"),) * 10)
            )
            + b"e."
        ),
        {"a" * 10: bytes(2**20)},
    ),
    "a storage of a kind nobody knows": (lambda: PROTO2 + tensor(4, 4, kind="EvilStorage") + b".", FOUR),
    "a tensor made of a size": (lambda: PROTO2 + call("torch.FloatTensor", number(10**11)) + b".", FOUR),
    "a storage made of a size": (lambda: PROTO2 + call("torch.storage.UntypedStorage", number(2**40)) + b".", FOUR),
    "a class called with a size": (
        lambda: PROTO2 + b"ctorch\nFloatTensor\n" + number(10**11) + b"\x85\x81.",
        FOUR,
    ),
    "a tensor copied to another type": (
        lambda: (
            PROTO2
            + call(
                "torch._utils._rebuild_device_tensor_from_cpu_tensor",
                tensor(4, 10**7),
                b"ctorch\nfloat64\n",
                text("cpu"),
                b"\x89",
            )
            + b"."
        ),
        FOUR,
    ),
    "a wrapper of another class": (
        lambda: PROTO2 + call("torch._utils._rebuild_wrapper_subclass", b"ctorch\nTensor\n" * 1) + b".",
        FOUR,
    ),
    "a tensor with a method replaced": (
        lambda: (
            PROTO2
            + b"ctorch._tensor\n_rebuild_from_type_v2\n(ctorch._utils\n_rebuild_tensor_v2\nctorch\nTensor\n("
            + storage(4)
            + b"K\x00"
            + shaped(4)
            + shaped(1)
            + b"\x89ccollections\nOrderedDict\n)Rt}"
            + text("numpy")
            + b"K\x01stR."
        ),
        FOUR,
    ),
    "a call through another call": (
        lambda: (
            PROTO2
            + b"ctorch._tensor\n_rebuild_from_type_v2\n(cos\nsystem\nctorch\nTensor\n("
            + text("touch canary")
            + b"t}tR."
        ),
        FOUR,
    ),
}


def bomb(size: int, byte: bytes = b"\0", begin: bytes = b"") -> bytes:
    """Return deflated content of *begin* and about *size* times *byte*: one block again and again."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    head = packer.compress(begin) + packer.flush(zlib.Z_FULL_FLUSH)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(byte * 2**20) + packer.flush(zlib.Z_FULL_FLUSH)
    return head + block * (size >> 20) + b"\x03\x00"


def zipped(
    path: Path, members: list[tuple[str, int, int, bytes]], *, overlapping: bool = False, end: bytes = b""
) -> None:
    """Write an archive of (name, method, size it claims, packed content), whatever they are."""
    out, entries = io.BytesIO(), []
    for name, method, size, packed in members:
        start = 0 if overlapping else out.tell()
        sizes = (0, min(len(packed), 2**32 - 1), min(size, 2**32 - 1))
        if not overlapping or not out.tell():
            out.write(struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, method, 0, 33, *sizes, len(name), 0))
            out.write(name.encode() + packed)
        extra = struct.pack("<2HQ", 1, 8, size) if size >= 2**32 - 1 else b""
        fields = (20, 20, 0, method, 0, 33, *sizes, len(name.encode()), len(extra), 0, 0, 0, 0, start)
        entries.append(struct.pack("<4s6H3L5H2L", b"PK\1\2", *fields) + name.encode() + extra)
    central = b"".join(entries)
    start, count = out.tell(), len(members)
    out.write(central)
    if count > 65535:
        place = out.tell()
        out.write(struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, len(central), start))
        out.write(struct.pack("<4sLQL", b"PK\6\7", 0, place, 1))
    count = min(count, 65535)
    out.write(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, len(central), start, len(end)) + end)
    path.write_bytes(out.getvalue())


PLAIN = PROTO2 + tensor(4, 4, stride=1) + b"."


def packed(name: str, size: int, content: bytes) -> Build:
    """Return what writes an archive of torch with one deflated member."""

    def build(path: Path) -> None:
        zipped(path, [("archive/data.pkl", 0, len(PLAIN), PLAIN), (name, 8, size, content)])

    return build


def _tar(path: Path) -> None:
    with tarfile.open(path, "w") as file:
        for name in ("storages", "tensors", "pickle"):
            content = pickle.dumps(2**40, 2)
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))


def _tar_of_a_claim(path: Path) -> None:
    member = tarfile.TarInfo("x")
    member.type, member.size = tarfile.XHDTYPE, 2**33 - 1
    path.write_bytes(member.tobuf(tarfile.USTAR_FORMAT) + bytes(512))


def _with_comment(path: Path) -> None:
    zipped(path, [("archive/data.pkl", 0, len(PLAIN), PLAIN)], end=b"PK\5\6" + bytes(18))


def _behind_text(path: Path) -> None:
    archive(path, PLAIN, FOUR)
    path.write_bytes(b"PK\3\4" + bytes(60) + path.read_bytes())


def _holes(size: int, begin: bytes = b"", end: bytes = b"") -> Build:
    def build(path: Path) -> None:
        with path.open("wb") as file:
            file.write(begin)
            file.truncate(size)
            file.seek(0, 2)
            file.write(end)

    return build


TORCH_FILES: dict[str, Build] = {
    "deflated zeros of 4 GiB as a storage": packed("archive/data/0", 2**32, bomb(2**32)),
    "deflated zeros of 300 MiB as a storage": packed("archive/data/0", 300 * 2**20, bomb(300 * 2**20)),
    "deflated zeros of 1 GiB as the pickle": lambda path: zipped(
        path, [("archive/data.pkl", 8, 2**30, bomb(2**30, b"N")), ("archive/data/0", 0, 16, bytes(16))]
    ),
    "a thousand members that share their bytes": lambda path: zipped(
        path,
        [
            ("archive/data.pkl", 0, len(PLAIN), PLAIN),
            *((f"archive/data/{n}", 0, len(PLAIN), PLAIN) for n in range(999)),
        ],
        overlapping=True,
    ),
    "two pickles of one name": lambda path: zipped(
        path, [("archive/data.pkl", 0, len(PLAIN), PLAIN), ("archive/data.pkl", 0, 4, b"\x80\x02N.")]
    ),
    "two pickles whose names differ in case": lambda path: zipped(
        path, [("archive/data.pkl", 0, len(PLAIN), PLAIN), ("archive/DATA.PKL", 0, 4, b"\x80\x02N.")]
    ),
    "300,000 members": lambda path: zipped(
        path, [("archive/data.pkl", 0, 4, b"\x80\x02N."), *((f"archive/data/{n}", 0, 0, b"") for n in range(300_000))]
    ),
    "an archive without members": lambda path: zipped(path, []),
    "an archive with a second end in its comment": _with_comment,
    "an archive behind something else": _behind_text,
    "an archive of code for torch.jit": lambda path: zipped(
        path, [("m/data.pkl", 0, len(PLAIN), PLAIN), ("m/constants.pkl", 0, 4, b"\x80\x02).")]
    ),
    "a pickle in a second folder": lambda path: zipped(
        path, [("a/version", 0, 2, b"3\n"), ("b/data.pkl", 0, len(PLAIN), PLAIN)]
    ),
    "a tar archive": _tar,
    "a tar archive whose header claims 8 GiB": _tar_of_a_claim,
    "an old file whose storage claims a terabyte": lambda path: row(
        path, PROTO2 + tensor(2**38, 4, more=b"N") + b".", ["0"], struct.pack("<q", 2**38) + bytes(16)
    ),
    "an old file whose storage is not listed": lambda path: row(path, PROTO2 + tensor(4, 4, more=b"N") + b".", []),
    "an old file whose list of storages is no list": lambda path: row(
        path,
        PROTO2 + tensor(4, 4, more=b"N") + b".",
        {"0": 1},  # type: ignore[arg-type]
    ),
    "a terabyte of holes": _holes(2**40),
    "an old file of holes": _holes(2**36, pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)),
    "an archive of holes": _holes(2**34, b"PK\3\4", struct.pack("<4s4H2LH", b"PK\5\6", *[0] * 7)),
}


# Arrays


def npy(
    shape: object = (4,), descr: object = "<f4", content: bytes = bytes(16), version: int = 1, pad: int = 0
) -> bytes:
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape!r}, }}".encode() + b" " * pad + b"\n"
    return (
        b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(header)) + header + content
    )


def arrays(*members: tuple[str, bytes]) -> Build:
    return lambda path: zipped(path, [(f"{name}.npy", 0, len(content), content) for name, content in members])


def _npz_bomb(size: int, **named: Any) -> Build:
    head = npy((size,), "|u1", b"", **named)
    return lambda path: zipped(path, [("x_train.npy", 8, len(head) + size, bomb(size, begin=head))])


def _lzma(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as file:
        file.writestr("x_train.npy", npy())


def _objects(path: Path) -> None:
    np.savez(path.with_name("objects.npz"), x_train=np.array([{1: 2}], object))
    path.with_name("objects.npz").rename(path)


NPZ: dict[str, Build] = {
    "deflated zeros of 4 GiB": _npz_bomb(2**32 - 2**21),
    "deflated zeros of 300 MiB": _npz_bomb(300 * 2**20),
    "deflated zeros of 16 GiB": _npz_bomb(2**34),
    "twenty members of 64 MiB of zeros each": lambda path: zipped(
        path, [(f"{n}.npy", 8, 2**26, bomb(2**26)) for n in range(20)]
    ),
    "more deflated than it says": lambda path: zipped(path, [("x_train.npy", 8, 96, bomb(2**30, begin=npy()))]),
    "an array of 10**18 numbers": arrays(("x_train", npy((10**18,)))),
    "an array of 10**11 numbers": arrays(("x_train", npy((10**11,)))),
    "an array of 2**96 numbers": arrays(("x_train", npy((2**48, 2**48)))),
    "an array of negative size": arrays(("x_train", npy((-4,)))),
    "an array of two negative sizes": arrays(("x_train", npy((-2, -2)))),
    "numbers of 4 GiB each": arrays(("x_train", npy((1,), "<U1073741823"))),
    "a header of 100 MiB": lambda path: zipped(
        path,
        [
            (
                "x_train.npy",
                8,
                10 + 100 * 2**20,
                bomb(100 * 2**20, b" ", b"\x93NUMPY\x02\0" + struct.pack("<I", 100 * 2**20)),
            )
        ],
    ),
    "a header of 4 GiB that is not there": arrays(("x_train", b"\x93NUMPY\x02\0\xff\xff\xff\xff{}")),
    "a header of a thousand brackets": arrays(("x_train", npy(descr="(" * 4000))),
    "a header of nested lists": arrays(
        ("x_train", b"\x93NUMPY\x01\0" + struct.pack("<H", 8001) + b"[" * 4000 + b"]" * 4000 + b"\n")
    ),
    "a header that computes": arrays(
        (
            "x_train",
            b"\x93NUMPY\x01\0"
            + struct.pack("<H", 74)
            + b"{'descr': '<f4', 'fortran_order': False, 'shape': (9**9**9,), }".ljust(73)
            + b"\n",
        )
    ),
    "objects": _objects,
    "a dtype in a dtype, 500 deep": arrays(("x_train", npy(descr=eval("[('a', " * 50 + "'<f4'" + ")]" * 50)))),
    "records": arrays(("x_train", npy((2,), [("a", "<f4"), ("b", "<f4")]))),
    "text": arrays(("x_train", npy((4,), "<U1"))),
    "dates": arrays(("x_train", npy((2,), "<M8[s]"))),
    "voids": arrays(("x_train", npy((4,), "|V4"))),
    "an array without pixels, 10**15 of them": arrays(
        ("x_train", npy((10**15, 0, 3, 3), "|u1", b"")), ("y_train", npy())
    ),
    "200,000 members": lambda path: zipped(path, [(f"{n}.npy", 0, 0, b"") for n in range(200_000)]),
    "two members of one name": arrays(("x_train", npy()), ("x_train", npy((2, 2)))),
    "members that share their bytes": lambda path: zipped(
        path, [(f"{n}.npy", 0, len(npy()), npy()) for n in range(900)], overlapping=True
    ),
    "a method that numpy does not use": _lzma,
    "a member that is no array": lambda path: zipped(path, [("x_train", 0, 4, b"text")]),
    "a name that climbs": arrays(("../../x_train", npy())),
    "a name with NUL": arrays(("x_train\0evil", npy())),
    "an archive without members": lambda path: zipped(path, []),
    "an array alone": lambda path: path.write_bytes(npy()) and None,
    "label 2**40": arrays(
        ("x_train", npy((2, 8, 8, 3), "|u1", bytes(384))), ("y_train", npy((2,), "<i8", struct.pack("<2q", 0, 2**40)))
    ),
    "label 2**63": arrays(
        ("x_train", npy((2, 8, 8, 3), "|u1", bytes(384))), ("y_train", npy((2,), "<u8", struct.pack("<2Q", 0, 2**63)))
    ),
    "a terabyte of holes": _holes(2**40),
}


# Safetensors


def safetensors(header: object, content: bytes = b"", size: int | None = None) -> Build:
    def build(path: Path) -> None:
        said = header() if callable(header) else header
        encoded = said if isinstance(said, bytes) else json.dumps(said).encode()
        path.write_bytes(struct.pack("<Q", len(encoded) if size is None else size) + encoded + content)

    return build


def _entry(dtype: str = "F32", shape: object = (4,), begin: int = 0, end: int = 16) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


SAFETENSORS: dict[str, Build] = {
    "a header of 2**60 bytes": safetensors({}, size=2**60),
    "a header of 2**64 - 1 bytes": safetensors({}, size=2**64 - 1),
    "a header of 100 MB": safetensors(lambda: b'{"a":' + b" " * 90_000_000 + b"1}"),
    "400,000 names": safetensors(lambda: {f"w{n:06}": _entry(shape=[0], end=0) for n in range(400_000)}),
    "overlapping offsets": safetensors({"a": _entry(), "b": _entry(begin=8, end=24)}, bytes(24)),
    "the same bytes twice": safetensors({"a": _entry(), "b": _entry()}, bytes(16)),
    "offsets behind the end": safetensors({"a": _entry(begin=0, end=2**40, shape=[2**38])}, bytes(16)),
    "offsets that end before they begin": safetensors({"a": _entry(begin=16, end=0)}, bytes(16)),
    "a hole": safetensors({"a": _entry(), "b": _entry(begin=32, end=48)}, bytes(48)),
    "more behind the tensors": safetensors({"a": _entry()}, bytes(2000)),
    "a shape of 2**96 numbers": safetensors({"a": _entry(shape=[2**48, 2**48])}, bytes(16)),
    "a shape of 2**64 numbers": safetensors({"a": _entry(shape=[2**32, 2**32], end=0)}, bytes(16)),
    "a negative shape": safetensors({"a": _entry(shape=[-4])}, bytes(16)),
    "a shape of text": safetensors({"a": _entry(shape="4")}, bytes(16)),
    "a type nobody knows": safetensors({"a": _entry("F31")}, bytes(16)),
    "a type of 4 bits": safetensors({"a": _entry("F4", [32])}, bytes(16)),
    "lists 100,000 deep": safetensors(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "one name twice": safetensors(
        b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}',
        bytes(16),
    ),
    "texts that are no texts": safetensors({"__metadata__": {"a": 1}, "w": _entry()}, bytes(16)),
    "a number of a million digits": safetensors(b'{"a":' + b"7" * 10**6 + b"}"),
    "no UTF-8": safetensors(b'{"\xff\xfe": 1}'),
    "a list": safetensors([]),
    "seven bytes": lambda path: path.write_bytes(b"\1\0\0\0\0\0\0") and None,
    "a terabyte of holes": _holes(2**40),
    "16 GiB of holes behind a sound header": _holes(
        8 + 60 + 2**34,
        struct.pack("<Q", 60)
        + json.dumps({"a": {"dtype": "U8", "shape": [2**34], "data_offsets": [0, 2**34]}}, separators=(",", ":"))
        .encode()
        .ljust(60),
    ),
}


def _plain(content: Callable[[], bytes]) -> Build:
    return lambda path: path.write_bytes(content()) and None


def _archived(content: Callable[[], bytes], storages: Mapping[str, bytes]) -> Build:
    return lambda path: archive(path, content(), storages)


def _in_a_row(content: Callable[[], bytes], storages: Mapping[str, bytes]) -> Build:
    def build(path: Path) -> None:
        numbers = b"".join(struct.pack("<q", len(each) // 4) + each for each in storages.values())
        row(path, content(), list(storages), numbers)

    return build


KINDS: dict[str, Build] = {
    **{f"pickle: {name}": _plain(content) for name, content in PICKLES.items()},
    **{f"torch: {name}": _archived(content, {}) for name, content in PICKLES.items()},
    **{f"old torch: {name}": _in_a_row(content, {}) for name, content in PICKLES.items()},
    **{f"torch: {name}": _archived(content, storages) for name, (content, storages) in TORCH.items()},
    **{f"torch: {name}": build for name, build in TORCH_FILES.items()},
    **{f"npz: {name}": build for name, build in NPZ.items()},
    **{f"safetensors: {name}": build for name, build in SAFETENSORS.items()},
}

"""Hostile data files: pickles, torch files, arrays, safetensors, archives."""

from __future__ import annotations

import json
import pickle
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from canary import MODULE, Reduced, code, command
from image_bytes import deflated_zeros, noise

Build = Callable[[Path], None]
ZEROS = bytes(16 << 20)


def content(make: Callable[[], bytes]) -> Build:
    return lambda path: path.write_bytes(make())


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    out = BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, value in members.items():
            archive.writestr(name, value)
    return out.getvalue()


def tarred(name: str, value: bytes, kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    out = BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        info = tarfile.TarInfo(name)
        info.size, info.type, info.linkname = len(value), kind, link
        archive.addfile(info, BytesIO(value))
    return out.getvalue()


def torch_zip(data: bytes, **more: bytes) -> bytes:
    """Return a torch file with a pickle of one's own."""
    return zipped({"archive/data.pkl": data, "archive/version": b"3\n", "archive/byteorder": b"little"} | more)


def saved(value: Any, **options: Any) -> bytes:
    out = BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(value, out, **options)
    return out.getvalue()


def quietly(function: Any, *arguments: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*arguments)


def npy(shape: str, dtype: str = "<f4", body: bytes = b"") -> bytes:
    head = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(head) + 1) + head + b"\n" + body


def npz(**arrays: Any) -> bytes:
    out = BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


def safetensors(header: object, body: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def tensor(shape: list[int], dtype: str = "F32", begin: int = 0, end: int = 24) -> dict[str, Any]:
    return {"a": {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}}


def reduced(function: Any, *arguments: Any, protocol: int = 2) -> bytes:
    return pickle.dumps(Reduced(function, *arguments), protocol)


def called(module: str, name: str, argument: str) -> bytes:
    """Return a pickle that calls what may not be there, with one text."""
    return f"c{module}\n{name}\n(S{argument!r}\ntR.".encode()


def _calls() -> dict[str, bytes]:
    import os

    return {
        "os.system": reduced(os.system, command()),
        "exec": reduced(exec, code()),
        "eval": reduced(eval, f"__import__('os').system({command()!r})"),
        "subprocess": called("subprocess", "getoutput", command()),
        "a strange module": called(MODULE, "run", "x"),
        "builtins.__import__": called("builtins", "__import__", MODULE),
        "open for writing": reduced(open, "/tmp/elixir-canary-open", "w"),
        "torch.hub": called("torch.hub", "load", "x"),
        "torch.load": called("torch", "load", "/etc/passwd"),
        "numpy.load": called("numpy", "load", "/etc/passwd"),
        "a class of ours": called("elixir_plugin.core.classifier.classifier", "Classifier.load", "/tmp"),
        "getattr": called("builtins", "getattr", "x"),
        "operator": called("operator", "attrgetter", "system"),
        "functools": called("functools", "partial", "x"),
        "codecs": called("_codecs", "decode", "x"),
        "a socket": called("socket", "create_connection", "127.0.0.1"),
        "webbrowser": called("webbrowser", "open", "http://127.0.0.1:9"),
        "shutil.rmtree": called("shutil", "rmtree", "/tmp/elixir-canary-nothing"),
        "torch.jit": called("torch.jit", "_load", "x"),
        "runpy": called("runpy", "run_path", "x"),
        "timeit": called("timeit", "main", "x"),
        "pdb": called("pdb", "run", code()),
    }


CALLS = _calls()  # what would run when it is unpickled


def _data() -> dict[str, Callable[[], bytes]]:
    found: dict[str, Callable[[], bytes]] = {}
    for name, value in CALLS.items():
        found[f"pickle of {name}"] = lambda value=value: value
        found[f"torch zip of {name}"] = lambda value=value: torch_zip(value)
        found[f"npz of {name}"] = lambda value=value: zipped({"x_train.npy": npy("()", "|O", value)})
    found |= {
        "npy of objects": lambda: npy("(1,)", "|O", CALLS["os.system"]),
        "npy of a huge shape": lambda: npy("(1000000000000,)"),
        "npy of a shape of names": lambda: npy(code()),
        "npy of a deep head": lambda: npy("(" * 5000 + ")" * 5000),
        "npy of a long head": lambda: b"\x93NUMPY\x02\0" + struct.pack("<I", 2**31 - 1) + b"{",
        "npy alone": lambda: npy("(2,)", body=bytes(8)),
        "npz of zeros": lambda: zipped({"x_train.npy": npy("(4000000000,)", "|u1", bytes(1))}),
        "npz of deflated zeros": lambda: bomb("x_train.npy", npy("(1073741824,)", "|u1")),
        "npz of paths": lambda: zipped({"../../x_train.npy": npy("(2,)", body=bytes(8))}),
        "npz of one name twice": lambda: npz(x_train=np.zeros(2)).replace(b"y_train", b"x_train"),
        "npz of many members": lambda: zipped({f"a{number}.npy": b"" for number in range(20_000)}),
        "npz of text": lambda: npz(x_train=np.array(["a"]), y_train=np.array([0])),
        "npz of times": lambda: npz(x_train=np.array([0], "M8[s]"), y_train=np.array([0])),
        "npz of records": lambda: npz(x_train=np.zeros(2, "i4,f4"), y_train=np.array([0, 1])),
        "npz of nan": lambda: npz(x_train=np.full((4, 8, 8, 3), np.nan, np.float32), y_train=np.arange(4) % 2),
        "npz of infinities": lambda: npz(x_train=np.full((4, 8, 8, 3), np.inf, np.float32), y_train=np.arange(4) % 2),
        "npz of no samples": lambda: npz(x_train=np.zeros((0, 8, 8, 3), np.uint8), y_train=np.zeros(0, np.int64)),
        "npz of huge labels": lambda: npz(x_train=np.zeros((2, 8, 8, 3), np.uint8), y_train=np.array([0, 2**40])),
        "npz of negative labels": lambda: npz(x_train=np.zeros((2, 8, 8, 3), np.uint8), y_train=np.array([0, -1])),
        "npz of complex numbers": lambda: npz(x_train=np.zeros((2, 8, 8, 3), complex), y_train=np.array([0, 1])),
        "npz of 40 axes": lambda: npz(x_train=np.zeros((1,) * 40), y_train=np.array([0])),
        "zip of a bomb": lambda: bomb("archive/data.pkl", b""),
        "torch zip of a deflated storage": lambda: bomb("archive/data/0", b"", {"archive/data.pkl": b"\x80\x02N."}),
        "zip of nothing": lambda: zipped({}),
        "zip of a wrong directory": lambda: zipped({"a": b"b"})[:-22] + b"PK\x05\x06" + b"\xff" * 18,
        "zip that overlaps": lambda: zipped({"a": b"b" * 100}) + zipped({"c": b"d"}),
        "tar of a path": lambda: tarred("../../x", b"x"),
        "tar of a link": lambda: tarred("x", b"", tarfile.SYMTYPE, "/etc/passwd"),
        "tar of a device": lambda: tarred("x", b"", tarfile.CHRTYPE),
        "old tar of torch": lambda: tarred("storages", CALLS["os.system"]),
        "torchscript": lambda: zipped({"a/constants.pkl": b"\x80\x02N.", "a/code/__torch__.py": code().encode()}),
        "pickle of a huge memo": lambda: b"\x80\x02K\x01r\xff\xff\xff\x0f.",
        "pickle of a huge memo read": lambda: b"\x80\x02j\xff\xff\xff\x7f.",
        "pickle of a huge text": lambda: b"\x80\x04\x8d" + struct.pack("<Q", 1 << 40) + b"a.",
        "pickle of a huge bytes": lambda: b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"a.",
        "pickle of a huge byte array": lambda: b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"a.",
        "pickle of a huge frame": lambda: b"\x80\x04\x95" + struct.pack("<Q", 1 << 60) + b"N.",
        "pickle of deep lists": lambda: b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
        "pickle of deep tuples": lambda: b"\x80\x02)" + b"\x85" * 200_000 + b".",
        "pickle of shared lists": shared_lists,
        "pickle of a list in itself": lambda: b"\x80\x02]q\x00h\x00a.",
        "pickle of a dict in itself": lambda: b"\x80\x02}q\x00K\x01h\x00s.",
        "pickle of a slow key": slow_key,
        "pickle of a huge integer": lambda: b"\x80\x02\x8b" + struct.pack("<i", 4_000_000) + b"\x7f" * 4_000_000 + b".",
        "pickle of digits": lambda: b"I" + b"9" * 100_000 + b"\n.",
        "pickle of two values": lambda: b"\x80\x02NN.",
        "pickle of nothing": lambda: b"\x80\x02.",
        "pickle without an end": lambda: b"\x80\x02]",
        "pickle of a protocol to come": lambda: b"\x80\x63N.",
        "pickle of a persistent id": lambda: b"\x80\x02K\x01Q.",
        "pickle of an extension": lambda: b"\x80\x02\x82\x01.",
        "pickle of a buffer": lambda: b"\x80\x05\x97.",
        "pickle of a global without a name": lambda: b"c\n\n.",
        "pickle of a global of control characters": lambda: b"ca\x1b[2J\nb\x07\n.",
        "pickle of a global of 100,000 letters": lambda: b"c" + b"a" * 100_000 + b"\nb\n.",
        "torch of lists": lambda: saved([[1, 2], [3]]),
        "torch of shared lists": lambda: torch_zip(shared_lists()),
        "torch of a slow key": lambda: torch_zip(slow_key()),
        "torch of deep lists": lambda: torch_zip(b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."),
        "torch of a huge memo": lambda: torch_zip(b"\x80\x02K\x01r\xff\xff\xff\x0f."),
        "torch of a missing storage": lambda: saved(torch.zeros(4)).replace(b"/data/0", b"/data/9"),
        "torch of a repeated number": lambda: saved(torch.zeros(1).expand(1 << 40)),
        "torch of a sparse tensor": lambda: saved(quietly(torch.Tensor.to_sparse, torch.zeros(2, 2))),
        "torch of a huge sparse tensor": lambda: saved(
            quietly(torch.sparse_coo_tensor, torch.zeros(2, 1, dtype=torch.long), torch.ones(1), (1 << 30, 1 << 30))
        ),
        "torch of a meta tensor": lambda: saved(torch.zeros(1 << 40, device="meta")),
        "torch of a complex tensor": lambda: saved({"a": torch.zeros(2, dtype=torch.complex64)}),
        "torch of nan": lambda: saved({"a": torch.full((2,), float("nan"))}),
        "torch of huge labels": lambda: saved(torch.tensor([0, 1 << 40] * 6)),
        "torch of negative labels": lambda: saved(torch.tensor([0, -1] * 6)),
        "torch of float labels": lambda: saved(torch.tensor([0.5, float("nan")] * 6)),
        "torch of an empty list": lambda: saved([]),
        "torch of None": lambda: saved(None),
        "torch of text": lambda: saved("x" * 100_000),
        "torch of control characters": lambda: saved({"\x1b[2J\x07": torch.zeros(1)}),
        "torch of many keys": lambda: saved({f"k{number}": 0 for number in range(100_000)}),
        "torch of keys that are no text": lambda: saved(
            {1: torch.zeros(1), None: torch.zeros(1), (1, 2): torch.zeros(1)}
        ),
        "torch in the old format": lambda: saved([1, 2], _use_new_zipfile_serialization=False),
        "torch in the old format cut": lambda: saved([1, 2], _use_new_zipfile_serialization=False)[:60],
        "torch cut": lambda: saved(torch.zeros(1000))[:2000],
        "torch quantised": lambda: saved(quietly(torch.quantize_per_tensor, torch.zeros(4), 0.1, 0, torch.qint8)),
        "safetensors of a huge head": lambda: safetensors(b"{}", length=2**63),
        "safetensors of a long head": lambda: safetensors(b"{}", length=99_000_000),
        "safetensors of a huge shape": lambda: safetensors(tensor([1 << 40, 1 << 40])),
        "safetensors outside": lambda: safetensors(tensor([6], end=1 << 40), bytes(24)),
        "safetensors that overlap": lambda: safetensors({"a": tensor([6])["a"], "b": tensor([6])["a"]}, bytes(24)),
        "safetensors of negative offsets": lambda: safetensors(tensor([6], begin=-24), bytes(24)),
        "safetensors of a strange type": lambda: safetensors(tensor([6], "F99"), bytes(24)),
        "safetensors of deep json": lambda: safetensors(b"[" * 50_000),
        "safetensors of one name twice": lambda: safetensors(
            b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
            b"x",
        ),
        "safetensors of nothing": lambda: safetensors({}),
        "safetensors of control characters": lambda: safetensors({"\x1b[2J": tensor([6])["a"]}, bytes(24)),
        "safetensors of many names": lambda: safetensors(
            {f"k{number}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for number in range(50_000)}
        ),
        "safetensors of metadata": lambda: safetensors(
            {"__metadata__": {"facts": "[" * 100_000}, **tensor([6])}, bytes(24)
        ),
        "safetensors cut": lambda: safetensors(tensor([6]), bytes(20)),
        "safetensors of 8 bytes": lambda: bytes(8),
        "noise": lambda: noise(3000, 9),
        "hdf5 of weights": lambda: b"\x89HDF\r\n\x1a\n" + bytes(2000),
        "onnx": lambda: b"\x08\x07\x12\x07pytorch" + noise(500, 1),
        "protocol buffer": lambda: b"\x0a\xff\xff\xff\xff\x0f" + noise(100, 2),
        "msgpack": lambda: b"\xdf\xff\xff\xff\xff",
    }
    return found


def bomb(name: str, head: bytes, more: dict[str, bytes] | None = None, megabytes: int = 1024) -> bytes:
    """Return a zip file with a member of a gigabyte of zeros behind *head*."""
    out = BytesIO()
    first = zlib.compressobj(9, wbits=-15)
    packed = first.compress(head) + first.flush(zlib.Z_FULL_FLUSH) + deflated_zeros(megabytes)
    crc = zlib.crc32(head)
    for _ in range(megabytes // 16):
        crc = zlib.crc32(ZEROS, crc)
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for other, value in (more or {}).items():
            archive.writestr(other, value)
        info = zipfile.ZipInfo(name)
        archive.writestr(info, packed)
        info = archive.getinfo(name)
        info.compress_type, info.CRC, info.file_size = zipfile.ZIP_DEFLATED, crc, len(head) + (megabytes << 20)
        content = out.getbuffer()
        struct.pack_into("<H", content, info.header_offset + 8, zipfile.ZIP_DEFLATED)
        struct.pack_into("<III", content, info.header_offset + 14, crc, len(packed), info.file_size)
        content.release()
    return out.getvalue()


def shared_lists(depth: int = 40) -> bytes:
    """Return a pickle of a list of two lists, each of which is one list of two lists, and so on: 2^40 at the end."""
    made = b"\x80\x02]K\x01aq\x00"
    for number in range(depth):
        made += b"](h" + bytes([number]) + b"h" + bytes([number]) + b"eq" + bytes([number + 1])
    return made + b"."


def slow_key(depth: int = 40) -> bytes:
    """Return a pickle of a dict with a key whose hash needs 2^40 steps: tuples in tuples, twice each."""
    made = b"\x80\x02}K\x01\x85q\x00"
    for number in range(depth):
        made += b"0h" + bytes([number]) + b"h" + bytes([number]) + b"\x86q" + bytes([number + 1])
    return made + b"K\x01s."


DATA: dict[str, Build] = {name: content(make) for name, make in _data().items()}

"""Hostile text documents, built from code: YAML, JSON, tables, lists of names, and what is no document at all.

Each builder writes one file at the given path and nothing else. A name says which format it is meant to attack; any
reader of text must answer any of them with one clear error, or read it for what it is, within the budgets stated in
``elixir_plugin/io/documents.py`` and ``yaml_text.py``.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

Builder = Callable[[Path], None]
DIGITS = "9" * 5000  # beyond what Python turns into an int by default


def text(content: str) -> Builder:
    return lambda path: path.write_bytes(content.encode("utf-8", "surrogatepass")) and None


def raw(content: bytes) -> Builder:
    return lambda path: path.write_bytes(content) and None


def repeated(head: bytes, block: bytes, times: int, tail: bytes = b"") -> Builder:
    """A large file, written block by block."""

    def build(path: Path) -> None:
        with path.open("wb") as file:
            file.write(head)
            for _ in range(times):
                file.write(block)
            file.write(tail)

    return build


def laughs(levels: int, width: int) -> str:
    """A document of a few hundred bytes that stands for width**levels values."""
    lines = ["l0: &l0 [lol]"]
    lines += [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * width)}]" for n in range(1, levels)]
    return "\n".join(lines) + "\n"


def laughing_mappings(levels: int) -> str:
    lines = ["l0: &l0 {a: 1}"]
    lines += [f"l{n}: &l{n} {{a: *l{n - 1}, b: *l{n - 1}}}" for n in range(1, levels)]
    return "\n".join(lines) + "\n"


def tower(levels: int, height: int) -> str:
    """Aliases that add levels instead of width."""
    up = "[" * height
    down = "]" * height
    return "l0: &l0 [x]\n" + "".join(f"l{n}: &l{n} {up}*l{n - 1}{down}\n" for n in range(1, levels))


def link(target: str) -> Builder:
    return lambda path: path.symlink_to(target)


def bound_socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # the name of a socket is at most about 100 bytes
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def model_json(**changes: Any) -> Builder:
    facts = {"architecture": "small_resnet", "num_classes": 10, "channels": 3, "mean": [0.5], "std": [0.5]}
    return text(json.dumps({**facts, "input_size": None, **changes}))


def unet_json(**changes: Any) -> Builder:
    config = {"_class_name": "UNet2DModel", "sample_size": 32, "block_out_channels": [32, 64]}
    config |= {"down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2}
    return text(json.dumps({**config, **changes}))


def scheduler_json(**changes: Any) -> Builder:
    return text(json.dumps({"_class_name": "DDPMScheduler", "num_train_timesteps": 1000, **changes}))


YAML: dict[str, Builder] = {
    "yaml-billion-laughs": text(laughs(10, 10)),
    "yaml-laughs-wide": text(laughs(3, 1000)),
    "yaml-laughs-of-mappings": text(laughing_mappings(40)),
    "yaml-laughs-by-merging": text(
        "a: &a {x: [1, 2, 3]}\n" + "".join(f"b{n}: {{<<: [{', '.join(['*a'] * 500)}]}}\n" for n in range(200))
    ),
    "yaml-laughs-as-key": text("a: &a [x, x]\n? [*a, *a]\n: 1\n"),
    "yaml-tower-of-aliases": text(tower(40, 50)),
    "yaml-cyclic-list": text("a: &a [*a]\n"),
    "yaml-cyclic-mapping": text("a: &a {b: {c: *a}}\n"),
    "yaml-cyclic-document": text("&a {a: *a}\n"),
    "yaml-cyclic-merge": text("a: &a {<<: *a}\n"),
    "yaml-alias-of-nothing": text("a: *nobody\n"),
    "yaml-anchor-twice": text("a: &a 1\nb: &a 2\n"),
    "yaml-deep-flow": text("a: " + "[" * 100_000),
    "yaml-deep-closed": text("a: " + "[" * 5000 + "]" * 5000 + "\n"),
    "yaml-deep-flow-mappings": text("{a: " * 20_000),
    "yaml-deep-block": text("\n".join(" " * n + "a:" for n in range(1200)) + "\n"),
    "yaml-deep-dashes": text("- " * 50_000 + "x\n"),
    "yaml-deep-keys": text("? " * 50_000 + "x\n"),
    "yaml-key-twice": text("defense: d3\nseed: 1\nseed: 2\n"),
    "yaml-key-twice-below": text("settings: {epochs: 1, epochs: 2}\n"),
    "yaml-key-twice-quoted": text("seed: 1\n'seed': 2\n"),
    "yaml-merge-twice": text("a: &a {x: 1}\nb:\n  <<: *a\n  <<: *a\n"),
    "yaml-merge-of-a-number": text("a: {<<: 1}\n"),
    "yaml-key-number": text("a: {1: x}\n"),
    "yaml-key-null": text("a: {null: x}\n"),
    "yaml-key-bool": text("yes: x\n"),
    "yaml-key-list": text("? [a, b]\n: x\n"),
    "yaml-key-date": text("a: {2001-01-01: x, 2001-01-01: y}\n"),
    "yaml-python-object": text("a: !!python/object/apply:os.system ['touch canary']\n"),
    "yaml-python-name": text("a: !!python/name:os.system\n"),
    "yaml-tag-binary": text("a: !!binary AAAA\n"),
    "yaml-tag-set": text("a: !!set {x, y}\n"),
    "yaml-tag-omap": text("a: !!omap [x: 1]\n"),
    "yaml-tag-timestamp": text("a: !!timestamp 2001-99-99\n"),
    "yaml-tag-own": text("a: !run {x: 1}\n"),
    "yaml-tag-declared": text("%TAG ! tag:example.com,2000:\n---\na: !run 1\n"),
    "yaml-tag-int-of-text": text("a: !!int x\n"),
    "yaml-tag-bool-of-text": text("a: !!bool maybe\n"),
    "yaml-tag-int-of-nothing": text("a: !!int ''\n"),
    "yaml-date-impossible": text("a: 2001-99-99\n"),
    "yaml-int-5000-digits": text(f"seed: {DIGITS}\n"),
    "yaml-int-400-digits": text(f"seed: {DIGITS[:400]}\n"),
    "yaml-int-20-digits": text(f"seed: {DIGITS[:20]}\n"),
    "yaml-int-hex": text("seed: 0x" + "f" * 5000 + "\n"),
    "yaml-int-binary": text("seed: 0b" + "1" * 50_000 + "\n"),
    "yaml-int-octal": text("seed: 0" + "7" * 50_000 + "\n"),
    "yaml-int-underscores": text("seed: 1" + "_0" * 50_000 + "\n"),
    "yaml-int-base-60": text("seed: 1" + ":1" * 100_000 + "\n"),
    "yaml-float-base-60": text("seed: 1" + ":1" * 50_000 + ".5\n"),
    "yaml-float-long": text("seed: 0." + "1" * 100_000 + "\n"),
    "yaml-float-overflow": text("seed: 1.0e+999\n"),
    "yaml-float-inf": text("seed: .inf\nsettings: {lam: .inf}\n"),
    "yaml-float-nan": text("seed: .nan\nsettings: {lam: .nan}\n"),
    "yaml-nul-escaped": text('out: "a\\0b"\n'),
    "yaml-nul-raw": raw(b"out: a\0b\n"),
    "yaml-surrogate-escaped": text('out: "\\uD800"\n'),
    "yaml-surrogate-raw": text("out: \ud800\n"),
    "yaml-escape-sequence": text('"\\e[31mred\\e]0;title\\a": 1\n'),
    "yaml-two-documents": text("a: 1\n---\nb: 2\n"),
    "yaml-never-ends": text('a: "' + "x" * 100_000),
    "yaml-not-even-text": raw(bytes(range(128, 256)) * 8),
    "yaml-utf-16": raw("defense: d3\n".encode("utf-16")),
    "yaml-utf-16-unmarked": raw("defense: d3\n".encode("utf-16-le")),
    "yaml-utf-32": raw("defense: d3\n".encode("utf-32")),
    "yaml-100-megabytes": repeated(b"a:\n", b"- xxxxxxxxxxxxx\n" * 2**16, 100),
    "yaml-many-values": text("a: [" + "0," * 400_000 + "]\n"),
    "yaml-many-anchors": text("".join(f"k{n}: &a{n} 0\n" for n in range(60_000))),
    "yaml-many-tags": text("%TAG !a! b\n" * 20_000 + "---\na: 1\n"),
    "yaml-long-key": text("x" * 100_000 + ": 1\n"),
    "yaml-long-quoted-key": text('"' + "x" * 100_000 + '": 1\n'),
    "yaml-long-alias": text("a: *" + "x" * 100_000 + "\n"),
}

JSON: dict[str, Builder] = {
    "json-deep-lists": text("[" * 100_000),
    "json-deep-closed": text("[" * 900 + "]" * 900),
    "json-deep-mappings": text('{"a":' * 100_000),
    "json-deep-mixed": text('[{"a":' * 400 + "1" + "}]" * 400),
    "json-deep-65": text("[" * 65 + "]" * 65),
    "json-key-twice": text('{"num_classes": 10, "num_classes": 2}'),
    "json-key-twice-escaped": text('{"num_classes": 10, "num\\u005fclasses": 2}'),
    "json-key-twice-below": text('{"a": [{"b": 1, "b": 2}]}'),
    "json-key-twice-many": text("{" + ",".join('"a":1' for _ in range(300_000)) + "}"),
    "json-int-5000-digits": text(f'{{"num_classes": {DIGITS}}}'),
    "json-int-400-digits": text(f'{{"num_classes": -{DIGITS[:400]}}}'),
    "json-int-20-digits": text(f'{{"num_classes": {DIGITS[:20]}}}'),
    "json-int-million-digits": text("[" + "9" * 1_000_000 + "]"),
    "json-float-overflow": text('{"mean": [1e999]}'),
    "json-float-long": text('{"mean": [0.' + "1" * 1_000_000 + "]}"),
    "json-exponent-long": text('{"mean": [1e' + "9" * 100_000 + "]}"),
    "json-nan": text('{"mean": [NaN]}'),
    "json-infinity": text('{"mean": [-Infinity]}'),
    "json-surrogate": text('{"architecture": "\\ud800"}'),
    "json-surrogate-key": text('{"\\ud800": 1}'),
    "json-surrogates-swapped": text('["\\udc00\\ud800"]'),
    "json-surrogate-raw": text('["\ud800"]'),
    "json-nul": text('{"architecture": "a\\u0000b"}'),
    "json-nul-key": text('{"a\\u0000b": 1}'),
    "json-nul-raw": raw(b'["a\0b"]'),
    "json-control-key": text('{"\\u001b[31mred\\u0007": 1}'),
    "json-control-value": text('{"_class_name": "\\u001b]0;title\\u0007"}'),
    "json-utf-16": raw('{"a": 1}'.encode("utf-16")),
    "json-utf-16-unmarked": raw('{"a": 1}'.encode("utf-16-le")),
    "json-latin-1": raw('{"a": "é"}'.encode("latin-1")),
    "json-two-values": text('{"a": 1} {"b": 2}'),
    "json-cut-off": text('{"a": [1, 2'),
    "json-string-never-ends": text('{"a": "' + "x" * 1_000_000),
    "json-number": text("1"),
    "json-null": text("null"),
    "json-text": text('"just text"'),
    "json-list": text("[]"),
    "json-empty-mapping": text("{}"),
    "json-100-megabytes": repeated(b"[0", b",0" * 2**19, 100, b"]"),
    "json-many-lists": repeated(b"[[]", b",[]" * 2**19, 15, b"]"),
    "json-many-mappings": repeated(b'[{"a":0}', b',{"a":0}' * 2**18, 15, b"]"),
    "json-long-key": text('{"' + "x" * 1_000_000 + '": 1}'),
    "json-long-value": text('{"architecture": "' + "x" * 1_000_000 + '"}'),
    "json-many-keys": text("{" + ",".join(f'"k{n}":1' for n in range(100_000)) + "}"),
}

SIZES: dict[str, Builder] = {
    "model-million-classes": model_json(num_classes=1_000_000),
    "model-30-gigabytes": model_json(num_classes=1_000_000, architecture="vgg16"),
    "model-30-gigabytes-computed": model_json(num_classes=1_000_000, architecture="regnet_y_128gf"),
    "model-billion-classes": model_json(num_classes=10**9),
    "model-largest-channels": model_json(channels=2**63),
    "model-negative-classes": model_json(num_classes=-1),
    "model-classes-as-text": model_json(num_classes="10" * 50),
    "model-huge-input": model_json(input_size=10**6),
    "model-many-means": model_json(mean=[0.5] * 100_000),
    "model-architecture-of-code": model_json(architecture="os:system"),
    "model-architecture-of-file": model_json(architecture="/etc/passwd:x"),
    "unet-million-channels": unet_json(block_out_channels=[10**6, 10**6]),
    "unet-billion-layers": unet_json(layers_per_block=10**9),
    "unet-thousand-levels": unet_json(
        block_out_channels=[32] * 1000, down_block_types=["DownBlock2D"] * 1000, up_block_types=["UpBlock2D"] * 1000
    ),
    "unet-largest-allowed": unet_json(
        block_out_channels=[2048] * 8,
        down_block_types=["AttnDownBlock2D"] * 8,
        up_block_types=["AttnUpBlock2D"] * 8,
        layers_per_block=8,
    ),
    "unet-million-pixels": unet_json(sample_size=10**6),
    "unet-no-groups": unet_json(norm_num_groups=0),
    "unet-huge-groups": unet_json(norm_num_groups=10**18),
    "scheduler-trillion-steps": scheduler_json(num_train_timesteps=10**12),
    "scheduler-many-betas": scheduler_json(trained_betas=[0.1] * 100_000),
    "scheduler-nan-betas": text('{"_class_name": "DDPMScheduler", "beta_start": NaN}'),
    "index-of-pipeline-million-parts": text(
        json.dumps(
            {"_class_name": "StableDiffusionImageVariationPipeline"} | {f"p{n}": ["os", "x"] for n in range(10**5)}
        )
    ),
}

TABLES: dict[str, Builder] = {
    "csv-nul": raw(b"Filename;Width\n0.ppm;3\0;4\n"),
    "csv-quote-never-closed": text('Filename;Width\n"0.ppm;3\n' + "x;1\n" * 10_000),
    "csv-text-after-quote": text('Filename;Width\n"0.ppm"x;3\n'),
    "csv-huge-field": text("Filename;Width\n" + "x" * 1_000_000 + ";3\n"),
    "csv-many-fields": repeated(b"Filename\n", b";" * 2**20, 6, b"\n"),
    "csv-many-rows": repeated(b"Filename\n", b"\n" * 2**20, 6),
    "csv-wrong-columns": text("a;b\n1;2\n"),
    "csv-class-of-5000-digits": text("a;b;c;d;e;f;g;h\n0.ppm;1;1;1;1;1;1;" + DIGITS + "\n"),
    "csv-class-2-40": text(f"a;b;c;d;e;f;g;h\n0.ppm;1;1;1;1;1;1;{2**40}\n"),
    "csv-class-negative": text("a;b;c;d;e;f;g;h\n0.ppm;1;1;1;1;1;1;-1\n"),
    "csv-climbing": text("a;b;c;d;e;f;g;h\n../../../etc/passwd;1;1;1;1;1;1;0\n"),
    "csv-device": text("a;b;c;d;e;f;g;h\n/dev/zero;1;1;1;1;1;1;0\n"),
    "csv-utf-16": raw("a;b\n".encode("utf-16")),
    "list-5000-digits": text(DIGITS),
    "list-20-digits": text("99999999999999999999"),
    "list-negative": text("-1"),
    "list-words": text("one two three"),
    "list-floats": text("1.5 nan inf"),
    "list-nul": raw(b"1\0002"),
    "list-many": repeated(b"", b"1 " * 2**20, 33),
    "names-twice": text("cat\ndog\ncat\n"),
    "names-climbing": text("cat\n../dog\n"),
    "names-dots": text("cat\n..\n"),
    "names-nul": raw(b"cat\nd\0g\n"),
    "names-control": text("cat\n\x1b[31mdog\n"),
    "names-one": text("cat\n"),
    "names-too-many": repeated(b"", b"".join(b"%06d\n" % n for n in range(10**5)), 11),
    "names-json-numbers": text("[1, 2]"),
    "names-json-surrogate": text('["cat", "\\ud800"]'),
    "names-json-deep": text("[" * 50_000),
    "names-json-mapping": text('{"cat": 0, "cat": 1}'),
}

NO_FILES: dict[str, Builder] = {
    "no-fifo": os.mkfifo,
    "no-socket": bound_socket,
    "no-folder": lambda path: path.mkdir(),
    "no-link-to-itself": lambda path: path.symlink_to(path.name),
    "no-link-to-device-without-end": link("/dev/zero"),
    "no-link-to-device": link("/dev/null"),
    "no-link-to-nothing": link("nothing-at-all"),
    "no-link-to-process": link("/proc/self/environ"),
    "no-content": raw(b""),
    "no-lines": text("\n" * 1000),
    "no-text-but-mark": raw(b"\xef\xbb\xbf"),
    "no-text-but-zeros": raw(bytes(4096)),
    "no-file-but-pointer": text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
}

KINDS: dict[str, Builder] = {**YAML, **JSON, **SIZES, **TABLES, **NO_FILES}

"""Hostile documents: YAML, JSON, tables, lists, and other text under their names."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from canary import MODULE, code, command

Build = Callable[[Path], None]


def aliases(depth: int = 12) -> str:
    """Return YAML whose aliases stand for 9^depth items."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    for number in range(1, depth):
        lines.append(f"a{number}: &a{number} [{', '.join([f'*a{number - 1}'] * 9)}]")
    return "\n".join(lines) + "\n"


DOCUMENTS: dict[str, Callable[[], str | bytes]] = {
    "yaml of python code": lambda: f"!!python/object/apply:os.system [{command()!r}]\n",
    "yaml of a python module": lambda: f"a: !!python/module:{MODULE}\n",
    "yaml of a python name": lambda: "a: !!python/name:os.system\n",
    "yaml of a python object": lambda: f"!!python/object/new:exec [{code()!r}]\n",
    "yaml of a strange tag": lambda: "a: !x y\n",
    "yaml of aliases": aliases,
    "yaml of aliases as keys": lambda: "a: &a [1, 2]\n*a : 3\n",
    "yaml of a merge of aliases": lambda: "a: &a {x: 1}\nb: &b {<<: [*a, *a], y: *a}\nc: {<<: [*b, *b]}\n",
    "yaml in itself": lambda: "a: &a [*a]\n",
    "yaml mapping in itself": lambda: "&a\nb: *a\n",
    "yaml of deep lists": lambda: "a: " + "[" * 20_000,
    "yaml of deep mappings": lambda: "".join(" " * number + "a:\n" for number in range(2000)),
    "yaml of deep braces": lambda: "{a: " * 5000 + "1" + "}" * 5000,
    "yaml of two documents": lambda: "a: 1\n---\nb: 2\n",
    "yaml of nothing": lambda: "# nothing\n",
    "yaml of a list": lambda: "- a\n- b\n",
    "yaml of keys that are no text": lambda: "1: a\nnull: b\n2020-01-01: c\n",
    "yaml of one key twice": lambda: "seed: 1\nseed: 2\n",
    "yaml of an impossible date": lambda: "a: 2020-99-99\n",
    "yaml of a huge integer": lambda: "seed: " + "9" * 100_000 + "\n",
    "yaml of a huge hexadecimal": lambda: "seed: 0x" + "f" * 100_000 + "\n",
    "yaml of base 60": lambda: "seed: " + ":".join(["59"] * 20_000) + "\n",
    "yaml of infinities": lambda: "seed: .inf\na: .nan\n",
    "yaml of a huge exponent": lambda: "seed: 1e999999999\n",
    "yaml of tabs": lambda: "a:\n\t- b\n",
    "yaml of nul": lambda: b"a: \x00\n",
    "yaml of control characters": lambda: 'a: "\\e[2J\\a"\n"\\e[31m": 1\n',
    "yaml of surrogates": lambda: 'a: "\\ud800"\n',
    "yaml of utf-16": lambda: "a: 1\n".encode("utf-16"),
    "yaml of latin-1": lambda: "a: é\n".encode("latin-1"),
    "yaml of a long line": lambda: "a: " + "x" * (4 << 20) + "\n",
    "yaml of a long key": lambda: "? " + "x" * 2000 + "\n: 1\n",
    "yaml of many keys": lambda: "".join(f"k{number}: 1\n" for number in range(20_000)),
    "yaml of binary": lambda: "a: !!binary " + "A" * 400 + "\n",
    "yaml of a set": lambda: "a: !!set {x, y}\n",
    "yaml of pairs": lambda: "a: !!omap [x: 1, y: 2]\n",
    "yaml of a timestamp": lambda: "seed: 2020-01-01T00:00:00+99:99\n",
    "json of deep lists": lambda: "[" * 200_000,
    "json of deep objects": lambda: '{"a":' * 100_000,
    "json of closed deep lists": lambda: "[" * 100_000 + "]" * 100_000,
    "json of lists in lists": lambda: '{"a": ' + "[" * 900 + "]" * 900 + "}",
    "json of a huge integer": lambda: '{"a": ' + "9" * 100_000 + "}",
    "json of 4,000 digits": lambda: '{"seed": ' + "9" * 4000 + ', "num_classes": ' + "9" * 4000 + "}",
    "json of a huge exponent": lambda: '{"a": 1e99999, "num_classes": 1e400}',
    "json of nan": lambda: '{"a": NaN, "b": [Infinity, -Infinity]}',
    "json of one key twice": lambda: '{"a": 1, "a": 2}',
    "json of nul": lambda: '{"a": "\\u0000", "\\u0000": 1}',
    "json of surrogates": lambda: '{"a": "\\ud800", "\\udfff": 1}',
    "json of control characters": lambda: '{"\\u001b[2J": "\\u0007"}',
    "json of utf-16": lambda: '{"a": 1}'.encode("utf-16"),
    "json with a mark of order": lambda: b'\xef\xbb\xbf{"a": 1}',
    "json of no utf-8": lambda: b'{"a": "\xff\xfe"}',
    "json of a list": lambda: "[1, 2, 3]",
    "json of a number": lambda: "1",
    "json of null": lambda: "null",
    "json of text": lambda: '"x"',
    "json of an empty object": lambda: "{}",
    "json of an empty list": lambda: "[]",
    "json of a long text": lambda: '{"a": "' + "x" * (4 << 20) + '"}',
    "json of a long key": lambda: '{"' + "x" * 100_000 + '": 1}',
    "json of many keys": lambda: json.dumps({f"k{number}": number for number in range(50_000)}),
    "json of many values": lambda: json.dumps(list(range(200_000))),
    "json with a comma too much": lambda: '{"a": 1,}',
    "json of two values": lambda: "{} {}",
    "json cut": lambda: '{"a": [1, 2',
    "json of prototypes": lambda: '{"__proto__": {"x": 1}, "__class__": "os.system"}',
    "json of a class to load": lambda: json.dumps(
        {"_class_name": f"{MODULE}.X", "_target_": "os.system", "auto_map": {"AutoModel": f"{MODULE}.X"}}
    ),
    "json that asks for 30 gigabytes": lambda: json.dumps(
        {
            "architecture": "preactresnet18",
            "num_classes": 1_000_000,
            "channels": 1024,
            "mean": [0.0],
            "std": [1.0],
            "input_size": None,
        }
    ),
    "json of a strange architecture": lambda: json.dumps(
        {
            "architecture": f"{MODULE}:make",
            "num_classes": 2,
            "channels": 3,
            "mean": [0.0],
            "std": [1.0],
            "input_size": None,
        }
    ),
    "lines of json": lambda: '{"event": "started"}\n{"event": \n[1]\n"x"\n' * 10,
    "lines of json that are no events": lambda: "1\nnull\n[]\n{}\n",
    "lines of nothing": lambda: "\n" * 1_000_000,
    "a line without end": lambda: "x" * (8 << 20),
    "csv of other columns": lambda: "a;b\n1;2\n",
    "csv of paths": lambda: (
        "Filename;W;H;a;b;c;d;ClassId\n../../../etc/passwd;1;1;0;0;1;1;0\n/etc/passwd;1;1;0;0;1;1;0\n"
    ),
    "csv of formulas": lambda: "Filename;W;H;a;b;c;d;ClassId\n=cmd|x;1;1;0;0;1;1;0\n",
    "csv of an open quote": lambda: 'Filename;W\n"' + "x" * 300_000,
    "csv of huge numbers": lambda: "Filename;W;H;a;b;c;d;ClassId\n0.png;1;1;0;0;1;1;" + "9" * 5000 + "\n",
    "csv of nul": lambda: b"Filename;W;H;a;b;c;d;ClassId\n\0.png;1;1;0;0;1;1;0\n",
    "csv of many rows": lambda: "Filename;W;H;a;b;c;d;ClassId\n" + "0.png;1;1;0;0;1;1;3\n" * 20_000,
    "text of huge numbers": lambda: "9" * 100_000 + "\n",
    "text of negative numbers": lambda: "-1\n-2\n",
    "text of numbers above": lambda: "0\n99999999999999999999\n",
    "text of other digits": lambda: "\u0661\n\u0662\n",
    "text of names twice": lambda: "cat\ncat\n",
    "text of paths": lambda: "../..\n/etc\n",
    "text of control characters": lambda: "a\x1b[2J\nb\x07\n",
    "text of bidirectional marks": lambda: "\u202ecat\ndog\u2066\n",
    "text of many lines": lambda: "".join(f"{number}\n" for number in range(100_000)),
    "text of no utf-8": lambda: b"\xff\xfe\xfd\n",
    "text of nul": lambda: b"cat\0\ndog\n",
    "text of line breaks": lambda: "cat\u2028dog\x0bemu\x85fox\n",
    "xml of entities": lambda: '<!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;&b;">]><a>&c;</a>',
    "toml": lambda: "[a]\nb = 1\n",
    "ini of an interpolation": lambda: "[a]\nb = %(b)s\n",
    "template": lambda: "{{ ''.__class__.__mro__ }}\n{% include '/etc/passwd' %}\n",
}


def _text(make: Callable[[], str | bytes]) -> Build:
    def build(path: Path) -> None:
        made = make()
        path.write_bytes(made if isinstance(made, bytes) else made.encode("utf-8", "surrogatepass"))

    return build


TEXT: dict[str, Build] = {name: _text(make) for name, make in DOCUMENTS.items()}

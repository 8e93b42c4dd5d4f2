"""JSON, YAML and tables from anybody: what they may say, and what stops within a budget."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from elixir_plugin.diffusion.denoisers.denoiser import read_card
from elixir_plugin.diffusion.denoisers.guided_settings import read_settings
from elixir_plugin.diffusion.generators.pipeline_files import pipeline_of
from elixir_plugin.errors import InputError, SettingsError
from elixir_plugin.io.documents import DEPTH, parse_json, read_json, read_table
from elixir_plugin.io.yaml_text import VALUES, parse_yaml, read_yaml

HEAD = "a: &a [1, 2, 3]\n"
WHOLE = st.integers(-(2**63), 2**64 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
PLAIN = st.recursive(
    st.none() | st.booleans() | WHOLE | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


def chain(links: int, more: Callable[[str], str]) -> str:
    """A document in which each line is made of an alias of the line before it."""
    return "l0: &l0 [x]\n" + "".join(f"l{n}: &l{n} {more(f'*l{n - 1}')}\n" for n in range(1, links))


@given(PLAIN)
def test_json_comes_back_as_it_was_written(value: Any) -> None:
    assert parse_json(json.dumps(value), where="x") == value
    assert parse_json(json.dumps(value, ensure_ascii=False), where="x") == value


@given(PLAIN)
def test_yaml_comes_back_as_it_was_written(value: Any) -> None:
    assert parse_yaml(yaml.safe_dump(value), where="x") == value
    written = yaml.safe_dump([value, value], allow_unicode=True)
    if "\x85" not in written:  # PyYAML writes it as it is where it stands for a line break
        assert parse_yaml(written, where="x") == [value, value]


@given(st.text(max_size=40))
def test_any_text_gives_a_value_or_a_clear_error(text: str) -> None:
    for parse, error in ((parse_json, InputError), (parse_yaml, SettingsError)):
        try:
            parse(text, where="x")
        except error as caught:
            assert caught.where is not None and str(caught).replace("\n", "").isprintable()


@pytest.mark.parametrize(
    ("text", "what", "found"),
    [
        ('{"a": 1, "a": 2}', "key is given twice", "'a'"),
        ('{"a": 1, "\\u0061": 2}', "key is given twice", "'a'"),
        ('[{"b": {"c": 1, "d": 2, "c": 3}}]', "key is given twice", "'c'"),
        ("[" * (DEPTH + 1) + "]" * (DEPTH + 1), "document is nested too deeply", None),
        ("[" * 100_000, "document is nested too deeply", None),
        ('{"a":' * 500 + "1" + "}" * 500, "document is nested too deeply", None),
        ("[" + "9" * 5000 + "]", "whole number out of range", "a number of 5,000 digits"),
        (str(2**64), "whole number out of range", str(2**64)),
        (str(-(2**63) - 1), "whole number out of range", str(-(2**63) - 1)),
        ("1e999", "number is not finite", "1e999"),
        ("[NaN]", "number is not finite", "NaN"),
        ("-Infinity", "number is not finite", "-Infinity"),
        ('"\\ud800"', "text that cannot be written", r"'\ud800'"),
        ('{"\\udfff": 1}', "text that cannot be written", r"'\udfff'"),
        ('["a\\u0000b"]', "text that cannot be written", r"'a\x00b'"),
        ("[" + "0," * 5_000_000 + "0]", "document holds too much", "more than 5,000,000 values"),
        ("{", "file is not JSON", None),
    ],
)
def test_json_that_is_refused(text: str, what: str, found: str | None) -> None:
    with pytest.raises(InputError) as caught:
        parse_json(text, where="facts.json")
    assert caught.value.what == what and caught.value.where == "facts.json"
    assert found is None or caught.value.found == found


def test_json_up_to_the_limits() -> None:
    deep = parse_json("[" * DEPTH + "]" * DEPTH, where="x")
    for _ in range(DEPTH - 1):
        (deep,) = deep
    assert deep == []
    assert parse_json(f"[{2**64 - 1}, {-(2**63)}]", where="x") == [2**64 - 1, -(2**63)]
    assert parse_json('["\\ud83d\\ude42", "\\udcff"]', where="x") == [
        "🙂",
        "\udcff",
    ]  # the latter: a byte of a file name


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (chain(9, lambda last: f"[{', '.join([last] * 9)}]"), "holds too much"),
        (chain(30, lambda last: f"{{a: {last}, b: {last}}}"), "holds too much"),
        (chain(5, lambda last: "[" * 30 + last + "]" * 30), "too deeply"),
        ("[" * 100_000, "too deeply"),
        ("- " * 20_000 + "x", "too deeply"),
        ("? " * 20_000 + "x", "too deeply"),
        ("&a [*a]", "alias within what it stands for"),
        ("a: &a {b: [*a]}", "alias within what it stands for"),
        ("a: &a {<<: *a}", "alias within what it stands for"),
        ("a: *b", "alias of nothing"),
        ("a: &a 1\nb: &a 2", "anchor is given twice"),
        ("a: 1\na: 2", "key is given twice"),
        ("{a: 1, 'a': 2}", "key is given twice"),
        ("a: &a {x: 1}\nb: {<<: *a, <<: *a}", "key is given twice"),
        ("a: {<<: 1}", "<< merges mappings"),
        ("1: a", "key is no text"),
        ("{yes: a}", "key is no text"),
        ("{? [a] : b}", "key is no text"),
        ("a: !!python/name:os.system", "YAML tag refused"),
        ("a: !!binary AAAA", "YAML tag refused"),
        ("a: !!set {x}", "YAML tag refused"),
        ("!own a", "YAML tag refused"),
        ("a: !!int x", "not of the type"),
        ("a: !!bool maybe", "not of the type"),
        ("a: " + "9" * 5000, "whole number out of range"),
        ("a: 0x" + "f" * 5000, "whole number out of range"),
        ("a: 0b" + "1" * 65, "whole number out of range"),
        ("a: 18446744073709551616", "whole number out of range"),
        ('a: "\\uD800"', "text that cannot be written"),
        ('"\\0": 1', "text that cannot be written"),
        ("a: 1\n---\nb: 1", "more than one YAML document"),
        ("a: [1", "not readable YAML"),
        ("a: \ud800", "not readable YAML"),
    ],
)  # fmt: skip
def test_yaml_that_is_refused(text: str, what: str) -> None:
    started = time.process_time()
    with pytest.raises(SettingsError, match=what) as caught:
        parse_yaml(text, where="run.yaml")
    assert str(caught.value.where).startswith("run.yaml") and time.process_time() - started < 5


def test_a_refused_line_is_named() -> None:
    with pytest.raises(SettingsError) as caught:
        parse_yaml("a: 1\nb:\n  c: 1\n  c: 2\n", where="run{}.yaml")
    assert caught.value.where == "run{}.yaml, line 4" and caught.value.found == "'c'"


def test_what_aliases_and_merge_keys_stand_for() -> None:
    text = HEAD + "b: [*a, *a]\nc: &c {x: 1, y: 1}\nd: {<<: *c, y: 2}\ne: {y: 3, <<: [{y: 4, z: 4}, *c]}\n'<<': 5\n"
    value = parse_yaml(text, where="x")
    assert value["b"] == [[1, 2, 3]] * 2 and value["d"] == {"x": 1, "y": 2} and value["<<"] == 5
    assert value["e"] == {"x": 1, "y": 3, "z": 4}
    value["b"][0].append(4)  # each use of an alias is a copy
    assert value["a"] == value["b"][1] == [1, 2, 3]


def test_aliases_count_for_what_they_stand_for() -> None:
    many = f"a: &a [{'0, ' * 998}0]\nb: [{{}}]\n"  # with its own list: 1,000 values
    fits, beyond = VALUES // 1000 - 2, VALUES // 1000 + 1
    assert len(parse_yaml(many.format(", ".join(["*a"] * fits)), where="x")["b"]) == fits
    with pytest.raises(SettingsError, match="holds too much"):
        parse_yaml(many.format(", ".join(["*a"] * beyond)), where="x")


def test_dates_and_base_60_are_text() -> None:
    text = "[2001-01-01, 2001-99-99, 2001-12-14 21:59:43, 1:30, 1:30.5, =, !!str 5, ! 6, ~, .5, 0x10, 1_000]"
    assert parse_yaml(text, where="x") == [
        "2001-01-01", "2001-99-99", "2001-12-14 21:59:43", "1:30", "1:30.5", "=", "5", "6", None, 0.5, 16, 1000,
    ]  # fmt: skip


def test_byte_order_marks_are_passed_over_and_other_encodings_refused(tmp_path: Path) -> None:
    marked, other = tmp_path / "marked", tmp_path / "other"
    marked.write_bytes('{"a": "é"}'.encode("utf-8-sig"))
    assert read_json(marked) == read_yaml(marked) == {"a": "é"}
    for encoding in ("utf-16", "utf-16-le", "utf-32", "latin-1"):
        other.write_bytes('{"a": "é"}'.encode(encoding))
        with pytest.raises(InputError, match=r"not text|not JSON"):
            read_json(other)
        with pytest.raises(SettingsError, match="not readable YAML"):
            read_yaml(other)


def test_large_files_are_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(100 * 2**20)
    with pytest.raises(InputError, match="too large"):
        read_json(path)
    with pytest.raises(SettingsError, match="not readable YAML") as caught:
        read_yaml(path)
    assert caught.value.allowed == "1,048,576 bytes"


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b'a;b\n"1;2\n', "unexpected end of data"),
        (b"a;b\n1\0;2\n", "NUL"),
        (b"a;b\n" + b"x" * 200_000, "field larger than field limit"),
        (b'a;b\n"1"x;2\n', "expected after"),
        (b"\xff\xfea", "invalid start byte"),
    ],
)
def test_tables_that_are_refused(tmp_path: Path, content: bytes, found: str) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        list(read_table(path, ";"))
    assert found in str(caught.value.found) and str(path) in str(caught.value.where)


def test_tables_come_row_by_row(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b'\xef\xbb\xbfa;b\r\n"1;\r\n2";\xc3\xa9\r\n')
    assert list(read_table(path, ";")) == [["a", "b"], ["1;\n2", "é"]]


@pytest.mark.parametrize("kind", ["fifo", "folder", "device"])
def test_optional_documents_that_are_no_files_are_not_taken_for_absent(tmp_path: Path, kind: str) -> None:
    for name, read in (
        ("net.json", lambda: read_settings(tmp_path / "net.pt")),
        ("card.json", lambda: read_card(tmp_path)),
        ("model_index.json", lambda: pipeline_of(tmp_path)),
    ):
        path = tmp_path / name
        make = {"fifo": os.mkfifo, "folder": Path.mkdir, "device": lambda path: path.symlink_to("/dev/zero")}[kind]
        make(path)
        with pytest.raises(InputError, match="not a regular file") as caught:
            read()
        assert str(path) in str(caught.value.where)


def test_the_key_of_a_refused_number_is_named() -> None:
    for text in ('{"a": [{"lr": 1e999}]}', '{"lr": NaN}', f'{{"lr": {2**64}}}'):
        with pytest.raises(InputError) as caught:
            parse_json(text, where="facts.json")
        assert caught.value.where == "facts.json: lr"

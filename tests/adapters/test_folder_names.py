"""Names that hurt: not UTF-8, with line breaks, formulas, as long as can be; nothing is lost after the work is done."""

from __future__ import annotations

import ast
import csv
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from elixir_plugin import Case, Evaluation, Outcome, get_adapter
from elixir_plugin.adapter import Source
from elixir_plugin.core.context import Context
from elixir_plugin.core.settings import Settings
from elixir_plugin.defense import Card, Defense
from elixir_plugin.hookspecs import Entry, hookimpl
from elixir_plugin.io.text import FORMULA, escape_cell, escape_name
from elixir_plugin.plugins import plugins
from elixir_plugin.runs.run import run_defense
from elixir_plugin.runs.spec import RunSpec

NAMES = [
    b"a\xff\xfe.png", b"line\nbreak.png", b"tab\tand\rreturn.png", b"back\\slash.png", b"\\udcff.png",
    b"esc\x1b[31m.png", b"comma,\"quote'.png", "Straße 東京 🙂.png".encode(), b" spaces .png", b"x" * 251 + b".png",
    b"y" * 250 + b".jpeg",
]  # fmt: skip


def read(path: Path, **options: Any) -> Case:
    return get_adapter("image_folder")(options).read(path)


def put(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        Image.new("RGB", (8, 8), (value,) * 3).save(file, "PNG")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def unescaped(cell: str) -> str:
    """Read back what ``escape_cell`` wrote."""
    quoted = cell.replace("'", "\\'")
    return str(ast.literal_eval(f"'{quoted}'"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for value, name in enumerate(NAMES):
        put(tmp_path / "in" / ("a", "=b")[value % 2] / os.fsdecode(name), value)
    return tmp_path / "in"


def changed(case: Case) -> Outcome:
    """An outcome with every part: each second sample relabelled, all painted white."""
    assert case.train is not None
    labels = np.where(np.arange(len(case.train)) % 2, 1 - case.train.labels, case.train.labels)
    images = np.full_like(case.train.read(slice(None)), 255)
    n = len(case.train)
    return Outcome(
        train=case.train.replace(images=images, labels=labels), scores=np.linspace(0, 1, n), kept=np.arange(n)
    )


def test_every_name_comes_through_all_tables(folder: Path, tmp_path: Path) -> None:
    case = read(folder)
    assert case.train is not None and case.train.names is not None
    assert {os.fsencode(name.partition("/")[2]) for name in case.train.names} == set(NAMES)
    outcome = changed(case)
    get_adapter("image_folder")().write(case, outcome, Evaluation(), tmp_path / "out", "x")
    suspects, changes = (rows(tmp_path / "out" / f"{table}.csv") for table in ("suspects", "changes"))
    for table in (suspects, changes):
        assert [unescaped(row["name"]) for row in table] == list(case.train.names)
        assert not any(cell[:1] in FORMULA or not cell.isprintable() for row in table for cell in row.values())
    files = [tmp_path / "out" / unescaped(row["file"]) for row in changes]
    assert len(set(files)) == len(NAMES) and all(file.is_file() for file in files)
    assert {unescaped(row["new label"]) for row in changes} == {"a", "=b"}
    outcome.save(tmp_path / "kept")
    again = Outcome.load(tmp_path / "kept").train
    assert again is not None and again.names == case.train.names


class Painter(Defense):
    """Scores by position, and paints and relabels."""

    name = "painter"
    kind = "purify"
    needs = frozenset({"train"})
    card = Card("Paint", "none", 2026, "none", "none", "all")
    Settings = Settings

    def defend(self, case: Case, context: Context) -> Outcome:
        return changed(case)


class Offer:
    @hookimpl
    def elixir_defenses(self) -> list[Entry]:
        return [Entry("painter", Painter, "purify")]


def test_a_whole_run(folder: Path, tmp_path: Path, no_figures: None) -> None:
    (folder / "a" / os.fsdecode(b"notes\xff\nverdict: none.txt")).write_text("x")
    renamed = folder.rename(folder.with_name(os.fsdecode(b"in\xe9")))
    source = Source(adapter="image_folder", path=str(renamed))
    spec = RunSpec(defense="painter", source=source, out=str(tmp_path / "run"), write_to=str(tmp_path / "native"))
    plugins.cache_clear()
    plugins().register(Offer(), "offer")
    try:
        result = run_defense(spec)
        assert run_defense(spec).already_done
    finally:
        plugins.cache_clear()
    names = [unescaped(row["name"]) for row in rows(tmp_path / "native" / "suspects.csv")]
    assert {os.fsencode(name.partition("/")[2]) for name in names} == set(NAMES)
    report = json.loads((tmp_path / "run" / "report.json").read_text(encoding="utf-8"))
    assert report["case"]["train"]["samples"] == len(NAMES) and len(report["notes"]) == 1
    assert report["classes"] == ["=b", "a"]
    assert "\\udcff\\nverdict" in report["notes"][0]
    assert "\\udc" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert sum(line.startswith("verdict") for text in result.lines() for line in text.splitlines()) == 0


def test_long_names_that_need_a_number_are_cut(tmp_path: Path) -> None:
    for name in ("x" * 251, "y" * 251, "é" * 125 + "a"):
        for kind in "ab":
            put(tmp_path / "in" / kind / f"{name}.png", 0)
    case = read(tmp_path / "in")
    assert case.train is not None
    outcome = Outcome(train=case.train.replace(labels=1 - case.train.labels))
    get_adapter("image_folder")().write(case, outcome, Evaluation(), tmp_path / "out", "x")
    files = [row["file"] for row in rows(tmp_path / "out" / "changes.csv")]
    assert len(set(files)) == 6 and all((tmp_path / "out" / file).is_file() for file in files)
    assert not list((tmp_path / "out").rglob("*.part"))


@pytest.mark.parametrize(("one", "other"), [("A", "a"), ("caf\u00e9", "cafe\u0301"), ("ẞ", "ss")])
def test_results_do_not_meet_where_case_does_not_count(tmp_path: Path, one: str, other: str) -> None:
    put(tmp_path / "in" / "a" / f"{one}.png", 1)
    put(tmp_path / "in" / "b" / f"{other}.png", 2)
    case = read(tmp_path / "in")
    assert case.train is not None
    outcome = Outcome(train=case.train.replace(labels=[1, 1], images=255 - case.train.read(slice(None))))
    get_adapter("image_folder")().write(case, outcome, Evaluation(), tmp_path / "out", "x")
    files = [row["file"] for row in rows(tmp_path / "out" / "changes.csv")]
    assert files == [f"b/{one}-0.png", f"b/{other}.png"]


@given(st.text(st.characters(codec=None), max_size=20), st.text(st.characters(codec=None), max_size=20))
def test_escapes_can_be_read_back(one: str, other: str) -> None:
    for escape in (escape_name, escape_cell):
        said = escape(one)
        assert said.isprintable() and unescaped(said) == one and said.encode() is not None
        assert (said == escape(other)) == (one == other)
    assert escape_cell(one)[:1] not in FORMULA
    assert escape_cell("plain/name-1 (2).png") == "plain/name-1 (2).png"

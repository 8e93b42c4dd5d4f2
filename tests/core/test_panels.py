"""Panels: JSON types in, the same out; what is no panel is refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from elixir_plugin.core.panels import (
    LONGEST,
    Bars,
    Histogram,
    Level,
    Lines,
    Matrix,
    Panel,
    Points,
    Series,
    Table,
    Text,
    dump_panels,
    line_panels,
    load_panels,
)
from elixir_plugin.errors import InputError

EVERY: list[Panel] = [
    Table(title="t", header=["a", "b"], rows=[["x", 1], ["y", None]]),
    Lines(title="l", series=[Series(name="s", y=[1.0, None, 3.0])], levels=[Level(name="h", value=2.0)]),
    Points(title="p", series=[Series(name="s", x=[0.1], y=[0.2], labels=["d3"])]),
    Bars(title="b", labels=["0", "1"], values={"v": [1.0, 2.0]}),
    Histogram(title="h", edges=[0.0, 1.0, 2.0], counts={"g": [3, 4]}),
    Matrix(title="m", values=[[1.0, 2.0]], rows=["0"], columns=["0", "1"]),
    Text(title="x", paragraphs=["one", "two"]),
]


def test_panels_survive_json() -> None:
    assert load_panels(json.loads(json.dumps(dump_panels(EVERY)))) == EVERY


def test_numpy_is_accepted_and_what_is_not_finite_becomes_none() -> None:
    series = Series(name="s", y=np.array([1, np.nan, np.inf], np.float32))  # type: ignore[arg-type]
    assert series.y == [1.0, None, None] and series.x == [0.0, 1.0, 2.0]
    table = Table(title="t", header=["a"], rows=[[np.int64(3)]])  # type: ignore[list-item]
    assert table.rows == [[3]]


def test_long_lines_are_thinned_to_their_ends() -> None:
    series = Series(name="s", y=list(np.arange(10_000.0)))
    assert len(series.y) == LONGEST and (series.y[0], series.y[-1]) == (0.0, 9999.0) and series.x == series.y


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (Table, {"header": ["a", "b"], "rows": [["x"]]}),
        (Bars, {"labels": ["0"], "values": {"v": [1.0, 2.0]}}),
        (Histogram, {"edges": [0.0, 1.0], "counts": {"g": [1, 2]}}),
        (Matrix, {"values": [[1.0]], "rows": ["0", "1"], "columns": ["0"]}),
        (Lines, {"series": [{"name": "s", "x": [1.0], "y": [1.0, 2.0]}]}),
        (Text, {"paragraphs": ["p"], "colour": "red"}),
    ],
)
def test_what_does_not_fit_together_is_refused(kind: type[Any], values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        kind(title="t", **values)


@pytest.mark.parametrize("value", [None, {}, [1], [{"kind": "film", "title": "t"}], [{"kind": "table", "title": 3}]])
def test_what_is_no_panel_is_refused_in_one_message(value: Any) -> None:
    with pytest.raises(InputError, match="not a list of panels"):
        load_panels(value, where="report.json")


def test_curves_become_lines_by_pattern() -> None:
    curves = {"a_loss": [1.0, 0.5], "b_loss": [2.0], "other": [0.0]}
    (panel,) = line_panels(curves, [("Loss", "c", ("*_loss",)), ("None", "", ("absent",))], x_label="epoch")
    assert isinstance(panel, Lines) and [each.name for each in panel.series] == ["a loss", "b loss"]

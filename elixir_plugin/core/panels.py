"""Panels: the pieces of a report that a defense contributes, in JSON types; how they look is the report's affair.

A defense returns them from ``panels(outcome)``. They are kept in ``report.json``, and drawn from there alone.

>>> panel = Lines(title="Loss", series=[Series(name="clean loss", y=[2.3, 0.7, 0.1])], x_label="epoch")
>>> panel.series[0].x, panel.kind
([0.0, 1.0, 2.0], 'lines')
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from ..io.checked import checked
from ..io.files import to_json_types

LONGEST = 400  # points of a line; more are thinned, as no figure shows them
Number = float | None  # None: not finite, or not known
Cell = str | float | int | bool | None


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, values: Any) -> Any:
        """Accept numpy numbers and arrays; NaN and infinities become None."""
        return to_json_types(values) if isinstance(values, dict) else values


class _Titled(_Part):
    """What all panels share.

    :param title: a few words.
    :param caption: what is shown, and how to read it; also the text alternative of a figure.
    """

    title: str
    caption: str = ""


class Level(_Part):
    """A line across a figure, such as a threshold."""

    name: str
    value: float


class Series(_Part):
    """One line, or one set of points.

    :param y: values; None leaves a gap.
    :param x: of the same length; default 0, 1, 2, …
    :param labels: a word for each point (:class:`Points` alone).
    :param mark: draw points instead of a line.
    """

    name: str
    y: list[Number]
    x: list[Number] = []
    labels: list[str] = []
    mark: bool = False

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not isinstance(values.get("y"), list | tuple | np.ndarray):
            return values
        y = list(values["y"])
        x = values.get("x")
        if x is not None and not isinstance(x, list | tuple | np.ndarray):
            return values
        x = list(range(len(y))) if x is None or not len(x) else list(x)
        if len(x) == len(y) > LONGEST and not values.get("labels"):
            rows = np.unique(np.linspace(0, len(y) - 1, LONGEST).round().astype(int))
            x, y = [x[row] for row in rows], [y[row] for row in rows]
        return {**values, "x": x, "y": y}

    @model_validator(mode="after")
    def _same_length(self) -> Series:
        if len(self.x) != len(self.y) or len(self.labels) not in (0, len(self.y)):
            raise ValueError(f"x, y and labels differ in length: {len(self.x)}, {len(self.y)}, {len(self.labels)}")
        return self


class Table(_Titled):
    """Rows under a header; numbers are shown short, the first column names the row."""

    kind: Literal["table"] = "table"
    header: list[str]
    rows: list[list[Cell]]

    @model_validator(mode="after")
    def _rectangular(self) -> Table:
        if any(len(row) != len(self.header) for row in self.rows):
            raise ValueError(f"every row needs {len(self.header)} cells")
        return self


class Lines(_Titled):
    """Lines over steps, epochs, rounds or any other axis."""

    kind: Literal["lines"] = "lines"
    series: list[Series]
    x_label: str = ""
    y_label: str = ""
    log_y: bool = False
    levels: list[Level] = []


class Points(_Titled):
    """Points in a plane, each with a name, e.g. accuracy against attack success.

    :param frames: draw one frame per label, all with the same axes, instead of writing the label beside each point:
        for labels that recur, such as cases. Every point needs a label then.
    :param log_x: a logarithmic axis across, where all values are positive.
    """

    kind: Literal["points"] = "points"
    series: list[Series]
    x_label: str = ""
    y_label: str = ""
    frames: bool = False
    log_x: bool = False
    levels: list[Level] = []

    @model_validator(mode="after")
    def _labelled(self) -> Points:
        if self.frames and any(len(series.labels) != len(series.y) for series in self.series):
            raise ValueError("frames need a label for every point")
        return self


class Bars(_Titled):
    """One bar per label, or one group of bars; *values* holds a list per name."""

    kind: Literal["bars"] = "bars"
    labels: list[str]
    values: dict[str, list[Number]]
    x_label: str = ""
    y_label: str = ""
    levels: list[Level] = []

    @model_validator(mode="after")
    def _one_per_label(self) -> Bars:
        if any(len(each) != len(self.labels) for each in self.values.values()):
            raise ValueError(f"every list of values needs {len(self.labels)} of them")
        return self


class Histogram(_Titled):
    """How often values fall between *edges* ``[b + 1]``; *counts* holds a list ``[b]`` per group."""

    kind: Literal["histogram"] = "histogram"
    edges: list[float]
    counts: dict[str, list[int]]
    x_label: str = ""
    levels: list[Level] = []

    @model_validator(mode="after")
    def _one_per_bin(self) -> Histogram:
        if any(len(each) != len(self.edges) - 1 for each in self.counts.values()):
            raise ValueError(f"every group needs {len(self.edges) - 1} counts")
        return self


class Matrix(_Titled):
    """A heat map, e.g. how many labels went from one class (row) to another (column)."""

    kind: Literal["matrix"] = "matrix"
    values: list[list[Number]]
    rows: list[str]
    columns: list[str]
    x_label: str = ""
    y_label: str = ""

    @model_validator(mode="after")
    def _named(self) -> Matrix:
        if len(self.values) != len(self.rows) or any(len(row) != len(self.columns) for row in self.values):
            raise ValueError(f"values must be {len(self.rows)} × {len(self.columns)}")
        return self


class FlowStage(_Part):
    """One stage of a flow: where everything stands there.

    :param said: a few words on what has happened since the stage before.
    :param parts: name -> how many.
    """

    name: str
    said: str = ""
    parts: dict[str, int]


class Flow(_Titled):
    """The way of a fixed number of things through some stages, from top to bottom.

    Parts have a colour of their own: ``"as it came"``, ``"flagged"``, ``"purified"``, ``"relabelled"``, ``"dropped"``.
    """

    kind: Literal["flow"] = "flow"
    stages: list[FlowStage]

    @model_validator(mode="after")
    def _nothing_lost(self) -> Flow:
        if len({sum(stage.parts.values()) for stage in self.stages}) > 1:
            raise ValueError("every stage must hold as many as the others")
        return self


class Text(_Titled):
    """Paragraphs of plain text."""

    kind: Literal["text"] = "text"
    paragraphs: list[str]


Figure = Lines | Points | Bars | Histogram | Matrix | Flow
Panel = Figure | Table | Text
AnyPanel = Annotated[Panel, Field(discriminator="kind")]
_PANELS: TypeAdapter[list[Panel]] = TypeAdapter(list[AnyPanel])


def dump_panels(panels: Iterable[Panel]) -> list[dict[str, Any]]:
    """Return *panels* as JSON types."""
    return [panel.model_dump(mode="json") for panel in panels]


def load_panels(values: Any, *, where: object = None) -> list[Panel]:
    """Undo :func:`dump_panels`.

    :raises InputError: naming the first thing that is no panel.
    """
    return checked(_PANELS, values, what="not a list of panels", where=where, hint=None)


def line_panels(
    curves: dict[str, list[float]], groups: Sequence[tuple[str, str, Sequence[str]]], *, x_label: str
) -> list[Panel]:
    """Return one :class:`Lines` per group of *curves* that are there.

    :param groups: (title, caption, names); names may be patterns such as ``distance*``.
    """
    panels: list[Panel] = []
    for title, caption, names in groups:
        chosen = dict.fromkeys(each for name in names for each in curves if fnmatchcase(each, name))
        series = [Series(name=name.replace("_", " "), y=curves[name]) for name in chosen]
        if series:
            panels.append(Lines(title=title, caption=caption, series=series, x_label=x_label))
    return panels

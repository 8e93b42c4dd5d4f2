"""``compare.html``: the table and the trade-offs of a comparison, from ``results.json`` and ``timings.json`` alone."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from ...core.panels import Panel, Points, Series
from ...report.page import RenderedPanel, prepare, render
from ...report.single import write_page
from .table import COLUMNS, UNDEFENDED, Row, cell_text, explanation, remark, seconds_of, title, used_columns

PAGE = "compare.html"
WIDE = 30  # the slowest takes so many times as long as the fastest: a linear axis would leave the fast ones in a heap
EVERY = 60.0  # seconds at least between two pages along the way: drawing one takes a second or two
Measure = Callable[[Row], float | None]


def write_compare_page(folder: Path, results: Mapping[str, Any], timings: Mapping[str, Any]) -> list[Path]:
    """Write ``compare.html`` and its figures as PNG files; return what was written.

    :param results: the content of ``results.json``.
    :param timings: the content of ``timings.json``.
    :raises RunError: when *folder* cannot be written.
    """
    figures = prepare(panels(results["table"], timings), "compare")
    return write_page(folder, PAGE, page(results, timings, figures), figures)


class LivePage:
    """Writes the page of a comparison in the making: now and then, and when the block ends, however it does.

    :param folder: where the page goes.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._unwritten: tuple[Mapping[str, Any], Mapping[str, Any]] | None = None
        self._due = 0.0

    def show(self, results: Mapping[str, Any], timings: Mapping[str, Any], *, news: bool) -> None:
        """Take what is known so far, and write the page when the last one is old enough.

        :param news: False where an earlier session had found it all, and may have left a page that says more.
        """
        self._unwritten = (results, timings)
        if news and time.monotonic() >= self._due:
            self._try()

    def __enter__(self) -> LivePage:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        if kind is None:
            self._write()
        else:
            self._try()

    def _write(self) -> None:
        if self._unwritten is not None:
            write_compare_page(self._folder, *self._unwritten)
            self._unwritten = None

    def _try(self) -> None:
        """Write, but let a page that fails neither stop the runs nor hide why they stopped."""
        try:
            self._write()
        except Exception:
            logging.getLogger(__name__).exception("%s could not be written", PAGE)
        finally:
            self._due = time.monotonic() + EVERY


def page(results: Mapping[str, Any], timings: Mapping[str, Any], figures: list[RenderedPanel]) -> str:
    """Return the page; whatever comes from outside is escaped."""
    rows, cells = results["table"], results["cells"]
    columns = used_columns(rows)
    blocks: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        texts = [(cell_text(each, row["values"].get(each)), _clear(row, each)) for each in columns]
        seconds = seconds_of(timings, row)
        facts = {"defense": row["defense"], "cells": texts, "seconds": seconds, "remark": remark(row)}
        blocks.setdefault(row["case"], []).append(facts)
    spec = results["compare"]
    return render(
        "compare.html",
        blocks=blocks,
        columns=[title(each) for each in columns],
        explanation=explanation(results),
        counts={state: sum(cell["state"] == state for cell in cells) for state in ("done", "failed", "missing")},
        sizes=[len(spec["cases"]), len(spec["defenses"]), len(spec["seeds"])],
        failures=[cell for cell in cells if cell["state"] == "failed"],
        figures=figures,
        devices=sorted({each["environment"].get("device") or "not recorded" for each in timings["cells"]}),
        seconds=sum(each["seconds"] for each in timings["cells"]),
        spec=yaml.safe_dump(spec, sort_keys=False, allow_unicode=True),
        results=results,
    )


def panels(rows: list[Row], timings: Mapping[str, Any]) -> list[Panel]:
    """Return the figures that these rows can fill."""
    acc, asr, der = (_mean(metric) for metric in ("acc", "asr", "der"))
    quality, metric = (der, "der") if any(der(row) is not None for row in rows) else (acc, "acc")
    found: list[Panel] = []
    if pareto := _series(rows, asr, acc):
        found.append(
            Points(
                title="Accuracy against attack success",
                caption="One frame per case, one point per defense, means over seeds. Up and to the left is better: a "
                "defense with another above and left of it is beaten on that case. Points that coincide are drawn one "
                "around the other.",
                series=pareto,
                x_label=title("asr"),
                y_label=title("acc"),
                frames=True,
            )
        )
    timed = _series(rows, lambda row: seconds_of(timings, row), quality)
    if timed:
        seconds = [value for each in timed for value in each.x if value is not None]
        wide = max(seconds) > WIDE * min(seconds) > 0
        found.append(
            Points(
                title=f"Time against {COLUMNS[metric][0]}",
                caption=f"One frame per case, one point per defense: {COLUMNS[metric][0]}, higher is better, against "
                "the mean seconds the defense took, without models trained afterwards.",
                series=timed,
                x_label=f"seconds{', logarithmic' if wide else ''}",
                y_label=title(metric),
                frames=True,
                log_x=wide,
            )
        )
    return found


def _mean(metric: str) -> Measure:
    """Return what reads the mean of *metric* from a row, in the unit of the table."""
    scale = 100 if "%" in title(metric) else 1

    def measure(row: Row) -> float | None:
        value = row["values"].get(metric)
        return None if value is None else scale * value["mean"]

    return measure


def _series(rows: list[Row], x: Measure, y: Measure) -> list[Series]:
    """Return one series per defense with a point for each case that has both values."""
    points: dict[str, list[tuple[float, float, str]]] = {}
    for row in rows:
        across, up = x(row), y(row)
        if across is not None and up is not None:
            points.setdefault(row["defense"], []).append((across, up, row["case"]))
    order = sorted(points, key=lambda name: name == UNDEFENDED)  # colours stay those of the defenses
    return [
        Series(
            name=name,
            x=[across for across, _, _ in points[name]],
            y=[up for _, up, _ in points[name]],
            labels=[label for _, _, label in points[name]],
        )
        for name in order
    ]


def _clear(row: Row, metric: str) -> bool:
    return bool(row["values"].get(metric, {}).get("clear"))

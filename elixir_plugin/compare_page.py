"""``compare.html``: the table and the trade-offs of a comparison, from ``results.json`` and ``timings.json`` alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from .compare_table import UNDEFENDED, Row, cell_text, explanation, remark, seconds_of, title, used_columns
from .panels import Panel, Points, Series
from .report.page import Shown, prepare, render
from .report.single import write_page

PAGE = "compare.html"
Measure = Callable[[Row], float | None]


def write_compare_page(folder: Path, results: Mapping[str, Any], timings: Mapping[str, Any]) -> list[Path]:
    """Write ``compare.html`` and its figures as PNG files; return what was written.

    :param results: the content of ``results.json``.
    :param timings: the content of ``timings.json``.
    :raises RunError: when *folder* cannot be written.
    """
    figures = prepare(panels(results["table"], timings), "compare")
    return write_page(folder, PAGE, page(results, timings, figures), figures)


def page(results: Mapping[str, Any], timings: Mapping[str, Any], figures: list[Shown]) -> str:
    """Return the page; whatever comes from outside is escaped."""
    rows, cells = results["table"], results["cells"]
    columns = used_columns(rows)
    blocks: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        texts = [(cell_text(each, row["values"].get(each)), _best(row, each)) for each in columns]
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
        devices=sorted({each["environment"]["device"] for each in timings["cells"]}),
        seconds=sum(each["seconds"] for each in timings["cells"]),
        spec=yaml.safe_dump(spec, sort_keys=False, allow_unicode=True),
        results=results,
    )


def panels(rows: list[Row], timings: Mapping[str, Any]) -> list[Panel]:
    """Return the figures that these rows can fill."""
    acc, asr, der = (_mean(metric) for metric in ("acc", "asr", "der"))
    quality, name = (der, "DER") if any(der(row) is not None for row in rows) else (acc, "ACC")
    found: list[Panel] = []
    if pareto := _series(rows, asr, acc):
        found.append(
            Points(
                title="Accuracy against attack success",
                caption="One point per case and defense, means over seeds. Up and to the left is better: a defense "
                "with another above and left of it on the same case is beaten there.",
                series=pareto,
                x_label="ASR",
                y_label="ACC",
            )
        )
    timed = _series(rows, lambda row: seconds_of(timings, row), quality)
    if timed:
        found.append(
            Points(
                title=f"Time against {name}",
                caption=f"One point per case and defense: {name}, higher is better, against the mean seconds the "
                "defense took, without models trained afterwards.",
                series=timed,
                x_label="seconds",
                y_label=name,
            )
        )
    return found


def _mean(metric: str) -> Measure:
    def measure(row: Row) -> float | None:
        value = row["values"].get(metric)
        return None if value is None else value["mean"]

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


def _best(row: Row, metric: str) -> bool:
    return bool(row["values"].get(metric, {}).get("best"))

"""The report of one run: ``report.html`` and ``figures/*.png``, from ``report.json`` alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..core.metrics import ModelMetrics
from ..core.panels import Flow
from ..io.files import atomic_file, atomic_folder
from .facts import Exhibits, Facts, facts_of, read_facts
from .page import RenderedPanel, prepare, render
from .words import summary_of

METRICS = {"acc": ("ACC", True), "asr": ("ASR", False), "ra": ("RA", True)}  # name, and whether more is better
FELT = 0.0005  # a difference that shows in the last digit of a percentage


@dataclass(frozen=True)
class Cell:
    """A metric of a model, and how far it is from that of the suspect model.

    :param better: True, False, or None where there is no difference to judge.
    """

    value: float | None
    change: float | None = None
    better: bool | None = None


@dataclass(frozen=True)
class Row:
    """One model of the table."""

    name: str
    remark: str
    cells: list[Cell]
    main: bool = False


def write_report(folder: Path) -> list[Path]:
    """Make ``report.html`` and ``figures/`` of a run folder anew from its ``report.json``; return what was written.

    :raises InputError: when there is no report, or it is damaged; nothing is written then.
    :raises RunError: when the folder cannot be written.
    """
    return _write(read_facts(folder), folder)


def write_pages(report: Any, folder: Path) -> list[Path]:
    """Do as :func:`write_report`, with the content of ``report.json`` at hand."""
    return _write(facts_of(report, where=folder / "report.json"), folder)


def write_page(folder: Path, name: str, html: str, shown: Iterable[RenderedPanel]) -> list[Path]:
    """Write a page and, into ``figures/``, the PNG files of what it shows; return their paths."""
    pictures = {f"{each.name}.png": each.png for each in shown if each.png}
    figures = folder / "figures"
    if pictures:
        with atomic_folder(figures) as part:
            for file, content in pictures.items():
                (part / file).write_bytes(content)
    with atomic_file(folder / name) as temporary:
        temporary.write_text(html, encoding="utf-8", errors="backslashreplace")
    return [folder / name, *(figures / file for file in pictures)]


def make_page(facts: Facts, *, png: bool = True) -> tuple[str, list[RenderedPanel]]:
    """Return the page of a run, and the panels on it."""
    exhibits = facts.exhibits or Exhibits()
    scores = prepare(exhibits.scores, "all", png=png)
    way = prepare((each for each in exhibits.panels if isinstance(each, Flow)), "way", png=png)
    own = prepare((each for each in exhibits.panels if not isinstance(each, Flow)), "own", png=png)
    relearning = prepare(exhibits.relearning, "relearn", png=png)
    power = prepare(exhibits.power, "power", png=png)
    recommendation = prepare(exhibits.recommendation, "recommendation", png=png)
    html = render(
        "report.html",
        facts=facts,
        summary=summary_of(facts),
        models=_models(facts),
        metrics=[name for name, _ in METRICS.values()],
        sheets=exhibits.sheets,
        scores=scores,
        own=own,
        way=way,
        relearning=relearning,
        power=power,
        recommendation=recommendation,
        stages=_stages(facts),
        notes=[*facts.notes, *([exhibits.problem] if exhibits.problem else [])],
        parts=_parts(facts),
        settings=yaml.safe_dump(facts.run.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100),
    )
    return html, [*way, *scores, *relearning, *power, *own]


def _write(facts: Facts, folder: Path) -> list[Path]:
    html, shown = make_page(facts)
    return write_page(folder, "report.html", html, shown)


def _models(facts: Facts) -> list[Row]:
    """Return the rows before, after and controls; empty when no model was measured."""
    metrics = facts.metrics
    rows = []
    if metrics.before is not None:
        rows.append(_row("before", "the suspect set or model as it came", metrics.before, None))
    if metrics.after is not None:
        rows.append(_row("after", f"what {facts.defense.name} leaves", metrics.after, metrics.before, main=True))
    rows += [_row(name.replace("_", " "), "control", each, metrics.before) for name, each in metrics.controls.items()]
    return [row for row in rows if any(cell.value is not None for cell in row.cells)]


def _row(name: str, remark: str, model: ModelMetrics, before: ModelMetrics | None, *, main: bool = False) -> Row:
    cells = []
    for key, (_, more_is_better) in METRICS.items():
        value, first = getattr(model, key), getattr(before, key, None)
        change = None if value is None or first is None else value - first
        better = None if change is None or abs(change) < FELT else (change > 0) == more_is_better
        cells.append(Cell(value, change, better))
    return Row(name, remark, cells, main)


def _stages(facts: Facts) -> list[tuple[str, float, float]]:
    """Return (stage, seconds, share of the longest), longest first."""
    seconds = {stage: value for stage, value in facts.outcome.timings.items() if stage != "total"}
    longest = max(seconds.values(), default=0) or 1.0
    return [(stage, value, value / longest) for stage, value in sorted(seconds.items(), key=lambda item: -item[1])]


def _parts(facts: Facts) -> list[tuple[str, str, str, str]]:
    """Return (part, samples, shape, hash) of the sets of the case."""
    words = {
        "train": "suspect set",
        "clean": "reserved clean set",
        "test": "test set",
        "test_poisoned": "triggered test set",
    }
    found = []
    for key, name in words.items():
        part = facts.case.get(key)
        if isinstance(part, dict):
            shape = part.get("shape")
            size = " × ".join(str(side) for side in shape) if isinstance(shape, list) else ""
            found.append((name, str(part.get("samples", "")), size, str(part.get("fingerprint", ""))))
    return found

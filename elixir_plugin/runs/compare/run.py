"""Several defenses on several cases under several seeds: one run folder per cell, one table.

::

    compare.yaml   the comparison; run it again to go on, or to add to it
    cells/         one run folder per cell, see run.py; named by what the cell is, so that none is ever done twice
    shared/        what cells share: suspect models, denoisers, metrics of undefended models; every cell counts the
                   seconds of the latter two
    results.json   the comparison and all that was measured; depends on settings and seeds alone
    timings.json   seconds and devices, which do not
    table.md, table.csv, compare.html: what is known so far
    log.txt

Cells do not depend on each other: they may be done in any order, in several sessions, and with any others beside them.
One that fails is a row that says why; the next session tries it again.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..._version import __version__
from ...adapter import get_adapter
from ...core.context import resolve_device
from ...core.settings import fingerprint
from ...defense import get_defense
from ...errors import ElixirError, RunError, SettingsError, reason_of
from ...io.distributed import rank_and_world
from ...io.environment import threads
from ...io.files import NAME_BYTES, atomic_file, cut_name, remove_leftovers, to_json_types, write_json
from ...io.text import escape_control
from ...report.facts import read_report
from ..events import recorded_threads
from ..folder import holds_something, is_finished, logged
from ..resolve import resolved, retraining_of
from ..run import run_defense
from ..spec import RunSpec
from .page import LivePage
from .spec import CompareSpec
from .table import csv_text, markdown, summarise

FILE = "compare.yaml"
SHARED = "shared"
SCHEMA = 1  # of results.json


@dataclass(frozen=True)
class Cell:
    """One run of one defense on one case.

    :param spec: the resolved run, or None when it cannot even be planned; then *reason* says why.
    """

    case: str
    defense: str
    seed: int
    spec: RunSpec | None
    reason: str = ""

    def folder(self, root: Path) -> Path | None:
        """Return the run folder below *root*: a readable name, and the identity of the run."""
        if self.spec is None:
            return None
        name = f"{_slug(self.case)}--{_slug(self.defense)}--{self.seed}-{self.spec.identity()}"
        return root / "cells" / name


@dataclass
class Comparison:
    """What a comparison has found so far.

    :param folder: where everything is.
    :param results: the content of ``results.json``.
    :param timings: the content of ``timings.json``.
    """

    folder: Path
    results: dict[str, Any]
    timings: dict[str, Any] = field(default_factory=dict)

    @property
    def failed(self) -> int:
        """Number of cells that failed."""
        return sum(cell["state"] == "failed" for cell in self.results["cells"])


def run_compare(
    spec: CompareSpec, folder: Path, *, quiet: bool = True, on_line: Callable[[str], None] | None = None
) -> Comparison:
    """Run every cell of *spec* that is not done; write the tables after each, and the page as :class:`LivePage` does.

    :param quiet: no progress bars.
    :param on_line: called with a line of text before and after each cell.
    :raises SettingsError: when a setting of any cell is refused; nothing was started then.
    :raises RunError: when *folder* holds something else or cannot be written.
    """
    cells = plan_cells(spec)
    say = on_line or (lambda line: None)
    begun = (recorded_threads(place) for place in (cell.folder(folder) for cell in cells) if place is not None)
    count = next((each for each in begun if each is not None), None)  # so that all cells compute with as many
    with _opened(folder, spec), threads(count), LivePage(folder) as page:
        records = [_known(cell, folder) for cell in cells]
        clock = _Clock(len(cells))
        for number, cell in enumerate(cells):
            name = f"[{number + 1}/{len(cells)}] {cell.defense} on {cell.case}, seed {cell.seed}"
            say(f"{name} …{clock.left(number)}")
            started = time.monotonic()
            records[number], already = _run_cell(cell, folder, quiet)
            if not already:
                clock.add(time.monotonic() - started)
            say(f"{name}: {_said(records[number], time.monotonic() - started, already)}")
            found = _written(spec, folder, records)
            page.show(found.results, found.timings, news=not already)
    return found


def plan_cells(spec: CompareSpec) -> list[Cell]:
    """Return the cells of *spec*, every setting spelled out and checked.

    A defense or adapter that cannot be imported makes failed cells.

    :raises SettingsError: for an unknown name, preset or setting, a value out of range, or a device that is not there.
    """
    resolve_device(spec.device)
    if rank_and_world()[1] > 1:
        raise SettingsError("a comparison runs in one process", where="torchrun", hint="share single runs instead")
    cells = []
    for case, defense, run in spec.runs():
        try:
            chosen = get_defense(run.defense)(run.settings, preset=run.preset)
            adapter = get_adapter(run.source.adapter)(run.source.options)
            full, reason = resolved(run, chosen, adapter, retraining_of(run)), ""
        except SettingsError as error:
            error.where = f"{case} × {defense}: {error.where or ''}".rstrip(": ")
            raise
        except ElixirError as error:
            full, reason = None, reason_of(error)
        cells.append(Cell(case, defense, run.seed, full, reason))
    return cells


def default_folder(path: Path) -> Path:
    """Return where the comparison of the file *path* goes when nothing is said.

    >>> default_folder(Path("examples/digits.yaml")).as_posix()
    'runs/compare-digits'
    """
    return Path("runs") / cut_name(f"compare-{path.stem}", NAME_BYTES)


def _run_cell(cell: Cell, root: Path, quiet: bool) -> tuple[dict[str, Any], bool]:
    """Run one cell or find it done; a failure of any kind becomes its record."""
    folder = cell.folder(root)
    if cell.spec is None or folder is None:
        return _record(cell, root, state="failed", reason=cell.reason), False
    spec = cell.spec.model_copy(update={"out": str(folder)})
    try:
        result = run_defense(spec, quiet=quiet, cache=root / SHARED)
        return _record(cell, root, state="done", report=result.report), result.already_done
    except (Exception, SystemExit) as error:  # a defense of a stranger may fail in any way; the others go on
        logger = logging.getLogger(__name__)
        name = f"{cell.defense} on {cell.case}, seed {cell.seed}"
        logger.error("%s failed: %s", name, error, exc_info=not isinstance(error, ElixirError))
        return _record(cell, root, state="failed", reason=reason_of(error)), False


def _known(cell: Cell, root: Path) -> dict[str, Any]:
    """Return what an earlier session found about a cell; the run itself looks more closely whether it still holds."""
    folder = cell.folder(root)
    try:
        if folder is not None and is_finished(folder):
            return _record(cell, root, state="done", report=read_report(folder))
    except ElixirError:  # not a report of ours: the run will say so
        pass
    return _record(cell, root)


def _record(
    cell: Cell, root: Path, *, state: str = "missing", reason: str = "", report: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Return what is known of a cell, in JSON types."""
    folder = cell.folder(root)
    facts: dict[str, Any] = {
        "case": cell.case,
        "defense": cell.defense,
        "seed": cell.seed,
        "folder": None if folder is None else folder.relative_to(root).as_posix(),
        "state": state,
        "reason": reason,
    }
    if report is not None:
        facts |= {"metrics": report["metrics"], "verdict": report["outcome"]["verdict"]}
        timings = report["outcome"]["timings"]
        facts["timing"] = {
            "seconds": timings.get("total", sum(timings.values())),
            "stages": timings,
            "environment": report["environment"],
        }
    return to_json_types(facts)  # type: ignore[no-any-return]


def _written(spec: CompareSpec, folder: Path, records: list[dict[str, Any]]) -> Comparison:
    """Write everything that is known so far, but the page."""
    names = ("case", "defense", "seed")
    cells = [{key: value for key, value in record.items() if key != "timing"} for record in records]
    timed = [{name: each[name] for name in names} | each["timing"] for each in records if "timing" in each]
    described = spec.model_copy(update={"out": None}).dump()
    results: dict[str, Any] = {
        "schema": SCHEMA,
        "elixir_plugin": __version__,
        "compare": described,
        "identity": fingerprint(spec.under_first_names(described)),
        "cells": cells,
    }
    results["table"] = summarise(results)
    timings = {"cells": timed}
    write_json(folder / "results.json", results)
    write_json(folder / "timings.json", timings)
    for name, text in (("table.md", markdown(results, timings)), ("table.csv", csv_text(results, timings))):
        with atomic_file(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")
    return Comparison(folder, results, timings)


@contextmanager
def _opened(folder: Path, spec: CompareSpec) -> Iterator[None]:
    """Prepare the folder and log to it.

    :raises RunError: when it holds something else.
    """
    if folder.exists() and (not folder.is_dir() or (holds_something(folder) and not (folder / FILE).is_file())):
        raise RunError("output folder holds something else", where=folder, hint="choose another {argument:out}")
    if folder.is_dir():
        remove_leftovers(folder)
    if (folder / SHARED).is_dir():
        remove_leftovers(folder / SHARED)
    with atomic_file(folder / FILE) as temporary:
        header = f"# elixir_plugin {__version__}; go on: elixir-plugin compare {escape_control(str(folder / FILE))}\n"
        values = spec.model_copy(update={"out": str(folder)}).dump()
        temporary.write_text(header + yaml.safe_dump(values, sort_keys=False, allow_unicode=True), encoding="utf-8")
    with logged(folder):
        yield


class _Clock:
    """Estimates what is left from the cells that had to be computed."""

    def __init__(self, cells: int) -> None:
        self._cells, self._spent, self._count = cells, 0.0, 0

    def add(self, seconds: float) -> None:
        self._spent += seconds
        self._count += 1

    def left(self, number: int) -> str:
        """Return how long the cells from *number* on may take at most, as text."""
        if not self._count:
            return ""
        minutes = self._spent / self._count * (self._cells - number) / 60
        return f" about {minutes:.0f} min left" if minutes >= 1 else " less than a minute left"


def _said(record: dict[str, Any], seconds: float, already: bool) -> str:
    """Return the outcome of a cell in words."""
    if record["state"] == "failed":
        return f"failed: {record['reason']}"
    after, detection = record["metrics"]["after"] or {}, record["metrics"]["detection"] or {}
    numbers = {"ACC": after.get("acc"), "ASR": after.get("asr")}
    numbers |= {"TPR": detection.get("tpr"), "FPR": detection.get("fpr")}
    said = ", ".join(f"{name} {100 * value:.1f} %" for name, value in numbers.items() if value is not None)
    return f"{'already done' if already else f'done in {seconds:.1f} s'}{': ' if said else ''}{said}"


def _slug(text: str) -> str:
    """Return *text* as a piece of a file name; what it loses, the identity beside it keeps.

    >>> _slug("D3, λ <b>0.5</b>")
    'd3-b-0-5-b'
    """
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40] or "x"

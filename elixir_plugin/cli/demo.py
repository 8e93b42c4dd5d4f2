"""``elixir-plugin demo``: poison embedded digits, train a suspect classifier, run every defense that can run."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._version import __version__
from ..adapter import Source
from ..core.case import Case, describe
from ..core.context import Context
from ..core.metrics import Evaluation
from ..defense import Defense
from ..errors import ElixirError, MissingNeedError, reason_of
from ..evaluation.measure import execute
from ..evaluation.retraining import Retraining
from ..io.environment import environment
from ..io.files import to_json_types, write_json
from ..plugins import plugins
from ..report.single import write_pages
from ..runs.report_data import make_report
from ..runs.spec import RunSpec
from ..testbed.adapter import SuspectRecipe, poisoned_case, train_suspect
from ..testbed.digits import digits
from ..testbed.poisons import Poison

RETRAINING = Retraining(**SuspectRecipe().dump())


@dataclass(frozen=True)
class Row:
    """One line of the table.

    :param evaluation: what was measured; None where the defense did not run to its end.
    :param remark: why it did not.
    :param failed: it broke down. A defense that was skipped for want of something it needs has not failed.
    """

    defense: str
    evaluation: Evaluation | None
    seconds: float
    remark: str = ""
    failed: bool = False


def suspect_case(poison: Poison, size: int, context: Context) -> Case:
    """Return digits poisoned by *poison*, with a suspect classifier trained on them."""
    case = poisoned_case(poison, digits(size=size, seed=context.seed), context.seed)
    return dataclasses.replace(case, model=train_suspect(case, SuspectRecipe(), context), mirror=False)


def run_demo(
    poison: Poison,
    context: Context,
    folder: Path,
    *,
    size: int = 16,
    only: Collection[str] = (),
    on_row: Callable[[Row], None] | None = None,
) -> list[Row]:
    """Run every registered defense but the baselines on one poisoned case, and write ``report.json`` to *folder*.

    The report of each defense, as a page too, is in a folder of its name beside it.

    :param only: names of the defenses to run, which may be baselines.
    :returns: a row per defense, in the order they ran.

    A defense with a preset called ``demo`` runs with it, all others with their defaults. On what a purifying defense
    leaves, a model is trained as the suspect one was. A defense that fails is a row with a remark; the others go on.
    """
    started = time.perf_counter()
    case = suspect_case(poison, size, context)
    described = describe(case)
    rows: list[Row] = []
    runs: dict[str, Any] = {}
    for name in only or plugins().defenses():
        source = Source(adapter="testbed", path=poison.name, options={"size": size, "poison": poison.settings.dump()})
        row, facts = _run_one(name, case, context, source, folder / name, described=described)
        rows.append(row)
        runs[name] = facts
        if on_row is not None:
            on_row(row)
    report = {
        "elixir_plugin": __version__,
        "poison": {"name": poison.name, "settings": poison.settings.dump()},
        "seed": context.seed,
        "case": described,
        "defenses": runs,
        "failed": [row.defense for row in rows if row.failed],
        "seconds": time.perf_counter() - started,
        "environment": environment(context.device),
    }
    write_json(folder / "report.json", report)
    return rows


def _run_one(
    name: str, case: Case, context: Context, source: Source, folder: Path, *, described: dict[str, Any]
) -> tuple[Row, dict[str, Any]]:
    started = time.perf_counter()
    try:
        cls: type[Defense] = plugins().get("defense", name)
        defense = cls(preset="demo" if "demo" in cls.Settings.presets else None)
        inner = Context(context.seed, context.device, quiet=context.quiet)
        outcome, evaluation = execute(defense, case, inner, RETRAINING if defense.kind == "purify" else None)
    except MissingNeedError as error:
        remark = f"skipped: {reason_of(error)}"
        return Row(name, None, time.perf_counter() - started, remark), {"skipped": str(error)}
    except (Exception, SystemExit) as error:  # of a stranger's defense, as in compare; the others go on
        known = isinstance(error, ElixirError)
        if not known:
            logging.getLogger(__name__).exception("%s failed", name)
        remark, said = f"failed: {reason_of(error)}", str(error) if known else reason_of(error)
        return Row(name, None, time.perf_counter() - started, remark, failed=True), {"error": said}
    spec = RunSpec(defense=name, source=source, settings=defense.settings.dump(), seed=context.seed)
    report = make_report(spec, defense, case, outcome, evaluation, device=inner.device, written=[], described=described)
    size = source.options["size"]
    report["command"] = f"elixir-plugin demo --poison {source.path} --size {size} --only {name} --seed {context.seed}"
    report = to_json_types(report)
    write_json(folder / "report.json", report)
    write_pages(report, folder)
    seconds = outcome.timings["total"]
    facts = {
        "settings": defense.settings.dump(),
        "metrics": dataclasses.asdict(evaluation),
        "outcome": outcome.summary(),
    }
    return Row(name, evaluation, seconds), facts

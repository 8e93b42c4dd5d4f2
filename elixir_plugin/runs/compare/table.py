"""The table of a comparison: mean ± standard deviation over seeds, in bold what is clearly the best of its case."""

from __future__ import annotations

import csv
import html
import io
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter

from ...core.metrics import Relearning
from ...evaluation.relearned import SHOWN, shown_path
from ...io.text import escape_control
from ...plugins import plugins
from .seeds import ERRORS, beats, spread

UNDEFENDED = "no defense"
NEVER = "never poisoned"  # the model that the relearning test trains beside the others
PARTS = ("mean", "std", "low", "high")
WHOLE = ("relearned",)  # metrics that are no shares but whole numbers
COLUMNS = {  # metric -> title, and which way is better
    "acc": ("ACC", "max"),
    "asr": ("ASR", "min"),
    "ra": ("RA", "max"),
    "der": ("DER", "max"),
    "tpr": ("TPR", "max"),
    "fpr": ("FPR", "min"),
    "auroc": ("AUROC", "max"),
    "relearned": ("steps back", "max"),
}
Row = dict[str, Any]


def summarise(results: Mapping[str, Any]) -> list[Row]:
    """Return one row per case and defense, in their order, before them one per case for the undefended model.

    Where relearning was measured, a row for the model that was never poisoned follows that of the undefended one.

    A row holds ``case``, ``defense``, ``done`` and ``seeds`` (how many of how many), ``reason`` (of the first failure)
    and ``values``: metric -> mean, sample standard deviation and 95 % interval of the mean (Student's t; None for one
    seed), ``best``, ``clear``, and the values by seed. Best is the best mean of the case, ties included, among rows
    with all seeds done. It is clear where it beats every other row, seed by seed, in a one-sided paired t-test at 5 %,
    and by two standard errors at least.
    """
    spec, cells = results["compare"], results["cells"]
    rows = []
    labels: dict[str, list[str]] = {}
    for cell in cells:
        names = labels.setdefault(cell["case"], [])
        if cell["defense"] not in names:
            names.append(cell["defense"])
    for case, defenses in labels.items():
        own = [cell for cell in cells if cell["case"] == case]
        block = [_row(case, each, [cell for cell in own if cell["defense"] == each], "after") for each in defenses]
        _mark_best(block)
        shared = _one_per_seed(own, spec["seeds"])
        never = _row(case, NEVER, shared, "never_poisoned")
        rows += [_row(case, UNDEFENDED, shared, "before"), *([never] if never["values"] else []), *block]
    return rows


def used_columns(rows: Sequence[Row]) -> list[str]:
    """Return the metrics that any row holds."""
    return [metric for metric in COLUMNS if any(metric in row["values"] for row in rows)]


def cell_text(metric: str, value: Mapping[str, Any] | None) -> str:
    """Return a mean with its deviation; shares in percent.

    >>> cell_text("acc", {"mean": 0.5, "std": 0.0123}), cell_text("der", {"mean": 0.5, "std": None})
    ('50.0 ± 1.2', '0.500')
    """
    if value is None:
        return "–"
    scale, digits = (1, 3) if metric in ("der", "auroc") else (1, 0) if metric in WHOLE else (100, 1)
    mean = f"{scale * value['mean']:.{digits}f}"
    return mean if value["std"] is None else f"{mean} ± {scale * value['std']:.{digits}f}"


def title(metric: str) -> str:
    """Return the head of a column, with its unit."""
    name = COLUMNS[metric][0]
    return name if metric in ("der", "auroc", *WHOLE) else f"{name} %"


def remark(row: Row) -> str:
    """Say what is missing in a row."""
    missing = row["seeds"] - row["done"] - row["failed"]
    parts = [f"failed ({row['failed']} of {row['seeds']}): {row['reason']}"] if row["failed"] else []
    if missing and row["defense"] not in (UNDEFENDED, NEVER):
        parts.append(f"not done yet ({missing} of {row['seeds']})")
    return "; ".join(parts)


def seconds_of(timings: Mapping[str, Any], row: Row) -> float | None:
    """Return the mean seconds the defense took, without training and measuring models afterwards."""
    own = [
        each["seconds"] for each in timings["cells"] if (each["case"], each["defense"]) == (row["case"], row["defense"])
    ]
    return statistics.fmean(own) if own else None


def markdown(results: Mapping[str, Any], timings: Mapping[str, Any]) -> str:
    """Return ``table.md``; nothing in a name or reason can become markup or HTML."""
    columns = used_columns(results["table"])
    head = _head(results)
    lines = [_md_line(head), _md_line(["---", "---", *["---:"] * (len(columns) + 1), "---"])]
    for row, cells, seconds, said in _texts(results, timings):
        bold = [
            f"**{text}**" if row["values"].get(metric, {}).get("clear") else text
            for metric, text in zip(columns, cells, strict=True)
        ]
        lines.append(_md_line([_md(row["case"]), _md(row["defense"]), *bold, seconds, _md(said)]))
    return "\n".join([*lines, "", explanation(results), ""])


def explanation(results: Mapping[str, Any]) -> str:
    """Say how the numbers came about."""
    count = len(results["compare"]["seeds"])
    if count > 1:
        spread = (
            f"Mean ± sample standard deviation over {count} seeds. In bold, or starred: what beats every other defense "
            f"on its case, seed by seed, at a level of 5 % (paired t-test) and by {ERRORS} standard errors."
        )
    else:
        spread = (
            "One seed carries every number, so nothing is marked as the best: what parts two defenses may be chance."
        )
    retrain = results["compare"]["retrain"]
    models = "" if retrain is None else " Where a defense hands back no model, one is trained on what it leaves."
    return f"{spread}{_about_controls(results)}{models} Seconds are those of the defense alone.{_about_steps(results)}"


def _about_controls(results: Mapping[str, Any]) -> str:
    """Say that no free control takes part, where several defenses compete without one."""
    named = {each["defense"] for each in results["compare"].get("defenses", []) if isinstance(each, Mapping)}
    offers = plugins().offers()["defense"]
    if len(named) < 2 or any(name in offers and offers[name].entry.baseline for name in named):
        return ""
    return " No free control, such as the baselines `jpeg`, `finetune` or `drop_class`, is among them."


def _about_steps(results: Mapping[str, Any]) -> str:
    if "relearned" not in used_columns(results["table"]):
        return ""
    return (
        f" Steps back: fewest optimiser steps, with {SHOWN} poison samples or as many as there are, until ASR is 50 % "
        "again; the last step that was measured where it does not get there."
    )


def csv_text(results: Mapping[str, Any], timings: Mapping[str, Any]) -> str:
    """Return ``table.csv``: numbers as they are; mean, deviation and 95 % interval in columns of their own."""
    columns = used_columns(results["table"])
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    numbers = [f"{metric}_{part}" for metric in columns for part in PARTS]
    writer.writerow(["case", "defense", "seeds", "done", *numbers, "seconds", "remark"])
    for row in results["table"]:
        values = [row["values"].get(metric, {}).get(part) for metric in columns for part in PARTS]
        names = [_csv(row["case"]), _csv(row["defense"])]
        seconds = seconds_of(timings, row)
        writer.writerow([*names, row["seeds"], row["done"], *values, seconds, _csv(remark(row))])
    return out.getvalue()


def table_lines(results: Mapping[str, Any], timings: Mapping[str, Any]) -> Iterator[str]:
    """Yield the table for a terminal; ``*`` marks what is clearly the best of its case."""
    columns = used_columns(results["table"])
    head = _head(results)
    rows = []
    for row, cells, seconds, said in _texts(results, timings):
        starred = [
            text + ("*" if row["values"].get(metric, {}).get("clear") else " ")
            for metric, text in zip(columns, cells, strict=True)
        ]
        rows.append([_line(row["case"]), _line(row["defense"]), *starred, seconds, _line(said)])
    widths = [max(len(line[at]) for line in [head, *rows]) for at in range(len(head) - 1)]
    for line in [head, *rows]:
        left = [f"{text:<{width}}" for text, width in zip(line[:2], widths[:2], strict=True)]
        right = [f"{text:>{width}}" for text, width in zip(line[2:-1], widths[2:], strict=True)]
        yield "  ".join([*left, *right, line[-1]]).rstrip()


def _one_per_seed(cells: Sequence[Mapping[str, Any]], seeds: Sequence[int]) -> list[Mapping[str, Any]]:
    """Return for each seed a cell that is done, else any: what is measured before is the same in all of them.

    It is: the suspect model of the case, else one that the comparison's own retraining gives. With neither, a defense
    may bring its own, e.g. a teacher.
    """
    chosen = []
    for seed in seeds:
        own = [cell for cell in cells if cell["seed"] == seed]
        chosen.append(next((cell for cell in own if cell["state"] == "done"), own[0]))
    return chosen


def _row(case: str, defense: str, cells: Sequence[Mapping[str, Any]], when: str) -> Row:
    done = [cell for cell in cells if cell["state"] == "done"]
    values = {}
    for metric in COLUMNS:
        by_seed = {cell["seed"]: value for cell in done if (value := _metric(cell, metric, when)) is not None}
        if by_seed:
            values[metric] = spread(by_seed)
    failed = [cell["reason"] for cell in cells if cell["state"] == "failed"] if when == "after" else []
    return {
        "case": case,
        "defense": defense,
        "seeds": len(cells),
        "done": len(done),
        "failed": len(failed),
        "reason": failed[0] if failed else "",
        "values": values,
    }


def _metric(cell: Mapping[str, Any], metric: str, when: str) -> float | None:
    metrics = cell["metrics"]
    if metric == "relearned" or when == "never_poisoned":
        return _relearned(metrics.get("relearning"), metric, when)
    found: Mapping[str, float | None] = metrics
    if metric in ("acc", "asr", "ra"):
        found = metrics[when] or {}
    elif when == "before":
        found = {}
    elif metric != "der":
        found = metrics["detection"] or {}
    return found.get(metric)


def _relearned(found: Mapping[str, Any] | None, metric: str, name: str) -> float | None:
    """Return *metric* of one model of a relearning test; None where there is none."""
    test = None if found is None else TypeAdapter(Relearning).validate_python(found)
    if test is None or name not in test.models:
        return None
    model = test.models[name]
    path = shown_path(model)
    steps = test.steps[-1] if path.reached is None else path.reached
    return {"acc": model.acc, "asr": path.asr[0], "relearned": steps}.get(metric)


def _mark_best(rows: Sequence[Row]) -> None:
    """Mark the best of each column; a row that lacks a seed does not compete, it may lack the hard one."""
    for metric, (_, way) in COLUMNS.items():
        complete = [row["values"][metric] for row in rows if _complete(row, metric)]
        if complete:
            means = [round(value["mean"], 9) for value in complete]
            best = max(means) if way == "max" else min(means)
            for value, mean in zip(complete, means, strict=True):
                value["best"] = mean == best
                others = [other for other in complete if other is not value]
                value["clear"] = value["best"] and bool(others) and all(beats(value, each, way) for each in others)


def _complete(row: Row, metric: str) -> bool:
    return metric in row["values"] and len(row["values"][metric]["by_seed"]) == row["seeds"]


def _texts(results: Mapping[str, Any], timings: Mapping[str, Any]) -> Iterator[tuple[Row, list[str], str, str]]:
    """Yield every row with its cells, its seconds and its remark as text."""
    columns = used_columns(results["table"])
    for row in results["table"]:
        seconds = seconds_of(timings, row)
        cells = [cell_text(metric, row["values"].get(metric)) for metric in columns]
        yield row, cells, "–" if seconds is None else f"{seconds:.1f}", remark(row)


def _head(results: Mapping[str, Any]) -> list[str]:
    return ["case", "defense", *(title(metric) for metric in used_columns(results["table"])), "seconds", "remark"]


def _md_line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _line(text: str) -> str:
    return escape_control(" ".join(text.split()))


def _md(text: str) -> str:
    """Return *text* so that Markdown shows it as it is, in one cell of a table."""
    return re.sub(r"([\\`*_\[\]|~$])", r"\\\1", html.escape(_line(text), quote=False))


def _csv(text: str) -> str:
    """Return *text* as text: control characters visible, and nothing that a spreadsheet takes for a formula."""
    visible = escape_control(text)
    return f"'{visible}" if visible[:1] in ("=", "+", "-", "@") else visible

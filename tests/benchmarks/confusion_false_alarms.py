"""How often Confusion Training calls a clean set poisoned: many small clean sets of four sizes, each drawn anew.

::

    python tests/benchmarks/confusion_false_alarms.py ROWS.jsonl [--sets 25] [--kinds digits:500 …] [--set key=value]
        [--preset demo]
    python tests/benchmarks/confusion_false_alarms.py ROWS.jsonl --table

A kind is ``digits:N`` (the embedded digits, 8×8) or ``cifar:N`` (CIFAR-10, averaged to 16×16), with N suspects and 200
reserved clean samples. One JSON line per set is added to ROWS.jsonl, and sets that are there already are left out, so
the command goes on where it was stopped. Each set is trained on once and decided on under several rules.

The table has, for every kind and rule, the sets with any flag, and the one-sided upper bound of 95 % (Clopper and
Pearson) on the rate of false alarms that this leaves possible.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from cifar import cifar_sets
from scipy.stats import beta

from elixir_plugin import Context
from elixir_plugin.core.case import Case
from elixir_plugin.core.settings import parse_assignments
from elixir_plugin.defenses.confusion_training.defense import ConfusionTraining
from elixir_plugin.testbed.digits import digits

KINDS = ("digits:500", "digits:1000", "cifar:1000", "cifar:2000")
RESERVED = 200
RULES: dict[str, dict[str, Any]] = {
    "default": {},
    "guarded": {"rule": "guarded"},
    "held_out": {"rule": "held_out"},
    "ratio": {"rule": "ratio"},
}
Row = dict[str, Any]


def clean_case(kind: str, seed: int) -> Case:
    """Return a set without poison, drawn under *seed*."""
    name, size = kind.split(":")
    if name == "digits":
        split = digits(size=8, seed=seed, clean=RESERVED, test=1797 - RESERVED - int(size))
        return Case(train=split.train, clean=split.clean, mirror=False)
    suspects, reserved = cifar_sets([int(size), RESERVED], 1000 + seed, pool=2)
    return Case(train=suspects, clean=reserved, mirror=True)


def measured(kind: str, seed: int, preset: str, values: dict[str, Any]) -> Row:
    """Train once, decide under each rule."""
    case, row = clean_case(kind, seed), {"kind": kind, "seed": seed, "preset": preset, "set": values}
    started = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        for rule, changes in RULES.items():
            defense = ConfusionTraining(preset=preset, **{**values, **changes})
            outcome = defense.run(case, Context(seed=seed, work_dir=Path(folder)))
            assert outcome.flagged is not None and outcome.verdict is not None
            row[rule] = {"flagged": int(outcome.flagged.sum()), "poisoned": bool(outcome.verdict.poisoned)}
            if rule == "default":
                classes = outcome.tables["classes"]
                row["p"] = [float(f"{each['p']:.1e}") for each in classes]
                row["log_ratio"] = [round(each["log_ratio"], 2) for each in classes]
    return {**row, "cpu": round(time.process_time() - started, 1)}


def read(file: Path) -> list[Row]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def key(row: Row) -> str:
    return json.dumps([row[name] for name in ("kind", "seed", "preset", "set")], sort_keys=True)


def upper_bound(alarms: int, sets: int) -> float:
    """Return the largest rate under which so few alarms still have a probability of 5 %."""
    return 1.0 if alarms == sets else float(beta.ppf(0.95, alarms + 1, sets - alarms))


def table(rows: list[Row]) -> str:
    """Return a table in Markdown for each combination of settings."""
    lines = []
    for settings in sorted({json.dumps([row["preset"], row["set"]], sort_keys=True) for row in rows}):
        same = [row for row in rows if json.dumps([row["preset"], row["set"]], sort_keys=True) == settings]
        lines += [f"\nSettings: {settings}\n", "| sets | " + " | ".join(RULES) + " | smallest p: least, median |",
                  "|---" * (len(RULES) + 2) + "|"]  # fmt: skip
        for kind in [*sorted({row["kind"] for row in same}), "all"]:
            group = [row for row in same if kind in (row["kind"], "all")]
            cells = []
            for rule in RULES:
                alarms = sum(bool(row[rule]["poisoned"]) for row in group)
                cells.append(f"{alarms} of {len(group)} (≤ {100 * upper_bound(alarms, len(group)):.0f} %)")
            least = sorted(min(row["p"]) for row in group)
            lines.append(f"| {kind} | " + " | ".join(cells) + f" | {least[0]:.0e}, {least[len(least) // 2]:.0e} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", type=Path)
    parser.add_argument("--sets", type=int, default=25, help="of each kind")
    parser.add_argument("--kinds", nargs="+", default=KINDS)
    parser.add_argument("--preset", default="demo")
    parser.add_argument("--set", action="append", default=[], dest="values")
    parser.add_argument("--table", action="store_true", help="print what is there, and train nothing")
    options = parser.parse_args()
    if options.table:
        print(table(read(options.rows)))
        return
    torch.set_num_threads(1)
    values = parse_assignments(options.values)
    done = {key(row) for row in read(options.rows)}
    for seed in range(options.sets):
        for kind in options.kinds:
            if key({"kind": kind, "seed": seed, "preset": options.preset, "set": values}) in done:
                continue
            row = measured(kind, seed, options.preset, values)
            with options.rows.open("a") as file:
                file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()

"""Tables in Markdown from what ``confusion_experiments.py`` printed.

::

    python tests/benchmarks/confusion_tables.py RESULTS.jsonl [MORE.jsonl …]

Lines of the same case, seed and settings count once: the last one.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

RULES = ("guarded", "both", "held_out", "unanimous", "ratio", "ungated")
Row = dict[str, Any]


def read(files: list[Path]) -> list[Row]:
    found: dict[str, Row] = {}
    for file in files:
        for line in file.read_text().splitlines():
            row = json.loads(line)
            found[json.dumps([row["case"], row["seed"], row["set"]], sort_keys=True)] = row
    return sorted(found.values(), key=lambda row: (str(row["set"]), row["case"], row["seed"]))


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def rates(found: Row | None) -> str:
    """Return TPR / FPR in percent, or the share that is flagged of a clean set."""
    if found is None:
        return ""
    return f"{percent(found['tpr'])} / {percent(found['fpr'])}" if "tpr" in found else percent(found["flagged"])


def smallest(row: Row) -> str:
    p = sorted(row["p"])
    return f"{p[0]:.0e}, {p[1]:.0e}"


def table(head: list[str], lines: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *lines])


def poisoned(rows: list[Row]) -> str:
    head = ["case", "seed", *(f"{rule} TPR / FPR" for rule in RULES), "AUROC", "average precision", "p: smallest, next"]
    lines = [
        [row["case"], str(row["seed"]), *(rates(row.get(rule)) for rule in RULES), f"{row['held_out']['auroc']:.3f}",
         f"{row['held_out']['average_precision']:.3f}", smallest(row)]
        for row in rows
    ]  # fmt: skip
    for case in sorted({row["case"] for row in rows}):
        same = [row for row in rows if row["case"] == case]
        if len(same) > 1:
            lines.append([f"{case}, median", str(len(same)), *(_median(same, rule) for rule in RULES), "", "", ""])
    return table(head, lines)


def _median(rows: list[Row], rule: str) -> str:
    found = [row[rule] for row in rows if rule in row]
    return (
        " / ".join(percent(statistics.median(each[key] for each in found)) for key in ("tpr", "fpr")) if found else ""
    )


def clean(rows: list[Row]) -> str:
    lines = [
        [row["case"], str(row["seed"]), *(rates(row.get(rule)) for rule in RULES), smallest(row),
         f"{max(row['log_ratio']):.2f}"]
        for row in rows
    ]  # fmt: skip
    for case in sorted({row["case"] for row in rows}):
        same = [row for row in rows if row["case"] == case]
        shares = {rule: [row[rule]["flagged"] for row in same if rule in row] for rule in RULES}
        medians = [percent(statistics.median(found)) if found else "" for found in shares.values()]
        alarms = [f"{sum(each > 0 for each in found)} of {len(found)}" if found else "" for found in shares.values()]
        lines += [[f"{case}, median", str(len(same)), *medians, "", ""]]
        lines += [[f"{case}, sets with any flag", "", *alarms, "", ""]]
    head = ["clean set", "seed", *(f"{rule} flagged %" for rule in RULES), "p: smallest, next", "largest log LR"]
    return table(head, lines)


def retrained(rows: list[Row]) -> str:
    lines = []
    for row in rows:
        for when in ("before", "after"):
            found = row["retrained"][when]
            rating = f"{row['retrained']['der']:.3f}" if when == "after" and row["retrained"]["der"] is not None else ""
            lines.append([row["case"], str(row["seed"]), {"before": "all", "after": "kept"}[when],
                          *(percent(found[key]) for key in ("acc", "asr", "ra")), rating])  # fmt: skip
    return table(["case", "seed", "trained on", "ACC %", "ASR %", "RA %", "DER"], lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    rows = read(parser.parse_args().files)
    for values in sorted({json.dumps(row["set"], sort_keys=True) for row in rows}):
        same = [row for row in rows if json.dumps(row["set"], sort_keys=True) == values]
        print(f"\nSettings: {values}\n")
        sets = {"poisoned": [row for row in same if "tpr" in row["held_out"]]}
        sets["clean"] = [row for row in same if "tpr" not in row["held_out"]]
        parts = [(poisoned, sets["poisoned"]), (clean, sets["clean"])]
        parts.append((retrained, [row for row in same if "retrained" in row]))
        print("\n\n".join(make(found) for make, found in parts if found))


if __name__ == "__main__":
    main()

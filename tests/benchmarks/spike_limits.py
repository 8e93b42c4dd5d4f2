"""Does the detection limit that planted poison predicts hold for real poison? The table of ``docs/spike.md``.

Clean sets are spiked; then the same kind of poison is really put in, drawn anew, at every rate that was tried, and the
defense runs without being told. A killed run goes on with the same command.

::

    OMP_NUM_THREADS=1 python tests/benchmarks/spike_limits.py --work FOLDER --write
    OMP_NUM_THREADS=1 python tests/benchmarks/spike_limits.py --work FOLDER --data cifar:FOLDER_OF_BATCHES
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tables import DOCS, markdown, put

from elixir_plugin.adapter import Source
from elixir_plugin.runs.run import run_defense
from elixir_plugin.runs.spec import RunSpec

POISONS = ("badnets", "blended", "sig")
RATES = (0.01, 0.02, 0.05)
REAL = 1000  # added to the seed of a set, for the draw of its real poison
HEAD = ("seed", "poison", "rate %", "planted: TPR %", "found", "real: TPR % / FPR %", "poisoned", "as predicted")


def specification(options: argparse.Namespace, seed: int, poison: str, rate: float) -> dict[str, Any]:
    """Return a run on a testbed set; with rate 0 it is clean."""
    settings: dict[str, Any] = {"rate": rate} | ({"labels": "clean_label"} if poison == "sig" else {})
    more: dict[str, Any] = {"poison": settings, "model": False}
    if options.data is not None:
        more["base"] = options.data
    source = Source(adapter="testbed", path=poison, options=more)
    return {
        "defense": options.defense,
        "preset": options.preset,
        "source": source,
        "seed": seed,
        "write_back": False,
        "out": str(options.work / f"{options.preset}-{poison}-{rate:g}-{seed}"),
    }


def rows(options: argparse.Namespace) -> Iterator[list[str]]:
    """Yield a row for every set, poison and rate that was planted in it."""
    for seed in options.seeds:
        clean = specification(options, seed, "badnets", 0.0)
        spike = {"poisons": list(POISONS), "rates": list(RATES), "settings": {"sig": {"labels": "clean_label"}}}
        power = run_defense(RunSpec(**clean, spike=spike)).report["metrics"]["power"]
        for planted in power["planted"]:
            real = specification(options, seed + REAL, planted["poison"], planted["rate"])
            report = run_defense(RunSpec(**real)).report
            detection, verdict = report["metrics"]["detection"], report["outcome"]["verdict"]
            caught = bool(verdict["poisoned"]) and (detection["tpr"] or 0) >= 0.8
            yield [
                str(seed),
                planted["poison"],
                f"{100 * planted['rate']:g}",
                f"{100 * planted['tpr']:.1f}",
                "yes" if planted["found"] else "no",
                f"{100 * (detection['tpr'] or 0):.1f} / {100 * (detection['fpr'] or 0):.1f}",
                "yes" if verdict["poisoned"] else "no",
                "yes" if caught == planted["found"] else "no",
            ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--data", help="ADAPTER:PATH of an unpoisoned set; default: the embedded digits")
    parser.add_argument("--defense", default="confusion_training")
    parser.add_argument("--preset", default="small")
    parser.add_argument("--seeds", type=int, nargs="+", default=[51, 52, 53])
    parser.add_argument("--write", action="store_true", help="write the table into docs/spike.md")
    options = parser.parse_args()
    found = []
    for row in rows(options):
        print(*row, sep=" | ", flush=True)
        found.append(row)
    table = markdown(HEAD, found)
    print(table)
    if options.write:
        put(table, DOCS / "spike.md", "spike_limits.py")


if __name__ == "__main__":
    main()

"""How far D3's result hangs on the draw of its random head: this implementation and a plain loop, many seeds.

Both get the received model of a record and the same reserved clean subset per seed; each draws its own head, order
and augmentation. One JSON line per run goes to the results file, runs already in it are skipped; the table with
medians, ranges and the two-sided Mann-Whitney test is printed at the end.

::

    python tests/benchmarks/d3_spread.py --record ../shared/toolkits/backdoorbench/record/blended_0_1 --epochs 10
        --seeds 10 --results spread.jsonl
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import numpy as np
import torch
from d3_speed import D3, BackdoorBench, Context, PlainLoop, execute
from scipy.stats import mannwhitneyu

SIDES = ("elixir_plugin", "plain loop")


def run_ours(record: Path, epochs: int, seed: int) -> dict[str, float]:
    defense = D3(preset="code", batch_size=256, epochs=epochs)
    _, evaluation = execute(defense, BackdoorBench({}).read(record, seed), Context(seed=seed))
    assert evaluation.after is not None
    return {name: float(getattr(evaluation.after, name)) for name in ("acc", "asr", "ra")}


def run_plain(record: Path, epochs: int, seed: int) -> dict[str, float]:
    torch.manual_seed(seed)
    settings = D3(preset="code", batch_size=256, epochs=epochs).settings
    with Path(os.devnull).open("w") as null:
        loop = PlainLoop(BackdoorBench({}).read(record, seed), record, settings, null, None)
        loop.score_every_epoch = False
        last = loop.run()
    return {name: last[name] for name in ("acc", "asr", "ra")}


def print_table(rows: list[dict[str, object]]) -> None:
    found = {side: [row for row in rows if row["side"] == side] for side in SIDES}
    for name in ("acc", "asr", "ra"):
        values = {side: np.array([100 * float(str(row[name])) for row in found[side]]) for side in SIDES}
        for side, each in values.items():
            print(f"{name.upper():4} {side:14} {np.sort(each).round(1).tolist()}  median {np.median(each):.1f}")
        print(f"     Mann-Whitney p = {mannwhitneyu(*values.values()).pvalue:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=10, help="seeds 0 … this number - 1")
    parser.add_argument("--results", type=Path, required=True, help="JSON lines; runs found here are not repeated")
    options = parser.parse_args()
    rows = [json.loads(line) for line in options.results.read_text().splitlines()] if options.results.exists() else []
    key = [options.record.name, options.epochs]
    done = {(row["side"], row["seed"]) for row in rows if [row["record"], row["epochs"]] == key}
    for seed in range(options.seeds):
        for side, run in zip(SIDES, (run_ours, run_plain), strict=True):
            if (side, seed) in done:
                continue
            scores = run(options.record, options.epochs, seed)
            row = {"record": key[0], "epochs": key[1], "side": side, "seed": seed} | scores
            rows.append(row)
            with options.results.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(row, flush=True)
    print_table([row for row in rows if [row["record"], row["epochs"]] == key])


if __name__ == "__main__":
    main()

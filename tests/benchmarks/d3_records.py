"""D3 and its ablations on BackdoorBench records, several seeds: the table of the README.

    python tests/benchmarks/d3_records.py --workspace ../shared/toolkits/backdoorbench

Every number is computed here, but for the row "authors", which repeats what the released code reached on the same
records (given with the records); the gates of the last lines compare with it.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

from elixir_plugin import Context, get_adapter, get_defense
from elixir_plugin.run import execute

EPOCHS = {"badnet_0_1": 30, "blended_0_1": 10}
AUTHORS = {"badnet_0_1": (0.491, 0.019, 0.422), "blended_0_1": (0.457, 0.000, 0.171)}
VARIANTS: dict[str, dict[str, object]] = {
    "D3, λ 0.5 (preset code)": {"preset": "code"},
    "D3, λ 10 (default)": {},
    "D3, λ 10, batch 256": {"batch_size": 256},
    "random head, then fine-tuning": {"preset": "random_head"},
    "fine-tuning": {"preset": "finetune"},
}


def measure(record: Path, epochs: int, seeds: range) -> list[dict[str, object]]:
    """Run every variant under every seed; the seed also draws the reserved clean set."""
    results: list[dict[str, object]] = []
    for name, values in VARIANTS.items():
        for seed in seeds:
            case = get_adapter("backdoorbench")().read(record, seed)
            defense = get_defense("d3")({"epochs": epochs}, **values)
            outcome, evaluation = execute(defense, case, Context(seed=seed))
            assert evaluation.before is not None and evaluation.after is not None
            row = {"record": record.name, "variant": name, "seed": seed, "der": evaluation.der}
            row |= {key: getattr(evaluation.after, key) for key in ("acc", "asr", "ra")}
            row |= {f"before_{key}": getattr(evaluation.before, key) for key in ("acc", "asr", "ra")}
            row["seconds"] = outcome.timings["detoxify"]
            results.append(row)
            print(json.dumps(row), flush=True)
    return results


def table(results: list[dict[str, object]], record: str) -> None:
    """Print medians over seeds, with the range in brackets."""
    mine = [row for row in results if row["record"] == record]
    print(f"\n| {record}, {EPOCHS[record]} epochs | ACC % | ASR % | RA % | seconds |\n|---|---|---|---|---|")
    cells = [f"{100 * float(str(mine[0][f'before_{key}'])):.1f}" for key in ("acc", "asr", "ra")]
    print(f"| suspect model | {' | '.join(cells)} | |")
    print("| authors' code (reported) | " + " | ".join(f"{100 * value:.1f}" for value in AUTHORS[record]) + " | |")
    for variant in VARIANTS:
        rows = [row for row in mine if row["variant"] == variant]
        cells = []
        for key in ("acc", "asr", "ra"):
            values = sorted(100 * float(str(row[key])) for row in rows)
            cells.append(f"{statistics.median(values):.1f} ({values[0]:.1f}–{values[-1]:.1f})")
        seconds = statistics.median(float(str(row["seconds"])) for row in rows)
        print(f"| {variant} | {' | '.join(cells)} | {seconds:.0f} |")
    code = [row for row in mine if row["variant"] == "D3, λ 0.5 (preset code)"]
    acc, asr = (statistics.median(float(str(row[key])) for row in code) for key in ("acc", "asr"))
    held = asr <= 0.10 and acc >= AUTHORS[record][0] - 0.03
    print(f"gate (ASR ≤ 10 %, ACC ≥ authors − 3 points): {'held' if held else 'MISSED'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", type=Path, required=True, help="folder that holds record/ and data/")
    parser.add_argument("--records", nargs="*", default=list(EPOCHS))
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    results: list[dict[str, object]] = []
    for record in arguments.records:
        results += measure(arguments.workspace / "record" / record, EPOCHS[record], range(arguments.seeds))
    for record in arguments.records:
        table(results, record)


if __name__ == "__main__":
    main()

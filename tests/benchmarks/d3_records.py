"""D3 and its ablations on BackdoorBench records, several seeds: the table of the README.

    python tests/benchmarks/d3_records.py --workspace ../shared/toolkits/backdoorbench
    python tests/benchmarks/d3_records.py --workspace … --variants auto --draw stratified --seeds 30 31 32 \
        --results judged.jsonl  # the default as `elixir-plugin run d3 --from backdoorbench:RECORD --seed N` has it

Every number is computed here, but for the row "authors", which repeats what the released code reached on the same
records (given with the records); the gates of the last lines compare with it, and with the suspect model.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
from pathlib import Path
from typing import Any, get_args

from elixir_plugin import Case, Context, get_adapter, get_defense
from elixir_plugin.core.draws import Draw
from elixir_plugin.evaluation.metrics import ModelMetrics, evaluate, model_metrics

METRICS = ("acc", "asr", "ra")
EPOCHS = {"badnet_0_1": 30, "blended_0_1": 10}
AUTHORS = {"badnet_0_1": (0.491, 0.019, 0.422), "blended_0_1": (0.457, 0.000, 0.171)}
WHOLE = {"auto", "paper"}  # as long as they are without tuning; the others have EPOCHS
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "auto": ("D3, λ auto (default)", {}),
    "paper": ("D3, λ 10, 100 epochs (`--preset paper`)", {"preset": "paper"}),
    "code": ("D3, λ 0.5, batch 256 (the authors' settings)", {"lam": 0.5, "batch_size": 256}),
    "code_steps": ("D3, λ 0.5, 8 steps per epoch", {"lam": 0.5}),
    "lam10": ("D3, λ 10, 8 steps per epoch", {"lam": 10}),
    "batch256": ("D3, λ 10, batch 256", {"lam": 10, "batch_size": 256}),
    "random_head": ("random head, then fine-tuning, 8 steps per epoch", {"preset": "random_head"}),
    "finetune": ("fine-tuning, 8 steps per epoch", {"preset": "finetune"}),
}
Row = dict[str, Any]
SCORED: dict[str, ModelMetrics] = {}


def measure(record: Path, variant: str, seed: int, draw: Draw) -> Row:
    """Run one variant under one seed, which also draws the reserved clean set."""
    case = get_adapter("backdoorbench")({"clean_draw": draw}).read(record, seed)
    length = {} if variant in WHOLE else {"epochs": EPOCHS[record.name]}
    outcome = get_defense("d3")(length, **VARIANTS[variant][1]).run(case, Context(seed=seed))
    evaluation = evaluate(case, outcome, before=received(record, case))
    assert evaluation.before is not None and evaluation.after is not None
    row: Row = {"record": record.name, "variant": variant, "draw": draw, "seed": seed, "der": evaluation.der}
    row |= {key: getattr(evaluation.after, key) for key in ("acc", "asr", "ra")}
    row |= {f"before_{key}": getattr(evaluation.before, key) for key in ("acc", "asr", "ra")}
    if found := outcome.tables.get("multiplier"):
        row |= {"lam": found["final_lam"], "allowed": found["allowed"], "held_back_loss": found["loss"][-1]}
    row["distance"] = list(outcome.tables["distance_ratio"].values())[-1]
    return row | {"seconds": outcome.timings["detoxify"]}


def received(record: Path, case: Case) -> ModelMetrics:
    """Return how the suspect model of *record* scores; measured once, as seeds and draws leave the test data alone."""
    if record.name not in SCORED:
        assert case.model is not None
        SCORED[record.name] = model_metrics(case.model, case.test, case.test_poisoned)
    return SCORED[record.name]


def table(results: list[Row], record: str) -> None:
    """Print medians over seeds, with the range in brackets."""
    mine = [row for row in results if row["record"] == record]
    seeds = len({row["seed"] for row in mine})
    print(f"\n| {record}, {EPOCHS[record]} epochs where not said, {seeds} seeds | ACC % | ASR % | RA % |")
    print("|---|---|---|---|")
    print("| suspect model | " + " | ".join(f"{100 * mine[0][f'before_{key}']:.1f}" for key in METRICS) + " |")
    print("| authors' code, as given, 1 run | " + " | ".join(f"{100 * value:.1f}" for value in AUTHORS[record]) + " |")
    for variant, (title, _) in VARIANTS.items():
        rows = [row for row in mine if row["variant"] == variant]
        if rows:
            print(f"| {title} | " + " | ".join(_spread([100 * row[key] for row in rows]) for key in METRICS) + " |")
    code = [row for row in mine if row["variant"] == "code"]
    if code:
        acc, asr = (statistics.median(row[key] for row in code) for key in ("acc", "asr"))
        held = asr <= 0.10 and acc >= AUTHORS[record][0] - 0.03
        print(f"gate of preset code (ASR ≤ 10 %, ACC ≥ authors − 3 points): {'held' if held else 'MISSED'}")
    if auto := [row for row in mine if row["variant"] == "auto"]:
        acc, asr = (statistics.median(row[key] for row in auto) for key in ("acc", "asr"))
        held = asr <= 0.10 and acc >= auto[0]["before_acc"] - 0.03
        print(f"gate of the default (ASR ≤ 10 %, ACC ≥ suspect model − 3 points): {'held' if held else 'MISSED'}")


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.1f} ({min(values):.1f}–{max(values):.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", type=Path, required=True, help="folder that holds record/ and data/")
    parser.add_argument("--records", nargs="*", default=list(EPOCHS), choices=EPOCHS)
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument(
        "--draw",
        choices=get_args(Draw),
        default="uniform",
        help="of the reserved clean set; stratified: the default of the product, uniform: as BackdoorBench draws it",
    )
    parser.add_argument("--results", type=Path, help="JSON lines; what is in it is not run again")
    arguments = parser.parse_args()
    results: list[Row] = []
    if arguments.results is not None and arguments.results.exists():
        results = [json.loads(line) for line in arguments.results.read_text().splitlines()]
    results = [row for row in results if row.get("draw", "uniform") == arguments.draw]
    done = {(row["record"], row["variant"], row["seed"]) for row in results}
    for key in itertools.product(arguments.records, arguments.variants, arguments.seeds):
        if key not in done:
            results.append(measure(arguments.workspace / "record" / key[0], *key[1:], arguments.draw))
            print(json.dumps(results[-1]), flush=True)
            if arguments.results is not None:
                with arguments.results.open("a") as file:
                    file.write(json.dumps(results[-1]) + "\n")
    for record in arguments.records:
        table(results, record)


if __name__ == "__main__":
    main()

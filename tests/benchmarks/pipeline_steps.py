"""Is a pipeline worth more than each of its steps? The table of ``docs/pipeline.md``, on embedded digits.

Every pipeline runs beside its steps alone, under the same settings and seeds. Steps that pipelines share are done once:
a step found in the work folder is taken over, as after a kill. A killed run goes on with the same command.

::

    OMP_NUM_THREADS=1 python tests/benchmarks/pipeline_steps.py --work FOLDER --write
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tables import DOCS, markdown, put

from elixir_plugin.adapter import get_adapter
from elixir_plugin.core.case import Case
from elixir_plugin.core.context import Context
from elixir_plugin.defense import get_defense
from elixir_plugin.evaluation.measure import execute
from elixir_plugin.io.files import to_json_types

DETECT: dict[str, Any] = {"preset": "demo", "last_models": 3}
RECIPE: dict[str, Any] = {"epochs": 20, "batch_size": 64, "augmentation": {"crop": 1, "flip": False}}
PURIFY: dict[str, Any] = {
    "preset": "small",
    "probe": "case",
    "fit": {"iterations": 600},
    "recipe": {**RECIPE, "epochs": 10},
    "train_final": False,
}
D3 = {"augmentation": {"crop": 1, "flip": False}}  # the usual shifts by 4 pixels are too many for 8
ALONE: dict[str, tuple[str, dict[str, Any]]] = {
    "dataelixir alone": ("dataelixir", {**PURIFY, "train_final": True, "recipe": RECIPE}),
    "d3 alone": ("d3", D3),
}
SUSPECTS = {"only": "flagged", "target": "from_flags"}
FIND, TRAIN = {"confusion_training": DETECT}, {"retrain": {"recipe": RECIPE}}
PIPELINES: dict[str, list[dict[str, Any]]] = {
    "detect → drop → retrain": [FIND, {**TRAIN, "drop": "flagged"}],
    "detect → purify flagged → retrain → d3": [
        FIND,
        {"dataelixir": PURIFY, **SUSPECTS},
        {**TRAIN, "drop": "unrepaired"},
        {"d3": D3},
    ],
}
HEAD = ("poison", "what", "ACC %", "ASR %", "estimated ASR %", "samples left", "poison left")


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="folder of results and of what finished steps made")
    parser.add_argument("--poisons", nargs="+", default=["badnets", "blended"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--size", type=int, default=8, help="edge of the digits, pixels")
    parser.add_argument("--write", action="store_true", help="put the table into docs/pipeline.md")
    options = parser.parse_args()
    found = [cell for seed in options.seeds for poison in options.poisons for cell in cells(options, poison, seed)]
    table = markdown(HEAD, rows(found), words=2)
    print(table)
    if options.write:
        put(table, DOCS / "pipeline.md", Path(__file__).name)


def cells(options: argparse.Namespace, poison: str, seed: int) -> Iterator[dict[str, Any]]:
    """Yield what is measured on one case: done before, or now."""
    case: Case | None = None
    wanted = ["before", *PIPELINES, *ALONE]
    for name in wanted:
        file = options.work / f"{poison}-{options.size}-{seed}-{wanted.index(name)}.json"
        if not file.exists():
            case = case or read(poison, options.size, seed)
            print(f"{poison}, seed {seed}: {name} …", file=sys.stderr, flush=True)
            options.work.mkdir(parents=True, exist_ok=True)
            made = measured(name, case, options.work / f"{poison}-{options.size}-{seed}", seed)
            file.write_text(json.dumps({"poison": poison, "seed": seed, "what": name, **made}, indent=1))
        yield json.loads(file.read_text())


def read(poison: str, size: int, seed: int) -> Case:
    """Return digits under a poison, with a suspect model."""
    return get_adapter("testbed")({"size": size}).read(Path(poison), seed)


def measured(name: str, case: Case, folder: Path, seed: int) -> dict[str, Any]:
    """Run one pipeline or defense, and return what counts."""
    assert case.train is not None and case.truth is not None
    if name == "before":
        name, (defense, settings) = "before", ("do_nothing", {})
    else:
        defense, settings = ALONE.get(name, ("pipeline", {"steps": PIPELINES.get(name, [])}))
    work = folder / ("pipeline" if defense == "pipeline" else name.replace(" ", "-"))
    context = Context(seed=seed, work_dir=work)
    outcome, evaluation = execute(get_defense(defense)(settings), case, context)
    kept = outcome.kept_rows(len(case.train))
    labels = case.train.labels if outcome.train is None else outcome.train.labels
    wrong = labels[kept] != case.truth.original_labels[kept]  # type: ignore[index]
    shutil.rmtree(work, ignore_errors=True) if defense != "pipeline" else None
    return to_json_types(  # type: ignore[no-any-return]
        {
            "metrics": dataclasses.asdict(evaluation.before if name == "before" else evaluation.after),  # type: ignore[arg-type]
            "steps": [dataclasses.asdict(each) for each in evaluation.steps],
            "left": len(kept),
            "estimated": None if evaluation.remaining is None else evaluation.remaining.share,
            "poison_left": int((case.truth.poison[kept] & wrong).sum()),
            "seconds": outcome.timings["total"],
        }
    )


def rows(found: list[dict[str, Any]]) -> Iterator[list[str]]:
    """Yield a row per poison and what was run, over all seeds."""
    for poison in dict.fromkeys(each["poison"] for each in found):
        for what in dict.fromkeys(each["what"] for each in found):
            mine = [each for each in found if (each["poison"], each["what"]) == (poison, what)]
            shares = [spread([100 * each["metrics"][key] for each in mine]) for key in ("acc", "asr")]
            alone = what == "d3 alone"  # which leaves the set alone
            counts = ["", ""] if alone else [spread([each[key] for each in mine]) for key in ("left", "poison_left")]
            estimates = [each["estimated"] for each in mine if each.get("estimated") is not None]
            estimated = spread([100 * each for each in estimates]) if estimates else ""
            yield [poison, what, *shares, estimated, *counts]
            if what == next(iter(PIPELINES)):
                tpr, fpr = (
                    spread([100 * each["steps"][0]["detection"][key] for each in mine]) for key in ("tpr", "fpr")
                )
                yield [poison, f"the detection in it: TPR {tpr} %, FPR {fpr} %", "", "", "", "", ""]


def spread(values: list[float]) -> str:
    """Return mean and standard deviation."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):.1f} ± {deviation:.1f}"


if __name__ == "__main__":
    main()

"""What Confusion Training finds and falsely reports: fixtures, clean sets, poisons × rates; guarded and not.

Each run is measured under the three rules, from the same trained rounds (``ratio`` is the reference rule), and
``ungated`` (every isolated sample).

::

    python tests/benchmarks/confusion_experiments.py CASE [CASE …] [--seeds 0 1 2] [--preset small] [--set key=value]
        [--shared ../shared] [--keep DIR]

A CASE is ``blend`` or ``badnet`` (the toolkits' own sets), or ``cifar`` (a clean subset of CIFAR-10, 2,000 suspects
and 400 reserved, drawn anew under every seed), or ``cifar:POISON:RATE[:key=value…]`` with a poison of the testbed.
One JSON line per run goes to standard output.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import tempfile
import time
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from elixir_plugin import Context
from elixir_plugin.case import Case, ImageSet
from elixir_plugin.config import parse_assignments
from elixir_plugin.defenses.confusion_training import ConfusionTraining
from elixir_plugin.evaluation import detection_metrics
from elixir_plugin.outcome import Outcome
from elixir_plugin.plugins import get_adapter, plugins

SETS = {"blend": "backdoor_toolbox", "badnet": "fight_poison"}
SUSPECTS, RESERVED = 2000, 400
RULES: dict[str, dict[str, Any]] = {
    "ratio": {"rule": "ratio"},
    "both": {"rule": "both"},
    "held_out": {"rule": "held_out"},
    "ungated": {"decision": "ungated"},
}


@cache
def cifar(archive: Path) -> tuple[list[str], list[str], zipfile.ZipFile]:
    file = zipfile.ZipFile(archive)
    names = sorted(name for name in file.namelist() if name.startswith("train/") and name.endswith(".jpg"))
    return names, sorted({name.split("/")[1] for name in names}), file


def cifar_case(text: str, shared: Path, seed: int) -> Case:
    names, classes, file = cifar(shared / "data" / "cifar10-jpeg.zip")
    chosen = [names[i] for i in np.random.default_rng(seed).permutation(len(names))[: SUSPECTS + RESERVED]]
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(file.read(name))).convert("RGB")) for name in chosen])
    labels = np.array([classes.index(name.split("/")[1]) for name in chosen])
    sets = [ImageSet(pixels[part], labels[part], len(classes)) for part in (slice(SUSPECTS), slice(SUSPECTS, None))]
    _, *poison = text.split(":")
    if not poison:
        return Case(train=sets[0], clean=sets[1])
    kind = plugins().get("poison", poison[0])
    train, truth = kind(rate=float(poison[1]), **parse_assignments(poison[2:])).poison(sets[0], seed)
    return Case(train=train, clean=sets[1], truth=truth)


def make_case(text: str, shared: Path, seed: int) -> Case:
    if text not in SETS:
        return cifar_case(text, shared, seed)
    folder = next((shared / "toolkits" / SETS[text] / "poisoned_train_set" / "cifar10").iterdir())
    return get_adapter("backdoor_toolbox")({}).read(folder)


def run(case: Case, seed: int, preset: str, values: dict[str, Any], work: Path) -> dict[str, Any]:
    """Train once, decide under each rule; the work folder makes the second and third run a matter of seconds."""
    row: dict[str, Any] = {}
    for rule, extra in RULES.items():
        started = time.perf_counter()
        defense = ConfusionTraining(preset=preset, **{**values, **extra})
        outcome = defense.run(case, Context(seed=seed, work_dir=work))
        row[rule] = measured(outcome, case) | {"seconds": round(time.perf_counter() - started, 1)}
        if rule == "held_out":
            row["p"] = [float(f"{each['p']:.1e}") for each in outcome.tables["classes"]]
            row["log_ratio"] = [round(each["log_ratio"], 2) for each in outcome.tables["classes"]]
            row["curves"] = {name: [round(v, 3) for v in values] for name, values in outcome.curves.items()}
    return row


def measured(outcome: Outcome, case: Case) -> dict[str, Any]:
    assert outcome.flagged is not None
    if case.truth is None:
        return {"flagged": round(float(outcome.flagged.mean()), 4)}
    found = detection_metrics(outcome.scores, outcome.flagged, case.truth)
    assert found is not None
    return {key: None if value is None else round(value, 4) for key, value in dataclasses.asdict(found).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="+")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--preset", default="small")
    parser.add_argument("--set", action="append", default=[], dest="values")
    parser.add_argument("--shared", type=Path, default=Path(__file__).resolve().parents[3] / "shared")
    parser.add_argument("--keep", type=Path, help="folder for what the rounds leave; default: thrown away")
    options = parser.parse_args()
    values = parse_assignments(options.values)
    for text in options.cases:
        for seed in options.seeds:
            with tempfile.TemporaryDirectory() as folder:
                row = run(
                    make_case(text, options.shared, seed), seed, options.preset, values, options.keep or Path(folder)
                )
            print(json.dumps({"case": text, "seed": seed, "set": values, **row}), flush=True)


if __name__ == "__main__":
    main()

"""What Confusion Training finds and falsely reports: fixtures, clean sets, poisons × rates; guarded and not.

Each run is measured under several final tests, from the same trained rounds: ``guarded`` (the default), ``both``,
``held_out``, ``unanimous`` (the same, but all of the last models must agree), ``ratio`` (the reference rule), and
``ungated`` (every isolated sample).

::

    python tests/benchmarks/confusion_experiments.py CASE [CASE …] [--seeds 0 1 2] [--preset small] [--set key=value]
        [--shared ../shared] [--keep DIR] [--retrain EPOCHS]

A CASE is ``blend`` or ``badnet`` (the toolkits' own sets), or ``cifar`` (a clean subset of CIFAR-10, 2,000 suspects
and 400 reserved, drawn anew under every seed), or ``digits`` (1,197 suspects and 400 reserved of the embedded data,
16×16, split anew under every seed), or ``cifar:POISON:RATE[:key=value…]`` and ``digits:…`` with a poison of the
testbed. One JSON line per run goes to standard output; ``confusion_tables.py`` turns them into tables.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import resource
import tempfile
import time
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from elixir_plugin import Context
from elixir_plugin.adapter import get_adapter
from elixir_plugin.core.case import Case, TriggeredSet
from elixir_plugin.core.images import ImageSet
from elixir_plugin.core.outcome import Outcome
from elixir_plugin.core.settings import parse_assignments
from elixir_plugin.defenses.confusion_training.defense import ConfusionTraining
from elixir_plugin.evaluation.metrics import detection_metrics
from elixir_plugin.evaluation.retraining import Retraining, retrain_and_measure
from elixir_plugin.plugins import plugins
from elixir_plugin.testbed.digits import digits

SETS = {"blend": "backdoor_toolbox", "badnet": "fight_poison"}
SUSPECTS, RESERVED = 2000, 400
RULES: dict[str, dict[str, Any]] = {
    "guarded": {"rule": "guarded"},
    "both": {"rule": "both"},
    "held_out": {"rule": "held_out"},
    "unanimous": {"rule": "held_out", "vote": "all"},
    "ratio": {"rule": "ratio"},
    "ungated": {"decision": "ungated"},
}
UNGUARDED = ("ratio", "ungated")


@cache
def cifar(archive: Path) -> tuple[list[str], list[str], zipfile.ZipFile]:
    file = zipfile.ZipFile(archive)
    names = sorted(name for name in file.namelist() if name.startswith("train/") and name.endswith(".jpg"))
    return names, sorted({name.split("/")[1] for name in names}), file


def cifar_sets(shared: Path, seed: int) -> tuple[ImageSet, ImageSet]:
    """Return suspect and reserved clean set."""
    names, classes, file = cifar(shared / "data" / "cifar10-jpeg.zip")
    chosen = [names[i] for i in np.random.default_rng(seed).permutation(len(names))[: SUSPECTS + RESERVED]]
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(file.read(name))).convert("RGB")) for name in chosen])
    labels = np.array([classes.index(name.split("/")[1]) for name in chosen])
    first, second = (slice(SUSPECTS), slice(SUSPECTS, None))
    return ImageSet(pixels[first], labels[first], len(classes)), ImageSet(pixels[second], labels[second], len(classes))


def made_case(text: str, shared: Path, seed: int) -> Case:
    """Return a case that is poisoned here, or not at all."""
    kind, *poison = text.split(":")
    if kind == "digits":
        split = digits(seed=seed, clean=RESERVED, test=200)
        suspects, reserved = split.train, split.clean
    else:
        suspects, reserved = cifar_sets(shared, seed)
    if not poison:
        return Case(train=suspects, clean=reserved, mirror=kind != "digits")
    made = plugins().get("poison", poison[0])(rate=float(poison[1]), **parse_assignments(poison[2:]))
    suspects, truth = made.poison(suspects, seed)
    return Case(train=suspects, clean=reserved, truth=truth, mirror=kind != "digits")


def make_case(text: str, shared: Path, seed: int) -> Case:
    if text not in SETS:
        return made_case(text, shared, seed)
    folder = next((shared / "toolkits" / SETS[text] / "poisoned_train_set" / "cifar10").iterdir())
    return get_adapter("backdoor_toolbox")({}).read(folder)


def run(
    case: Case, seed: int, preset: str, values: dict[str, Any], work: Path, retrain_epochs: int | None = None
) -> dict[str, Any]:
    """Train once, decide under each rule; the work folder makes all but the first run a matter of seconds.

    Where nothing is held out (preset ``parity``), only the reference rule can decide.
    """
    row: dict[str, Any] = {}
    held_out = ConfusionTraining(preset=preset, **values).settings.held_out > 0
    rules = {name: extra for name, extra in RULES.items() if held_out or name in UNGUARDED}
    for rule, extra in rules.items():
        started, used = time.perf_counter(), cpu_seconds()
        defense = ConfusionTraining(preset=preset, **{**values, **extra})
        outcome = defense.run(case, Context(seed=seed, work_dir=work))
        row[rule] = measured(outcome, case)
        row[rule] |= {"seconds": round(time.perf_counter() - started, 1), "cpu": round(cpu_seconds() - used, 1)}
        if rule == next(iter(rules)):
            row["p"] = [float(f"{each['p']:.1e}") for each in outcome.tables["classes"]]
            row["log_ratio"] = [round(each["log_ratio"], 2) for each in outcome.tables["classes"]]
            row["curves"] = {name: [round(v, 3) for v in values] for name, values in outcome.curves.items()}
            if retrain_epochs:
                row["retrained"] = retrained(case, outcome, retrain_epochs, seed)
    return row


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def measured(outcome: Outcome, case: Case) -> dict[str, Any]:
    assert outcome.flagged is not None
    if case.truth is None:
        return {"flagged": round(float(outcome.flagged.mean()), 4)}
    found = detection_metrics(outcome.scores, outcome.flagged, case.truth)
    assert found is not None
    return rounded(found)


def rounded(metrics: Any) -> dict[str, Any]:
    return {name: None if value is None else round(value, 4) for name, value in dataclasses.asdict(metrics).items()}


def retrained(case: Case, outcome: Outcome, epochs: int, seed: int) -> dict[str, Any]:
    """Train on all suspects and on what is kept, under the same weights and recipe; measure both."""
    if case.test_poisoned is None:
        case = dataclasses.replace(case, test_poisoned=triggered(case))
    plan = Retraining(architecture="fast_resnet", epochs=epochs)
    found = retrain_and_measure(case, outcome, Context(seed=seed), plan)
    assert found.before is not None and found.after is not None
    return {"before": rounded(found.before), "after": rounded(found.after), "der": found.der, "epochs": epochs}


def triggered(case: Case) -> TriggeredSet:
    """Put the trigger on the test set, for a toolkit's set that comes without its trigger image.

    A patch is where all poison samples agree. A blended trigger is what the mean of the poison samples has over the
    mean of the clean test images, at opacity 0.2; with 100 poison samples it is known up to noise of about 0.1.
    """
    assert case.train is not None and case.test is not None and case.truth is not None
    pixels, test = (_floats(each) for each in (case.train, case.test))
    poison = pixels[case.truth.poison]
    target = int(case.train.labels[case.truth.poison][0])
    others = case.test.labels != target
    fixed = (poison.std(0) < 1e-6).all(2)
    if fixed.any():
        made = np.where(fixed[:, :, None], poison[0], test)
    else:
        alpha = 0.2
        made = (1 - alpha) * test + np.clip(poison.mean(0) - (1 - alpha) * test.mean(0), 0, alpha)
    labels = np.full(int(others.sum()), target)
    return TriggeredSet(
        ImageSet(made[others].astype(np.float32), labels, case.test.num_classes), case.test.labels[others]
    )


def _floats(images: ImageSet) -> Any:
    pixels = images.read(slice(None))
    return pixels.astype(np.float64) / (255 if pixels.dtype == np.uint8 else 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="+")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--preset", default="small")
    parser.add_argument("--set", action="append", default=[], dest="values")
    parser.add_argument("--shared", type=Path, default=Path(__file__).resolve().parents[3] / "shared")
    parser.add_argument("--keep", type=Path, help="folder for what the rounds leave; default: thrown away")
    parser.add_argument("--retrain", type=int, metavar="EPOCHS", help="also train on all and on what is kept")
    options = parser.parse_args()
    values = parse_assignments(options.values)
    for text in options.cases:
        for seed in options.seeds:
            with tempfile.TemporaryDirectory() as folder:
                case, work = make_case(text, options.shared, seed), options.keep or Path(folder)
                row = run(case, seed, options.preset, values, work, options.retrain)
            print(json.dumps({"case": text, "seed": seed, "set": values, **row}), flush=True)


if __name__ == "__main__":
    main()

"""Image variations on real images: ACC and ASR of the teacher, the student and both baselines, in one table.

::

    python tests/benchmarks/variations_experiment.py --denoiser FOLDER --work FOLDER    # 3,000 images, BadNets, Blended
    python tests/benchmarks/variations_experiment.py --denoiser FOLDER --work FOLDER --set strength=0.4 num_variations=2

Suspects, reserved clean images (for the search of the strength alone) and test images come from an archive of CIFAR-10;
none of the suspect or reserved images was seen by the denoiser. The teacher is the suspect model: it is trained once
per poison, and so are the variations made once. Arms:

- teacher: trained on the suspect set;
- student: trained on variations, distilled from the teacher;
- originals: the same, but on the suspect images themselves (what the variations buy);
- no distillation: trained on variations with the given labels (what the teacher buys).

Each row goes to ``rows.jsonl`` in the work folder as soon as it is measured. A run that was stopped goes on where it
was: rows that are there are not measured again, and half-trained networks and half-made variations are taken up.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from cifar import ARCHIVE, cifar_sets

from elixir_plugin.core.case import Case
from elixir_plugin.core.classifier.classifier import Classifier
from elixir_plugin.core.context import Context, resolve_device
from elixir_plugin.core.images import ImageSet
from elixir_plugin.core.metrics import ModelMetrics
from elixir_plugin.core.settings import fingerprint, parse_assignments
from elixir_plugin.defenses.image_variations.defense import ImageVariations
from elixir_plugin.defenses.image_variations.models import Trainer
from elixir_plugin.diffusion.denoisers.denoiser import load_denoiser
from elixir_plugin.evaluation.metrics import model_metrics
from elixir_plugin.io.files import to_json_types
from elixir_plugin.plugins import plugins
from elixir_plugin.testbed.adapter import poisoned_case
from elixir_plugin.testbed.digits import Splits

ARMS: dict[str, dict[str, Any]] = {
    "teacher": {},
    "student": {},
    "originals": {"student_data": "originals"},
    "no distillation": {"distill": False},
}
SPARE = 2000  # images drawn beyond those needed, in place of ones that the denoiser has seen


def unseen_sets(options: argparse.Namespace) -> tuple[ImageSet, ImageSet]:
    """Return suspects-to-be and reserved clean images that the denoiser was not trained on."""
    count = options.suspects + options.clean
    (pool,) = cifar_sets([count + SPARE], options.seed, archive=options.archive)
    rows = np.flatnonzero(~load_denoiser(options.denoiser).seen(pool))
    if len(rows) < count:
        raise SystemExit(f"the denoiser has seen {len(pool) - len(rows)} of {len(pool)} images: too few are left")
    pool = ImageSet(pool.read(rows), pool.labels[rows], pool.num_classes)
    first, then = np.arange(options.suspects), np.arange(options.suspects, count)
    return tuple(ImageSet(pool.read(part), pool.labels[part], pool.num_classes) for part in (first, then))  # type: ignore[return-value]


def make_case(text: str, splits: Splits, seed: int) -> Case:
    """Return the case of a poison given as ``name[:key=value…]``."""
    name, *values = text.split(":")
    case = poisoned_case(plugins().get("poison", name)(**parse_assignments(values)), splits, seed)
    return dataclasses.replace(case, mirror=True)


def with_teacher(case: Case, values: dict[str, Any], context: Context) -> Case:
    """Return *case* with the teacher as suspect model: trained, or taken from the work folder."""
    assert context.work_dir is not None
    folder = context.work_dir / "teacher"
    if not (folder / "model.json").exists():
        defense = ImageVariations(values, preset="cpu", teacher="train").settled(case, context)
        Trainer(defense.settings, context, context.work_dir).make_teacher(case).save(folder)
    return dataclasses.replace(case, model=Classifier.load(folder).to(context.device))


def measure(arm: str, case: Case, values: dict[str, Any], context: Context) -> dict[str, Any]:
    """Return one row."""
    assert context.work_dir is not None and case.model is not None
    if arm == "teacher":
        return {"metrics": vars(model_metrics(case.model, case.test, case.test_poisoned))}
    inner = dataclasses.replace(context, work_dir=context.work_dir / arm.replace(" ", "_"), timings={}, notes=[])
    kept = str(context.work_dir / "variations")
    defense = ImageVariations({**values, **ARMS[arm], "variations": kept}, preset="cpu", teacher="case")
    outcome = defense.run(case, inner)
    assert outcome.model is not None
    found: ModelMetrics = model_metrics(outcome.model, case.test, case.test_poisoned)
    facts = {"strength": outcome.curves.get("strength"), "agreement": outcome.curves.get("strength_agreement")}
    return {
        "metrics": vars(found),
        "tables": outcome.tables,
        "timings": outcome.timings,
        "notes": outcome.notes,
        "search": facts,
    }


def print_table(rows: list[dict[str, Any]]) -> None:
    print("\n| poison | " + " | ".join(f"{arm} ACC / ASR" for arm in ARMS) + " | strength |\n|---|" + "---|" * 5)
    for poison in dict.fromkeys(row["poison"] for row in rows):
        cells, strength = [], "–"
        for arm in ARMS:
            found = next((row for row in rows if (row["poison"], row["arm"]) == (poison, arm)), None)
            cells.append(
                "–" if found is None else " / ".join(_percent(found["metrics"][key]) for key in ("acc", "asr"))
            )
            if found is not None and arm == "student":
                strength = str(found["tables"]["generator"]["strength"])
        print(f"| {poison} | " + " | ".join(cells) + f" | {strength} |")


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--denoiser", required=True, help="diffusers folder")
    parser.add_argument("--work", type=Path, required=True, help="folder for rows.jsonl and everything that is kept")
    parser.add_argument("--poisons", nargs="+", default=["badnets:rate=0.1", "blended:rate=0.1"])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--suspects", type=int, default=3000)
    parser.add_argument("--clean", type=int, default=256)
    parser.add_argument("--test", type=int, default=2000)
    parser.add_argument("--set", nargs="+", default=[], dest="values", help="settings, on top of preset cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--archive", type=Path, default=ARCHIVE)
    options = parser.parse_args()

    values = {**parse_assignments(options.values), "backend": "sdedit", "denoiser": options.denoiser}
    train, clean = unseen_sets(options)
    (test,) = cifar_sets([options.test], options.seed, part="test", archive=options.archive)
    chosen = [values, options.seed, *(each.fingerprint() for each in (train, clean, test))]
    options.work.mkdir(parents=True, exist_ok=True)
    log = options.work / "rows.jsonl"
    rows: list[dict[str, Any]] = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    wanted: list[dict[str, Any]] = []
    for poison in options.poisons:
        identity = fingerprint([poison, *chosen])
        case = make_case(poison, Splits(train, clean, test), options.seed)
        place = options.work / f"{poison.partition(':')[0]}-{identity}"
        context = Context(seed=options.seed, device=resolve_device(options.device), work_dir=place)
        for arm in options.arms:
            row = next((each for each in rows if (each["identity"], each["arm"]) == (identity, arm)), None)
            if row is None:
                started = time.perf_counter()
                case = with_teacher(case, values, context)
                row = {"poison": poison, "arm": arm, "identity": identity, **measure(arm, case, values, context)}
                row["seconds"] = time.perf_counter() - started
                with log.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(to_json_types(row)) + "\n")
            print(f"{poison} {arm}: {row['metrics']} in {row['seconds']:.0f} s", flush=True)
            wanted.append(row)
    print_table(wanted)
    for row in wanted:
        for note in row.get("notes", []):
            print(f"{row['poison']} {row['arm']}: {note}")
    print(f"{sum(row['seconds'] for row in wanted):.0f} s in all")


if __name__ == "__main__":
    main()

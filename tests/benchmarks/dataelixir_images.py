"""DataElixir on real images: undefended, defended, and what dropping the flagged classes would have given.

::

    python tests/benchmarks/dataelixir_images.py --denoiser denoiser1000 --results results.jsonl
    python tests/benchmarks/dataelixir_images.py --denoiser denoiser1000 --results results.jsonl
        --presets paper small two_phase --seeds 0 1 2 --poisons badnets clean --fold 1

3,000 suspects of CIFAR-10 (JPEG copy, 32 px), 1,000 other clean images, 2,000 test images. The denoiser is trained on
the clean images alone, once, into the folder ``--denoiser`` (kept, so that other experiments can use it; a call that
was killed goes on). Every cell is one line of JSON in ``--results``; cells found there are not run again.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from cifar import ARCHIVE, cifar_sets

from elixir_plugin import Context
from elixir_plugin.core.case import Case
from elixir_plugin.core.context import resolve_device
from elixir_plugin.core.outcome import Outcome
from elixir_plugin.core.settings import parse_assignments
from elixir_plugin.defenses.dataelixir.defense import DataElixir
from elixir_plugin.defenses.dataelixir.models import Trainer
from elixir_plugin.defenses.dataelixir.settings import CPU_FIT, FULL
from elixir_plugin.diffusion.fit.settings import FitSettings
from elixir_plugin.diffusion.fit.train import fit_into
from elixir_plugin.evaluation.metrics import model_metrics
from elixir_plugin.evaluation.repair import repair_metrics, share
from elixir_plugin.plugins import plugins
from elixir_plugin.testbed.adapter import poisoned_case
from elixir_plugin.testbed.digits import Splits

FIT: dict[str, Any] = {**CPU_FIT, "t_train_max": 500, "iterations": 1500}
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "small": {},
    "paper": {"purification": FULL, "variance": "fixed_large", "states": 10, "threshold": 5},
    "default_walk": {"purification": {**FULL, "steps": 10, "dense_below": 5}, "states": 5, "threshold": 3},
    "two_phase": {"detect_per_class": 60},
    "dropping": {"drop_stable_after": 2},
}


def make_case(
    text: str, sizes: tuple[int, int, int], seed: int, archive: Path, clean_part: str = "train", fold: int = 0
) -> Case:
    """Return the case under the poison *text* (``name[:key=value…]``, or ``clean``); it holds no model.

    :param clean_part: what the clean images are taken from. ``test`` leaves all of ``train`` to the suspects; images
        that are scored are others.
    :param fold: which suspects; the clean images, and so the denoiser, are the same for all folds.
    """
    if clean_part == "test":
        (suspects,) = cifar_sets([sizes[0]], seed, archive=archive)
        clean, test = cifar_sets(list(sizes[1:]), seed, part="test", archive=archive)
    else:
        first, clean, *others = cifar_sets([*sizes[:2], *[sizes[0]] * fold], seed, archive=archive)
        suspects = [first, *others][fold]
        (test,) = cifar_sets([sizes[2]], seed, part="test", archive=archive)
    name, *values = text.split(":")
    if name == "clean":
        return Case(train=suspects, clean=clean, test=test, mirror=True)
    poison = plugins().get("poison", name)(**{"rate": 0.1, **parse_assignments(values)})
    return dataclasses.replace(poisoned_case(poison, Splits(suspects, clean, test), seed), mirror=True)


def changed(case: Case, outcome: Outcome) -> dict[str, Any]:
    """Return what was repaired, against the truth: recall and false alarms are about changed labels."""
    assert case.train is not None and outcome.train is not None
    relabelled = int((outcome.train.labels != case.train.labels).sum())
    if case.truth is None or case.truth.original_labels is None:
        return {"relabelled": relabelled}
    found, status = repair_metrics(case.train, outcome, case.truth), np.array(outcome.tables["samples"]["status"])
    assert found is not None
    return {
        "relabelled": relabelled,
        "recall": found.relabel_recall,
        "fpr": found.relabel_fpr,
        "relabelled_right": found.relabelled_right,
        "poison_status": list(found.poison_status.values()),
        "clean_anomalies": share(status > 0, ~case.truth.poison),
    }


def drop_flagged(case: Case, defense: DataElixir, outcome: Outcome, context: Context, trained: Path) -> dict[str, Any]:
    """Return metrics of a model trained without the classes that were found to be targets.

    :param trained: the folder of the run, which holds the probe.
    """
    assert case.train is not None
    targets = outcome.tables["target_classes"]
    trainer = Trainer(defense.settings, context, trained)
    trainer.make_probe(case.visible())
    kept = case.train.subset(np.flatnonzero(~np.isin(case.train.labels, targets)))
    model = trainer.learn(kept, trainer.fresh("drop"), "drop")
    return dataclasses.asdict(model_metrics(model, case.test, case.test_poisoned))


def run_cell(
    poison: str, preset: str, seed: int, denoiser: Path, options: argparse.Namespace, device: Any
) -> dict[str, Any]:
    """Run one cell and return its line."""
    case = make_case(poison, tuple(options.sizes), options.data_seed, options.archive, options.clean_part, options.fold)
    values = {**PRESETS[preset], "denoiser": str(denoiser), **parse_assignments(options.values)}
    defense = DataElixir(values, preset="small")
    with workplace(options.work, f"{poison}-{preset}-{seed}-{options.fold}") as folder:
        context = Context(seed=seed, device=device, work_dir=Path(folder))
        started = time.perf_counter()
        outcome = defense.run(case, context)
        seconds = time.perf_counter() - started
        trained = Path(folder) / "dataelixir"  # the probe is there already
        probe = Trainer(defense.settings, Context(seed=seed, device=device), trained).make_probe(case.visible())
        cell = {
            "poison": poison,
            "preset": preset,
            "seed": seed,
            "fold": options.fold,
            "nfe_per_image": outcome.tables["nfe_per_purified_image"] * outcome.tables["purified"] / len(case.train),
            "seconds": seconds,
            "timings": outcome.timings,
            "targets": outcome.tables["target_classes"],
            "discrepancy": [row["discrepancy"] for row in outcome.tables["classes"]],
            "score": None if outcome.verdict is None else outcome.verdict.score,
            **changed(case, outcome),
            "undefended": dataclasses.asdict(model_metrics(probe, case.test, case.test_poisoned)),
            "defended": dataclasses.asdict(model_metrics(outcome.model, case.test, case.test_poisoned)),
            "notes": outcome.notes,
        }
        if options.control and outcome.tables["target_classes"]:
            cell["drop_flagged"] = drop_flagged(case, defense, outcome, Context(seed=seed, device=device), trained)
    return cell


@contextlib.contextmanager
def workplace(root: Path | None, name: str) -> Iterator[str]:
    """Yield the folder *name* in *root*, which stays, so that a cell that was killed goes on; else a passing one."""
    if root is None:
        with TemporaryDirectory() as folder:
            yield folder
    else:
        (root / name).mkdir(parents=True, exist_ok=True)
        yield str(root / name)


def percent(metrics: Mapping[str, Any] | None) -> str:
    """Return ``ACC / ASR`` in per cent."""
    if metrics is None:
        return ""
    acc, asr = metrics["acc"], metrics["asr"]
    return f"{100 * acc:.1f}" + ("" if asr is None else f" / {100 * asr:.1f}")


def print_table(rows: list[dict[str, Any]]) -> None:
    columns = ["poison", "walk", "seed", "fold", "NFE per image", "seconds", "targets", "recall / FPR %"]
    columns += ["undefended ACC / ASR", "DataElixir", "flagged classes dropped"]
    print(f"\n| {' | '.join(columns)} |\n|" + "---|" * len(columns))
    for row in rows:
        found = f"{100 * row['recall']:.0f} / {100 * row['fpr']:.1f}" if "recall" in row else str(row["relabelled"])
        cells = [row[name] for name in ("poison", "preset", "seed", "fold")]
        cells += [f"{row['nfe_per_image']:.0f}", f"{row['seconds']:.0f}"]
        cells += [row["targets"], found, percent(row["undefended"]), percent(row["defended"])]
        print("| " + " | ".join(map(str, [*cells, percent(row.get("drop_flagged"))])) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--poisons", nargs="*", default=["badnets", "blended"], help="name[:key=value…], or clean")
    parser.add_argument("--presets", nargs="+", choices=list(PRESETS), default=["small"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--sizes", type=int, nargs=3, default=[3000, 1000, 2000], help="suspects, clean, test")
    parser.add_argument("--clean-part", choices=["train", "test"], default="train", help="where clean images are from")
    parser.add_argument("--data-seed", type=int, default=0)
    parser.add_argument("--fold", type=int, default=0, help="which suspects: other images under the same denoiser")
    parser.add_argument("--denoiser", type=Path, required=True, help="trained into this folder if it is not there")
    parser.add_argument("--fit-set", action="append", default=[], help="how the denoiser is trained")
    parser.add_argument("--set", action="append", default=[], dest="values", help="setting of DataElixir")
    parser.add_argument("--control", action="store_true", help="also train without the flagged classes")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--archive", type=Path, default=ARCHIVE)
    parser.add_argument("--work", type=Path, help="keep models and purified copies of every cell in this folder")
    parser.add_argument("--results", type=Path, required=True, help="JSON lines")
    options = parser.parse_args()
    device = resolve_device(options.device)
    begun = time.perf_counter()
    clean = make_case("clean", tuple(options.sizes), options.data_seed, options.archive, options.clean_part).clean
    settings = FitSettings.build({**FIT, **parse_assignments(options.fit_set)})
    assert clean is not None
    fit_into(options.denoiser, clean, settings, Context(seed=options.data_seed, device=device))
    print(f"denoiser ready after {time.perf_counter() - begun:.0f} s", flush=True)
    lines = options.results.read_text().splitlines() if options.results.exists() else []
    rows = [{"fold": 0, **json.loads(line)} for line in lines]
    done = {(row["poison"], row["preset"], row["seed"], row["fold"]) for row in rows}
    for seed in options.seeds:
        for poison in options.poisons:
            for preset in options.presets:
                if (poison, preset, seed, options.fold) in done:
                    continue
                rows.append(run_cell(poison, preset, seed, options.denoiser, options, device))
                with options.results.open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
                print(json.dumps(rows[-1]), flush=True)
    print_table(rows)


if __name__ == "__main__":
    main()

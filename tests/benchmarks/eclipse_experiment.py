"""ECLIPSE on real images: undefended, B + C, A, A + B + C, and the two controls, in one table.

::

    python tests/benchmarks/eclipse_experiment.py    # 5,000 suspects, 500 clean, LSP and AR, profile cpu
    python tests/benchmarks/eclipse_experiment.py --poisons clean lsp ar ops cuda --suspects 3000 --clean 240
        --pool 2

The experiment at full size (eclipse.md §9.4), for a GPU; it takes many hours, and may be stopped at any time::

    python tests/benchmarks/eclipse_experiment.py --work gate --results gate/results.json --device cuda
        --poisons clean lsp urp ar ops cuda --suspects 48000 --clean 2000 --test 10000 --seeds 0 1 2
        --preset paper --set purification.compile=true --set fit.compile=true
        --retrain-set architecture=cifar_resnet18 --retrain-set epochs=80 --retrain-set schedule=constant

The denoiser is trained once on the reserved clean set and used for every poison: it has seen no suspect image. Test
images come from the test part of the archive and touch nothing but the last line of each arm.

With ``--work`` the same command goes on where it was stopped: the folder keeps the denoiser (``denoiser``, and its
state while it is trained), the purified sets (``purified``), and in ``cells.jsonl`` a line of JSON for every purified
set and every trained classifier (poison, arm, seed), written as it comes. What is there is not made again; poisons and
seeds may be added. Without it nothing is kept. At the end the table is printed, and ``--results`` gets all as JSON.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from cifar import ARCHIVE, cifar_sets

from elixir_plugin import Context
from elixir_plugin.core.augmentation import Augmentation
from elixir_plugin.core.case import Case
from elixir_plugin.core.context import resolve_device
from elixir_plugin.core.metrics import ModelMetrics
from elixir_plugin.core.outcome import Outcome
from elixir_plugin.core.settings import fingerprint, parse_assignments
from elixir_plugin.defenses.eclipse.defense import Eclipse
from elixir_plugin.diffusion.denoisers.denoiser import find_denoiser
from elixir_plugin.evaluation.metrics import model_metrics
from elixir_plugin.evaluation.retraining import Retraining, judge_denoiser, retrain, run_control
from elixir_plugin.io.files import to_json_types, write_json
from elixir_plugin.plugins import plugins
from elixir_plugin.runs.report_data import versions

ARMS = ("none", "B+C", "A", "A+B+C", "noise only", "clean only")
PURIFICATION = "purification"  # what stands in place of an arm on the line of a purified set


class Cells:
    """What has been measured, one line of JSON each, written as it comes.

    :param file: where the lines are; lines of other data, settings or devices in it are passed over.
    :param identity: says which ones are of this experiment.
    :param facts: go into every new line.
    """

    def __init__(self, file: Path, identity: str, facts: dict[str, Any]) -> None:
        self._file, self._identity, self._facts = file, identity, facts
        lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        self._rows = {self._key(row): row for row in lines if row["identity"] == identity}

    def get(self, poison: str, arm: str, seed: int) -> dict[str, Any] | None:
        return self._rows.get((poison, arm, seed))

    def add(self, poison: str, arm: str, seed: int, **found: Any) -> dict[str, Any]:
        row = {"poison": poison, "arm": arm, "seed": seed, **found, "identity": self._identity, **self._facts}
        with self._file.open("a") as file:
            file.write(json.dumps(to_json_types(row)) + "\n")
        self._rows[self._key(row)] = row
        return row

    @staticmethod
    def _key(row: dict[str, Any]) -> tuple[str, str, int]:
        return row["poison"], row["arm"], row["seed"]


def measure_arm(arm: str, case: Case, outcome: Outcome, plan: Retraining, context: Context) -> ModelMetrics:
    """Train and measure the classifier of one arm; those of one seed all start from the same weights."""

    def trained(kept: Outcome) -> ModelMetrics:
        return model_metrics(retrain(case, kept, plan, context), case.test, case.test_poisoned)

    arms: dict[str, Callable[[], ModelMetrics]] = {
        "none": lambda: run_control("undefended", case, outcome, plan, context),
        "B+C": lambda: run_control("no_denoiser", case, outcome, plan, context),
        "A": lambda: trained(dataclasses.replace(outcome, augmentation=None)),
        "A+B+C": lambda: trained(outcome),
        "noise only": lambda: run_control("noise_only", case, outcome, plan, context),
        "clean only": lambda: run_control("clean_only", case, outcome, plan, context),
    }
    return arms[arm]()


def poisoned(text: str, case: Case, seed: int) -> Case:
    """Return *case* under the poison *text*: ``name[:key=value…]``, or ``clean``."""
    assert case.train is not None
    name, *values = text.split(":")
    if name == "clean":
        return case
    poison = plugins().get("poison", name)(**parse_assignments(values))
    train, truth = poison.poison(case.train, seed)
    return dataclasses.replace(case, train=train, truth=truth)


def fill(
    text: str, case: Case, defense: Eclipse, plan: Retraining, context: Context, seeds: list[int], cells: Cells
) -> None:
    """Poison, purify once, and measure what *cells* lack of all arms under each classifier seed.

    :param context: its work folder keeps the purified set.
    """
    wanted = [(arm, seed) for seed in seeds for arm in ARMS]
    if all(cells.get(text, arm, seed) for arm, seed in wanted) and cells.get(text, PURIFICATION, context.seed):
        return
    case = poisoned(text, case, context.seed)
    started = time.perf_counter()
    outcome = defense.run(case, context)
    seconds = time.perf_counter() - started
    print(f"{text}: purified in {seconds:.0f} s", flush=True)
    if cells.get(text, PURIFICATION, context.seed) is None:
        cells.add(text, PURIFICATION, context.seed, tables=outcome.tables, seconds=seconds)
    for arm, seed in wanted:
        if cells.get(text, arm, seed) is None:
            started = time.perf_counter()
            acc = measure_arm(arm, case, outcome, plan, Context(seed=seed, device=context.device)).acc
            cells.add(text, arm, seed, acc=acc, seconds=time.perf_counter() - started)
            print(f"  {arm}: {acc}" + (f" (seed {seed})" if len(seeds) > 1 else ""), flush=True)


def summary(text: str, cells: Cells, seed: int, seeds: list[int], test_size: int) -> dict[str, Any]:
    """Return all accuracies under the poison *text*, by arm and seed, and whether the denoiser earns its cost."""

    def row_of(arm: str, seed: int) -> dict[str, Any]:
        row = cells.get(text, arm, seed)
        assert row is not None
        return row

    rows = {arm: [float(row_of(arm, seed)["acc"]) for seed in seeds] for arm in ARMS}
    means = {arm: ModelMetrics(acc=sum(accs) / len(accs)) for arm, accs in rows.items()}
    controls = {"noise_only": means["noise only"], "no_denoiser": means["B+C"], "clean_only": means["clean only"]}
    notes = judge_denoiser(means["A+B+C"], controls, test_size)
    return {"poison": text, "acc": rows, "outcome": row_of(PURIFICATION, seed)["tables"], "notes": notes}


def print_table(results: list[dict[str, Any]]) -> None:
    print("\n| poison | " + " | ".join(ARMS) + " |\n|---|" + "---|" * len(ARMS))
    for row in results:
        cells = [f"{100 * sum(accs) / len(accs):.1f}" for accs in row["acc"].values()]
        print(f"| {row['poison']} | " + " | ".join(cells) + " |")
    for row in results:
        for note in row["notes"]:
            print(f"{row['poison']}: {note}")


def with_denoiser(defense: Eclipse, source: str | None, case: Case, context: Context) -> Eclipse:
    """Return *defense* with the denoiser *source*, or the one trained into the work folder; or go on training it."""
    assert case.clean is not None and context.work_dir is not None
    source = source or defense.settings.denoiser
    if source is None:
        begun = time.perf_counter()
        defense.prepare_denoiser(case.clean, context)
        print(f"denoiser ready after {time.perf_counter() - begun:.0f} s", flush=True)
        source = str(context.work_dir / "denoiser")
    return Eclipse({**defense.settings.dump(), "denoiser": source})


def identity_of(case: Case, defense: Eclipse, plan: Retraining, context: Context) -> str:
    """Return what tells this experiment from others: data, weights of the denoiser, settings, seed, kind of device."""
    assert case.train is not None and case.clean is not None and case.test is not None
    settings = defense.settings.dump()
    height, _, channels = case.train.image_shape
    denoiser = find_denoiser(settings.pop("denoiser"), image_size=height, channels=channels)
    data = [each.fingerprint() for each in (case.train, case.clean, case.test)]
    chosen = [settings, plan.dump(), denoiser.fingerprint(), context.seed, context.device.type]
    return fingerprint([*data, *chosen])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--poisons", nargs="+", default=["lsp", "ar"], help="name[:key=value…], or clean")
    parser.add_argument("--suspects", type=int, default=5000)
    parser.add_argument("--clean", type=int, default=500)
    parser.add_argument("--test", type=int, default=2000)
    parser.add_argument("--pool", type=int, default=1, help="average this many pixels per side into one")
    parser.add_argument("--crop", type=int, default=4, help="of the classifiers' augmentation, in pixels")
    parser.add_argument("--no-flip", action="store_true", help="leave flips out of the classifiers' augmentation")
    parser.add_argument("--preset", default="cpu")
    parser.add_argument("--set", action="append", default=[], dest="values", help="setting of ECLIPSE")
    parser.add_argument("--retrain-set", action="append", default=[], help="how classifiers are trained")
    parser.add_argument("--seed", type=int, default=0, help="data, poison, denoiser")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the classifiers")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--denoiser", help="use this denoiser instead of training one")
    parser.add_argument("--archive", type=Path, default=ARCHIVE)
    parser.add_argument("--work", type=Path, help="folder that keeps what is done, for the same command to go on from")
    parser.add_argument("--results", type=Path, help="JSON file")
    options = parser.parse_args()
    if options.work is not None:
        options.work.mkdir(parents=True, exist_ok=True)
        run(options, options.work)
        return
    with TemporaryDirectory() as folder:
        run(options, Path(folder))


def run(options: argparse.Namespace, work: Path) -> None:
    """Run the experiment, or what is left of it, in the folder *work*."""
    started = time.perf_counter()
    inside = partial(Context, seed=options.seed, device=resolve_device(options.device))
    context = inside(work_dir=work)
    train, clean = cifar_sets(
        [options.suspects, options.clean], options.seed, pool=options.pool, archive=options.archive
    )
    (test,) = cifar_sets([options.test], options.seed, part="test", pool=options.pool, archive=options.archive)
    case = Case(train=train, clean=clean, test=test)
    plan = Retraining.build(
        {
            "architecture": "fast_resnet",
            "epochs": 20,
            "lr": 0.1,
            "weight_decay": 0,
            "augmentation": Augmentation(crop=options.crop, flip=not options.no_flip).dump(),
            **parse_assignments(options.retrain_set),
        }
    )
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {context.device}; {case}", flush=True)
    defense = Eclipse(preset=options.preset, **parse_assignments(options.values))
    defense = with_denoiser(defense, options.denoiser, case, context)
    identity = identity_of(case, defense, plan, context)
    cells = Cells(work / "cells.jsonl", identity, {"device": _device_name(context.device), "versions": versions()})
    for text in options.poisons:
        place = work / "purified" / f"{text.partition(':')[0]}-{fingerprint([text, identity])}"
        fill(text, case, defense, plan, inside(work_dir=place), options.seeds, cells)
    results = [summary(text, cells, options.seed, options.seeds, len(test)) for text in options.poisons]
    print_table(results)
    print(f"{time.perf_counter() - started:.0f} s in all")
    if options.results is not None:
        facts = {"results": results, "eclipse": defense.settings.dump(), "classifier": plan.dump()}
        facts |= {"arguments": {k: str(v) for k, v in vars(options).items()}, "versions": versions()}
        write_json(options.results, facts)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


if __name__ == "__main__":
    main()

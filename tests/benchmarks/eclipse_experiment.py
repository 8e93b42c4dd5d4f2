"""ECLIPSE on real images: undefended, B + C, A, A + B + C, and the two controls, in one table.

::

    python tests/benchmarks/eclipse_experiment.py    # 5,000 suspects, 500 clean, LSP and AR, profile cpu
    python tests/benchmarks/eclipse_experiment.py --poisons clean lsp ar ops cuda --suspects 3000 --clean 240
        --pool 2

The denoiser is trained once on the reserved clean set and used for every poison: it has seen no suspect image. Test
images come from the test part of the archive and touch nothing but the last line of each arm. Results go to
``--results`` as JSON; the table is printed.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from cifar import ARCHIVE, cifar_sets

from elixir_plugin import Context
from elixir_plugin.augmentation import Augmentation
from elixir_plugin.case import Case
from elixir_plugin.config import parse_assignments
from elixir_plugin.context import resolve_device
from elixir_plugin.defenses.eclipse import Eclipse
from elixir_plugin.evaluation import ModelMetrics, model_metrics
from elixir_plugin.outcome import Outcome
from elixir_plugin.plugins import plugins
from elixir_plugin.record import versions
from elixir_plugin.retraining import Retraining, judge_denoiser, retrain, run_control
from elixir_plugin.storage import write_json

ARMS = ("none", "B+C", "A", "A+B+C", "noise only", "clean only")


def measure_arms(
    case: Case, outcome: Outcome, plan: Retraining, context: Context, on_arm: Callable[[str, ModelMetrics], None]
) -> dict[str, ModelMetrics]:
    """Train and measure a classifier per arm; all start from the same weights."""
    plain = dataclasses.replace(outcome, augmentation=None)

    def trained(kept: Outcome) -> ModelMetrics:
        return model_metrics(retrain(case, kept, plan, context), case.test, case.test_poisoned)

    arms: dict[str, Callable[[], ModelMetrics]] = {
        "none": lambda: run_control("undefended", case, outcome, plan, context),
        "B+C": lambda: run_control("no_denoiser", case, outcome, plan, context),
        "A": lambda: trained(plain),
        "A+B+C": lambda: trained(outcome),
        "noise only": lambda: run_control("noise_only", case, outcome, plan, context),
        "clean only": lambda: run_control("clean_only", case, outcome, plan, context),
    }
    found: dict[str, ModelMetrics] = {}
    for name in ARMS:
        found[name] = arms[name]()
        on_arm(name, found[name])
    return found


def run_poison(
    text: str, case: Case, defense: Eclipse, plan: Retraining, context: Context, seeds: list[int]
) -> dict[str, Any]:
    """Poison, purify once, and measure all arms under each classifier seed."""
    assert case.train is not None and case.test is not None
    name, *values = text.split(":")
    if name != "clean":
        poison = plugins().get("poison", name)(**parse_assignments(values))
        train, truth = poison.poison(case.train, context.seed)
        case = dataclasses.replace(case, train=train, truth=truth)
    started = time.perf_counter()
    outcome = defense.run(case, context)
    print(f"{text}: purified in {time.perf_counter() - started:.0f} s", flush=True)
    rows: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for seed in seeds:
        inner = Context(seed=seed, device=context.device)
        found = measure_arms(case, outcome, plan, inner, lambda arm, each: print(f"  {arm}: {each.acc}", flush=True))
        for arm, each in found.items():
            assert each.acc is not None
            rows[arm].append(each.acc)
    means = {arm: ModelMetrics(acc=sum(accs) / len(accs)) for arm, accs in rows.items()}
    controls = {"noise_only": means["noise only"], "no_denoiser": means["B+C"], "clean_only": means["clean only"]}
    notes = judge_denoiser(means["A+B+C"], controls, len(case.test))
    return {"poison": text, "acc": rows, "outcome": outcome.tables, "notes": notes}


def print_table(results: list[dict[str, Any]]) -> None:
    print("\n| poison | " + " | ".join(ARMS) + " |\n|---|" + "---|" * len(ARMS))
    for row in results:
        cells = [f"{100 * sum(accs) / len(accs):.1f}" for accs in row["acc"].values()]
        print(f"| {row['poison']} | " + " | ".join(cells) + " |")
    for row in results:
        for note in row["notes"]:
            print(f"{row['poison']}: {note}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--poisons", nargs="+", default=["lsp", "ar"], help="name[:key=value…], or clean")
    parser.add_argument("--suspects", type=int, default=5000)
    parser.add_argument("--clean", type=int, default=500)
    parser.add_argument("--test", type=int, default=2000)
    parser.add_argument("--pool", type=int, default=1, help="average this many pixels per side into one")
    parser.add_argument("--crop", type=int, default=4, help="of the classifiers' augmentation, in pixels")
    parser.add_argument("--preset", default="cpu")
    parser.add_argument("--set", action="append", default=[], dest="values", help="setting of ECLIPSE")
    parser.add_argument("--retrain-set", action="append", default=[], help="how classifiers are trained")
    parser.add_argument("--seed", type=int, default=0, help="data, poison, denoiser")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the classifiers")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--denoiser", help="use this denoiser instead of training one")
    parser.add_argument("--archive", type=Path, default=ARCHIVE)
    parser.add_argument("--results", type=Path, help="JSON file")
    options = parser.parse_args()

    started = time.perf_counter()
    context = Context(seed=options.seed, device=resolve_device(options.device))
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
            "augmentation": Augmentation(crop=options.crop, flip=True).dump(),
            **parse_assignments(options.retrain_set),
        }
    )
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {context.device}; {case}", flush=True)
    with TemporaryDirectory() as folder:
        defense = Eclipse(preset=options.preset, **parse_assignments(options.values))
        source = options.denoiser
        if source is None:
            begun = time.perf_counter()
            denoiser = defense.prepare_denoiser(clean, context)
            print(f"denoiser trained in {time.perf_counter() - begun:.0f} s", flush=True)
            source = f"{folder}/denoiser"
            denoiser.save(Path(source))  # type: ignore[attr-defined]
        defense = Eclipse({**defense.settings.dump(), "denoiser": source})
        results = [run_poison(text, case, defense, plan, context, options.seeds) for text in options.poisons]
    print_table(results)
    print(f"{time.perf_counter() - started:.0f} s in all")
    if options.results is not None:
        facts = {"results": results, "eclipse": defense.settings.dump(), "classifier": plan.dump()}
        facts |= {"arguments": {k: str(v) for k, v in vars(options).items()}, "versions": versions()}
        write_json(options.results, facts)


if __name__ == "__main__":
    main()

"""D3 where the reserved clean set lacks a class: what becomes of the class, of the others, and of the backdoor.

    python tests/benchmarks/d3_missing.py                                             # embedded digits, defaults
    python tests/benchmarks/d3_missing.py --epochs 100 --lam 10                       # the table of docs/d3.md
    python tests/benchmarks/d3_missing.py --record ../shared/toolkits/backdoorbench/record/badnet_0_1 --epochs 30 \
        --lam 0.5 --missing 5 --missing 0

One line per run: accuracy on the class that is missing, on all others, and ASR; the last lines are medians with the
range in brackets. ``full``: with the whole clean set. ASR is that on samples of classes other than the missing one.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import statistics
from pathlib import Path
from typing import Any

import numpy as np

from elixir_plugin import Case, Classifier, Context, get_adapter, get_defense

DIGITS = {"architecture": "small_resnet", "size": 16}
Row = tuple[float, float, float]


def measured(model: Classifier, case: Case, missing: int) -> Row:
    """Return accuracy on class *missing* and on all others, and the ASR, in percent."""
    assert case.test is not None and case.test_poisoned is not None
    right = model.predict(case.test).argmax(1) == case.test.labels
    here = case.test.labels == missing
    triggered = case.test_poisoned.samples.subset(case.test_poisoned.original_labels != missing)
    taken = model.predict(triggered).argmax(1) == triggered.labels
    return 100 * float(right[here].mean()), 100 * float(right[~here].mean()), 100 * float(taken.mean())


def runs(case: Case, missing: int, left: int, settings: dict[str, Any], seed: int) -> dict[str, Row]:
    """Return what became of the model with the whole clean set, and with *left* samples of class *missing*."""
    assert case.model is not None and case.clean is not None
    rows = np.flatnonzero(case.clean.labels == missing)[left:]
    lacking = dataclasses.replace(case, clean=case.clean.subset(np.setdiff1d(np.arange(len(case.clean)), rows)))
    found = {"received": measured(case.model, case, missing)}
    for name, given, how in (("full", case, "allow"), ("allow", lacking, "allow"), ("protect", lacking, "protect")):
        model = get_defense("d3")(settings, missing_classes=how).run(given, Context(seed=seed)).model
        assert model is not None
        found[name] = measured(model, case, missing)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", type=Path, help="default: embedded digits under --poison")
    parser.add_argument("--poison", nargs="*", default=["badnets", "blended"])
    parser.add_argument(
        "--missing", type=int, action="append", help="class to leave out (default: 3, and the target 0)"
    )
    parser.add_argument("--left", type=int, default=0, help="clean samples of it that are left")
    parser.add_argument("--epochs", type=int, help="default: as many as the default of D3 makes")
    parser.add_argument("--lam", type=float, help="default: auto")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    given = {"epochs": arguments.epochs, "lam": arguments.lam}
    settings: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    sources = [("testbed", Path(each), DIGITS) for each in arguments.poison]
    if arguments.record is not None:
        sources = [("backdoorbench", arguments.record, {})]
    else:
        settings["augmentation"] = {"flip": False, "crop": 2}
    table: dict[tuple[str, int, str], list[Row]] = {}
    for (adapter, path, options), seed in itertools.product(sources, range(arguments.seeds)):
        case = get_adapter(adapter)(options).read(path, seed)
        for missing in arguments.missing or [3, 0]:
            for name, row in runs(case, missing, arguments.left, settings, seed).items():
                table.setdefault((path.name, missing, name), []).append(row)
                print(
                    path.name, f"seed {seed}, missing {missing}, {name}:", *(f"{each:.1f}" for each in row), flush=True
                )
    print("\n| case | missing | run | ACC on it % | ACC on others % | ASR % |\n|---|---|---|---|---|---|")
    for (path_name, missing, name), rows in table.items():
        columns = zip(*rows, strict=True)
        words = [f"{statistics.median(each):.1f} ({min(each):.1f}–{max(each):.1f})" for each in columns]
        print(f"| {path_name} | {missing} | {name} | " + " | ".join(words) + " |")


if __name__ == "__main__":
    main()

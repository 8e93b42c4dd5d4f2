"""All figures of SECURITY.md from one command: ``python tests/hostile/figures.py --write``.

What is done is kept in ``build/hostile``: started again, it goes on where it stopped. It says what failed and how to
try that again, and ends with exit code 1 if anything did.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import platform
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(HERE.parent)]

import torch  # noqa: E402
from fuzz import fuzz, targets  # noqa: E402
from hostile import Hostile, pairs  # noqa: E402
from kinds import all_kinds  # noqa: E402
from readers import READERS  # noqa: E402

SECURITY = ROOT / "SECURITY.md"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
CHUNK = 500  # mutations, or readings of one reader, between two notes of what is done
TITLES = {
    "hostile": "kinds of hostile input, each to the readers it may reach",
    "mutations": "mutated files",
    "kills of runs": "runs killed, and the same command again",
    "kills of writing": "writing of toolkit files killed, and the same command again",
    "full disks": "runs whose disk fills, and the same command again",
    "moments": "other unlucky moments",
}


@dataclass(frozen=True)
class Budget:
    """How much is tried.

    :param close: hostile kinds close to what a reader reads; else all that can take the place of what it reads.
    :param mutations: of each reader's file.
    :param kills: of each run and of each way to write; ``full`` disks likewise. 0: at every event of writing.
    """

    close: bool
    mutations: int
    kills: int
    full: int


BUDGETS = {"small": Budget(True, 40, 2, 2), "usual": Budget(True, 1000, 20, 10), "large": Budget(False, 10_000, 0, 0)}
Outcome = tuple[int, int, list[str]]  # tried, passed, faults


class Figures:
    """What was tried, by section and item; kept in a file."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.found: dict[str, dict[str, dict[str, Any]]] = json.loads(file.read_text()) if file.exists() else {}

    def item(self, section: str, item: str) -> dict[str, Any]:
        return self.found.setdefault(section, {}).setdefault(
            item, {"tried": 0, "passed": 0, "faults": [], "done": False}
        )

    def add(self, section: str, item: str, outcome: Outcome, *, done: bool) -> None:
        noted = self.item(section, item)
        tried, passed, faults = outcome
        noted["tried"] += tried
        noted["passed"] += passed
        noted["faults"] = (noted["faults"] + faults)[:200]
        noted["done"] = done
        part = self.file.with_suffix(".part")
        part.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(self.found, indent=1))
        part.replace(self.file)
        for fault in faults:
            print(f"  FAILED {fault[:1500]}", flush=True)

    def rows(self) -> Iterator[tuple[str, int, int]]:
        for section in TITLES:
            items = self.found.get(section)
            if items:
                yield (
                    section,
                    sum(each["tried"] for each in items.values()),
                    sum(each["passed"] for each in items.values()),
                )

    def lines(self) -> list[str]:
        """Return the table, in Markdown."""
        said = {
            "hostile": f"{len(all_kinds())} {TITLES['hostile']} ({len(READERS)} readers)",
            "mutations": f"{TITLES['mutations']} of {len(self.found.get('mutations', ()))} readers",
        }
        rows = [f"| {said.get(name, TITLES[name])} | {tried:,} | {passed:,} |" for name, tried, passed in self.rows()]
        return ["| what | tried | passed |", "|---|---:|---:|", *rows]

    @property
    def failed(self) -> int:
        return sum(tried - passed for _, tried, passed in self.rows())


# --- what is tried, each from where it stopped -----------------------------------------------------------------------


def hostile_kinds(figures: Figures, budget: Budget, folder: Path) -> None:
    chosen = pairs(close=budget.close)
    for name in READERS:
        if figures.item("hostile", name)["done"]:
            continue
        with tempfile.TemporaryDirectory(dir=folder) as place:
            own = [pair for pair in chosen if pair[0].name == name]
            results = list(Hostile(Path(place)).run(own))
        faults = [str(each) for each in results if each.failed]
        figures.add("hostile", name, (len(results), len(results) - len(faults), faults), done=True)


def mutations(figures: Figures, budget: Budget, folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as place:
        hostile = Hostile(Path(place))
        for name, reader in targets(hostile).items():
            while (first := figures.item("mutations", name)["tried"]) < budget.mutations:
                seeds = range(first, min(first + CHUNK, budget.mutations))
                results = list(fuzz(hostile, [reader], seeds))
                faults = [
                    f"{each}\n    python tests/hostile/fuzz.py {name!r} {each.name.split()[-1]}"
                    for each in results
                    if each.failed
                ]
                outcome = (len(results), len(results) - len(faults), faults)
                figures.add("mutations", name, outcome, done=seeds.stop == budget.mutations)


def _interrupted(section: str, way: str, amount: Callable[[Budget], int]) -> Callable[[Figures, Budget, Path], None]:
    def run(figures: Figures, budget: Budget, folder: Path) -> None:
        from interrupted import Interrupted, numbers
        from run_scenarios import SCENARIOS

        for scenario in SCENARIOS:
            noted = figures.item(section, scenario.name)
            if noted["done"]:
                continue
            with tempfile.TemporaryDirectory(dir=folder) as place:
                made = Interrupted(scenario, Path(place))
                left = numbers(made.events, amount(budget) or made.events)[noted["tried"] :]
                for number in left:
                    fault = made.attempt(way, number)
                    done = number == left[-1]
                    figures.add(section, scenario.name, (1, fault is None, [fault] if fault else []), done=done)

    return run


def kills_of_writing(figures: Figures, budget: Budget, folder: Path) -> None:
    from kill_native import try_kills
    from native_scenarios import SCENARIOS, movers

    with movers():
        for scenario in SCENARIOS:
            if figures.item("kills of writing", scenario.name)["done"]:
                continue
            at = [step / max(1, budget.kills - 1) for step in range(budget.kills)]
            with tempfile.TemporaryDirectory(dir=folder) as place:
                tally = try_kills(scenario, Path(place), at)
            passed = max(0, tally.tried - len(tally.faults))
            figures.add("kills of writing", scenario.name, (tally.tried, passed, tally.faults), done=True)


def moments(figures: Figures, budget: Budget, folder: Path) -> None:
    if find_spec("moments") is None:
        return
    from moments import MOMENTS

    for name, try_it in MOMENTS.items():
        if figures.item("moments", name)["done"]:
            continue
        with tempfile.TemporaryDirectory(dir=folder) as place:
            try:
                try_it(Path(place))
                faults = []
            except Exception as error:
                faults = [f"{name}: {type(error).__name__}: {error}"]
        figures.add("moments", name, (1, 1 - len(faults), faults), done=True)


SECTIONS: dict[str, Callable[[Figures, Budget, Path], None]] = {
    "hostile": hostile_kinds,
    "mutations": mutations,
    "kills of runs": _interrupted("kills of runs", "killed", lambda budget: budget.kills),
    "kills of writing": kills_of_writing,
    "full disks": _interrupted("full disks", "disk full", lambda budget: budget.full),
    "moments": moments,
}


def block(figures: Figures, options: str) -> str:
    """Return what stands between the marks in SECURITY.md.

    :param options: of the command that made the figures.
    """
    system = (
        f"Python {platform.python_version()}, torch {torch.__version__}, {platform.system()} on {platform.machine()}"
    )
    how = f"`python tests/hostile/figures.py {options}`, seeds from 0, {os.cpu_count()} CPU cores, {system}"
    return "\n".join([BEGIN, *figures.lines(), "", f"{how}.", END])


def write(text: str, file: Path = SECURITY) -> None:
    """Put *text* between the marks in *file*."""
    old = file.read_text(encoding="utf-8")
    before, after = old.split(BEGIN)[0], old.split(END)[1]
    file.write_text(before + text + after, encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", choices=BUDGETS, default="usual", help="how much is tried (default: %(default)s)")
    parser.add_argument("--only", choices=SECTIONS, action="append", help="a part alone; repeatable")
    parser.add_argument("--mutations", type=int, help="of each reader's file, in place of the budget's")
    parser.add_argument("--kills", type=int, help="of each run and each way to write; 0: at every event")
    parser.add_argument("--anew", action="store_true", help="forget what is done")
    parser.add_argument("--write", action="store_true", help="write the table into SECURITY.md")
    given = parser.parse_args(arguments)
    chosen = BUDGETS[given.budget]
    changes = {"mutations": given.mutations, "kills": given.kills, "full": given.kills}
    chosen = Budget(**(vars(chosen) | {key: value for key, value in changes.items() if value is not None}))
    file = ROOT / "build" / "hostile" / f"{given.budget}.json"
    if given.anew:
        file.unlink(missing_ok=True)
    figures = Figures(file)
    with tempfile.TemporaryDirectory() as folder:
        for name, run in SECTIONS.items():
            if given.only is None or name in given.only:
                print(f"{name} …", flush=True)
                run(figures, chosen, Path(folder))
    print("\n".join(figures.lines()))
    if given.write:
        write(block(figures, shlex.join(sys.argv[1:] if arguments is None else arguments)))
    return 1 if figures.failed else 0


if __name__ == "__main__":
    sys.exit(main())

"""The cells of the proving ground: what each is, what it costs, how it is run, and the card it leaves."""

from __future__ import annotations

import functools
import shlex
import statistics
import subprocess
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ground_base import ROOT, Base
from ground_list import ATTACKS, COLUMNS, RESERVED, SUSPECT, TRAINING, Attack, Column

from elixir_plugin._version import __version__
from elixir_plugin.core.case import Case
from elixir_plugin.core.classifier.classifier import Classifier
from elixir_plugin.core.context import Context
from elixir_plugin.core.settings import fingerprint
from elixir_plugin.errors import ElixirError, reason_of
from elixir_plugin.evaluation.metrics import model_metrics
from elixir_plugin.evaluation.retraining import Retraining
from elixir_plugin.io.environment import environment, threads
from elixir_plugin.io.files import remove_folder, write_json
from elixir_plugin.plugins import plugins
from elixir_plugin.runs.cards import ResultCard, card_from_runs, read_card
from elixir_plugin.runs.compare.run import plan_cells
from elixir_plugin.runs.compare.spec import CompareSpec
from elixir_plugin.runs.compare.table import UNDEFENDED
from elixir_plugin.runs.estimate import estimate_run
from elixir_plugin.runs.run import run_defense
from elixir_plugin.runs.spec import RunSpec
from elixir_plugin.testbed.adapter import Testbed
from elixir_plugin.training.loop import FAST

OPEN = "open"  # folder beside the cards: what failed, and what defenses say they would cost
CPU = torch.device("cpu")
SPENT = ("cpu_seconds", "seconds")  # where a cell was done in one go
VERSIONS = ("python", "torch", "numpy", "scipy", "Pillow", "scikit-learn")


@dataclass(frozen=True)
class Cell:
    """One number of the table: an attack under a defense, or under none (``column`` is None)."""

    attack: Attack
    column: Column | None
    reserved: int
    seed: int

    @property
    def defense(self) -> str:
        return SUSPECT if self.column is None else self.column.label

    @property
    def stem(self) -> str:
        """What the names of its files begin with."""
        defense = self.defense.replace(" (", "_").replace(")", "")
        return f"{self.attack.name}--{defense}--r{self.reserved}-s{self.seed}"

    def __str__(self) -> str:
        return f"{self.defense} on {self.attack.name}, {self.reserved:,} reserved, seed {self.seed}"


class Ground:
    """Where cells are run, and how.

    :param base: what is poisoned.
    :param work: folder of runs and suspect models.
    :param cards: folder of the cards.
    :param epochs: of every training, in place of those of the recipe.
    :param command: that does one cell, up to the options that name it.
    """

    def __init__(self, base: Base, work: Path, cards: Path, *, epochs: int | None = None, command: str = "") -> None:
        self.base, self.work, self.cards, self.command = base, work, cards, command
        self.recipe = {} if epochs is None else {"epochs": epochs}
        fit = {"preset": "fast"} if base.full else {"augmentation": {"crop": 0, "flip": False}}
        self.retrain = {**fit, **self.recipe}  # what a defense leaves is trained on as a suspect set is
        self.training = TRAINING * base.share * (1 if epochs is None else epochs / FAST["epochs"])
        self._names: dict[str, str] = {}

    # what a cell is

    def options(self, cell: Cell) -> dict[str, Any]:
        """Return the options of the testbed."""
        options = {**self.base.options, "poison": dict(cell.attack.settings), "clean": cell.reserved}
        return {**options, "recipe": self.recipe} if self.recipe else options

    def run_spec(self, cell: Cell) -> RunSpec:
        """Return the run of a defense, its folder that of the same cell of a comparison in the work folder."""
        assert cell.column is not None
        source = {"source": f"testbed:{cell.attack.poison}", "options": self.options(cell), "name": cell.attack.name}
        column = cell.column
        defense = {"defense": column.name, "preset": column.preset, "settings": dict(column.settings)}
        defense |= {"name": column.label}
        common = {"seeds": [cell.seed], "retrain": self.retrain, "device": "cpu", "any_model": True}
        (planned,) = plan_cells(CompareSpec.build({"cases": [source], "defenses": [defense], **common}))
        assert planned.spec is not None, planned.reason
        return planned.spec.model_copy(update={"out": str(planned.folder(self.work)), "threads": 1})

    def name(self, cell: Cell) -> str:
        """Return the name of the card, which ends in a hash of whatever decides the result but versions."""
        if cell.stem not in self._names:
            given = Testbed.Options.build(self.options(cell)).dump()
            options = {key: value for key, value in given.items() if key not in ("poison", "base", "base_options")}
            poison = plugins().get("poison", cell.attack.poison)(dict(cell.attack.settings))
            facts: list[Any] = [self.base.facts, poison.settings.fingerprint()]
            facts.append(Testbed.Options.under_first_names(options))
            if cell.column is not None:
                defense = plugins().get("defense", cell.column.name)(
                    dict(cell.column.settings), preset=cell.column.preset
                )
                facts += [defense.settings.fingerprint(), Retraining.build(self.retrain).fingerprint()]
            self._names[cell.stem] = f"{cell.stem}-{fingerprint(facts)[:6]}"
        return self._names[cell.stem]

    def state(self, cell: Cell) -> str:
        """Return ``done``, ``failed``, or ``open``."""
        name = self.name(cell)
        if (self.cards / f"{name}.json").exists():
            return "done"
        return "failed" if (self.cards / OPEN / f"{name}.json").exists() else "open"

    # running it

    def run(self, cell: Cell) -> ResultCard | None:
        """Run a cell and write its card; a failure of any kind is written down in its place, and None returned."""
        try:
            with threads(1):
                card = self._suspect(cell) if cell.column is None else self._defended(cell)
        except (Exception, SystemExit) as error:  # a defense may fail in any way; the other cells go on
            if not isinstance(error, ElixirError):
                traceback.print_exc()
            facts = {"attack": cell.attack.name, "defense": cell.defense, "reserved": cell.reserved, "seed": cell.seed}
            self._replace(cell, self.cards / OPEN, {**facts, "failed": reason_of(error)})
            return None
        self._replace(cell, self.cards, card.dump())
        return card

    def price(self, cell: Cell) -> float | None:
        """Have the defense of a cell say what it costs in seconds, and write it down; None where it cannot."""
        try:
            with threads(1):
                seconds = float(estimate_run(self.run_spec(cell))["seconds_total"])
        except (ElixirError, KeyError):
            return None  # the run will say why
        file = self.cards / OPEN / f"price--{cell.stem.split('--')[1]}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, {"defense": cell.defense, "on": cell.attack.name, "seconds": seconds})
        return seconds

    def _suspect(self, cell: Cell) -> ResultCard:
        """Make the suspect set and its model, which the other cells of the attack find in the cache."""
        started, spent = time.monotonic(), time.process_time()
        testbed = _Trained(self.options(cell))
        testbed.cache = self.work / "shared"
        case = testbed.read(Path(cell.attack.poison), cell.seed)
        assert case.model is not None
        found = model_metrics(case.model, case.test, case.test_poisoned)
        now = environment(CPU)
        numbers = {"acc": found.acc, "asr": found.asr, "ra": found.ra}
        values = {
            "defense": UNDEFENDED,
            "case": self._words(cell),
            **self._published_terms(cell, {"images": len(case.train), "reserved": cell.reserved}),
            "seeds": [cell.seed],
            "versions": {"elixir_plugin": __version__, **{k: v for k, v in now.items() if k in VERSIONS}},
            "device": now["device"],
            "measured": {name: {"value": value} for name, value in numbers.items() if value is not None},
            "source": "suspect model",
            "details": {**self._details(cell, case), **(_spent(started, spent) if testbed.trained else {})},
        }
        return ResultCard.build(values, where=str(cell))

    def _defended(self, cell: Cell) -> ResultCard:
        started, spent = time.monotonic(), time.process_time()
        result = run_defense(self.run_spec(cell), quiet=True, cache=self.work / "shared")
        card = card_from_runs([result.folder], case=self._words(cell))
        details = {**self._of_suspect(cell), **self._about(cell), "stages": result.report["outcome"]["timings"]}
        if not result.already_done and result.report["attempts"] == 1:  # else the clock saw a part of it
            details |= _spent(started, spent)
        remove_folder(result.folder / "outcome")  # images by the ten thousand; report and card stay
        assert card.setting is not None
        terms = self._published_terms(cell, card.setting.dump())
        return ResultCard.build({**card.dump(), **terms, "details": details}, where=str(cell))

    def _of_suspect(self, cell: Cell) -> dict[str, Any]:
        """Return what the card of the suspect model says of the set, without the seconds it took."""
        file = self.cards / f"{self.name(suspect_of(cell))}.json"
        known = read_card(file).details
        return {key: value for key, value in known.items() if key not in SPENT}

    def _details(self, cell: Cell, case: Case) -> dict[str, Any]:
        assert case.train is not None and case.truth is not None and case.truth.cover is not None
        options = Testbed.Options.build(self.options(cell))
        return {
            **self._about(cell),
            "poison": cell.attack.poison,
            "poison_settings": case.origin.facts["settings"],
            "kind": case.truth.kind,
            "suspects": len(case.train),
            "poisoned": int(case.truth.poison.sum()),
            "covers": int(case.truth.cover.sum()),
            "test": 0 if case.test is None else len(case.test),
            "suspect_model": {"architecture": options.architecture, "recipe": options.recipe.dump()},
        }

    def _about(self, cell: Cell) -> dict[str, Any]:
        """Return what a card says of its cell beside the numbers."""
        chosen = ["--only", cell.attack.name, "--seeds", str(cell.seed), "--reserved", str(cell.reserved)]
        return {
            "attack": cell.attack.name,
            "column": cell.defense,
            "reserved": cell.reserved,
            "seed": cell.seed,
            "data": self.base.name,
            "data_facts": self.base.facts,
            "commit": commit(),
            "threads": torch.get_num_threads(),
            "instructions": torch.backends.cpu.get_cpu_capability(),
            "command": f"{self.command} {shlex.join([*chosen, '--defenses', cell.defense])}",
        }

    def _published_terms(self, cell: Cell, sizes: Mapping[str, Any]) -> dict[str, Any]:
        """Return attack and setting of a cell as published numbers state them."""
        rate = getattr(plugins().get("poison", cell.attack.poison)(dict(cell.attack.settings)).settings, "rate", None)
        setting = {**sizes, "data": self.base.name, "model": Testbed.Options.build(self.options(cell)).architecture}
        return {"attack": "clean" if rate == 0 else cell.attack.poison, "setting": {**setting, "rate": rate}}

    def _words(self, cell: Cell) -> str:
        return f"{cell.attack.name}: {self.base.name}, {cell.reserved:,} reserved clean, seed {cell.seed}"

    def _replace(self, cell: Cell, folder: Path, content: Mapping[str, Any]) -> None:
        """Write the file of a cell, and remove others of the same cell, made under other settings."""
        file = folder / f"{self.name(cell)}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, content)
        for place in (self.cards, self.cards / OPEN):
            for other in place.glob(f"{cell.stem}-*.json"):
                if other != file:
                    other.unlink(missing_ok=True)


class _Trained(Testbed):
    """The testbed, which says whether it trained the suspect model or found it in the cache."""

    trained = False

    def suspect_model(self, case: Case, context: Context) -> Classifier:
        self.trained = True
        return super().suspect_model(case, context)


class Prices:
    """About what cells cost, in seconds of one core: as others like them did, as the defense says, or a guess."""

    def __init__(self, cards: list[ResultCard], estimates: Mapping[str, float], training: float = TRAINING) -> None:
        spent: dict[str, list[float]] = {}
        for card in cards:
            key = card.details["attack"] if card.details["column"] == SUSPECT else card.details["column"]
            if SPENT[0] in card.details:
                spent.setdefault(key, []).append(card.details[SPENT[0]])
        self._spent = {key: statistics.median(each) for key, each in spent.items()}
        self._estimates = estimates
        plain = [each for name, each in self._spent.items() if name in ATTACKS and not ATTACKS[name].learns]
        self.training = statistics.median(plain) if plain else training

    def knows(self, column: Column) -> bool:
        """Whether the price is more than a guess."""
        return column.label in self._spent or column.label in self._estimates

    def of(self, attack: Attack, column: Column | None) -> float:
        if column is None:
            return self._spent.get(attack.name, (1 + attack.learns) * self.training)
        known = self._spent.get(column.label, self._estimates.get(column.label))
        return column.trainings * self.training if known is None else known


def suspect_of(cell: Cell) -> Cell:
    """Return the cell whose suspect model a cell needs."""
    return Cell(cell.attack, None, cell.reserved, cell.seed)


def all_cells(reserved: int = RESERVED, seeds: Sequence[int] | None = None) -> Iterator[Cell]:
    """Yield every cell of the table, attack by attack; *seeds* in place of those of the attacks."""
    for attack in ATTACKS.values():
        for seed in seeds or attack.seeds:
            yield Cell(attack, None, reserved, seed)
            for column in COLUMNS.values():
                yield Cell(attack, column, reserved, seed)


def _spent(started: float, spent: float) -> dict[str, float]:
    """Return the seconds since *started*, and those of the processor since *spent*."""
    return {"cpu_seconds": time.process_time() - spent, "seconds": time.monotonic() - started}


@functools.cache
def commit() -> str:
    """Return the commit that is checked out, with a mark where code was changed since."""
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        same = _git("diff", "--quiet", "HEAD", "--", ".", ":!docs")
    except OSError:
        return "unknown"
    return f"{head.stdout.strip() or 'unknown'}{'' if same.returncode == 0 else ', changed'}"


def _git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)

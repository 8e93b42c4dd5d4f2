"""``benchmarks/proving_ground.py`` goes on wherever it was killed, and its page depends on the cards alone."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from processes import python
from short_settings import SHORT

from elixir_plugin.runs.cards import ResultCard, card_lines_of, load_cards

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
MODULES = ("proving_ground", "ground_page", "ground_cells", "ground_base", "ground_list")
ROOM = """\
import os, signal, sys
sys.path.insert(0, {benchmarks!r})
import ground_list
from ground_list import Attack, Column
ATTACKS = [Attack("clean", "badnets", {{"rate": 0.0}}), Attack("white", "badnets", {{"pattern": "white"}})]
COLUMNS = [Column("d3", 1, settings={{"epochs": 2, "batch_size": 64}}, named=name) for name in ("short", "other")]
COLUMNS[1].settings["warm_up"] = "near"
COLUMNS += [Column("confusion_training", 2, settings={tiny!r}), Column("no_such_defense", 1)]
ground_list.ATTACKS = {{each.name: each for each in [*ATTACKS, *{more}]}}
ground_list.COLUMNS = {{each.label: each for each in COLUMNS}}
import ground_cells, proving_ground
proving_ground.PAUSE = 0.05
def killed_at(module, name, count, after):
    made = getattr(module, name)
    calls = []
    def call(*arguments, **options):
        calls.append(name)
        result = made(*arguments, **options) if after or len(calls) < count else None
        if len(calls) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    setattr(module, name, call)
{kill}
sys.exit(proving_ground.main(sys.argv[1:]))
"""
CELLS = 8  # two sets, each undefended and under the three defenses that there are
ARGUMENTS = ("--data", "digits", "--epochs", "1", "--reserved", "100", "--budget", "10m", "--write")


def go(work: Path, *arguments: str, kill: str = "", more: str = "[]") -> subprocess.CompletedProcess[str]:
    work.mkdir(exist_ok=True)
    script = work.parent / f"{work.name}-ground.py"
    script.write_text(ROOM.format(benchmarks=str(BENCHMARKS), tiny=SHORT["confusion_training"], kill=kill, more=more))
    return python(str(script), "--work", str(work), *ARGUMENTS, *arguments, cwd=work.parent)


def measured(work: Path) -> dict[str, Any]:
    """Return what every card says of its cell, without what a clock says."""
    found = {}
    for file in sorted((work / "cards").glob("*.json")):
        card = json.loads(file.read_text())
        for timed in ("seconds", "cpu_seconds", "stages"):
            card["details"].pop(timed, None)
        found[file.name] = card
    return found


def test_killed_between_and_inside_cells_it_ends_with_the_same_table(tmp_path: Path) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    done = go(whole)
    assert done.returncode == 0, done.stderr
    assert "no such defense: no_such_defense" in done.stdout
    assert f"{CELLS} of {CELLS} cells done" in done.stdout
    assert len(measured(whole)) == CELLS

    held = []
    for kill in (
        "killed_at(ground_cells, 'model_metrics', 2, after=False)",  # inside, once the second suspect model is trained
        "killed_at(ground_cells.Ground, 'run', 3, after=True)",  # between two cells
        "killed_at(ground_cells, 'card_from_runs', 2, after=False)",  # inside, its run just finished
    ):
        assert go(stopped, kill=kill).returncode == -9
        held.append(len(measured(stopped)))
    assert held == [1, 4, 5]
    assert not (tmp_path / "stopped" / "cards.md").exists()
    last = go(stopped)
    assert last.returncode == 0, last.stderr
    assert last.stdout.count(" after ") == CELLS - held[-1]
    assert measured(stopped) == measured(whole)
    page = (whole / "cards.md").read_text()
    assert (stopped / "cards.md").read_text() == page and "| white, 100 reserved | dirty-label | 10 % | – |" in page
    again = go(stopped)
    assert again.stdout.count(" after ") == 0
    assert (stopped / "cards.md").read_text() == page

    card = load_cards(whole / "cards")[0]
    assert card.details["threads"] == 1 and card.details["command"].startswith("python tests/benchmarks/proving_ground")
    assert any(line.startswith("  details: attack ") for line in card_lines_of(card))
    assert not list((whole / "cells").glob("*/outcome"))


def test_a_failure_is_shown_and_tried_again_when_asked(tmp_path: Path) -> None:
    narrow = "[Attack('sig', 'sig')]"  # digits of 8 px are too narrow for six periods
    first = go(tmp_path / "w", "--only", "sig", more=narrow)
    assert first.returncode == 0, first.stderr
    assert "failed: undefended on sig, 100 reserved, seed 101: the image is too narrow" in first.stdout
    page = (tmp_path / "w" / "cards.md").read_text()
    assert "- undefended on sig, 100 reserved, seed 101: the image is too narrow" in page
    assert "| sig, 100 reserved | failed | no suspect model | no suspect model |" in page
    assert "sig" in page and go(tmp_path / "w", "--only", "sig", more=narrow).stdout.count(" after ") == 0
    assert go(tmp_path / "w", "--only", "sig", "--retry", more=narrow).stdout.count(" after ") == 1


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, ModuleType]]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    yield {name: importlib.import_module(name) for name in MODULES}
    for name in MODULES:
        sys.modules.pop(name, None)


def card(
    attack: str,
    column: str,
    *,
    kind: str = "dirty-label",
    seconds: float = 60.0,
    reserved: int = 2500,
    seed: int = 101,
    **numbers: float,
) -> ResultCard:
    details = {"attack": attack, "column": column, "reserved": reserved, "seed": seed, "kind": kind}
    details |= {"cpu_seconds": seconds}
    details |= {"suspects": 1000, "poisoned": 100, "covers": 0, "commit": "abc", "data": "CIFAR-10"}
    measured = {name: {"value": value} for name, value in numbers.items()}
    values = {
        "defense": column,
        "case": attack,
        "seeds": [101],
        "device": "cpu",
        "measured": measured,
        "source": "here",
    }
    return ResultCard.build({**values, "details": details})


def test_the_page_depends_on_the_cards_alone(modules: dict[str, ModuleType], tmp_path: Path) -> None:
    cards = [
        card("clean", "undefended", kind="none", acc=0.91),
        card("badnets_white_10pc", "undefended", acc=0.9, asr=0.99),
        card("badnets_white_10pc", "d3", acc=0.88, asr=0.02, seconds=120),
        card("badnets_white_10pc", "d3", acc=0.8, asr=0.5, seconds=240, reserved=500, seed=102),
        card("badnets_white_10pc", "confusion_training (small)", acc=0.89, asr=0.01, tpr=0.97, fpr=0.002),
    ]
    opened = [
        {"attack": "lsp", "defense": "d3", "reserved": 2500, "seed": 101, "failed": "a | b <c>"},
        {"defense": "dataelixir", "on": "clean", "seconds": 7200.0},
    ]
    known = modules["ground_page"].Known
    text = modules["ground_page"].page(known(cards, opened))
    assert text == modules["ground_page"].page(known(cards[::-1], opened[::-1]))
    lines = text.splitlines()
    (row,) = [line for line in lines if line.startswith("| badnets_white_10pc | 90.0 / 99.0 | 88.0 / 2.0 |")]
    assert "not yet run: 2.0 h" in row  # as dataelixir says
    assert [line for line in lines if line.startswith("| lsp | ") and "| not yet run: 0.1 h |" in line]  # as d3 took
    assert "| badnets_white_10pc, 500 reserved, seed 102 | not yet run: 0.0 h | 80.0 / 50.0 |" in text
    assert "| badnets_white_10pc | 97.0 / 0.2 |" in lines
    assert "- d3 on lsp, 2,500 reserved, seed 101: a \\| b \\<c\\>" in lines
    for folder in ("a", "b"):
        for each in cards:
            (tmp_path / folder).mkdir(exist_ok=True)
            name = f"{each.details['attack']}--{each.details['column']}-{each.details['seed']}.json"
            (tmp_path / folder / name).write_text(json.dumps(each.dump()))
    pages = [modules["ground_page"].write_page(tmp_path / folder).read_bytes() for folder in ("a", "b")]
    assert pages[0] == pages[1]
    shutil.rmtree(tmp_path / "a")
    assert b"0 done, 0 failed" in modules["ground_page"].write_page(tmp_path / "a").read_bytes()


@pytest.mark.parametrize(
    ("attack", "kind", "numbers", "said"),
    [
        ("badnets_white_10pc", "dirty-label", {"acc": 0.88, "asr": 0.9}, "holds"),
        ("badnets_white_10pc", "dirty-label", {"acc": 0.879, "asr": 1.0}, "falls short"),
        ("wanet_10pc", "dirty-label", {"acc": 0.9, "asr": 0.899}, "falls short"),
        ("lsp", "indiscriminate", {"acc": 0.22}, "holds: drop of 69.0 points, published 75.6"),
        ("lsp", "indiscriminate", {"acc": 0.24}, "falls short: drop of 67.0 points, published 75.6"),
        ("urp", "indiscriminate", {"acc": 0.2}, "drop of 71.0 points; no number to compare"),
        ("sig_5pc", "clean-label", {"acc": 0.9, "asr": 0.5}, "no bar"),
    ],
)
def test_an_attack_holds_at_its_bar(
    modules: dict[str, ModuleType], attack: str, kind: str, numbers: dict[str, float], said: str
) -> None:
    cards = [card("clean", "undefended", kind="none", acc=0.91), card(attack, "undefended", kind=kind, **numbers)]
    known = modules["ground_page"].Known(cards, [])
    key = (attack, "undefended", 2500, 101)
    assert modules["ground_page"].verdict(known, modules["ground_list"].ATTACKS[attack], key) == said


def test_cheap_cells_of_the_first_attacks_come_first(modules: dict[str, ModuleType]) -> None:
    ground, page, cells = modules["proving_ground"], modules["ground_page"], modules["ground_cells"]
    known = page.Known([], [{"defense": "dataelixir (small)", "on": "clean", "seconds": 1e5}])
    order = [str(cell) for cell, _ in ground.ordered(list(cells.all_cells()), known)]
    assert order[0].startswith("undefended on clean") and order[7].startswith("d3 on") is False

    def at(text: str) -> int:
        return next(at for at, each in enumerate(order) if each.startswith(text))

    assert at("undefended on lsp") < at("d3 on clean") < at("jpeg on lsp") < at("undefended on em")
    assert at("dataelixir on clean") < at("undefended on em")  # to be asked for its price
    assert at("undefended on sig_2pc") < at("confusion_training on clean") < at("dataelixir (small) on clean")
    assert ground.seconds("90m") == 5400 and ground.seconds("2h") == 7200 and ground.seconds("30") == 1800


def test_other_settings_are_another_cell_and_replace_the_card(modules: dict[str, ModuleType], tmp_path: Path) -> None:
    cells, base = modules["ground_cells"], modules["ground_base"]
    digits = base.prepare("digits", tmp_path, None)
    two, three = (cells.Ground(digits, tmp_path / str(each), tmp_path / "cards", epochs=each) for each in (2, 3))
    again = cells.Ground(digits, tmp_path / "elsewhere", tmp_path / "cards", epochs=2)
    cell = next(iter(cells.all_cells(100)))
    assert two.name(cell) == again.name(cell) != three.name(cell)
    assert len({two.name(each) for each in cells.all_cells(100, [1]) if each.column in (None, d3(modules))}) == 56
    two._replace(cell, two.cards, {"a": 1})
    assert (two.state(cell), three.state(cell)) == ("done", "open")
    three._replace(cell, three.cards, {"a": 2})
    assert (two.state(cell), three.state(cell)) == ("open", "done")


def d3(modules: dict[str, ModuleType]) -> Any:
    return modules["ground_list"].COLUMNS["d3"]

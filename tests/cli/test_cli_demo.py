"""``elixir-plugin demo`` goes through all defenses, and says by its exit code whether one failed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import elixir_plugin.defense
import elixir_plugin.plugins
from elixir_plugin import Case, Context, Defense, Outcome, builtin
from elixir_plugin.cli import demo
from elixir_plugin.cli.app import program
from elixir_plugin.core.case import describe
from elixir_plugin.defense import Card
from elixir_plugin.errors import InputError, MissingNeedError
from elixir_plugin.hookspecs import Entry, hookimpl
from elixir_plugin.plugins import Plugins
from elixir_plugin.testbed.adapter import SuspectRecipe
from elixir_plugin.testbed.poisons import BadNets
from elixir_plugin.testing.defenses import tiny_case

pytestmark = pytest.mark.usefixtures("no_figures")
ROOT = Path(__file__).resolve().parents[2]
SUSPECT_CASE = demo.suspect_case


class Fake(Defense):
    """Flags nothing."""

    name, kind, needs = "works", "detect", frozenset({"train"})
    card = Card("fake", "nobody", 2024, "nothing", "nothing", "always")

    def defend(self, case: Case, context: Context) -> Outcome:
        assert case.train is not None
        return Outcome(scores=case.train.read(slice(None)).mean((1, 2, 3)), flagged=case.train.labels < 0)


class Refuses(Fake):
    name = "refuses"

    def defend(self, case: Case, context: Context) -> Outcome:
        raise InputError("cannot be used", where="here", found="\x1b[2Jnothing")


class Breaks(Fake):
    name = "breaks"

    def defend(self, case: Case, context: Context) -> Outcome:
        raise ZeroDivisionError("of a stranger")


class Lacks(Fake):
    name = "lacks"

    def defend(self, case: Case, context: Context) -> Outcome:
        raise MissingNeedError("needs a licence")


class Fakes:
    """A plugin with all of them."""

    @hookimpl
    def elixir_defenses(self) -> list[Entry]:
        return [Entry(each.name, each, each.kind) for each in (Refuses, Breaks, Lacks, Fake)]


@pytest.fixture(autouse=True)
def only_fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = Plugins([])
    loaded.register(Fakes(), "fakes")
    loaded.register(builtin, "builtin")
    for module in (elixir_plugin.plugins, elixir_plugin.defense, demo):
        monkeypatch.setattr(module, "plugins", lambda: loaded)
    monkeypatch.setattr(demo, "suspect_case", lambda poison, size, context: tiny_case())


def test_the_suspect_is_trained_on_poisoned_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "SuspectRecipe", lambda: SuspectRecipe(epochs=1))
    case = SUSPECT_CASE(BadNets(), 8, Context(3))
    assert case.train is not None and case.truth is not None and case.model is not None
    assert case.train.image_shape[:2] == (8, 8) and 0 < case.truth.poison.mean() < 0.2
    again, other = (SUSPECT_CASE(BadNets(), 8, Context(seed)) for seed in (3, 4))
    assert describe(again) == describe(case) != describe(other)


def run_demo(tmp_path: Path, *names: str) -> tuple[Result, dict[str, Any]]:
    only = [word for name in names for word in ("--only", name)]
    done = CliRunner().invoke(program, ["demo", "--device", "cpu", "--out", str(tmp_path / "demo"), *only])
    return done, json.loads((tmp_path / "demo/report.json").read_text())


def test_all_goes_well(tmp_path: Path) -> None:
    done, report = run_demo(tmp_path, "works")
    assert done.exit_code == 0, done.output
    assert report["failed"] == [] and report["defenses"]["works"]["metrics"]["detection"]["fpr"] == 0
    assert re.search(r"^\d+ seconds in all", done.output, flags=re.MULTILINE) and report["seconds"] > 0


@pytest.mark.parametrize(
    ("name", "says"), [("refuses", "cannot be used"), ("breaks", "ZeroDivisionError: of a stranger")]
)
def test_a_defense_that_fails_is_told_in_the_table_and_by_the_exit_code(tmp_path: Path, name: str, says: str) -> None:
    done, report = run_demo(tmp_path, name, "works")
    assert done.exit_code == 1
    assert re.search(rf"^{name} +failed: {says}", done.stdout, flags=re.MULTILINE)
    assert re.search(r"^works .* 0\.0 %", done.stdout, flags=re.MULTILINE)  # the others went on
    assert f"failed: {name}" in done.stderr and "\x1b" not in done.output
    assert report["failed"] == [name] and says in report["defenses"][name]["error"]
    assert "metrics" in report["defenses"]["works"]


def test_a_defense_that_lacks_something_is_skipped_and_has_not_failed(tmp_path: Path) -> None:
    done, report = run_demo(tmp_path, "lacks", "works")
    assert done.exit_code == 0, done.output
    assert re.search(r"^lacks +skipped: needs a licence", done.output, flags=re.MULTILINE)
    assert report["failed"] == [] and report["defenses"]["lacks"] == {"skipped": "needs a licence"}


def check_of_ci(tmp_path: Path, defenses: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """Run the lines of ``.ci/run`` that look at what the demo has measured."""
    script = (ROOT / ".ci/run").read_text(encoding="utf-8")
    lines = re.search(r"report\.json <<'PYTHON'\n(.*?)^PYTHON$", script, flags=re.DOTALL | re.MULTILINE)
    assert lines is not None
    (tmp_path / "report.json").write_text(json.dumps({"defenses": defenses}))
    command = [sys.executable, "-c", lines[1], str(tmp_path / "report.json")]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_ci_wants_numbers_of_all_five(tmp_path: Path) -> None:
    model, flags = {"metrics": {"after": {"acc": 0.9}}}, {"metrics": {"after": None, "detection": {"tpr": 0.0}}}
    good = dict.fromkeys(("d3", "eclipse", "dataelixir", "image_variations"), model) | {"confusion_training": flags}
    assert check_of_ci(tmp_path, good).returncode == 0
    for bad in ({"error": "broken"}, {"skipped": "lacks"}, {"metrics": {"after": {"acc": None}, "detection": None}}):
        done = check_of_ci(tmp_path, {**good, "eclipse": bad})
        assert done.returncode == 1 and "no numbers of eclipse" in done.stderr
    assert check_of_ci(tmp_path, {}).returncode == 1

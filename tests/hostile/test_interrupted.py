"""A run that is killed, or whose disk fills, at an event of writing: the same command again ends as if nothing was."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parent))

from interrupted import WAYS, Interrupted, interrupt, numbers
from run_scenarios import SCENARIOS, Scenario

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL"),
    pytest.mark.usefixtures("no_figures"),
]
BY_NAME = [pytest.param(each, id=each.name) for each in SCENARIOS]


@pytest.mark.parametrize("way", WAYS)
def test_a_run_interrupted_in_its_middle(tmp_path: Path, way: str) -> None:
    tally = interrupt(SCENARIOS[0], tmp_path, way, at=(0.5,))
    assert tally.tried == 1 and tally.events > 10 and not tally.faults


@pytest.mark.e2e
@pytest.mark.parametrize("scenario", BY_NAME)
def test_every_run_interrupted_at_some_events(tmp_path: Path, scenario: Scenario) -> None:
    for way in WAYS:
        tally = interrupt(scenario, tmp_path / way, way, at=(0.2, 0.5, 0.95))
        assert tally.tried == 3 and not tally.faults


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("scenario", BY_NAME)
def test_every_run_interrupted_at_every_event(tmp_path: Path, scenario: Scenario, way: str) -> None:
    tally = interrupt(scenario, tmp_path, way)
    assert tally.tried == tally.events and not tally.faults


def test_a_result_that_differs_is_noticed(tmp_path: Path) -> None:
    def prepare(folder: Path) -> None:
        folder.mkdir()

    def careless(folder: Path) -> None:
        begun = (folder / "begun").exists()
        (folder / "begun").touch()
        (folder / "result").write_text("twice" if begun else "once")

    run = Interrupted(Scenario("careless", prepare, careless), tmp_path)
    assert run.events == 2
    assert run.attempt("killed", 1) == "careless, killed before event 1 of 2: then it differs in begun, result"
    assert "OSError" in (run.attempt("disk full", 2) or "")


def test_events_are_spread_evenly() -> None:
    assert numbers(5, 10) == [1, 2, 3, 4, 5]
    assert numbers(100, 3) == [1, 51, 100] and numbers(100, 1) == [1]

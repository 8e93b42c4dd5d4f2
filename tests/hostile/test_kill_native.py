"""A kill at any event of writing loses nothing, leaves nothing half-written, and the next run ends the same."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parent))

from kill_native import Scenario, try_kills
from native_scenarios import SCENARIOS, movers

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL"),
    pytest.mark.usefixtures("offered", "no_figures"),
]
BY_NAME = [pytest.param(each, id=each.name) for each in SCENARIOS]


@pytest.fixture
def offered() -> Iterator[None]:
    with movers():
        yield


@pytest.mark.parametrize("scenario", BY_NAME)
def test_a_kill_at_some_events_of_writing(tmp_path: Path, scenario: Scenario) -> None:
    tally = try_kills(scenario, tmp_path, at=(0.45, 0.9))
    assert not tally.faults and tally.tried == 2


@pytest.mark.slow
@pytest.mark.parametrize("scenario", BY_NAME)
def test_a_kill_at_every_event_of_writing(tmp_path: Path, scenario: Scenario) -> None:
    tally = try_kills(scenario, tmp_path)
    assert not tally.faults and tally.tried == tally.events
    print(f"{scenario.name}: {tally.tried} kills")

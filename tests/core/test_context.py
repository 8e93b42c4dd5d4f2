"""What surrounds a defense: progress where there is no terminal, by lines that are logged; devices."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import time

import pytest

from elixir_plugin.core import context as module
from elixir_plugin.core.context import Context, resolve_device
from elixir_plugin.errors import SettingsError

LOGGER = "elixir_plugin.progress"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that goes on by the seconds in the list with every look at it."""
    now, steps = [0.0], [25.0]

    def look() -> float:
        now[0] += steps[0]
        return now[0]

    monkeypatch.setattr(time, "monotonic", look)
    monkeypatch.setattr("sys.stderr.isatty", lambda: False, raising=False)
    return steps


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == LOGGER]


def test_a_line_a_minute_says_how_far_it_is(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, LOGGER):
        assert list(Context(quiet=False).progress(range(10), "purifying")) == list(range(10))
    assert lines(caplog) == [
        "purifying: 3 of 10, about 3 min left",
        "purifying: 6 of 10, about 2 min left",
        "purifying: 9 of 10, less than a minute left",
    ]


def test_long_waits_are_told_in_hours_and_unknown_ends_are_not_told(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    clock[0] = 3600.0
    with caplog.at_level(logging.INFO, LOGGER):
        list(Context(quiet=False).progress(range(3), "d3"))
        list(Context(quiet=False).progress(iter(range(2)), "blocks"))
    assert lines(caplog) == [
        "d3: 1 of 3, about 2 h 0 min left",
        "d3: 2 of 3, about 1 h 0 min left",
        "blocks: 1",
        "blocks: 2",
    ]


def test_what_is_quick_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, LOGGER):
        list(Context(quiet=False).progress(range(100), "quick"))
    assert not lines(caplog) and module.EVERY == 60


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    monkeypatch.setenv("COLUMNS", "60")
    assert list(Context(quiet=False).progress(range(20), "d3")) == list(range(20))
    assert list(Context(quiet=False).progress(iter("ab"), "blocks", total=2)) == ["a", "b"]
    frames = terminal.getvalue().split("\r")
    assert any(re.match(r"d3: .* 0/20 ", frame) for frame in frames)
    assert any(re.match(r"blocks: .* 0/2 ", frame) for frame in frames)
    assert max(map(len, frames)) <= 60 and not frames[-1].strip()  # nothing is left of it
    with contextlib.redirect_stderr(Terminal()) as silent:
        list(Context(quiet=True).progress(range(20), "d3"))
    assert silent.getvalue() == ""


def test_quiet_is_quiet(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    clock[0] = 600.0
    with caplog.at_level(logging.INFO, LOGGER):
        list(Context(quiet=True).progress(range(10), "d3"))
    assert not lines(caplog)


@pytest.mark.parametrize("name", ["hpu", "privateuseone", "meta", "abacus", "cuda:99", "cpu:x"])
def test_a_device_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match="device not available"):
        resolve_device(name)

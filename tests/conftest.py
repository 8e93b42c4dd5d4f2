"""Fixtures for all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# The models here are tiny. On a busy machine, threads that wait for each other make them a hundred times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("quick", deadline=None, max_examples=20)  # no deadline: a busy machine is no failure
# the same examples each time, so that it is a change that makes a run fail, not chance; "quick" goes on searching
settings.register_profile("thorough", deadline=None, max_examples=100, derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder ``shared`` next to the checkout: real files of the toolkits, and CIFAR-10."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("no folder 'shared' next to the checkout")
    return folder


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the drawing of figures, most of the time of a short run, where a test does not look at them."""
    from elixir_plugin.report import page
    from elixir_plugin.report.figures import Drawn

    empty = Drawn('<svg role="img" aria-label="left out"></svg>', b"\x89PNG")
    monkeypatch.setattr(page, "draw", lambda panel, name, *, png=True: empty if png else Drawn(empty.svg, b""))


@pytest.fixture
def brief_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure every cost on one call, not on a second of calls, where a test does not look at how long it took."""
    from elixir_plugin.training import timing

    monkeypatch.setattr(timing, "CALLS", 1)

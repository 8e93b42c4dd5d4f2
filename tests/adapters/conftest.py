"""Fixtures for reading what must not be trusted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from fake_records import Workspace, make_workspace, snapshot

from elixir_plugin import ElixirError
from elixir_plugin.errors import InputError


@pytest.fixture
def refused(tmp_path: Path) -> Callable[..., str]:
    """Call something that must be refused with InputError and leave the disk as it was; return the message."""

    def check(call: Callable[[], object], *expected: str, kind: type[ElixirError] = InputError) -> str:
        before = snapshot(tmp_path)
        with pytest.raises(kind) as caught:
            call()
        assert snapshot(tmp_path) == before
        message = str(caught.value)
        for text in expected:
            assert text in message, f"{text!r} is not in:\n{message}"
        return message

    return check


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A made-up BackdoorBench workspace with one record."""
    return make_workspace(tmp_path / "bench")

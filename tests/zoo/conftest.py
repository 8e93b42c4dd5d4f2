"""A small base, and sets made of it once."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from elixir_plugin.zoo.entries import find_entry
from elixir_plugin.zoo.make import make

sys.path.append(str(Path(__file__).parent))

from small_sets import BRIEF, FORMATS, NETWORK, images, written


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """160 images of 16 pixels, in no order of classes, with 24 test images."""
    return written(tmp_path_factory.mktemp("base") / "base", train=images(160, 0), test=images(24, 1))


@pytest.fixture(scope="session")
def originals(base: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A set in each format, never to be changed."""
    root = tmp_path_factory.mktemp("zoo")
    entry = find_entry("tact_2pc")
    for to in FORMATS:
        make(entry, root / to, base=base, to=to, options={**BRIEF, "architecture": NETWORK[to]})  # type: ignore[arg-type]
    return {to: root / to for to in FORMATS}


@pytest.fixture
def copied(originals: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """Return a copy of the set in a format, to be changed."""

    def copy(to: str) -> Path:
        return Path(shutil.copytree(originals[to], tmp_path / f"copy-{to}"))

    return copy

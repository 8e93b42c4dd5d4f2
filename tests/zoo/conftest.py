"""Small bases, and sets made of them once."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from elixir_plugin import ImageSet, get_adapter
from elixir_plugin.core.case import Case
from elixir_plugin.zoo.entries import find_entry
from elixir_plugin.zoo.make import make

CLASSES = 4
BRIEF = {"recipe": {"epochs": 1, "batch_size": 16}}  # what fits a test; the model learns nothing
FORMATS = ("image_folder", "arrays", "backdoorbench")
NETWORK = {"image_folder": "small_resnet", "arrays": "small_resnet", "backdoorbench": "shufflenet_v2_x1_0"}


def images(n: int, seed: int, *, floats: bool = False) -> ImageSet:
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % CLASSES)
    pixels = (rng.integers(0, 60, (n, 16, 16, 3)) + 50 * labels[:, None, None, None]).astype(np.uint8)
    return ImageSet(pixels.astype(np.float32) / 256 if floats else pixels, labels, CLASSES)


def written(folder: Path, **parts: ImageSet) -> str:
    source = get_adapter("arrays")().export(Case(**parts), folder)
    return f"arrays:{source.path}"


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

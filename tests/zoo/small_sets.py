"""Small unpoisoned sets, and how briefly models are trained on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from elixir_plugin import ImageSet, get_adapter
from elixir_plugin.core.case import Case

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

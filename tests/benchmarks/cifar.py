"""Subsets of CIFAR-10 for benchmarks and slow tests, read in place from an archive of JPEG files."""

from __future__ import annotations

import io
import zipfile
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from elixir_plugin.core.images import ImageSet

SHARED = Path(__file__).resolve().parents[3] / "shared"
ARCHIVE = SHARED / "data" / "cifar10-jpeg.zip"


@cache
def _members(archive: Path, part: str) -> tuple[list[str], list[str], zipfile.ZipFile]:
    file = zipfile.ZipFile(archive)
    names = sorted(name for name in file.namelist() if name.startswith(f"{part}/") and name.endswith(".jpg"))
    return names, sorted({name.split("/")[1] for name in names}), file


def cifar_sets(
    sizes: list[int], seed: int, *, part: str = "train", archive: Path = ARCHIVE, pool: int = 1
) -> list[ImageSet]:
    """Return disjoint random subsets of *part* (``train`` or ``test``), uint8 ``[n, 32, 32, 3]``.

    :param sizes: images per subset.
    :param seed: decides which images.
    :param pool: average ``pool × pool`` pixels into one.
    """
    names, classes, file = _members(archive, part)
    chosen = [names[i] for i in np.random.default_rng(seed).permutation(len(names))[: sum(sizes)]]
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(file.read(name))).convert("RGB")) for name in chosen])
    if pool > 1:
        edge = pixels.shape[1] // pool
        pooled = pixels.reshape(len(pixels), edge, pool, edge, pool, 3).mean((2, 4))
        pixels = np.rint(pooled).astype(np.uint8)
    labels = np.array([classes.index(name.split("/")[1]) for name in chosen])
    bounds = np.cumsum([0, *sizes])
    return [ImageSet(pixels[a:b], labels[a:b], len(classes)) for a, b in pairwise(bounds)]

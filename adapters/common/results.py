"""``suspects.csv``: what an outcome says about every suspect sample, readable by a spreadsheet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.classifier.classifier import Classifier
from ...core.images import ImageSet
from ...core.outcome import Outcome
from ...io.files import atomic_folder, write_csv

HEADER = ("index", "name", "label", "score", "flagged", "kept")


def write_suspects(train: ImageSet | None, outcome: Outcome, folder: Path) -> list[Path]:
    """Write ``<folder>/suspects.csv``, one row per suspect sample, when the outcome says anything about samples.

    What the outcome does not hold stays empty; without file names, ``name`` is the sample's id.
    """
    if train is None or (outcome.scores is None and outcome.flagged is None and outcome.kept is None):
        return []
    n = len(train)
    names = train.names or train.ids.tolist()
    kept = None if outcome.kept is None else np.isin(np.arange(n), outcome.kept)
    columns = [_column(values, n) for values in (outcome.scores, outcome.flagged, kept)]
    write_csv(folder / "suspects.csv", HEADER, zip(range(n), names, train.labels.tolist(), *columns, strict=True))
    return [folder / "suspects.csv"]


def save_model(model: Classifier, folder: Path) -> Path:
    """Write *model* to ``<folder>/model``, which appears only when it is complete."""
    with atomic_folder(folder / "model") as part:
        model.save(part)
    return folder / "model"


def _column(values: NDArray[Any] | None, n: int) -> list[Any]:
    return [""] * n if values is None else values.tolist()

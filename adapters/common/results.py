"""``suspects.csv``: what an outcome says about every suspect sample, readable by a spreadsheet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.classifier.classifier import Classifier
from ...core.images import ImageSet
from ...core.outcome import Outcome
from ...io.files import atomic_folder, write_csv
from ...io.text import escape_cell

HEADER = ("index", "name", "label", "score", "flagged", "kept")


@dataclass(frozen=True)
class Unreadable:
    """A suspect sample that was left out, because its image cannot be read.

    :param index: its position among all samples, that of the others being their id.
    """

    index: int
    name: str
    label: int
    reason: str


def write_suspects(
    train: ImageSet | None, outcome: Outcome, folder: Path, lost: Sequence[Unreadable] = ()
) -> list[Path]:
    """Write ``<folder>/suspects.csv``, one row per suspect sample, when the outcome says anything about samples.

    What the outcome does not hold stays empty; without file names, ``name`` is the sample's id. Names are made safe for
    a spreadsheet by :func:`~elixir_plugin.io.text.escape_cell`.

    :param lost: samples that are not in *train*; the table then has a column for the reason, and *train* has ids that
        leave out theirs.
    """
    if train is None or (outcome.scores is None and outcome.flagged is None and outcome.kept is None):
        return []
    n = len(train)
    names = map(escape_cell, train.names) if train.names else train.ids.tolist()
    kept = None if outcome.kept is None else np.isin(np.arange(n), outcome.kept)
    columns = [_column(values, n) for values in (outcome.scores, outcome.flagged, kept)]
    index = train.ids.tolist() if lost else range(n)
    rows = [list(row) for row in zip(index, names, train.labels.tolist(), *columns, strict=True)]
    if lost:
        left = [[each.index, escape_cell(each.name), each.label, "", "", "", escape_cell(each.reason)] for each in lost]
        rows = sorted([[*row, ""] for row in rows] + left, key=lambda row: row[0])
    write_csv(folder / "suspects.csv", [*HEADER, "unreadable"] if lost else HEADER, rows)
    return [folder / "suspects.csv"]


def save_model(model: Classifier, folder: Path) -> Path:
    """Write *model* to ``<folder>/model``, which appears only when it is complete."""
    with atomic_folder(folder / "model") as part:
        model.save(part)
    return folder / "model"


def _column(values: NDArray[Any] | None, n: int) -> list[Any]:
    return [""] * n if values is None else values.tolist()

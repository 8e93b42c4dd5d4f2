"""Suspect models in the project's own format, for adapters of formats that have none."""

from __future__ import annotations

from pathlib import Path

from ...core.classifier.classifier import Classifier
from ...errors import InputError
from ...io.files import atomic_folder


def load_model(folder: Path | None) -> Classifier | None:
    """Read a saved :class:`Classifier`, or return None when none is named.

    :raises InputError: when the folder holds none.
    """
    if folder is None:
        return None
    if not (folder / "model.json").is_file():
        raise InputError(
            "model not found",
            where=folder,
            allowed="a folder with model.json and model.safetensors",
            hint="write one with Classifier(...).save(folder)",
        )
    return Classifier.load(folder)


def save_model(model: Classifier, folder: Path) -> Path:
    """Write *model* to ``<folder>/model``, which appears only when it is complete."""
    with atomic_folder(folder / "model") as part:
        model.save(part)
    return folder / "model"

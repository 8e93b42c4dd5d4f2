"""Reading back what :meth:`Outcome.save` wrote: every part checked by itself and against the others.

::

    outcome.json          everything but tensors; which arrays there are, and whether there is a model
    outcome.safetensors   scores, flagged, kept; images, labels and ids of the sanitised set
    model/                a saved Classifier
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from ..errors import ElixirError, InputError
from ..io.checked import RUN_AGAIN, Count, Facts, Finite, Flag, Seconds, checked, refuse_newer
from ..io.reading import read_json, read_tensors
from .augmentation import Augmentation
from .classifier.classifier import Classifier
from .classifier.copies import copied
from .classifier.weights import read_facts
from .images import ImageSet, Index

SCHEMA = 1  # of outcome.json; files of earlier versions have none
TYPES = {
    "scores": (torch.float64, 1),
    "flagged": (torch.bool, 1),
    "kept": (torch.int64, 1),
    "images": (None, 4),  # ImageSet says which
    "labels": (torch.int64, 1),
    "ids": (torch.int64, 1),
}


class VerdictFacts(Facts):
    """See :class:`~elixir_plugin.core.outcome.Verdict`."""

    poisoned: Flag | None
    score: Finite | None = None
    meaning: str = ""


class OutcomeFacts(Facts):
    """The content of ``outcome.json``."""

    verdict: VerdictFacts | None
    flagged: Count | None
    num_classes: Annotated[Count, Field(ge=1, le=1_000_000)] | None
    augmentation: dict[str, Any] | None
    static_augmentation: dict[str, Any] | None = None
    baked: dict[str, Any] | None = None  # its former name
    noise_level: Annotated[Finite, Field(ge=0)] | None
    curves: dict[str, list[Finite | None]]
    tables: dict[str, Any]
    timings: dict[str, Seconds]
    notes: list[str]
    names: list[str] | None
    classes: list[str] | None = None
    arrays: list[str] | None = None  # None: made by an earlier version, which did not say
    model: Flag | None = None


def read_parts(folder: Path, like: Classifier | None) -> dict[str, Any]:
    """Return the arguments of the ``Outcome`` in *folder*; the verdict is a mapping, or None.

    :param like: as for ``Outcome.load``.
    :raises InputError: when a file is missing or damaged, or the parts do not fit each other.
    """
    path = folder / "outcome.json"
    try:
        content = read_json(path)
        refuse_newer(content, SCHEMA, path)
        facts = checked(OutcomeFacts, content, what="not the outcome of a run", where=path)
        arrays = _read_arrays(folder / "outcome.safetensors", facts)
        model = _read_model(folder / "model", like, facts.model)
        static = facts.static_augmentation or facts.baked
        return {
            **{name: arrays.get(name) for name in ("scores", "flagged", "kept")},
            "train": _train(arrays, facts, path),
            "augmentation": Augmentation.build(facts.augmentation) if facts.augmentation else None,
            "static_augmentation": Augmentation.build(static) if static else None,
            "noise_level": facts.noise_level,
            "model": model,
            "verdict": None if facts.verdict is None else facts.verdict.model_dump(),
            "curves": content["curves"],  # whole numbers stay what they are
            "tables": facts.tables,
            "timings": facts.timings,
            "notes": facts.notes,
        }
    except InputError as error:
        error.hint = error.hint or RUN_AGAIN
        raise
    except ElixirError as error:  # an architecture or an augmentation that is none
        raise InputError(error.what, where=folder, found=error.found, allowed=error.allowed, hint=RUN_AGAIN) from None


def is_ascending(kept: Index, n: int | None) -> bool:
    """Whether *kept* holds unique positions in ascending order, below *n* where that is known."""
    ascending = kept.ndim == 1 and kept.dtype == np.int64 and bool((kept[1:] > kept[:-1]).all())
    return ascending and (not len(kept) or bool(kept[0] >= 0 and (n is None or kept[-1] < n)))


def _read_arrays(path: Path, facts: OutcomeFacts) -> dict[str, NDArray[Any]]:
    tensors = read_tensors(path)
    if facts.arrays is not None and sorted(tensors) != sorted(facts.arrays):
        raise _unfit(path, ", ".join(sorted(tensors)) or "nothing", f"{', '.join(facts.arrays)}, as outcome.json says")
    arrays: dict[str, NDArray[Any]] = {}
    for name, tensor in tensors.items():
        kind, dimensions = TYPES.get(name, (tensor.dtype, tensor.ndim))
        wanted = kind or tensor.dtype
        if tensor.dtype != wanted or tensor.ndim != dimensions or tensor.dtype == torch.bfloat16:
            said = f"{name}: {str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
            raise _unfit(path, said, f"{str(wanted).removeprefix('torch.')} of {dimensions} dimensions")
        if name in TYPES:
            arrays[name] = tensor.numpy()
    if "scores" in arrays and not np.isfinite(arrays["scores"]).all():
        raise _unfit(path, "scores: NaN or infinity", "finite numbers")
    lengths = {name: len(value) for name, value in arrays.items() if name != "kept"}
    if len(set(lengths.values())) > 1:
        raise _unfit(path, ", ".join(f"{name}: {size:,}" for name, size in lengths.items()), "one length for all")
    flagged = int(arrays["flagged"].sum()) if "flagged" in arrays else None
    if flagged != facts.flagged:
        raise _unfit(path, f"{flagged} samples flagged", f"{facts.flagged}, as outcome.json says")
    if "kept" in arrays and not is_ascending(arrays["kept"], next(iter(lengths.values()), None)):
        most = f"0..{next(iter(lengths.values())) - 1}" if lengths else "0 and more"
        raise _unfit(path, f"kept: {arrays['kept'][:8].tolist()}", f"ascending unique positions, {most}")
    return arrays


def _train(arrays: dict[str, NDArray[Any]], facts: OutcomeFacts, path: Path) -> ImageSet | None:
    parts = [name for name in ("images", "labels", "ids") if name in arrays]
    if not parts and facts.num_classes is None:
        return None
    if len(parts) < 3 or facts.num_classes is None:
        classes = "no" if facts.num_classes is None else facts.num_classes
        raise _unfit(path, f"{', '.join(parts) or 'no images'}; {classes} classes", "images, labels and ids, or none")
    images = arrays["images"]
    try:
        train = ImageSet(images, arrays["labels"], facts.num_classes, facts.names, arrays["ids"], classes=facts.classes)
        if images.dtype != np.uint8:
            for rows, _ in train.chunks():  # looks whether pixels are in [0, 1]
                del rows
    except InputError as error:
        error.where = f"{path.parent}: {error.where}"
        raise
    return train


def _read_model(folder: Path, like: Classifier | None, saved: bool | None) -> Classifier | None:
    if not os.path.lexists(folder):
        if saved:
            raise InputError("model of the outcome not found", where=folder)
        return None
    if saved is False:
        raise _unfit(folder, "a model", "none, as outcome.json says")
    if not folder.is_dir():
        raise _unfit(folder, "a file", "a folder")
    if read_facts(folder / "model.json").architecture is not None:
        return Classifier.load(folder, finite=False)
    return None if like is None else Classifier.load(folder, copied(like.module), finite=False)


def _unfit(path: Path, found: str, allowed: str) -> InputError:
    return InputError("not the outcome of a run", where=path, found=found, allowed=allowed, hint=RUN_AGAIN)

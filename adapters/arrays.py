"""Plain numpy arrays: one ``.npz`` file, or arrays in memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ..adapter import Adapter, Source
from ..api.arrays import array_images, integer_labels, is_one_hot
from ..core.case import Case, Origin, TriggeredSet, Truth
from ..core.classes import MOST, shown_classes
from ..core.classifier.classifier import Classifier
from ..core.images import ImageSet, Index, checked_labels
from ..core.metrics import Evaluation
from ..core.outcome import Outcome
from ..core.scale import refuse_zeros_and_ones, scale_notes
from ..errors import InputError, nearest
from ..io.files import atomic_folder
from ..io.npz import read_npz, write_npz
from .common.results import save_model
from .common.suspect import ModelOptions, suspect_model

PAIRS = (("x_train", "y_train"), ("x_clean", "y_clean"), ("x_test", "y_test"), ("x_test_poisoned", "y_test_poisoned"))
LABELS = (*(y for _, y in PAIRS), "y_test_original", "y_original")
FILE = "case.npz"
MASKS = ("is_poison", "is_cover")
KEYS = (*(x for x, _ in PAIRS), *LABELS, *MASKS)


class ArraysOptions(ModelOptions):
    """How to read arrays.

    :param layout: axes of the images: ``nhwc``, ``nchw``, or ``auto``: whichever has 1 or 3 channels, if only one has.
    :param num_classes: default: from one-hot labels, else the highest label plus one.
    :param kind: kind of poison; default: clean-label when ``y_original`` says that no poison sample was relabelled,
        else dirty-label.
    """

    added: ClassVar[Mapping[str, Any]] = {**ModelOptions.added}

    layout: Literal["auto", "nhwc", "nchw"] = "auto"
    num_classes: int | None = Field(None, ge=2, le=MOST)
    kind: Literal["dirty-label", "clean-label", "indiscriminate"] | None = None


class Arrays(Adapter):
    """``x_train``, ``y_train`` and whatever else is known, as arrays.

    ==================================== =====================================================================
    ``x_train``, ``y_train``             the suspect set
    ``x_clean``, ``y_clean``             the reserved clean set
    ``x_test``, ``y_test``               clean test samples
    ``x_test_poisoned``,                 triggered test samples with the labels the attacker wants,
    ``y_test_poisoned``,                 and
    ``y_test_original``                  their true labels
    ``is_poison``, ``is_cover``,         what the attacker did to the suspect set: masks, and
    ``y_original``                       labels before the attack
    ==================================== =====================================================================

    Images are uint8, or float in [0, 1]; float64 becomes float32. Labels are integers ``[N]`` or one-hot ``[N, K]``.

    >>> x, y = np.zeros((4, 8, 8, 3), np.uint8), [0, 1, 1, 0]
    >>> Arrays.from_arrays(x_train=x, y_train=y).train
    ImageSet(4 × (8, 8, 3), uint8, 2 classes)
    """

    name = "arrays"
    Options = ArraysOptions
    options: ArraysOptions

    def read(self, path: Path, seed: int = 0) -> Case:
        """Read an ``.npz`` file.

        :raises InputError: for unknown keys, Python objects, and arrays that do not fit together.
        """
        return self._case(read_npz(path), None, str(path))

    @classmethod
    def from_arrays(
        cls, *, model: Classifier | None = None, options: Mapping[str, Any] | None = None, **arrays: Any
    ) -> Case:
        """Make a case from arrays in memory; see the class for their names.

        :param options: see :class:`ArraysOptions`.
        """
        adapter = cls(options)
        given = {name: np.asarray(value) for name, value in arrays.items() if value is not None}
        return adapter._case(given, model, "")

    def write(self, case: Case, outcome: Outcome, evaluation: Evaluation, folder: Path, defense: str) -> list[Path]:
        """Write ``outcome.npz`` and ``model/``.

        The arrays are those the outcome holds, of ``x_train``, ``y_train`` (the sanitised set, in the layout it was
        read in), ``scores``, ``flagged`` and ``kept``.
        """
        arrays = {name: getattr(outcome, name) for name in ("scores", "flagged", "kept")}
        if outcome.train is not None:
            images = outcome.train.read(slice(0, len(outcome.train)))
            swapped = case.origin.facts.get("layout") == "nchw"
            arrays["x_train"] = images.transpose(0, 3, 1, 2) if swapped else images
            arrays["y_train"] = outcome.train.labels
        written = []
        if present := {name: value for name, value in arrays.items() if value is not None}:
            written.append(folder / "outcome.npz")
            write_npz(written[-1], present)
        if outcome.model is not None:
            written.append(save_model(outcome.model, folder))
        return written

    def export(self, case: Case, folder: Path) -> Source:
        """Write everything the case holds: ``case.npz``, and ``model/`` beside it."""
        options: dict[str, Any] = {"layout": "nhwc", "num_classes": case.num_classes}
        arrays: dict[str, Any] = dict(_arrays_of(case))
        with atomic_folder(folder) as part:
            write_npz(part / FILE, arrays)
            if case.model is not None:
                options["model"] = str(folder / save_model(case.model, part).name)
        if case.truth is not None and case.truth.kind != "none":
            options["kind"] = case.truth.kind
        return Source(adapter=self.name, path=str(folder / FILE), options=options)

    def _case(self, arrays: Mapping[str, NDArray[Any]], model: Classifier | None, path: str) -> Case:
        where = path or "arrays"
        _check_names(arrays, where)
        notes: list[str] = []
        labels = {name: arrays[name] for name in LABELS if name in arrays}
        given = {x: array_images(arrays[x], self.options.layout, f"{where}: {x}") for x, _ in PAIRS if x in arrays}
        layouts = {x: layout for x, (_, layout) in given.items()}
        if model is None:
            shown, _ = next(iter(given.values()))
            model = suspect_model(self.options, shown, notes, self.options.num_classes or _width(labels, where))
        classes = self.options.num_classes or _count_classes(labels, model, notes, where)
        numbers = {name: integer_labels(value, classes, f"{where}: {name}") for name, value in labels.items()}
        for x, (images, _) in given.items():
            refuse_zeros_and_ones(images, f"{where}: {x}")
        sets = {x: ImageSet(given[x][0], numbers[y], classes) for x, y in PAIRS if x in given}
        if len(set(layouts.values())) > 1:
            raise InputError(
                "images in two layouts", where=where, found=layouts, hint="say which, e.g. {option:layout=nhwc}"
            )
        notes += scale_notes(sets)
        triggered = sets.get("x_test_poisoned")
        return Case(
            train=sets.get("x_train"),
            clean=sets.get("x_clean"),
            model=model,
            test=sets.get("x_test"),
            test_poisoned=None if triggered is None else TriggeredSet(triggered, numbers["y_test_original"]),
            truth=self._truth(arrays, numbers, where),
            origin=Origin(self.name, path, {"layout": next(iter(layouts.values()))}),
            notes=tuple(notes),
        )

    def _truth(self, arrays: Mapping[str, NDArray[Any]], numbers: Mapping[str, Index], where: str) -> Truth | None:
        if "is_poison" not in arrays:
            return None
        n = len(numbers["y_train"])
        masks = {name: _mask(arrays[name], n, f"{where}: {name}") for name in MASKS if name in arrays}
        poison, original = masks["is_poison"], numbers.get("y_original")
        if original is not None:
            original = checked_labels(original, n, int(original.max(initial=0)) + 1, f"{where}: y_original")
        relabelled = original is None or bool((original != numbers["y_train"])[poison].any())
        kind = self.options.kind or ("dirty-label" if relabelled else "clean-label")
        return Truth(poison, masks.get("is_cover"), original, kind if poison.any() else "none")


def _arrays_of(case: Case) -> dict[str, NDArray[Any]]:
    """Return the arrays of *case* under their names; see :class:`Arrays`."""
    triggered = case.test_poisoned
    sets = {"train": case.train, "clean": case.clean, "test": case.test}
    sets["test_poisoned"] = None if triggered is None else triggered.samples
    arrays: dict[str, NDArray[Any]] = {}
    for name, images in sets.items():
        if images is not None:
            arrays |= {f"x_{name}": images.read(slice(0, len(images))), f"y_{name}": images.labels}
    if triggered is not None:
        arrays["y_test_original"] = triggered.original_labels
    if case.truth is not None:
        found = {"is_poison": case.truth.poison, "is_cover": case.truth.cover, "y_original": case.truth.original_labels}
        arrays |= {name: value for name, value in found.items() if value is not None}
    if not arrays:
        raise InputError("nothing to write", where="case", allowed="a case with at least one set")
    return arrays


def _check_names(arrays: Mapping[str, Any], where: str) -> None:
    for name in arrays:
        if name not in KEYS:
            raise InputError(
                "unknown array", where=where, found=name, allowed=", ".join(KEYS), hint=nearest(name, KEYS)
            )
    needs = [*PAIRS, *((y, x) for x, y in PAIRS), ("is_poison", "x_train")]
    needs += [("x_test_poisoned", "y_test_original"), ("y_test_original", "x_test_poisoned")]
    needs += [("is_cover", "is_poison"), ("y_original", "is_poison")]
    for name, partner in needs:
        if name in arrays and partner not in arrays:
            raise InputError("array missing", where=where, found=f"{name} without {partner}", allowed="both or neither")
    if not arrays:
        raise InputError("no arrays", where=where, allowed=", ".join(KEYS))


def _count_classes(labels: Mapping[str, NDArray[Any]], model: Classifier | None, notes: list[str], where: str) -> int:
    if model is not None:
        return model.num_classes
    if (width := _width(labels, where)) is not None:
        return width
    count = max(1, shown_classes((array for array in labels.values() if array.dtype.kind in "iu"), where))
    notes.append(f"number of classes taken from the highest label: {count} (option num_classes)")
    return count


def _width(labels: Mapping[str, NDArray[Any]], where: str) -> int | None:
    """Return the width of one-hot labels, or None when none are one-hot."""
    widths = {name: array.shape[1] for name, array in labels.items() if is_one_hot(array)}
    if len(set(widths.values())) > 1:
        raise InputError("one-hot labels of different width", where=where, found=widths)
    return int(next(iter(widths.values()))) if widths else None


def _mask(array: NDArray[Any], n: int, where: str) -> NDArray[np.bool_]:
    if array.shape != (n,) or array.dtype.kind not in "biu" or not np.isin(array, (0, 1)).all():
        raise InputError("not a mask", where=where, found=f"{array.dtype} {array.shape}", allowed=f"0 or 1, [{n}]")
    return array.astype(bool)

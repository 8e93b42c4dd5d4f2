"""BackdoorBench records (https://github.com/SCLBD/BackdoorBench): read without the toolkit, written as it expects.

Facts about the format were taken from the toolkit's behaviour; none of its code (CC BY-NC) is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from ...adapter import Adapter, Placement, Source
from ...core.case import Case, Origin, TriggeredSet
from ...core.classifier.classifier import Classifier, build_module
from ...core.classifier.weights import WRAPPERS, build_by_name
from ...core.draws import Draw
from ...core.images import ImageBacking, ImageSet, Index, LazyImages
from ...core.metrics import Evaluation
from ...core.outcome import Outcome
from ...core.settings import Settings
from ...errors import InputError, nearest
from ...io.files import write_csv, write_torch
from ...plugins import plugins
from ..common.images import attempts, eager_or_lazy, fill, refuse
from ..common.models import assumed_normalisation
from .checkout import checkout_files
from .data import DATASETS, EAGER_BYTES, find_data, read_clean
from .record import Part, Record, read_part, read_record, truth_of
from .reserved import RESERVING, reserved_clean
from .results import (
    ARCHITECTURES,
    COLUMNS,
    VIT_PREFIX,
    VIT_SIZE,
    differences,
    export_case,
    measured,
    result_of,
    write_sanitised,
)
from .write import append_detection


class BackdoorBenchOptions(Settings):
    """How to read a record.

    :param data: folder of the clean data; default: where the record says, looked for next to each parent folder.
    :param clean_ratio: size of the reserved clean set, as a share of the set it is drawn from.
    :param clean_from: ``"train"``: clean originals of the training set, BackdoorBench's own convention. ``"test"``:
        drawn from the test set, and taken out of everything that is scored.
    :param clean_draw: ``"stratified"``: every class has its share of the reserved clean set, and at least one sample
        where the size allows. ``"uniform"``: BackdoorBench's own convention, which may leave out small classes.
    :param architecture: network the weights belong to, where ``model_name`` does not say it.
    :param mean, std: normalisation per channel; default: the toolkit's for the data set.
    :param index: text file with the positions of the reserved clean set in the clean training set, one per line; in
        place of ``clean_ratio``.
    :param dataset: only for writing a case that did not come from a record: the toolkit's name of the data set that the
        attack started from, e.g. ``cifar10``; needs ``data``.
    :param placed_as: only for writing: where the record will lie in a checkout, e.g. ``record/badnet_0_1``; changed
        images then become PNG files, named as BackdoorBench opens them there. Default: where it is written to.
    """

    added: ClassVar[Mapping[str, Any]] = {"clean_draw": "uniform", "placed_as": None}

    data: Path | None = None
    clean_ratio: float = Field(0.05, gt=0, le=1)
    clean_from: Literal["train", "test"] = "train"
    clean_draw: Draw = "stratified"
    architecture: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    index: Path | None = None
    dataset: str | None = None
    placed_as: str | None = Field(None, pattern=r"^record(/[\w.-]*\w[\w.-]*)+$")


class BackdoorBench(Adapter):
    """``record/<name>/attack_result.pt`` with the PNG files beside it, v1 and v2 of the format.

    The suspect set is the poisoned training set in the toolkit's order; ``ids`` are original indices. Records
    without one (Blind, LIRA) give a case without suspect set.
    """

    name = "backdoorbench"
    Options = BackdoorBenchOptions
    options: BackdoorBenchOptions

    def read(self, path: Path, seed: int = 0) -> Case:
        """Read a record folder, or the ``attack_result.pt`` in it.

        All images of the record are decoded here, so that a damaged one shows before any work starts.
        """
        record = read_record(path)
        folder = find_data(record.folder, record.data_path, self.options.data)
        clean = read_clean(record.dataset, folder, record.num_classes, record.shape)
        notes = list(clean.notes)
        model, facts = self._model(record, notes)
        facts |= {"data": str(folder.absolute()), "data_path": record.data_path}
        facts |= {"train_size": len(clean.train), "test_size": len(clean.test)}
        train = truth = None
        if record.train is None:
            notes.append("the record holds no poisoned training set: defenses that need one cannot run on it")
        else:
            part = read_part(record, "bd_train", clean.train)
            train, truth = _suspect_set(part, clean.train), truth_of(part, clean.train)
        reserved, free, note = reserved_clean(clean, seed, **{name: getattr(self.options, name) for name in RESERVING})
        return Case(
            train=train,
            clean=reserved,
            model=model,
            test=clean.test if free is None else clean.test.subset(free),
            test_poisoned=_triggered_set(read_part(record, "bd_test", clean.test), clean.test, free, notes),
            truth=truth,
            origin=Origin(self.name, str(record.folder), facts),
            notes=(*notes, note),
            mirror=None if (known := DATASETS.get(record.dataset)) is None else known.mirror,
        )

    def result_folder(self, case: Case, defense: str) -> Path | None:
        """``<record>/defense/<defense>``, where BackdoorBench keeps its own results."""
        return Path(case.origin.path) / "defense" / defense

    def write(self, case: Case, outcome: Outcome, evaluation: Evaluation, folder: Path, defense: str) -> list[Path]:
        """Write what the outcome holds, as BackdoorBench's own defenses leave it.

        - ``<defense>_df.csv``, ``<defense>_df_summary.csv``: one row, the state that was measured. What was not
          measured stays empty.
        - ``defense_result.pt``: the model.
        - ``sanitised/attack_result.pt``: a purified or relabelled set, as a record with the suspect model.
        - ``detection_info.csv``: what was flagged; in ``<record>/detection/<defense>_pretrain``, where detection
          methods keep it, unless the results go elsewhere.
        """
        written = []
        if outcome.model is not None:
            written.append(folder / "defense_result.pt")
            write_torch(written[-1], result_of(outcome.model, case.origin.facts))
            found = differences(outcome.model, case.origin.facts)
            outcome.notes += [note for note in found if note not in outcome.notes]
        row = measured(evaluation)
        worst = ["" if value == "nan_value" else value for value in row]
        summary = [["last", *row], ["valid_max", *worst], ["exist_nan_value", *(value == "nan_value" for value in row)]]
        for name, rows in ((f"{defense}_df.csv", [["0", *row]]), (f"{defense}_df_summary.csv", summary)):
            written.append(folder / name)
            write_csv(written[-1], ["", *COLUMNS], rows)
        if outcome.train is not None:
            written.append(write_sanitised(case, outcome, folder / "sanitised"))
        if outcome.flagged is not None and case.truth is not None:
            at_home = folder == self.result_folder(case, defense)
            place = Path(case.origin.path) / "detection" / f"{defense}_pretrain" if at_home else folder
            written.append(place / "detection_info.csv")
            append_detection(written[-1], case, outcome)
        return written

    def export(self, case: Case, folder: Path) -> Source:
        """Write *case* as a record: ``attack_result.pt`` and, below a folder ``record``, its PNG files.

        Only samples that differ from the clean data are stored, so the clean data must be named: the case came from a
        record, or options ``dataset`` and ``data`` say them. The reserved clean set has no place in a record; it is
        drawn anew when the record is read.
        """
        dataset, data, data_path = self._clean_of(case)
        options = export_case(case, folder, dataset, data, data_path, placed_as=self.options.placed_as)
        return Source(adapter=self.name, path=str(folder), options=options)

    def placement(self, root: Path, defenses: Sequence[str]) -> Placement:
        """Return ``defense/<name>.py`` and ``config/defense/<name>/*.yaml`` for each of *defenses*."""
        return checkout_files(root, defenses)

    def _clean_of(self, case: Case) -> tuple[str, Path, str]:
        """Return name, folder and recorded path of the clean data that *case* started from."""
        facts = case.origin.facts if case.origin.adapter == self.name else {}
        dataset = self.options.dataset or facts.get("dataset")
        data = self.options.data or (Path(facts["data"]) if facts else None)
        if dataset is None or data is None:
            raise InputError(
                "a record needs the clean data it started from",
                where=f"case from {case.origin.adapter}",
                found=f"data set {dataset or 'not named'}, folder {data or 'not named'}",
                allowed="a data set of BackdoorBench, with the samples in its order",
                hint="name them, e.g. {to_option:dataset=cifar10} {to_option:data=data/cifar10}",
            )
        return dataset, data, facts.get("data_path", f"./data/{dataset}")

    def _model(self, record: Record, notes: list[str]) -> tuple[Classifier, dict[str, Any]]:
        architecture = self.options.architecture or _architecture(record)
        weights, prefix = _without_prefix(record.weights)
        make = partial(build_module, architecture, record.num_classes, record.shape[2])
        module = build_by_name(make, weights, where=f"{record.file}: model")
        known = DATASETS.get(record.dataset)
        mean = self.options.mean or (known.mean if known else (0.0,))
        std = self.options.std or (known.std if known else (1.0,))
        if known is None:
            notes += assumed_normalisation(record.dataset, self.options.mean, self.options.std)
        size = VIT_SIZE if prefix or architecture.startswith("vit_") else None
        model = Classifier(
            module, record.num_classes, mean=mean, std=std, architecture=architecture, input_size=size
        ).eval()
        facts = {
            "model_name": record.model_name,
            "num_classes": record.num_classes,
            "dataset": record.dataset,
            "img_size": list(record.shape),
            "architecture": architecture,
            "key_prefix": prefix,
            "mean": list(mean),
            "std": list(std),
        }
        return model, facts


def _architecture(record: Record) -> str:
    name = record.model_name
    offered = plugins().offers()["architecture"]
    if name in ARCHITECTURES or name in offered:
        return name
    raise InputError(
        "model of the record is not supported",
        where=f"{record.file}: model_name",
        found=name,
        allowed=", ".join(ARCHITECTURES),
        hint=nearest(name, ARCHITECTURES) or "name a fitting network with option architecture",
    )


def _without_prefix(weights: Any) -> tuple[Any, str]:
    """Strip the names of wrapped networks; return also what was stripped beyond the wrappers of torch."""
    if not isinstance(weights, Mapping):
        return weights, ""
    plain = {str(name).removeprefix(WRAPPERS[0]): value for name, value in weights.items()}
    if plain and all(name.startswith(VIT_PREFIX) for name in plain):
        return {name.removeprefix(VIT_PREFIX): value for name, value in plain.items()}, VIT_PREFIX
    return plain, ""


def _suspect_set(part: Part, clean: ImageSet) -> ImageSet:
    rows = np.flatnonzero(part.held)
    labels = clean.labels[part.index].copy()
    labels[rows] = part.labels
    images: ImageBacking
    if isinstance(clean.images, np.ndarray):
        images = clean.images[part.index]
        fill(images, rows, part.read)
    else:
        _decode_once(part)
        place = {int(row): k for k, row in enumerate(rows)}
        backing, index = clean.images, part.index
        images = LazyImages(
            lambda i: part.read(place[i]) if i in place else backing[index[i : i + 1]][0], len(index), clean.image_shape
        )
    return ImageSet(images, labels, clean.num_classes, ids=part.index)


def _triggered_set(part: Part, clean: ImageSet, free: Index | None, notes: list[str]) -> TriggeredSet | None:
    """Return the triggered test samples, without those whose originals went into the reserved clean set."""
    if not part.held.all():
        notes.append(f"{int((~part.held).sum())} samples of bd_test carry no trigger and are not scored as triggered")
    positions = part.index[part.held]
    if not len(positions):
        return None
    images = eager_or_lazy(part.read, len(positions), clean.image_shape, EAGER_BYTES)
    if not isinstance(images, np.ndarray):
        _decode_once(part)
    samples = ImageSet(images, part.labels, clean.num_classes, ids=positions)
    triggered = TriggeredSet(samples, part.original_labels)
    if free is None:
        return triggered
    rows = np.flatnonzero(np.isin(positions, free))
    return TriggeredSet(samples.subset(rows), part.original_labels[rows])


def _decode_once(part: Part) -> None:
    found = attempts(lambda position: part.read(position)[:0].copy(), range(len(part.labels)))
    refuse([each for each in found if isinstance(each, InputError)], len(part.labels))

"""BackdoorBench records (https://github.com/SCLBD/BackdoorBench): read without the toolkit, written as it expects.

Facts about the format were taken from the toolkit's behaviour; none of its code (CC BY-NC) is used.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from ..adapter import Adapter
from ..case import Case, ImageBacking, ImageSet, Index, LazyImages, Origin, TriggeredSet
from ..classifier import WRAPPERS, Classifier, build_module, load_by_name
from ..config import Settings
from ..context import derive_seed
from ..errors import InputError, nearest
from ..evaluation import Evaluation
from ..outcome import Outcome
from ..plugins import plugins
from ..storage import write_csv, write_torch
from ._backdoorbench_data import DATASETS, EAGER_BYTES, CleanData, find_data, read_clean
from ._backdoorbench_record import Part, Record, read_part, read_record, truth_of
from ._files import eager_or_lazy, fill, in_threads

# googlenet and inception_v3 return tuples in training mode, which the toolkit's own trainer cannot handle
# fmt: off
ARCHITECTURES = (
    "preactresnet18", "resnet18", "resnet34", "resnet50", "vgg11", "vgg16", "vgg19", "vgg19_bn", "alexnet",
    "squeezenet1_0", "densenet121", "densenet161", "shufflenet_v2_x1_0", "mobilenet_v2", "mobilenet_v3_large",
    "resnext50_32x4d", "wide_resnet50_2", "mnasnet1_0", "efficientnet_b0", "efficientnet_b3", "vit_b_16", "vit_b_32",
    "vit_l_16", "vit_l_32", "convnext_tiny",
)
# fmt: on
VIT_PREFIX, VIT_SIZE = "1.", 224  # the toolkit wraps these as Sequential(Resize(224), vit)
COLUMNS = (
    "epoch",
    "batch",
    "train_epoch_loss_avg_over_batch",
    "train_acc",
    "clean_test_loss_avg_over_batch",
    "bd_test_loss_avg_over_batch",
    "test_acc",
    "test_asr",
    "test_ra",
)


class BackdoorBenchOptions(Settings):
    """How to read a record.

    :param data: folder of the clean data; default: where the record says, looked for next to each parent folder.
    :param clean_ratio: size of the reserved clean set, as a share of the set it is drawn from.
    :param clean_from: ``"train"``: clean originals of the training set, BackdoorBench's own convention. ``"test"``:
        drawn from the test set, and taken out of everything that is scored.
    :param architecture: network the weights belong to, where ``model_name`` does not say it.
    :param mean, std: normalisation per channel; default: the toolkit's for the data set.
    """

    data: Path | None = None
    clean_ratio: float = Field(0.05, gt=0, le=1)
    clean_from: Literal["train", "test"] = "train"
    architecture: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


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
        train = truth = None
        if record.train is None:
            notes.append("the record holds no poisoned training set: defenses that need one cannot run on it")
        else:
            part = read_part(record, "bd_train", clean.train)
            train, truth = _suspect_set(part, clean.train), truth_of(part, clean.train)
        reserved, free, note = self._reserved(clean, seed)
        return Case(
            train=train,
            clean=reserved,
            model=model,
            test=clean.test if free is None else clean.test.subset(free),
            test_poisoned=_triggered_set(read_part(record, "bd_test", clean.test), clean.test, free, notes),
            truth=truth,
            origin=Origin(self.name, str(record.folder), facts),
            notes=(*notes, note),
        )

    def result_folder(self, case: Case, defense: str) -> Path | None:
        """``<record>/defense/<defense>``, where BackdoorBench keeps its own results."""
        return Path(case.origin.path) / "defense" / defense

    def write(self, case: Case, outcome: Outcome, evaluation: Evaluation, folder: Path, defense: str) -> list[Path]:
        """Write ``<defense>_df.csv``, ``<defense>_df_summary.csv`` and, when there is a model, ``defense_result.pt``.

        The tables have one row: the state that was measured. What was not measured stays empty.
        """
        written = []
        if outcome.model is not None:
            written.append(folder / "defense_result.pt")
            write_torch(written[-1], _result(outcome.model, case.origin.facts))
        row = _measured(evaluation)
        worst = ["" if value == "nan_value" else value for value in row]
        summary = [["last", *row], ["valid_max", *worst], ["exist_nan_value", *(value == "nan_value" for value in row)]]
        for name, rows in ((f"{defense}_df.csv", [["0", *row]]), (f"{defense}_df_summary.csv", summary)):
            written.append(folder / name)
            write_csv(written[-1], ["", *COLUMNS], rows)
        return written

    def _model(self, record: Record, notes: list[str]) -> tuple[Classifier, dict[str, Any]]:
        architecture = self.options.architecture or _architecture(record)
        module = build_module(architecture, record.num_classes, record.shape[2])
        weights, prefix = _without_prefix(record.weights)
        load_by_name(module, weights, where=f"{record.file}: model")
        known = DATASETS.get(record.dataset)
        mean = self.options.mean or (known.mean if known else (0.0,))
        std = self.options.std or (known.std if known else (1.0,))
        if known is None and self.options.mean is None:
            notes.append(
                f"normalisation of data set {record.dataset!r} is not known: none applied; see options mean, std"
            )
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

    def _reserved(self, clean: CleanData, seed: int) -> tuple[ImageSet, Index | None, str]:
        """Draw the reserved clean set; also return which test positions are left to score (None: all), and a note."""
        ratio, source = self.options.clean_ratio, self.options.clean_from
        pool = clean.train if source == "train" else clean.test
        count = max(1, round(ratio * len(pool)))
        if count > len(pool) - (source == "test"):
            raise InputError(
                "reserved clean set too large",
                where="option clean_ratio",
                found=f"{ratio} of {len(pool)} samples",
                allowed="at least one test sample must be left to score",
            )
        rows = np.sort(np.random.default_rng(derive_seed(seed, "backdoorbench/clean")).choice(len(pool), count, False))
        if source == "train":
            note = (
                f"reserved clean set: {count} of the {len(pool)} clean originals of the training set, drawn uniformly "
                "(BackdoorBench's convention). This is an oracle: who holds only the suspect set does not have them"
            )
            return pool.subset(rows), None, note
        note = f"reserved clean set: {count} of the {len(pool)} clean test samples, which are not scored"
        return pool.subset(rows), np.setdiff1d(np.arange(len(pool)), rows), note


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
    for _ in in_threads(part.read, range(len(part.labels))):
        pass


def _result(model: Classifier, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the three keys of ``defense_result.pt``, the weights under the toolkit's own names."""
    name, prefix = facts["model_name"], facts["key_prefix"]
    if model.architecture != facts["architecture"]:  # the defense trained another network
        name = model.architecture or type(model.module).__name__
        prefix = VIT_PREFIX if name.startswith("vit_") else ""
    weights = {prefix + key: value.detach().cpu().clone() for key, value in model.module.state_dict().items()}
    return {"model_name": name, "num_classes": model.num_classes, "model": weights}


def _measured(evaluation: Evaluation) -> list[Any]:
    """Return the values of one row; the toolkit writes NaN as ``nan_value``."""
    names = ("clean_loss", "triggered_loss", "acc", "asr", "ra")
    values = [None if evaluation.after is None else getattr(evaluation.after, name) for name in names]
    return [0, "", "", "", *("" if value is None else "nan_value" if math.isnan(value) else value for value in values)]

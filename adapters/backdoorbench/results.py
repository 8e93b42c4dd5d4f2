"""What BackdoorBench's own scripts leave, made from a case or an outcome: results of a defense, and whole records."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...core.case import Case
from ...core.classifier.classifier import Classifier
from ...core.metrics import Evaluation
from ...core.outcome import Outcome
from ...errors import InputError
from ..common.images import different
from ..common.models import unlike_host
from .data import find_data, read_clean
from .record import Held
from .write import Head, changed_rows, checked_ids, write_record

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


def export_case(
    case: Case, folder: Path, dataset: str, data: Path, data_path: str, *, placed_as: str | None = None
) -> dict[str, Any]:
    """Write *case* as a record in *folder* and return the options it has to be read with.

    :param dataset, data, data_path: name, folder and recorded path of the clean data the case started from.
    :param placed_as: where it will lie in a checkout; see :class:`~.adapter.BackdoorBenchOptions`.
    :raises InputError: when the case and these data do not belong together, or BackdoorBench has no such network.
    """
    shape = next(each.image_shape for each in (case.train, case.test, case.clean) if each is not None)
    clean = read_clean(dataset, data, case.num_classes, shape)
    facts = {"dataset": dataset, "data_path": data_path}
    head = _head(case, shape, {**facts, "train_size": len(clean.train), "test_size": len(clean.test)})
    if head.model_name not in ARCHITECTURES:
        raise InputError(
            "BackdoorBench cannot build this network",
            where="model of the case",
            found=head.model_name,
            allowed=", ".join(ARCHITECTURES),
            hint="train one of these, e.g. {retrain:architecture=preactresnet18}",
        )
    held = originals = None
    if case.train is not None:
        known = None if case.truth is None else case.truth.original_labels
        checked_ids(case.train, known, clean.train, "suspect set")
        originals = clean.train.labels[case.train.ids]
        held = _held(case, changed_rows(case.train, clean.train, case.train.ids))
    if case.test_poisoned is not None:
        triggered = case.test_poisoned
        checked_ids(triggered.samples, triggered.original_labels, clean.test, "triggered test set")
    write_record(head, case, held, originals, folder, placed_as=placed_as)
    options: dict[str, Any] = {} if _finds(folder, data_path, data) else {"data": str(data)}
    if case.model is not None and case.model.architecture not in (head.model_name, None):
        options["architecture"] = case.model.architecture
    return options


def write_sanitised(case: Case, outcome: Outcome, folder: Path) -> Path:
    """Write the sanitised set as a record; every sample that the attack or the defense changed is stored."""
    assert case.train is not None and case.truth is not None and outcome.train is not None
    head = _head(case, case.train.image_shape, case.origin.facts)
    changed = outcome.train.labels != case.train.labels
    for part, images in outcome.train.chunks():
        changed[part] |= different(images, case.train.read(part))
    rows = np.arange(len(changed)) if outcome.kept is None else outcome.kept
    assert case.truth.cover is not None and case.truth.original_labels is not None
    held = (changed | case.truth.poison | case.truth.cover)[rows]
    left = dataclasses.replace(case, train=outcome.train.subset(rows), truth=None)
    return write_record(head, left, held, case.truth.original_labels[rows], folder)


def result_of(model: Classifier, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the three keys of ``defense_result.pt``, the weights under the toolkit's own names."""
    name, prefix = facts["model_name"], facts["key_prefix"]
    if model.architecture != facts["architecture"]:  # the defense trained another network
        name = model.architecture or type(model.module).__name__
        prefix = VIT_PREFIX if name.startswith("vit_") else ""
    weights = {prefix + key: value.detach().cpu().clone() for key, value in model.module.state_dict().items()}
    return {"model_name": name, "num_classes": model.num_classes, "model": weights}


def differences(model: Classifier, facts: Mapping[str, Any]) -> list[str]:
    """Return notes on why the toolkit's own scripts cannot read *model*, or measure other numbers for it."""
    name = result_of(model, facts)["model_name"]
    size = VIT_SIZE if name.startswith("vit_") else None
    unknown = [] if name == facts["model_name"] else cannot_build(name)
    return [*unknown, *unlike_host(model, "BackdoorBench", facts["mean"], facts["std"], size)]


def cannot_build(name: str) -> list[str]:
    """Return a note when BackdoorBench has no network *name*."""
    if name in ARCHITECTURES or name in ("googlenet", "inception_v3"):
        return []
    return [
        f"BackdoorBench cannot build a network called {name}: its own scripts fail on this defense_result.pt. It has "
        f"{', '.join(ARCHITECTURES)}"
    ]


def measured(evaluation: Evaluation) -> list[Any]:
    """Return the values of one row; the toolkit writes NaN as ``nan_value``."""
    names = ("clean_loss", "triggered_loss", "acc", "asr", "ra")
    values = [None if evaluation.after is None else getattr(evaluation.after, name) for name in names]
    return [0, "", "", "", *("" if value is None else "nan_value" if math.isnan(value) else value for value in values)]


def _head(case: Case, shape: tuple[int, int, int], facts: Mapping[str, Any]) -> Head:
    """Return the head of a record for *case*; its model goes by the name the toolkit builds it under."""
    if case.model is None:
        raise InputError("a record needs a model", where="case", found="none", hint="read the case with its model")
    result = result_of(case.model, {"model_name": "", "architecture": "", "key_prefix": "", **case.origin.facts})
    return Head(
        model_name=result["model_name"],
        num_classes=case.num_classes,
        weights=result["model"],
        data_path=facts["data_path"],
        dataset=facts["dataset"],
        shape=shape,
        train_size=facts["train_size"],
        test_size=facts["test_size"],
    )


def _held(case: Case, changed: Held) -> Held:
    """Return which samples a record has to store: those the attack touched, and all others that are not clean."""
    if case.truth is None:
        return changed
    assert case.truth.cover is not None
    touched = case.truth.poison | case.truth.cover
    if others := int((changed & ~touched).sum()):
        logging.getLogger(__name__).warning(
            "%d samples differ from the clean data though the attack did not touch them; BackdoorBench has one mark "
            "for all samples it stores, and will count them as poison",
            others,
        )
    return touched | changed


def _finds(folder: Path, data_path: str, data: Path) -> bool:
    """Tell whether a record in *folder* leads to *data* by itself."""
    try:
        return find_data(folder, data_path, None).samefile(data)
    except InputError:
        return False

"""How a set lies in its folder, format by format, and how it is read back through the adapters.

==================== ================================================================================
``image_folder``     ``set/{train,clean,test}/<class>/<file>.png``, ``set/model/``, ``triggered/<class>/<file>.png``
``arrays``           ``set/case.npz``, ``set/model/``
``backdoorbench``    ``record/<entry>/attack_result.pt`` and its PNG files, ``data/<name>/`` with the clean data,
                     ``reserved.txt``: the positions of the reserved clean set in it
==================== ================================================================================
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from ..adapter import Source, get_adapter
from ..core.case import Case
from ..core.images import ImageSet, Index
from ..errors import InputError
from ..io.files import inside, writing
from ..io.opening import open_file
from ..testbed.sources import Base
from .content import Rows, content_of
from .manifest import Format, Reading

SET, TRIGGERED, INDEX = "set", "triggered", "reserved.txt"
OWN_DATA = "zoo"  # what BackdoorBench records call clean data that lie in class folders


def refuse_unfit(base: Base, to: Format, *, model: bool) -> None:
    """Refuse what the format *to* cannot hold.

    :param model: whether there will be one.
    :raises InputError: for fine pixels and 8 bits, and for a record without model or test set.
    """
    if to != "arrays" and any(each.images.dtype != np.uint8 for each in (base.splits.train, base.splits.test)):
        raise InputError(
            "this format holds 8 bits per value, the base has finer steps",
            where="{argument:to}",
            found=to,
            allowed="arrays, which keeps them",
        )
    if to != "backdoorbench":
        return
    if not model:
        raise InputError(
            "a BackdoorBench record needs a model",
            where="{argument:to}",
            found="none",
            hint="have one trained, or take another format: {argument:to=arrays}",
        )
    if not len(base.splits.test):
        raise InputError("a BackdoorBench record needs a test set", where="base", found="no test images")


def write_set(case: Case, base: Base, name: str, to: Format, folder: Path) -> Reading:
    """Write *case* in the format *to* below *folder*, and return how it is read.

    :param case: see :func:`refuse_unfit`.
    :param base: what *case* was made from; a record needs all of its images.
    :param name: of the entry.
    """
    if to == "backdoorbench":
        return _write_record(case, base, name, folder)
    return _write_plain(case, to, folder)


def read_set(reading: Reading, folder: Path) -> Case:
    """Read the set in *folder* through its adapter, without its model where that can be left out.

    :raises InputError: when it cannot be read.
    """
    path = inside(folder, reading.path)
    case = get_adapter(reading.adapter)(reading.options(folder, model=False)).read(path, 0)
    if reading.adapter == "backdoorbench" and reading.index is None:  # then a clean set was drawn that is not the zoo's
        case = dataclasses.replace(case, clean=None)
    return case


def read_content(reading: Reading, folder: Path) -> dict[str, Rows]:
    """Return what is read from *folder*, sample by sample; without the truth where the format has none."""
    content = content_of(read_set(reading, folder))
    if reading.triggered is not None:
        options = reading.options(folder, model=False) | {"classes": None}
        if reading.triggered_classes is not None:
            options["classes"] = str(inside(folder, reading.triggered_classes))
        triggered = get_adapter(reading.adapter)(options).read(inside(folder, reading.triggered), 0)
        content["triggered"] = content_of(triggered)["train"]
    return dict(sorted(content.items()))


def has_truth(to: Format) -> bool:
    """Whether the format has a place for which samples are poison and covers, and for original labels."""
    return to != "image_folder"


def how_to_read(reading: Reading, folder: Path) -> Source:
    """Return the source to give to ``--from``, with its options."""
    return Source(adapter=reading.adapter, path=str(folder / reading.path), options=reading.options(folder))


def _write_plain(case: Case, to: Format, folder: Path) -> Reading:
    source = get_adapter(to)().export(_without_triggered(case) if to == "image_folder" else case, folder / SET)
    facts: dict[str, Any] = {"path": _relative(source.path, folder)}
    for name, value in source.options.items():
        facts[name] = _relative(value, folder) if name in ("model", "classes") else value
    if to == "image_folder" and case.test_poisoned is not None:
        facts |= _write_triggered(case.test_poisoned.samples, folder)
    return Reading.build({"adapter": to, **facts})


def _write_triggered(samples: ImageSet, folder: Path) -> dict[str, Any]:
    """Write class folders of triggered test images; each lies in the class that the attacker wants."""
    source = get_adapter("image_folder")().export(Case(train=samples), folder / TRIGGERED)
    facts: dict[str, Any] = {"triggered": f"{TRIGGERED}/train"}
    if "classes" in source.options:
        facts["triggered_classes"] = _relative(source.options["classes"], folder)
    return facts


def _without_triggered(case: Case) -> Case:
    return dataclasses.replace(case, test_poisoned=None, truth=None)  # both lie beside the set


def _write_record(case: Case, base: Base, name: str, folder: Path) -> Reading:
    """Write a record with the clean data that it needs, so that the folder can be used as that of a checkout."""
    model = case.model
    assert model is not None
    if base.origin is not None and base.origin.adapter == "cifar" and base.own_test:
        dataset = base.origin.facts["dataset"]
        _copy(base.origin.facts["files"], folder / "data" / dataset / base.origin.facts["folder"])
        reserved = base.splits.clean.ids
    else:
        dataset = OWN_DATA
        case, reserved = _write_data(case, base, folder / "data" / dataset)
    record = f"record/{name}"
    options = {"dataset": dataset, "data": str(folder / "data" / dataset), "placed_as": record}
    get_adapter("backdoorbench")(options).export(case, folder / record)
    facts: dict[str, Any] = {"path": record}
    if len(reserved):
        with writing(folder / INDEX):
            (folder / INDEX).write_text("".join(f"{row}\n" for row in sorted(reserved.tolist())), encoding="utf-8")
        facts["index"] = INDEX
    facts |= {"mean": model.mean.flatten().tolist(), "std": model.std.flatten().tolist()}
    return Reading.build({"adapter": "backdoorbench", **facts})


def _write_data(case: Case, base: Base, folder: Path) -> tuple[Case, Index]:
    """Write the unpoisoned base as class folders; return *case* with ids that are positions in them.

    Also return the positions of the reserved clean set, which lies in the training part as BackdoorBench has it.
    """
    splits = base.splits
    train, test = _nameless(splits.train, splits.clean), _nameless(splits.test)
    get_adapter("image_folder")().export(Case(train=train, test=test), folder)
    places, test_places = _places(train), _places(test)
    assert case.train is not None
    suspects = _with_ids(case.train, places[: len(splits.train)])
    triggered = case.test_poisoned
    if triggered is not None:
        rows = dict(zip(splits.test.ids.tolist(), test_places.tolist(), strict=True))
        at = np.array([rows[sample] for sample in triggered.samples.ids.tolist()], np.int64)
        triggered = dataclasses.replace(triggered, samples=_with_ids(triggered.samples, at))
    return dataclasses.replace(case, train=suspects, test_poisoned=triggered), places[len(splits.train) :]


def _nameless(*parts: ImageSet) -> ImageSet:
    """Return all *parts* as one set; without names, files and folders get numbers, which sort alike everywhere."""
    images = np.concatenate([each.read(slice(0, len(each))) for each in parts])
    return ImageSet(images, np.concatenate([each.labels for each in parts]), parts[0].num_classes)


def _places(images: ImageSet) -> Index:
    """Return where each sample is once the set is read from class folders: class by class, each in its order."""
    order = np.argsort(images.labels, kind="stable")
    places = np.empty(len(order), np.int64)
    places[order] = np.arange(len(order))
    return places


def _with_ids(images: ImageSet, ids: Index) -> ImageSet:
    return ImageSet(images.images, images.labels, images.num_classes, ids=ids)


def _copy(files: list[str], folder: Path) -> None:
    with writing(folder):
        folder.mkdir(parents=True)
        for each in files:
            with open_file(Path(each)) as source, (folder / Path(each).name).open("wb") as target:
                shutil.copyfileobj(source, target)


def _relative(path: str, folder: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()

"""Every way on which a path enters the project: what is read, from which room, and what takes the hostile file's place.

A reader is called with the path of a hostile file or folder; it makes its room, puts the file in the place of the valid
one, and reads. Tests use the parts instead, so that a room is made once.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import rooms
from calls import (
    adapter,
    append,
    at,
    blended,
    card,
    case_of,
    compared,
    denoiser,
    exported,
    flags,
    inspected,
    load_weights,
    native,
    of,
    pipeline,
    resumed,
    save,
    stored,
)

Room = Callable[[Path], None]
SINGLE: Room = rooms.single


@dataclass(frozen=True)
class Reader:
    """One way to read.

    :param room: makes valid input in a new folder.
    :param slot: which file or folder in it the hostile one replaces.
    :param read: is called with the folder.
    :param writes: places in the folder that the reader may write to.
    :param kin: families of kinds that are close to what it reads.
    :param adds: whether it is to change the file, e.g. to make it longer.
    """

    name: str
    room: Room
    slot: str
    read: Callable[[Path], object]
    writes: tuple[str, ...] = ()
    kin: tuple[str, ...] = ()
    adds: bool = False

    def __call__(self, path: Path) -> object:
        """Read *path* in a room of its own."""
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name, "room")
            self.room(folder)
            put(path, folder / self.slot)
            return self.read(folder)


def put(path: Path, slot: Path) -> None:
    """Put what is at *path* at *slot*, whatever kind of file it is; the content of a file is shared, not copied."""
    clear(slot)
    if path.is_dir() and not path.is_symlink():
        shutil.copytree(path, slot, symlinks=True, copy_function=_linked)
    else:
        _linked(path, slot)


def _linked(source: str | Path, target: str | Path) -> None:
    os.link(source, target, follow_symlinks=False)


def clear(slot: Path) -> None:
    """Remove what is at *slot*, also folders that are too many in each other for Python, or closed."""
    if slot.is_symlink() or not slot.is_dir():
        slot.unlink(missing_ok=True)
        return
    try:
        shutil.rmtree(slot)
    except (OSError, RecursionError):
        subprocess.run(["chmod", "-R", "u+rwX", slot], check=False, capture_output=True)
        subprocess.run(["rm", "-rf", slot], check=True)


_IMAGES, _DATA, _DOCUMENTS, _TREES = "images", "data_files", "documents", "trees"
_SET, _BLEND = (
    f"poisoned_train_set/cifar10/{name}"
    for name in ("badnet_0.100_poison_seed=0", "blend_0.100_alpha=0.200_poison_seed=0")
)
_RECORD = "record/fake"
_CIFAR = "data/cifar10/cifar-10-batches-py"


def _io() -> list[Reader]:
    make = partial(Reader, room=SINGLE)
    reading, classes = "io.reading", "adapters.common.class_names"
    return [
        make("io.read_image", slot="image.png", read=of("io.images", "read_image", "image.png"), kin=(_IMAGES,)),
        make(
            "io.read_image upright",
            slot="image.jpg",
            read=of("io.images", "read_image", "image.jpg", 1, upright=True),
            kin=(_IMAGES,),
        ),
        make("io.image_header", slot="image.png", read=of("io.images", "image_header", "image.png"), kin=(_IMAGES,)),
        make("io.read_torch", slot="data.pt", read=of(reading, "read_torch", "data.pt"), kin=(_DATA,)),
        make("io.read_plain_pickle", slot="data.pkl", read=of(reading, "read_plain_pickle", "data.pkl"), kin=(_DATA,)),
        make("io.read_json", slot="data.json", read=of(reading, "read_json", "data.json"), kin=(_DOCUMENTS,)),
        make(
            "io.read_tensors",
            slot="data.safetensors",
            read=of(reading, "read_tensors", "data.safetensors"),
            kin=(_DATA,),
        ),
        make(
            "settings.load_yaml",
            slot="data.yaml",
            read=of("core.settings", "load_yaml", "data.yaml"),
            kin=(_DOCUMENTS,),
        ),
        make("run file", slot="run.yaml", read=of("runs.spec", "RunSpec.from_yaml", "run.yaml"), kin=(_DOCUMENTS,)),
        make(
            "compare file",
            slot="compare.yaml",
            read=of("runs.compare.spec", "CompareSpec.from_yaml", "compare.yaml"),
            kin=(_DOCUMENTS,),
        ),
        make("class names", slot="classes.txt", read=of(classes, "read_class_names", "classes.txt"), kin=(_DOCUMENTS,)),
        make(
            "class names json",
            slot="classes.json",
            read=of(classes, "read_class_names", "classes.json"),
            kin=(_DOCUMENTS,),
        ),
        make(
            "list of positions",
            slot="index.txt",
            read=of("adapters.backdoorbench.reserved", "_read_index", "index.txt", 8),
            kin=(_DOCUMENTS,),
        ),
        make("weights .pt", slot="model.pt", read=load_weights, kin=(_DATA,)),
        make(
            "weights .safetensors",
            slot="model.safetensors",
            read=partial(load_weights, place="model.safetensors"),
            kin=(_DATA,),
        ),
        make(
            "weights in a checkpoint",
            slot="checkpoint.pth",
            read=partial(load_weights, place="checkpoint.pth"),
            kin=(_DATA,),
        ),
    ]


def _many(name: str, room: Room, read: Callable[[Path], object], slots: dict[str, str], **more: Any) -> list[Reader]:
    """Return a reader for each of *slots*: place -> family of kinds that are close to it."""
    return [Reader(f"{name}: {slot}", room, slot, read, kin=(kin,), **more) for slot, kin in slots.items()]


def _models() -> list[Reader]:
    load = of("core.classifier.classifier", "Classifier.load", "")
    return _many(
        "classifier", rooms.classifier, load, {".": _TREES, "model.json": _DOCUMENTS, "model.safetensors": _DATA}
    )


_FOLDERS = partial(
    adapter,
    "image_folder",
    "set",
    model=at("model"),
    classes=at("classes.txt"),
    clean=at("set/clean"),
    test=at("set/test"),
)
_WEIGHTS = partial(adapter, "image_folder", "set", model=at("model.pt"), architecture="fast_resnet")
_ARRAYS = partial(adapter, "arrays", "case.npz", model=at("model"))
_TENSORS = partial(
    adapter,
    "backdoor_toolbox",
    _SET,
    architecture="fast_resnet",
    trigger=at("triggers/trigger.png"),
    model=at(f"{_SET}/full_base_aug_seed=2333.pt"),
    clean=at("clean_set/cifar10/clean_split"),
    test=at("clean_set/cifar10/test_split"),
)
_FILES = partial(adapter, "backdoor_toolbox", _BLEND, model="none")
_BENCH = partial(
    adapter, "backdoorbench", _RECORD, architecture="small_resnet", data=at("data/cifar10"), index=at("index.txt")
)
_BATCHES = partial(adapter, "cifar", "data/cifar10")
CALLS = (_FOLDERS, _WEIGHTS, _ARRAYS, _TENSORS, _FILES, _BENCH, _BATCHES)  # what hands files to adapters


def _adapters() -> list[Reader]:
    return [
        *_many("image_folder", rooms.image_folder, case_of(_FOLDERS),
               {".": _TREES, "set": _TREES, "set/train": _TREES, "set/train/cat": _TREES, "set/clean": _TREES,
                "set/test": _TREES, "set/train/cat/1.png": _IMAGES, "set/test/dog/5.png": _IMAGES,
                "classes.txt": _DOCUMENTS, "model/model.json": _DOCUMENTS}),
        *_many("image_folder of weights", rooms.image_folder, case_of(_WEIGHTS), {"model.pt": _DATA}),
        *_many("arrays", rooms.arrays, case_of(_ARRAYS), {"case.npz": _DATA, "model": _TREES}),
        *_many("backdoor_toolbox", rooms.toolbox, case_of(_TENSORS),
               {_SET: _TREES, f"{_SET}/labels": _DATA, f"{_SET}/imgs": _DATA, f"{_SET}/poison_indices": _DATA,
                f"{_SET}/cover_indices": _DATA, f"{_SET}/full_base_aug_seed=2333.pt": _DATA,
                "triggers/trigger.png": _IMAGES, "triggers/mask_trigger.png": _IMAGES,
                "clean_set/cifar10/clean_split": _TREES, "clean_set/cifar10/clean_split/clean_labels": _DATA,
                "clean_set/cifar10/test_split": _TREES, "clean_set/cifar10/test_split/data": _TREES}),
        *_many("backdoor_toolbox of files", rooms.toolbox, case_of(_FILES),
               {f"{_BLEND}/data": _TREES, f"{_BLEND}/data/3.png": _IMAGES}),
        *_many("grid of a warp", rooms.grid,
               of("adapters.backdoor_toolbox.stamps", "read_grid", "noise_grid", (8, 8, 3)), {"noise_grid": _DATA}),
        *_many("backdoorbench", rooms.record, case_of(_BENCH),
               {_RECORD: _TREES, f"{_RECORD}/attack_result.pt": _DATA, f"{_RECORD}/bd_train_dataset": _TREES,
                f"{_RECORD}/bd_train_dataset/1/1.png": _IMAGES, "data/cifar10": _TREES, f"{_CIFAR}/data_batch_1": _DATA,
                f"{_CIFAR}/test_batch": _DATA, "index.txt": _DOCUMENTS}),
        *_many("cifar", rooms.batches, case_of(_BATCHES),
               {_CIFAR: _TREES, f"{_CIFAR}/data_batch_2": _DATA, f"{_CIFAR}/batches.meta": _DATA}),
        *_many("picture of blended", rooms.single, blended, {"image.png": _IMAGES}),
        *_many("set of the zoo", rooms.zoo, of("zoo.verify", "verify", "made"),
               {"made": _TREES, "made/zoo.json": _DOCUMENTS, "made/samples.csv": _DOCUMENTS,
                "made/set/case.npz": _DATA}),
        *_many("backdoorbench flags", rooms.record, flags, {"config/defense/d3/config.yaml": _DOCUMENTS}),
        *_many("gtsrb", rooms.signs, of("adapters.backdoorbench.data", "_read_gtsrb", "", (32, 32, 3)),
               {".": _TREES, "Train/00003/GT-00003.csv": _DOCUMENTS, "Train/00003/0.png": _IMAGES, "Test": _TREES}),
    ]  # fmt: skip


def _diffusion() -> list[Reader]:
    unet = "own/unet/diffusion_pytorch_model.safetensors"
    return [
        *_many("denoiser", rooms.denoiser, partial(denoiser, place="own"),
               {"own": _TREES, "own/unet/config.json": _DOCUMENTS, "own/scheduler/scheduler_config.json": _DOCUMENTS,
                "own/card.json": _DOCUMENTS, unet: _DATA}),
        *_many("denoiser in parts", rooms.sharded, partial(denoiser, place="own"),
               {f"{unet}.index.json": _DOCUMENTS, unet.replace("model.", "model-00002-of-00002."): _DATA}),
        *_many("denoiser in a file", rooms.denoiser, partial(denoiser, place="guided.pt"),
               {"guided.pt": _DATA, "guided.json": _DOCUMENTS}),
        *_many("pictures for a denoiser", rooms.class_folders, of("diffusion.fit.data", "read_pictures", ""),
               {".": _TREES, "cat": _TREES, "cat/1.png": _IMAGES}),
        *_many("picture of a look", rooms.single, of("diffusion.fit.looks", "kept_picture", "image.png", 3),
               {"image.png": _IMAGES}),
        *_many("pipeline", rooms.pipeline, pipeline, {".": _TREES, "model_index.json": _DOCUMENTS, "unet": _TREES}),
        *_many("chunk store", rooms.chunks, stored, {"store/manifest.json": _DOCUMENTS}, writes=("store",)),
        *_many("chunk store", rooms.chunks, stored, {"store/data.npy": _DATA}, adds=True),  # damaged parts anew
        *_many("training state", rooms.chunks, of("training.checkpoint", "read_state", "state.safetensors"),
               {"state.safetensors": _DATA}),
    ]  # fmt: skip


def _runs() -> list[Reader]:
    report = {"run": _TREES, "run/report.json": _DOCUMENTS}
    outcome = {"run/outcome": _TREES, "run/outcome/outcome.json": _DOCUMENTS, "run/outcome/outcome.safetensors": _DATA,
               "run/outcome/model/model.json": _DOCUMENTS, "run/outcome/model/model.safetensors": _DATA}  # fmt: skip
    events = {"run/events.jsonl": _DOCUMENTS}
    file = {"run/run.yaml": _DOCUMENTS}
    return [
        *_many("outcome", rooms.run, of("core.outcome", "Outcome.load", "run/outcome"), outcome),
        *_many("report", rooms.run, of("report.single", "write_report", "run"), report, writes=("run",)),
        *_many("report facts", rooms.run, of("report.facts", "read_facts", "run"), {"run/report.json": _DOCUMENTS}),
        *_many("export of a run", rooms.run, exported, {**report, **file, **outcome}),
        *_many("card of a run", rooms.run, card, {**report, **file}),
        *_many("resume", rooms.run, resumed, {"run": _TREES, **file, **events}, writes=("run", "native")),
        # a report that can be read is brought up to date: results go to another place than the one it names
        *_many("resume", rooms.run, resumed, {"run/report.json": _DOCUMENTS}, adds=True),
        *_many("events", rooms.run, of("runs.events", "read_events", "run"), events),
        *_many("costs of attempts", rooms.run, of("runs.events", "previous_attempts", "run"), events),
        *_many("comparison", rooms.run, compared, {"run/report.json": _DOCUMENTS}),
        *_many(
            "written files",
            rooms.run,
            native,
            {"native/.elixir_plugin_written.json": _DOCUMENTS, "native/model/model.json": _DOCUMENTS},
        ),
        *_many("checkout", rooms.checkout, inspected, {".": _TREES, ".elixir_plugin.json": _DOCUMENTS}),
        *_many("card to be replaced", rooms.results, save, {"d3-*.json": _DOCUMENTS}, adds=True),
        *_many("table to be longer", rooms.results, append, {"detection_info.csv": _DOCUMENTS}, adds=True),
        *_many(
            "published numbers",
            rooms.published,
            of("runs.published", "load_published", ""),
            {".": _TREES, "table.json": _DOCUMENTS},
        ),
        *_many("cards", rooms.cards, of("runs.cards", "load_cards", ""), {".": _TREES, "card.json": _DOCUMENTS}),
    ]


READERS: dict[str, Reader] = {each.name: each for each in (*_io(), *_models(), *_adapters(), *_diffusion(), *_runs())}

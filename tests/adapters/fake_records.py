"""Made-up BackdoorBench records, small enough to break one thing at a time."""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from elixir_plugin import Classifier

Array = NDArray[Any]
TRAIN, TEST, TARGET = 40, 20, 0
POISON = (1, 12, 23, 34)  # labels 1, 2, 3, 4


class Hostile:
    """Unpickling this runs a command that leaves *marker* behind."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.marker}'",)


def stamped(image: Array) -> Array:
    """The trigger of the made-up records: a white square in the corner."""
    image = image.copy()
    image[-3:, -3:] = 255
    return image


@dataclass
class Workspace:
    """A made-up BackdoorBench workspace: 40 training and 20 test images of 10 classes, and one record."""

    root: Path
    train: Array
    test: Array
    content: dict[str, Any] = field(default_factory=dict)

    @property
    def record(self) -> Path:
        return self.root / "record" / "fake"

    @property
    def batches(self) -> Path:
        return self.root / "data" / "cifar10" / "cifar-10-batches-py"

    @property
    def container(self) -> dict[Any, Any]:
        """``data_dict`` of the training part."""
        held: dict[Any, Any] = self.content["bd_train"]["bd_data_container"]["data_dict"]
        return held

    def save(self, **changes: Any) -> Path:
        """Write ``attack_result.pt`` with *changes* to its top-level keys."""
        torch.save(self.content | changes, self.record / "attack_result.pt")
        return self.record

    def part(self, name: str, clean: Array, samples: dict[int, int], key: Callable[[int], Any] = np.int64) -> Any:
        """Write PNG files for *samples* (position -> label given) and return the state that names them."""
        folder = f"./record/fake/{name}_dataset"
        held = {}
        for position, label in samples.items():
            original = position % 10
            path = f"{folder}/{original}/{position}.png"
            target = self.root / path
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(stamped(clean[position])).save(target)
            held[key(position)] = {"path": path, "other_info": [label, original]}
        indicator = np.zeros(len(clean))
        indicator[list(samples)] = 1
        index = np.arange(len(clean)) if name == "bd_train" else np.array(sorted(samples))
        return {
            "bd_data_container": {"save_folder_path": folder, "data_dict": held, "save_file_format": ".png"},
            "getitem_all": True,
            "getitem_all_switch": False,
            "original_index_array": index,
            "poison_indicator": indicator,
            "save_folder_path": folder,
        }


def write_batch(path: Path, images: Array, labels: list[int], /, **changes: Any) -> None:
    """Write one CIFAR-10 batch as torchvision expects it."""
    data = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    path.write_bytes(pickle.dumps({"data": data, "labels": labels} | changes))


def make_workspace(root: Path) -> Workspace:
    """A dirty-label all-to-one record with target label 0, on disk and complete."""
    rng = np.random.default_rng(0)
    train, test = (rng.integers(0, 250, (n, 32, 32, 3), np.uint8) for n in (TRAIN, TEST))
    space = Workspace(root, train, test)
    space.batches.mkdir(parents=True)
    space.record.mkdir(parents=True)
    for number in range(5):
        rows = range(number * 8, number * 8 + 8)
        write_batch(space.batches / f"data_batch_{number + 1}", train[list(rows)], [i % 10 for i in rows])
    write_batch(space.batches / "test_batch", test, [i % 10 for i in range(TEST)])
    space.content = {
        "model_name": "preactresnet18",
        "num_classes": 10,
        "model": Classifier.build("small_resnet", 10, seed=1).module.state_dict(),
        "data_path": "./data/cifar10",
        "img_size": (32, 32, 3),
        "clean_data": "cifar10",
        "bd_train": space.part("bd_train", train, dict.fromkeys(POISON, TARGET)),
        "bd_test": space.part("bd_test", test, {i: TARGET for i in range(TEST) if i % 10 != TARGET}),
    }
    space.save()
    return space


def snapshot(root: Path) -> dict[str, str]:
    """Every file below *root* with the hash of its content."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }

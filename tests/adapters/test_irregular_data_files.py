"""A pipe, socket, folder or device in place of a data file is refused by name, at once, and never taken for absent."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from elixir_plugin.adapters.arrays import Arrays
from elixir_plugin.adapters.backdoor_toolbox.adapter import BackdoorToolbox
from elixir_plugin.adapters.backdoorbench.record import read_record
from torch import nn

from elixir_plugin.core.classifier.checkpoints import read_weights
from elixir_plugin.core.classifier.classifier import Classifier
from elixir_plugin.diffusion.denoisers.weight_files import find_weights
from elixir_plugin.errors import InputError
from elixir_plugin.io.npz import read_npz
from elixir_plugin.io.reading import read_plain_pickle, read_tensors, read_torch
from elixir_plugin.training.checkpoint import Checkpoint, TrainingState, read_state

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no pipes among its files")

Make = Callable[[Path], Any]


def a_socket(path: Path) -> None:
    here = os.open(".", os.O_RDONLY)
    try:
        os.chdir(path.parent)  # the name of a socket may have some 100 bytes
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.fchdir(here)
        os.close(here)


IRREGULAR: dict[str, tuple[Make, str]] = {
    "pipe": (os.mkfifo, "FIFO"),
    "socket": (a_socket, "socket"),
    "folder": (Path.mkdir, "folder"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "device"),
    "link to itself": (lambda path: path.symlink_to(path), "symbolic links"),
}


@pytest.fixture(autouse=True)
def at_once() -> Iterator[None]:
    def late(*_: Any) -> None:
        raise TimeoutError("still waiting after a minute")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def restored(path: Path) -> Any:
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters())
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer)
    return TrainingState(Checkpoint(path), {}, model, optimizer, scheduler).restore()


READERS: dict[str, tuple[str, Make]] = {
    "torch": ("a.pt", read_torch),
    "plain pickle": ("a", read_plain_pickle),
    "safetensors": ("a.safetensors", read_tensors),
    "npz": ("a.npz", read_npz),
    "arrays": ("a.npz", lambda path: Arrays().read(path)),
    "weights": ("a.pth", read_weights),
    "weights in safetensors": ("w.safetensors", read_weights),
    "state of a training": ("a", read_state),
    "checkpoint": ("a", restored),
    "model": ("model.safetensors", lambda path: Classifier.load(saved(path.parent))),
    "facts of a model": ("model.json", lambda path: Classifier.load(path.parent)),
    "record": ("attack_result.pt", lambda path: read_record(path.parent)),
    "weights of a denoiser": ("diffusion_pytorch_model.safetensors", lambda path: find_weights(path.parent)),
}


def saved(folder: Path) -> Path:
    model = Classifier.build("small_resnet", 2)
    model.save(folder / "whole")
    (folder / "whole" / "model.json").rename(folder / "model.json")
    return folder


@pytest.mark.parametrize("kind", IRREGULAR)
@pytest.mark.parametrize("reader", READERS)
def test_readers(tmp_path: Path, kind: str, reader: str) -> None:
    name, read = READERS[reader]
    make, found = IRREGULAR[kind]
    make(tmp_path / name)
    with pytest.raises(InputError) as caught:
        read(tmp_path / name)
    assert found in str(caught.value) and name in str(caught.value.where)


PARTS = ("imgs", "labels", "poison_indices", "cover_indices", "full_base_aug_seed=2333.pt")


@pytest.mark.parametrize("kind", IRREGULAR)
@pytest.mark.parametrize("part", PARTS)
def test_parts_of_a_toolbox_set(tmp_path: Path, kind: str, part: str) -> None:
    folder = tmp_path / "poisoned_train_set" / "cifar10" / "badnet_0.050_poison_seed=0"
    folder.mkdir(parents=True)
    content = {"imgs": torch.zeros(4, 3, 8, 8), "labels": torch.arange(4), "poison_indices": [0], "cover_indices": [1]}
    for name, value in content.items():
        if name != part:
            torch.save(value, folder / name)
    make, found = IRREGULAR[kind]
    make(folder / part)
    with pytest.raises(InputError) as caught:
        BackdoorToolbox().read(folder)
    assert found in str(caught.value) and str(folder / part) in str(caught.value.where)

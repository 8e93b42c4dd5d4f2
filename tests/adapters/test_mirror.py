"""What adapters know of a data set by its name: whether its images may be mirrored in training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from elixir_plugin.adapters.backdoor_toolbox.export import DATASETS as TOOLBOX
from elixir_plugin.adapters.backdoorbench.data import DATASETS as BENCH
from elixir_plugin.adapters.backdoorbox import read_case
from elixir_plugin.adapters.backdoorbox.data import may_mirror
from elixir_plugin.adapters.common.mirroring import mirror_of
from fake_records import Workspace
from torch.utils.data import Subset

from elixir_plugin import Context, get_adapter, get_defense


def test_backdoorbench_mirrors_cifar10_alone(workspace: Workspace) -> None:
    assert {name: known.mirror for name, known in BENCH.items()} == {
        "cifar10": True,
        "cifar100": False,
        "gtsrb": False,
        "celeba": False,
        "tiny": False,
        "imagenet": False,
    }
    case = get_adapter("backdoorbench")({"architecture": "small_resnet"}).read(workspace.record)
    assert case.mirror is True and case.visible().mirror is True


def test_a_record_of_cifar10_is_mirrored_by_default_as_it_was_before(workspace: Workspace) -> None:
    case = get_adapter("backdoorbench")({"architecture": "small_resnet", "clean_ratio": 0.5}).read(workspace.record)
    chosen, given = (
        get_defense("d3")(epochs=2, **values).run(case, Context(seed=4))
        for values in ({}, {"augmentation": {"crop": 4, "flip": True}})
    )
    assert chosen.curves == given.curves and chosen.tables["mirroring"]["flip"] is True
    assert "training mirrors images left-right: the data set is known to allow it" in chosen.notes


def test_backdoor_toolbox_mirrors_what_it_says() -> None:
    known = {name: each.mirror for name, each in TOOLBOX.items()}
    assert known == {"cifar10": True, "gtsrb": False, "imagenette": True, "imagenet": None}


def test_a_set_that_no_adapter_knows_is_left_to_be_found_out(tmp_path: Path) -> None:
    pixels = np.zeros((4, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "case.npz", x_train=pixels, y_train=[0, 1, 0, 1])
    assert get_adapter("arrays")().read(tmp_path / "case.npz").mirror is None


def test_the_testbed_knows_its_digits() -> None:
    assert get_adapter("testbed")({"model": False, "size": 8}).read(Path("badnets")).mirror is False


class _Pictures:
    """A dataset of images in memory."""

    def __init__(self, root: str = "data") -> None:
        self.root, self.targets, self.transform, self.classes = root, [0, 1, 2, 3], None, list("abcd")

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return np.full((8, 8, 3), index, np.uint8), self.targets[index]


class CIFAR10(_Pictures):
    pass


class PoisonedCIFAR10(CIFAR10):
    pass


class CIFAR100(_Pictures):
    pass


class MNIST(_Pictures):
    pass


class SVHN(_Pictures):
    pass


@pytest.mark.parametrize(
    ("dataset", "known"),
    [
        (CIFAR10(), True),
        (PoisonedCIFAR10(), True),
        (Subset(PoisonedCIFAR10(), [0, 2]), True),
        (MNIST(), False),
        (SVHN(), False),
        (_Pictures("./data/GTSRB/train"), False),
        (_Pictures("/home/me/data/cifar-10"), True),
        (CIFAR100(), None),
        (_Pictures(), None),
    ],
)
def test_backdoorbox_datasets_say_it_by_class_or_folder(dataset: Any, known: bool | None) -> None:
    assert may_mirror(dataset) is known
    assert read_case(dataset, color="rgb").mirror is known


def test_names_are_compared_whatever_their_spelling() -> None:
    assert [mirror_of([name]) for name in ("cifar10", "CIFAR-10", "Cifar_10")] == [True] * 3
    assert [mirror_of([name]) for name in ("mnist", "GTSRB", "EMNIST", "svhn")] == [False] * 4
    assert [mirror_of(names) for names in ([], ["imagenet"], ["cifar"], ["", "tiny", "mnist"])] == [None] * 3 + [False]

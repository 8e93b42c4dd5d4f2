from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from elixir_plugin.adapters.backdoor_toolbox.read import read_labels
from torch import nn

from elixir_plugin import Classifier, ImageSet
from elixir_plugin.adapter import get_adapter
from elixir_plugin.api.convert import as_image_set
from elixir_plugin.core.classes import MOST, shown_classes
from elixir_plugin.core.classifier import classifier
from elixir_plugin.core.classifier.classifier import build_module
from elixir_plugin.core.classifier.weights import build_by_name, outline
from elixir_plugin.errors import InputError, SettingsError


def images(n: int) -> np.ndarray:
    return np.zeros((n, 8, 8, 3), np.uint8)


@pytest.mark.parametrize("highest", [2**40, 10**6, 2**31 - 1, 2**63 - 1, 5_000])
def test_one_label_does_not_make_a_trillion_classes(tmp_path: Path, highest: int) -> None:
    labels = np.array([0, 1, 2, highest])
    with pytest.raises(InputError, match="cannot be taken from the highest label") as caught:
        as_image_set((images(4), labels))
    assert f"label {highest:,}, and 4 different labels" in str(caught.value.found) and "num_classes" in str(
        caught.value
    )
    np.savez(tmp_path / "x.npz", x_train=images(4), y_train=labels)
    with pytest.raises(InputError, match="cannot be taken from the highest label"):
        get_adapter("arrays")().read(tmp_path / "x.npz")


def test_labels_of_large_sets_are_believed() -> None:
    """ImageNet-1k in a few images, and sets in which most of 21,841 classes have a sample."""
    assert shown_classes([np.array([999])]) == 1000
    assert shown_classes([np.arange(0, 21_841, 9)]) == 21_835
    assert shown_classes([np.array([21_840]), np.arange(21_000)]) == 21_841  # together, not each alone
    assert shown_classes([]) == shown_classes([np.empty(0, np.int64)]) == 0
    with pytest.raises(InputError):
        shown_classes([np.arange(0, 21_841, 11)])


def test_what_is_declared_is_bounded(tmp_path: Path) -> None:
    assert ImageSet(images(1), [0], MOST).num_classes == MOST
    for make in (
        lambda: ImageSet(images(1), [0], MOST + 1),
        lambda: Classifier(nn.Identity(), 10**12),
        lambda: as_image_set((images(1), [0]), 2**40),
    ):
        with pytest.raises(InputError, match="too many classes"):
            make()
    for adapter in ("arrays", "backdoor_toolbox"):
        with pytest.raises(SettingsError, match="num_classes = 1099511627776"):
            get_adapter(adapter)({"num_classes": 2**40})
    torch.save(torch.tensor([0, 2**40]), tmp_path / "labels")
    with pytest.raises(InputError, match="cannot be taken"):
        shown_classes([read_labels(tmp_path / "labels")])


@pytest.mark.parametrize("architecture", ["small_resnet", "vgg16", "regnet_y_128gf", "vit_h_14"])
def test_a_network_gets_no_memory_before_its_weights_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architecture: str
) -> None:
    """With a million classes, these take 0.3, 17, 30 and 8 GB."""

    def counted(*wanted: Any) -> nn.Module:
        assert nn.Linear(1, 1).weight.is_meta, "built in memory"
        module = build_module(*wanted)
        taken.append(sum(value.numel() for value in module.state_dict().values() if not value.is_meta))
        return module

    taken: list[int] = []
    Classifier.build("small_resnet", 10).save(tmp_path)
    facts = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps({**facts, "architecture": architecture, "num_classes": MOST}))
    monkeypatch.setattr(classifier, "build_module", counted)
    with pytest.raises(InputError, match="weights do not fit the architecture"):
        Classifier.load(tmp_path)
    assert len(taken) == 1 and taken[0] < 10**6


def test_an_outline_has_the_names_and_shapes_of_the_network() -> None:
    for name in ("small_resnet", "regnet_y_400mf"):
        wanted = {key: value.shape for key, value in build_module(name, 7).state_dict().items()}
        found = outline(lambda name=name: build_module(name, 7)).state_dict()
        assert {key: value.shape for key, value in found.items()} == wanted
        assert sum(value.numel() for value in found.values() if not value.is_meta) < 10**5


class TakesNumbers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(int(torch.empty(1).fill_(3).item()), 2)


def test_a_network_that_takes_numbers_to_build_is_still_filled() -> None:
    state = TakesNumbers().state_dict()
    module = build_by_name(TakesNumbers, state, where="x")
    assert torch.equal(module.layer.weight, state["layer.weight"])
    with pytest.raises(InputError, match="do not fit"):
        build_by_name(TakesNumbers, {}, where="x")

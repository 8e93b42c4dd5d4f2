"""Reserved clean sets drawn from datasets of a host: trojanvision's and BackdoorBox's."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from elixir_plugin.adapters import backdoorbox
from elixir_plugin.adapters.common.draws import stratified_positions
from elixir_plugin.adapters.trojanvision.defenses import Repairing
from PIL import Image
from torch import nn
from torch.utils.data import Dataset, Subset

from elixir_plugin import get_defense
from elixir_plugin.core.draws import stratified_rows
from elixir_plugin.defense import Defense
from elixir_plugin.errors import SettingsError

LABELS = [0] * 150 + [1] * 147 + [2] * 3  # a class of three samples
PIXELS = np.random.default_rng(0).integers(0, 256, (300, 8, 8, 3), np.uint8)


class Pictures(Dataset[Any]):
    """Pictures that show their position in the first pixel; labels are kept under *name*, or nowhere."""

    def __init__(self, name: str | None = "targets", shift: int = 0) -> None:
        self.shift, self.read = shift, 0
        if name is not None:
            setattr(self, name, torch.tensor(LABELS) if name == "labels" else list(LABELS))
        self.classes = ["a", "b", "c"]
        self.transform = None

    def __len__(self) -> int:
        return len(LABELS)

    def __getitem__(self, index: int) -> Any:
        self.read += 1
        return Image.fromarray(PIXELS[index]), (LABELS[index] + self.shift) % 3


def labels_of(dataset: Any) -> Any:
    return np.array([dataset[index][1] for index in range(len(dataset))])


@pytest.mark.parametrize("name", ["targets", "labels"])
def test_labels_that_a_dataset_keeps_save_reading_it(name: str) -> None:
    dataset = Pictures(name)
    rows = stratified_positions(dataset, 3, 7, labels_of)
    assert np.array_equal(rows, stratified_rows(LABELS, 3, 7)) and dataset.read == 3


def test_without_them_all_samples_are_read() -> None:
    dataset = Pictures(None)
    assert np.array_equal(stratified_positions(dataset, 30, 7, labels_of), stratified_rows(LABELS, 30, 7))
    assert dataset.read == 300


def test_labels_that_read_differently_are_not_believed() -> None:
    """A target_transform changes what a sample is labelled; what is kept beside the images is then another thing."""
    dataset = Pictures("targets", shift=1)
    shifted = [(label + 1) % 3 for label in LABELS]
    assert np.array_equal(stratified_positions(dataset, 30, 7, labels_of), stratified_rows(shifted, 30, 7))


def test_a_subset_of_a_subset() -> None:
    part = Subset(Subset(Pictures(), range(100, 300)), [5, 60, 61, 197, 198, 199])  # labels 0, 1, 1, 2, 2, 2
    rows = stratified_positions(part, 3, 0, labels_of)
    assert labels_of(Subset(part, rows.tolist())).tolist() == [0, 1, 2] and part.dataset.dataset.read == 6


@pytest.mark.parametrize("kept", [[[1, 0, 0]] * 300, "imagenet", [0, 1], None])
def test_what_else_is_called_targets_is_not_taken_for_labels(kept: Any) -> None:
    dataset = Pictures(None)
    dataset.targets = kept
    assert np.array_equal(stratified_positions(dataset, 3, 1, labels_of), stratified_rows(LABELS, 3, 1))


class Host:
    """What trojanvision's base class does, as far as it counts here."""

    def __init__(self, **_: Any) -> None:
        self.param_list: dict[str, Any] = {}
        self.dataset = SimpleNamespace(get_transform=lambda _: None, num_classes=3)


class Repair(Repairing, Host):
    defense: ClassVar[type[Defense]] = get_defense("d3")
    said: ClassVar[list[str]] = []

    def plain_dataset(self, mode: str) -> Any:
        return Pictures()

    def say(self, text: str) -> None:
        self.said.append(text)


def test_trojanvision_draws_class_by_class() -> None:
    for seed in range(5):
        clean = Repair(d3_clean_num="3", d3_seed=str(seed)).reserved(300)
        assert clean.labels.tolist() == [0, 1, 2] and "3 of 300 clean samples, 1 per class" in Repair.said[-1]
    assert Repair().reserved(300).class_counts().tolist() == [7, 7, 1], "5 %"
    rows = np.sort(np.random.default_rng(4).permutation(300)[:30])
    uniform = Repair(d3_clean_num="30", d3_seed="4", d3_clean_draw="uniform").reserved(300)
    assert uniform.labels.tolist() == np.array(LABELS)[rows].tolist()
    with pytest.raises(SettingsError, match="unknown draw") as caught:
        Repair(d3_clean_draw="random")
    assert caught.value.where == "d3_clean_draw" and caught.value.allowed == "stratified, uniform"
    with pytest.raises(SettingsError, match="unknown source"):
        Repair(d3_clean_from="test")


def test_backdoorbox_repairs_with_a_portion_of_every_class(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def run(self: Any, case: Any, plan: Any) -> Any:
        seen.append(case.clean)
        return SimpleNamespace(model=case.model)

    d3 = backdoorbox.D3(model=nn.Sequential(nn.Flatten(), nn.Linear(192, 3)), seed=2)
    monkeypatch.setattr(type(d3), "_run", run)
    monkeypatch.setattr(type(d3), "_keep", lambda *_: None)
    monkeypatch.setattr(type(d3), "_classifier", lambda *_: None)
    monkeypatch.setattr("elixir_plugin.adapters.backdoorbox.defenses.Case", lambda clean, **_: SimpleNamespace(
        clean=clean, model=nn.Identity()))  # fmt: skip
    d3.repair(Pictures(), 0.01, {})
    assert seen[0].labels.tolist() == [0, 1, 2]

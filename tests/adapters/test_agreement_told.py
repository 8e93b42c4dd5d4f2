"""Whatever a case comes from, its report begins with how far the suspect model agrees with the labels."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from elixir_plugin.adapters.backdoorbox import D3
from fake_records import make_workspace

from elixir_plugin import get_adapter
from elixir_plugin.adapter import Source
from elixir_plugin.api.convert import TensorImages
from elixir_plugin.errors import InputError
from elixir_plugin.runs.run import run_defense
from elixir_plugin.runs.spec import RunSpec
from elixir_plugin.testing import tiny_case

CIFAR = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.247, 0.243, 0.261)}  # what backdoor-toolbox normalises with
TOLD = re.compile(r"the suspect model gives (\d+)\.\d % of 48 reserved clean samples their label \(by chance: 10")


def notes(source: Source, out: Path) -> list[str]:
    settings = {"epochs": 1, "missing_classes": "allow"}
    spec = RunSpec(defense="d3", source=source, settings=settings, out=str(out), write_back=False)
    run_defense(spec)
    found: list[str] = json.loads((out / "report.json").read_text())["notes"]
    return found


@pytest.mark.parametrize("name", ["arrays", "image_folder", "backdoor_toolbox"])
def test_formats_that_hold_the_clean_set(name: str, tmp_path: Path) -> None:
    stats = CIFAR if name == "backdoor_toolbox" else {}
    case = tiny_case(num_classes=10, **stats)
    place = tmp_path / ("poisoned_train_set/cifar10/badnet_0.1" if name == "backdoor_toolbox" else "case.npz")
    place.parent.mkdir(parents=True, exist_ok=True)
    source = get_adapter(name)().export(case, place)
    if name == "backdoor_toolbox":
        source = source.model_copy(update={"options": {**source.options, "architecture": "small_resnet"}})
    told = list(filter(None, map(TOLD.match, notes(source, tmp_path / "out"))))
    assert len(told) == 1 and int(told[0][1]) >= 80


def test_backdoorbench(tmp_path: Path) -> None:
    work = make_workspace(tmp_path)
    options = {"architecture": "small_resnet"}
    told = notes(Source(adapter="backdoorbench", path=str(work.record), options=options), tmp_path / "out")
    assert any("the suspect model gives" in note and "too few samples to tell" in note for note in told)


def test_backdoorbox() -> None:
    case = tiny_case()
    assert case.clean is not None and case.model is not None
    d3 = D3(train_dataset=TensorImages(case.clean), model=case.model.module, epochs=1)
    d3.repair({"device": "CPU", "batch_size": 16, "epochs": 1})
    assert d3.outcome is not None and "gives 100.0 % of 48 reserved clean samples" in d3.outcome.notes[0]
    turned = case.clean.replace(labels=np.array([1, 2, 3, 0])[case.clean.labels])
    with pytest.raises(InputError, match="labels of the set one too high: 100"):
        D3(train_dataset=TensorImages(turned), model=case.model.module, epochs=1).repair({"device": "CPU"})

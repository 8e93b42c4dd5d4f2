"""State that a run goes on with: a damaged file is made anew, or is one clear error that says what to remove."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path.append(str(Path(__file__).resolve().parent))

from damage import byte_damages, json_damages, place_damages, restored

from elixir_plugin.errors import ElixirError
from elixir_plugin.evaluation import retraining
from elixir_plugin.training.checkpoint import Checkpoint, TrainingState, read_state, write_state


def state(path: Path) -> TrainingState:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 5)
    return TrainingState(Checkpoint(path, {"of": "test"}, every=0), {}, model, optimizer, scheduler)


def test_checkpoints(tmp_path: Path) -> None:
    path = tmp_path / "state"
    state(path).save(2, {"loss": [1.0, 0.5]}, last=True)
    content = path.read_bytes()
    assert state(path).restore() == (2, {"loss": [1.0, 0.5]})
    tensors, facts = read_state(path)
    done = 0
    for said, damage in [*list(json_damages(facts))[::3], *byte_damages(content), *place_damages()]:
        if "=" in said or "removed" in said:
            damage(tmp_path / "facts")
            write_state(path, tensors, {"facts": (tmp_path / "facts").read_text()})
        else:
            damage(path)
        try:
            state(path).restore()
        except ElixirError as error:
            assert error.where == path and error.hint, said
        done += 1
        restored(path, content)
    for name in tensors:
        write_state(
            path, {each: value for each, value in tensors.items() if each != name}, {"facts": json.dumps(facts)}
        )
        try:
            state(path).restore()
        except ElixirError as error:
            assert error.where == path, name
    assert done > 60


def test_shared_metrics_that_are_damaged_are_measured_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "undefended-1.json"
    content = {"metrics": {"acc": 0.5, "asr": None}, "seconds": 3.0}
    file.write_text(json.dumps(content))
    known = retraining._known(file)
    assert known is not None and (known.metrics.acc, known.seconds) == (0.5, 3.0)
    for said, damage in [*json_damages(content), *byte_damages(file.read_bytes())]:
        damage(file)
        caplog.clear()
        found = retraining._known(file)
        if found is None:
            assert "a damaged cache is made anew" in caplog.text, said
        else:
            assert 0 <= (found.metrics.acc or 0) <= 1 and 0 <= found.seconds <= 1e10

"""``benchmarks/eclipse_experiment.py`` goes on where it was stopped; here with trainings that are made up."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from elixir_plugin import Context
from elixir_plugin.core.case import Case
from elixir_plugin.core.metrics import ModelMetrics
from elixir_plugin.defenses.eclipse.defense import Eclipse
from elixir_plugin.evaluation.retraining import Retraining
from elixir_plugin.testing.defenses import tiny_case

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
SEEDS = [0, 1]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module("eclipse_experiment")
    for name in ("eclipse_experiment", "cifar"):
        sys.modules.pop(name, None)


class Trainer:
    """Stands in for :func:`measure_arm`: counts, and breaks down where it is told to."""

    def __init__(self, breaks_at: int | None = None) -> None:
        self.done: list[tuple[str, int]] = []
        self.breaks_at = breaks_at

    def __call__(self, arm: str, case: Case, outcome: Any, plan: Any, context: Context) -> ModelMetrics:
        if len(self.done) == self.breaks_at:
            raise KeyboardInterrupt
        self.done.append((arm, context.seed))
        return ModelMetrics(acc=0.1 * len(arm) / (1 + context.seed))


def go(script: ModuleType, work: Path, trainer: Trainer, identity: str = "one") -> Any:
    script.measure_arm = trainer
    cells = script.Cells(work / "cells.jsonl", identity, {"device": "cpu"})
    defense = Eclipse(preset="cpu", denoiser="gaussian")
    context = Context(seed=0, work_dir=work / "purified" / identity)
    script.fill("urp", tiny_case(), defense, Retraining(), context, SEEDS, cells)
    return script.summary("urp", cells, 0, SEEDS, 100)


def lines(work: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (work / "cells.jsonl").read_text().splitlines()]


def test_what_is_there_is_not_made_again(script: ModuleType, tmp_path: Path) -> None:
    whole, first, second, third = Trainer(), Trainer(breaks_at=4), Trainer(), Trainer()
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    expected = go(script, tmp_path / "whole", whole)
    with pytest.raises(KeyboardInterrupt):
        go(script, tmp_path / "stopped", first)
    assert [row["arm"] for row in lines(tmp_path / "stopped")] == ["purification", *script.ARMS[:4]]
    found = go(script, tmp_path / "stopped", second)
    assert first.done + second.done == whole.done == [(arm, seed) for seed in SEEDS for arm in script.ARMS]
    assert found == expected == go(script, tmp_path / "stopped", third) and third.done == []
    rows = lines(tmp_path / "stopped")
    assert len(rows) == 1 + len(script.ARMS) * len(SEEDS)
    assert {row["device"] for row in rows} == {"cpu"} and all("seconds" in row for row in rows)


def test_lines_of_another_experiment_are_passed_over(script: ModuleType, tmp_path: Path) -> None:
    go(script, tmp_path, Trainer())
    other = Trainer()
    go(script, tmp_path, other, identity="two")
    assert len(other.done) == len(script.ARMS) * len(SEEDS)
    assert len(lines(tmp_path)) == 2 * (1 + len(other.done))


def test_other_data_settings_or_denoiser_are_another_experiment(script: ModuleType) -> None:
    case, plan, context = tiny_case(), Retraining(), Context()
    defense = Eclipse(preset="cpu", denoiser="gaussian")
    known = script.identity_of(case, defense, plan, context)
    assert known == script.identity_of(case, Eclipse(preset="cpu", denoiser="gaussian"), plan, Context())
    others = [
        (tiny_case(seed=1), defense, plan, context),
        (case, Eclipse(preset="cpu", denoiser="gaussian", gray_p=0.3), plan, context),
        (case, defense, Retraining(epochs=3), context),
        (case, defense, plan, Context(seed=1)),
    ]
    assert len({known, *(script.identity_of(*each) for each in others)}) == 5

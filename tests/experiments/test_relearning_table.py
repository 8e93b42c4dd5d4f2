"""``benchmarks/relearning.py``: the table that it writes into ``docs/relearning.md``."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "benchmarks"))
    return importlib.import_module("relearning")


@pytest.fixture
def tables(script: ModuleType) -> ModuleType:
    return importlib.import_module("tables")


def model(acc: float, asr: float, reached: int | None) -> dict[str, Any]:
    return {"acc": acc, "paths": [{"asr": [asr], "reached": reached}, {"asr": [asr], "reached": 5}]}


def cell(seed: int, defense: str, after: dict[str, Any], state: str = "done") -> dict[str, Any]:
    models = {"after": after, "never_poisoned": model(0.98, 0.0, None), "before": model(0.99, 1.0, 0)}
    metrics = {"relearning": {"models": models}}
    return {"case": "badnets", "defense": defense, "seed": seed, "state": state, "metrics": metrics}


def test_a_row_holds_the_median_acc_and_every_seed_in_order(script: ModuleType) -> None:
    cells = [
        cell(1, "d3", model(0.9, 0.254, 20)),
        cell(0, "d3", model(0.8, 0.0, None)),
        cell(0, "finetune", model(0.7, 0.5, 0)),
        {"case": "badnets", "defense": "finetune", "seed": 1, "state": "failed"},
    ]
    controls = {"badnets d3 1": model(0.6, 0.0, 40), "badnets d3 0": model(0.7, 0.0, 30)}
    assert list(script.rows(cells, controls)) == [
        ["badnets", "suspect model", "99.0", "100, 100", "0, 0", "5, 5"],
        ["badnets", "never poisoned", "98.0", "0, 0", "> 100, > 100", "5, 5"],
        ["badnets", "`d3`", "85.0", "0, 25", "> 100, 20", "5, 5"],
        ["badnets", "`finetune`", "70.0", "50", "0", "5"],
        ["badnets", "never poisoned, then `d3`", "65.0", "0, 0", "30, 40", "5, 5"],
    ]


@pytest.mark.parametrize("name", ["relearning.py", "spike_limits.py"])
def test_a_table_takes_the_place_of_the_former_one(tables: ModuleType, tmp_path: Path, name: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"above\n<!-- table of tests/benchmarks/{name} -->\nold\n{tables.END}\nbelow\n")
    table = tables.markdown(["case", "ACC %"], [["badnets", "85.0"]], words=1)
    tables.put(table, page, name)
    tables.put(table, page, name)
    assert page.read_text().split("\n")[2:-2] == [
        "",
        "| case | ACC % |",
        "| --- | ---: |",
        "| badnets | 85.0 |",
        "",
        tables.END,
    ]
    assert page.read_text().startswith("above\n") and page.read_text().endswith("\nbelow\n")


@pytest.mark.parametrize(("name", "page"), [("relearning.py", "relearning.md"), ("spike_limits.py", "spike.md")])
def test_the_page_has_the_mark_of_its_table(tables: ModuleType, name: str, page: str) -> None:
    text = (tables.DOCS / page).read_text(encoding="utf-8")
    assert text.count(f"<!-- table of tests/benchmarks/{name} -->") == 1 and text.count(tables.END) == 1

"""The small experiment of eclipse.md §9.3, as a command: direction and wiring, not evidence that diffusion pays.

Its limits were set after a reference run. It does not say that A + B + C beats B + C: at this size it need not.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "eclipse_experiment.py"
LSP = "lsp:epsilon=2.608:patch=4"  # 12/255 per value, twice the usual budget: the set is small
CUDA = "cuda:blur=0.3"


@pytest.fixture(scope="module")
def accuracies(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, float]]:
    """Mean accuracy in % by poison and arm."""
    results = tmp_path_factory.mktemp("eclipse") / "results.json"
    command = [sys.executable, str(SCRIPT), "--suspects", "3000", "--clean", "240", "--pool", "2"]
    command += ["--crop", "2", "--no-flip"]  # as the description has it
    command += ["--poisons", "clean", LSP, "ops", CUDA, "--archive", str(shared / "data" / "cifar10-jpeg.zip")]
    subprocess.run([*command, "--results", str(results)], check=True)
    found: list[dict[str, Any]] = json.loads(results.read_text())["results"]
    return {row["poison"]: {arm: 100 * sum(accs) / len(accs) for arm, accs in row["acc"].items()} for row in found}


@pytest.mark.slow
def test_lsp_is_answered(accuracies: dict[str, dict[str, float]]) -> None:
    clean, lsp = accuracies["clean"], accuracies[LSP]
    if lsp["none"] > clean["none"] - 10:
        pytest.skip(f"the poison does not bite here: {lsp['none']:.1f} % against {clean['none']:.1f} % clean")
    assert lsp["none"] <= 30
    assert lsp["B+C"] >= lsp["none"] + 6
    assert lsp["A+B+C"] >= lsp["none"] + 8
    assert lsp["A+B+C"] >= lsp["A"] + 4


@pytest.mark.slow
def test_clean_accuracy_is_kept(accuracies: dict[str, dict[str, float]]) -> None:
    clean = accuracies["clean"]
    assert clean["A+B+C"] >= clean["none"] - 4


@pytest.mark.slow
def test_poisons_without_a_bound_run_through(accuracies: dict[str, dict[str, float]]) -> None:
    for poison in ("ops", CUDA):
        assert all(0 < value < 100 for value in accuracies[poison].values())

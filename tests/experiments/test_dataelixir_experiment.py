"""DataElixir on the synthetic mixture, as a command: the outcome that a correct implementation has."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "dataelixir_experiment.py"
COMPARED = 300  # reserved clean images, enough for the rule that compares with them
pytestmark = pytest.mark.slow


@cache
def experiment(case: str, seed: int, preset: str, reserved: int = 0) -> dict[str, Any]:
    command = [sys.executable, str(SCRIPT), "--case", case, "--seed", str(seed), "--preset", preset]
    command += ["--reserved", str(reserved)]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return found


@pytest.mark.parametrize(("preset", "reserved"), [("paper", 0), ("few", 0), ("few", COMPARED)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_an_all_to_one_attack_is_repaired(seed: int, preset: str, reserved: int) -> None:
    found = experiment("all_to_one", seed, preset, reserved)
    assert found["targets"] == [0]
    assert found["recall"] >= 0.85 and found["fpr"] <= 0.03
    assert found["final"]["acc"] >= found["probe"]["acc"] - 0.02
    assert found["final"]["asr"] <= found["floor"]["asr"] + 0.05


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_few_steps_decide_as_the_full_procedure_does_at_an_eighth_of_the_evaluations(seed: int) -> None:
    full, few = (experiment("all_to_one", seed, preset) for preset in ("paper", "few"))
    assert full["nfe_per_image"] == 750 and 8 * few["nfe_per_image"] <= 750
    assert few["targets"] == full["targets"]
    assert abs(few["final"]["acc"] - full["final"]["acc"]) <= 0.02
    assert abs(few["final"]["asr"] - full["final"]["asr"]) <= 0.05


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_two_phases_find_the_target_too(seed: int) -> None:
    """On 60 samples per class, another class may be flagged beside it."""
    found = experiment("all_to_one", seed, "two_phase")
    assert 0 in found["targets"] and found["recall"] >= 0.85
    assert found["final"]["asr"] <= found["floor"]["asr"] + 0.05


def test_an_all_to_all_attack_is_left_with_a_warning() -> None:
    found = experiment("all_to_all", 0, "few")
    assert found["targets"] == [] and found["recall"] == 0
    assert any("all-to-all" in note for note in found["notes"])


@pytest.mark.parametrize("reserved", [0, COMPARED])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_clean_set_is_left_as_it_is(seed: int, reserved: int) -> None:
    found = experiment("clean", seed, "few", reserved)
    assert found["targets"] == [] and found["fpr"] == 0
    assert found["clean_images_changed"] == 0  # neither image nor label of any sample
    assert found["recall"] is None and found["label_accuracy"] == 1

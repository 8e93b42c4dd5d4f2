"""``--controls`` from end to end: what is trained beside the defense, and what the report says of the denoiser."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from elixir_plugin.cli.app import program
from elixir_plugin.evaluation.retraining import CONTROLS, RETRAINED
from elixir_plugin.testing.defenses import tiny_case

pytestmark = pytest.mark.usefixtures("no_figures")
FIT = ("size=tiny", "iterations=2", "batch_size=4")
WALK = ("purification.steps=2", "purification.batch_size=96")
ECLIPSE = ("run", "eclipse", "-s", "purification.level.steps=4", "-s", "purification.level.of=100")
ELIXIR = ("run", "dataelixir", "-s", "architecture=fast_resnet", "-s", "purification.rounds=1", "-s", "states=1")
SHORT = ("-s", "purification.dense_below=1", "-s", "threshold=1", "-s", "recipe.epochs=1")
NOTHING = ("-s", "detection.mode=mad", "-s", "detection.min_anomalies=1000")  # no class can be judged
CHANCE = ("-s", "detection.mode=given", "-s", "detection.targets=[0]")


@pytest.fixture(scope="module")
def case_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny case as arrays in one file, without a model."""
    case = tiny_case()
    assert case.train and case.clean and case.test and case.test_poisoned
    sets = {"train": case.train, "clean": case.clean, "test": case.test, "test_poisoned": case.test_poisoned.samples}
    arrays: dict[str, Any] = {f"x_{name}": each.read(slice(None)) for name, each in sets.items()}
    arrays |= {f"y_{name}": each.labels for name, each in sets.items()}
    arrays["y_test_original"] = case.test_poisoned.original_labels
    file = tmp_path_factory.mktemp("case") / "case.npz"
    np.savez(file, **arrays)
    return file


def run(case_file: Path, folder: Path, *command: str) -> dict[str, Any]:
    """Run *command* and return what it wrote to ``report.json``."""
    short = [part for each in (*(f"fit.{value}" for value in FIT), *WALK) for part in ("-s", each)]
    learning = [part for each in ("epochs=2", "architecture=fast_resnet") for part in ("--retrain-set", each)]
    arguments = [*command, *short, *learning, "--controls", "--from", f"arrays:{case_file}", "--out", str(folder)]
    done = CliRunner().invoke(program, arguments)
    assert done.exit_code == 0, done.output
    for name in CONTROLS:
        assert f"control: {name}" in done.output
    report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    assert all(note in done.output for note in judged(report))
    return report


def judged(report: dict[str, Any]) -> list[str]:
    return [note for note in report["outcome"]["notes"] if "the denoiser does not earn its cost" in note]


@pytest.mark.parametrize("rule", [NOTHING, CHANCE], ids=["nothing", "chance"])
def test_all_controls_of_dataelixir(case_file: Path, tmp_path: Path, rule: tuple[str, ...]) -> None:
    report = run(case_file, tmp_path / "run", *ELIXIR, *SHORT, *rule)
    controls = report["metrics"]["controls"]
    assert list(controls) == [*CONTROLS, RETRAINED]
    assert all(0 <= each["acc"] <= 1 and 0 <= each["asr"] <= 1 for each in controls.values())
    assert (
        report["outcome"]["noise_level"] == report["outcome"]["tables"]["noise_level"] == pytest.approx(0.26, abs=5e-3)
    )
    assert controls["no_denoiser"] == controls["undefended"] != controls["noise_only"]
    assert report["metrics"]["before"] == controls["undefended"]
    if rule is NOTHING:
        assert report["outcome"]["flagged"] == 0 and controls[RETRAINED] == controls["undefended"]
        (note,) = judged(report)
        assert "with no_denoiser" in note  # as the set was left as it was


def test_all_controls_of_eclipse(case_file: Path, tmp_path: Path) -> None:
    report = run(case_file, tmp_path / "run", *ECLIPSE)
    controls = report["metrics"]["controls"]
    assert list(controls) == list(CONTROLS) and report["outcome"]["noise_level"] > 0
    assert controls["no_denoiser"] != controls["undefended"]

"""Bad BackdoorBench input on the command line: one clear error, exit code 1, no traceback, nothing written or run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from fake_records import Hostile, Workspace, snapshot

from elixir_plugin import Classifier
from elixir_plugin.cli.app import program
from elixir_plugin.runs.native import NOTE


def hostile_record(space: Workspace, tmp_path: Path) -> None:
    space.save(model=Hostile(tmp_path / "marker"))


def climbing_path(space: Workspace, tmp_path: Path) -> None:
    space.container[np.int64(1)]["path"] = "./record/fake/bd_train_dataset/../../../../secret/1.png"
    space.save()


def truncated_png(space: Workspace, tmp_path: Path) -> None:
    file = next((space.record / "bd_train_dataset").rglob("*.png"))
    file.write_bytes(file.read_bytes()[:60])


def label_out_of_range(space: Workspace, tmp_path: Path) -> None:
    space.container[np.int64(1)]["other_info"][0] = 10
    space.save()


def other_architecture(space: Workspace, tmp_path: Path) -> None:
    space.save(model=Classifier.build("cifar_resnet18", 10).module.state_dict())


def empty_folder(space: Workspace, tmp_path: Path) -> None:
    (space.record / "attack_result.pt").unlink()


def missing_clean_data(space: Workspace, tmp_path: Path) -> None:
    for file in space.batches.iterdir():
        file.unlink()


def missing_data_folder(space: Workspace, tmp_path: Path) -> None:
    missing_clean_data(space, tmp_path)
    space.batches.rmdir()
    space.batches.parent.rmdir()


def empty_batch(space: Workspace, tmp_path: Path) -> None:
    (space.batches / "test_batch").write_bytes(b"")


def not_a_checkpoint(space: Workspace, tmp_path: Path) -> None:
    (space.record / "attack_result.pt").write_bytes(b"PK\x03\x04 not an archive")


ANSWERS = ["where:", "found:", "allowed:", "next:"]


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (hostile_record, [*ANSWERS, "not plain data", "attack_result.pt", "system"]),
        (climbing_path, [*ANSWERS, "image path leaves its record", "sample 1", "secret"]),
        (truncated_png, [*ANSWERS, "cannot be decoded", ".png", "truncated", "32 × 32"]),
        (label_out_of_range, [*ANSWERS, "label out of range", "bd_train", "10", "0..9"]),
        (other_architecture, [*ANSWERS, "weights do not fit", "other shape", "left over"]),
        (empty_folder, [*ANSWERS, "record not found", "no attack_result.pt"]),
        (missing_clean_data, [*ANSWERS, "clean data incomplete", "data_batch_1", "--data"]),
        (missing_data_folder, [*ANSWERS, "clean data not found", "looked for", "--data"]),
        (empty_batch, ["cannot be read", "test_batch"]),
        (not_a_checkpoint, ["cannot be read", "attack_result.pt"]),
    ],
)
def test_bad_input_gets_one_clear_error(
    workspace: Workspace, tmp_path: Path, spoil: Callable[[Workspace, Path], None], says: list[str]
) -> None:
    spoil(workspace, tmp_path)
    before = snapshot(tmp_path)
    folders = sorted(tmp_path.rglob("*"))
    source = f"backdoorbench:{workspace.record}"
    done = CliRunner().invoke(
        program, ["run", "d3", "--from", source, "-o", "architecture=small_resnet", "--out", str(tmp_path / "run")]
    )
    assert done.exit_code == 1
    assert isinstance(done.exception, SystemExit)  # no traceback
    assert done.output.startswith("error: ") and "where:" in done.output
    for text in says:
        assert text in done.output, f"{text!r} is not in:\n{done.output}"
    assert snapshot(tmp_path) == before and sorted(tmp_path.rglob("*")) == folders


@pytest.mark.usefixtures("no_figures")
def test_the_same_record_unspoilt_is_defended_and_written_back(workspace: Workspace, tmp_path: Path) -> None:
    arguments = ["-o", "architecture=small_resnet", "-o", "clean_ratio=0.5", "--set", "epochs=2", "--out"]
    done = CliRunner().invoke(
        program, ["run", "d3", "--from", f"backdoorbench:{workspace.record}", *arguments, str(tmp_path / "run")]
    )
    assert done.exit_code == 0, done.output
    result = torch.load(workspace.record / "defense" / "d3" / "defense_result.pt")
    assert set(result) == {"model_name", "num_classes", "model"}
    assert {path.name for path in (workspace.record / "defense" / "d3").iterdir()} == {
        "defense_result.pt",
        "d3_df.csv",
        "d3_df_summary.csv",
        NOTE,
    }

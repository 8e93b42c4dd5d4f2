"""BackdoorBench's flags and YAML keys, and the scripts that are placed in its checkout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from elixir_plugin.adapters.backdoorbench.flags import Request, read_request, to_spec
from elixir_plugin.adapters.backdoorbench.script import main
from fake_records import Workspace, snapshot
from processes import python
from test_checkouts import fake_bench

from elixir_plugin import get_adapter, get_defense
from elixir_plugin.errors import SettingsError
from elixir_plugin.runs.checkout import place
from elixir_plugin.runs.native import NOTE
from elixir_plugin.runs.spec import RunSpec


def request_of(tmp_path: Path, defense: str, *flags: str, **yaml: Any) -> tuple[Request, RunSpec]:
    file = tmp_path / "given.yaml"
    file.write_text("".join(f"{key}: {value}\n" for key, value in yaml.items()) or "{}\n")
    cls = get_defense(defense)
    arguments = ["--yaml_path", str(file), "--result_file", "badnet", *flags]
    request = read_request(cls, tmp_path, arguments)
    return request, to_spec(cls, request, tmp_path, tmp_path / "out")


class TestFlags:
    def test_the_command_line_wins_over_yaml(self, tmp_path: Path) -> None:
        _, spec = request_of(tmp_path, "d3", "--epochs", "3", epochs=7, lr=0.5, random_seed=4)
        assert spec.settings == {"epochs": 3, "lr": 0.5} and spec.seed == 4
        assert spec.source.path == str(tmp_path / "record" / "badnet")

    def test_what_is_left_empty_is_up_to_the_defense(self, tmp_path: Path) -> None:
        request, spec = request_of(tmp_path, "d3", epochs="", device="", preset="", num_workers=0)
        assert spec.settings == {} and spec.preset is None and spec.device == "auto" and request.unused == []

    def test_the_reserved_clean_set_and_the_data(self, tmp_path: Path) -> None:
        flags = ["--ratio", "0.1", "--dataset_path", "./data", "--dataset", "cifar10", "--model", "vgg19"]
        _, spec = request_of(tmp_path, "d3", *flags)
        wanted = {"clean_ratio": 0.1, "architecture": "vgg19", "data": str(tmp_path / "data" / "cifar10")}
        assert spec.source.options == wanted
        _, spec = request_of(tmp_path, "d3", clean_from="test")
        assert spec.source.options == {"clean_from": "test"}
        _, spec = request_of(tmp_path, "d3", "--clean_draw", "uniform", clean_draw="stratified")
        assert spec.source.options == {"clean_draw": "uniform"}
        with pytest.raises(SettingsError, match="clean_draw"):
            request_of(tmp_path, "d3", "--clean_draw", "random")
        with pytest.raises(SettingsError, match="clean_from"):
            request_of(tmp_path, "d3", "--clean_from", "suspects")

    def test_settings_of_the_defense_are_flags_too(self, tmp_path: Path) -> None:
        _, spec = request_of(tmp_path, "d3", "--lam", "0.5", "--augmentation", "{flip: false}", "--preset", "code")
        assert spec.settings == {"lam": 0.5, "augmentation": {"flip": False}} and spec.preset == "code"

    def test_training_flags_reach_the_training_there_is(self, tmp_path: Path) -> None:
        flags = ["--epochs", "2", "--wd", "0.001", "--lr_scheduler", "CosineAnnealingLR", "--amp", "False"]
        _, spec = request_of(tmp_path, "d3", "--sgd_momentum", "0.8", "--amp", "True")
        assert spec.settings == {"momentum": 0.8, "precision": "auto"} and spec.retrain is None
        _, spec = request_of(tmp_path, "eclipse", *flags)
        assert spec.settings == {} and spec.retrain == {
            "epochs": 2,
            "weight_decay": 0.001,
            "schedule": "cosine",
            "precision": "float32",
        }
        _, spec = request_of(tmp_path, "dataelixir", *flags)
        assert spec.settings["recipe"]["epochs"] == 2 and spec.settings["recipe"]["weight_decay"] == 0.001

    def test_a_pipeline_is_trained_on_where_its_last_step_hands_back_no_model(self, tmp_path: Path) -> None:
        steps = "[{random_drop: {share: 0.2}}, {jpeg: {}, only: flagged}]"
        request, spec = request_of(tmp_path, "pipeline", "--steps", steps, "--epochs", "3")
        assert spec.settings == {"steps": [{"random_drop": {"share": 0.2}}, {"jpeg": {}, "only": "flagged"}]}
        assert spec.retrain == {"epochs": 3} and request.unused == []
        request, spec = request_of(tmp_path, "pipeline", "--steps", "[random_drop, retrain, d3]", "--epochs", "3")
        assert spec.retrain is None and request.unused == ["epochs: 3"]
        with pytest.raises(SettingsError, match="unknown step"):
            request_of(tmp_path, "pipeline", "--steps", "[random_dorp]")

    def test_what_means_nothing_here_is_named(self, tmp_path: Path) -> None:
        flags = [
            "--num_workers",
            "4",
            "-pf",
            "True",
            "--lr_scheduler",
            "ReduceLROnPlateau",
            "--client_optimizer",
            "adam",
        ]
        request, spec = request_of(tmp_path, "d3", *flags, "--device", "cpu,1")
        said = " / ".join(request.unused)
        for text in (
            "num_workers: 4.0",
            "prefetch: True",
            "ReduceLROnPlateau",
            "client_optimizer: adam",
            "but the first",
        ):
            assert text in said
        assert spec.device == "cpu" and spec.settings == {}

    @pytest.mark.parametrize(
        ("flags", "text"),
        [
            (["--epochz", "3"], "did you mean '--epochs'"),
            (["--epochs", "many"], "invalid int value"),
            (["--preset", "codee"], "invalid choice"),
            (["--fit", "{"], "--fit"),
        ],
    )
    def test_bad_flags_are_refused(self, tmp_path: Path, flags: list[str], text: str) -> None:
        with pytest.raises(SettingsError) as caught:
            request_of(tmp_path, "eclipse", *flags)
        assert text in str(caught.value)

    def test_a_recipe_that_is_no_mapping_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(SettingsError, match="a recipe is a mapping") as caught:
            request_of(tmp_path, "dataelixir", "--recipe", "foo", "--epochs", "2")
        assert (caught.value.where, caught.value.found) == ("recipe", "foo")

    def test_unknown_keys_of_the_file_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(SettingsError, match=r"unknown key[\s\S]*did you mean 'epochs'"):
            request_of(tmp_path, "d3", epoch=3)

    def test_a_record_must_be_named(self, tmp_path: Path) -> None:
        (tmp_path / "a.yaml").write_text("{}\n")
        with pytest.raises(SettingsError, match="which record"):
            read_request(get_defense("d3"), tmp_path, ["--yaml_path", str(tmp_path / "a.yaml")])

    def test_the_help_lists_both_kinds_of_flags(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            read_request(get_defense("d3"), tmp_path, ["--help"])
        text = capsys.readouterr().out
        assert "--result_file" in text and "--lam" in text


@pytest.fixture
def bench(workspace: Workspace) -> Workspace:
    """A checkout with a record, and our scripts in it."""
    space = workspace
    temporary = fake_bench(space.root / "new")
    for folder in ("attack", "config", "defense", "utils"):
        (temporary / folder).rename(space.root / folder)
    (temporary / "record").rmdir()
    temporary.rmdir()
    names = ["confusion_training", "d3"]
    place(get_adapter("backdoorbench")().placement(space.root, names), space.root)
    return space


SMALL = ["--model", "small_resnet", "--ratio", "0.5", "--epochs", "1"]


@pytest.mark.e2e
def test_the_script_runs_and_leaves_what_the_toolkit_leaves(bench: Workspace) -> None:
    given = snapshot(bench.root)
    command = ["defense/d3.py", "--result_file", "fake", "--yaml_path", "config/defense/d3/cifar10.yaml"]
    done = python(*command, "--dataset", "cifar10", *SMALL, cwd=bench.root)
    assert done.returncode == 0, done.stderr
    home = bench.record / "defense" / "d3"
    assert sorted(path.name for path in home.iterdir()) == [
        NOTE, "checkpoint", "d3_df.csv", "d3_df_summary.csv", "defense_result.pt", "log",
    ]  # fmt: skip
    assert torch.load(home / "defense_result.pt")["model_name"] == "preactresnet18"
    (log,) = (home / "log").iterdir()
    assert "after" in log.read_text() and "written:" in done.stdout
    assert {name: digest for name, digest in snapshot(bench.root).items() if name in given} == given


@pytest.mark.usefixtures("no_figures")
def test_two_settings_one_after_the_other_and_back(bench: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--result_file", "fake", "--dataset", "cifar10", *SMALL]
    result = bench.record / "defense" / "d3" / "defense_result.pt"
    contents = []
    for seed in ("0", "1", "0"):
        main("d3", bench.root, [*flags, "--random_seed", seed])
        contents.append(torch.load(result)["model"]["linear.weight"])
    assert torch.equal(contents[0], contents[2]) and not torch.equal(contents[0], contents[1])
    assert "already done" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "code", "text"),
    [
        (["--result_file", "nope"], 1, "record not found"),
        (["--result_file", "fake", "--dataset", "gtsrb"], 2, "of another data set"),
        (["--result_file", "fake", "--lamm", "1"], 2, "did you mean '--lam'"),
    ],
)
def test_errors_become_messages(
    bench: Workspace, capsys: pytest.CaptureFixture[str], flags: list[str], code: int, text: str
) -> None:
    before = snapshot(bench.root)
    with pytest.raises(SystemExit) as caught:
        main("d3", bench.root, flags)
    assert caught.value.code == code and text in capsys.readouterr().err
    assert snapshot(bench.root) == before


def test_positions_of_the_reserved_clean_set(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "index.txt").write_text("3\n1\n7\n")
    options = {"architecture": "small_resnet", "index": tmp_path / "index.txt"}
    case = get_adapter("backdoorbench")(options).read(workspace.record)
    assert case.clean is not None and case.clean.ids.tolist() == [1, 3, 7]


@pytest.mark.parametrize("text", ["", "99\n", "-1\n", "one\n"])
def test_bad_positions_are_refused(workspace: Workspace, tmp_path: Path, refused: Any, text: str) -> None:
    (tmp_path / "index.txt").write_text(text)
    adapter = get_adapter("backdoorbench")({"architecture": "small_resnet", "index": tmp_path / "index.txt"})
    refused(lambda: adapter.read(workspace.record), "index.txt" if text == "one\n" else "position")

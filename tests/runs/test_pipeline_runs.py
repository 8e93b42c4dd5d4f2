"""Pipelines in run folders, comparisons and adapters: what the front ends make of them."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from short_settings import SHORT

from elixir_plugin import Source
from elixir_plugin.cli.app import program
from elixir_plugin.core.outcome import Outcome, same_outcome
from elixir_plugin.defenses.pipeline import store
from elixir_plugin.runs.compare.run import run_compare
from elixir_plugin.runs.compare.spec import CompareSpec
from elixir_plugin.runs.events import read_events
from elixir_plugin.runs.run import run_defense
from elixir_plugin.runs.spec import RunSpec

OPTIONS = {"size": 8, "clean": 60, "recipe": {"epochs": 1}}
TRAIN = {"retrain": {"recipe": {"epochs": 1, "batch_size": 64}}, "drop": "flagged"}
STEPS: list[Any] = [{"random_drop": {"share": 0.1}}, TRAIN, {"d3": {"epochs": 1}}]


def spec(folder: Path, steps: Any = STEPS, **more: Any) -> RunSpec:
    source = Source(adapter="testbed", path="badnets", options=OPTIONS)
    return RunSpec(defense="pipeline", source=source, settings={"steps": steps}, out=str(folder), **more)


def test_a_run_shows_the_way_of_the_set(tmp_path: Path) -> None:
    result = run_defense(spec(tmp_path / "run"))
    report = result.report
    count = report["case"]["train"]["samples"]
    assert report["defense"]["kind"] == "repair" and report["outcome"]["flagged"] == round(0.1 * count)
    assert [each["label"] for each in report["metrics"]["steps"]] == ["1 random_drop", "2 retrain", "3 d3"]
    page = (result.folder / "report.html").read_text()
    (way,) = re.findall(r'<section id="way">.*?</section>', page, flags=re.DOTALL)
    assert f'aria-label="The way of the set. suspect set: {count:,} in; 1 random_drop: ' in way
    assert 'role="img"' in way and "var(--c2)" in way and "http" not in way.replace("http://www.w3.org/", "")
    assert not re.search(r"#[0-9a-f]{6}", way), "every colour follows the theme of the page"
    assert "Step by step, as measured" in page and "3 d3: " in page
    assert {path.name for path in (result.folder / "figures").iterdir()} >= {"way-the-way-of-the-set.png"}
    assert run_defense(spec(tmp_path / "run")).already_done
    assert not (result.folder / "work").exists()


@pytest.mark.usefixtures("no_figures")
def test_a_killed_run_goes_on_with_the_step_that_was_at_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run_defense(spec(tmp_path / "whole"))
    write = store._write

    def stop(folder: Path, *rest: Any) -> None:
        write(folder, *rest)
        if folder.name == "2-retrain":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(store, "_write", stop)
        run_defense(spec(tmp_path / "run"))
    assert {path.name for path in (tmp_path / "run" / "work" / "pipeline").iterdir()} == {"1-random_drop", "2-retrain"}
    result = run_defense(spec(tmp_path / "run"))
    assert result.report["attempts"] == 2
    both = [Outcome.load(each.folder / "outcome") for each in (whole, result)]
    assert same_outcome(*both) == [] and result.report["metrics"] == whole.report["metrics"]
    trainings = [each for each in read_events(result.folder) if each.get("stage") == "2 retrain: retrain on kept"]
    assert len(trainings) == 1 and result.report["outcome"]["timings"]["2 retrain: retrain on kept"] > 0


@pytest.mark.usefixtures("no_figures")
def test_a_comparison_may_hold_pipelines(tmp_path: Path) -> None:
    file = tmp_path / "compare.yaml"
    steps = [{"random_drop": {}}, TRAIN]
    file.write_text(yaml.safe_dump({
        "cases": [{"source": "testbed:badnets", "options": OPTIONS}],
        "defenses": [
            {"defense": "d3", "settings": {"epochs": 1}},
            {"defense": "pipeline", "name": "drop and train", "settings": {"steps": steps}},
            {"defense": "pipeline", "name": "and repair", "settings": {"steps": [*steps, {"d3": {"epochs": 1}}]}},
        ],
        "retrain": None,
    }))  # fmt: skip
    found = run_compare(CompareSpec.from_yaml(file), tmp_path / "out")
    cells = {cell["defense"]: cell for cell in found.results["cells"]}
    assert found.failed == 0 and list(cells) == ["d3", "drop and train", "and repair"]
    assert cells["drop and train"]["metrics"]["after"]["acc"] is not None
    first, second = (cells[name]["metrics"]["steps"][:2] for name in ("drop and train", "and repair"))
    assert first == second, "the same steps find the same"


@pytest.mark.usefixtures("no_figures")
def test_the_command_line_takes_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = [word for key, value in OPTIONS.items() for word in ("-o", f"{key}={json.dumps(value)}")]
    command = ["run", "pipeline", "--from", "testbed:badnets", *options, "--out", "here"]
    bad = "steps=[random_drop, {retrain: {recipe: {epochs: 1}}, dorp: x}]"
    done = CliRunner().invoke(program, [*command, "--set", bad])
    assert done.exit_code and "steps.2" in done.output and "options of a step: only, drop" in done.output
    assert not Path("here").exists()
    steps = ["--set", "steps=[random_drop, {retrain: {recipe: {epochs: 1}, drop: flagged}}]"]
    done = CliRunner().invoke(program, [*command, *steps])
    assert done.exit_code == 0 and (tmp_path / "here" / "report.json").exists(), done.output
    saved = yaml.safe_load((tmp_path / "here" / "run.yaml").read_text())["settings"]["steps"]
    assert saved[0] == {"step": "random_drop", "settings": {"share": 0.15}} and saved[1]["drop"] == "flagged"
    assert run_defense(RunSpec.from_yaml(tmp_path / "here" / "run.yaml")).already_done


@pytest.mark.slow
@pytest.mark.usefixtures("no_figures")
def test_a_record_of_backdoorbench_goes_through_a_pipeline(shared: Path, tmp_path: Path) -> None:
    record = shared / "toolkits" / "backdoorbench" / "record" / "badnet_0_1"
    if not record.is_dir():
        pytest.skip("no record of BackdoorBench")
    steps = [{"random_drop": {"share": 0.5}}, {"jpeg": {}, "only": "flagged"}, {"d3": {"steps": 2}}]
    source = Source(adapter="backdoorbench", path=str(record), options={"clean_ratio": 0.01})
    run = RunSpec(defense="pipeline", source=source, settings={"steps": steps}, out=str(tmp_path / "run"),
                  write_to=str(tmp_path / "result"))  # fmt: skip
    result = run_defense(run)
    steps_done = result.report["outcome"]["tables"]["steps"]
    assert [each["state"] for each in steps_done] == ["done"] * 3 and result.report["metrics"]["after"][
        "asr"
    ] is not None
    assert any(path.name == "defense_result.pt" for path in result.written)


@pytest.mark.usefixtures("no_figures")
def test_arrays_go_through_a_pipeline_and_come_back_sanitised(tmp_path: Path) -> None:
    from elixir_plugin.api.functions import defend
    from elixir_plugin.testing import tiny_case

    case = tiny_case()
    assert case.train is not None
    steps = [{"drop_class": SHORT["drop_class"]}, {"jpeg": {}, "only": "flagged"}]
    images = case.train.read(slice(None))
    outcome = defend("pipeline", train=(images, case.train.labels), clean=case.clean, steps=steps, work_dir=tmp_path)
    assert outcome.flagged is not None and outcome.flagged.any() and outcome.train is not None
    assert np.array_equal(outcome.train.read(slice(None))[~outcome.flagged], images[~outcome.flagged])
    shutil.rmtree(tmp_path / "pipeline")


def test_the_three_verbs_take_pipelines() -> None:
    import elixir_plugin
    from elixir_plugin.testing import tiny_case

    case = tiny_case()
    drop = {"random_drop": {"share": 0.25}}
    found = elixir_plugin.detect(case.train, defense="pipeline", steps=[drop])
    assert found.flagged is not None and found.flagged.sum() == 24
    cleaned = elixir_plugin.purify(case.train, defense="pipeline", steps=[drop, {"jpeg": {}, "only": "flagged"}])
    assert len(cleaned.sanitised()) == 96
    repaired = elixir_plugin.repair(case.model, case.clean, defense="pipeline", steps=[{"finetune": {"epochs": 1}}])
    assert repaired.model is not None

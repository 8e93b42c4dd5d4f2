"""Run folders: complete or absent, repeatable, never mixed; nothing is written before everything is checked."""

from __future__ import annotations

import dataclasses
import errno
import json
import logging
import shlex
import shutil
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from pydantic import Field

from elixir_plugin.adapter import Adapter, Source, get_adapter
from elixir_plugin.cli.app import _spec, program
from elixir_plugin.core.case import Case, describe
from elixir_plugin.core.context import Context
from elixir_plugin.core.images import LazyImages
from elixir_plugin.core.metrics import Evaluation
from elixir_plugin.core.outcome import Outcome, same_outcome
from elixir_plugin.core.settings import Settings
from elixir_plugin.defense import Card, Defense, get_defense
from elixir_plugin.errors import ElixirError, MissingNeedError, RunError, SettingsError
from elixir_plugin.evaluation import retraining
from elixir_plugin.evaluation.retraining import Retraining
from elixir_plugin.hookspecs import Entry, hookimpl
from elixir_plugin.io.files import atomic_file, to_json_types
from elixir_plugin.io.locks import locked
from elixir_plugin.plugins import plugins
from elixir_plugin.runs import folder as run_folder
from elixir_plugin.runs import report_data, resolve
from elixir_plugin.runs import run as run_module
from elixir_plugin.runs.estimate import estimate_run
from elixir_plugin.runs.events import append_event, read_events
from elixir_plugin.runs.folder import folder_for_case, logged, opened
from elixir_plugin.runs.run import run_defense
from elixir_plugin.runs.spec import RunSpec
from elixir_plugin.testing.defenses import tiny_case

pytestmark = pytest.mark.usefixtures("no_figures")
NOT_OF_THE_SPEC = ("target", "force", "dry_run", "quiet", "as_json")


class StubSettings(Settings):
    strength: float = Field(1.0, ge=0, le=2)


class Scorer(Defense):
    """Scores by brightness; can be told to fail, so that interruption can be tested."""

    name = "scorer"
    kind = "detect"
    needs = frozenset({"train"})
    card = Card("Brightness", "none", 2026, "none", "none", "all")
    Settings = StubSettings
    settings: StubSettings
    failure: ClassVar[BaseException | None] = None
    threshold: ClassVar[float] = 200
    runs: ClassVar[int] = 0
    tables: ClassVar[dict[str, Any]] = {}

    def defend(self, case: Case, context: Context) -> Outcome:
        assert case.train is not None
        type(self).runs += 1
        with context.stage("score"):
            scores = case.train.read(slice(None)).mean((1, 2, 3)).astype(np.float64) * self.settings.strength
        if self.failure is not None:
            raise self.failure
        return Outcome(scores=scores, flagged=scores > self.threshold, tables=dict(self.tables))


class TinyOptions(Settings):
    part_missing: str | None = None
    beside: Path | None = None
    seed: int = Field(0, ge=0)


class Tiny(Adapter):
    """The tiny case of the conformance suite, as if it came from a toolkit; *path* is where it "lives"."""

    name = "tiny"
    Options = TinyOptions
    options: TinyOptions

    def read(self, path: Path, seed: int = 0) -> Case:
        case = tiny_case(seed=int((path / "version").read_text()))
        if self.options.part_missing == "train":
            return dataclasses.replace(case, train=None, truth=None)
        return case

    def result_folder(self, case: Case, defense: str) -> Path | None:
        return None

    def write(self, case: Case, outcome: Outcome, evaluation: Evaluation, folder: Path, defense: str) -> list[Path]:
        file = folder / f"{defense}.txt"
        file.write_text(f"{evaluation.detection}")
        return [file]


class Watcher:
    """A plugin that offers the stubs and notes the events of a run."""

    def __init__(self) -> None:
        self.events: list[str] = []

    @hookimpl
    def elixir_defenses(self) -> list[Entry]:
        return [Entry("scorer", Scorer, "detect")]

    @hookimpl
    def elixir_adapters(self) -> list[Entry]:
        return [Entry("tiny", Tiny)]

    @hookimpl
    def elixir_run_started(self, spec: dict[str, Any], folder: str) -> None:
        self.events.append(f"started {spec['defense']}")

    @hookimpl
    def elixir_stage_finished(self, stage: str, seconds: float) -> None:
        self.events.append(f"stage {stage}")

    @hookimpl
    def elixir_run_finished(self, report: dict[str, Any]) -> None:
        self.events.append(f"finished {report['run']['defense']}")


@pytest.fixture
def watcher(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Watcher]:
    monkeypatch.setenv("ELIXIR_PLUGINS", "")
    plugins.cache_clear()
    watching = Watcher()
    plugins().register(watching, "watcher")
    monkeypatch.setattr(Scorer, "failure", None)
    monkeypatch.setattr(Scorer, "runs", 0)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "case").mkdir()
    (tmp_path / "case" / "version").write_text("0")
    yield watching
    plugins.cache_clear()


def spec(**changes: Any) -> RunSpec:
    values = {"defense": "scorer", "source": Source(adapter="tiny", path="case"), "out": "out"}
    return RunSpec(**{**values, **changes})


def test_a_run_leaves_a_complete_folder(watcher: Watcher) -> None:
    result = run_defense(spec())
    assert sorted(path.name for path in Path("out").iterdir()) == [
        "events.jsonl",
        "figures",
        "log.txt",
        "outcome",
        "report.html",
        "report.json",
        "run.yaml",
    ]
    report = json.loads(Path("out/report.json").read_text())
    assert report == result.report
    assert {"all-scores.png", "all-roc.png"} <= {path.name for path in Path("out/figures").iterdir()}
    assert report["metrics"]["detection"]["poison"] == 8
    assert report["run"]["settings"] == {"strength": 1.0}
    assert report["case"]["train"]["samples"] == 96
    assert watcher.events[0] == "started scorer" and watcher.events[-1] == "finished scorer"
    assert "stage score" in watcher.events


def test_a_run_describes_its_case_once(watcher: Watcher, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    case = tiny_case()
    assert case.train is not None
    pixels = case.train.read(slice(None))

    def read(position: int) -> Any:
        decoded.append(position)
        return pixels[position]

    lazy = case.train.replace(images=LazyImages(read, len(pixels), case.train.image_shape))
    monkeypatch.setattr(Tiny, "read", lambda self, path, seed=0: dataclasses.replace(case, train=lazy))
    monkeypatch.setattr(Scorer, "defend", lambda self, case, context: Outcome(scores=np.zeros(len(pixels))))
    run_defense(spec())
    shown = len(decoded) - len(pixels)  # samples on the page
    assert decoded[: len(pixels)] == list(range(len(pixels))) and 0 <= shown < len(pixels) // 2


def test_what_runs_share_is_found_by_a_description_at_hand(
    watcher: Watcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Case] = []

    def counted(case: Case) -> dict[str, Any]:
        calls.append(case)
        return describe(case)

    for module in (resolve, report_data, retraining):
        monkeypatch.setattr(module, "describe", counted)
    monkeypatch.setattr(Tiny, "read", lambda self, path, seed=0: dataclasses.replace(tiny_case(), model=None))
    run_defense(spec(retrain={"epochs": 1}), cache=tmp_path / "cache")
    assert len(calls) == 1 and len(list((tmp_path / "cache").iterdir())) == 1


def test_the_run_file_in_the_folder_runs_again(watcher: Watcher) -> None:
    run_defense(spec(settings={"strength": 0.5}, seed=3))
    again = RunSpec.from_yaml(Path("out/run.yaml"))
    assert run_defense(again).already_done
    fresh = run_defense(again.model_copy(update={"out": "elsewhere"}))
    assert not fresh.already_done
    assert not same_outcome(Outcome.load(Path("out/outcome")), Outcome.load(Path("elsewhere/outcome")))


class RenamedSettings(Settings):
    former: ClassVar = {"strength": "power"}
    power: float = Field(1.0, ge=0, le=2)

    @property
    def strength(self) -> float:
        return self.power


@pytest.mark.parametrize("killed", [False, True])
def test_a_run_made_before_a_setting_was_renamed_is_found_again(
    killed: bool, watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    named_by_hash = {"settings": {"strength": 0.5}, "out": None}
    if killed:
        monkeypatch.setattr(Scorer, "failure", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt) if killed else nullcontext():
        run_defense(spec(**named_by_hash))
    (folder,) = Path("runs").iterdir()
    monkeypatch.setattr(Scorer, "failure", None)
    monkeypatch.setattr(Scorer, "Settings", RenamedSettings)
    for again in (RunSpec.from_yaml(folder / "run.yaml"), spec(settings={"power": 0.5}, out=None)):
        result = run_defense(again)
        assert result.folder == folder and Scorer.runs == 1 + killed
    assert result.already_done and list(Path("runs").iterdir()) == [folder]
    with pytest.raises(RunError, match="belongs to another run"):
        run_defense(spec(settings={"power": 0.25}, out=str(folder)))


def test_a_second_run_says_already_done_and_computes_nothing(watcher: Watcher) -> None:
    run_defense(spec())
    before = {path: path.stat().st_mtime_ns for path in Path("out").rglob("*")}
    assert run_defense(spec()).already_done
    assert Scorer.runs == 1
    assert {path: path.stat().st_mtime_ns for path in Path("out").rglob("*")} == before


def test_already_done_still_writes_native_files_that_are_missing(watcher: Watcher) -> None:
    assert run_defense(spec()).written == ()
    result = run_defense(spec(write_to="native"))
    assert result.already_done and Scorer.runs == 1
    assert [path.name for path in result.written] == ["scorer.txt"]
    assert Path("native/scorer.txt").read_text()


def test_already_done_makes_a_page_that_is_missing(watcher: Watcher) -> None:
    run_defense(spec())
    page = Path("out/report.html").read_text()
    Path("out/report.html").unlink()  # as a run killed just before it leaves it
    assert run_defense(spec()).already_done and Scorer.runs == 1
    assert Path("out/report.html").read_text() == page


def test_the_command_in_the_report_repeats_the_run(watcher: Watcher) -> None:
    given = spec(settings={"strength": 0.125}, seed=3, source=Source(adapter="tiny", path="case", options={"seed": 2}))
    report = run_defense(given).report
    program_, run, *arguments = shlex.split(report["command"])
    assert (program_, run) == ("elixir-plugin", "run")
    command = program.commands["run"].make_context("run", arguments)
    flags = {key: value for key, value in command.params.items() if key not in NOT_OF_THE_SPEC}
    again = run_defense(_spec(command.params["target"], flags).model_copy(update={"out": "again"})).report
    assert again["identity"] == report["identity"]
    assert again["outcome"]["verdict"] == report["outcome"]["verdict"] and again["command"] == report["command"]


def test_long_tables_stay_out_of_the_report(watcher: Watcher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scorer, "tables", {"few": [1, 2], "many": {"each": np.arange(6000)}})
    report = run_defense(spec()).report
    assert report["outcome"]["tables"] == {"few": [1, 2], "many": {"each": "6000 values, see outcome/outcome.json"}}
    assert len(Outcome.load(Path("out/outcome")).tables["many"]["each"]) == 6000


def test_changed_input_is_noticed(watcher: Watcher) -> None:
    run_defense(spec())
    Path("case/version").write_text("1")
    with pytest.raises(RunError, match="input has changed"):
        run_defense(spec())


def test_a_folder_of_another_run_is_refused(watcher: Watcher) -> None:
    run_defense(spec())
    with pytest.raises(RunError, match="belongs to another run"):
        run_defense(spec(seed=1))


def test_the_command_line_names_its_flags(watcher: Watcher) -> None:
    run_defense(spec())
    with pytest.raises(RunError, match="choose another out, or force to run beside it"):
        run_defense(spec(seed=1))
    command = ["run", "scorer", "--from", "tiny:case", "--out", "out", "--seed", "1"]
    assert "choose another --out, or --force to run beside it" in CliRunner().invoke(program, command).output


def test_a_folder_with_something_else_is_refused_and_untouched(watcher: Watcher) -> None:
    Path("out").mkdir()
    Path("out/thesis.tex").write_text("dear")
    with pytest.raises(RunError, match="something else"):
        run_defense(spec())
    assert [path.name for path in Path("out").iterdir()] == ["thesis.tex"]


def test_force_runs_beside_what_is_there(watcher: Watcher) -> None:
    run_defense(spec())
    assert run_defense(spec(), force=True).folder == Path("out-2")
    assert run_defense(spec(seed=5), force=True).folder == Path("out-3")
    assert Scorer.runs == 3


@pytest.mark.parametrize("failure", [RuntimeError("it broke"), KeyboardInterrupt()])
def test_an_interrupted_run_leaves_no_result_and_goes_on(
    watcher: Watcher, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    monkeypatch.setattr(Scorer, "failure", failure)
    with pytest.raises(type(failure)):
        run_defense(spec(write_to="native"))
    assert not Path("out/report.json").exists() and not Path("out/outcome").exists()
    assert not Path("native").exists()
    assert "stopped" in Path("out/events.jsonl").read_text()
    monkeypatch.setattr(Scorer, "failure", None)
    assert not run_defense(spec(write_to="native")).already_done
    assert Path("out/report.json").exists()


@pytest.mark.parametrize("changed", ["model", "truth", "original_labels"])
def test_a_run_is_not_done_when_what_it_was_measured_on_has_changed(
    watcher: Watcher, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    run_defense(spec())
    case = tiny_case(seed=0)
    assert case.model is not None and case.truth is not None and case.test_poisoned is not None
    if changed == "model":
        with torch.no_grad():
            next(case.model.module.parameters()).add_(1)
    elif changed == "truth":
        case = dataclasses.replace(case, truth=dataclasses.replace(case.truth, poison=~case.truth.poison))
    else:
        labels = case.test_poisoned.original_labels[::-1].copy()
        case = dataclasses.replace(case, test_poisoned=dataclasses.replace(case.test_poisoned, original_labels=labels))
    monkeypatch.setattr(Tiny, "read", lambda *_: case)
    with pytest.raises(RunError, match="input has changed"):
        run_defense(spec())


@pytest.mark.parametrize(
    ("target", "allowed"), [("case", False), ("case/below", False), (".", False), ("case-2", True), ("beside/it", True)]
)
def test_results_never_land_in_the_input(watcher: Watcher, target: str, allowed: bool) -> None:
    with nullcontext() if allowed else pytest.raises(RunError, match="results would land in the input"):
        run_defense(spec(write_to=target))
    assert Path(target, "scorer.txt").exists() == allowed


def test_where_nothing_is_left_to_train_on_the_rest_is_measured(
    watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Scorer, "threshold", -1.0)
    report = run_defense(spec(retrain={"epochs": 1})).report
    assert report["metrics"]["after"] is None and report["metrics"]["detection"]["fpr"] == 1
    assert any("no model was trained on the result" in note for note in report["notes"])


def test_a_hook_that_fails_does_not_stop_a_run(watcher: Watcher, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        @hookimpl
        def elixir_stage_finished(self, stage: str) -> None:
            raise RuntimeError("boom")

    plugins().register(Broken(), "broken")
    assert run_defense(spec()).report["attempts"] == 1
    assert "boom" in Path("out/log.txt").read_text()


def test_paths_among_the_options_of_the_input_do_not_depend_on_the_folder_one_is_in(watcher: Watcher) -> None:
    run_defense(spec(source=Source(adapter="tiny", path="case", options={"beside": "case"})))
    assert yaml.safe_load(Path("out/run.yaml").read_text())["source"]["options"]["beside"] == str(Path.cwd() / "case")


def test_seconds_include_those_of_the_goes_before(watcher: Watcher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scorer, "failure", RuntimeError("it broke"))
    with pytest.raises(RuntimeError):
        run_defense(spec())
    monkeypatch.setattr(Scorer, "failure", None)
    Path("out/events.jsonl").unlink()
    append_event(Path("out"), "started", at=100)
    append_event(Path("out"), "stage", at=130, stage="score", seconds=30.0)
    append_event(Path("out"), "stopped", at=140)
    report = run_defense(spec()).report
    assert 40 < report["outcome"]["timings"]["total"] < 60 and 30 < report["outcome"]["timings"]["score"] < 50
    assert report["attempts"] == 2 and run_defense(spec()).report == report


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"settings": {"strenght": 1}}, SettingsError),
        ({"settings": {"strength": 9}}, SettingsError),
        ({"defense": "scoerr"}, SettingsError),
        ({"source": Source(adapter="tyni", path="case")}, SettingsError),
        ({"source": Source(adapter="tiny", path="case", options={"x": 1})}, SettingsError),
        ({"source": Source(adapter="tiny", path="case", options={"part_missing": "train"})}, MissingNeedError),
        ({"device": "abacus"}, SettingsError),
    ],
)
def test_what_is_wrong_is_refused_before_anything_is_written(
    watcher: Watcher, changes: dict[str, Any], error: type[Exception]
) -> None:
    before = sorted(Path().rglob("*"))
    with pytest.raises(error):
        run_defense(spec(**changes))
    assert sorted(Path().rglob("*")) == before


def test_a_place_that_cannot_be_written_is_refused_before_work_starts(watcher: Watcher) -> None:
    Path("file").write_text("in the way")
    with pytest.raises(RunError, match="cannot write"):
        run_defense(spec(write_to="file/below"))
    assert Scorer.runs == 0


def test_what_a_killed_run_had_under_way_is_cleared(watcher: Watcher) -> None:
    run_defense(spec())
    Path("out/report.json").unlink()
    Path("out/.outcome.abc_0xyz.part").mkdir()
    Path("out/.outcome.abc_0xyz.part/half").touch()
    Path("out/.report.json.abc_0xyz.part").touch()
    assert not run_defense(spec()).already_done
    assert not list(Path("out").glob(".*"))


def test_the_resolved_run_spells_out_every_setting(watcher: Watcher) -> None:
    run_defense(spec())
    resolved = yaml.safe_load(Path("out/run.yaml").read_text())
    assert resolved["settings"] == {"strength": 1.0}
    assert Path(resolved["source"]["path"]).is_absolute()
    assert resolved["source"]["options"] == {"part_missing": None, "beside": None, "seed": 0}


def test_settings_of_a_recipe_that_change_nothing_leave_the_identity_as_it_was() -> None:
    full = resolve.resolved(
        RunSpec(defense="d3", source=Source(adapter="testbed", path="badnets"), retrain={"epochs": 3}),
        get_defense("d3")(),
        get_adapter("testbed")({}),
        Retraining(epochs=3),
    )
    assert full.retrain is not None and {"nesterov", "least_steps"} <= full.retrain.keys()
    before = {key: value for key, value in full.retrain.items() if key not in Retraining.added}
    assert full.identity() == full.model_copy(update={"retrain": before}).identity()
    other = {**full.retrain, "nesterov": True}
    assert full.identity() != full.model_copy(update={"retrain": other}).identity()


def test_the_identity_ignores_where_output_goes(watcher: Watcher) -> None:
    assert spec().identity() == spec(out="x", write_to="y").identity()
    assert spec().identity() != spec(seed=1).identity()


def test_a_host_whose_input_changed_under_its_name_gets_a_run_beside(watcher: Watcher) -> None:
    first = run_defense(spec(), rewrite=True)
    assert run_defense(spec(), rewrite=True).already_done
    Path("case/version").write_text("1")
    again = run_defense(spec(), rewrite=True)
    assert (first.folder, again.folder, again.already_done) == (Path("out"), Path("out-2"), False)


def gone(version: int, **options: Any) -> tuple[str, bool]:
    """Run on the input of *version*, and return the folder and whether nothing was left to do."""
    Path("case/version").write_text(str(version))
    result = run_defense(spec(), **options)
    return result.folder.name, result.already_done


def kill(monkeypatch: pytest.MonkeyPatch, version: int, **options: Any) -> None:
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Scorer, "failure", KeyboardInterrupt())
        gone(version, **options)


def test_a_host_finds_the_run_of_each_input_again(watcher: Watcher) -> None:
    found = [gone(version, rewrite=True) for version in (0, 1, 1, 0, 2, 1, 2)]
    assert found[:3] == [("out", False), ("out-2", False), ("out-2", True)]
    assert found[3:] == [("out", True), ("out-3", False), ("out-2", True), ("out-3", True)]


def test_a_killed_run_of_a_host_goes_on_where_it_was(watcher: Watcher, monkeypatch: pytest.MonkeyPatch) -> None:
    assert gone(0, rewrite=True) == ("out", False)
    for _ in range(2):
        kill(monkeypatch, 1, rewrite=True)
    assert gone(1, rewrite=True) == ("out-2", False) and not Path("out-3").exists()
    assert json.loads(Path("out-2/report.json").read_text())["attempts"] == 3


def test_a_killed_run_does_not_go_on_with_other_input(watcher: Watcher, monkeypatch: pytest.MonkeyPatch) -> None:
    kill(monkeypatch, 0)
    with pytest.raises(RunError, match="input has changed") as refusal:
        gone(1)
    assert "force" in str(refusal.value)
    assert gone(1, rewrite=True) == ("out-2", False)
    assert gone(0) == ("out", False)


def test_a_killed_run_that_did_not_note_its_input_goes_on(watcher: Watcher, monkeypatch: pytest.MonkeyPatch) -> None:
    kill(monkeypatch, 0)
    Path("out/events.jsonl").unlink()
    append_event(Path("out"), "started", identity=spec().identity())  # as older versions wrote it
    assert gone(1) == ("out", False)


def test_a_host_passes_by_what_is_not_its_own(watcher: Watcher) -> None:
    gone(0)
    Path("out-2").write_text("a file")
    run_defense(spec(out="out-3", seed=1))
    (Path("out-4") / "photos").mkdir(parents=True)
    assert gone(1, rewrite=True) == ("out-5", False)


def test_force_passes_by_a_file(watcher: Watcher) -> None:
    run_defense(spec())
    Path("out-2").write_text("a file")
    assert run_defense(spec(), force=True).folder == Path("out-3")


def test_a_slow_rank_chooses_the_folder_that_rank_0_has_opened(watcher: Watcher) -> None:
    gone(0)
    resolved = RunSpec.from_yaml(Path("out/run.yaml"))
    facts = to_json_types(describe(tiny_case(seed=1)))

    def chosen() -> Path:
        return folder_for_case(Path("out"), resolved, lambda: facts, beside=True)

    assert chosen() == Path("out-2")
    with opened(Path("out-2"), resolved, facts):
        assert chosen() == Path("out-2")


def test_a_new_run_is_not_compared_with_anything(watcher: Watcher) -> None:
    def never() -> dict[str, Any]:
        raise AssertionError("read for nothing")

    assert folder_for_case(Path("out"), spec(), never, beside=False) == Path("out")


def test_an_estimate_is_refused_where_the_run_would_be(watcher: Watcher) -> None:
    run_defense(spec())
    assert estimate_run(spec()) == {}
    Path("case/version").write_text("1")
    with pytest.raises(RunError, match="input has changed"):
        estimate_run(spec())
    assert estimate_run(spec(), force=True) == {}


def test_a_full_disk_does_not_lose_what_was_computed(watcher: Watcher, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(folder: Path, event: str, **facts: Any) -> None:
        if event in ("stage", "defended", "finished"):
            raise RunError("cannot write", where=folder) if event == "stage" else OSError(errno.ENOSPC, "full")
        append_event(folder, event, **facts)

    monkeypatch.setattr(run_folder, "append_event", full)
    assert run_defense(spec()).report["metrics"]["detection"]["poison"] == 8
    assert [event["event"] for event in read_events(Path("out"))] == ["started"]
    assert run_defense(spec()).already_done


def test_what_stopped_a_run_is_told_where_the_event_log_cannot_be_written(
    watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Outcome:
        Path("out/events.jsonl").unlink()
        Path("out/events.jsonl").mkdir()
        raise RuntimeError("it broke")

    monkeypatch.setattr(Scorer, "defend", broken)
    with pytest.raises(RuntimeError, match="it broke"):
        run_defense(spec())


@pytest.mark.parametrize("name", ["log.txt", "run.yaml", "events.jsonl"])
def test_a_run_folder_that_cannot_be_written_is_a_clear_error(watcher: Watcher, name: str) -> None:
    Path("out", name).mkdir(parents=True)
    if name == "log.txt":
        Path("out/run.yaml").write_text(f"identity: {resolve.resolved(spec(), Scorer(), Tiny()).identity()}")
    with pytest.raises(ElixirError) as refusal:
        run_defense(spec())
    assert refusal.value.where is not None and Scorer.runs == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_log_that_cannot_be_written_loses_nothing(watcher: Watcher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("logging.raiseExceptions", False)
    Path("log.txt").symlink_to("/dev/full")
    with logged(Path()):
        logging.getLogger("elixir_plugin").warning("read this")


def leave(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kill a run when its report is written, but not all of the rest is done."""
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(run_module, "write_pages", fail)
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)
        run_defense(spec())
    Path("out/work/chunks").mkdir(parents=True)
    Path("out/.report.html.abc_0xyz.part").touch()


def fail(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def test_what_a_run_killed_at_its_very_end_has_left_is_cleared(
    watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(monkeypatch)
    assert run_defense(spec()).already_done and Path("out/report.html").exists()
    assert not Path("out/work").exists() and not list(Path("out").glob(".*"))


def test_what_another_process_is_just_finishing_is_left_alone(
    watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(monkeypatch)
    with locked(Path("out/events.jsonl"), wait=False) as other, atomic_file(Path("out/report.html")) as under_way:
        under_way.write_text("theirs")
        assert other is not None and run_defense(spec()).already_done
        assert Path("out/work/chunks").exists() and under_way.exists()
    assert Path("out/report.html").read_text() == "theirs"


def test_a_rank_tries_no_gpu_but_its_own(watcher: Watcher, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    def resolve(name: str) -> torch.device:
        tried.append(name)
        return torch.device("cpu" if name.startswith("cuda") else name)

    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(run_module, "resolve_device", resolve)
    run_defense(spec(device="cuda", out="a"))
    run_defense(spec(device="cuda:3", out="b"))
    run_defense(spec(device="cpu", out="c"))
    assert tried == ["cuda:1", "cuda:3", "cpu"]


def test_two_processes_do_not_work_on_one_run(watcher: Watcher) -> None:
    Path("out").mkdir()
    with locked(Path("out/events.jsonl"), wait=False) as other, pytest.raises(RunError, match="another process"):
        assert other is not None
        run_defense(spec())
    assert not Path("out/run.yaml").exists() and Scorer.runs == 0
    assert not run_defense(spec()).already_done

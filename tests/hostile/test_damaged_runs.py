"""Whatever is wrong with a file of a run folder is one clear error of every reader, or makes no difference."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

sys.path.append(str(Path(__file__).resolve().parent))

from damage import Damage, byte_damages, json_damages, place_damages, restored
from native_scenarios import outcome_for

from elixir_plugin import Outcome, get_adapter
from elixir_plugin.adapter import Source
from elixir_plugin.core.case import Case
from elixir_plugin.core.context import Context
from elixir_plugin.core.outcome import Verdict
from elixir_plugin.core.panels import Lines, Panel, Series
from elixir_plugin.core.settings import Settings
from elixir_plugin.defense import Card, Defense
from elixir_plugin.errors import ElixirError, InputError
from elixir_plugin.hookspecs import Entry, hookimpl
from elixir_plugin.io.files import write_tensors
from elixir_plugin.io.reading import read_tensors
from elixir_plugin.plugins import plugins
from elixir_plugin.report.facts import facts_of, read_report
from elixir_plugin.report.single import make_page
from elixir_plugin.report.text import result_lines
from elixir_plugin.runs import native
from elixir_plugin.runs.cards import card_from_runs
from elixir_plugin.runs.compare.run import Cell, _known
from elixir_plugin.runs.compare.table import markdown, summarise
from elixir_plugin.runs.events import append_event, previous_attempts, read_events
from elixir_plugin.runs.export import load
from elixir_plugin.runs.run import run_defense
from elixir_plugin.runs.spec import RunSpec
from elixir_plugin.testing.defenses import tiny_case


class Everything(Defense):
    """Hands back every part that an outcome may have."""

    name = "everything"
    kind = "purify"
    needs = frozenset({"train"})
    card = Card("All", "none", 2026, "none", "none", "all")
    Settings = Settings

    def defend(self, case: Case, context: Context) -> Outcome:
        outcome = outcome_for(case)
        outcome.verdict = Verdict(poisoned=True, score=2.5, meaning="more is worse")
        outcome.curves = {"loss": [2.0, 1.0, float("nan")]}
        outcome.tables = {"rows": [1, 2]}
        outcome.noise_level = 0.1
        return outcome

    def panels(self, outcome: Outcome) -> list[Panel]:
        return [Lines(title="Loss", series=[Series(name="loss", y=outcome.curves["loss"])])]


class Offer:
    @hookimpl
    def elixir_defenses(self) -> list[Entry]:
        return [Entry("everything", Everything, "purify")]


@pytest.fixture(scope="module", autouse=True)
def offered() -> Iterator[None]:
    plugins.cache_clear()
    plugins().register(Offer(), "offer")
    yield
    plugins.cache_clear()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a case and a finished run, made once; tests take copies."""
    place = tmp_path_factory.mktemp("finished")
    source = get_adapter("arrays")().export(tiny_case(), place / "case")
    run_defense(RunSpec(defense="everything", source=source, out=str(place / "run"), write_to=str(place / "native")))
    return place


@pytest.fixture
def place(finished: Path, tmp_path: Path, no_figures: None) -> Path:
    shutil.copytree(finished / "run", tmp_path / "run")
    return tmp_path


def spec_of(finished: Path, place: Path) -> RunSpec:
    spec = RunSpec.from_yaml(finished / "run" / "run.yaml")
    return spec.model_copy(update={"out": str(place / "run"), "write_to": None, "write_back": False})


def sound(read: Callable[[], object]) -> str | None:
    """Return what is wrong with how *read* answers: any error but one clear one."""
    try:
        read()
    except ElixirError as error:
        message = str(error)
        if len(message) > 2500 or "\0" in message or error.where is None:
            return f"no clear error: {message[:200]!r}"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    return None


def faults_of(file: Path, damages: list[Damage], read: Callable[[], object]) -> list[str]:
    content = file.read_bytes()
    faults = []
    for said, damage in damages:
        damage(file)
        fault = sound(read)
        if fault is not None:
            faults.append(f"{file.name}: {said}: {fault}")
        restored(file, content)
    return faults


def read_all_of_report(folder: Path) -> None:
    report = read_report(folder)
    facts_of(report)
    list(result_lines(report, folder))
    cell = Cell("case", "everything", 0, None)
    object.__setattr__(cell, "folder", lambda root: folder)
    known = _known(cell, folder)
    assert known["state"] == "done"
    results: dict[str, Any] = {"compare": {"seeds": [0], "retrain": None}, "cells": [known]}
    results["table"] = summarise(results)
    facts = {name: known[name] for name in ("case", "defense", "seed")}
    markdown(results, {"cells": [facts | known["timing"]]})


def every(damages: Iterator[Damage], step: int) -> list[Damage]:
    """Return all of them where there is time, else some of each kind."""
    return list(damages) if os.environ.get("HYPOTHESIS_PROFILE") == "thorough" else list(damages)[::step]


def test_the_report(place: Path) -> None:
    file = place / "run" / "report.json"
    damages = [
        *every(json_damages(json.loads(file.read_text())), 5),
        *byte_damages(file.read_bytes()),
        *place_damages(),
    ]
    assert len(damages) > 500
    assert not faults_of(file, damages, lambda: read_all_of_report(place / "run"))


def test_the_page_and_the_card(place: Path) -> None:
    file = place / "run" / "report.json"
    damages = every(json_damages(json.loads(file.read_text())), 67)

    def read() -> None:
        make_page(facts_of(json.loads(file.read_text()), where=file), png=False)
        card_from_runs([place / "run"])

    assert len(damages) > 40 and not faults_of(file, damages, read)


def test_the_run_file(finished: Path, place: Path) -> None:
    file = place / "run" / "run.yaml"
    content = yaml.safe_load(file.read_text())
    damages = [*every(json_damages(content), 11), *byte_damages(file.read_bytes()), *place_damages()]

    def read() -> None:
        RunSpec.from_yaml(file)
        card_from_runs([place / "run"])

    assert len(damages) > 60 and not faults_of(file, damages, read)


def test_the_outcome(place: Path) -> None:
    folder = place / "run" / "outcome"
    shutil.rmtree(folder / "model")
    content = json.loads((folder / "outcome.json").read_text()) | {"model": False}
    (folder / "outcome.json").write_text(json.dumps(content))
    case = tiny_case()

    def read() -> None:
        Outcome.load(folder).check(case)

    assert sound(read) is None
    content["names"], content["curves"] = None, {"loss": content["curves"]["loss"]}
    damages = [*every(json_damages(content), 3), *byte_damages((folder / "outcome.json").read_bytes())]
    assert len(damages) > 150 and not faults_of(folder / "outcome.json", [*damages, *place_damages()], read)
    arrays = [*byte_damages((folder / "outcome.safetensors").read_bytes()), *place_damages()]
    assert not faults_of(folder / "outcome.safetensors", arrays, read)


CHANGES: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "kept below": lambda a: {"kept": np.array([-1, 1])},
    "kept beyond": lambda a: {"kept": np.array([0, 96])},
    "kept twice": lambda a: {"kept": np.array([1, 1])},
    "kept unordered": lambda a: {"kept": np.array([2, 1])},
    "kept as floats": lambda a: {"kept": np.array([0.0, 1.0])},
    "kept in two dimensions": lambda a: {"kept": np.array([[0, 1]])},
    "kept as small integers": lambda a: {"kept": np.array([0, 1], np.int32)},
    "fewer scores": lambda a: {"scores": a["scores"][:-1]},
    "scores that are not finite": lambda a: {"scores": np.full(96, np.nan)},
    "scores of less precision": lambda a: {"scores": a["scores"].astype(np.float32)},
    "other flags": lambda a: {"flagged": ~a["flagged"] | True},
    "flags as numbers": lambda a: {"flagged": a["flagged"].astype(np.uint8)},
    "labels beyond the classes": lambda a: {"labels": a["labels"] + 4},
    "labels below": lambda a: {"labels": a["labels"] - 1},
    "fewer labels": lambda a: {"labels": a["labels"][:-1]},
    "ids twice": lambda a: {"ids": np.zeros(96, np.int64)},
    "ids of others": lambda a: {"ids": a["ids"] + 1},
    "images in three dimensions": lambda a: {"images": a["images"][..., 0]},
    "images beyond [0, 1]": lambda a: {"images": a["images"].astype(np.float32)},
    "images that are not finite": lambda a: {"images": np.full(a["images"].shape, np.nan, np.float32)},
    "images in another type": lambda a: {"images": a["images"].astype(np.int32)},
    "no samples": lambda a: {name: value[:0] for name, value in a.items()},
    "no scores": lambda a: {"scores": None},
    "no labels": lambda a: {"labels": None},
    "no images": lambda a: {"images": None},
    "more": lambda a: {"more": a["scores"]},
}


@pytest.mark.parametrize("former", [False, True], ids=["current", "former version"])
@pytest.mark.parametrize("name", CHANGES)
def test_arrays_that_do_not_fit(place: Path, name: str, former: bool) -> None:
    folder = place / "run" / "outcome"
    shutil.rmtree(folder / "model")
    facts = json.loads((folder / "outcome.json").read_text()) | {"model": False}
    if former:
        facts = {key: value for key, value in facts.items() if key not in ("schema", "arrays", "model")}
    (folder / "outcome.json").write_text(json.dumps(facts))
    Outcome.load(folder).check(tiny_case())
    arrays = {each: tensor.numpy() for each, tensor in read_tensors(folder / "outcome.safetensors").items()}
    changed = {each: value for each, value in {**arrays, **CHANGES[name](arrays)}.items() if value is not None}
    write_tensors(folder / "outcome.safetensors", changed)
    if former and name in ("no scores", "more"):  # an earlier version did not say which there are
        assert Outcome.load(folder).flagged is not None
        return
    with pytest.raises(ElixirError) as refusal:
        outcome = Outcome.load(folder)
        assert name == "ids of others"
        outcome.check(tiny_case())
    assert refusal.value.where is not None


def test_what_is_wrong_reaches_every_command(finished: Path, place: Path) -> None:
    arrays = read_tensors(finished / "run/outcome/outcome.safetensors")
    write_tensors(place / "run/outcome/outcome.safetensors", {**arrays, "kept": np.array([-1, 1])})
    with pytest.raises(InputError, match="not the outcome of a run") as refusal:
        load(str(place / "run"))
    assert "kept: [-1, 1]" in str(refusal.value.found) and "run the same command again" in str(refusal.value.hint)
    spec = spec_of(finished, place).model_copy(update={"write_to": str(place / "native")})
    with pytest.raises(InputError, match="not the outcome of a run"):
        run_defense(spec)
    shutil.copytree(finished / "run", place / "copy")
    shutil.rmtree(place / "copy/outcome/model")
    with pytest.raises(InputError, match="model of the outcome not found"):
        load(str(place / "copy"))
    (place / "copy/report.json").unlink()  # as the hint says
    result = run_defense(spec.model_copy(update={"out": str(place / "copy"), "write_to": None}))
    assert not result.already_done and load(str(place / "copy")).model is not None


@pytest.mark.parametrize("file", ["report.json", "run.yaml", "outcome/outcome.json"])
def test_a_later_version_is_refused_with_a_word_and_a_former_one_is_read(place: Path, file: str) -> None:
    path = place / "run" / file
    content = yaml.safe_load(path.read_text())

    def read() -> None:
        RunSpec.from_yaml(place / "run" / "run.yaml")
        read_report(place / "run")
        Outcome.load(place / "run" / "outcome")

    assert content["schema"] == 1
    path.write_text(json.dumps({**content, "schema": 2}))
    with pytest.raises(ElixirError, match="written by a later version") as refusal:
        read()
    assert refusal.value.where == path and refusal.value.found == "schema 2"
    for odd in (0, -1, True, "1", 1.5, []):
        path.write_text(json.dumps({**content, "schema": odd}))
        assert sound(read) is None
        with pytest.raises(ElixirError):
            read()
    path.write_text(json.dumps({key: value for key, value in content.items() if key != "schema"}))
    read()


# the event log


def log(folder: Path) -> Path:
    append_event(folder, "started", at=100, identity="x", case={"num_classes": 4})
    append_event(folder, "stage", at=103, stage="purify", seconds=3.0)
    append_event(folder, "stopped", at=110)
    return folder / "events.jsonl"


def test_the_event_log(tmp_path: Path) -> None:
    file = log(tmp_path)
    lines = file.read_bytes().splitlines(keepends=True)
    for row, line in enumerate(lines):
        for said, damage in json_damages(json.loads(line)):
            damage(tmp_path / "line")
            file.write_bytes(b"".join([*lines[:row], (tmp_path / "line").read_bytes(), b"\n", *lines[row + 1 :]]))
            assert sound(lambda: previous_attempts(tmp_path)) is None, said
    restored(file, b"".join(lines))
    damages = [*byte_damages(b"".join(lines)), *place_damages()]
    assert not faults_of(file, damages, lambda: previous_attempts(tmp_path))


BAD_LINES = [b"{", b"null", b"[]", b'{"event": "stage"}', b"\xff\xfe", b'{"time": 5, "event": "x"}', b"[" * 10_000,
             b'{"time": "2026-01-01T00:00:00", "event": "x"}', b'{"time": "2026-01-01T00:00:00+00:00", "event": []}',
             b'{"time": "2026-01-01T00:00:00+00:00", "event": "stage", "stage": "a", "seconds": NaN}']  # fmt: skip


@pytest.mark.parametrize("bad", BAD_LINES, ids=range(len(BAD_LINES)))
def test_a_bad_line_in_the_middle_is_told_and_skipped(
    tmp_path: Path, bad: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    file = log(tmp_path)
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([lines[0], bad + b"\n", *lines[1:]]))
    found = previous_attempts(tmp_path)
    assert (found.attempts, found.seconds, found.stages) == (1, 10.0, {"purify": 3.0})
    assert len(read_events(tmp_path)) == 3
    (said,) = [record.getMessage() for record in caplog.records]
    assert "events.jsonl: line 2 is left out" in said
    file.write_bytes(b"".join(lines) + bad)  # what a kill leaves
    caplog.clear()
    assert previous_attempts(tmp_path) == found and not caplog.records
    append_event(tmp_path, "started", at=200)
    assert [event["event"] for event in read_events(tmp_path)] == ["started", "stage", "stopped", "started"]


def test_of_many_bad_lines_some_are_told_and_the_others_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = log(tmp_path)
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([lines[0], b"{\n" * 1005, *lines[1:]]))
    assert len(read_events(tmp_path, tell=True)) == 3
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 6 and "line 6 is left out" in said[4] and "1,000 more lines are left out" in said[5]
    file.write_bytes(b"".join([lines[0], b"{\n" * 10_001, *lines[1:]]))
    with pytest.raises(InputError, match="not the event log of a run") as refused:
        read_events(tmp_path)
    assert refused.value.found == "10,001 lines that are not events among the first 10,002"


def test_a_killed_run_goes_on_over_a_bad_line(finished: Path, place: Path) -> None:
    (place / "run/report.json").unlink()
    file = place / "run/events.jsonl"
    first, *others = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"\0\0\0\n" + first + b'{"event": 5}\n' + b"".join(others)[:-20])
    result = run_defense(spec_of(finished, place))
    assert not result.already_done and (place / "run/report.json").exists()
    assert "line 3 is left out" in (place / "run/log.txt").read_text()


def test_an_event_log_of_a_later_version_is_refused(tmp_path: Path) -> None:
    file = log(tmp_path)
    file.write_text(file.read_text().replace('"schema": 1', '"schema": 2'))
    with pytest.raises(InputError, match="later version"):
        read_events(tmp_path)


# what else a run looks at before it goes on


@pytest.mark.parametrize(
    "name", ["report.json", "run.yaml", "events.jsonl", "log.txt", "work", "outcome", "outcome/model"]
)
@pytest.mark.parametrize("done", [True, False], ids=["finished", "killed"])
def test_something_else_in_the_place_of_a_file(finished: Path, place: Path, name: str, done: bool) -> None:
    spec = spec_of(finished, place).model_copy(update={"write_to": str(place / "native")})
    path = place / "run" / name
    if not done:
        (place / "run" / "report.json").unlink()
    for _, damage in place_damages():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        path.touch()
        damage(path)
        assert sound(lambda: run_defense(spec)) is None


def test_the_note_of_written_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("ours")
    digest = native._digest(tmp_path / "a.txt")
    facts = {"identity": "x", "complete": True, "files": {"a.txt": digest}, "sizes": {"a.txt": 4}}
    content = {"schema": 1, "written": {"d3": facts}}
    file = tmp_path / native.NOTE
    file.write_text(json.dumps(content))
    spec = RunSpec(defense="d3", source=Source(adapter="arrays", path="x"))
    adapter = get_adapter("arrays")()

    def read() -> None:
        native.refuse_mixture(tmp_path, spec, adapter, tiny_case())
        native.is_out_of_date(tmp_path, spec)

    assert sound(read) is None
    damages = [*json_damages(content), *byte_damages(file.read_bytes()), *place_damages()]
    assert not faults_of(file, damages, read)
    for outside in ("../x", "/etc/passwd", "a/../../x"):
        facts["files"] = {outside: digest}
        file.write_text(json.dumps(content))
        with pytest.raises(InputError, match="path leaves its folder"):
            read()

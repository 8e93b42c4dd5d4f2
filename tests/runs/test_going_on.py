"""A run that goes on computes with as many threads as it began with, and says what else has changed.

Runs begin with one thread and go on where the host has more: several threads on a busy machine wait for each other.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from elixir_plugin import Source
from elixir_plugin.core.outcome import Outcome
from elixir_plugin.errors import SettingsError
from elixir_plugin.io.environment import environment
from elixir_plugin.runs import run as run_module
from elixir_plugin.runs.compare.run import run_compare
from elixir_plugin.runs.compare.spec import CompareSpec
from elixir_plugin.runs.events import append_event, read_events, recorded_threads
from elixir_plugin.runs.run import RunResult, run_defense
from elixir_plugin.runs.spec import RunSpec

pytestmark = pytest.mark.usefixtures("no_figures")
OPTIONS = {"size": 8, "clean": 60, "recipe": {"epochs": 1}}


def spec(folder: Path, **more: Any) -> RunSpec:
    source = Source(adapter="testbed", path="badnets", options=OPTIONS)
    return RunSpec(defense="d3", source=source, settings={"epochs": 3}, out=str(folder), **more)


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def stop_when_defended(folder: Path, monkeypatch: pytest.MonkeyPatch, **more: Any) -> None:
    """Begin a run, and stop it when all of the training is done."""

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Outcome, "save", stop)
        run_defense(spec(folder, **more))


def model_of(result: RunResult) -> bytes:
    return (result.folder / "outcome" / "outcome.safetensors").read_bytes()


def test_the_record_names_threads_versions_and_processor(tmp_path: Path) -> None:
    result = run_defense(spec(tmp_path / "run"))
    facts = json.loads((result.folder / "report.json").read_text())["environment"]
    assert facts == environment(torch.device("cpu")) and facts["threads"] == "1"
    assert result.report["command"].endswith("--threads 1")
    assert any(line.startswith("seconds: ") and line.endswith(f"; on {facts['device']}") for line in result.lines())
    page = (result.folder / "report.html").read_text()
    for name in ("instructions", "blas", "threads_between_operations", "variables"):
        assert name in page and str(facts[name]) in page


def test_a_run_goes_on_with_the_threads_it_began_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run_defense(spec(tmp_path / "whole"))
    stop_when_defended(tmp_path / "run", monkeypatch)
    torch.set_num_threads(3)
    result = run_defense(spec(tmp_path / "run"))
    assert torch.get_num_threads() == 3, "the host's number is left as it was"
    assert result.report["environment"]["threads"] == "1" and result.report["attempts"] == 2
    assert model_of(result) == model_of(whole)
    assert not any("another environment" in note for note in result.report["notes"])


def test_a_finished_run_is_found_under_another_number(tmp_path: Path) -> None:
    run_defense(spec(tmp_path / "run"))
    torch.set_num_threads(3)  # the suspect model of this case, trained again, would be another
    assert run_defense(spec(tmp_path / "run")).already_done


def test_another_number_that_is_asked_for_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stop_when_defended(tmp_path / "run", monkeypatch)
    log = tmp_path / "run" / "events.jsonl"
    log.write_text(log.read_text().replace('"threads": "1"', '"threads": "2"'))
    assert recorded_threads(tmp_path / "run") == 2
    result = run_defense(spec(tmp_path / "run", threads=1))
    (said,) = [note for note in result.report["notes"] if "another environment" in note]
    assert "threads 2 → 1" in said
    assert [record.message for record in caplog.records if getattr(record, "at_once", False)] == [said]
    assert result.report["environment"]["threads"] == "1"
    assert spec(tmp_path, threads=1).identity() == spec(tmp_path).identity()


@pytest.mark.parametrize(
    ("name", "value"),
    [("torch", "1.13.1"), ("instructions", "AVX2048"), ("blas", "abacus"), ("switches", "none"), ("device", "an H200")],
)
def test_what_else_has_changed_is_said(name: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def other(device: torch.device) -> dict[str, str | None]:
        return {**environment(device), name: value}

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "environment", other)
        stop_when_defended(tmp_path / "run", patch)
    (said,) = [note for note in run_defense(spec(tmp_path / "run")).report["notes"] if "another environment" in note]
    assert f"{name} {value} → {environment(torch.device('cpu'))[name]}".partition(" (")[0] in said


@pytest.mark.parametrize("said", ["many", "0", "-3", "99999999999999999999", 3.5, None, ["2"], {}, "²"])
def test_a_record_that_makes_no_sense_is_not_followed(said: Any, tmp_path: Path) -> None:
    append_event(tmp_path, "started", environment={"threads": said})
    assert recorded_threads(tmp_path) is None
    append_event(tmp_path, "started", environment="none")
    assert recorded_threads(tmp_path) is None


def test_a_number_out_of_range_is_refused() -> None:
    for threads in (0, -1, 100_000):
        with pytest.raises(SettingsError, match="threads"):
            RunSpec.build({"defense": "d3", "source": {"adapter": "testbed", "path": "badnets"}, "threads": threads})


def test_a_comparison_goes_on_with_the_threads_it_began_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [{"source": "testbed:badnets", "options": OPTIONS}]
    defenses = [{"defense": "d3", "settings": {"epochs": 1}}, {"defense": "d3", "settings": {"epochs": 2}, "name": "b"}]
    comparison = CompareSpec.build({"cases": cases, "defenses": defenses, "retrain": None})
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Outcome, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        run_compare(comparison, tmp_path / "c")
    torch.set_num_threads(3)
    found = run_compare(comparison, tmp_path / "c")
    assert [cell["environment"]["threads"] for cell in found.timings["cells"]] == ["1", "1"]
    started = [e for p in (tmp_path / "c/cells").iterdir() for e in read_events(p) if e["event"] == "started"]
    assert {event["environment"]["threads"] for event in started} == {"1"} and len(started) == 3

"""The event log of a run folder: what interrupted attempts have cost."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from elixir_plugin.errors import RunError
from elixir_plugin.runs.events import PreviousAttempts, append_event, note_killed, previous_attempts, read_events


def went(folder: Path, *events: tuple[str, float], **seconds: float) -> None:
    """Write events as (name, moment); one that is a stage is named ``stage:NAME`` and took ``NAME`` seconds."""
    for event, at in events:
        kind, _, stage = event.partition(":")
        facts = {"stage": stage, "seconds": seconds[stage.replace(" ", "_")]} if stage else {}
        append_event(folder, kind, at=at, **facts)


def test_a_new_folder_has_no_earlier_goes(tmp_path: Path) -> None:
    assert previous_attempts(tmp_path) == PreviousAttempts() and read_events(tmp_path) == []
    note_killed(tmp_path)
    assert not list(tmp_path.iterdir())


def test_stopped_goes_count_without_what_was_measured_before_the_defense(tmp_path: Path) -> None:
    went(tmp_path, ("started", 10), ("stage:evaluate before", 14), ("stage:purify", 20), ("stopped", 21),
         evaluate_before=4, purify=6)  # fmt: skip
    went(tmp_path, ("started", 50), ("stage:purify", 52), ("stopped", 53), purify=2)
    found = previous_attempts(tmp_path)
    assert (found.attempts, found.seconds) == (2, pytest.approx(7 + 3))
    assert found.stages == {"evaluate before": 4, "purify": 8}


def test_a_go_whose_defense_ended_counts_that_and_not_what_came_after(tmp_path: Path) -> None:
    went(tmp_path, ("started", 10))
    append_event(tmp_path, "defended", at=15, seconds=4.5)
    went(tmp_path, ("stage:retrain", 40), ("killed", 41), retrain=25)
    assert previous_attempts(tmp_path) == PreviousAttempts(1, 4.5, {"retrain": 25})


def test_goes_before_a_finished_one_are_history(tmp_path: Path) -> None:
    went(tmp_path, ("started", 10), ("stopped", 20), ("started", 30), ("finished", 40))
    assert previous_attempts(tmp_path) == PreviousAttempts()
    went(tmp_path, ("started", 50), ("stopped", 52))
    assert previous_attempts(tmp_path).seconds == 2


def test_a_killed_go_counts_up_to_its_newest_file(tmp_path: Path) -> None:
    went(tmp_path, ("started", 1000))
    (tmp_path / "work").mkdir()
    for name, at in (("events.jsonl", 1000), ("work/chunk", 1007)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (at, at))
    note_killed(tmp_path)
    note_killed(tmp_path)  # said once
    assert [event["event"] for event in read_events(tmp_path)] == ["started", "killed"]
    assert previous_attempts(tmp_path).seconds == 7


def test_a_line_cut_off_by_a_kill_is_left_out(tmp_path: Path) -> None:
    went(tmp_path, ("started", 10))
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write(json.dumps({"time": "2026"})[:9])
    assert [event["event"] for event in read_events(tmp_path)] == ["started"]


def test_an_event_log_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").mkdir()
    with pytest.raises(RunError, match="cannot write") as refusal:
        append_event(tmp_path, "started")
    assert refusal.value.where == tmp_path / "events.jsonl" and refusal.value.hint


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").symlink_to("/dev/full")
    with pytest.raises(RunError, match="cannot write") as refusal:
        append_event(tmp_path, "started")
    assert refusal.value.found == os.strerror(errno.ENOSPC)

"""``events.jsonl``, the event log of a run folder: what happened when, and so what earlier attempts have cost."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..io.environment import MOST
from ..io.files import to_json_types, writing

EVENT_LOG = "events.jsonl"
RUN_FILES = (EVENT_LOG, "log.txt", "work", "outcome")  # what a run writes as it attempts; other files may be anybody's
BEFORE_DEFENSE = ("evaluate before",)  # stages before the defense starts, which its seconds leave out


@dataclass(frozen=True)
class PreviousAttempts:
    """What the attempts before this one have cost.

    :param attempts: how many there were.
    :param seconds: of the defense and its preview; an attempt that was killed counts until it last wrote a file.
    :param stages: seconds of the stages that came to an end in them, by success or by failure.
    :param environments: what each has computed with, see :mod:`~elixir_plugin.io.environment`; the first one first.
    """

    attempts: int = 0
    seconds: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)
    environments: tuple[dict[str, Any], ...] = field(default=(), repr=False)


def append_event(folder: Path, event: str, *, at: float | None = None, **facts: Any) -> None:
    """Add one line to the event log of *folder*.

    :param at: when, in seconds since the epoch; default: now.
    :raises RunError: when it cannot be written.
    """
    when = datetime.now(timezone.utc) if at is None else datetime.fromtimestamp(at, timezone.utc)
    line = {"time": when.isoformat(timespec="milliseconds"), "event": event, **facts}
    with writing(folder / EVENT_LOG), (folder / EVENT_LOG).open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":  # a kill cut the last line off
                file.write(b"\n")
        file.write(f"{json.dumps(to_json_types(line))}\n".encode())


def note_killed(folder: Path) -> None:
    """Note when the latest attempt last wrote a file, unless it came to an end."""
    events = read_events(folder)
    if not events or events[-1]["event"] in ("stopped", "finished", "killed"):
        return
    files = [path for name in RUN_FILES for path in (folder / name, *(folder / name).rglob("*")) if path.is_file()]
    append_event(folder, "killed", at=max(path.stat().st_mtime for path in files))


def previous_attempts(folder: Path) -> PreviousAttempts:
    """Return what the attempts in *folder* have cost since it was last finished.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as name:
    ...     append_event(Path(name), "started", at=100)
    ...     append_event(Path(name), "stage", at=103, stage="purify", seconds=3.0)
    ...     append_event(Path(name), "killed", at=105)
    ...     previous_attempts(Path(name))
    PreviousAttempts(attempts=1, seconds=5.0, stages={'purify': 3.0})
    """
    attempts: list[list[dict[str, Any]]] = []
    for event in read_events(folder):
        if event["event"] == "finished":
            attempts = []
        elif event["event"] == "started":
            attempts.append([event])
        elif attempts:
            attempts[-1].append(event)
    stages: dict[str, float] = {}
    for event in (event for attempt in attempts for event in attempt if event["event"] == "stage"):
        stages[event["stage"]] = stages.get(event["stage"], 0.0) + event["seconds"]
    surroundings = [attempt[0].get("environment") for attempt in attempts]
    known = tuple(each for each in surroundings if isinstance(each, dict))
    return PreviousAttempts(len(attempts), sum(map(_seconds, attempts)), stages, known)


def recorded_threads(folder: Path) -> int | None:
    """Return how many threads the latest attempt in *folder* has computed with, where that is known."""
    for event in reversed(read_events(folder)):
        if event.get("event") == "started" and isinstance(event.get("environment"), dict):
            said = str(event["environment"].get("threads"))
            return int(said) if said.isdecimal() and len(said) < 5 and 0 < int(said) <= MOST else None
    return None


def read_events(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of the event log; a last one that was cut off by a kill is left out."""
    path = folder / EVENT_LOG
    events = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            events.append(json.loads(line))
        except ValueError:
            continue
    return events


def _seconds(attempt: Sequence[dict[str, Any]]) -> float:
    for event in attempt:
        if event["event"] == "defended":
            return float(event["seconds"])
    wall = (datetime.fromisoformat(attempt[-1]["time"]) - datetime.fromisoformat(attempt[0]["time"])).total_seconds()
    before = sum(
        float(event["seconds"]) for event in attempt if event["event"] == "stage" and event["stage"] in BEFORE_DEFENSE
    )
    return max(0.0, wall - before)

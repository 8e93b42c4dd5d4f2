"""``events.jsonl``, the diary of a run folder: what happened when, and so what interrupted goes have cost."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..io.files import plain, writing

FILE = "events.jsonl"
SIGNS = (FILE, "log.txt", "work", "outcome")  # what a run writes as it goes on; other files may be anybody's
ASIDE = ("evaluate before",)  # stages before the defense starts, which its seconds leave out


@dataclass(frozen=True)
class Earlier:
    """What the goes before this one have cost.

    :param goes: how many there were.
    :param seconds: of the defense and its preview; a go that was killed counts up to its last sign of life.
    :param stages: seconds of the stages that came to an end in them, by success or by failure.
    """

    goes: int = 0
    seconds: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)


def append_event(folder: Path, event: str, *, at: float | None = None, **facts: Any) -> None:
    """Add one line to the diary of *folder*.

    :param at: when, in seconds since the epoch; default: now.
    :raises RunError: when it cannot be written.
    """
    when = datetime.now(timezone.utc) if at is None else datetime.fromtimestamp(at, timezone.utc)
    line = {"time": when.isoformat(timespec="milliseconds"), "event": event, **facts}
    with writing(folder / FILE), (folder / FILE).open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":  # a kill cut the last line off
                file.write(b"\n")
        file.write(f"{json.dumps(plain(line))}\n".encode())


def note_killed(folder: Path) -> None:
    """Say when the latest go gave its last sign of life, the newest of its files, if it did not come to an end."""
    events = read_events(folder)
    if not events or events[-1]["event"] in ("stopped", "finished", "killed"):
        return
    signs = [path for name in SIGNS for path in (folder / name, *(folder / name).rglob("*")) if path.is_file()]
    append_event(folder, "killed", at=max(path.stat().st_mtime for path in signs))


def earlier(folder: Path) -> Earlier:
    """Return what the goes in *folder* have cost since it was last finished.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as name:
    ...     append_event(Path(name), "started", at=100)
    ...     append_event(Path(name), "stage", at=103, stage="purify", seconds=3.0)
    ...     append_event(Path(name), "killed", at=105)
    ...     earlier(Path(name))
    Earlier(goes=1, seconds=5.0, stages={'purify': 3.0})
    """
    goes: list[list[dict[str, Any]]] = []
    for event in read_events(folder):
        if event["event"] == "finished":
            goes = []
        elif event["event"] == "started":
            goes.append([event])
        elif goes:
            goes[-1].append(event)
    stages: dict[str, float] = {}
    for event in (event for go in goes for event in go if event["event"] == "stage"):
        stages[event["stage"]] = stages.get(event["stage"], 0.0) + event["seconds"]
    return Earlier(len(goes), sum(map(_seconds, goes)), stages)


def read_events(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of the diary; a last one that was cut off by a kill is left out."""
    path = folder / FILE
    events = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            events.append(json.loads(line))
        except ValueError:
            continue
    return events


def _seconds(go: Sequence[dict[str, Any]]) -> float:
    for event in go:
        if event["event"] == "defended":
            return float(event["seconds"])
    wall = (datetime.fromisoformat(go[-1]["time"]) - datetime.fromisoformat(go[0]["time"])).total_seconds()
    aside = sum(float(event["seconds"]) for event in go if event["event"] == "stage" and event["stage"] in ASIDE)
    return max(0.0, wall - aside)

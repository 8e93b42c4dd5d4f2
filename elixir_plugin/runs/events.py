"""``events.jsonl``, the event log of a run folder: what happened when, and so what earlier attempts have cost."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, model_validator
from typing_extensions import Self

from ..errors import InputError
from ..io.checked import Facts, Seconds, checked, refuse_newer
from ..io.documents import parse_json
from ..io.environment import MOST
from ..io.files import to_json_types, writing
from ..io.opening import TEXT_LIMIT, read_bytes, without_waiting
from ..report.facts import checked_case

EVENT_LOG = "events.jsonl"
RUN_FILES = (EVENT_LOG, "log.txt", "work", "outcome")  # what a run writes as it attempts; other files may be anybody's
SCHEMA = 1  # of the event log, in every line that says "started"; earlier ones have none
TOLD = 5  # lines of the event log that cannot be read, each in a warning of its own
UNREADABLE = 10_000  # such lines that an event log may have; no kill or full disk leaves so many
BEFORE_DEFENSE = ("evaluate before",)  # stages before the defense starts, which its seconds leave out


def _moment(text: str) -> str:
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("a moment with its time zone")
    return text


class Event(Facts):
    """One line of the event log: what is read of it, and of which type it is."""

    time: Annotated[str, AfterValidator(_moment)]
    event: str
    stage: str | None = None
    seconds: Seconds | None = None
    identity: str | None = None
    case: Annotated[dict[str, Any], AfterValidator(checked_case)] | None = None
    environment: dict[str, str | None] | None = None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.event in ("stage", "defended") and self.seconds is None:
            raise ValueError("seconds")
        if self.event == "stage" and self.stage is None:
            raise ValueError("a stage")
        return self


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
    facts = {"schema": SCHEMA, **facts} if event == "started" else facts
    line = {"time": when.isoformat(timespec="milliseconds"), "event": event, **facts}
    with writing(folder / EVENT_LOG), open(folder / EVENT_LOG, "ab+", opener=without_waiting) as file:
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
    append_event(folder, "killed", at=max(_written(folder), default=None))


def _written(folder: Path) -> Iterator[float]:
    """Yield when each file of the run was last written, as far as a date can say it."""
    now = datetime.now(timezone.utc).timestamp()
    for name in RUN_FILES:
        for path in (folder / name, *(folder / name).rglob("*")):
            with suppress(OSError):
                if path.is_file():
                    yield min(max(0.0, path.stat().st_mtime), now)


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
    for event in read_events(folder, tell=True):
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


def read_events(folder: Path, *, tell: bool = False) -> list[dict[str, Any]]:
    """Return the lines of the event log that are what :class:`Event` says; the others are left out.

    The last one may have been cut off by a kill.

    :param tell: warn of others that are left out.
    :raises InputError: when it is no regular file, too large, was written by a later version, or has more than
        :data:`UNREADABLE` lines that cannot be read.
    """
    path = folder / EVENT_LOG
    try:
        lines = read_bytes(path, TEXT_LIMIT).split(b"\n")
    except FileNotFoundError:
        return []
    events, left_out = [], 0
    while lines and not lines[-1].strip():
        lines.pop()
    for number, line in enumerate(lines, 1):
        where = f"{path}: line {number}"
        try:
            event = _parsed(line, where)
        except InputError as error:
            left_out += number < len(lines)
            if tell and number < len(lines) and left_out <= TOLD:
                logging.getLogger(__name__).warning("%s is left out: %s (%s)", where, error.what, error.found)
            if left_out > UNREADABLE:
                raise InputError(
                    "not the event log of a run",
                    where=path,
                    found=f"{left_out:,} lines that are not events among the first {number:,}",
                    allowed=f"up to {UNREADABLE:,} damaged lines",
                    hint=f"move {EVENT_LOG} away; what the run has already computed is kept without it",
                ) from None
            continue
        refuse_newer(event, SCHEMA, path)
        events.append(event)
    if tell and left_out > TOLD:
        logging.getLogger(__name__).warning("%s: %s more lines are left out", path, f"{left_out - TOLD:,}")
    return events


def _parsed(line: bytes, where: str) -> dict[str, Any]:
    try:
        event = parse_json(line.decode(), where=where)
    except UnicodeDecodeError as error:
        raise InputError("not text", where=where, found=error.reason) from None
    checked(Event, event, what="not an event of a run", where=where)
    return dict(event)


def _seconds(attempt: Sequence[dict[str, Any]]) -> float:
    for event in attempt:
        if event["event"] == "defended":
            return float(event["seconds"])
    wall = (datetime.fromisoformat(attempt[-1]["time"]) - datetime.fromisoformat(attempt[0]["time"])).total_seconds()
    before = sum(
        float(event["seconds"]) for event in attempt if event["event"] == "stage" and event["stage"] in BEFORE_DEFENSE
    )
    return max(0.0, wall - before)

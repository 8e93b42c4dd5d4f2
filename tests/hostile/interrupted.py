"""Runs that are killed, or whose disk fills, at an event of writing; the same command again must end as if nothing was.

What an event is, and how a process dies before one, is in :mod:`kill_native`.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kill_native import CHANGES, WRITES, count_events, watch
from processes import forked
from run_scenarios import Scenario, essence

from elixir_plugin.errors import ElixirError

WAYS = ("killed", "disk full")
REMOVES = ("os.remove", "os.rmdir")  # what a full disk does not prevent


@dataclass
class Tally:
    """How often a scenario was interrupted, and what was wrong."""

    events: int = 0
    tried: int = 0
    faults: list[str] = field(default_factory=list)


class Interrupted:
    """A scenario with the result of an undisturbed run; made once.

    :param place: an empty folder to work in. Every attempt is made in one folder in it: paths are part of the result.
    """

    def __init__(self, scenario: Scenario, place: Path) -> None:
        self.scenario, self.work, self.given = scenario, place / "work", place / "given"
        scenario.prepare(self.given)
        self._fresh()
        self.events = count_events(scenario, self.work)
        self.wanted = essence(self.work)

    def attempt(self, way: str, number: int) -> str | None:
        """Interrupt a run before event *number*, from 1, run it again, and return what is wrong; None: nothing."""
        name = f"{self.scenario.name}, {way} before event {number} of {self.events}"
        self._fresh()
        said = self.work.with_name("said")
        said.unlink(missing_ok=True)
        pid = forked(lambda: self._full(number, said) if way == "disk full" else self._killed(number))
        status = os.waitpid(pid, 0)[1]
        if way == "killed" and not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL):
            return f"{name}: it was not killed"
        if way == "disk full" and (fault := said.read_text() if said.exists() else f"ended with {status}"):
            return f"{name}: {fault}"
        again = self.work.with_name("again")
        again.unlink(missing_ok=True)
        pid = forked(lambda: again.write_text(_outcome(self.scenario, self.work)))
        os.waitpid(pid, 0)
        if fault := again.read_text() if again.exists() else "the second attempt died":
            return f"{name}: then {fault}"
        found = essence(self.work)
        other = sorted(key for key in {*found, *self.wanted} if found.get(key) != self.wanted.get(key))
        return f"{name}: then it differs in {', '.join(other[:6])}" if other else None

    def _fresh(self) -> None:
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(self.given, self.work, symlinks=True)

    def _killed(self, number: int) -> None:
        watch(self.work, number)
        self.scenario.act(self.work)

    def _full(self, number: int, said: Path) -> None:
        """Run on a disk that takes nothing from event *number* on; note a fault: anything but one error, or success."""
        disk = FullDisk(self.work, number)
        sys.addaudithook(disk)
        outcome = _outcome(self.scenario, self.work, refused=True)
        disk.on = False
        said.write_text(outcome)


class FullDisk:
    """An audit hook that lets everything below *folder* fail that writes, from event *number* on."""

    def __init__(self, folder: Path, number: int) -> None:
        self.root, self.number, self.seen, self.on = f"{os.path.realpath(folder)}{os.sep}", number, 0, True

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on or not (event == "open" or event in CHANGES):
            return
        path = arguments[0]
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & WRITES):
            return
        if not isinstance(path, str | bytes | os.PathLike):
            return
        if not os.path.abspath(os.fsdecode(path)).startswith(self.root):  # noqa: PTH100
            return
        self.seen += 1
        if self.seen >= self.number and event not in REMOVES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fsdecode(path))


def _outcome(scenario: Scenario, folder: Path, *, refused: bool = False) -> str:
    """Run the command, and return what went wrong.

    :param refused: whether an error raised on purpose is right, too.
    """
    try:
        scenario.act(folder)
    except ElixirError as error:
        return "" if refused else f"refused: {' '.join(str(error).split())[:500]}"
    except RuntimeError as error:  # of a comparison, which notes what failed
        return "" if refused and "No space left" in str(error) else f"RuntimeError: {error}"[:600]
    except BaseException as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
    return ""


def numbers(events: int, budget: int) -> list[int]:
    """Return which events to interrupt at: all of them, or as many as *budget* says, spread evenly."""
    if budget >= events:
        return list(range(1, events + 1))
    return sorted({1 + round(step * (events - 1) / max(1, budget - 1)) for step in range(budget)})


def interrupt(scenario: Scenario, place: Path, way: str, at: Sequence[float] = ()) -> Tally:
    """Interrupt *scenario* at events, each given by its place among all, from 0 to 1; default: at all of them."""
    run = Interrupted(scenario, place)
    chosen = [1 + int(share * (run.events - 1)) for share in at] or range(1, run.events + 1)
    tally = Tally(run.events)
    for number in chosen:
        tally.tried += 1
        if fault := run.attempt(way, number):
            tally.faults.append(fault)
    return tally


def results(run: Interrupted, way: str, chosen: Sequence[int]) -> Iterator[str | None]:
    """Yield what is wrong for every event in *chosen*."""
    for number in chosen:
        yield run.attempt(way, number)

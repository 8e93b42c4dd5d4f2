"""SIGKILL at every event of writing: what the next run makes of it must be what an undisturbed one makes.

A :class:`Scenario` is a folder as it is before, and a command that can be run again. :func:`killed` runs the command in
a child process that dies just before its n-th event below the folder (a file opened for writing, a rename, a removal,
a new folder); where it was about to open a file, it leaves some bytes there, as a write that was cut off would.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))

from processes import forked

TORN = b"half of what was to be written"
CHANGES = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


@dataclass(frozen=True)
class Scenario:
    """A command that writes, and where it is run.

    :param prepare: makes what is there before, the user's own files among it, in an empty folder.
    :param act: the command; called with the folder, as often as one likes.
    :param ignored: names of files and folders that differ from run to run: they hold times.
    """

    name: str
    prepare: Callable[[Path], object]
    act: Callable[[Path], object]
    ignored: frozenset[str] = field(default_factory=frozenset)


@dataclass
class Tally:
    """How many kills were tried, and what was found wrong after them."""

    events: int = 0
    tried: int = 0
    faults: list[str] = field(default_factory=list)


def count_events(scenario: Scenario, folder: Path) -> int:
    """Return how many events the command has; it runs in a child process, to its end."""
    reading, writing = os.pipe()
    pid = forked(lambda: (seen := watch(folder, None), scenario.act(folder), os.write(writing, str(seen[0]).encode())))
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    assert os.waitpid(pid, 0)[1] == 0, f"{scenario.name} fails by itself"
    return int(said)


def killed(scenario: Scenario, folder: Path, number: int) -> bool:
    """Run the command in a child process that dies before event *number*, from 1; return whether it did."""
    pid = forked(lambda: (watch(folder, number), scenario.act(folder)))
    status = os.waitpid(pid, 0)[1]
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def watch(folder: Path, number: int | None) -> list[int]:
    """Count the events of this process below *folder*, and die before event *number*; the count is kept up to date."""
    root = f"{os.path.realpath(folder)}{os.sep}"
    seen = [0]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = arguments
            if not (flags & WRITES if isinstance(flags, int) else set(mode or "") & set("wax+")):
                return
        elif event in CHANGES:
            path = arguments[0]
        else:
            return
        if not isinstance(path, str | bytes | os.PathLike) or not is_below(os.fsdecode(path), root):
            return
        seen[0] += 1
        if seen[0] == number:
            if event == "open" and flags & os.O_CREAT and not flags & os.O_APPEND:
                tear(os.fsdecode(path), flags)
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    return seen


def is_below(path: str, root: str) -> bool:
    return os.path.abspath(path).startswith(root)  # noqa: PTH100  (resolving would follow links)


def tear(path: str, flags: int) -> None:
    """Leave what a killed process leaves of a file it has just begun to write."""
    try:
        handle = os.open(path, flags, 0o600)
        os.write(handle, TORN)
    except OSError:  # it would have failed there, too
        return


def try_kills(scenario: Scenario, place: Path, at: Sequence[float] = ()) -> Tally:
    """Kill the command of *scenario* before every event, run it again, and compare.

    :param place: an empty folder to work in.
    :param at: only before these events, each given by its place among all, from 0 to 1.
    """
    given, work = place / "given", place / "work"
    given.mkdir()
    scenario.prepare(given)
    shutil.copytree(given, work, symlinks=True)
    before, places = state(given), inodes(work)
    tally = Tally(count_events(scenario, work))
    wanted = state(work, scenario.ignored)
    own = {name for name, inode in inodes(work).items() if places.get(name) == inode}  # what an undisturbed run leaves
    for number in [1 + int(share * (tally.events - 1)) for share in at] or range(1, tally.events + 1):
        shutil.rmtree(work)
        shutil.copytree(given, work, symlinks=True)
        if not killed(scenario, work, number):
            tally.faults.append(f"{scenario.name}: event {number} did not come")
            continue
        tally.tried += 1
        now = state(work)
        if lost := sorted(name for name in own if now.get(name) != before[name]):
            tally.faults.append(f"{scenario.name}, killed before event {number}: touched {lost}")
        try:
            scenario.act(work)
        except Exception as error:
            said = " ".join(str(error).split())
            tally.faults.append(f"{scenario.name}, killed before event {number}: {type(error).__name__}: {said}")
            continue
        found = state(work, scenario.ignored)
        if other := sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name)):
            tally.faults.append(f"{scenario.name}, killed before event {number}: differs in {other}")
    return tally


def inodes(folder: Path) -> dict[str, tuple[int, int]]:
    """Return every file below *folder* with what changes when it is written or replaced."""
    files = ((path, path.lstat()) for path in folder.rglob("*") if not path.is_dir())
    return {path.relative_to(folder).as_posix(): (found.st_ino, found.st_mtime_ns) for path, found in files}


def state(folder: Path, ignored: frozenset[str] = frozenset()) -> dict[str, str]:
    """Return everything below *folder*, hidden or not, with the hash of its content; without what is *ignored*."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if not ignored & set(name.parts):
            found[name.as_posix()] = digest(path)
    return found


def digest(path: Path) -> str:
    if path.is_symlink():
        return str(path.readlink())
    return "folder" if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest()

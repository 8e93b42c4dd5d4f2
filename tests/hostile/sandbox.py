"""Readings in child processes: each under limits, and under a watch that notes and stops what a reading must not do.

A job is a call, and the places that it must leave as they are. Jobs share one child, a fork of this process, until one
ends it; another child goes on behind that one.
"""

from __future__ import annotations

import json
import os
import re
import resource
import select
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from elixir_plugin.errors import ElixirError

LONGEST = 1500  # characters of a message
STARTS = {  # events of what starts a program, connects, or takes a name from a pickle
    "subprocess.Popen", "os.exec", "os.posix_spawn", "os.spawn", "os.system", "os.fork", "os.forkpty", "os.startfile",
    "pty.spawn", "socket.connect", "socket.bind", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname",
    "urllib.Request", "webbrowser.open", "pickle.find_class",
}  # fmt: skip
CHANGES = {
    "os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.chmod", "os.chown", "os.truncate",
    "os.utime", "os.setxattr", "shutil.rmtree", "shutil.move",
}  # fmt: skip
NAMES = {"os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink"}  # a link, not what it leads to
STRANGE = ("elixir_canary", "antigravity", "pty", "webbrowser", "turtle", "idlelib", "nt")  # no reader needs them
NO_MEMORY = re.compile(r"MemoryError|allocate|not enough memory|out of memory", re.IGNORECASE)
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
FAULTS = ("traceback", "ran", "changed", "slow", "memory", "died", "message")


@dataclass(frozen=True)
class Limits:
    """What one reading may take.

    :param memory: bytes of address space above what the child has when it starts.
    :param resident: bytes of memory in use above what is in use when the reading starts.
    :param cpu, wall: seconds; many of the latter, for a machine may be busy, and what waits for ever waits longer.
    """

    memory: int = 3 << 30
    resident: int = 3 << 29
    cpu: float = 6
    wall: float = 120


@dataclass(frozen=True)
class Job:
    """One reading.

    :param prepare: puts the input in its place; not watched.
    :param kept: files and folders that the reading must leave as they are, after *prepare*.
    :param free: folders that it may write to.
    """

    name: str
    action: Callable[[], object]
    prepare: Callable[[], object] = lambda: None
    kept: tuple[Path, ...] = ()
    free: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Result:
    """How a job ended: ``refused`` with one error, ``read``, or one of ``FAULTS``.

    :param told: the message, or what went wrong.
    :param peak: bytes of memory that it took beyond those in use before.
    """

    name: str
    state: str
    told: str = ""
    seconds: float = 0.0
    peak: int = 0

    @property
    def failed(self) -> bool:
        return self.state in FAULTS

    def __str__(self) -> str:
        return f"{self.name}: {self.state} after {self.seconds:.2f} s, {self.peak >> 20} MiB: {self.told[-800:]}"


class TooLong(BaseException):
    """Raised in a reading that takes too much time; no reader catches it."""


def run_jobs(jobs: Sequence[Job], folder: Path, limits: Limits | None = None) -> Iterator[Result]:
    """Yield a result for every job, in their order.

    :param folder: for the children's own files; jobs may always write to ``tmp`` in it.
    """
    limits = limits or Limits()
    (folder / "tmp").mkdir(parents=True, exist_ok=True)
    first = 0
    while first < len(jobs):
        for result in _one_child(jobs[first:], folder, limits):
            first += 1
            yield result


def _one_child(jobs: Sequence[Job], folder: Path, limits: Limits) -> Iterator[Result]:
    """Yield results until the child ends; for the job that ended it, too."""
    reading, writing = os.pipe()
    sys.stdout.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of forking beside threads
        pid = os.fork()
    if not pid:
        try:
            os.close(reading)
            _child(jobs, folder, limits, writing)
            os._exit(0)
        finally:
            os._exit(1)
    os.close(writing)
    done, started, hung, rest = 0, time.monotonic(), False, b""
    try:
        while True:
            ready, _, _ = select.select([reading], [], [], limits.wall + 15)
            if not ready:
                hung = True  # neither the alarm nor the limit of CPU time reaches it
                break
            content = os.read(reading, 1 << 16)
            if not content:
                break
            *lines, rest = (rest + content).split(b"\n")
            for line in lines:
                done, started = done + 1, time.monotonic()
                yield Result(**json.loads(line))
    finally:
        os.kill(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)[1]
        os.close(reading)
    if done < len(jobs):
        told = "it hangs, whatever signal it gets" if hung else f"ended by signal {os.WTERMSIG(status)}"
        yield Result(jobs[done].name, "slow" if hung else "died", told, time.monotonic() - started)


def _child(jobs: Sequence[Job], folder: Path, limits: Limits, out: int) -> None:
    for number, name in ((0, os.devnull), (1, folder / "printed"), (2, folder / "printed")):
        handle = os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(handle, number)
        os.close(handle)
    os.environ.update(TMPDIR=str(folder / "tmp"), HF_HUB_OFFLINE="1", PYTHONDONTWRITEBYTECODE="1")
    tempfile.tempdir = str(folder / "tmp")
    sys.dont_write_bytecode = True
    warnings.simplefilter("ignore")  # of libraries, on files they read all the same; the filters of tests raise them
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (_used("VmSize") + limits.memory, resource.RLIM_INFINITY))
    watch = Watch(folder / "tmp")
    sys.addaudithook(watch)
    for name in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(name, _too_long)
    for job in jobs:
        result = _reading(job, limits, watch)
        os.write(out, json.dumps(asdict(result)).encode() + b"\n")


def _too_long(number: int, _: object) -> None:
    raise TooLong("took too long" if number == signal.SIGPROF else "waited too long")


def _reading(job: Job, limits: Limits, watch: Watch) -> Result:
    try:
        job.prepare()
    except Exception:
        return Result(job.name, "traceback", f"not prepared: {traceback.format_exc()}")
    before = [snapshot(path) for path in job.kept]
    base = _reset_peak()
    started = time.monotonic()
    state, told = "read", ""
    watch.begin(job.free)
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, limits.wall)
            signal.setitimer(signal.ITIMER_PROF, limits.cpu)
            job.action()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.setitimer(signal.ITIMER_PROF, 0)
    except TooLong as error:
        state, told = "slow", f"{error}: {traceback.format_exc()[-1500:]}"
    except ElixirError as error:
        state, told = _judged(error)
    except MemoryError:
        state, told = "memory", traceback.format_exc()[-1500:]
    except BaseException:
        state, told = "traceback", traceback.format_exc()[-3000:]
    finally:
        watch.end()
    seconds, peak = time.monotonic() - started, max(0, _used("VmHWM") - base)
    if peak > limits.resident:
        state, told = "memory", f"{peak >> 20} MiB in use; {told}"
    if [snapshot(path) for path in job.kept] != before:
        state, told = "changed", _difference(job.kept, before)
    if watch.seen:
        state, told = "ran", "; ".join(watch.seen[:5])
    return Result(job.name, state, told.encode(errors="backslashreplace").decode(), seconds, peak)


def _judged(error: ElixirError) -> tuple[str, str]:
    """Return the state for an error raised on purpose: its message must be fit to be shown."""
    told = str(error)
    if NO_MEMORY.search(told):
        return "memory", told
    if odd := sorted({char for char in told if not (char.isprintable() or char == "\n")}):
        return "message", f"holds {odd[:5]!r}: {told[:600]!r}"
    if len(told) > LONGEST:
        return "message", f"{len(told)} characters: {told[:600]}"
    return "refused", told


@dataclass
class Watch:
    """An audit hook: notes, and stops, whatever starts a program, connects, or writes anywhere but to *own*."""

    own: Path
    free: tuple[str, ...] = ()
    on: bool = False
    seen: list[str] = field(default_factory=list)

    def begin(self, free: Sequence[Path]) -> None:
        self.free = tuple(os.path.join(os.path.realpath(path), "") for path in (self.own, *free))  # noqa: PTH118
        self.seen, self.on = [], True

    def end(self) -> None:
        self.on = False

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event == "import":
            bad = str(args[0]).partition(".")[0] in STRANGE
        elif event == "open":
            bad = isinstance(args[2], int) and bool(args[2] & WRITING) and not self._own(args[0])
        elif event in CHANGES:
            paths = [each for each in args[:2] if isinstance(each, str | bytes | os.PathLike)]
            bad = not all(self._own(each, args[-1], follow=event not in NAMES) for each in paths)
        else:
            bad = event in STARTS
        if bad:
            self.on = False  # what is done here is not watched
            self.seen.append(f"{event} {args!r}"[:300])
            self.on = True
            raise PermissionError(f"{event} is not allowed here")

    def _own(self, path: object, folder: object = -1, *, follow: bool = True) -> bool:
        """Tell whether *path* may be written; it counts from *folder*, a descriptor, where that is one.

        :param follow: whether what a link leads to is written, not the link.
        """
        if not isinstance(path, str | bytes | os.PathLike):
            return True  # a descriptor
        name = os.fsdecode(path)
        if name == os.devnull:
            return True
        base = os.readlink(f"/proc/self/fd/{folder}") if isinstance(folder, int) and folder >= 0 else ""  # noqa: PTH115
        whole = os.path.join(base, name).rstrip("/")  # noqa: PTH118
        above, last = os.path.split(whole)
        follow = follow or last in ("", ".", "..")
        real = os.path.realpath(whole) if follow else os.path.join(os.path.realpath(above), last)  # noqa: PTH118
        return os.path.join(real, "").startswith(self.free)  # noqa: PTH118


def snapshot(path: Path) -> dict[str, tuple[Any, ...]]:
    """Return what tells whether anything at or below *path* was written, made or removed; nothing is read.

    The kernel sets the times of a file at every change, and who changes it cannot set the last of them back.
    """
    found = {"": _facts(path)}
    folders = [path] if path.is_dir() and not path.is_symlink() else []
    while folders:
        try:
            entries = list(os.scandir(folders.pop()))
        except OSError:
            continue
        for entry in entries:
            found[entry.path] = _facts(Path(entry.path))
            if entry.is_dir(follow_symlinks=False):
                folders.append(Path(entry.path))
    return found


def _facts(path: Path) -> tuple[Any, ...]:
    try:
        seen = path.lstat()
    except OSError:
        return ()
    return seen.st_ino, seen.st_mode, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns


def _difference(kept: Sequence[Path], before: Sequence[dict[str, Any]]) -> str:
    found = []
    for path, old in zip(kept, before, strict=True):
        new = snapshot(path)
        found += [name or str(path) for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]
    return ", ".join(found[:5])


def _used(name: str) -> int:
    """Return bytes of memory of this process, by its name in ``/proc/self/status``."""
    with open("/proc/self/status", "rb") as file:  # noqa: PTH123
        for line in file:
            if line.startswith(name.encode() + b":"):
                return int(line.split()[1]) * 1024
    return 0


def _reset_peak() -> int:
    """Let the peak of memory count anew, and return what is in use."""
    handle = os.open("/proc/self/clear_refs", os.O_WRONLY)
    os.write(handle, b"5")
    os.close(handle)
    return _used("VmRSS")

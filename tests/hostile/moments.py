"""Unlucky moments of a run, each on the real command in a process of its own.

Every function of :data:`MOMENTS` makes one happen in a folder and asserts what becomes of the run.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

PROGRAM = (sys.executable, "-P", "-m", "elixir_plugin")
SHORT = ("-o", "size=8", "-o", "recipe.epochs=1", "--set", "epochs=1", "--any-model", "--out", "run")
RUN = ("run", "d3", "--from", "testbed:badnets", *SHORT)
LONG = ("run", "d3", "--from", "testbed:badnets", *SHORT, "--set", "epochs=100000")
PATIENCE = 300  # seconds, on a busy machine


def environment(**changes: str | None) -> dict[str, str]:
    """Return the environment of a child: one thread, and *changes*; None takes a variable away."""
    root = str(Path(__file__).resolve().parents[2])
    found = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root, **changes}
    return {name: value for name, value in found.items() if value is not None}


def call(
    folder: Path, *arguments: str, env: Mapping[str, str] | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run the command in *folder* and see that it ends without a traceback."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL, **options}
    done = subprocess.run(
        [*PROGRAM, *arguments],
        cwd=folder,
        env=environment() if env is None else env,
        text=True,
        check=False,
        timeout=PATIENCE,
        **streams,
    )
    assert "Traceback" not in (done.stderr or ""), done.stderr
    return done


def finished(folder: Path) -> dict[str, Any]:
    """Return the report of the run in *folder*, which holds nothing half-written."""
    report: dict[str, Any] = json.loads((folder / "run/report.json").read_text())
    assert (folder / "run/report.html").is_file() and not list(folder.rglob("*.part"))
    return report


def one_error(text: str) -> None:
    """See that *text* is one error in plain words."""
    assert text.count("error:") == 1 and "next:" in text, text


def shell(folder: Path, line: str, **changes: str | None) -> subprocess.CompletedProcess[str]:
    """Run ``$R`` and what *line* makes of it, with pipes that fail when a part does."""
    words = " ".join(PROGRAM)
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line.replace("$P", words).replace("$R", f"{words} {' '.join(RUN)}")],
        cwd=folder,
        env=environment(**changes),
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )


def signalled(number: signal.Signals, folder: Path, *, twice: bool = False) -> None:
    """A run is told to end: it says so, leaves its folder free, and can go on."""
    with subprocess.Popen(
        [*PROGRAM, *LONG],
        cwd=folder,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=partial(signal.signal, number, signal.SIG_DFL),  # noqa: PLW1509  (as a background job ignores some)
    ) as process:
        try:
            await_event(folder / "run/events.jsonl", "evaluate before")
            process.send_signal(number)
            if twice:
                time.sleep(0.02)
                process.send_signal(number)
            _, errors = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert "Traceback" not in errors and not (folder / "run/report.json").exists()
    assert not list((folder / "run").glob(".*.part"))
    if twice and process.returncode == -number:  # the second one came in time
        return
    assert process.returncode == 128 + number, errors
    assert "interrupted" in errors and "Run the same command again" in errors
    assert number == signal.SIGINT or number.name in errors
    events = [json.loads(line)["event"] for line in (folder / "run/events.jsonl").read_text().splitlines()]
    assert events[-1] == "stopped"


def await_event(log: Path, word: str) -> None:
    """Wait until *word* is in an event log."""
    deadline = time.monotonic() + PATIENCE
    while not (log.exists() and word in log.read_text()):
        assert time.monotonic() < deadline, f"no {word} in {log}"
        time.sleep(0.05)


def goes_on_after_sigterm(folder: Path) -> None:
    """The same command goes on after SIGTERM, and ends as one that nobody stopped."""
    whole, part = folder / "whole", folder / "part"
    for place in (whole, part):
        place.mkdir()
    assert call(whole, *RUN).returncode == 0
    with subprocess.Popen(
        [*PROGRAM, *RUN], cwd=part, env=environment(), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    ) as process:
        await_event(part / "run/events.jsonl", "started")
        process.terminate()
    assert call(part, *RUN).returncode == 0
    results = [(place / "run/outcome/outcome.safetensors").read_bytes() for place in (whole, part)]
    assert results[0] == results[1] and finished(part)["metrics"] == finished(whole)["metrics"]


def nohup(folder: Path) -> None:
    """SIGHUP that is ignored, as under nohup, stays ignored."""
    with subprocess.Popen(
        [*PROGRAM, *RUN],
        cwd=folder,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=partial(signal.signal, signal.SIGHUP, signal.SIG_IGN),  # noqa: PLW1509
    ) as process:
        await_event(folder / "run/events.jsonl", "started")
        process.send_signal(signal.SIGHUP)
    assert process.returncode == 0 and finished(folder)


def short_of_addresses(kib: int, folder: Path) -> None:
    """Under ``ulimit -v`` a run that does not fit ends in one error, with the limit in it."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (kib * 1024, kib * 1024))

    done = call(folder, *RUN, preexec_fn=limit)
    assert done.returncode == 1
    one_error(done.stderr)
    assert "memory" in done.stderr and f"{kib / 2**20:.1f} GiB" in done.stderr and not (folder / "run").exists()


def refusal_of(program: str, folder: Path, env: Mapping[str, str]) -> str:
    """Run the text of a *program* in *folder*, and return the one error that it ends with."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", program],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    one_error(done.stderr)
    return done.stderr


def memory_runs_out_later(folder: Path) -> None:
    """Where the libraries fit but the data do not, the error is one as well."""
    program = (
        "import resource, sys\n"
        "from elixir_plugin.cli.app import main\n"
        "import elixir_plugin.runs.run, elixir_plugin.training, elixir_plugin.defenses.d3\n"
        "import sklearn.metrics, scipy.linalg\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, used + 2**28))\n"
        f"sys.argv = ['elixir-plugin', *{RUN!r}, '-o', 'size=64']\n"
        "main()\n"
    )
    assert "out of memory" in refusal_of(program, folder, environment())


def no_home(home: str | None, folder: Path) -> None:
    """A home folder that is missing, or cannot be written, changes nothing and is not mentioned."""
    done = call(folder, *RUN, env=environment(HOME=home, MPLCONFIGDIR=None, XDG_CACHE_HOME=None, XDG_CONFIG_HOME=None))
    assert done.returncode == 0 and not done.stderr, done.stderr
    finished(folder)


def empty_environment(folder: Path) -> None:
    """With ``env -i`` a run ends well, and its record tells with how many threads."""
    done = call(folder, *RUN, "--threads", "1", env={"PYTHONPATH": environment()["PYTHONPATH"]})
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert finished(folder)["environment"]["variables"] == "none"


def locale_c(folder: Path) -> None:
    """In an ASCII locale, text is written as UTF-8 and shown as the terminal can."""
    changes = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": None}
    done = call(folder, *RUN, env=environment(**changes))
    assert done.returncode == 0, done.stderr
    finished(folder)


def temporary_folder_missing(folder: Path) -> None:
    """TMPDIR that is not there is left out."""
    done = call(folder, *RUN, env=environment(TMPDIR=str(folder / "missing")))
    assert done.returncode == 0 and not done.stderr, done.stderr
    finished(folder)
    assert not (folder / "missing").exists()


def temporary_folder_unusable(folder: Path) -> None:
    """Neither a temporary folder nor a home folder: one error that names the variable."""
    program = (
        "import sys, tempfile\n"
        "def none(): raise FileNotFoundError(2, 'No usable temporary directory found')\n"
        "tempfile.gettempdir = tempfile._get_default_tempdir = none\n"
        "from elixir_plugin.cli.app import main\n"
        f"sys.argv = ['elixir-plugin', *{RUN!r}]\n"
        "main()\n"
    )
    needed = {name: value for name, value in environment().items() if name in ("PATH", "PYTHONPATH", "OMP_NUM_THREADS")}
    assert "TMPDIR" in refusal_of(program, folder, {**needed, "HOME": "/proc/none"})
    assert not (folder / "run").exists()


def reader_gone(line: str, folder: Path) -> None:
    """A run whose output nobody reads goes on quietly."""
    done = shell(folder, line)
    assert done.returncode == 0 and not done.stderr, (done.returncode, done.stderr)
    assert (folder / "run/report.json").is_file() and not list(folder.rglob("*.part"))


def closed(streams: str, folder: Path) -> None:
    """A run with closed standard streams ends well, and no file takes the place of a stream."""
    done = shell(folder, f"$R {streams}")
    assert done.returncode == 0 and "Traceback" not in done.stderr, (done.returncode, done.stderr)
    finished(folder)


def folder_gone_before(folder: Path) -> None:
    """A run that is started in a folder that was removed says so."""
    (folder / "gone").mkdir()
    done = shell(folder, "cd gone && rmdir ../gone && $R")
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    one_error(done.stderr)
    assert "the working folder is gone" in done.stderr


def folder_gone_meanwhile(folder: Path) -> None:
    """A run whose folder is removed under it ends in one error."""
    place = folder / "gone"
    place.mkdir()
    arguments = [*RUN, "--set", "epochs=40"]
    with subprocess.Popen(
        [*PROGRAM, *arguments], cwd=place, env=environment(), stderr=subprocess.PIPE, text=True
    ) as process:
        await_event(place / "run/events.jsonl", "started")
        shutil.rmtree(place)
        _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1 and "Traceback" not in errors, errors
    one_error(errors)


def masked(mask: int, folder: Path) -> None:
    """Files and folders get the rights that the umask leaves, also those that are written aside first."""
    done = call(folder, *RUN, preexec_fn=partial(os.umask, mask))
    assert done.returncode == 0, done.stderr
    finished(folder)
    for path in (folder / "run", *(folder / "run").rglob("*")):
        wanted = (0o777 if path.is_dir() else 0o666) & ~mask
        assert path.stat().st_mode & 0o777 == wanted, f"{path}: {path.stat().st_mode & 0o777:o}, not {wanted:o}"


def clock_set_back(folder: Path) -> None:
    """An event log that ends in the future, as after the clock was set back: the run goes on, no time is negative."""
    with subprocess.Popen(
        [*PROGRAM, *LONG], cwd=folder, env=environment(), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    ) as process:
        await_event(folder / "run/events.jsonl", "started")
        process.kill()
    log = folder / "run/events.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    log.write_text("".join(json.dumps({**line, "time": "2090-01-01T00:00:00.000+00:00"}) + "\n" for line in lines))
    again = [word.replace("100000", "1") for word in LONG]
    done = call(folder, *again)  # other settings: another run
    assert done.returncode == 1 and "belongs to another run" in done.stderr
    shutil.rmtree(folder / "run")
    (folder / "run").mkdir()
    log.write_text('{"time": "2090-01-01T00:00:00.000+00:00", "event": "started"}\n')
    assert call(folder, *RUN).returncode == 0
    assert all(seconds >= 0 for seconds in finished(folder)["outcome"]["timings"].values())


MOMENTS: dict[str, Callable[[Path], None]] = {
    "Ctrl-C": partial(signalled, signal.SIGINT),
    "SIGTERM": partial(signalled, signal.SIGTERM),
    "SIGHUP": partial(signalled, signal.SIGHUP),
    "SIGTERM twice": partial(signalled, signal.SIGTERM, twice=True),
    "SIGTERM, then the same command": goes_on_after_sigterm,
    "SIGHUP under nohup": nohup,
    "ulimit -v 0.5 GiB": partial(short_of_addresses, 2**19),
    "ulimit -v 2 GiB": partial(short_of_addresses, 2**21),
    "memory runs out in the run": memory_runs_out_later,
    "no HOME": partial(no_home, None),
    "HOME missing": partial(no_home, "/nonexistent/home"),
    "HOME cannot be written": partial(no_home, "/proc/sys"),
    "env -i": empty_environment,
    "locale C": locale_c,
    "TMPDIR missing": temporary_folder_missing,
    "no temporary folder": temporary_folder_unusable,
    "run | head -1": partial(reader_gone, "$R | head -1 >/dev/null"),
    "run 2>&1 | head -1": partial(reader_gone, "$R 2>&1 | head -1 >/dev/null"),
    "run --json | true": partial(reader_gone, "$R --json | true"),
    "demo | head -1": partial(reader_gone, "$P demo --size 8 --only d3 --out run | head -1 >/dev/null"),
    "stdin closed": partial(closed, "<&-"),
    "stdout closed": partial(closed, ">&-"),
    "stderr closed": partial(closed, "2>&-"),
    "all streams closed": partial(closed, "<&- >&- 2>&-"),
    "working folder removed before": folder_gone_before,
    "working folder removed meanwhile": folder_gone_meanwhile,
    "umask 077": partial(masked, 0o077),
    "umask 000": partial(masked, 0),
    "clock set back": clock_set_back,
}

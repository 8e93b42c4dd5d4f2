"""Scripts and functions run as processes of their own, without each of them importing torch anew."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

HEAVY = ["matplotlib.figure", "torch", "elixir_plugin.cli", "elixir_plugin.runs.run", "elixir_plugin.training"]


def python(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Do as ``subprocess.run([sys.executable, *arguments], ...)`` with captured text does.

    The process is a fork of one that has imported what takes seconds, on systems that can fork.
    """
    command = [sys.executable, *arguments]
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(HEAVY)
    with tempfile.TemporaryDirectory() as folder:
        streams = [str(Path(folder, name)) for name in ("stdout", "stderr")]
        process = context.Process(target=_main, args=(arguments, str(cwd), streams))
        process.start()
        process.join()
        assert process.exitcode is not None
        out, err = (Path(stream).read_text(encoding="utf-8") for stream in streams)
    return subprocess.CompletedProcess(command, process.exitcode, out, err)


def _main(arguments: list[str], cwd: str, streams: list[str]) -> None:
    for number, stream in enumerate(streams, 1):
        file = os.open(stream, os.O_WRONLY | os.O_CREAT)
        os.dup2(file, number)
        os.close(file)
    os.chdir(cwd)
    sys.argv = list(arguments)
    sys.path[:0] = [str(Path(cwd, arguments[0]).parent)]
    try:
        runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit:
        raise
    except BaseException:
        traceback.print_exc()
        sys.exit(1)
    finally:
        atexit._run_exitfuncs()  # which a fork would leave out


def forked(action: Callable[[], object]) -> int:
    """Run *action* in a child process that shares everything imported here; return its pid."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of forking beside threads
        pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        action()
        code = 0
    finally:
        os._exit(code)

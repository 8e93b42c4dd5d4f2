"""Reads every kind of hostile data file in a process with little memory; prints what came of each, as lines of JSON.

Arguments: a folder to work in, bytes of memory beyond what the program takes by itself, and a pattern of names.
"""

from __future__ import annotations

import fnmatch
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from data_files import KINDS
from elixir_plugin.adapters.arrays import Arrays
from elixir_plugin.adapters.backdoor_toolbox.read import read_labels

from elixir_plugin.core.classifier.checkpoints import read_weights
from elixir_plugin.errors import ElixirError
from elixir_plugin.io.reading import read_plain_pickle, read_tensors, read_torch
from elixir_plugin.training.checkpoint import read_state

READERS: dict[str, list[Callable[[Path], Any]]] = {
    "pickle": [read_plain_pickle],
    "torch": [read_torch, read_labels, read_weights],
    "old torch": [read_torch],
    "npz": [lambda path: Arrays().read(path)],
    "safetensors": [read_tensors, read_state],
}


def main(folder: Path, memory: int, pattern: str) -> None:
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    for name, build in KINDS.items():
        if not fnmatch.fnmatch(name, pattern):
            continue
        kind = name.partition(":")[0]
        path = folder / f"input.{kind.replace('torch', 'pt').replace('old ', '')}"
        build(path)
        before = path.stat()
        resource.setrlimit(resource.RLIMIT_AS, (taken + memory, resource.RLIM_INFINITY))
        for read in READERS[kind]:
            started, result = time.process_time(), "read"
            try:
                read(path)
            except ElixirError as error:
                result = str(error)
            except BaseException as error:
                result = f"TRACEBACK {type(error).__name__}: {str(error)[:200]}"
            seconds = time.process_time() - started
            unchanged = path.stat().st_mtime_ns == before.st_mtime_ns and path.stat().st_size == before.st_size
            row = {"kind": name, "result": result, "seconds": round(seconds, 2), "unchanged": unchanged}
            print(json.dumps(row), flush=True)
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        path.unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])

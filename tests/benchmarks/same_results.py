"""Whether two versions of the product give the same results, and whether the newer one reads what the older one left.

For a change that must not change any result, such as a new layout::

    git worktree add ../before COMMIT    # and install it into ../before/.venv, as the README says
    .venv/bin/python tests/benchmarks/same_results.py ../before . --out build/same --record FOLDER_OF_A_RECORD

Both versions make the same things on embedded digits with short settings: the demo, a comparison, a run of each
defense, and a run that is killed with SIGKILL after its first chunk and then goes on. Then the newer version gets
copies of the older one's folders: the same commands must say "already done" or go on after the kill, and ``report``
and ``export`` must work. Compared are exit codes, every number in JSON, every weight, array and CSV file, and the
identity of every run. Times, versions and machine facts are left out. A key that was renamed is named with
``--renamed OLD=NEW``. Texts that differ are listed, but do not count: they may be reworded. The exit code is 1 when
anything else differs.
About 12 minutes on two quiet cores.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

FIT = ("-s", "fit.size=tiny", "-s", "fit.iterations=12", "-s", "fit.batch_size=8")
ROUNDS = ("-s", "purification.steps=3", "-s", "purification.dense_below=1", "-s", "states=1", "-s", "threshold=1")
RUNS: dict[str, tuple[str, ...]] = {
    "d3": ("-s", "epochs=3"),
    "confusion_training": ("--preset", "demo", "-s", "pretrain_epochs=[1]", "-s", "confusion_steps=[20]"),
    "eclipse": ("--preset", "demo", *FIT, "--controls", "--retrain-set", "epochs=1"),
    "dataelixir": ("--preset", "demo", *FIT, *ROUNDS, "-s", "purification.rounds=2", "-s", "recipe.epochs=2"),
    "image_variations": ("--preset", "demo", *FIT, "-s", "num_inference_steps=2", "-s", "recipe.epochs=1"),
}
KILLED = ("--preset", "demo", *FIT, *ROUNDS, "-s", "purification.rounds=8", "-s", "recipe.epochs=2")
COMPARE = """
cases:
  - {source: testbed:badnets, options: {size: 8, recipe: {epochs: 10}}}
  - {source: testbed:blended, options: {size: 8, recipe: {epochs: 10}}}
defenses:
  - {defense: d3, settings: {epochs: 10}}
  - {defense: confusion_training, preset: demo, settings: {pretrain_epochs: [2], confusion_steps: [60]}}
  - {defense: eclipse, preset: demo, settings: {fit: {iterations: 40}}}
  - {defense: dataelixir, preset: demo, settings: {fit: {iterations: 40}, recipe: {epochs: 3}}}
  - {defense: image_variations, preset: demo, settings: {fit: {iterations: 40}, recipe: {epochs: 3}}}
seeds: [0]
retrain: {epochs: 3, batch_size: 64, augmentation: {crop: 0, flip: false}}
"""
TIMES = {"timings", "timing", "seconds", "seconds_total", "stages", "time", "environment", "elixir_plugin", "schema"}
ARRAYS = (".safetensors", ".npz", ".npy", ".csv")
Differences = list[str]


class Version:
    """One version of the product, and the folder that it works in.

    :param checkout: with an environment in ``.venv`` that the version is installed into.
    """

    def __init__(self, checkout: Path, folder: Path) -> None:
        self.python, self.folder = checkout.absolute() / ".venv/bin/python", folder
        self.codes: dict[str, int] = {}
        folder.mkdir(parents=True)

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start ``elixir-plugin`` with *arguments* in the folder; what it prints is added to ``log.txt``."""
        command = [str(self.python), "-P", "-m", "elixir_plugin", *arguments]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
        with (self.folder / "log.txt").open("ab") as log:
            return subprocess.Popen(command, cwd=self.folder, env=environment, stdout=log, stderr=log)

    def call(self, name: str, *arguments: str) -> None:
        """Run ``elixir-plugin`` to its end and keep its exit code."""
        self.codes[name] = self.start(*arguments).wait()
        print(f"{self.folder.name}: {name}: exit code {self.codes[name]}", flush=True)

    def run(self, name: str, defense: str, settings: Sequence[str]) -> None:
        """Run *defense* on digits under BadNets into the folder *name*."""
        self.call(name, *run_arguments(name, defense, settings))

    def make(self, record: Path | None) -> None:
        """Make everything that is compared."""
        self.call("demo", "demo", "--out", "demo")
        (self.folder / "compare.yaml").write_text(COMPARE, encoding="utf-8")
        self.call("comparison", "compare", "compare.yaml", "--out", "comparison")
        for defense, settings in RUNS.items():
            self.run(defense, defense, settings)
            self.call(f"export {defense}", "export", defense, "--to", "arrays", f"exports/{defense}")
        self.kill()
        shutil.copytree(self.folder / "killed", self.folder / "resumed")
        self.run("resumed", "dataelixir", KILLED)
        if record is not None:
            self.call("record", *record_arguments(record))

    def kill(self) -> None:
        """Start a run and kill it when its first chunk of purified images is done."""
        process = self.start(*run_arguments("killed", "dataelixir", KILLED))
        while process.poll() is None and not list((self.folder / "killed" / "work").rglob("marks/*")):
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        if process.wait() != -signal.SIGKILL:
            raise SystemExit("the run that should be killed ended before that")

    def take_over(self, old: Version, record: Path | None) -> None:
        """Go on with copies of the folders of *old*."""
        for name in [*RUNS, "comparison", "demo", *(["record"] if record else [])]:
            shutil.copytree(old.folder / name, self.folder / name)
        shutil.copytree(old.folder / "killed", self.folder / "resumed")
        for defense, settings in RUNS.items():
            self.run(defense, defense, settings)
            self.call(f"report {defense}", "report", defense)
            self.call(f"export {defense}", "export", defense, "--to", "arrays", f"exports/{defense}")
        (self.folder / "compare.yaml").write_text(COMPARE, encoding="utf-8")
        self.call("comparison", "compare", "compare.yaml", "--out", "comparison")
        self.run("resumed", "dataelixir", KILLED)
        if record is not None:
            self.call("record", *record_arguments(record))


def run_arguments(name: str, defense: str, settings: Sequence[str]) -> list[str]:
    """Return the arguments of a run of *defense* into the folder *name*."""
    source = ["--from", "testbed:badnets", "-o", "size=8", "-o", "recipe.epochs=5", "--seed", "3"]
    return ["run", defense, *source, *settings, "--out", name]


def record_arguments(record: Path) -> list[str]:
    """Return the arguments of a short D3 run on a BackdoorBench record, which is not written to."""
    place = ["--from", f"backdoorbench:{record.absolute()}", "--out", "record", "--no-write-back"]
    return ["run", "d3", *place, "--preset", "code", "--set", "epochs=3"]


def compared(old: Path, new: Path, renamed: dict[str, str]) -> Iterator[tuple[bool, str]]:
    """Yield ``(counts, what)`` for everything that differs between two folders; texts do not count."""
    for before in sorted(path for path in old.rglob("*") if path.is_file() and kept(path.relative_to(old))):
        name = before.relative_to(old)
        after = new / name
        if not after.is_file():
            yield True, f"{name}: only in the older"
        elif before.suffix == ".json":
            yield from walked(str(name), json.loads(before.read_text()), json.loads(after.read_text()), renamed)
        elif before.suffix in ARRAYS and members(before) != members(after):
            yield True, f"{name}: other bytes"


def kept(name: Path) -> bool:
    """Whether the file *name* is compared: neither what a kill left, nor times alone."""
    return (
        name.parts[0] != "killed"
        and name.suffix in (".json", *ARRAYS)
        and name.name not in ("timings.json", "table.csv")
    )


def members(path: Path) -> Any:
    """Return the content of a file; of an archive, that of its members, as it holds the time of writing too."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return {name: archive.read(name) for name in archive.namelist()}
    return path.read_bytes()


def walked(name: str, old: Any, new: Any, renamed: dict[str, str]) -> Iterator[tuple[bool, str]]:
    """Yield what differs between two JSON values."""
    if isinstance(old, dict) and isinstance(new, dict):
        old = {renamed.get(key, key): value for key, value in old.items() if key not in TIMES}
        new = {key: value for key, value in new.items() if key not in TIMES}
        yield from ((True, f"{name}: {key} is in one of the two alone") for key in sorted(old.keys() ^ new.keys()))
        for key in old.keys() & new.keys():
            yield from walked(f"{name} > {key}", old[key], new[key], renamed)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for position, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from walked(f"{name} > {position}", before, after, renamed)
    elif old != new or type(old) is not type(new):
        sentence = (
            isinstance(old, str) and isinstance(new, str) and not name.endswith(("identity", "hash", "fingerprint"))
        )
        yield not sentence, f"{name}: {str(old)[:100]!r} -> {str(new)[:100]!r}"


def main() -> int:
    """Make, take over, compare, and say what differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path, help="checkout of the older version")
    parser.add_argument("new", type=Path, help="checkout of the newer version")
    parser.add_argument("--out", type=Path, required=True, help="an empty folder, or none yet")
    parser.add_argument("--record", type=Path, help="also run D3 on this BackdoorBench record")
    parser.add_argument("--renamed", action="append", default=[], metavar="OLD=NEW", help="a key of JSON files")
    given = parser.parse_args()
    out = given.out.absolute()
    old, new = Version(given.old, out / "old"), Version(given.new, out / "new")
    old.make(given.record)
    new.make(given.record)
    taken = Version(given.new, out / "taken_over")
    taken.take_over(old, given.record)
    renamed = dict(each.split("=", 1) for each in given.renamed)
    found = [(code != new.codes.get(name), f"exit code of {name}") for name, code in old.codes.items()]
    found += [(code != 0, f"exit code of {name}, taken over") for name, code in taken.codes.items()]
    found = [each for each in found if each[0]]
    found += compared(old.folder, new.folder, renamed)
    found += compared(taken.folder, new.folder, renamed)
    counting: Differences = [what for counts, what in found if counts]
    texts: Differences = [what for counts, what in found if not counts]
    print("\n".join(["texts that differ:", *texts, "results that differ:", *counting]))
    print(f"{len(counting)} results differ, {len(texts)} texts")
    return 1 if counting else 0


if __name__ == "__main__":
    sys.exit(main())

"""Break the product in known ways, one at a time, and see whether the tests notice.

A test suite can run every line and still check little. The faults in ``seeded_faults.yaml`` are mistakes that happen:
a wrong sign, ``<`` for ``<=``, a dropped check of a path, a seed that is ignored. One that no test catches shows where
a test is missing::

    .venv/bin/python tests/seeded_faults.py --list             # each fault, and where it goes
    .venv/bin/python tests/seeded_faults.py                    # all of them, each against the whole quick suite: hours
    .venv/bin/python tests/seeded_faults.py d3-hinge --tests tests/defenses/test_d3.py

Much faster, with the tests alone that run the changed line, those that run least else first (needs pytest-cov; what a
test runs in a process of its own does not count)::

    .venv/bin/pytest -n 2 --dist loadfile --cov=elixir_plugin --cov=elixir_plugin.adapters --cov-context=test
    .venv/bin/python tests/seeded_faults.py --select-by-coverage .coverage --jobs 2

It prints a line per fault, ``caught`` with the test that failed or ``missed``, and a count; the exit code is 1 when any
was missed. A test that fails on the unchanged product too catches nothing, and is reported.

Each fault is made in a copy of the checkout in a temporary folder; the checkout itself is never touched. A fault is
found by its text, not by its file, so that files may move. Coverage must have been measured on the code as it is now.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "elixir_plugin"
PRODUCT = (PACKAGE, "adapters")  # the folder adapters/ is the package elixir_plugin.adapters
WHERE_IT_RUNS = f"import {PACKAGE}, {PACKAGE}.adapters as inner; print({PACKAGE}.__file__); print(inner.__file__)"
CONTEXT = re.compile(r"(?P<test>.+?)(?:\|(?P<phase>setup|run|teardown)| \((?:setup|call|teardown)\))")
FAILED = re.compile(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", re.MULTILINE)
NOTHING_FAILED, TESTS_FAILED, INTERRUPTED, NO_TESTS = 0, 1, 2, 5  # exit codes of pytest


@dataclass(frozen=True)
class Fault:
    """One mistake: in the only place that reads *old*, *new* stands instead."""

    id: str
    what: str
    old: str
    new: str

    @cached_property
    def file(self) -> Path:
        """The file it goes into, relative to the checkout."""
        sources = {path: path.read_text(encoding="utf-8") for part in PRODUCT for path in (ROOT / part).rglob("*.py")}
        found = [path.relative_to(ROOT) for path, text in sources.items() for _ in range(text.count(self.old))]
        if len(found) != 1:
            raise SystemExit(f"{self.id}: `old` must occur once, not {len(found)} times: {', '.join(map(str, found))}")
        return found[0]

    @cached_property
    def line(self) -> int:
        """The first line that it changes, from 1."""
        before = (ROOT / self.file).read_text(encoding="utf-8").partition(self.old)[0].count("\n")
        pairs = zip(self.old.split("\n"), self.new.split("\n"), strict=False)
        return 1 + before + next((row for row, (old, new) in enumerate(pairs) if old != new), 0)

    def statement(self) -> range:
        """The lines of the innermost statement around :attr:`line`; of a compound one, those of its head."""
        lines = range(self.line, self.line + 1)
        for node in ast.walk(self._parsed):  # outer ones first
            if isinstance(node, ast.stmt) and node.lineno <= self.line <= (node.end_lineno or 0):
                body = getattr(node, "body", None)
                lines = range(node.lineno, body[0].lineno if body else (node.end_lineno or 0) + 1)
        return lines if self.line in lines else range(self.line, self.line + 1)

    def runs_once(self) -> bool:
        """Whether the line is in a function that keeps its result: later tests do not run it, but depend on it."""
        functions = [each for each in ast.walk(self._parsed) if isinstance(each, ast.FunctionDef)]
        around = [each for each in functions if each.lineno <= self.line <= (each.end_lineno or 0)]
        return any("cache" in ast.unparse(decorator) for each in around for decorator in each.decorator_list)

    @cached_property
    def _parsed(self) -> ast.Module:
        return ast.parse((ROOT / self.file).read_text(encoding="utf-8"))

    def make(self, tree: Path) -> None:
        """Put it into the copy *tree*."""
        path = tree / self.file
        path.write_text(path.read_text(encoding="utf-8").replace(self.old, self.new), encoding="utf-8")


class Coverage:
    """Which tests run which lines, from a database that pytest-cov wrote with ``--cov-context=test``."""

    def __init__(self, database: Path) -> None:
        from coverage import CoverageData  # not among the test requirements: only this needs it

        data = CoverageData(str(database))
        data.read()
        self._lines: dict[str, dict[int, set[str]]] = {}
        self._size: Counter[str] = Counter()  # test -> lines it runs
        for name in data.measured_files():
            found = {line: _tests_of(contexts) for line, contexts in data.contexts_by_lineno(name).items()}
            self._lines[name] = found
            self._size.update(test for tests in found.values() for test in tests)

    def tests(self, fault: Fault) -> list[str]:
        """Return the tests that run the changed line, narrow ones first; of one run once for all, those of its file."""
        end = f"/{fault.file.as_posix()}"
        found = next((lines for name, lines in self._lines.items() if name.replace("\\", "/").endswith(end)), {})
        tests: set[str] = set().union(*(found.get(line, set()) for line in fault.statement()))
        if not tests or fault.runs_once():
            tests = tests.union(*found.values())
        return sorted(tests, key=lambda test: ("::" not in test, self._size[test], test))


def _tests_of(contexts: Sequence[str]) -> set[str]:
    """Return the tests behind *contexts*; of what a fixture ran, its whole file: others may have used it as well."""
    found = [match for context in contexts if (match := CONTEXT.fullmatch(context))]
    return {each["test"].partition("::")[0] if each["phase"] == "setup" else each["test"] for each in found}


@contextmanager
def copied() -> Iterator[Path]:
    """Yield a copy of the checkout, without what git ignores, that is gone afterwards."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    with tempfile.TemporaryDirectory(prefix="seeded-fault-") as folder:
        tree = Path(folder) / ROOT.name
        for name in filter(None, names):
            if (ROOT / name).is_file():
                (tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, tree / name)
        if (tree / "adapters").is_dir():  # an import looks for it inside the package
            (tree / PACKAGE / "adapters").symlink_to(Path("..") / "adapters", target_is_directory=True)
        if (ROOT.parent / "shared").is_dir():
            (Path(folder) / "shared").symlink_to(ROOT.parent / "shared", target_is_directory=True)
        yield tree


def python(tree: Path, *arguments: str, timeout: float | None = None) -> subprocess.CompletedProcess[str]:
    """Run Python in *tree*, on the product as it is there."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, cwd=tree, env=environment, capture_output=True, text=True, check=False, timeout=timeout
    )


def run_tests(tree: Path, tests: Sequence[str], timeout: float) -> tuple[int, str]:
    """Run *tests* in *tree* up to the first failure; return pytest's exit code, and which test failed or what else."""
    found = python(tree, "-c", WHERE_IT_RUNS)
    if found.returncode:
        return TESTS_FAILED, f"import: {found.stderr.strip().splitlines()[-1]}"
    foreign = [line for line in found.stdout.splitlines() if not Path(line).resolve().is_relative_to(tree.resolve())]
    if foreign:
        raise SystemExit(f"another {PACKAGE} is in the way: {foreign[0]}")
    names = tree.parent / "tests.txt"  # too many for a command line
    names.write_text("\n".join(tests), encoding="utf-8")
    try:
        done = python(tree, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", f"@{names}", timeout=timeout)
    except subprocess.TimeoutExpired:
        return TESTS_FAILED, f"still running after {timeout:.0f} s"
    failed = FAILED.findall(done.stdout)
    last = (done.stdout + done.stderr).strip().splitlines()[-1:]
    return done.returncode, failed[0] if failed else " ".join(last)


def judge(fault: Fault, chosen: Sequence[str] | Coverage, timeout: float) -> tuple[str, str]:
    """Return ``caught``, ``missed`` or ``unclear``, and the test or the reason."""
    tests = chosen.tests(fault) if isinstance(chosen, Coverage) else chosen
    if not tests:
        return "missed", "no test runs it"
    with copied() as tree:
        fault.make(tree)
        code, said = run_tests(tree, tests, timeout)
    if code in (NOTHING_FAILED, NO_TESTS):
        return "missed", f"by {len(tests)} tests that run it" if isinstance(chosen, Coverage) else said
    if code not in (TESTS_FAILED, INTERRUPTED):
        return "unclear", said
    if "::" in said:
        with copied() as tree:
            code, again = run_tests(tree, [said], timeout)
        if code != NOTHING_FAILED:
            return "unclear", f"without the fault too: {again}"
    return "caught", said


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("ids", nargs="*", metavar="ID", help="faults to make; default: all")
    parser.add_argument("--list", action="store_true", help="print the faults, and run nothing")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--tests", nargs="+", default=["tests"], help="what to run, as pytest takes it")
    choice.add_argument("--select-by-coverage", type=Path, metavar="FILE", help="run the tests that run the line")
    parser.add_argument("--jobs", type=int, default=1, help="faults at a time")
    parser.add_argument("--timeout", type=float, default=3600, help="seconds for the tests of one fault")
    given = parser.parse_args()
    listed = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
    faults = {each["id"]: Fault(**each) for each in listed}
    if unknown := [name for name in given.ids if name not in faults]:
        parser.error(f"no such fault: {', '.join(unknown)}")
    wanted = [faults[name] for name in given.ids or faults]
    places = [f"{fault.file.as_posix()}:{fault.line}" for fault in wanted]  # all of them, before any test runs
    if given.list:
        print("\n".join(f"{fault.id:<32} {place}: {fault.what}" for fault, place in zip(wanted, places, strict=True)))
        return 0
    chosen = Coverage(given.select_by_coverage) if given.select_by_coverage else given.tests
    counts: Counter[str] = Counter()
    with ThreadPoolExecutor(given.jobs) as pool:
        try:
            for fault, (answer, said) in zip(
                wanted, pool.map(partial(judge, chosen=chosen, timeout=given.timeout), wanted), strict=True
            ):
                counts[answer] += 1
                print(f"{answer:<8}{fault.id:<32}{said}", flush=True)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    print(f"{len(wanted)} faults: " + ", ".join(f"{count} {answer}" for answer, count in sorted(counts.items())))
    return int(counts["caught"] != len(wanted))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)

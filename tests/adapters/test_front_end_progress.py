"""Long work is never silent: without a terminal, every front end shows lines of progress on standard error."""

from __future__ import annotations

import logging
import re
import sys
import threading
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner
from elixir_plugin.adapters.art.params import Configured
from elixir_plugin.adapters.backdoorbench.script import main as bench_main
from elixir_plugin.adapters.backdoorbox import D3
from elixir_plugin.adapters.trojanvision.defenses import Behaviour
from fake_records import Workspace
from processes import python
from test_backdoorbench_script import SMALL, bench  # noqa: F401  (a fixture)
from test_backdoorbox import SCHEDULE, Benign, network
from test_toolbox_launcher import SET, box  # noqa: F401  (a fixture)
from torchvision import transforms

import elixir_plugin
from elixir_plugin.api.functions import defend
from elixir_plugin.cli.app import program
from elixir_plugin.core import context as context_module
from elixir_plugin.core.context import Context
from elixir_plugin.io import progress
from elixir_plugin.testing.defenses import tiny_case

LINE = re.compile(r"^d3: \d of 3, less than a minute left$", re.MULTILINE)


@pytest.fixture(autouse=True)
def nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that has not set up logging, and no patience: a line after each step."""
    monkeypatch.setattr(context_module, "EVERY", 0.0)
    monkeypatch.setattr(progress, "LOGGER", logging.Logger("alone"))  # where pytest does not listen


def test_a_script_in_backdoorbench(bench: Workspace, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    yaml = str(bench.root / "config/defense/d3/cifar10.yaml")
    flags = ["--result_file", "fake", "--yaml_path", yaml, "--dataset", "cifar10", *SMALL, "--epochs", "3"]
    bench_main("d3", bench.root, flags)
    assert len(LINE.findall(capsys.readouterr().err)) == 2  # the last step needs no line


@pytest.mark.e2e
def test_a_script_in_backdoor_toolbox(box: Path) -> None:  # noqa: F811
    start = (box / "elixir.py").read_text().replace("    main(", "    context.EVERY = 0.0\n    main(")
    (box / "elixir.py").write_text(start.replace("import sys", "import sys\nfrom elixir_plugin.core import context", 1))
    flags = ("-o", "architecture=small_resnet", "-s", "epochs=3", "other_defense.py", "-defense=d3")
    done = python("elixir.py", *flags, cwd=box)
    assert done.returncode == 0 and len(LINE.findall(done.stderr)) == 2, done.stderr


@pytest.mark.parametrize("verbose", [True, False])
def test_a_class_in_backdoorbox(verbose: bool, capsys: pytest.CaptureFixture[str]) -> None:
    benign = Benign(transforms.ToTensor())
    D3(benign, benign, network(), epochs=3, verbose=verbose).repair(SCHEDULE)
    assert len(LINE.findall(capsys.readouterr().err)) == (2 if verbose else 0)


@pytest.mark.parametrize("verbose", [True, False])
def test_a_class_in_art(verbose: bool, capsys: pytest.CaptureFixture[str]) -> None:
    class Made(Configured):
        defense = elixir_plugin.get_defense("d3")
        own = ("preset", "seed", "device", "any_model", "verbose")

    made, case = Made(), tiny_case()
    own = {"preset": None, "seed": 0, "device": "cpu", "any_model": False, "verbose": verbose}
    made._configure(own, {"epochs": 3})
    made._run(case.visible())
    assert len(LINE.findall(capsys.readouterr().err)) == (2 if verbose else 0)


def test_a_class_in_trojanvision(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    environ: Any = ModuleType("trojanvision.environ")
    environ.env = {"device": "cpu"}
    monkeypatch.setitem(sys.modules, "trojanvision", ModuleType("trojanvision"))
    monkeypatch.setitem(sys.modules, "trojanvision.environ", environ)
    behaviour = Behaviour.__new__(Behaviour)
    behaviour._own, behaviour._seed, behaviour._defense = {}, 0, elixir_plugin.get_defense("d3")({"epochs": 3})
    monkeypatch.setattr(Behaviour, "say", lambda self, text: None)
    behaviour.run(tiny_case().visible())
    assert len(LINE.findall(capsys.readouterr().err)) == 2


def test_a_function_that_is_told_not_to_be_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    case = tiny_case()
    for quiet in (True, False):
        defend("d3", clean=case.clean, model=case.model, epochs=3, quiet=quiet)
        assert len(LINE.findall(capsys.readouterr().err)) == (0 if quiet else 2)


def test_the_command_line(bench: Workspace) -> None:  # noqa: F811
    source = ("--from", f"backdoorbench:{bench.record}", "-o", "clean_ratio=0.5", "-o", "architecture=small_resnet")
    arguments = ["run", "d3", *source, "-s", "epochs=3", "--out", str(bench.root / "run"), "--no-write-back"]
    done = CliRunner().invoke(program, arguments)
    assert done.exit_code == 0 and len(LINE.findall(done.stderr)) == 2, done.output


def test_a_stage_without_steps_says_that_it_is_at_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "SILENCE", 0.05)
    with Context(quiet=False).stage("purify"), Context(quiet=False).stage("inner"):
        time.sleep(0.3)
    said = capsys.readouterr().err.splitlines()
    assert 1 <= len(said) <= 7 and set(said) <= {"purify: 0 min so far", "inner: 0 min so far"}
    with Context(quiet=True).stage("purify"):
        time.sleep(0.2)
    assert capsys.readouterr().err == "" and not [t for t in threading.enumerate() if t.name.startswith("progress")]


class Listener(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def test_a_host_that_listens_gets_the_lines_alone(capsys: pytest.CaptureFixture[str]) -> None:
    listener = Listener()
    progress.LOGGER.addHandler(listener)
    list(Context(quiet=False).progress(range(3), "d3"))
    assert len(listener.lines) == 2 and capsys.readouterr().err == ""


def test_a_log_file_is_no_listener(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = logging.FileHandler(tmp_path / "log.txt")
    progress.LOGGER.addHandler(file)
    for _ in range(2):  # nothing is said twice
        list(Context(quiet=False).progress(range(3), "d3"))
    file.close()
    assert len(LINE.findall(capsys.readouterr().err)) == 4 == len(LINE.findall((tmp_path / "log.txt").read_text()))


def test_a_host_that_wants_no_such_lines_gets_none(capsys: pytest.CaptureFixture[str]) -> None:
    progress.LOGGER.setLevel(logging.WARNING)
    list(Context(quiet=False).progress(range(3), "d3"))
    assert capsys.readouterr().err == "" and progress.LOGGER.handlers == []

"""What the README promises is there: its commands, its run file, its code."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import numpy as np
import pytest

from elixir_plugin import Classifier
from elixir_plugin.cli.app import program
from elixir_plugin.runs.spec import RunSpec

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def test_it_starts_with_the_two_commands() -> None:
    demo, tests = blocks("sh")[:2]
    assert all(command.startswith("python3 -m venv .venv && ") for command in (demo, tests))
    assert demo.strip().endswith("elixir-plugin demo") and tests.strip().endswith("pytest -n 2 --dist worksteal")
    assert README.index(demo) < README.index(tests) < README.index("## ")


def test_the_run_file_is_valid(tmp_path: Path) -> None:
    (tmp_path / "d3.yaml").write_text(blocks("yaml")[0])
    assert RunSpec.from_yaml(tmp_path / "d3.yaml").preset == "code"


def commands() -> list[str]:
    """The README's own commands, one line each."""
    lines = [line for block in blocks("sh") for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line.startswith("elixir-plugin")]


@pytest.mark.parametrize("command", commands())
def test_every_command_and_flag_exists(command: str) -> None:
    name, *arguments = shlex.split(command)[1:]
    found = program.commands[name]
    if isinstance(found, click.Group) and arguments[:1] and arguments[0] in found.commands:
        found, arguments = found.commands[arguments[0]], arguments[1:]
    known = {flag for parameter in found.params for flag in parameter.opts}
    assert {argument for argument in arguments if argument.startswith("-")} <= known


def test_the_python_lines_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = next(block for block in blocks("python") if "get_defense" in block)
    names = {
        "images": np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), np.uint8),
        "labels": np.arange(40) % 10,
        "module": Classifier.build("small_resnet", 10).module,
    }
    exec(code.replace("epochs=50", "epochs=1"), names)
    assert Classifier.load(Path("detoxified"), names["module"]).num_classes == 10


def test_the_own_defense_can_be_defined_and_registered() -> None:
    code = next(block for block in blocks("python") if "class FineTune(" in block)
    names: dict[str, object] = {}
    exec(code, names)
    assert "FineTune" in names


def test_no_placeholder_is_left() -> None:
    assert "@@" not in README and "TODO" not in README

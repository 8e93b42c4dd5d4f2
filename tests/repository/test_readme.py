"""What the README and the other texts promise is there: commands, flags, links, files, the run file, the code."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from elixir_plugin import Classifier
from elixir_plugin.cli.app import program
from elixir_plugin.runs.spec import RunSpec
from elixir_plugin.testing import tiny_case

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")


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


def test_the_python_lines_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = next(block for block in blocks("python") if "get_defense" in block)
    case = tiny_case(num_classes=10, mean=(0.5,) * 3, std=(0.25,) * 3)
    names = {"images": case.clean.read(slice(None)), "labels": case.clean.labels, "module": case.model.module}
    exec(code.replace("epochs=50", "epochs=1"), names)
    assert Classifier.load(Path("detoxified"), names["module"]).num_classes == 10


def test_the_own_defense_can_be_defined_and_registered() -> None:
    code = next(block for block in blocks("python") if "class FineTune(" in block)
    names: dict[str, object] = {}
    exec(code, names)
    assert "FineTune" in names


def test_no_placeholder_is_left() -> None:
    assert "@@" not in README and "TODO" not in README


# the texts agree with the repository

ROOT = Path(__file__).resolve().parents[2]
NAMES = (
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
)
each_text = pytest.mark.parametrize("name", sorted(NAMES))


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@each_text
def test_every_relative_link_leads_somewhere(name: str) -> None:
    links = {link for link in re.findall(r"\]\(([^)\s#]+)[^)]*\)", text_of(name)) if not link.startswith("https://")}
    assert [link for link in links if not (ROOT / name).parent.joinpath(link).exists()] == []


@each_text
def test_every_file_of_the_repository_that_is_named_exists(name: str) -> None:
    folders = r"(?:elixir_plugin|adapters|tests|docs|examples|\.ci)"
    files = set(re.findall(rf"`(?:[^`\n]* )?({folders}/[\w./-]*\w/?)(?=[` ])", text_of(name)))
    assert [file for file in files if "NAME" not in file and not (ROOT / file).exists()] == []


@each_text
def test_every_command_and_flag_exists(name: str) -> None:
    text = text_of(name).replace("\\\n", " ")
    for line in re.findall(r"(?:^|`|\$ )elixir-plugin ([a-z][^`\n]*)", text, flags=re.MULTILINE):
        command, *arguments = shlex.split(line, comments=True)
        found = program.get_command(click.Context(program), command)
        if isinstance(found, click.Group) and arguments and re.fullmatch("[a-z]+", arguments[0]):
            found = found.get_command(click.Context(found), arguments.pop(0))
        assert found is not None, line
        known = {"-h", "--help", *(flag for parameter in found.params for flag in parameter.opts)}
        assert {argument for argument in arguments if argument.startswith("-")} <= known, line


def test_the_floors_are_the_layers_of_the_import_contract() -> None:
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    contracts = tomllib.loads(text_of("pyproject.toml"))["tool"]["importlinter"]["contracts"]
    (layers,) = (
        [set(layer.split(" | ")) for layer in each["layers"]] for each in contracts if each["type"] == "layers"
    )
    floors: dict[int, set[str]] = {}
    for floor, names in re.findall(r"^\| (\d) \| (`[^|]+) \|", README, flags=re.MULTILINE):
        floors.setdefault(int(floor), set()).update(re.findall(r"`(\w+)/?`", names))
    assert [floors[floor] for floor in sorted(floors, reverse=True)] == layers

"""What an error tells its reader to give is spelled for Python, and by each command line with the flags it has."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from elixir_plugin.errors import SettingsError, reason_of
from elixir_plugin.io.text import with_flags

ROOT = Path(__file__).parents[1]
FRONT_ENDS = (
    "elixir_plugin/cli/",
    "elixir_plugin/io/text.py",
    "elixir_plugin/runs/report_data.py",  # writes the command that repeats a run
    "elixir_plugin/core/settings.py",  # reads the assignments of the command line
    "adapters/backdoorbench/script.py",
    "adapters/backdoorbench/flags.py",
    "adapters/backdoor_toolbox/launcher.py",
    "adapters/trojanvision/launcher.py",
)
OF_OTHER_PROGRAMS = ("--local-dir", "--revision", "--force-reinstall")
FLAG = re.compile(r"(?:^|[\s'(])(?<!var\()--[a-z]")
EVERY_KIND = (
    "{setting:a=1}, {retrain:b=2}, {option:c=3}, {to_option:d=4}, {argument:image_size=5}, {argument:source}, "
    "{command:denoiser train out=DIR}"
)


def sources() -> Iterator[Path]:
    for path in sorted([*(ROOT / "elixir_plugin").rglob("*.py"), *(ROOT / "adapters").rglob("*.py")]):
        if not path.relative_to(ROOT).as_posix().startswith(FRONT_ENDS):
            yield path


def texts(path: Path) -> Iterator[ast.Constant]:
    """Yield the text in *path* that is not a docstring."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node


def test_flags_are_written_by_front_ends_alone() -> None:
    found = []
    for path in sources():
        for node in texts(path):
            text = node.value
            for flag in OF_OTHER_PROGRAMS:
                text = text.replace(flag, "")
            if FLAG.search(text):
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}: {node.value}")
    assert not found


def test_an_error_is_spelled_for_python() -> None:
    error = SettingsError(
        "no", where="{argument:preview}", found="{setting:a=1}", allowed="{option:c=3}", hint=EVERY_KIND
    )
    assert (error.where, error.allowed) == ("preview", "option c=3")
    assert (
        error.hint == "a=1, retrain b=2, option c=3, option d=4, image_size=5, source, 'elixir-plugin denoiser train'"
    )
    assert str(error).endswith(f"next:    {error.hint}") and "found:   {setting:a=1}" in str(error)
    assert reason_of(error) == "no (where: preview; found: {setting:a=1}; allowed: option c=3)"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            ["--set", "--retrain-set", "--option", "--to-option", "--image-size", "--from"],
            "--set a=1, --retrain-set b=2, --option c=3, --to-option d=4, --image-size 5, --from, ",
        ),
        (["--a"], "--a 1, retrain b=2, option c=3, option d=4, image_size=5, source, "),
    ],
)
def test_a_command_line_spells_the_flags_it_has(flags: list[str], said: str) -> None:
    told = SettingsError("no", hint=EVERY_KIND).told(with_flags(flags))
    assert told.endswith(f"next:    {said}elixir-plugin denoiser train --out DIR")


def test_a_hint_can_be_filled_in_later() -> None:
    error = SettingsError("no")
    error.hint = error.hint or "name it: {setting:a=1}"
    assert error.hint == "name it: a=1"

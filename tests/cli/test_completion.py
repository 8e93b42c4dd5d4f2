"""What the shell completes, and the scripts that let it."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from elixir_plugin.cli.app import program
from elixir_plugin.cli.completion import PROGRAM, SHELLS, VARIABLE


def completed(words: str, begun: str) -> list[str]:
    found = ShellComplete(program, {}, PROGRAM, VARIABLE).get_completions(words.split(), begun)
    return [each.value if each.type == "plain" else f"<{each.type}>" for each in found]


@pytest.mark.parametrize(
    ("words", "begun", "wanted"),
    [
        ("", "comp", ["compare", "completion"]),
        ("run", "conf", ["confusion_training"]),
        ("run", "jp", ["jpeg"]),
        ("run", "./my.ya", ["<file>"]),
        ("run d3", "--relearn", ["--relearn"]),
        ("run d3 --from", "image_f", ["image_folder:"]),
        ("run d3 --from", "testbed:adaptive_b", ["testbed:adaptive_blend"]),
        ("run d3 --from", "arrays:ca", []),
        ("run d3 --from", "none:", []),
        ("show", "fast_c", ["fast_convnet"]),
        ("show", "nothing", []),
        ("cards --defense", "ecl", ["eclipse"]),
        ("completion", "z", ["zsh"]),
    ],
)
def test_names_are_those_that_are_registered(words: str, begun: str, wanted: list[str]) -> None:
    assert completed(words, begun) == wanted


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_calls_this_program(shell: str) -> None:
    if shell == "bash" and shutil.which("bash") is None:
        pytest.skip("click asks bash for its version")
    result = CliRunner().invoke(program, ["completion", shell], catch_exceptions=False)
    assert result.exit_code == 0 and PROGRAM in result.output and VARIABLE in result.output


def test_another_shell_is_a_usage_error() -> None:
    result = CliRunner().invoke(program, ["completion", "csh"])
    assert result.exit_code == 2 and "'csh' is not one of 'bash', 'zsh', 'fish'" in result.output


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_takes_the_script_and_keeps_a_source_in_one_word() -> None:
    script = CliRunner().invoke(program, ["completion", "bash"], catch_exceptions=False).output
    done = subprocess.run(
        ["bash", "-c", f"{script}\ncomplete -p {PROGRAM}; [[ $COMP_WORDBREAKS == *:* ]] || echo whole"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and PROGRAM in done.stdout and "whole" in done.stdout and not done.stderr

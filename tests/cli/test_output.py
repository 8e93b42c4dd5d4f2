"""What the command line says, where it is given nonsense or cannot say anything."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from elixir_plugin.adapter import Source, get_adapter
from elixir_plugin.cli.app import program
from elixir_plugin.errors import ElixirError, InputError, SettingsError, printable, reason_of
from elixir_plugin.io.opening import refuse_unusable
from elixir_plugin.runs.compare.spec import CompareSpec
from elixir_plugin.runs.spec import RunSpec
from elixir_plugin.training.loop import Recipe

LONG = "x" * 10_000
NESTED = "a/" * 5_000
FROM = ["run", "d3", "--from"]
FULL = Path("/dev/full")


def told(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(program, list(arguments))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def shell(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = command.replace("PROGRAM", f"'{sys.executable}' -m elixir_plugin")
    return subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", ["list", "--help"])
def test_output_that_cannot_be_written_is_said_once(command: str, unbuffered: str) -> None:
    done = shell(f"PROGRAM {command} > /dev/full", PYTHONUNBUFFERED=unbuffered)
    assert (done.returncode, done.stderr) == (
        1,
        "error: the output cannot be written\n  found:   No space left on device\n",
    )
    done = shell(f"PROGRAM {command} > /dev/full 2>&1", PYTHONUNBUFFERED=unbuffered)
    assert done.returncode == 1
    done = shell(f"PROGRAM nonsense 2> /dev/full; PROGRAM {command} | head -1", PYTHONUNBUFFERED=unbuffered)
    assert len(done.stdout.splitlines()) == 1 and done.stderr == ""


def test_a_terminal_without_our_characters_gets_escapes() -> None:
    done = shell("PROGRAM show d3", PYTHONIOENCODING="latin-1")
    assert done.returncode == 0 and done.stderr == "" and "\\u2013" in done.stdout


@pytest.mark.parametrize("path", [LONG, NESTED, "loop", "loop/in"], ids=["long", "nested", "loop", "in loop"])
@pytest.mark.parametrize(
    "arguments",
    [
        [*FROM, "image_folder:@"],
        [*FROM, "arrays:@"],
        [*FROM, "testbed:badnets", "--out", "@"],
        [*FROM, "testbed:badnets", "--write-to", "@"],
        [*FROM, "image_folder:.", "-o", "model=@"],
        [*FROM, "image_folder:.", "--clean", "@"],
        ["run", "eclipse", "--from", "testbed:badnets", "-s", "denoiser=@"],
        ["run", "image_variations", "--from", "testbed:badnets", "-s", "weights=@"],
        ["run", "@.yaml"],
        ["compare", "@"],
        ["compare", "@", "--out", "@"],
        ["report", "@"],
        ["denoiser", "info", "@", "--image-size", "32"],
        ["denoiser", "train", "--clean", "@", "--out", "o"],
        ["denoiser", "train", "--clean", ".", "--out", "@"],
        ["toolkit", "install", "backdoorbench", "@"],
        ["cards", "--cards", "@"],
        ["demo", "--out", "@"],
    ],
    ids=" ".join,
)
def test_paths_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], path: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    code, output = told(*(each.replace("@", path) for each in arguments))
    assert code in (1, 2) and len(output) < 1500 and len(re.findall("(?im)^error", output)) == 1
    assert "too long" in output or "symbolic links" in output or (path.startswith("loop") and ".yaml" in arguments[1])
    assert [each.name for each in tmp_path.iterdir()] == ["loop"]


@pytest.mark.parametrize("path", [LONG, "a\0b", "a\ud800b"], ids=["long", "nul", "surrogate"])
def test_paths_that_are_none_in_python(path: str) -> None:
    source = {"adapter": "testbed", "path": "badnets"}
    for build in (
        lambda: Source.parse(f"arrays:{path}"),
        lambda: RunSpec.build({"defense": "d3", "source": {**source, "path": path}}),
        lambda: RunSpec.build({"defense": "d3", "source": source, "out": path}),
        lambda: CompareSpec.build({"cases": [source], "defenses": ["d3"], "out": path}),
        lambda: get_adapter("image_folder")({"model": path}),
        lambda: get_adapter("image_folder")({"clean": path}),
    ):
        with pytest.raises(SettingsError, match="not a usable path") as caught:
            build()
        assert len(str(caught.value)) < 1500 and str(caught.value).replace("\n", "").isprintable()
    with pytest.raises(InputError, match=r"not a usable path|file cannot be read"):
        get_adapter("arrays")().read(Path(path))


def test_names_that_are_not_utf_8_are_paths(tmp_path: Path) -> None:
    there = tmp_path / os.fsdecode(b"caf\xe9")
    refuse_unusable(there)
    assert Source.parse(f"arrays:{there}").path == str(there)


@pytest.mark.parametrize("value", ["\x1b[31mred", "bell\x07", "line\nbreak", "\udcff", "right\u202eto left"])
def test_no_message_drives_a_terminal(value: str) -> None:
    error = InputError("bad " + value, where=value, found=[value], allowed={value: value}, hint=value)
    lines = str(error).splitlines()
    assert len(lines) == 5 and all(map(str.isprintable, lines))
    assert reason_of(error).isprintable() and reason_of(ValueError(value)).isprintable()
    for arguments in (["run", value], [value], ["show", value], [*FROM, value], ["list", f"--{value}"]):
        code, output = told(*arguments)
        assert code == 2 and all(map(str.isprintable, output.splitlines()))


@pytest.mark.parametrize(
    "arguments",
    [[LONG], ["list", f"--{LONG}"], ["show", LONG], ["run", "d3", "--seed", LONG]],
    ids=["command", "flag", "name", "value"],
)
def test_messages_stay_short(arguments: list[str]) -> None:
    code, output = told(*arguments)
    assert code == 2 and len(output) < 1500 and "…" in output


class NoText:
    def __repr__(self) -> str:
        raise RuntimeError


def test_values_without_text_are_told() -> None:
    error = ElixirError("x", found=10**5000, allowed=[10**5000, NoText()])
    assert "<a whole number of 16610 bits>" in str(error)
    assert str(ElixirError("x", found=NoText())) == "x\n  found:   <NoText>"
    assert printable("é 🙂") == "é 🙂"


@pytest.mark.parametrize(("name", "value"), [("lr", "inf"), ("lr", float("inf")), ("weight_decay", float("nan"))])
def test_numbers_that_are_not_finite_are_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(SettingsError, match=f"{name} = .*finite"):
        Recipe.build({name: value})
    code, output = told(*FROM, "testbed:badnets", "-s", f"lam=.{value}" if isinstance(value, str) else f"lam={value}")
    assert code == 2 and "lam = " in output and output.count("error") == 1


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1, 10**5000], ids=["2**64", "least", "long"])
def test_whole_numbers_beyond_64_bits_are_refused_by_name(value: int) -> None:
    with pytest.raises(SettingsError, match=r"epochs"):
        Recipe.build({"epochs": value})
    with pytest.raises(SettingsError, match=r"seed"):
        RunSpec.build({"defense": "d3", "source": {"adapter": "testbed", "path": "badnets"}, "seed": value})


def test_an_error_in_a_run_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise InputError("a fault in the middle", where="here")

    monkeypatch.setattr("elixir_plugin.defenses.d3.defense.D3.defend", fail)
    logger = logging.getLogger("elixir_plugin")
    before = list(logger.handlers)
    try:
        code, output = told(
            *FROM,
            "testbed:badnets",
            "-o",
            "recipe.epochs=1",
            "-o",
            "size=8",
            "--any-model",
            "--out",
            str(tmp_path / "out"),
        )
    finally:
        logger.handlers[:] = before
    assert code == 1 and output.count("a fault in the middle") == 1
    assert "a fault in the middle" in (tmp_path / "out" / "log.txt").read_text()

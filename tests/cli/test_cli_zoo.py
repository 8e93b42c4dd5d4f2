"""``elixir-plugin zoo``: what it prints, its exit codes, and a set that a defense runs on as it says."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from elixir_plugin.cli.app import program

DIGITS = ("-o", "size=8", "-o", "recipe.epochs=2")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(program, list(map(str, arguments)))


def test_list_names_every_set_with_attack_rate_kind_and_paper() -> None:
    said = run("zoo", "list").output
    assert re.search(r"^badnets_white_10pc +10\.0%  dirty-label +white 3×3", said, re.MULTILINE)
    assert re.search(r"^sig_2pc +2\.0%  clean-label ", said, re.MULTILINE)
    assert re.search(r"^lsp +100\.0%  indiscriminate ", said, re.MULTILINE)
    rows = {row["name"]: row for row in json.loads(run("zoo", "list", "--json").output)}
    assert rows["badnets_checkerboard9_10pc"]["needs"] == "images of at least 224 px"
    assert rows["wanet_10pc"]["settings"]["cover_rate"] == 0.2
    assert "arXiv 2102.10369" in rows["wanet_10pc"]["paper"]


def test_a_made_set_runs_through_a_defense_as_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_figures: None
) -> None:
    monkeypatch.chdir(tmp_path)
    made = run("zoo", "make", "badnets_white_10pc", "--to", "arrays", *DIGITS)
    assert made.exit_code == 0, made.output
    assert "115 poison samples of 1,150" in made.output and "ACC" in made.output
    read = re.search(r"^read it: (.*)", made.output, re.MULTILINE)
    assert read is not None
    done = run("run", "d3", *shlex.split(read[1]), "--set", "epochs=1", "--any-model", "-q", "--out", "d3")
    assert done.exit_code == 0, done.output
    before = json.loads((tmp_path / "d3/report.json").read_text())["metrics"]["before"]
    manifest = json.loads((tmp_path / "zoo/badnets_white_10pc/zoo.json").read_text())
    assert before["asr"] == pytest.approx(manifest["model"]["asr"]) and before["asr"] > 0.2  # chance is 0.1
    checked = run("zoo", "verify", "badnets_white_10pc", "zoo/badnets_white_10pc", "--rebuild")
    assert checked.exit_code == 0 and "as made: 4 files" in checked.output


def test_verify_ends_with_one_and_says_what_is_wrong(tmp_path: Path) -> None:
    out = tmp_path / "set"
    assert run("zoo", "make", "ops", "--to", "arrays", "--no-model", "--out", out).exit_code == 0
    sound = run("zoo", "verify", out)
    assert sound.exit_code == 0 and "known:   the set of the zoo" in sound.output
    with np.load(out / "set/case.npz") as read:
        arrays = dict(read)
    arrays["x_train"][0, 0, 0, 0] ^= 1
    np.savez(out / "set/case.npz", **arrays)
    wrong = run("zoo", "verify", out)
    assert wrong.exit_code == 1
    assert "fault:   train: other pixels than made: sample 0" in wrong.output and "known:" not in wrong.output
    assert json.loads(run("zoo", "verify", out, "--json").output)["faults"][0] == "file changed: set/case.npz"
    assert run("zoo", "verify", out, "-q").output.count("\n") == 2


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("make", "badnets_whit_10pc"), 2, "did you mean 'badnets_white_10pc'?"),
        (("make", "ops", "-o", "poison.rate=0.5"), 2, "the zoo decides on this option"),
        (("make", "ops", "-o", "sice=8"), 2, "did you mean 'size'?"),
        (("make", "ops", "--base", "nowhere"), 1, "base not found"),
        (("make", "wanet_10pc", "--no-model", "--to", "backdoorbench"), 1, "needs a model"),
        (("verify", "nowhere"), 1, "no such folder"),
        (("verify", "opps", "nowhere"), 2, "did you mean 'ops'?"),
        (("verify", "a", "b", "c"), 2, "too many arguments"),
        (("verify", "a", "--base", "digits"), 2, "with --rebuild"),
    ],
)
def test_what_is_wrong_is_said_with_the_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], code: int, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("zoo", *arguments)
    assert (result.exit_code, said in result.output) == (code, True), result.output
    assert list(tmp_path.iterdir()) == []

"""``relearn`` in runs and comparisons: refused, priced, reported, gone on with, and no part of other runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from elixir_plugin.adapter import Source
from elixir_plugin.cli.app import program
from elixir_plugin.core.metrics import RelearnedPath
from elixir_plugin.errors import InputError
from elixir_plugin.evaluation import relearning
from elixir_plugin.report.facts import facts_of, read_report
from elixir_plugin.report.single import make_page
from elixir_plugin.runs.compare.run import run_compare
from elixir_plugin.runs.compare.spec import CompareSpec
from elixir_plugin.runs.compare.table import markdown
from elixir_plugin.runs.estimate import estimate_run
from elixir_plugin.runs.resolve import identity_of
from elixir_plugin.runs.run import run_defense
from elixir_plugin.runs.spec import RunSpec

pytestmark = pytest.mark.usefixtures("no_figures", "brief_measurements")
OPTIONS = {"size": 8, "clean": 40, "test": 1000, "recipe": {"epochs": 1}}
RETRAIN = {"epochs": 1, "augmentation": {"flip": False}}


@pytest.fixture(autouse=True)
def _brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relearning, "STEPS", (0, 1, 2))
    monkeypatch.setattr(relearning, "SAMPLES", (2,))
    monkeypatch.setattr(relearning, "TUNING", relearning.TUNING.model_copy(update={"epochs": 2}))


def spec(
    out: Path | None = None, *, poison: str = "badnets", defense: str = "random_head", test: int = 1000, **values: Any
) -> RunSpec:
    source = Source(adapter="testbed", path=poison, options=OPTIONS | {"test": test})
    settings = {} if defense == "do_nothing" else {"epochs": 1}
    values = {"relearn": True, "retrain": RETRAIN, "device": "cpu", "any_model": True, "settings": settings, **values}
    return RunSpec(defense=defense, source=source, out=None if out is None else str(out), **values)


def test_a_run_reports_it_and_a_report_without_it_is_read_as_before(tmp_path: Path) -> None:
    report = run_defense(spec(tmp_path / "run")).report
    found = report["metrics"]["relearning"]
    assert found["steps"] == [0, 1, 2] and list(found["models"]) == ["after", "never_poisoned", "before"]
    assert found["models"]["before"]["paths"][0]["asr"][0] == report["metrics"]["before"]["asr"]
    assert found["models"]["after"]["acc"] == report["metrics"]["after"]["acc"]
    assert [panel["title"] for panel in report["exhibits"]["relearning"]] == [
        "Relearning the backdoor", "Steps until the backdoor is back",
    ]  # fmt: skip
    assert {"train never-poisoned model", "relearn"} <= report["outcome"]["timings"].keys()
    assert " --relearn " in report["command"]
    html, shown = make_page(facts_of(report), png=False)
    assert '<section id="relearning">' in html and found["sentence"] in html
    assert [each.name for each in shown[-4:]].count("relearn-relearning-the-backdoor") == 1
    plain = json.loads(json.dumps(report))
    del plain["metrics"]["relearning"], plain["exhibits"]["relearning"]
    (tmp_path / "run" / "report.json").write_text(json.dumps(plain))
    assert read_report(tmp_path / "run")["metrics"]["relearning"] is None
    assert "relearning" not in make_page(facts_of(plain), png=False)[0]
    plain["metrics"]["relearning"] = found | {"steps": [0]}
    (tmp_path / "run" / "report.json").write_text(json.dumps(plain))
    with pytest.raises(InputError, match="not the report of a run"):
        read_report(tmp_path / "run")


def test_a_run_without_it_is_the_run_it_was() -> None:
    plain = spec(relearn=False, retrain=None)
    values = plain.dump()
    del values["relearn"]
    assert RunSpec.build(values) == plain
    assert identity_of(RunSpec(defense="d3", source=Source(adapter="testbed", path="badnets"))) == "81bc424ef982"
    assert identity_of(plain) != identity_of(spec()) != identity_of(spec(retrain={"epochs": 2}))


@pytest.mark.parametrize("defense", ["random_head", "do_nothing"])
def test_a_model_is_trained_where_the_defense_hands_back_none(defense: str, tmp_path: Path) -> None:
    report = run_defense(spec(tmp_path / "run", defense=defense, retrain=None, test=1650)).report
    assert report["run"]["retrain"]["epochs"] == 30  # spelled out: it is also how the never-poisoned model is trained
    assert list(report["metrics"]["relearning"]["models"]) == ["after", "never_poisoned", "before"]
    assert ("retrain on kept" in report["outcome"]["timings"]) == (defense == "do_nothing")


@pytest.mark.parametrize("poison", ["ops", "urp", "cuda"])
def test_poison_without_a_trigger_is_refused_before_anything_is_written(poison: str, tmp_path: Path) -> None:
    for what in (run_defense, estimate_run):
        with pytest.raises(InputError, match="relearning cannot be measured on this case") as refused:
            what(spec(tmp_path / "run", poison=poison))
        assert refused.value.found == "no triggered test samples"
    assert not (tmp_path / "run").exists()


def test_the_price_is_part_of_the_estimate() -> None:
    found = estimate_run(spec())["relearning"]
    assert (found["models"], found["steps"], found["never_poisoned_epochs"]) == (3, 6, 1)
    assert "relearning" not in estimate_run(spec(relearn=False))


def test_a_killed_run_goes_on_with_the_model_and_the_paths_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = relearning._measured, list[object]()

    def killed(*given: Any) -> RelearnedPath:
        calls.append(given)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(relearning, "_measured", killed)
    with pytest.raises(KeyboardInterrupt):
        run_defense(spec(tmp_path / "run"))
    kept = sorted(path.name.partition("-")[0] for path in (tmp_path / "run" / "work" / "relearning").iterdir())
    assert kept == ["never", "path", "path"]
    report = run_defense(spec(tmp_path / "run")).report
    assert len(calls) == 4 and report["attempts"] == 2
    whole = run_defense(spec(tmp_path / "whole")).report
    assert report["metrics"] == whole["metrics"] and len(calls) == 7
    assert not (tmp_path / "run" / "work").exists()


def test_a_comparison_has_a_column_and_a_row_for_it(tmp_path: Path) -> None:
    values = {
        "cases": [{"source": "testbed:badnets", "options": OPTIONS}],
        "defenses": [{"defense": name, "settings": {"epochs": 1}} for name in ("random_head", "finetune")],
        "retrain": RETRAIN,
        "device": "cpu",
        "any_model": True,
    }
    plain = CompareSpec.build(values)
    assert "relearn" not in plain.under_first_names(plain.dump())
    found = run_compare(CompareSpec.build(values | {"relearn": True}), tmp_path)
    assert found.failed == 0
    assert [row["defense"] for row in found.results["table"]] == [
        "no defense", "never poisoned", "random_head", "finetune",
    ]  # fmt: skip
    for row in found.results["table"]:
        assert 0 <= row["values"]["relearned"]["mean"] <= 2
    never = found.results["cells"][1]["metrics"]["relearning"]["models"]["never_poisoned"]
    assert never == found.results["cells"][0]["metrics"]["relearning"]["models"]["never_poisoned"]
    assert found.results["table"][1]["values"]["acc"]["mean"] == never["acc"]
    assert len(list((tmp_path / "shared" / "relearning").glob("never-poisoned-*"))) == 1
    text = markdown(found.results, found.timings)
    assert "steps back" in text and "Steps back: fewest optimiser steps, with 20 poison samples" in text


def test_the_flags_of_run_and_compare(tmp_path: Path) -> None:
    options = ["-o", "size=8", "-o", "clean=40", "-o", "test=1500", "-o", "recipe.epochs=1"]
    words = ["run", "random_head", "--from", "testbed:badnets", *options, "-s", "epochs=1", "--any-model", "--relearn"]
    words += ["--retrain-set", "epochs=1", "--retrain-set", "augmentation.flip=false", "--out", str(tmp_path / "run")]
    priced = CliRunner().invoke(program, [*words, "--dry-run"])
    assert priced.exit_code == 0 and "never_poisoned_seconds" in priced.output, priced.output
    done = CliRunner().invoke(program, words)
    assert done.exit_code == 0 and "\nrelearning: " in done.output, done.output
    bare = tmp_path / "bare.npz"
    rng = np.random.default_rng(0)
    np.savez(bare, x_train=rng.integers(0, 255, (20, 8, 8, 3), np.uint8), y_train=np.arange(20) % 2)
    refused = CliRunner().invoke(program, ["run", "do_nothing", "--from", f"arrays:{bare}", "--relearn"])
    assert refused.exit_code == 1
    assert "relearning cannot be measured on this case" in refused.output and "--relearn" in refused.output
    file = tmp_path / "compare.yaml"
    file.write_text("cases: ['testbed:lsp']\ndefenses: [do_nothing]\n")
    shown = CliRunner().invoke(program, ["compare", str(file), "--relearn", "--dry-run"])
    assert shown.exit_code == 0 and "do_nothing on lsp, seed 0: missing" in shown.output

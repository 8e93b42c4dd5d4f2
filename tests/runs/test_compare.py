"""Comparisons: what is done is kept, what fails is said, and no name can become markup or a command."""

from __future__ import annotations

import csv
import dataclasses
import html.parser
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import scipy.stats
from pydantic import Field

from elixir_plugin.adapter import Adapter
from elixir_plugin.core.case import Case
from elixir_plugin.core.context import Context
from elixir_plugin.core.outcome import Outcome
from elixir_plugin.core.settings import Settings
from elixir_plugin.defense import Card, Defense
from elixir_plugin.errors import InputError, RunError, SettingsError
from elixir_plugin.evaluation import retraining
from elixir_plugin.evaluation.retraining import UNDEFENDED as SHARED_STAGE
from elixir_plugin.hookspecs import Entry, hookimpl
from elixir_plugin.plugins import plugins
from elixir_plugin.report import page as drawing_page
from elixir_plugin.runs.compare import page as compare_page
from elixir_plugin.runs.compare.page import page, panels, write_compare_page
from elixir_plugin.runs.compare.run import Comparison, plan_cells, run_compare
from elixir_plugin.runs.compare.spec import CompareSpec
from elixir_plugin.runs.compare.table import (
    cell_text,
    csv_text,
    explanation,
    markdown,
    remark,
    summarise,
    table_lines,
)
from elixir_plugin.testing.defenses import tiny_case

pytestmark = pytest.mark.usefixtures("no_figures")
DRAW = drawing_page.draw
ROOT = Path(__file__).resolve().parents[2]


class StubSettings(Settings):
    strength: float = Field(1.0, ge=0, le=2)


class Scorer(Defense):
    """Scores by brightness; can be told to fail on a seed."""

    name = "scorer"
    kind = "detect"
    needs = frozenset({"train"})
    card = Card("Brightness", "none", 2026, "none", "none", "all")
    Settings = StubSettings
    settings: StubSettings
    failures: ClassVar[dict[int, BaseException]] = {}
    runs: ClassVar[list[tuple[float, int]]] = []

    def defend(self, case: Case, context: Context) -> Outcome:
        assert case.train is not None
        self.runs.append((self.settings.strength, context.seed))
        if context.seed in self.failures:
            raise self.failures[context.seed]
        scores = case.train.read(slice(None)).mean((1, 2, 3)).astype(np.float64) * self.settings.strength
        return Outcome(scores=scores, flagged=scores > 120 + context.seed)


class Tiny(Adapter):
    name = "tiny"
    reads_disk = False

    def read(self, path: Path, seed: int = 0) -> Case:
        if path.name == "broken":
            raise InputError("file cannot be read", where=path)
        case = tiny_case(seed=len(path.name))
        return dataclasses.replace(case, model=None) if path.name == "bare" else case


class Plugin:
    @hookimpl
    def elixir_defenses(self) -> list[Entry]:
        return [Entry("scorer", Scorer, "detect"), Entry("absent", "no_such_package:Thing", "detect")]

    @hookimpl
    def elixir_adapters(self) -> list[Entry]:
        return [Entry("tiny", Tiny)]


@pytest.fixture(autouse=True)
def stubs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("ELIXIR_PLUGINS", "")
    plugins.cache_clear()
    plugins().register(Plugin(), "stubs")
    monkeypatch.setattr(Scorer, "failures", {})
    monkeypatch.setattr(Scorer, "runs", [])
    monkeypatch.chdir(tmp_path)
    yield
    plugins.cache_clear()


WEAK: dict[str, Any] = {"defense": "scorer", "settings": {"strength": 0.5}, "name": "weak"}


def spec(**changes: Any) -> CompareSpec:
    values: dict[str, Any] = {"cases": ["tiny:a"], "defenses": ["scorer", WEAK], "seeds": [0, 1], "retrain": None}
    return CompareSpec.build(values | changes)


def compare(folder: str = "out", **changes: Any) -> Comparison:
    return run_compare(spec(**changes), Path(folder))


def states(found: Comparison) -> list[tuple[str, str, int, str]]:
    return [(cell["case"], cell["defense"], cell["seed"], cell["state"]) for cell in found.results["cells"]]


# what is run


def test_every_cell_is_run_once_and_everything_is_written() -> None:
    found = compare(cases=["tiny:a", "tiny:bb"], seeds=[0])
    assert len(states(found)) == 4 and {state for *_, state in states(found)} == {"done"}
    assert len(Scorer.runs) == 4
    names = {path.name for path in Path("out").iterdir()}
    assert names >= {"compare.yaml", "results.json", "timings.json", "table.md", "table.csv", "compare.html", "cells"}
    assert json.loads(Path("out/results.json").read_text()) == found.results
    for cell in found.results["cells"]:
        assert (Path("out") / cell["folder"] / "report.json").is_file()


def test_what_is_done_is_kept_and_what_is_new_is_run() -> None:
    compare(defenses=["scorer"])
    assert Scorer.runs == [(1.0, 0), (1.0, 1)]
    found = compare(defenses=[WEAK, "scorer"])
    assert Scorer.runs[2:] == [(0.5, 0), (0.5, 1)]
    assert {state for *_, state in states(found)} == {"done"}
    compare(defenses=["scorer", WEAK])
    assert len(Scorer.runs) == 4


def test_the_order_of_the_file_decides_the_order_of_rows_and_nothing_else() -> None:
    forth = compare("forth", seeds=[0, 1], defenses=["scorer", WEAK]).results["cells"]
    back = compare("back", seeds=[1, 0], defenses=[WEAK, "scorer"]).results["cells"]

    def by_name(cells: list[dict[str, Any]]) -> dict[Any, Any]:
        return {(cell["defense"], cell["seed"]): cell for cell in cells}

    assert by_name(forth) == by_name(back) and forth != back


def test_other_settings_are_another_cell_and_the_old_one_stays() -> None:
    compare(defenses=[WEAK])
    compare(defenses=[{**WEAK, "settings": {"strength": 0.7}}])
    compare(defenses=[WEAK])
    assert [strength for strength, _ in Scorer.runs] == [0.5, 0.5, 0.7, 0.7]


@pytest.mark.parametrize("at", [0, 1])
def test_an_interrupted_comparison_goes_on_to_the_same_results(at: int) -> None:
    compare("whole")
    Scorer.failures[at] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        compare("parts")
    Scorer.failures.clear()
    compare("parts")
    assert Path("parts/results.json").read_bytes() == Path("whole/results.json").read_bytes()


def test_what_a_kill_leaves_under_way_is_cleared() -> None:
    compare()
    (Path("out") / ".results.json.abc_0xyz.part").touch()
    (Path("out/shared/.suspect.abc_0xyz.part")).mkdir(parents=True)
    compare()
    assert not list(Path("out").glob(".*")) and not list(Path("out/shared").glob(".*"))


def test_a_comparison_in_the_making_says_what_is_missing() -> None:
    Scorer.failures[1] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        compare(defenses=["scorer"])
    results = json.loads(Path("out/results.json").read_text())
    assert [cell["state"] for cell in results["cells"]] == ["done", "missing"]
    assert "not done yet" in Path("out/table.md").read_text()


def test_what_is_done_is_known_while_something_new_is_under_way() -> None:
    compare(defenses=["scorer"])
    Scorer.failures[1] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        compare(cases=["tiny:bb", "tiny:a"], defenses=["scorer"])  # stopped in its second cell, a new one
    cells = json.loads(Path("out/results.json").read_text())["cells"]
    states = {(cell["case"], cell["seed"]): cell["state"] for cell in cells}
    assert states == {("bb", 0): "done", ("bb", 1): "missing", ("a", 0): "done", ("a", 1): "done"}


def test_a_folder_with_something_else_is_refused_and_untouched() -> None:
    Path("out").mkdir()
    Path("out/thesis.tex").write_text("dear")
    with pytest.raises(RunError, match="something else"):
        compare()
    assert [path.name for path in Path("out").iterdir()] == ["thesis.tex"]


# what cells share


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The stages in which models were trained for a comparison."""
    stages: list[str] = []
    train = retraining._trained

    def noted(*args: Any, **options: Any) -> Any:
        stages.append(args[4])
        return train(*args, **options)

    monkeypatch.setattr(retraining, "_trained", noted)
    return stages


BARE: dict[str, Any] = {"cases": ["tiny:bare"], "retrain": {"epochs": 1}}


def undefended_seconds(found: Comparison) -> list[float]:
    return [cell["stages"][SHARED_STAGE] for cell in found.timings["cells"]]


def test_what_no_defense_changes_is_trained_once_per_seed_and_counted_by_all(trained: list[str]) -> None:
    found = compare(**BARE)
    assert trained.count(SHARED_STAGE) == 2 and "retrain on kept" in trained
    first, second, *others = undefended_seconds(found)  # of both defenses on the first seed
    assert second >= first > 0 and all(others)
    alone = [compare(name, **BARE, defenses=[each]).results for name, each in (("a", "scorer"), ("b", WEAK))]
    assert trained.count(SHARED_STAGE) == 6
    cells = {(cell["defense"], cell["seed"]): cell for each in alone for cell in each["cells"]}
    assert found.results["cells"] == [cells[cell["defense"], cell["seed"]] for cell in found.results["cells"]]


def test_another_case_plan_or_seed_is_trained_anew(trained: list[str]) -> None:
    for changes in ({}, {"retrain": {"epochs": 2}}, {"seeds": [1]}, {"defenses": [WEAK]}):
        compare(**{**BARE, "seeds": [0], "defenses": ["scorer"], **changes})
    assert trained.count(SHARED_STAGE) == 3


def test_a_killed_cell_counts_what_it_has_trained_once(trained: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    few: dict[str, Any] = {**BARE, "seeds": [0], "defenses": ["scorer"]}
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Outcome, "save", interrupt)
        compare(**few)
    (file,) = Path("out/shared").glob("undefended-*.json")
    kept = json.loads(file.read_text())
    file.write_text(json.dumps({**kept, "seconds": 1000.0}))
    assert undefended_seconds(compare(**few))[0] == pytest.approx(kept["seconds"], abs=10)
    assert undefended_seconds(compare(**{**few, "defenses": [WEAK]}))[0] == pytest.approx(1000, abs=10)
    assert trained.count(SHARED_STAGE) == 1


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


# what fails


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (RuntimeError("out of\nmemory"), "RuntimeError: out of memory"),
        (InputError("images of mixed size", where="a.png"), "images of mixed size (where: a.png)"),
        (SystemExit(3), "SystemExit: 3"),
    ],
)
def test_a_failed_cell_says_why_and_the_others_go_on(failure: BaseException, reason: str) -> None:
    Scorer.failures[0] = failure
    found = compare(defenses=["scorer"])
    assert [state for *_, state in states(found)] == ["failed", "done"]
    assert found.failed == 1 and found.results["cells"][0]["reason"] == reason
    for file in ("table.md", "table.csv", "compare.html"):
        assert "failed (1 of 2)" in (Path("out") / file).read_text()
    Scorer.failures.clear()
    assert compare(defenses=["scorer"]).failed == 0
    assert [seed for _, seed in Scorer.runs] == [0, 1, 0]


def test_a_bug_leaves_its_traceback_in_the_log() -> None:
    Scorer.failures[0] = RuntimeError("boom")
    compare()
    assert "Traceback" in Path("out/log.txt").read_text() and "in defend" in Path("out/log.txt").read_text()


def test_a_case_that_cannot_be_read_fails_in_its_own_cells_alone() -> None:
    found = compare(cases=["tiny:a", "tiny:broken"], defenses=["scorer"], seeds=[0])
    assert states(found) == [("a", "scorer", 0, "done"), ("broken", "scorer", 0, "failed")]


def test_a_defense_that_cannot_be_imported_fails_in_its_own_cells_alone() -> None:
    found = compare(defenses=["absent", "scorer"], seeds=[0])
    assert [state for *_, state in states(found)] == ["failed", "done"]
    assert "cannot be imported" in found.results["cells"][0]["reason"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"defenses": ["scoerr"]}, "unknown defense"),
        ({"defenses": [{"defense": "scorer", "settings": {"strenght": 1}}]}, "did you mean 'strength'"),
        ({"defenses": [{"defense": "scorer", "preset": "strong"}]}, "unknown preset"),
        ({"defenses": [{"defense": "scorer", "seting": {}}]}, "did you mean 'settings'"),
        ({"defenses": []}, "defenses"),
        ({"cases": ["tiny"]}, "ADAPTER:PATH"),
        ({"cases": ["tinny:a"]}, "unknown adapter"),
        ({"cases": [{"source": "tiny:a", "options": {"x": 1}}]}, "x: unknown key"),
        ({"cases": ["tiny:a", "tiny:b/a"]}, "occurs twice"),
        ({"seeds": [-1]}, "seeds"),
        ({"seeds": [1, 1]}, "occurs twice"),
        ({"retrain": {"epoch": 3}}, "did you mean 'epochs'"),
        ({"device": "abacus"}, "device"),
    ],
)
def test_a_wrong_file_is_refused_before_anything_is_written(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        compare(**changes)
    assert says in str(refusal.value)
    assert not Path("out").exists()


def test_the_message_names_the_cell_whose_settings_are_refused() -> None:
    with pytest.raises(SettingsError, match="settings refused") as refusal:
        compare(defenses=["scorer", {**WEAK, "settings": {"strength": 9}}])
    assert "a × weak" in str(refusal.value)


# the table


def cell(defense: str, seed: int, **after: float) -> dict[str, Any]:
    metrics = {"before": {"acc": 0.9, "asr": 1.0}, "after": after, "der": None, "detection": None}
    return {"case": "c", "defense": defense, "seed": seed, "state": "done", "reason": "", "metrics": metrics}


def table(*cells: dict[str, Any], seeds: list[int]) -> dict[str, Any]:
    compared = {"seeds": seeds, "retrain": None}
    return {"compare": compared, "cells": cells, "table": summarise({"compare": compared, "cells": list(cells)})}


def test_mean_and_sample_deviation_over_seeds() -> None:
    (before, row) = table(cell("d", 0, acc=0.8), cell("d", 1, acc=0.9), seeds=[0, 1])["table"]
    assert row["values"]["acc"]["mean"] == pytest.approx(0.85)
    assert row["values"]["acc"]["std"] == pytest.approx(0.0707107, abs=1e-6)
    assert cell_text("acc", row["values"]["acc"]) == "85.0 ± 7.1"
    assert before["defense"] == "no defense" and before["values"]["asr"]["mean"] == 1.0


def test_the_best_has_high_accuracy_and_low_attack_success_and_ties_share() -> None:
    rows = table(cell("a", 0, acc=0.8, asr=0.0), cell("b", 0, acc=0.9, asr=0.0), seeds=[0])["table"][1:]
    assert [row["values"]["acc"]["best"] for row in rows] == [False, True]
    assert [row["values"]["asr"]["best"] for row in rows] == [True, True]


def clear(*values: tuple[float, ...], metric: str = "acc") -> list[bool]:
    """Return which of several defenses is clearly the best, from each one's values by seed."""
    seeds = list(range(len(values[0])))
    cells = [cell("abc"[at], seed, **{metric: each[seed]}) for at, each in enumerate(values) for seed in seeds]
    return [row["values"][metric]["clear"] for row in table(*cells, seeds=seeds)["table"][1:]]


def test_the_best_is_clear_where_it_beats_the_others_seed_by_seed() -> None:
    assert clear((0.80, 0.60, 0.70), (0.82, 0.62, 0.72)) == [False, True]  # seeds differ more, but alike
    assert clear((0.80, 0.60, 0.70), (0.86, 0.59, 0.73)) == [False, False]
    assert clear((0.1, 0.1), (0.1, 0.1), metric="asr") == [False, False]
    assert clear((0.0, 0.0), (0.1, 0.1), (0.3, 0.29), metric="asr") == [True, False, False]
    assert clear((0.0, 0.0), (0.1, 0.1), (0.0, 0.01), metric="asr") == [False, False, False]
    assert clear((0.9,), (0.1,)) == [False, False] and clear((0.9, 0.91)) == [False]


def test_two_standard_errors_are_needed_however_many_seeds_there_are() -> None:
    zeros = (0.0,) * 200
    assert clear(zeros, tuple(0.127 + (-1) ** at for at in range(200))) == [False, False]  # 1.8 standard errors
    assert clear(zeros, tuple(0.150 + (-1) ** at for at in range(200))) == [False, True]  # 2.1


def test_the_interval_is_that_of_the_mean() -> None:
    cells = [cell("d", seed, acc=value) for seed, value in enumerate((0.7, 0.8, 0.9))]
    (_, row) = table(*cells, seeds=[0, 1, 2])["table"]
    low, high = scipy.stats.t.interval(0.95, 2, loc=0.8, scale=0.1 / 3**0.5)
    assert (row["values"]["acc"]["low"], row["values"]["acc"]["high"]) == (pytest.approx(low), pytest.approx(high))
    assert table(cell("d", 0, acc=0.7), seeds=[0])["table"][1]["values"]["acc"]["low"] is None


def test_the_words_below_the_table_say_what_it_rests_on() -> None:
    one, two = (
        table(cell("d", 0, acc=0.7), seeds=[0]),
        table(cell("d", 0, acc=0.7), cell("d", 1, acc=0.7), seeds=[0, 1]),
    )
    assert "One seed carries every number" in explanation(one) and "over 2 seeds" in explanation(two)
    named = [{"defense": "d3"}, {"defense": "eclipse"}]
    two["compare"]["defenses"] = named
    assert "No free control" in explanation(two)
    two["compare"]["defenses"] = [*named, {"defense": "jpeg"}]
    assert "No free control" not in explanation(two)


def test_a_row_that_lacks_a_seed_is_not_the_best() -> None:
    failed = {**cell("a", 1), "state": "failed", "reason": "boom", "metrics": None}
    cells = [cell("a", 0, acc=0.99), failed, cell("b", 0, acc=0.5), cell("b", 1, acc=0.5)]
    rows = table(*cells, seeds=[0, 1])["table"][1:]
    assert [row["values"]["acc"]["best"] for row in rows] == [False, True]
    assert remark(rows[0]) == "failed (1 of 2): boom"


# names that would like to be more


EVIL = '<img src=x onerror=alert(1)>|`"&amp; \x1b[31mred\x07 **b** [l](u)'


class Elements(html.parser.HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def evil() -> Comparison:
    Scorer.failures[1] = RuntimeError(EVIL)
    cases = [{"source": "tiny:a", "name": EVIL}]
    return compare(cases=cases, defenses=["scorer", {**WEAK, "name": "=1+1" + EVIL}])


def test_names_and_reasons_are_text_in_the_page(evil: Comparison) -> None:
    text = Path("out/compare.html").read_text()
    seen = Elements(text)
    assert not {"img", "script"} & set(seen.tags)
    assert "<img src=x onerror=alert(1)>" in seen.text
    assert "\x1b" not in text and "\\x1b[31m" in seen.text
    assert page(evil.results, evil.timings, []).count("<html") == 1


def test_names_and_reasons_are_text_in_markdown(evil: Comparison) -> None:
    text = markdown(evil.results, evil.timings)
    assert "<" not in text and "\x1b" not in text and "**b" not in text
    assert not re.search(r"(?<!\\)[\[\]`]", text)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(line.replace("\\|", "").split("|")) for line in rows}) == 1


def test_names_and_reasons_are_text_on_a_terminal(evil: Comparison) -> None:
    lines = list(table_lines(evil.results, evil.timings))
    assert all(line.isprintable() for line in lines)
    assert any("\\x1b[31mred\\x07" in line for line in lines)


def test_no_cell_of_the_csv_is_a_formula(evil: Comparison) -> None:
    rows = list(csv.reader(csv_text(evil.results, evil.timings).splitlines()))
    assert len({len(row) for row in rows}) == 1
    assert not [text for row in rows for text in row if text[:1] in ("=", "+", "@")]
    assert "\x1b" not in Path("out/table.csv").read_text()


def test_folders_of_cells_stay_below_the_comparison(evil: Comparison) -> None:
    for each in evil.results["cells"]:
        assert Path(each["folder"]).parent == Path("cells")


def test_the_comparison_can_be_run_again_from_its_folder(evil: Comparison) -> None:
    again = CompareSpec.from_yaml(Path("out/compare.yaml"))
    assert again.model_copy(update={"out": None}).dump() == evil.results["compare"]


# the page


def numbers() -> tuple[dict[str, Any], dict[str, Any]]:
    """Return results of two defenses on one case, and their seconds."""
    results = table(cell("a", 0, acc=0.8, asr=0.1), cell("b", 0, acc=0.9, asr=0.4), seeds=[0])
    spec = {"cases": [1], "defenses": [1, 2], "seeds": [0], "retrain": None}
    timed = [
        {"case": "c", "defense": name, "seed": 0, "seconds": 2.0, "environment": {"device": "cpu"}} for name in "ab"
    ]
    return {**results, "compare": spec, "identity": "f00d"}, {"cells": timed}


def test_the_trade_offs_hold_a_point_per_case_and_defense() -> None:
    results, timings = numbers()
    pareto, timed = panels(results["table"], timings)
    assert [(each.name, each.x, each.y, each.labels) for each in pareto.series] == [
        ("a", [10.0], [80.0], ["c"]),
        ("b", [40.0], [90.0], ["c"]),
        ("no defense", [100.0], [90.0], ["c"]),
    ]
    assert [(each.name, each.x, each.y) for each in timed.series] == [("a", [2.0], [80.0]), ("b", [2.0], [90.0])]
    assert pareto.frames and timed.frames and (pareto.x_label, pareto.y_label) == ("ASR %", "ACC %")
    assert pareto.caption and timed.caption


def test_time_is_drawn_on_a_scale_that_shows_the_fast_and_the_slow() -> None:
    results, timings = numbers()
    assert not panels(results["table"], timings)[1].log_x
    timings["cells"][0]["seconds"] = 2000.0
    timed = panels(results["table"], timings)[1]
    assert timed.log_x and "logarithmic" in timed.x_label


def test_the_page_holds_table_and_figures_and_loads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing_page, "draw", DRAW)
    results, timings = numbers()
    written = write_compare_page(Path(), results, timings)
    assert [path.suffix for path in written] == [".html", ".png", ".png"] and all(path.is_file() for path in written)
    text = Path("compare.html").read_text()
    seen = Elements(text)
    assert seen.tags.count("svg") == 2 and seen.tags.count("table") == 1 and "script" not in seen.tags
    assert 'class="best"' not in text and "One seed carries every number" in text
    assert "http://" not in text.replace("http://www.w3.org/", "") and "https://" not in text


# the page along the way


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many cells each page knew of, in the order of their writing; the clock never lets a minute pass."""
    known: list[int] = []
    write = compare_page.write_compare_page

    def counted(folder: Path, results: dict[str, Any], timings: dict[str, Any]) -> list[Path]:
        known.append(sum(cell["state"] != "missing" for cell in results["cells"]))
        return write(folder, results, timings)

    monkeypatch.setattr(compare_page, "write_compare_page", counted)
    monkeypatch.setattr(compare_page, "EVERY", float("inf"))
    return known


def test_a_page_is_written_after_the_first_cell_and_at_the_end(pages: list[int]) -> None:
    compare()
    assert pages == [1, 4]


def test_a_page_is_written_whenever_the_last_is_old_enough(pages: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare_page, "EVERY", 0.0)
    compare()
    assert pages == [1, 2, 3, 4]


def test_what_an_earlier_go_had_found_is_no_reason_for_a_page_along_the_way(pages: list[int]) -> None:
    compare(seeds=[0])
    pages.clear()
    compare(seeds=[0, 1, 2])
    assert pages == [3, 6]  # both defenses on seed 0 were known, the third cell is new


def test_an_interrupted_comparison_leaves_the_page_of_what_is_done(pages: list[int]) -> None:
    Scorer.failures[2] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        compare(defenses=["scorer"], seeds=[0, 1, 2, 3])
    assert pages == [1, 2]
    assert "2 of 4 runs are done, 2 are still to do" in Path("out/compare.html").read_text()


def test_a_page_that_fails_stops_no_run_and_hides_no_interruption(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> list[Path]:
        raise RuntimeError("no ink")

    monkeypatch.setattr(compare_page, "write_compare_page", broken)
    with pytest.raises(RuntimeError, match="no ink"):
        compare()
    assert len(Scorer.runs) == 4 and "compare.html could not be written" in Path("out/log.txt").read_text()
    Scorer.failures[1] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        compare("other")


# what is shipped


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("compare*.yaml")), ids=lambda path: path.name)
def test_the_examples_are_valid(path: Path) -> None:
    cells = plan_cells(CompareSpec.from_yaml(path))
    assert len(cells) > 1 and all(cell.spec is not None for cell in cells)

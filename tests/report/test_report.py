"""The page of a run: complete, self-contained, escaped, drawn from report.json alone; looked at by a browser."""

from __future__ import annotations

import copy
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from matplotlib.figure import Figure as Drawing
from page_checks import Page, View, check_page, check_view, look_at
from PIL import Image
from pydantic import ValidationError

from elixir_plugin.adapter import Source
from elixir_plugin.cli.app import program
from elixir_plugin.core.case import Case
from elixir_plugin.core.context import Context
from elixir_plugin.core.outcome import Outcome, Verdict
from elixir_plugin.core.panels import Bars, Histogram, Level, Lines, Matrix, Panel, Points, Series, Table, Text
from elixir_plugin.core.settings import Settings
from elixir_plugin.defense import Card, Defense
from elixir_plugin.errors import InputError
from elixir_plugin.hookspecs import Entry, hookimpl
from elixir_plugin.io.text import escape_control
from elixir_plugin.plugins import plugins
from elixir_plugin.report.facts import facts_of
from elixir_plugin.report.figures import draw
from elixir_plugin.report.page import TEMPLATES
from elixir_plugin.report.palette import COLOURS
from elixir_plugin.report.scatter import add_frames, draw_points
from elixir_plugin.report.single import make_page, write_report
from elixir_plugin.report.words import summary_of
from elixir_plugin.runs.compare.page import write_compare_page
from elixir_plugin.runs.compare.table import summarise
from elixir_plugin.runs.run import RunResult, run_defense
from elixir_plugin.runs.spec import RunSpec

TAG = "<img src=x onerror=alert(1)>"
HOSTILE = f"{TAG}\x1b[31m$\\frac{{\u202e{{{{ 7*7 }}}}"


class HostileSettings(Settings):
    word: str = HOSTILE


class Hostile(Defense):
    """Returns tables, notes, curves and panels full of markup, terminal escapes and template code."""

    name = "hostile"
    kind = "detect"
    needs = frozenset({"train"})
    card = Card(HOSTILE, HOSTILE, 2026, HOSTILE, HOSTILE, HOSTILE)
    Settings = HostileSettings

    def defend(self, case: Case, context: Context) -> Outcome:
        assert case.train is not None
        context.note(HOSTILE)
        with context.stage(HOSTILE):
            scores = case.train.read(slice(None)).mean((1, 2, 3)).astype(np.float64)
        return Outcome(scores=scores, flagged=scores > np.median(scores), verdict=Verdict(True, 1.0, HOSTILE))

    def panels(self, outcome: Outcome) -> list[Panel]:
        words = {"title": HOSTILE, "caption": HOSTILE}
        return [
            Table(**words, header=[HOSTILE], rows=[[HOSTILE]]),
            Text(**words, paragraphs=[HOSTILE]),
            Lines(**words, series=[Series(name=HOSTILE, y=[1, 2]), Series(name="b", y=[2, 1])], x_label=HOSTILE,
                  levels=[Level(name=HOSTILE, value=1.5)]),
            Bars(**words, labels=[HOSTILE, "b"], values={HOSTILE: [1, 2], "b": [1, 2]}, y_label=HOSTILE),
            Histogram(**words, edges=[0, 1], counts={HOSTILE: [1], "b": [2]}, x_label=HOSTILE),
            Matrix(**words, values=[[1]], rows=[HOSTILE], columns=[HOSTILE], x_label=HOSTILE),
        ]  # fmt: skip


class Offer:
    @hookimpl
    def elixir_defenses(self) -> list[Entry]:
        return [Entry("hostile", Hostile, "detect")]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A real run on files and folders with hostile names."""
    place = tmp_path_factory.mktemp("hostile")
    rng = np.random.default_rng(0)
    for label in ("cat", f"{TAG}\x1b[31m"):
        folder = place / f"{TAG}\x07" / label
        folder.mkdir(parents=True)
        for number in range(8):
            pixels = rng.integers(0, 256, (12, 12, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}\"'{TAG}\x1b[2J.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ELIXIR_PLUGINS", "elixir_plugin:builtin,elixir_plugin:adapters")
        plugins.cache_clear()
        plugins().register(Offer(), "offer")
        source = Source(adapter="image_folder", path=str(place / f"{TAG}\x07"))
        run_defense(RunSpec(defense="hostile", source=source, out=str(place / "run")))
        yield place / "run"
    plugins.cache_clear()


@pytest.fixture
def report(run_folder: Path) -> Any:
    return json.loads((run_folder / "report.json").read_text())


def page_of(report: Any) -> Page:
    return check_page(make_page(facts_of(report), png=False)[0])


def test_hostile_names_are_shown_as_text(run_folder: Path) -> None:
    html = (run_folder / "report.html").read_text()
    page = check_page(html)
    assert not page.tags["script"] and TAG not in html
    text = " ".join(page.text)
    for where in (TAG, "\\x1b[31m", "\\u202e", "{{ 7*7 }}", "\\x07", "\\x1b[2J.png", "$\\frac{"):
        assert where in text
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", html)
    assert page.tags["img"] == len(re.findall(r'<img src="data:', html)) > 0
    figures = {path.name for path in (run_folder / "figures").iterdir()}
    assert figures and all(re.fullmatch(r"[a-z0-9-]+\.png", name) for name in figures)


def test_the_page_is_made_from_the_report_alone_and_the_same_each_time(run_folder: Path, tmp_path: Path) -> None:
    shutil.copy(run_folder / "report.json", tmp_path)
    written = write_report(tmp_path)
    for path in written:
        assert path.read_bytes() == (run_folder / path.relative_to(tmp_path)).read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"report.json", "report.html", "figures"}


def test_an_old_report_without_exhibits_still_has_a_page(report: Any) -> None:
    for key in ("exhibits", "command", "identity"):
        del report[key]
    page = page_of(report)
    assert page.tags["img"] == 0 and "Repeat it" in page.text


def test_the_command_makes_the_page_anew(run_folder: Path, tmp_path: Path) -> None:
    shutil.copy(run_folder / "report.json", tmp_path)
    done = CliRunner().invoke(program, ["report", str(tmp_path)])
    assert done.exit_code == 0 and str(tmp_path / "report.html") in done.output
    assert (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "file not found"),
        ("{", "not JSON"),
        ("[]", "not the report of a run"),
        ('{"defenses": {}}', "not the report of a run"),
    ],
)
def test_what_is_no_report_is_refused_and_nothing_is_written(tmp_path: Path, content: str | None, says: str) -> None:
    if content is not None:
        (tmp_path / "report.json").write_text(content)
    before = sorted(tmp_path.iterdir())
    done = CliRunner().invoke(program, ["report", str(tmp_path)])
    assert done.exit_code == 1 and says in done.output and "Traceback" not in done.output
    assert sorted(tmp_path.iterdir()) == before


def test_a_broken_panel_in_a_report_is_refused(report: Any) -> None:
    report["exhibits"]["panels"][0]["rows"] = [["too", "many", "cells"]]
    with pytest.raises(InputError, match="not the report of a run"):
        page_of(report)


def test_a_picture_that_is_no_base64_carries_nothing(report: Any) -> None:
    report["exhibits"]["sheets"][0]["samples"][0]["pictures"] = ['x" onerror="alert(1)']
    page_of(report)


MODEL = {"acc": 0.9, "asr": 1.0, "ra": 0.1}


def told(report: Any, **changes: Any) -> Any:
    """Return the summary of *report*, with other verdict, kind, metrics or number of flagged samples."""
    made = copy.deepcopy(report)
    made["outcome"]["verdict"] = changes.get("verdict")
    made["outcome"]["flagged"] = changes.get("flagged")
    made["defense"]["kind"] = changes.get("kind", "detect")
    made["metrics"] |= changes.get("metrics", {})
    made["exhibits"]["summary"] = changes.get("summary", {})
    return summary_of(facts_of(made))


@pytest.mark.parametrize(
    ("changes", "facts", "mood"),
    [
        ({"verdict": {"poisoned": True}, "flagged": 3}, r"poisoned.* 3 of 16\b", "bad"),
        ({"verdict": {"poisoned": False}, "flagged": 0}, r"(?i)no evidence.* 16\b", "good"),
        ({"flagged": 2}, r"^2 of 16\b.*suspicious", ""),
        (
            {"kind": "repair", "metrics": {"before": MODEL, "after": {**MODEL, "asr": 0.02, "acc": 0.85}}},
            r"(?i)attack.* 100\.0 % .* 2\.0 %.*accuracy.* 90\.0 % .* 85\.0 %",
            "",
        ),
        ({"kind": "repair"}, r"^Repaired\b.*model", ""),
        ({"kind": "purify", "summary": {"images_changed": 16}}, r"^Changed all 16\b", ""),
    ],
)
def test_the_headline_says_what_came_out(report: Any, changes: dict[str, Any], facts: str, mood: str) -> None:
    made = told(report, **changes)
    assert re.search(facts, made.headline.replace("\xa0", " ")) and made.mood == mood, made.headline


def test_the_cost_names_the_accuracy_lost(report: Any) -> None:
    metrics = {"before": MODEL, "after": {**MODEL, "acc": 0.85}}
    assert "5.0 points of accuracy" in told(report, kind="repair", metrics=metrics).items[2].short
    metrics["after"]["acc"] = 0.95
    assert "no accuracy" in told(report, kind="repair", metrics=metrics).items[2].short


@pytest.mark.usefixtures("no_figures")
def test_a_run_that_was_interrupted_says_so_beside_its_seconds(report: Any) -> None:
    once, thrice = (" ".join(page_of({**report, "attempts": attempts}).text) for attempts in (1, 3))
    assert "attempts;" not in once and "The run took 3 attempts;" in thrice


def test_earlier_reports_count_attempts_under_another_name(report: Any) -> None:
    former = {key: value for key, value in report.items() if key != "attempts"}
    assert facts_of({**former, "goes": 3}).attempts == 3 and facts_of(former).attempts == 1


def test_a_report_says_which_schema_it_has_and_one_without_is_read(report: Any) -> None:
    assert report["schema"] == 1
    former = {key: value for key, value in report.items() if key != "schema"}
    assert facts_of(former) == facts_of(report)
    with pytest.raises(InputError, match="later version") as refusal:
        facts_of({**report, "schema": 2})
    assert "schema 2" in str(refusal.value)
    with pytest.raises(InputError, match="schema number is none"):
        facts_of({**report, "schema": "1"})


def test_a_verdict_is_held_against_the_truth_where_that_is_known(report: Any) -> None:
    detection = {"tpr": 0.98, "fpr": 0.01, "auroc": 0.99, "flagged": 10, "poison": 7}
    made = told(report, verdict={"poisoned": False, "score": 1.2}, flagged=0, metrics={"detection": detection})
    assert "In truth 7 samples are poison" in made.items[0].long
    assert "98.0 % of the poison found" in made.items[3].short.replace("\xa0", " ")
    assert told(report, flagged=1).items[3].short == "Nothing to check it against"


@pytest.mark.usefixtures("no_figures")
def test_better_and_worse_are_told_apart(report: Any) -> None:
    report["metrics"] |= {"before": MODEL, "after": {"acc": 0.85, "asr": 0.02, "ra": 0.1}, "der": 0.965}
    html = make_page(facts_of(report), png=False)[0]
    assert '<span class="change bad">−5.0</span>' in html and '<span class="change good">−98.0</span>' in html
    assert '<span class="change">+0.0</span>' in html and "0.965" in html


REPAIR = {
    "change_recall": 0.875,
    "change_fpr": 0.025,
    "relabel_recall": 0.8125,
    "relabel_fpr": 0.015,
    "relabelled_right": 0.6125,
    "label_accuracy_before": 0.9,
    "label_accuracy_after": 0.9375,
    "stable_poison": 0.125,
    "poison_status": {"stable": 2, TAG: 14},
    "poison": 16,
    "kept": 216,
}


def numbers_of(report: Any) -> str:
    """Return the text of the section with the numbers, without superfluous blanks."""
    html = make_page(facts_of(report), png=False)[0]
    page_of(report)
    section = html.partition('<section id="numbers">')[2].partition("</section>")[0]
    return " ".join(" ".join(Page(section).text).split())


@pytest.mark.usefixtures("no_figures")
def test_a_repair_is_held_against_the_truth(report: Any) -> None:
    report["metrics"]["repair"] = REPAIR
    text = numbers_of(report)
    assert re.search(r"\b216\b.* kept", text)
    assert "poison 16 87.5 % 81.2 % 61.3 % 12.5 % all others 200 2.5 % 1.5 %" in text
    assert re.search(r"Right labels: [^.]*90\.0 %[^.]* before[^.]* 93\.8 %[^.]* after", text)
    assert f"Poison by status: 2 stable, 14 {TAG}." in text


@pytest.mark.usefixtures("no_figures")
def test_what_is_not_known_of_a_repair_is_left_out(report: Any) -> None:
    report["metrics"]["repair"] = {"change_fpr": 0.0, "relabel_fpr": 0.0, "poison": 0, "kept": 16}
    text = numbers_of(report)
    assert "poison 0 – – – all others 16 0.0 % 0.0 %" in text
    assert not any(words in text for words in ("Right labels", "Poison by status", "stable"))


@pytest.mark.usefixtures("no_figures")
def test_without_a_repair_the_page_says_nothing_of_one(report: Any) -> None:
    """Reports of before repairs were measured lack the key."""
    assert report["metrics"].pop("repair") is None
    assert "Repair" not in numbers_of(report) and '<section id="numbers">' not in make_page(facts_of(report))[0]


def test_a_terminal_shows_the_repair_in_one_line(report: Any) -> None:
    def lines() -> list[str]:
        return [line for line in RunResult(report, Path("run")).lines() if line.startswith("repair")]

    report["metrics"]["repair"] = {**REPAIR, "relabelled_right": None}
    (line,) = lines()
    poison, others, labels = line.split(";")
    assert re.search(r"changed 87\.5 %.*relabelled 81\.2 %.*right –.*stable 12\.5 %", poison)
    assert re.search(r"changed 2\.5 %.*relabelled 1\.5 %", others)
    assert re.search(r"90\.0 % before.*93\.8 % after", labels)
    del report["metrics"]["repair"]
    assert lines() == []


FIGURES = [
    Lines(title="l", series=[Series(name="a", y=[1, 10]), Series(name="b", y=[None, 2])], log_y=True),
    Points(title="words", series=[Series(name="a", x=[1, None], y=[2, 3], labels=["one", "two"])]),
    Points(
        title="frames", series=[Series(name="a", x=[1, 90], y=[2, 3], labels=["one", "two"])], frames=True, log_x=True
    ),
    Lines(title="one point", series=[Series(name="a", y=[1.0])]),
    Lines(title="nothing", series=[Series(name="a", y=[])]),
    Bars(title="many", labels=[str(i) for i in range(60)], values={"v": [1.0] * 60}),
    Bars(title="none", labels=[], values={}),
    Matrix(title="m", values=[[0, 1], [None, 3]], rows=["a", "b"], columns=["a", "b"]),
    Histogram(title="empty group", edges=[0, 1], counts={"poison": [0], "clean": [3]}),
]


@pytest.mark.parametrize("panel", FIGURES, ids=lambda panel: panel.title)
def test_figures_follow_the_theme_of_the_page(panel: Any) -> None:
    drawn = draw(panel, "name")
    assert drawn.png.startswith(b"\x89PNG") and drawn == draw(panel, "name")
    assert "var(--" in drawn.svg
    assert not re.search(r"(fill|stroke): ?#|font-family|<style|<metadata|<\?xml|mathdefault", drawn.svg)
    assert all(name.startswith("name-") for name in re.findall(r'\bid="([^"]*)', drawn.svg))
    assert set(re.findall(r"(?:url\(|href=\")#([^)\"]*)", drawn.svg)) <= set(re.findall(r'\bid="([^"]*)', drawn.svg))


def test_marks_are_dots_that_no_line_joins_and_their_axis_has_the_numbers_it_needs() -> None:
    def drawn(x: list[float], **more: Any) -> str:
        return draw(Lines(title="m", series=[Series(name="a", x=x, y=[100, 200], **more)]), "n", png=False).svg

    line, marks, whole = drawn([0.5, 1.5]), drawn([0.5, 1.5], mark=True), drawn([1, 2])
    assert marks.count("<use ") == line.count("<use ") + 2
    assert all(re.search(r">\d+\.\d+<", each) for each in (line, marks)) and not re.search(r">\d+\.\d+<", whole)


def test_both_themes_know_every_colour_of_the_figures() -> None:
    light, dark = (TEMPLATES / "style.css").read_text().split("@media (prefers-color-scheme: dark)")[:2]
    for name, colour in COLOURS.items():
        assert f"--{name}: {colour}" in light and f"--{name}: #" in dark


def scattered(series: int, **options: Any) -> Points:
    """Return points of which those named "one" all lie on each other, but for the last."""
    labels = ["one", "two", "a third, with a name for one line"]
    made = [Series(name=f"s{i}", x=[1, i, 2], y=[1, -i, i], labels=labels) for i in range(series - 1)]
    return Points(title="p", series=[*made, Series(name="last", x=[9, 1, 2], y=[3, 2, 1], labels=labels)], **options)


def axes_of(panel: Points) -> tuple[list[Any], list[Any]]:
    """Return the frames of *panel*, drawn, and what stands for its series in a legend."""
    frames = add_frames(Drawing(figsize=(5, 6)), panel, (0.7, 0.5, 4, 5))
    return frames, draw_points(panel, frames)


def test_each_series_of_points_has_a_look_of_its_own_without_colour_and_with_it() -> None:
    few, many = (axes_of(scattered(number))[1] for number in (7, 30))
    assert len({each.get_marker() for each in few}) == 7
    assert len({(each.get_marker(), each.get_markeredgecolor()) for each in many}) == 30


def test_a_name_that_recurs_gets_a_frame_instead_of_words_at_each_point() -> None:
    panel = scattered(4, frames=True, x_label="across")
    frames, _ = axes_of(panel)
    assert [each.get_title(loc="left") for each in frames] == ["one", "two", "a third, with a name for one line"]
    assert len({(each.get_xlim(), each.get_ylim()) for each in frames}) == 1
    assert draw(panel, "n", png=False).svg.count(">one<") == 1
    assert draw(panel.model_copy(update={"frames": False}), "n", png=False).svg.count(">one<") == 4


def test_points_that_coincide_are_drawn_around_each_other() -> None:
    frame = axes_of(scattered(4, frames=True))[0][0]
    sizes = [line.get_markersize() for line in frame.lines if line.get_xdata().size]
    assert sizes[0] > sizes[1] > sizes[2] == sizes[3]
    below = [line.get_zorder() for line in frame.lines if line.get_xdata().size]
    assert below[0] < below[1] < below[2]
    cloud = Points(title="p", series=[Series(name=name, x=[1, 1], y=[2, 2]) for name in "ab"])
    assert len({line.get_markersize() for line in axes_of(cloud)[0][0].lines}) == 1


def test_words_beside_points_stay_in_the_figure() -> None:
    series = Series(name="s", x=[0, 0.5, 1], y=[0, 1, 2], labels=["a name of some length"] * 3)
    frames, _ = axes_of(Points(title="p", series=[series]))
    assert len(frames[0].texts) == 3
    for text in frames[0].texts:
        left, right = text.get_window_extent().intervalx
        assert left >= 0 and right <= frames[0].figure.bbox.x1


def test_frames_need_a_label_for_every_point() -> None:
    with pytest.raises(ValidationError, match="a label for every point"):
        Points(title="p", series=[Series(name="s", y=[1, 2])], frames=True)


@pytest.fixture(scope="module")
def looked_at(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> View:
    return look_at(run_folder / "report.html", 390, tmp_path_factory.mktemp("browser"))


@pytest.mark.e2e
def test_a_browser_finds_the_whole_page(looked_at: View, run_folder: Path) -> None:
    seen, sent = check_page(looked_at.html), check_page((run_folder / "report.html").read_text())
    for tag in ("img", "svg", "table", "section", "h2", "h3", "li", "path", "text"):
        assert seen.tags[tag] == sent.tags[tag] > 0, tag


@pytest.mark.e2e
def test_a_browser_has_nothing_to_complain_about(looked_at: View) -> None:
    check_view(looked_at, 390)


# the page of a comparison


def compared(cases: list[str], defenses: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return results and timings of a comparison in which every other defense does nothing, and cells fail at times.

    The points of those that do nothing lie on each other, and on that of no defense.
    """
    cells: list[dict[str, Any]] = []
    timed = []
    names = [(case, defense, seed) for case in cases for defense in defenses for seed in (0, 1)]
    for number, (case, defense, seed) in enumerate(names):
        keys = {"case": case, "defense": defense, "seed": seed}
        before = {"acc": 0.99, "asr": 1.0, "ra": 0.0}
        after = {"acc": 0.8 + 0.01 * (number % 20), "asr": 0.03 * (number % 30), "ra": 0.5}
        detection = {"tpr": 0.5, "fpr": 0.01 * (number % 7), "auroc": 0.875}
        left = before if defenses.index(defense) % 2 else after
        metrics = {"before": before, "after": left, "der": 0.5, "detection": detection}
        failed = number % 11 == 10
        reason = f"RuntimeError: {defense}" if failed else ""
        state = {"state": "failed" if failed else "done", "reason": reason, "metrics": None if failed else metrics}
        cells.append({**keys, "folder": "cells/x", **state})
        timed.append({**keys, "seconds": 2.0 ** (number % 12), "environment": {"device": "cpu"}})
    spec = {"cases": cases, "defenses": defenses, "seeds": [0, 1], "retrain": None}
    results = {"compare": spec, "identity": "f00d", "cells": cells}
    return {**results, "table": summarise(results)}, {"cells": timed}


SCRIPT = "<script>alert(1)</script>"
COMPARED = {
    "plain": (["badnets", "blended", "trojan", "sig", "wanet"], ["d3", *(f"defense_{i} (demo)" for i in range(5))]),
    "hostile": ([HOSTILE, SCRIPT], [TAG, SCRIPT, f"{SCRIPT}{'x' * 60}", f'" onload="alert(1)" x="{HOSTILE}']),
}


@pytest.fixture(scope="module", params=COMPARED)
def comparison(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the page of a comparison."""
    folder = tmp_path_factory.mktemp(request.param)
    write_compare_page(folder, *compared(*COMPARED[request.param]))
    return folder


def test_the_page_of_a_comparison_shows_every_name_as_text(comparison: Path) -> None:
    html = (comparison / "compare.html").read_text()
    page = check_page(html)
    text = " ".join(page.text)
    cases, defenses = COMPARED[comparison.name.rstrip("0123456789")]
    assert page.tags["svg"] == 2 and page.tags["table"] == len(cases) and page.tags["img"] == 0
    for name in (*cases, *defenses):
        assert text.count(escape_control(name)) > 1  # in the table and in what can be folded out, at least
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", html)


@pytest.mark.e2e
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_shows_a_whole_comparison_without_scrolling_sideways(
    comparison: Path, width: int, tmp_path: Path
) -> None:
    view = look_at(comparison / "compare.html", width, tmp_path)
    check_view(view, width)
    seen, sent = check_page(view.html), check_page((comparison / "compare.html").read_text())
    for tag in ("svg", "table", "section", "h2", "h3", "li", "th", "td", "path", "text"):
        assert seen.tags[tag] == sent.tags[tag] > 0, tag
    assert view.seen["leaving"] == [] and view.seen["touching"] == []

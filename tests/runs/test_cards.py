"""Result cards: faithful to what they quote, and made from finished runs alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from elixir_plugin.cli.app import program
from elixir_plugin.defense import get_defense
from elixir_plugin.errors import InputError, RunError, SettingsError
from elixir_plugin.runs.cards import (
    BUILT_IN,
    Measured,
    Reported,
    ResultCard,
    card_from_runs,
    card_lines_of,
    load_cards,
    save_card,
)
from elixir_plugin.runs.report_data import versions
from elixir_plugin.testing.defenses import check_settings

ROOT = Path(__file__).resolve().parents[2]
LEAST: dict[str, Any] = {
    "defense": "d3",
    "case": "digits",
    "seeds": [0],
    "device": "cpu",
    "measured": {"acc": {"value": 0.9}},
    "source": "a test",
}


def test_cards_are_checked_settings() -> None:
    check_settings(ResultCard, ResultCard.build(LEAST))


@pytest.mark.parametrize("card", load_cards(), ids=lambda card: card.name)
def test_built_in_cards_name_a_defense_and_settings_that_exist(card: ResultCard) -> None:
    get_defense(card.defense)(card.settings, preset=card.preset)
    assert (BUILT_IN / f"{card.name}.json").is_file()


@pytest.mark.parametrize("card", load_cards(), ids=lambda card: card.name)
def test_built_in_cards_repeat_what_their_page_states(card: ResultCard) -> None:
    page = (ROOT / card.source).read_text(encoding="utf-8")
    for metric, number in card.measured.items():
        for share in (number.value, number.low, number.high):
            if share is None or (metric == "tpr" and share == 0):  # the page says "missed"
                continue
            texts = {f"{100 * share:.1f}", f"{100 * share:.0f}", f"{share:.3f}"}
            assert any(text in page for text in texts), f"{metric} {share} is not in {card.source}"


def run_folder(path: Path, seed: int, acc: float, **changes: Any) -> Path:
    """Write, as far as cards go, the two files of a finished run that a card is made from."""
    run = {
        "defense": "d3",
        "preset": None,
        "settings": {"epochs": 3},
        "retrain": None,
        "source": {"adapter": "arrays", "path": "/secret/place/case.npz", "options": {}},
        "seed": seed,
        "out": str(path),
    }
    run |= changes
    report = {
        "elixir_plugin": "0.1.0",
        "run": run,
        "identity": f"{seed:012d}",
        "metrics": {
            "before": {"acc": 0.9, "asr": 1.0, "ra": None},
            "after": {"acc": acc, "asr": 0.0, "ra": None},
            "der": None,
            "detection": None,
        },
        "environment": {"device": "cpu", "torch": "2.4.0"},
        "defense": {"name": "d3", "kind": "repair"},
        "outcome": {},
    }
    path.mkdir(parents=True)
    (path / "run.yaml").write_text(yaml.safe_dump(run))
    (path / "report.json").write_text(json.dumps(report))
    return path


def test_a_card_of_two_seeds_holds_mean_range_and_deviation(tmp_path: Path) -> None:
    card = card_from_runs([run_folder(tmp_path / "a", 0, 0.8), run_folder(tmp_path / "b", 1, 0.9)])
    acc = card.measured["acc"]
    assert (acc.value, acc.statistic, acc.low, acc.high) == (pytest.approx(0.85), "mean", 0.8, 0.9)
    assert acc.std == pytest.approx(0.0707107, abs=1e-6)
    assert card.seeds == (0, 1) and card.before == {"acc": 0.9, "asr": 1.0}
    assert card.versions == {"elixir_plugin": "0.1.0", "torch": "2.4.0"}
    assert "secret" not in json.dumps(card.dump())  # a card travels; the place of the data does not


def test_a_card_survives_the_disk_and_is_not_overwritten_by_another(tmp_path: Path) -> None:
    card = card_from_runs([run_folder(tmp_path / "a", 0, 0.8)], reported=[Reported(source="x", numbers={"acc": 0.7})])
    file = save_card(card, tmp_path / "cards")
    assert load_cards(tmp_path / "cards") == [card] and save_card(card, tmp_path / "cards") == file
    with pytest.raises(RunError, match="another card"):
        save_card(card.model_copy(update={"seeds": (5,)}), tmp_path / "cards")


@pytest.mark.parametrize(
    ("second", "says"),
    [({"settings": {"epochs": 4}}, "seed alone"), ({"seed": 0}, "one seed"), ({"defense": "eclipse"}, "seed alone")],
)
def test_runs_that_do_not_belong_together_are_refused(tmp_path: Path, second: dict[str, Any], says: str) -> None:
    folders = [run_folder(tmp_path / "a", 0, 0.8), run_folder(tmp_path / "b", **{"seed": 1, "acc": 0.9, **second})]
    with pytest.raises(SettingsError, match=says):
        card_from_runs(folders)


def test_a_folder_without_a_finished_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no finished run"):
        card_from_runs([tmp_path])
    (tmp_path / "run.yaml").write_text("{}")
    (tmp_path / "report.json").write_text("[]")
    with pytest.raises(InputError, match="not the report"):
        card_from_runs([tmp_path])


@pytest.mark.parametrize("content", ["[]", "{", '{"defense": "d3"}'])
def test_a_file_that_is_no_card_is_refused_and_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "bad.json").write_text(content)
    with pytest.raises((InputError, SettingsError)) as refusal:
        load_cards(tmp_path)
    assert "bad.json" in str(refusal.value)


def test_a_missing_range_is_not_invented() -> None:
    card = ResultCard.build({**LEAST, "measured": {"acc": Measured(value=0.5).dump()}})
    assert [line.split() for line in card_lines_of(card)][3] == ["ACC", "–", "50.0", "–"]


def test_versions_are_shown_or_said_to_be_missing(tmp_path: Path) -> None:
    assert "  versions: not recorded" in card_lines_of(ResultCard.build(LEAST))
    lines = list(card_lines_of(card_from_runs([run_folder(tmp_path / "a", 0, 0.8)])))
    assert "  versions: elixir_plugin 0.1.0, torch 2.4.0" in lines
    absent = ResultCard.build({**LEAST, "versions": {"torch": "2.4.0", "transformers": None}})
    assert "  versions: torch 2.4.0" in card_lines_of(absent)


def test_a_new_card_takes_over_every_version_of_the_report(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "a", 0, 0.8)
    report = json.loads((folder / "report.json").read_text())
    report["environment"] = {
        "device": "cpu",
        "python": "3.11.2",
        **versions(),
    }  # as elixir_plugin.runs.report_data writes it
    (folder / "report.json").write_text(json.dumps(report))
    assert card_from_runs([folder]).versions == {"elixir_plugin": "0.1.0", "python": "3.11.2", **versions()}


def test_what_others_started_from_is_shown_with_their_number() -> None:
    other = {"source": "them", "setting": "another size", "before": {"acc": 0.24}, "numbers": {"acc": 0.85}}
    lines = card_lines_of(ResultCard.build({**LEAST, "reported": [other]}))
    assert "  reported by them (undefended: ACC 24.0): another size" in lines


@pytest.mark.parametrize(
    "card", [card for card in load_cards() if card.defense == "eclipse"], ids=lambda card: card.name
)
def test_cards_of_eclipse_hold_the_numbers_of_the_paper(card: ResultCard) -> None:
    (paper,) = card.reported
    assert "arXiv 2406.15093, table" in paper.source
    assert paper.before["acc"] > 0 and paper.numbers["acc"] > 0
    assert card.source in " ".join(card.notes)  # where the controls are


def test_the_command_prints_reported_beside_measured_and_escapes(tmp_path: Path) -> None:
    evil = {**LEAST, "case": "\x1b[2Jdigits", "reported": [{"source": "\x1b[31mthem", "numbers": {"acc": 0.123}}]}
    save_card(ResultCard.build(evil), tmp_path)
    done = CliRunner().invoke(program, ["cards", "--cards", str(tmp_path), "--defense", "d3"])
    assert done.exit_code == 0 and "\x1b" not in done.output
    assert "\\x1b[2Jdigits" in done.output and "12.3" in done.output and "48.2 (47.5–49.6)" in done.output


def test_the_command_adds_a_card(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run", 0, 0.8)
    arguments = ["cards", "add", str(folder), "--to", str(tmp_path / "cards"), "-r", "asr=0.02", "--by", "table 2"]
    done = CliRunner().invoke(program, arguments)
    assert done.exit_code == 0, done.output
    (card,) = load_cards(tmp_path / "cards")
    assert card.reported[0].numbers == {"asr": 0.02}
    assert CliRunner().invoke(program, [*arguments[:-2]]).exit_code == 2  # a number nobody stands for

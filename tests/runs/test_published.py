"""Published numbers: read as they are stated, and beside ours only with what differs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from elixir_plugin.cli.app import program
from elixir_plugin.errors import InputError, SettingsError
from elixir_plugin.plugins import plugins
from elixir_plugin.runs.cards import ResultCard, load_cards
from elixir_plugin.runs.conditions import Conditions
from elixir_plugin.runs.published import (
    PUBLISHED,
    Claim,
    PublishedTable,
    claim_lines,
    load_published,
    nearest_claims,
    published_lines,
    relation,
)

SETTING: dict[str, Any] = {"data": "CIFAR-10", "images": 50_000, "model": "ResNet-18", "rate": 0.1, "reserved": 2500}
TABLE: dict[str, Any] = {
    "source": "arXiv 1",
    "table": "table 1",
    "read": "at the source",
    "setting": SETTING,
    "rows": [
        {"attack": "badnets", "defense": "d3", "numbers": {"acc": 0.9, "asr": 0.01}, "before": {"asr": 1.0}},
        {"attack": "badnets", "defense": "d3", "numbers": {"asr": 0.02}, "setting": {"reserved": 250}},
        {"attack": "wanet", "defense": "d3", "numbers": {"acc": 0.93}, "doubtful": True},
    ],
}
CARD: dict[str, Any] = {
    "defense": "d3",
    "case": "x",
    "attack": "badnets",
    "seeds": [0],
    "device": "cpu",
    "measured": {"acc": {"value": 0.8}, "tpr": {"value": 1.0}},
    "source": "a test",
}


def claims(**more: Any) -> list[Claim]:
    table = PublishedTable.build({**TABLE, **more})
    return [Claim(table, row) for row in table.rows]


def card(setting: dict[str, Any] | None = None, **more: Any) -> ResultCard:
    return ResultCard.build({**CARD, "setting": SETTING if setting is None else setting, **more})


@pytest.mark.parametrize(
    ("own", "how", "told"),
    [
        ({}, "same setting", []),
        ({"images": 5000}, "smaller", ["5,000 of 50,000 images"]),
        ({"images": 60_000}, "another setting", ["60,000 images, not 50,000"]),
        ({"images": None}, "another setting", ["images: not recorded, not 50,000"]),
        ({"model": "fast_convnet"}, "another setting", ["fast_convnet, not ResNet-18"]),
        ({"model": None}, "another setting", ["network not recorded, not ResNet-18"]),
        ({"rate": 0.01}, "another setting", ["poison rate: 1 %, not 10 %"]),
        ({"rate": None}, "another setting", ["poison rate: not recorded, not 10 %"]),
        ({"reserved": None}, "another setting", ["reserved clean images: not recorded, not 2,500"]),
        ({"data": "digits", "rate": 0.0}, "another setting", ["digits, not CIFAR-10", "poison rate: 0 %, not 10 %"]),
    ],
)  # fmt: skip
def test_how_settings_are_to_each_other(own: dict[str, Any], how: str, told: list[str]) -> None:
    assert relation(Conditions.build({**SETTING, **own}), Conditions.build(SETTING)) == (how, told)


def test_what_a_source_does_not_state_is_no_difference_but_its_words_are() -> None:
    assert relation(Conditions.build(SETTING), Conditions(data="CIFAR-10")) == ("same setting", [])
    assert relation(Conditions(), Conditions(words="quality 10")) == ("another setting", ["there: quality 10"])


def test_a_card_stands_beside_the_row_of_the_nearest_setting() -> None:
    ((claim, how, differences),) = nearest_claims(card({**SETTING, "reserved": 250, "images": 5000}), claims())
    assert claim.row.numbers == {"asr": 0.02} and how == "smaller" and differences == ["5,000 of 50,000 images"]
    assert list(published_lines(card(), claims())) == [
        "  published: ACC 90.0, ASR 1.0 (arXiv 1, table 1)",
        "    same setting",
    ]


@pytest.mark.parametrize(
    "other",
    [
        {"attack": None},
        {"attack": "blended"},
        {"defense": "eclipse"},
        {"reported": [{"source": "the paper, arXiv 1, table 1", "numbers": {"acc": 0.9}}]},
    ],
)
def test_nothing_is_set_beside_another_attack_or_defense_or_twice(other: dict[str, Any]) -> None:
    assert nearest_claims(card(**other), claims()) == []


def test_a_claim_shows_the_number_here_that_is_nearest_in_setting_then_to_the_defaults() -> None:
    far = card({**SETTING, "model": None, "data": "digits"}, measured={"acc": {"value": 0.1}})
    near = card({**SETTING, "images": 5000}, measured={"acc": {"value": 0.2}}, settings={"lam": 1})
    default = card({**SETTING, "images": 5000}, measured={"acc": {"value": 0.3}})
    lines = list(claim_lines(claims(read="second-hand", copy="notes", doubts="a sum is wrong"), [far, near, default]))
    assert lines == [
        "",
        "arXiv 1: table 1",
        "  CIFAR-10, 50,000 images, ResNet-18, poison rate 10 %, 2,500 reserved; read second-hand: notes",
        "  doubtful: a sum is wrong",
        "  d3 on badnets: ACC 90.0, ASR 1.0; undefended ASR 100.0",
        "    here: ACC 30.0 with default settings; smaller: 5,000 of 50,000 images "
        "(and 2 more in `elixir-plugin cards`)",
        "  d3 on badnets, 250 reserved: ASR 2.0",
        "    here: not yet run",
        "  d3 on wanet: ACC 93.0 (doubtful)",
        "    here: not yet run",
    ]


def test_built_in_tables_say_where_they_were_read() -> None:
    files = [PublishedTable.build(json.loads(file.read_text())) for file in PUBLISHED.glob("*.json")]
    assert len(files) >= 6
    for table in files:
        assert (table.read == "second-hand") == bool(table.copy_of)
        assert bool(table.doubts) == any(row.doubtful for row in table.rows)
    (found,) = [claim for claim in load_published() if (claim.row.attack, claim.row.defense) == ("ar", "eclipse")]
    assert found.row.numbers == {"acc": 0.8732} and found.row.before == {"acc": 0.1146}


def test_averages_that_were_printed_tell_which_cells_are_doubtful() -> None:
    rows = [claim.row for claim in load_published() if "5 % of the training set" in claim.table.table]
    means = {
        name: sum(row.numbers["asr"] for row in rows if row.defense == name) / 7
        for name in ("d3", "finetune", "ft_sam", "sau")
    }
    printed = {"d3": 0.0046, "finetune": 0.3886, "ft_sam": 0.0391, "sau": 0.0104}
    wrong = {name for name, mean in means.items() if abs(mean - printed[name]) > 6e-5}
    assert wrong == {row.defense for row in rows if row.doubtful} == {"d3", "sau"}


def test_cards_that_are_built_in_name_an_attack_of_the_testbed() -> None:
    for each in load_cards():
        assert each.attack in {*plugins().offers()["poison"], "clean"} and each.setting is not None


@pytest.mark.parametrize(
    "content", ["[]", "{}", json.dumps({**TABLE, "rows": []}), json.dumps({**TABLE, "read": "heard"}), "{"]
)
def test_what_is_no_table_is_one_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises((InputError, SettingsError), match=r"a\.json"):
        load_published(tmp_path)
    with pytest.raises(InputError, match="folder of published numbers not found"):
        load_published(tmp_path / "none")


def test_the_command() -> None:
    result = CliRunner().invoke(program, ["cards", "--defense", "eclipse", "published"], catch_exceptions=False)
    assert "eclipse on ar: ACC 87.3; undefended ACC 11.5" in result.output and "badnets" not in result.output
    result = CliRunner().invoke(program, ["cards", "--defense", "eclipse", "--json", "published"])
    assert {row["rows"][0]["attack"] for row in json.loads(result.output)} == {"ar", "lsp", "clean"}
    result = CliRunner().invoke(program, ["cards", "--defense", "none", "published"])
    assert result.output == "no published numbers of none\n"

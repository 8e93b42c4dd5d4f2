"""The leaderboard: one page of its own, whatever stands in the cards, and the numbers of the cards."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from elixir_plugin.cli.app import program
from elixir_plugin.core.panels import Points
from elixir_plugin.runs.cards import ResultCard, load_cards
from elixir_plugin.runs.leaderboard import PAGE, panels, write_leaderboard
from elixir_plugin.runs.published import load_published

SETTING: dict[str, Any] = {"data": "CIFAR-10", "images": 5000, "model": "fast_convnet", "rate": 0.1}


def card(defense: str = "d3", acc: float = 0.5, asr: float | None = 0.1, **more: Any) -> ResultCard:
    measured = {"acc": {"value": acc}} | ({} if asr is None else {"asr": {"value": asr}})
    facts = {"case": "x", "attack": "badnets", "setting": SETTING, "seeds": [0], "device": "cpu", "source": "a test"}
    return ResultCard.build({"defense": defense, "measured": measured, **facts, **more})


def html_of(folder: Path, *cards: ResultCard) -> str:
    page, *_ = write_leaderboard(folder, cards, load_published())
    assert page == folder / PAGE
    return page.read_text(encoding="utf-8")


def body_rows(html: str) -> list[list[str]]:
    """Return the text of the cells of the table."""
    body = html.split("<tbody>")[1].split("</tbody>", maxsplit=1)[0]
    rows = re.findall(r"<tr.*?>(.*?)</tr>", body, re.DOTALL)
    cells = [re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row, re.DOTALL) for row in rows]
    return [[" ".join(re.sub(r"<[^>]+>", " ", cell).split()) for cell in row] for row in cells]


def test_every_card_is_a_row_with_its_numbers(tmp_path: Path) -> None:
    spread = {"acc": {"value": 0.5, "statistic": "mean", "low": 0.4, "high": 0.6}}
    html = html_of(
        tmp_path,
        card("jpeg", 0.7, None, details={"cpu_seconds": 75}),
        card("d3", before={"acc": 0.8, "asr": 0.99}),
        card("d3", measured=spread, settings={"lam": 1, "recipe": {"epochs": 3}}, attack="wanet", setting=None),
    )
    known = ["badnets 10.0 %", "CIFAR-10", "5,000", "fast_convnet"]
    assert [row[:-1] for row in body_rows(html)] == [
        ["d3 default settings", *known, "50.0 from 80.0", "10.0 from 99.0", "–", "1"],
        ["jpeg default settings", *known, "70.0", "–", "1 min 15 s", "1"],
        ["d3 lam=1, recipe={…}", "wanet", "not recorded", "–", "not recorded", "50.0 40.0–60.0", "–", "–", "1"],
    ]
    assert 'data-value="0.5"' in html and "3 results of 2 defenses and controls on 2 attacks" in html


def test_one_script_runs_and_nothing_is_loaded(tmp_path: Path) -> None:
    evil = '<script>alert(1)</script><img src=x onerror="alert(2)">\u202e'
    html = html_of(tmp_path, card(evil, case=evil, device=evil, notes=[evil], settings={"a": evil}, source=evil))
    (code,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    assert f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in html
    assert "alert" not in code and "<img src=x" not in html and "\u202e" not in html
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", html)


def test_trade_offs_have_a_frame_for_what_can_be_compared() -> None:
    cards = [card(), card("jpeg", 0.6, 0.9, before={"acc": 0.7, "asr": 1.0}), card("d3", attack="wanet")]
    (figure,) = panels(cards)
    assert isinstance(figure, Points)
    assert [(each.name, each.x, each.y, each.labels) for each in figure.series] == [
        ("d3", [10.0], [50.0], ["badnets 10 %, 5,000 images"]),
        ("jpeg", [90.0], [60.0], ["badnets 10 %, 5,000 images"]),
        ("no defense", [100.0], [70.0], ["badnets 10 %, 5,000 images"]),
    ]
    assert panels([card()]) == [] and panels([card(asr=None), card("jpeg", asr=None)]) == []


def test_the_command_writes_the_built_in_cards(tmp_path: Path) -> None:
    result = CliRunner().invoke(program, ["cards", "--html", str(tmp_path / "site")], catch_exceptions=False)
    assert result.output == f"page: {tmp_path / 'site' / PAGE}\n"
    html = (tmp_path / "site" / PAGE).read_text(encoding="utf-8")
    assert len(body_rows(html)) == len(load_cards()) and "27 of them do not record the versions" in html
    assert html.count("<details><summary>arXiv") == 3


@pytest.mark.parametrize("chosen", ["eclipse", "none at all"])
def test_the_page_of_one_defense(tmp_path: Path, chosen: str) -> None:
    result = CliRunner().invoke(
        program, ["cards", "--defense", chosen, "--html", str(tmp_path)], catch_exceptions=False
    )
    rows = body_rows((tmp_path / PAGE).read_text(encoding="utf-8"))
    assert result.exit_code == 0 and len(rows) == sum(each.defense == chosen for each in load_cards())

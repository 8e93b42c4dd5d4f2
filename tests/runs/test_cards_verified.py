"""A card run again: what holds, what does not, and what cannot be told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from elixir_plugin.adapter import Source
from elixir_plugin.cli.app import program
from elixir_plugin.errors import InputError, SettingsError
from elixir_plugin.runs.cards import ResultCard, _again, card_from_runs, load_cards, save_card
from elixir_plugin.runs.run import run_defense
from elixir_plugin.runs.spec import RunSpec
from elixir_plugin.runs.verify import verify_card

DIGITS = Source(adapter="testbed", path="badnets", options={"size": 8, "recipe": {"epochs": 3}})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> ResultCard:
    folder = tmp_path_factory.mktemp("card")
    runs = []
    for seed in (0, 1):
        out = str(folder / str(seed))
        runs.append(run_defense(RunSpec(defense="random_head", source=DIGITS, seed=seed, out=out)).folder)
    return card_from_runs(runs)


def changed(card: ResultCard, **more: Any) -> ResultCard:
    return ResultCard.build({**card.dump(), **more})


def test_a_card_that_was_not_touched_holds_to_the_last_digit(made: ResultCard, tmp_path: Path) -> None:
    checks = verify_card(made, tmp_path)
    assert {each.metric for each in checks} == {"acc", "asr", "ra", "der"} and all(each.holds for each in checks)
    assert all(each.stated == each.found for each in checks)
    assert [path.name for path in sorted(tmp_path.iterdir())] == [f"{made.name}-0", f"{made.name}-1"]


def test_a_number_that_is_not_met_is_told_and_ends_with_code_1(made: ResultCard, tmp_path: Path) -> None:
    measured = made.dump()["measured"]
    measured["acc"] |= {"value": measured["acc"]["value"] - 0.3, "std": 0.0}
    measured["tpr"] = {"value": 1.0}
    file = save_card(changed(made, measured=measured), tmp_path)
    result = CliRunner().invoke(program, ["cards", "verify", str(file), "--out", str(tmp_path / "runs")])
    lines = {line.split()[0]: line for line in result.output.splitlines()[1:]}
    assert result.exit_code == 1
    assert lines["ACC"].endswith("does not hold") and lines["ASR"].endswith("holds")
    assert "again      –" in lines["TPR"] and lines["TPR"].endswith("does not hold")


def test_two_standard_errors_or_a_point_may_part_them(made: ResultCard, tmp_path: Path) -> None:
    measured = {"acc": {**made.dump()["measured"]["acc"], "std": 0.2}}
    (wide,) = verify_card(changed(made, measured=measured), tmp_path)
    assert wide.allowed == pytest.approx(2 * ((0.2**2 + (made.measured["acc"].std or 0) ** 2) / 2) ** 0.5)
    measured["acc"]["std"] = None
    (single,) = verify_card(changed(made, measured=measured), tmp_path)
    assert single.allowed == pytest.approx(max(0.01, 2 * ((made.measured["acc"].std or 0) ** 2 / 2) ** 0.5))


@pytest.mark.parametrize("card", load_cards()[:3], ids=lambda card: card.name)
def test_cards_without_a_run_say_so(card: ResultCard, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="does not say what to run"):
        verify_card(card, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def arrays_in(folder: Path, count: int) -> Path:
    folder.mkdir()
    labels = np.arange(count) % 2
    images = np.full((count, 8, 8, 3), 40, np.uint8) + (90 * labels[:, None, None, None]).astype(np.uint8)
    np.savez(folder / "case.npz", x_train=images, y_train=labels, x_test=images[:4], y_test=labels[:4])
    return folder / "case.npz"


def test_data_on_disk_are_named_again_and_have_to_be_as_many(tmp_path: Path) -> None:
    source = Source(adapter="arrays", path=str(arrays_in(tmp_path / "own", 32)))
    retrain = {"epochs": 1, "architecture": "small_resnet", "augmentation": {"flip": False}}
    spec = RunSpec(defense="random_drop", source=source, retrain=retrain, out=str(tmp_path / "run"), write_back=False)
    card = card_from_runs([run_defense(spec).folder])
    assert card.run is not None and card.run["source"]["path"] == "case.npz"
    file = save_card(card, tmp_path)
    with pytest.raises(SettingsError, match="does not say where its data lie"):
        verify_card(card, tmp_path / "again")
    with pytest.raises(InputError, match="not the data of the card"):
        verify_card(
            card, tmp_path / "other runs", Source(adapter="arrays", path=str(arrays_in(tmp_path / "other", 24)))
        )
    options = ["--from", f"arrays:{arrays_in(tmp_path / 'copy', 32)}", "--out", str(tmp_path / "runs")]
    result = CliRunner().invoke(program, ["cards", "verify", str(file), *options], catch_exceptions=False)
    assert result.exit_code == 0 and result.output.splitlines()[0] == "random_drop on arrays:case.npz, seeds 0"


@pytest.mark.parametrize("run", [{}, {"defense": "d3"}, {"defense": "d3", "source": {"adapter": "testbed"}}])
def test_a_damaged_run_is_one_error(made: ResultCard, tmp_path: Path, run: dict[str, Any]) -> None:
    file = tmp_path / "card.json"
    file.write_text(json.dumps({**made.dump(), "run": run}))
    result = CliRunner().invoke(program, ["cards", "verify", str(file), "--out", str(tmp_path / "runs")])
    assert result.exit_code not in (0, 1) or isinstance(result.exception, SettingsError)
    assert not (tmp_path / "runs").exists()


def test_a_card_names_no_place_of_the_machine(made: ResultCard) -> None:
    run = {"source": {"adapter": "testbed", "path": "badnets", "options": {"base": "arrays:/home/me/set.npz"}}}
    run |= {"settings": {"denoiser": "/home/me/denoiser", "list": ["/a/b", "c/d"], "lam": "auto", "x": None}, "seed": 3}
    assert _again(run) == {
        "source": {"adapter": "testbed", "path": "badnets", "options": {"base": "arrays:set.npz"}},
        "settings": {"denoiser": "denoiser", "list": ["b", "c/d"], "lam": "auto", "x": None},
    }
    assert made.run == _again(made.run or {})

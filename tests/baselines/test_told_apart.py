"""Baselines run where they are named, and nowhere else; lists show them apart from the defenses."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from elixir_plugin.adapters.backdoorbench.checkout import checkout_files

import elixir_plugin
from elixir_plugin import Case, Defense, Outcome, get_defense, register_into
from elixir_plugin.cli.app import program
from elixir_plugin.core.context import Context
from elixir_plugin.errors import SettingsError
from elixir_plugin.hookspecs import Entry, hookimpl
from elixir_plugin.plugins import Plugins, plugins
from elixir_plugin.runs.compare.run import run_compare
from elixir_plugin.runs.compare.spec import CompareSpec
from elixir_plugin.testing import tiny_case

FIVE = {"confusion_training", "d3", "dataelixir", "eclipse", "image_variations"}
OWN = FIVE | {"pipeline"}
TEN = {
    *("do_nothing", "drop_class", "finetune", "gaussian_noise", "grayscale", "jpeg", "random_crop", "random_drop"),
    *("random_head", "train_on_clean_only"),
}
SOURCE = ("--from", "testbed:badnets", "-o", "model=false", "-o", "size=8")


def said(*arguments: str) -> str:
    done = CliRunner().invoke(program, list(arguments), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def built_in(names: Any) -> set[str]:
    offers = plugins().offers()["defense"]
    return {name for name in names if offers[name].origin.startswith("elixir_plugin:")}


def test_what_is_meant_where_none_is_named() -> None:
    assert built_in(plugins().defenses()) == OWN and built_in(plugins().baselines()) == TEN


@pytest.mark.parametrize("name", sorted(TEN))
def test_each_is_found_by_name_and_is_what_its_entry_says(name: str) -> None:
    entry, cls = plugins().offers()["defense"][name].entry, get_defense(name)
    assert (cls.name, cls.kind) == (name, entry.kind) and cls.card.limits and entry.baseline


def test_the_list_has_two_sections() -> None:
    defenses, _, rest = said("list").partition("baselines, ")
    baselines = rest.partition("adapters:")[0]
    assert {line.split()[0] for line in defenses.splitlines()[1:]} >= FIVE
    assert {line.split()[0] for line in baselines.splitlines()[1:]} >= TEN and "jpeg" not in defenses


@pytest.mark.parametrize(("name", "what"), [("jpeg", "baseline"), ("random_head", "baseline"), ("d3", "defense")])
def test_show_says_which(name: str, what: str) -> None:
    assert said("show", name).startswith(f"{name} ({what}, from elixir_plugin:builtin)")


def test_an_unknown_name_is_told_both() -> None:
    with pytest.raises(SettingsError) as caught:
        get_defense("jpg")
    assert caught.value.hint == "did you mean 'jpeg'?"
    own, _, others = str(caught.value.allowed).partition("; baselines: ")
    assert set(own.split(", ")) >= FIVE and set(others.split(", ")) >= TEN


def test_a_baseline_runs_by_name(tmp_path: Path, no_figures: None) -> None:
    text = said("run", "jpeg", *SOURCE, "--set", "quality=50", "--out", str(tmp_path / "run"))
    assert "jpeg on testbed:badnets" in text


def test_a_comparison_takes_them(tmp_path: Path, no_figures: None) -> None:
    spec = CompareSpec.build(
        {
            "cases": [{"source": "testbed:badnets", "options": {"model": False, "size": 8}}],
            "defenses": ["random_drop", {"defense": "drop_class", "settings": {"label": 0}}],
            "retrain": None,
        }
    )
    found = run_compare(spec, tmp_path / "compare")
    assert [(cell["defense"], cell["state"]) for cell in found.results["cells"]] == [
        ("random_drop", "done"),
        ("drop_class", "done"),
    ]


def test_python_verbs_take_them() -> None:
    case = tiny_case()
    assert len(elixir_plugin.purify(case.train, defense="jpeg").sanitised()) == 96
    assert elixir_plugin.detect(case.train, defense="random_drop").flagged is not None
    assert elixir_plugin.repair(case.model, case.clean, defense="finetune", epochs=1).model is not None
    with pytest.raises(SettingsError, match="does not repair") as caught:
        elixir_plugin.repair(case.model, case.clean, defense="jpeg")
    assert caught.value.allowed == "d3; baselines: finetune, random_head"


# toolkits


def test_a_registry_gets_them_where_it_asks() -> None:
    assert not register_into({}).keys() & TEN
    assert built_in(register_into({}, baselines=True)) == OWN | TEN
    assert set(register_into({}, only=["jpeg", "d3"])) == {"jpeg", "d3"}
    assert built_in(register_into({}, kinds={"repair"}, baselines=True)) == {"d3", "finetune", "random_head"}


def test_a_checkout_gets_them_where_they_are_named(tmp_path: Path) -> None:
    from elixir_plugin.cli.toolkit import _chosen

    assert set(_chosen(())) == OWN and _chosen(("jpeg",)) == ["jpeg"]
    for place in ("attack", "config/defense", "defense", "utils"):
        (tmp_path / place).mkdir(parents=True)
    for place in ("defense/base.py", "utils/save_load_attack.py"):
        (tmp_path / place).write_text("")
    files = checkout_files(tmp_path, ["jpeg"]).files
    assert "defense/jpeg.py" in files and "quality:" in files["config/defense/jpeg/cifar10.yaml"]


def test_flags_of_backdoor_toolbox_accept_them_and_list_the_others() -> None:
    from elixir_plugin.adapters.backdoor_toolbox.launcher import Choices, ours

    assert built_in(ours("cleanser", baselines=False)) == {"confusion_training", "dataelixir", "eclipse"}
    parser = argparse.ArgumentParser()
    choices = Choices(["SS", *ours("cleanser", baselines=False)], ours("cleanser"))
    parser.add_argument("-cleanser", choices=choices)
    assert parser.parse_args(["-cleanser", "jpeg"]).cleanser == "jpeg" and "jpeg" not in parser.format_help()
    assert "finetune" not in choices and "finetune" in ours("defense") and "eclipse" in choices


def test_backdoorbox_has_their_classes_and_installs_them_where_it_asks() -> None:
    from types import SimpleNamespace

    from elixir_plugin.adapters.backdoorbox import adapter

    core = SimpleNamespace(defenses=SimpleNamespace(), __name__="core")
    assert "Jpeg" not in adapter.install(core) and "Jpeg" not in dir(adapter)
    assert adapter.Jpeg.defense is get_defense("jpeg")
    assert {"Jpeg", "RandomHead", "D3"} <= set(adapter.install(core, baselines=True)) and core.Jpeg is adapter.Jpeg


@pytest.mark.art
def test_art_has_their_classes() -> None:
    pytest.importorskip("art")
    from elixir_plugin.adapters.art import adapter

    assert adapter.JpegPreprocessor.defense is get_defense("jpeg") and "JpegPreprocessor" not in dir(adapter)
    assert adapter.art_defence("finetune").__name__ == "FinetuneTransformer"


@pytest.mark.parametrize(("arguments", "name"), [
    (["--attack", "badnet", "--defense", "jpeg"], "jpeg"), (["--defense=finetune", "x"], "finetune"), (["-h"], None),
])  # fmt: skip
def test_trojanvision_registers_the_one_that_is_named(arguments: list[str], name: str | None) -> None:
    from elixir_plugin.adapters.trojanvision.launcher import _defense_of

    assert _defense_of(arguments) == name


def test_baselines_of_others_are_told_apart_too() -> None:
    class Darken(Defense):
        name, kind, needs = "darken", "purify", frozenset({"train"})
        card = get_defense("do_nothing").card

        def defend(self, case: Case, context: Context) -> Outcome:
            return Outcome(train=case.train)

    class Mine:
        @hookimpl
        def elixir_defenses(self) -> list[Entry]:
            return [Entry("darken", Darken, "purify", baseline=True), Entry("plain", Darken, "purify")]

    loaded = Plugins([])
    loaded.register(Mine(), "mine")
    assert list(loaded.baselines()) == ["darken"] and list(loaded.defenses()) == ["plain"]
    assert loaded.get("defense", "darken") is Darken

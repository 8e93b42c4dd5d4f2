"""Files placed in a toolkit's checkout: never over anything, and gone without a trace."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from fake_records import snapshot

from elixir_plugin import get_adapter
from elixir_plugin.adapter import Placement
from elixir_plugin.cli.app import program
from elixir_plugin.defense import get_defense
from elixir_plugin.errors import InputError, RunError
from elixir_plugin.plugins import plugins
from elixir_plugin.runs import checkout as module
from elixir_plugin.runs.checkout import NOTE, inspect, place, placed_defenses, remove

BUILT_IN = [name for name, offer in plugins().offers()["defense"].items() if offer.origin.startswith("elixir_plugin:")]


def fake_bench(root: Path) -> Path:
    """A folder that looks like a BackdoorBench checkout, with none of its code."""
    for name in ("attack", "config/defense/ft", "defense", "record", "utils"):
        (root / name).mkdir(parents=True)
    for name in ("defense/base.py", "utils/save_load_attack.py", "config/defense/ft/cifar10.yaml"):
        (root / name).write_text("their own\n")
    return root


def fake_toolbox(root: Path) -> Path:
    (root / "utils").mkdir(parents=True)
    for name in ("cleanser.py", "test_model.py", "train_on_cleansed_set.py", "utils/supervisor.py"):
        (root / name).write_text("their own\n")
    return root


def states(changes: list[module.Change]) -> dict[str, str]:
    return {change.path: change.state for change in changes}


ONE = Placement("bench", {"defense/one.py": "1\n", "config/one/a.yaml": "a\n"}, ("one",))


@pytest.mark.parametrize(("toolkit", "make"), [("backdoorbench", fake_bench), ("backdoor_toolbox", fake_toolbox)])
def test_install_status_uninstall_by_command(tmp_path: Path, toolkit: str, make: object) -> None:
    root = make(tmp_path / "checkout")  # type: ignore[operator]
    before, folders = snapshot(root), sorted(root.rglob("*"))

    def say(*arguments: str) -> str:
        done = CliRunner().invoke(program, ["toolkit", *arguments, toolkit, str(root)])
        assert done.exit_code == 0, done.output
        return done.output

    assert "placed: " in say("install")
    assert "there already: " in say("install") and "placed: " not in say("install").replace("not placed", "")
    assert {line.partition(":")[0] for line in say("status").splitlines()} == {"in place"}
    assert {name: digest for name, digest in snapshot(root).items() if name in before} == before
    assert "removed: " in say("uninstall")
    assert snapshot(root) == before and sorted(root.rglob("*")) == folders
    done = CliRunner().invoke(program, ["toolkit", "status", toolkit, str(root)])
    assert done.exit_code == 1 and "nothing is installed here" in done.output


def test_bench_gets_a_script_and_five_configs_for_each_defense(tmp_path: Path) -> None:
    files = get_adapter("backdoorbench")().placement(fake_bench(tmp_path / "b"), BUILT_IN).files
    assert len(files) == 6 * len(BUILT_IN)
    for name in BUILT_IN:
        compile(files[f"defense/{name}.py"], name, "exec")
        for data in ("config", "cifar10", "cifar100", "gtsrb", "tiny"):
            content = yaml.safe_load(files[f"config/defense/{name}/{data}.yaml"])
            assert content["dataset"] == ("cifar10" if data == "config" else data)
            assert set(get_defense(name).Settings.model_fields) <= set(content)
            assert content["preset"] in (None, *get_defense(name).Settings.presets)
    assert yaml.safe_load(files["config/defense/confusion_training/gtsrb.yaml"])["preset"] == "gtsrb"


def test_one_defense_can_be_chosen(tmp_path: Path) -> None:
    root = fake_bench(tmp_path / "b")
    done = CliRunner().invoke(program, ["toolkit", "install", "backdoorbench", str(root), "--defense", "d3"])
    assert done.exit_code == 0 and placed_defenses(root, "backdoorbench") == ("d3",)
    done = CliRunner().invoke(program, ["toolkit", "install", "backdoorbench", str(root), "--defense", "d4"])
    assert done.exit_code == 2 and "unknown defense" in done.output


@pytest.mark.parametrize("toolkit", ["backdoorbench", "backdoor_toolbox"])
def test_another_folder_is_refused(tmp_path: Path, toolkit: str) -> None:
    (tmp_path / "photos").mkdir()
    for folder in (tmp_path / "photos", tmp_path / "nothing"):
        done = CliRunner().invoke(program, ["toolkit", "install", toolkit, str(folder)])
        assert done.exit_code == 1 and "not a checkout of" in done.output
    assert snapshot(tmp_path) == {}


def test_an_adapter_without_checkout_says_so(tmp_path: Path) -> None:
    done = CliRunner().invoke(program, ["toolkit", "install", "image_folder", str(tmp_path)])
    assert done.exit_code == 2 and "no checkout to install into" in done.output


def test_files_of_others_are_never_overwritten(tmp_path: Path) -> None:
    root = fake_bench(tmp_path / "b")
    (root / "defense" / "one.py").write_text("mine\n")
    before = snapshot(root)
    with pytest.raises(InputError, match=r"in the way[\s\S]*defense/one\.py"):
        place(ONE, root)
    assert snapshot(root) == before


def test_edited_files_are_kept_or_discarded_only_when_told_so(tmp_path: Path) -> None:
    root = fake_bench(tmp_path / "b")
    before = snapshot(root)
    place(ONE, root)
    (root / "defense" / "one.py").write_text("edited\n")
    there = snapshot(root)
    for act in (lambda: place(ONE, root), lambda: remove(root, "bench")):
        with pytest.raises(RunError, match="edited since"):
            act()
        assert snapshot(root) == there
    assert states(inspect(root, ONE)) == {"config/one/a.yaml": "in place", "defense/one.py": "edited"}
    assert states(place(ONE, root, modified="keep"))["defense/one.py"] == "kept (edited)"
    assert (root / "defense" / "one.py").read_text() == "edited\n"
    assert states(inspect(root, ONE))["defense/one.py"] == "edited"
    assert states(place(ONE, root, modified="discard"))["defense/one.py"] == "updated"
    assert (root / "defense" / "one.py").read_text() == "1\n"
    (root / "defense" / "one.py").write_text("edited\n")
    assert states(remove(root, "bench", modified="keep")) == {
        "config/one/a.yaml": "removed",
        "defense/one.py": "kept (edited)",
    }
    assert set(snapshot(root)) == {*before, "defense/one.py"}


def test_a_newer_version_updates_adds_and_removes(tmp_path: Path) -> None:
    root = fake_bench(tmp_path / "b")
    before = snapshot(root)
    place(ONE, root)
    newer = Placement("bench", {"defense/one.py": "2\n", "defense/two.py": "2\n"}, ("one", "two"))
    assert states(inspect(root, newer)) == {
        "config/one/a.yaml": "outdated: install again",
        "defense/one.py": "outdated: install again",
        "defense/two.py": "not placed: install again",
    }
    assert states(place(newer, root)) == {
        "defense/one.py": "updated",
        "defense/two.py": "placed",
        "config/one/a.yaml": "removed",
    }
    assert not (root / "config" / "one").exists()
    remove(root, "bench")
    assert snapshot(root) == before


@pytest.mark.parametrize("after", [0, 1])
def test_a_killed_install_is_completed_or_undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    root = fake_bench(tmp_path / "b")
    before, folders = snapshot(root), sorted(root.rglob("*"))
    put, done = module._put, []

    def killed(*arguments: object) -> str:
        if len(done) == after:
            raise KeyboardInterrupt
        done.append(1)
        return put(*arguments)  # type: ignore[arg-type]

    for finish in (lambda: place(ONE, root), lambda: None):
        done.clear()
        with monkeypatch.context() as patch:
            patch.setattr(module, "_put", killed)
            with pytest.raises(KeyboardInterrupt):
                place(ONE, root)
        finish()
        if (root / "config" / "one" / "a.yaml").exists():
            assert set(states(inspect(root, ONE)).values()) == {"in place"}
        remove(root, "bench")
        assert snapshot(root) == before and sorted(root.rglob("*")) == folders


def test_a_killed_update_takes_nothing_for_edited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = fake_bench(tmp_path / "b")
    place(ONE, root)

    def killed(*_: object) -> str:
        raise KeyboardInterrupt

    newer = Placement("bench", {"defense/one.py": "2\n", "config/one/a.yaml": "b\n"}, ("one",))
    with monkeypatch.context() as patch:
        patch.setattr(module, "_put", killed)
        with pytest.raises(KeyboardInterrupt):
            place(newer, root)
    assert set(states(place(newer, root)).values()) == {"updated"}


@pytest.mark.parametrize("name", ["../victim.txt", "defense/../../victim.txt", "/etc/hostname", "."])
def test_a_hostile_note_reaches_nothing_outside(tmp_path: Path, name: str) -> None:
    root = fake_bench(tmp_path / "b")
    (tmp_path / "victim.txt").write_text("precious\n")
    digest = module._digest(b"precious\n")
    note = {"toolkit": "bench", "version": "0", "defenses": [], "files": {name: digest}, "folders": []}
    (root / NOTE).write_text(json.dumps(note))
    before = snapshot(tmp_path)
    for act in (lambda: remove(root, "bench"), lambda: place(ONE, root), lambda: inspect(root, ONE)):
        with pytest.raises(InputError):
            act()
    assert snapshot(tmp_path) == before


def test_links_that_lead_out_of_the_checkout_are_refused(tmp_path: Path) -> None:
    root = fake_bench(tmp_path / "b")
    (tmp_path / "outside").mkdir()
    (root / "config" / "one").symlink_to(tmp_path / "outside")
    with pytest.raises(InputError, match="leaves its folder"):
        place(ONE, root)
    assert not any((tmp_path / "outside").iterdir()) and not (root / NOTE).exists()


@pytest.mark.parametrize("text", ["[]", "{", '{"files": [], "folders": [], "defenses": []}'])
def test_a_broken_note_is_refused(tmp_path: Path, text: str) -> None:
    root = fake_bench(tmp_path / "b")
    (root / NOTE).write_text(text)
    with pytest.raises(InputError):
        place(ONE, root)


def test_two_toolkits_do_not_share_a_checkout(tmp_path: Path) -> None:
    root = fake_bench(tmp_path / "b")
    place(ONE, root)
    with pytest.raises(InputError, match="another toolkit"):
        place(Placement("box", {"elixir.py": ""}), root)
    with pytest.raises(InputError, match="another toolkit"):
        remove(root, "box")

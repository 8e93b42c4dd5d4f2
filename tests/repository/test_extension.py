"""A third party's package: built, installed, listed, run; and a broken one beside it does no harm."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import elixir_plugin

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "tests" / "extension"


def run(python: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "ELIXIR_PLUGINS"}
    command = [str(python), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, cwd=cwd, env=environment)


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a fresh environment that shares our packages, with the example and a broken one installed."""
    pytest.importorskip("setuptools", minversion="70.1")
    folder = tmp_path_factory.mktemp("env")
    venv.create(folder, with_pip=False, symlinks=os.name != "nt")
    context = venv.EnvBuilder().ensure_directories(folder)
    site = next(Path(folder).rglob("site-packages"))
    shared = [path for path in sys.path if path.endswith("site-packages")]
    (site / "shared.pth").write_text("".join(f"import site; site.addsitedir({path!r})\n" for path in shared))
    copy = folder / "source"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    command = ["install", "--no-deps", "--no-build-isolation", "--no-index", "-q", "--target", str(site), str(copy)]
    done = run(Path(sys.executable), "-m", "pip", "--disable-pip-version-check", *command, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    broken = site / "broken_sibling-0.1.dist-info"
    broken.mkdir()
    (broken / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-sibling\nVersion: 0.1\n")
    (broken / "entry_points.txt").write_text("[elixir_plugin]\nbroken = broken_sibling\n")
    (site / "broken_sibling.py").write_text("raise RuntimeError('this package is broken')\n")
    return Path(context.env_exe)


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A case in the example's format: the tiny one, whose model has a name and comes with it."""
    sys.path.insert(0, str(PACKAGE))
    from elixir_example.adapter import PixelTables

    from elixir_plugin.testing.defenses import tiny_case

    folder = tmp_path_factory.mktemp("case") / "tables"
    PixelTables().export(tiny_case(), folder)
    return folder


@pytest.mark.e2e
def test_it_is_listed_and_the_broken_one_is_reported(python: Path, tmp_path: Path) -> None:
    done = run(python, "-m", "elixir_plugin", "plugins", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    infos = {info["name"]: info for info in json.loads(done.stdout)}
    own = infos["elixir-example:elixir_example"]
    assert (own["version"], own["broken"], own["refused"]) == ("1.0", "", [])
    assert own["hooks"] == ["elixir_adapters", "elixir_defenses", "elixir_poisons"]
    assert infos["broken-sibling:broken"]["broken"] == "RuntimeError: this package is broken"
    assert not infos["elixir_plugin:builtin"]["broken"]


@pytest.mark.e2e
def test_it_runs_from_the_command_line(python: Path, tables: Path, tmp_path: Path) -> None:
    command = ["run", "my_finetune", "--from", f"pixel_tables:{tables}", "--set", "epochs=1", "--write-to", "result"]
    done = run(python, "-m", "elixir_plugin", *command, "--out", "here", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "my_finetune on pixel_tables:" in done.stdout and "ACC" in done.stdout
    report = json.loads((tmp_path / "here" / "report.json").read_text())
    assert report["defense"] == {"name": "my_finetune", "kind": "repair", "paper": "folklore"}
    assert report["run"]["settings"] == {"epochs": 1, "lr": 0.01} and report["metrics"]["after"]["acc"] is not None
    model = elixir_plugin.Classifier.load(tmp_path / "result" / "model")
    assert model.num_classes == 4


@pytest.mark.e2e
def test_its_defense_is_a_step_of_a_pipeline(python: Path, tables: Path, tmp_path: Path) -> None:
    steps = "[random_drop, {retrain: {recipe: {epochs: 1}}, drop: flagged}, {my_finetune: {epochs: 1, lr: 0.02}}]"
    command = ["run", "pipeline", "--from", f"pixel_tables:{tables}", "--set", f"steps={steps}", "--out", "here"]
    done = run(python, "-m", "elixir_plugin", *command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "here" / "report.json").read_text())
    assert report["defense"]["kind"] == "repair" and report["run"]["settings"]["steps"][2] == {
        "step": "my_finetune", "settings": {"epochs": 1, "lr": 0.02}
    }  # fmt: skip
    assert report["metrics"]["steps"][2]["label"] == "3 my_finetune" and report["metrics"]["after"]["acc"] is not None
    assert "3 my_finetune: fine-tune" in report["outcome"]["timings"]
    wrong = [*command[:5], "steps=[{my_finetune: {epochs: 0}}]", "--out", "there"]
    done = run(python, "-m", "elixir_plugin", *wrong, cwd=tmp_path)
    assert done.returncode and "steps.1 (my_finetune)" in done.stderr and "epochs = 0" in done.stderr


def test_its_poison_plants_a_stripe() -> None:
    sys.path.insert(0, str(PACKAGE))
    from elixir_example.poison import Stripe

    from elixir_plugin.testbed.adapter import poisoned_case
    from elixir_plugin.testbed.digits import digits

    case = poisoned_case(Stripe(rate=0.05, row=2), digits(8))
    assert case.train is not None and case.truth is not None and case.test_poisoned is not None
    bright = (case.train.read(slice(None))[:, 2] == 255).all((1, 2))
    assert (bright == case.truth.poison).all() and case.truth.poison.sum() == round(0.05 * len(case.train))
    assert (case.test_poisoned.samples.labels == 0).all()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("train.csv", "8,8,3\n", "no shape"),
        ("train.csv", "1,1,1,2\n0,256\n", "not an image"),
        ("train.csv", "1,1,1,2\n0,1,2\n", "not an image"),
        ("train.csv", "1,1,1,2\n5,1\n", "label out of range"),
        ("train.csv", "a,b\n", "not a table"),
        ("other.csv", "", "no tables"),
        ("truth.csv", "1,1\n", "no tables"),
    ],
)
def test_its_adapter_refuses_what_it_cannot_read(tmp_path: Path, name: str, text: str, message: str) -> None:
    sys.path.insert(0, str(PACKAGE))
    from elixir_example.adapter import PixelTables

    (tmp_path / name).write_text(text)
    with pytest.raises(elixir_plugin.ElixirError, match=message):
        PixelTables().read(tmp_path)


def test_its_defense_conforms() -> None:
    sys.path.insert(0, str(PACKAGE))
    from elixir_example.defense import FineTune

    from elixir_plugin.testing.defenses import check_defense

    check_defense(FineTune, epochs=1)


def test_a_case_survives_its_format(tables: Path) -> None:
    from elixir_example.adapter import PixelTables

    from elixir_plugin.testing.defenses import tiny_case

    given, found = tiny_case(), PixelTables().read(tables)
    for part in ("train", "clean", "test"):
        assert getattr(found, part).fingerprint() == getattr(given, part).fingerprint()
    assert found.truth is not None and given.truth is not None and found.visible().truth is None
    np.testing.assert_array_equal(found.truth.poison, given.truth.poison)
    np.testing.assert_array_equal(found.truth.original_labels, given.truth.original_labels)
    assert found.model is not None and found.model.architecture == "small_resnet"


# README: "Write your own" is this package


def shown() -> dict[str, str]:
    """Return file -> text of the blocks in the README's section; each block's file is named on the line above it."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = re.search(r"^## Write your own\n(.*?)(?=^## )", text, flags=re.MULTILINE | re.DOTALL)
    assert section is not None
    return dict(
        re.findall(r"`tests/extension/([^`]+)`[^\n]*\n\n```\w+\n(.*?)^```", section[1], re.MULTILINE | re.DOTALL)
    )


@pytest.mark.parametrize(
    "name", ["pyproject.toml", "elixir_example/plugin.py", "elixir_example/defense.py", "elixir_example/poison.py"]
)
def test_the_readme_shows_this_package(name: str) -> None:
    blocks: Any = shown()
    assert blocks.get(name) == (PACKAGE / name).read_text(encoding="utf-8")

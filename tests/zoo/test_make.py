"""Sets of the zoo: the same bytes wherever they are made, the same content in every format, the truth with them."""

from __future__ import annotations

import csv
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_sets import BRIEF, CLASSES, FORMATS, NETWORK, images, written

from elixir_plugin import get_adapter
from elixir_plugin.core.case import Case
from elixir_plugin.errors import InputError, RunError, SettingsError
from elixir_plugin.testbed.adapter import Testbed
from elixir_plugin.zoo.entries import ZOO, find_entry
from elixir_plugin.zoo.formats import how_to_read
from elixir_plugin.zoo.make import make
from elixir_plugin.zoo.verify import verify

WHITE = find_entry("badnets_white_10pc")


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("to", FORMATS)
def test_two_folders_get_identical_bytes(base: str, tmp_path: Path, to: Any) -> None:
    options = {**BRIEF, "architecture": NETWORK[to]}
    for place in ("one", "record/of another"):  # a checkout of BackdoorBench, as it finds itself
        make(WHITE, tmp_path / place, base=base, to=to, options=options)
    one, two = tree(tmp_path / "one"), tree(tmp_path / "record" / "of another")
    assert one == two
    assert {"zoo.json", "samples.csv"} < one.keys()


def test_digits_get_identical_bytes_too(tmp_path: Path) -> None:
    for place in ("one", "two"):
        make(WHITE, tmp_path / place, to="arrays", options={"size": 8}, model=False)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def test_every_format_holds_the_same(originals: dict[str, Path]) -> None:
    manifests = [json.loads((folder / "zoo.json").read_text()) for folder in originals.values()]
    assert len({manifest["content"]["sha256"] for manifest in manifests}) == 1
    assert {name: part["samples"] for name, part in manifests[0]["content"]["parts"].items()} == {
        "clean": 8, "test": 24, "train": 152, "triggered": 6,
    }  # fmt: skip
    assert (manifests[0]["attack"]["poisoned"], manifests[0]["attack"]["covers"]) == (3, 3)


def test_seed_entry_and_base_each_change_the_hash(base: str, tmp_path: Path) -> None:
    other = written(tmp_path / "other", train=images(160, 5), test=images(24, 1))
    kinds: dict[str, tuple[str, str, int]] = {
        "same": ("badnets_white_10pc", base, 0),
        "seed": ("badnets_white_10pc", base, 1),
        "entry": ("badnets_colour_10pc", base, 0),
        "base": ("badnets_white_10pc", other, 0),
    }
    made = {
        key: make(find_entry(name), tmp_path / key, base=source, to="arrays", seed=seed, model=False)
        for key, (name, source, seed) in kinds.items()
    }
    assert len({manifest.content.sha256 for manifest in made.values()}) == 4
    assert made["same"].base.sha256 == made["entry"].base.sha256 != made["base"].base.sha256


NAMES = ["wanet_10pc", "tact_2pc", "sig_5pc", "badnets_all_to_all_10pc", "blended_picture_10pc", "lsp", "ops"]


@pytest.mark.parametrize("name", NAMES)
def test_a_record_is_read_with_the_truth_of_the_testbed(base: str, tmp_path: Path, name: str) -> None:
    entry = find_entry(name)
    manifest = make(
        entry, tmp_path / "set", base=base, to="backdoorbench", options={**BRIEF, "architecture": "shufflenet_v2_x1_0"}
    )
    source = how_to_read(manifest.read, tmp_path / "set")
    read = get_adapter("backdoorbench")(source.options).read(Path(source.path))
    meant = Testbed({"base": base, "poison": dict(entry.settings), "model": False}).read(Path(entry.poison))
    assert read.truth and meant.truth and read.train and meant.train and read.model
    for of in ("poison", "cover", "original_labels"):
        assert np.array_equal(getattr(read.truth, of), getattr(meant.truth, of)), of
    assert read.truth.kind == ("clean-label" if meant.truth.kind == "indiscriminate" else meant.truth.kind)
    assert np.array_equal(read.train.labels, meant.train.labels)
    assert np.array_equal(read.train.read(slice(None)), meant.train.read(slice(None)))
    assert read.model.fingerprint() == manifest.model.weights  # type: ignore[union-attr]
    assert (read.test_poisoned is None) == (meant.test_poisoned is None)
    assert read.clean and meant.clean
    assert sorted(read.clean.content_hashes()) == sorted(meant.clean.content_hashes())


def test_the_table_holds_the_truth_that_image_folders_have_no_place_for(originals: dict[str, Path]) -> None:
    folder = originals["image_folder"]
    with (folder / "samples.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["part"] == "train"]
    read = get_adapter("image_folder")().read(folder / "set")
    assert read.train and read.train.names and len(rows) == len(read.train)
    poison = [int(row["position"]) for row in rows if row["poison"] == "1"]
    covers = [int(row["position"]) for row in rows if row["cover"] == "1"]
    assert len(poison) == len(covers) == 3
    assert {read.train.labels[position] for position in poison} == {0}
    assert all(rows[position]["original"] == "1" for position in poison)  # the source class of TaCT
    stamped = read.train.read(np.array(poison + covers))[:, -4:-1, -4:-1]
    assert (stamped[:, 0, 0] == 255).all() and (stamped[:, 0, 1] == 0).all()  # its checkerboard


def test_triggered_images_lie_in_the_folder_of_the_class_that_is_wanted(originals: dict[str, Path]) -> None:
    manifest = json.loads((originals["image_folder"] / "zoo.json").read_text())
    folder = originals["image_folder"] / manifest["read"]["triggered"]
    assert {path.parent.name for path in folder.rglob("*.png")} == {"0"}


def batches(folder: Path, label_names: bool = True) -> Path:
    """Write files like CIFAR-10's, with 40 images each."""
    root = folder / "cifar-10-batches-py"
    root.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"):
        content = {b"data": rng.integers(0, 256, (40, 3072)).astype(np.uint8), b"labels": (np.arange(40) % 10).tolist()}
        (root / name).write_bytes(pickle.dumps(content, protocol=2))
    if label_names:
        (root / "batches.meta").write_bytes(pickle.dumps({b"label_names": [b"c%d" % k for k in range(10)]}, protocol=2))
    return root


@pytest.mark.parametrize("inner", [True, False])
def test_the_base_may_be_the_batches_of_cifar(tmp_path: Path, inner: bool) -> None:
    root = batches(tmp_path / "data")
    given = root if inner else root.parent
    manifest = make(WHITE, tmp_path / "set", base=str(given), to="image_folder", model=False)
    assert manifest.base.adapter == "cifar"
    assert {path.name for path in (tmp_path / "set/set/train").iterdir()} == {f"c{k}" for k in range(10)}
    assert manifest.content.parts["train"].samples == 190 and manifest.content.parts["test"].samples == 40


def test_a_record_on_cifar_brings_the_batches_and_is_one_of_the_toolkits_data_sets(tmp_path: Path) -> None:
    root = batches(tmp_path / "data")
    options = {**BRIEF, "architecture": "shufflenet_v2_x1_0"}
    manifest = make(WHITE, tmp_path / "set", base=str(root), to="backdoorbench", options=options)
    folder = tmp_path / "set" / "data" / "cifar10" / "cifar-10-batches-py"
    assert tree(folder) == tree(root)
    source = how_to_read(manifest.read, tmp_path / "set")
    case = get_adapter("backdoorbench")(source.options).read(Path(source.path))
    assert case.origin.facts["dataset"] == "cifar10" and case.truth and case.truth.poison.sum() == 19
    assert case.model and case.model.fingerprint() == manifest.model.weights  # type: ignore[union-attr]
    assert verify(tmp_path / "set").faults == []


def test_the_base_may_be_a_folder_of_images(base: str, tmp_path: Path) -> None:
    source = get_adapter("arrays")().read(Path(base.removeprefix("arrays:")))
    get_adapter("image_folder")().export(Case(train=source.train, test=source.test), tmp_path / "images")
    named = make(WHITE, tmp_path / "a", base=str(tmp_path / "images"), to="arrays", model=False)
    spelled = make(WHITE, tmp_path / "b", base=f"image_folder:{tmp_path / 'images'}", to="image_folder", model=False)
    assert named.base.adapter == spelled.base.adapter == "image_folder"
    assert named.content.sha256 == spelled.content.sha256


def test_float_pixels_go_where_they_fit_and_are_not_rounded_elsewhere(tmp_path: Path) -> None:
    fine = written(tmp_path / "fine", train=images(80, 0, floats=True), test=images(16, 1, floats=True))
    assert "float32" in make(WHITE, tmp_path / "a", base=fine, to="arrays", model=False).content.parts["train"].head
    for to in ("image_folder", "backdoorbench"):
        with pytest.raises(InputError, match="finer steps"):
            make(WHITE, tmp_path / "b", base=fine, to=to, model=False)  # type: ignore[arg-type]
    assert not (tmp_path / "b").exists()


def test_what_cannot_be_made_is_refused_before_anything_is_written(base: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(SettingsError, match="did you mean 'badnets_white_10pc'"):
        find_entry("badnets_white")
    with pytest.raises(InputError, match="too small"):
        make(find_entry("badnets_checkerboard9_10pc"), out, base=base, model=False)
    with pytest.raises(InputError, match="too small for the rate"):
        make(find_entry("adaptive_patch_0p3pc"), out, base=base, model=False)
    with pytest.raises(InputError, match="needs a model"):
        make(WHITE, out, base=base, to="backdoorbench", model=False)
    with pytest.raises(InputError, match="base not found"):
        make(WHITE, out, base=str(tmp_path / "nowhere"), model=False)
    for fixed in ({"poison": {"rate": 0.5}}, {"base": base}, {"model": False}):
        with pytest.raises(SettingsError, match="the zoo decides"):
            make(WHITE, out, options=fixed)
    poisoned = make(WHITE, tmp_path / "poisoned", base=base, to="arrays", model=False)
    source = how_to_read(poisoned.read, tmp_path / "poisoned")
    with pytest.raises(InputError, match="poisoned already"):
        make(WHITE, out, base=f"arrays:{source.path}", model=False)
    with pytest.raises(RunError, match="not empty"):
        make(WHITE, tmp_path / "poisoned", base=base, model=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["poisoned"]


def test_an_empty_folder_is_taken(base: str, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    make(WHITE, tmp_path / "out", base=base, to="arrays", model=False)
    assert verify(tmp_path / "out").sound


KILLED = """
import os, sys
from pathlib import Path
from elixir_plugin.zoo import make as module
from elixir_plugin.zoo.entries import find_entry
module.write_manifest = lambda *_: os._exit(9)
module.make(find_entry("badnets_white_10pc"), Path(sys.argv[1]), base=sys.argv[2], to="arrays", model=False)
"""


@pytest.mark.e2e
def test_what_a_killed_make_leaves_is_no_set_and_goes_with_the_next(base: str, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "out"), base], check=False)
    assert done.returncode == 9 and not (tmp_path / "out").exists()
    left = [path for path in tmp_path.iterdir() if path.is_dir()]
    assert len(left) == 1 and (left[0] / "samples.csv").is_file()
    with pytest.raises(InputError, match="file not found"):
        verify(left[0])
    make(WHITE, tmp_path / "out", base=base, to="arrays", model=False)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("name", ZOO)
def test_every_entry_says_what_it_is(name: str) -> None:
    entry = ZOO[name]
    assert entry.attack().name == entry.poison and entry.paper and entry.about
    share = name.rpartition("_")[2]
    if share.endswith("pc"):  # the rate is in the name
        assert entry.attack().settings.dump()["rate"] == pytest.approx(float(share[:-2].replace("p", ".")) / 100)
    else:
        assert entry.attack().settings.dump()["rate"] == 1


def test_classes_of_the_base_are_those_of_the_set(base: str, tmp_path: Path) -> None:
    manifest = make(WHITE, tmp_path / "set", base=base, to="arrays", model=False)
    assert manifest.read.num_classes == CLASSES

"""Poisons on sets of the user's own: what is poisoned, what is set aside, and who is judged on what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from elixir_plugin import ImageSet, get_adapter
from elixir_plugin.adapter import Source
from elixir_plugin.core.case import Case
from elixir_plugin.errors import InputError, SettingsError
from elixir_plugin.runs.run import run_defense
from elixir_plugin.runs.spec import RunSpec
from elixir_plugin.testbed.adapter import Testbed

N, CLASSES = 120, 4


def unpoisoned(n: int, seed: int) -> ImageSet:
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % CLASSES
    images = rng.integers(0, 60, (n, 8, 8, 3)) + 50 * labels[:, None, None, None]
    return ImageSet(images.astype(np.uint8), labels, CLASSES)


def written(folder: Path, **parts: ImageSet) -> str:
    source = get_adapter("arrays")().export(Case(**parts), folder)
    return f"arrays:{source.path}"


def read(base: str, seed: int = 0, path: str = "badnets", **options: Any) -> Case:
    return Testbed({"base": base, "model": False, **options}).read(Path(path), seed)


def pixels(images: ImageSet) -> set[bytes]:
    return {image.tobytes() for image in images.read(slice(None))}


def test_without_sets_of_its_own_they_are_set_aside_before_poisoning(tmp_path: Path) -> None:
    base = written(tmp_path / "base", train=unpoisoned(N, 0))
    case = read(base, poison={"rate": 0.1})
    assert case.train and case.clean and case.test and case.truth and case.test_poisoned
    assert (len(case.train), len(case.clean), len(case.test)) == (N - 24 - 6, 6, 24)
    assert case.truth.poison.sum() == 9
    assert np.bincount(case.test.labels).tolist() == [6] * CLASSES
    everything = pixels(unpoisoned(N, 0))
    innocent = case.train.subset(np.flatnonzero(~case.truth.poison))
    parts = [pixels(innocent), pixels(case.clean), pixels(case.test)]
    assert all(part <= everything for part in parts)
    assert sum(map(len, parts)) == len(set().union(*parts)) == N - 9


def test_another_seed_draws_other_clean_images_and_judges_on_the_same(tmp_path: Path) -> None:
    base = written(tmp_path / "base", train=unpoisoned(N, 0))
    one, other = read(base, seed=0), read(base, seed=1)
    assert one.clean and other.clean and one.test and other.test
    assert pixels(one.clean) != pixels(other.clean)
    assert pixels(one.test) == pixels(other.test)


def test_sets_of_its_own_are_taken_unless_numbers_are_given(tmp_path: Path) -> None:
    parts = {"train": unpoisoned(N, 0), "clean": unpoisoned(8, 1), "test": unpoisoned(20, 2)}
    base = written(tmp_path / "base", **parts)
    case = read(base)
    assert case.train and case.clean and case.test
    assert (len(case.train), pixels(case.clean), pixels(case.test)) == (
        N,
        pixels(parts["clean"]),
        pixels(parts["test"]),
    )
    drawn = read(base, clean=12)
    assert drawn.train and drawn.clean and drawn.test
    assert (len(drawn.train), len(drawn.clean), len(drawn.test)) == (N - 12, 12, 20)
    assert pixels(drawn.clean) <= pixels(parts["train"])


def test_names_of_classes_and_options_of_the_adapter_reach_the_case(tmp_path: Path) -> None:
    from PIL import Image

    rng = np.random.default_rng(0)
    for name in ("ant", "bee"):
        (tmp_path / "base" / name).mkdir(parents=True)
        for i in range(20):
            Image.fromarray(rng.integers(0, 255, (12, 12, 3)).astype(np.uint8)).save(
                tmp_path / "base" / name / f"{i}.png"
            )
    case = read(f"image_folder:{tmp_path / 'base'}", base_options={"size": 8}, poison={"rate": 0.2})
    assert case.train and case.train.classes == ("ant", "bee")
    assert case.train.image_shape == (8, 8, 3)


def test_what_fits_a_base_is_the_default_there_alone() -> None:
    plain, based = Testbed().options, Testbed({"base": "arrays:a.npz", "recipe": {"epochs": 2}}).options
    assert (plain.architecture, plain.recipe.schedule, plain.clean) == ("small_resnet", "cosine", 150)
    assert (based.architecture, based.recipe.schedule, based.recipe.epochs) == ("fast_convnet", "triangle", 2)
    assert (based.clean, based.test, based.recipe.augmentation.flip) == (None, None, "auto")


@pytest.mark.parametrize(
    ("base", "options", "error", "says"),
    [
        ("here", {}, SettingsError, "ADAPTER:PATH"),
        ("arrays:{tmp}/none", {}, InputError, "not found"),
        ("testbed:badnets", {}, InputError, "poisoned already"),
        ("arrays:{tmp}/base/case.npz", {"clean": 500}, InputError, "not enough images"),
        ("arrays:{tmp}/base/case.npz", {"poison": {"target": 9}}, SettingsError, "out of range"),
    ],
)
def test_what_is_wrong_is_said(
    tmp_path: Path, base: str, options: dict[str, Any], error: type[Exception], says: str
) -> None:
    written(tmp_path / "base", train=unpoisoned(N, 0))
    with pytest.raises(error, match=says):
        read(base.format(tmp=tmp_path), **options)


def test_numbers_are_needed_for_digits() -> None:
    with pytest.raises(SettingsError, match="no base is given"):
        Testbed({"clean": None})


def test_a_run_says_where_its_base_is_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_figures: None
) -> None:
    written(tmp_path / "base", train=unpoisoned(N, 0))
    monkeypatch.chdir(tmp_path)
    options = {
        "base": "arrays:base/case.npz",
        "architecture": "small_resnet",
        "recipe": {"epochs": 2, "batch_size": 16},
    }
    source = Source(adapter="testbed", path="badnets", options=options)
    spec = RunSpec(defense="d3", source=source, settings={"epochs": 1}, out=str(tmp_path / "run"), any_model=True)
    report = run_defense(spec).report
    assert report["run"]["source"]["options"]["base"] == f"arrays:{tmp_path / 'base' / 'case.npz'}"
    assert report["metrics"]["before"]["asr"] is not None

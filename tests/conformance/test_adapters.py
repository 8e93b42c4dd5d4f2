"""Every file adapter in the box conforms, and each rule catches an adapter that breaks it."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from elixir_plugin import Case, ImageSet, get_adapter
from elixir_plugin.adapter import Adapter, Source
from elixir_plugin.core.case import Origin, Truth
from elixir_plugin.core.classifier.classifier import Classifier
from elixir_plugin.core.metrics import Evaluation
from elixir_plugin.core.outcome import Outcome
from elixir_plugin.core.settings import Settings
from elixir_plugin.testing.defenses import ConformanceError, check_adapter, tiny_case

sys.path.append(str(Path(__file__).resolve().parents[1] / "adapters"))

from fake_records import TARGET, Workspace, make_workspace, stamped
from PIL import Image

Arrays = get_adapter("arrays")
PLACE = "poisoned_train_set/own/badnet_0.050_poison_seed=0"


def float_case() -> Case:
    """The tiny case with pixels that 8 bits cannot hold, in the sets that stay float."""
    case = tiny_case()
    assert case.train is not None
    return replace(case, train=case.train.replace(images=case.train.read(slice(None)).astype(np.float32) / 256))


def bare_case() -> Case:
    """A suspect set and nothing else."""
    return replace(tiny_case(), clean=None, model=None, test=None, test_poisoned=None, truth=None)


@pytest.mark.parametrize("name", ["image_folder", "arrays"])
@pytest.mark.parametrize("make", [tiny_case, bare_case])
def test_own_formats_conform(name: str, make: Any) -> None:
    check_adapter(get_adapter(name), case=make())


@pytest.mark.parametrize("make", [tiny_case, lambda: replace(tiny_case(), clean=None, test=None, model=None)])
def test_backdoor_toolbox_conforms(make: Any) -> None:
    check_adapter(get_adapter("backdoor_toolbox"), case=make(), place=PLACE)


def test_float_pixels_stay_float_where_the_format_has_them() -> None:
    mixed = float_case()
    lone = replace(mixed, clean=None, test=None, test_poisoned=None)
    check_adapter(get_adapter("backdoor_toolbox"), case=lone, place=PLACE)
    check_adapter(Arrays, case=lone)


def with_covers(space: Workspace) -> Path:
    """Add two cover samples: stamped, under their true label."""
    part = space.part("bd_train", space.train, {1: TARGET, 12: TARGET, 23: TARGET, 15: 5, 36: 6})
    return space.save(bd_train=part)


@pytest.mark.parametrize("kind", ["all_to_one", "covers", "inside", "no_train"])
@pytest.mark.parametrize("place", ["record/copy", "elsewhere"])
def test_backdoorbench_conforms(tmp_path: Path, kind: str, place: str) -> None:
    space = make_workspace(tmp_path)
    record = space.record
    if kind == "covers":
        record = with_covers(space)
    elif kind == "no_train":
        record = space.save(bd_train=None)
    elif kind == "inside":
        for name, clean in (("bd_train", space.train), ("bd_test", space.test)):
            container = space.content[name]["bd_data_container"]
            held = container["data_dict"]
            container["data_dict"] = {
                key: (Image.fromarray(stamped(clean[int(key)])), *each["other_info"]) for key, each in held.items()
            }
            container["save_folder_path"] = space.content[name]["save_folder_path"] = None
        record = space.save()
    check_adapter(get_adapter("backdoorbench"), source=record, options={"architecture": "small_resnet"}, place=place)


# adapters that break one rule


def faults_of(cls: type[Adapter], **values: Any) -> list[str]:
    with pytest.raises(ConformanceError) as caught:
        check_adapter(cls, **values)
    return str(caught.value).splitlines()[1:]


def rules_of(cls: type[Adapter], **values: Any) -> list[str]:
    return [fault.removeprefix("- ").partition(":")[0] for fault in faults_of(cls, **values)]


class Copy(Arrays):  # type: ignore[misc,valid-type]
    """A sound adapter to break."""

    name = "copy"

    def read(self, path: Path, seed: int = 0) -> Case:
        case: Case = super().read(path, seed)
        return replace(case, origin=replace(case.origin, adapter=self.name))


def test_the_sound_one_conforms() -> None:
    check_adapter(Copy)


def broken(change: Any) -> type[Adapter]:
    """Return an adapter whose read() gives ``change(case, path, seed)``."""

    class Broken(Copy):
        def read(self, path: Path, seed: int = 0) -> Case:
            case: Case = change(super().read(path, seed), path, seed)
            return case

    return Broken


def train_of(case: Case) -> ImageSet:
    assert case.train is not None
    return case.train


def test_an_upper_case_name_is_noticed() -> None:
    class Broken(Copy):
        name = "Copy"

    assert "class attributes: name must be lower case" in faults_of(Broken)[0]


def test_options_that_accept_anything_are_noticed() -> None:
    class Loose(Arrays.Options):  # type: ignore[misc,name-defined]
        model_config = {"extra": "allow"}  # noqa: RUF012

    class Broken(Copy):
        Options = Loose

    assert faults_of(Broken) == ["- options: an unknown key is accepted"]


def test_a_bare_error_for_missing_input_is_noticed() -> None:
    class Broken(Copy):
        def read(self, path: Path, seed: int = 0) -> Case:
            path.stat()
            return super().read(path, seed)

    assert faults_of(Broken) == ["- missing input: 'nothing here' raises FileNotFoundError in place of an ElixirError"]


def test_foreign_input_that_is_read_is_noticed() -> None:
    class Broken(Copy):
        def read(self, path: Path, seed: int = 0) -> Case:
            return super().read(path, seed) if path.is_file() or not path.exists() else tiny_case()

    assert faults_of(Broken) == ["- missing input: 'other' is read without an error"]


def test_a_file_changed_by_reading_is_noticed() -> None:
    def change(case: Case, path: Path, seed: int) -> Case:
        path.write_bytes(path.read_bytes() + b" ")
        return case

    assert "- reading: reading changes files" in faults_of(broken(change))


def test_an_unseeded_draw_is_noticed() -> None:
    def change(case: Case, path: Path, seed: int) -> Case:
        assert case.clean is not None
        return replace(case, clean=case.clean.subset(np.random.default_rng().permutation(48)[:20]))

    (fault,) = [each for each in faults_of(broken(change)) if each.startswith("- reading")]
    assert "clean (pixels)" in fault


def test_another_origin_is_noticed() -> None:
    change = lambda case, path, seed: replace(case, origin=Origin("elsewhere"))  # noqa: E731
    assert faults_of(broken(change)) == ["- reading: origin.adapter must be 'copy'"]


def test_truth_in_names_is_noticed() -> None:
    def change(case: Case, path: Path, seed: int) -> Case:
        assert case.truth is not None
        train = train_of(case)
        names = [f"{'bad' if bad else 'good'}/{i}" for i, bad in enumerate(case.truth.poison)]
        return replace(case, train=ImageSet(train.images, train.labels, train.num_classes, names))

    assert faults_of(broken(change)) == ["- sealed truth: what a defense sees depends on the truth: train (names)"]


def test_truth_on_the_set_itself_is_noticed() -> None:
    def change(case: Case, path: Path, seed: int) -> Case:
        train_of(case).poison = case.truth  # type: ignore[attr-defined]
        return case

    assert faults_of(broken(change)) == ["- sealed truth: train carries more than images and labels: ['poison']"]


def test_truth_on_the_model_is_noticed() -> None:
    def change(case: Case, path: Path, seed: int) -> Case:
        assert isinstance(case.model, Classifier)
        case.model.target = 0  # type: ignore[assignment]
        return case

    assert faults_of(broken(change)) == ["- sealed truth: the model carries more than a classifier: ['target']"]


def hang_on_the_module(case: Case, what: Any) -> Case:
    assert isinstance(case.model, Classifier)
    case.model.module.kept = what(case)
    return case


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (lambda case: {"rows": case.truth.poison}, "truth.poison"),
        (lambda case: lambda: case.test, "test"),
        (lambda case: case.test.images[:2], "memory of images of test"),
        (lambda case: np.flatnonzero(case.truth.poison).tolist(), "the poison, as positions"),
    ],
)
def test_what_leads_from_the_network_to_the_truth_is_noticed(what: Any, said: str) -> None:
    faults = faults_of(broken(lambda case, path, seed: hang_on_the_module(case, what)))
    assert len(faults) == 1 and faults[0].startswith("- sealed truth: a defense can reach what is sealed: case.model")
    assert said in faults[0]


def exporting(change: Any) -> type[Adapter]:
    """Return an adapter that writes ``change(case)`` where it is asked to write what it has read."""

    class Broken(Copy):
        def export(self, case: Case, folder: Path) -> Source:
            return super().export(case if case.origin.adapter == "testing" else change(case), folder)

    return Broken


def with_pixels(change: Any) -> Any:
    def changed(case: Case) -> Case:
        pixels: np.ndarray[Any, Any] = change(train_of(case).read(slice(None)))
        return replace(case, train=train_of(case).replace(images=pixels))

    return changed


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda case: replace(case, train=train_of(case).subset(np.arange(96)[::-1])), "train (pixels)"),
        (with_pixels(lambda pixels: pixels // 2), "train (pixels)"),
        (with_pixels(lambda pixels: pixels.astype(np.float32) / 255), "train (type of the pixels)"),
        (lambda case: replace(case, test=None), "test"),
        (lambda case: replace(case, test_poisoned=None), "test_poisoned"),
        (lambda case: replace(case, model=None), "model"),
        (lambda case: replace(case, truth=Truth(case.truth.poison, kind="dirty-label")), "truth"),
    ],
)
def test_a_case_that_changes_on_the_way_is_noticed(change: Any, part: str) -> None:
    found = [each for each in faults_of(exporting(change)) if "read, write, read" in each]
    assert len(found) == 1 and part in found[0]


def test_an_adapter_that_cannot_write_is_told_so() -> None:
    class Reader(Adapter):
        name = "reader"
        Options = Settings

        def read(self, path: Path, seed: int = 0) -> Case:
            return get_adapter("arrays")().read(path, seed)

    assert "reader cannot write whole cases" in faults_of(Reader)[-1]


def writing(write: Any) -> type[Adapter]:
    class Broken(Copy):
        def write(self, case: Case, outcome: Outcome, evaluation: Evaluation, folder: Path, defense: str) -> list[Path]:
            paths: list[Path] = write(case, folder)
            return paths

    return Broken


def touched(path: Path) -> Path:
    path.write_text("x")
    return path


def test_results_that_are_not_there_are_noticed() -> None:
    (fault,) = faults_of(writing(lambda case, folder: [folder / "scores.csv"]))
    assert "names what is not there" in fault


def test_results_outside_their_folder_are_noticed() -> None:
    (fault,) = faults_of(writing(lambda case, folder: [touched(folder.parent / "scores.csv")]))
    assert "leaves its folder" in fault


def test_results_that_are_not_named_are_noticed() -> None:
    (fault,) = faults_of(writing(lambda case, folder: touched(folder / "scores.csv") and []))
    assert "files it does not name" in fault


def test_results_over_the_input_are_noticed() -> None:
    faults = faults_of(writing(lambda case, folder: touched(Path(case.origin.path)) and []))
    assert "- results: write() changes what was read" in faults


def test_all_faults_are_reported_at_once() -> None:
    class Broken(Copy):
        name = "Broken"

        def read(self, path: Path, seed: int = 0) -> Case:
            path.stat()
            case: Case = super().read(path, seed)
            return replace(case, test=None)

        def write(self, *_: Any) -> list[Path]:
            raise ZeroDivisionError

    assert rules_of(Broken) == ["class attributes", "missing input", "results"]

from __future__ import annotations

import csv
import pickle
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from elixir_plugin.adapters.backdoorbench import adapter as module
from elixir_plugin.adapters.backdoorbench import data
from elixir_plugin.adapters.backdoorbench.adapter import BackdoorBenchOptions
from elixir_plugin.adapters.backdoorbench.data import CleanData
from elixir_plugin.adapters.backdoorbench.reserved import reserved_clean
from fake_records import POISON, TARGET, TEST, TRAIN, Hostile, Workspace, stamped, write_batch
from PIL import Image
from real_checkouts import real_checkout

from elixir_plugin import Case, Classifier, Evaluation, ImageSet, Outcome, get_adapter
from elixir_plugin.core.context import derive_seed
from elixir_plugin.core.metrics import ModelMetrics
from elixir_plugin.errors import SettingsError
from elixir_plugin.evaluation.metrics import model_metrics

Refused = Callable[..., str]


def read(path: Path, seed: int = 0, **options: Any) -> Case:
    adapter = get_adapter("backdoorbench")({"architecture": "small_resnet", **options})
    return adapter.read(path, seed)


def pixels(samples: ImageSet | None) -> Any:
    assert samples is not None
    return samples.read(slice(None))


def set_of(case: Case, name: str) -> ImageSet:
    part = getattr(case, name)
    assert isinstance(part, ImageSet)
    return part


class TestReading:
    def test_suspect_set_is_the_clean_set_with_the_held_samples_put_in(self, workspace: Workspace) -> None:
        case = read(workspace.record)
        expected = workspace.train.copy()
        for i in POISON:
            expected[i] = stamped(expected[i])
        labels = np.arange(TRAIN) % 10
        labels[list(POISON)] = TARGET
        train = set_of(case, "train")
        assert np.array_equal(pixels(train), expected) and pixels(train).dtype == np.uint8
        assert np.array_equal(train.labels, labels)
        assert train.ids.tolist() == list(range(TRAIN))
        assert train.names is None, "file names would tell which samples are poison"

    def test_truth(self, workspace: Workspace) -> None:
        truth = read(workspace.record).truth
        assert truth is not None
        assert np.flatnonzero(truth.poison).tolist() == list(POISON)
        assert not np.asarray(truth.cover).any()
        assert np.array_equal(truth.original_labels, np.arange(TRAIN) % 10)  # type: ignore[arg-type]
        assert truth.kind == "dirty-label"

    def test_test_sets(self, workspace: Workspace) -> None:
        case = read(workspace.record)
        rows = [i for i in range(TEST) if i % 10 != TARGET]
        assert np.array_equal(pixels(case.test), workspace.test)
        assert case.test_poisoned is not None
        assert np.array_equal(pixels(case.test_poisoned.samples), np.stack([stamped(workspace.test[i]) for i in rows]))
        assert (case.test_poisoned.samples.labels == TARGET).all()
        assert case.test_poisoned.original_labels.tolist() == [i % 10 for i in rows]

    def test_model_has_the_weights_and_the_normalisation(self, workspace: Workspace) -> None:
        model = read(workspace.record).model
        assert model is not None and not model.training
        assert model.mean.flatten().tolist() == pytest.approx([0.4914, 0.4822, 0.4465])
        for name, value in model.module.state_dict().items():
            assert torch.equal(value, workspace.content["model"][name])

    def test_file_in_place_of_the_folder(self, workspace: Workspace) -> None:
        case = read(workspace.record / "attack_result.pt")
        assert case.origin.path == str(workspace.record)

    def test_facts_are_json(self, workspace: Workspace) -> None:
        import json

        facts = read(workspace.record).origin.facts
        assert json.loads(json.dumps(facts)) == facts
        assert facts["model_name"] == "preactresnet18" and facts["architecture"] == "small_resnet"

    def test_nothing_of_the_attack_is_visible(self, workspace: Workspace) -> None:
        seen = read(workspace.record).visible()
        assert (seen.truth, seen.test, seen.test_poisoned) == (None, None, None)
        assert not seen.origin.facts and not seen.notes

    def test_record_may_be_moved_and_renamed_with_its_data_named(self, workspace: Workspace, tmp_path: Path) -> None:
        first = read(workspace.record)
        shutil.move(workspace.record, tmp_path / "my recordings")
        moved = read(tmp_path / "my recordings", data=workspace.root / "data" / "cifar10")
        assert set_of(moved, "train").fingerprint() == set_of(first, "train").fingerprint()
        assert read(tmp_path / "my recordings", data=workspace.batches).train is not None

    def test_paths_of_branch_v2_start_one_folder_up(self, workspace: Workspace) -> None:
        for part in ("bd_train", "bd_test"):
            container = workspace.content[part]["bd_data_container"]
            container["save_folder_path"] = container["save_folder_path"].replace("./", "../", 1)
            for value in container["data_dict"].values():
                value["path"] = value["path"].replace("./", "../", 1)
        assert read(workspace.save(data_path="../data/cifar10")).truth.poison.sum() == len(POISON)  # type: ignore[union-attr]

    def test_lazy_reading_gives_the_same(self, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
        eager = read(workspace.record)
        monkeypatch.setattr(module, "EAGER_BYTES", 0)
        clean = read_lazily(monkeypatch)
        lazy = read(workspace.record)
        assert clean and not isinstance(set_of(lazy, "train").images, np.ndarray)
        assert lazy.test_poisoned is not None and eager.test_poisoned is not None
        assert not isinstance(lazy.test_poisoned.samples.images, np.ndarray)
        assert set_of(lazy, "train").fingerprint() == set_of(eager, "train").fingerprint()
        assert lazy.test_poisoned.samples.fingerprint() == eager.test_poisoned.samples.fingerprint()


def read_lazily(monkeypatch: pytest.MonkeyPatch) -> bool:
    """Let the clean data come as a lazy set, as those of a large data set do."""
    from elixir_plugin.core.images import LazyImages

    plain = data.read_clean

    def lazily(*args: Any) -> data.CleanData:
        clean = plain(*args)
        parts = []
        for part in (clean.train, clean.test):
            images = pixels(part)
            backing = LazyImages(lambda i, images=images: images[i], len(part), part.image_shape)  # type: ignore[misc]
            parts.append(ImageSet(backing, part.labels, part.num_classes))
        return data.CleanData(parts[0], parts[1], clean.notes)

    monkeypatch.setattr(module, "read_clean", lazily)
    return True


class TestVariantsOfTheFormat:
    def test_integer_keys(self, workspace: Workspace) -> None:
        expected = set_of(read(workspace.record), "train").fingerprint()
        part = workspace.part("bd_train", workspace.train, dict.fromkeys(POISON, TARGET), key=int)
        part["poison_indicator"] = part["poison_indicator"].astype(np.int64)
        assert set_of(read(workspace.save(bd_train=part)), "train").fingerprint() == expected

    def test_images_kept_in_memory(self, workspace: Workspace) -> None:
        expected = read(workspace.record)
        for name, clean in (("bd_train", workspace.train), ("bd_test", workspace.test)):
            container = workspace.content[name]["bd_data_container"]
            container["save_folder_path"] = None
            for key, value in container["data_dict"].items():
                label, original = value["other_info"]
                image = Image.fromarray(stamped(clean[int(key)]))
                container["data_dict"][key] = (image, label, np.int64(original))
        for folder in ("bd_train_dataset", "bd_test_dataset"):
            shutil.rmtree(workspace.record / folder)
        case = read(workspace.save())
        assert set_of(case, "train").fingerprint() == set_of(expected, "train").fingerprint()
        assert case.test_poisoned is not None and expected.test_poisoned is not None
        assert case.test_poisoned.samples.fingerprint() == expected.test_poisoned.samples.fingerprint()

    def test_format_of_v1(self, workspace: Workspace) -> None:
        expected = read(workspace.record)
        rows = [i for i in range(TEST) if i % 10 != TARGET]
        order = list(reversed(POISON))
        case = read(
            workspace.save(
                img_size=[32, 32, 3],
                bd_train={
                    "x": [Image.fromarray(stamped(workspace.train[i])) for i in order],
                    "y": [TARGET] * len(order),
                    "original_index": np.array(order),
                },
                bd_test={
                    "x": [Image.fromarray(stamped(workspace.test[i])) for i in rows],
                    "y": [TARGET] * len(rows),
                    "original_index": rows,
                    "original_targets": [i % 10 for i in rows],
                },
            )
        )
        assert set_of(case, "train").fingerprint() == set_of(expected, "train").fingerprint()
        assert case.truth is not None and np.flatnonzero(case.truth.poison).tolist() == list(POISON)
        assert case.test_poisoned is not None and expected.test_poisoned is not None
        assert case.test_poisoned.samples.fingerprint() == expected.test_poisoned.samples.fingerprint()

    def test_late_files_of_v1_list_the_clean_positions_too(self, workspace: Workspace) -> None:
        part = {
            "x": [Image.fromarray(stamped(workspace.train[i])) for i in POISON],
            "y": [TARGET] * len(POISON),
            "original_index": np.arange(TRAIN),
            "poison_indicator": np.isin(np.arange(TRAIN), POISON).astype(int),
        }
        truth = read(workspace.save(bd_train=part)).truth
        assert truth is not None and np.flatnonzero(truth.poison).tolist() == list(POISON)

    @pytest.mark.parametrize("none", [None, {"x": None, "y": None, "original_index": None}], ids=["v2", "v1"])
    def test_no_poisoned_training_set(self, workspace: Workspace, none: Any) -> None:
        case = read(workspace.save(bd_train=none))
        assert case.train is None and case.truth is None
        assert case.clean is not None and case.model is not None and case.test_poisoned is not None
        assert any("no poisoned training set" in note for note in case.notes)

    def test_pickled_by_numpy_1(self, workspace: Workspace) -> None:
        expected = set_of(read(workspace.record), "train").fingerprint()
        file = workspace.record / "attack_result.pt"
        renamed = 0
        with zipfile.ZipFile(file) as old:
            members = {item: old.read(item) for item in old.namelist()}
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as new:
            for name, content in members.items():
                renamed += content.count(b"numpy._core.")
                new.writestr(name, content.replace(b"numpy._core.", b"numpy.core."))
        assert renamed or np.__version__.startswith("1.")
        assert set_of(read(workspace.record), "train").fingerprint() == expected

    def test_subset_keeps_its_order_and_its_indices(self, workspace: Workspace) -> None:
        index = np.array([12, 3, 1, 39])
        workspace.content["bd_train"]["original_index_array"] = index
        case = read(workspace.save())
        train = set_of(case, "train")
        assert train.ids.tolist() == index.tolist()
        assert train.labels.tolist() == [TARGET, 3, TARGET, 9]
        assert case.truth is not None and case.truth.poison.tolist() == [True, False, True, False]
        assert np.array_equal(pixels(train)[0], stamped(workspace.train[12]))
        assert np.array_equal(pixels(train)[1], workspace.train[3])

    def test_wrapped_weights_lose_their_prefix(self, workspace: Workspace) -> None:
        weights = {f"module.{name}": value for name, value in workspace.content["model"].items()}
        assert read(workspace.save(model=weights)).origin.facts["key_prefix"] == ""
        vit = {f"1.{name}": value for name, value in workspace.content["model"].items()}
        case = read(workspace.save(model=vit))
        assert case.origin.facts["key_prefix"] == "1."
        assert case.model is not None and case.model.input_size == 224


class TestPoisonAndCover:
    """BackdoorBench keeps one indicator; see ``truth_of`` for what is told apart, and how."""

    def truth(self, workspace: Workspace, samples: dict[int, int]) -> tuple[list[int], list[int], str]:
        truth = read(workspace.save(bd_train=workspace.part("bd_train", workspace.train, samples))).truth
        assert truth is not None and truth.cover is not None
        return np.flatnonzero(truth.poison).tolist(), np.flatnonzero(truth.cover).tolist(), truth.kind

    def test_triggered_samples_of_the_target_class_are_poison(self, workspace: Workspace) -> None:
        assert self.truth(workspace, {1: 0, 12: 0, 20: 0, 30: 0}) == ([1, 12, 20, 30], [], "dirty-label")

    def test_triggered_samples_with_their_own_label_are_cover(self, workspace: Workspace) -> None:
        assert self.truth(workspace, {1: 0, 12: 0, 25: 5, 30: 0}) == ([1, 12], [25, 30], "dirty-label")

    def test_all_to_all(self, workspace: Workspace) -> None:
        assert self.truth(workspace, {1: 2, 12: 3, 9: 0, 25: 5}) == ([1, 9, 12], [25], "dirty-label")

    def test_clean_label(self, workspace: Workspace) -> None:
        assert self.truth(workspace, {0: 0, 10: 0, 20: 0}) == ([0, 10, 20], [], "clean-label")

    def test_no_poison(self, workspace: Workspace) -> None:
        assert self.truth(workspace, {}) == ([], [], "none")


class TestReservedCleanSet:
    def test_from_the_clean_originals_of_the_training_set(self, workspace: Workspace) -> None:
        case = read(workspace.record, clean_ratio=0.5)
        clean = set_of(case, "clean")
        assert len(clean) == TRAIN // 2 and len(set_of(case, "test")) == TEST
        assert np.array_equal(pixels(clean), workspace.train[clean.ids]), "without the trigger, also for poison samples"
        assert np.array_equal(clean.labels, clean.ids % 10)
        assert any("20 of the 40 clean originals" in note and "oracle" in note for note in case.notes)

    def test_from_the_test_set_it_is_not_scored(self, workspace: Workspace) -> None:
        case = read(workspace.record, clean_ratio=0.3, clean_from="test")
        clean, test = set_of(case, "clean"), set_of(case, "test")
        assert case.test_poisoned is not None
        assert len(clean) == 6 and len(test) == TEST - 6
        assert not set(clean.ids) & set(test.ids)
        assert not set(clean.ids) & set(case.test_poisoned.samples.ids)
        assert np.array_equal(
            case.test_poisoned.samples.ids, [i for i in range(TEST) if i % 10 != TARGET and i not in clean.ids]
        )
        assert case.test_poisoned.original_labels.tolist() == (case.test_poisoned.samples.ids % 10).tolist()
        assert any("6 of the 20 clean test samples" in note for note in case.notes)

    def test_drawn_with_the_seed(self, workspace: Workspace) -> None:
        drawn = [set_of(read(workspace.record, seed, clean_ratio=0.3), "clean").ids.tolist() for seed in (0, 0, 1)]
        assert drawn[0] == drawn[1] != drawn[2]

    def test_every_class_has_its_share(self, workspace: Workspace) -> None:
        for seed in range(4):
            case = read(workspace.record, seed, clean_ratio=0.3)
            assert np.bincount(set_of(case, "clean").labels, minlength=10).tolist().count(1) == 8, "12 of 40 samples"
            assert set(set_of(case, "clean").labels) == set(range(10))
            assert any("drawn class by class: 1 to 2 per class." in note for note in case.notes)

    def test_the_toolkits_own_draw_is_uniform(self, workspace: Workspace) -> None:
        case = read(workspace.record, 5, clean_ratio=0.25, clean_draw="uniform")
        rng = np.random.default_rng(derive_seed(5, "backdoorbench/clean"))
        assert set_of(case, "clean").ids.tolist() == sorted(rng.choice(TRAIN, 10, False))
        missing = sorted(set(range(10)) - set(set_of(case, "clean").labels.tolist()))
        assert missing, "this draw is to leave a class out"
        named = ", ".join(map(str, missing))
        assert any(f"drawn uniformly (BackdoorBench's convention): 1 to 2 per class, none of {named}" in note
                   for note in case.notes)  # fmt: skip

    @pytest.mark.parametrize("draw", ["stratified", "uniform"])
    def test_a_class_of_three_samples_at_one_percent(self, workspace: Workspace, draw: str) -> None:
        """400 originals: 3 of class 9, 97 of class 8, about 37 or 38 of every other."""
        labels = np.repeat(np.arange(10), [38, 38, 38, 38, 37, 37, 37, 37, 97, 3])
        clean = CleanData(*(ImageSet(np.zeros((400, 4, 4, 3), np.uint8), labels, 10) for _ in range(2)))
        options: dict[str, Any] = {"clean_ratio": 0.025, "clean_draw": draw, "index": None}
        least = []
        for seed in range(20):
            drawn, _, note = reserved_clean(clean, seed, clean_from="train", **options)
            assert len(drawn) == 10
            least.append(int(drawn.class_counts()[9]))
            assert ("none of" in note) == (int(drawn.class_counts().min()) == 0)
        assert set(least) == {1} if draw == "stratified" else min(least) == 0

    def test_a_listed_set_says_how_many_of_each_class_it_holds(self, workspace: Workspace, tmp_path: Path) -> None:
        (tmp_path / "index.txt").write_text("0 10 11 12")
        case = read(workspace.record, index=tmp_path / "index.txt")
        assert set_of(case, "clean").labels.tolist() == [0, 0, 1, 2]
        assert any("1 to 2 per class, none of 3, 4, 5, 6, 7, 8, 9" in note for note in case.notes)

    def test_a_run_with_the_toolkits_draw_is_the_run_it_was(self) -> None:
        """Runs from before there was a choice are found again with it, and not taken for those of the other draw."""
        given: list[dict[str, Any]] = [{}, {"clean_draw": "uniform"}, {"clean_draw": "stratified"}]
        default, uniform, stratified = (
            BackdoorBenchOptions.under_first_names(BackdoorBenchOptions.build(each).dump()) for each in given
        )
        assert "clean_draw" not in uniform and default == stratified == {**uniform, "clean_draw": "stratified"}

    def test_something_must_be_left_to_score(self, workspace: Workspace, refused: Refused) -> None:
        refused(lambda: read(workspace.record, clean_ratio=1, clean_from="test"), "clean_ratio", "1.0 of 20", "left")

    def test_options_are_checked(self, refused: Refused) -> None:
        refused(lambda: read(Path(), clean_ratio=0, clean_form="test"), "clean_ratio", "clean_from", kind=SettingsError)


class TestRefusals:
    @pytest.mark.parametrize("as_zip", [True, False], ids=["zip", "legacy"])
    def test_code_in_the_record(self, workspace: Workspace, refused: Refused, tmp_path: Path, as_zip: bool) -> None:
        content = workspace.content | {"info": Hostile(tmp_path / "ran")}
        torch.save(content, workspace.record / "attack_result.pt", _use_new_zipfile_serialization=as_zip)
        message = refused(
            lambda: read(workspace.record), "not plain data", "attack_result.pt", "allowed:", "do not use"
        )
        assert not as_zip or "system" in message
        assert not (tmp_path / "ran").exists()

    def test_code_in_a_plain_pickle(self, workspace: Workspace, refused: Refused, tmp_path: Path) -> None:
        (workspace.record / "attack_result.pt").write_bytes(pickle.dumps(Hostile(tmp_path / "ran")))
        refused(lambda: read(workspace.record), "attack_result.pt")
        assert not (tmp_path / "ran").exists()

    def test_code_in_a_cifar_batch(self, workspace: Workspace, refused: Refused, tmp_path: Path) -> None:
        (workspace.batches / "data_batch_3").write_bytes(pickle.dumps({"data": Hostile(tmp_path / "ran")}))
        refused(lambda: read(workspace.record), "not plain data", "data_batch_3", "system")
        assert not (tmp_path / "ran").exists()

    @pytest.mark.parametrize(
        ("folder", "path"),
        [
            (None, "../../secret/x.png"),
            (None, "./record/fake/bd_train_dataset/../../secret/x.png"),
            (None, "./record/fake/bd_train_dataset/../x.png"),
            (None, "./record/fake/bd_train_dataset/1/.."),
            (None, "/etc/secret/1/1.png"),
            (None, "./record/other/bd_train_dataset/1/1.png"),
            (None, "record\\fake\\bd_train_dataset\\..\\x.png"),
            (None, "1.png"),
            (None, 7),
            ("/abs/bd_train_dataset", "/abs/bd_train_dataset/1/1.png"),
            ("../../secret", "../../secret/1/1.png"),
            ("record/../secret", "record/../secret/1/1.png"),
            ("..", "../1/1.png"),
            ("", "1/1.png"),
            (None, "./record/fake/bd_train_dataset/1/\0.png"),
        ],
    )
    def test_path_that_climbs(self, workspace: Workspace, refused: Refused, folder: str | None, path: Any) -> None:
        secret = workspace.root.parent / "secret"
        secret.mkdir()
        Image.fromarray(workspace.train[0]).save(secret / "x.png")
        workspace.container[np.int64(1)]["path"] = path
        if folder is not None:
            workspace.content["bd_train"]["bd_data_container"]["save_folder_path"] = folder
        workspace.save()
        refused(lambda: read(workspace.record), "path", "where:", "found:")

    def test_link_out_of_the_record(self, workspace: Workspace, refused: Refused, tmp_path: Path) -> None:
        inner = workspace.record / "bd_train_dataset" / "1" / "1.png"
        shutil.move(inner, tmp_path / "outside.png")
        inner.symlink_to(tmp_path / "outside.png")
        refused(lambda: read(workspace.record), "path leaves its folder", "bd_train_dataset/1/1.png")

    def test_truncated_image(self, workspace: Workspace, refused: Refused) -> None:
        png = workspace.record / "bd_train_dataset" / "2" / "12.png"
        png.write_bytes(png.read_bytes()[:-400])
        refused(lambda: read(workspace.record), "cannot be decoded", "12.png", "truncated", "next:")

    def test_truncated_image_of_a_lazy_set(
        self, workspace: Workspace, refused: Refused, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        png = workspace.record / "bd_train_dataset" / "2" / "12.png"
        png.write_bytes(png.read_bytes()[:-400])
        read_lazily(monkeypatch)
        refused(lambda: read(workspace.record), "cannot be decoded", "12.png")

    def test_image_of_another_size(self, workspace: Workspace, refused: Refused) -> None:
        Image.new("RGB", (30, 32)).save(workspace.record / "bd_test_dataset" / "3" / "13.png")
        refused(lambda: read(workspace.record), "another size", "13.png", "(32, 30, 3)", "(32, 32, 3)")

    def test_missing_image(self, workspace: Workspace, refused: Refused) -> None:
        (workspace.record / "bd_train_dataset" / "2" / "12.png").unlink()
        refused(lambda: read(workspace.record), "image file not found", "12.png")

    def test_label_out_of_range(self, workspace: Workspace, refused: Refused) -> None:
        workspace.container[np.int64(12)]["other_info"] = [10, 2]
        workspace.save()
        refused(lambda: read(workspace.record), "label out of range", "bd_train labels[1]", "10", "0..9")

    def test_label_of_another_type(self, workspace: Workspace, refused: Refused) -> None:
        workspace.container[np.int64(12)]["other_info"] = ["0", 2]
        workspace.save()
        refused(lambda: read(workspace.record), "bd_train, sample 12: label", "'0'", "an integer")

    def test_weights_of_another_architecture(self, workspace: Workspace, refused: Refused) -> None:
        refused(
            lambda: read(workspace.record, architecture="cifar_resnet18"),
            "weights do not fit",
            "attack_result.pt: model",
            "missing",
            "name the architecture",
        )

    def test_architecture_nobody_knows(self, workspace: Workspace, refused: Refused) -> None:
        workspace.save(model_name="senet18")
        refused(
            lambda: read(workspace.record, architecture=None), "model_name", "senet18", "preactresnet18", "architecture"
        )

    def test_weights_that_are_none(self, workspace: Workspace, refused: Refused) -> None:
        workspace.save(model=["no", "weights"])
        refused(lambda: read(workspace.record), "not a state dict", "list")

    def test_empty_folder(self, refused: Refused, tmp_path: Path) -> None:
        refused(lambda: read(tmp_path), "record not found", str(tmp_path), "no attack_result.pt", "record/<name>")

    def test_folder_of_records(self, workspace: Workspace, refused: Refused) -> None:
        refused(lambda: read(workspace.root / "record"), "record not found", "records below this folder: fake")

    def test_defense_result_in_place_of_a_record(self, workspace: Workspace, refused: Refused) -> None:
        torch.save({"model_name": "x", "num_classes": 10, "model": {}}, workspace.record / "attack_result.pt")
        refused(lambda: read(workspace.record), "not a BackdoorBench attack result", "model_name", "bd_train")

    def test_not_a_torch_file(self, workspace: Workspace, refused: Refused) -> None:
        (workspace.record / "attack_result.pt").write_bytes(b"no such thing")
        refused(lambda: read(workspace.record), "attack_result.pt")

    def test_missing_clean_data(self, workspace: Workspace, refused: Refused) -> None:
        shutil.rmtree(workspace.root / "data")
        refused(
            lambda: read(workspace.record),
            "clean data not found",
            "./data/cifar10",
            str(workspace.root / "data" / "cifar10"),
            "option data=",
        )

    def test_recorded_data_path_is_not_followed_anywhere(self, workspace: Workspace, refused: Refused) -> None:
        elsewhere = workspace.root.parent / "elsewhere" / "x" / "y"
        shutil.move(workspace.root / "data" / "cifar10", elsewhere.parent.parent)
        workspace.save(data_path="..")
        refused(lambda: read(workspace.record), "clean data not found", "looked for nothing", "option data=")
        workspace.save(data_path=str(elsewhere))
        refused(lambda: read(workspace.record), "clean data not found", "option data=")

    def test_named_clean_data_that_are_not_there(self, workspace: Workspace, refused: Refused) -> None:
        refused(lambda: read(workspace.record, data="nowhere"), "clean data not found", "option data", "nowhere")

    def test_incomplete_clean_data(self, workspace: Workspace, refused: Refused) -> None:
        (workspace.batches / "data_batch_4").unlink()
        refused(lambda: read(workspace.record), "clean data incomplete", "no data_batch_4", "option data=")

    def test_clean_data_of_another_length(self, workspace: Workspace, refused: Refused) -> None:
        write_batch(workspace.batches / "data_batch_5", workspace.train[:4], [0, 1, 2, 3])
        refused(lambda: read(workspace.record), "poison_indicator", "(40,)", "36 clean samples")

    def test_clean_data_in_another_order(self, workspace: Workspace, refused: Refused) -> None:
        one, two = workspace.batches / "data_batch_1", workspace.batches / "data_batch_2"
        first, second = one.read_bytes(), two.read_bytes()
        one.write_bytes(second)
        two.write_bytes(first)
        refused(lambda: read(workspace.record), "do not belong together", "sample 1", "1 in the record, 9 in the clean")

    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            ({"labels": [0, 1]}, "one label per image"),
            ({"labels": [0, 1, 2, 3, 4, 5, 6, 10]}, "label out of range"),
            ({"labels": "no"}, "a list of integers"),
            ({"data": np.zeros((8, 3071), np.uint8)}, "uint8 [n, 3072]"),
            ({"data": np.zeros((8, 3072))}, "uint8 [n, 3072]"),
            ({"data": [1, 2]}, "uint8 [n, 3072]"),
        ],
    )
    def test_broken_cifar_batch(
        self, workspace: Workspace, refused: Refused, changes: dict[str, Any], expected: str
    ) -> None:
        write_batch(workspace.batches / "data_batch_2", workspace.train[:8], list(range(8)), **changes)
        refused(lambda: read(workspace.record), "data_batch_2", expected)

    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            ({"num_classes": 100}, ("num_classes", "100", "10 for cifar10")),
            ({"num_classes": "10"}, ("num_classes", "'10'", "an integer")),
            ({"img_size": (64, 64, 3)}, ("img_size", "(64, 64, 3)", "(32, 32, 3)")),
            ({"img_size": (28, 28, 1)}, ("img_size", "(28, 28, 1)", "3 channels")),
            ({"img_size": 32}, ("img_size", "int")),
            ({"clean_data": "mnist"}, ("MNIST records are not supported", "cifar10")),
            ({"data_path": None}, ("data_path", "NoneType")),
            ({"bd_test": None}, ("bd_test", "NoneType")),
            ({"bd_train": {}}, ("bd_train: bd_data_container",)),
        ],
    )
    def test_record_that_contradicts_its_data(
        self, workspace: Workspace, refused: Refused, changes: dict[str, Any], expected: tuple[str, ...]
    ) -> None:
        workspace.save(**changes)
        refused(lambda: read(workspace.record), *expected)

    @pytest.mark.parametrize(
        ("key", "value", "expected"),
        [
            ("original_index_array", np.array([0, 40]), "position out of range"),
            ("original_index_array", np.array([-1, 3]), "position out of range"),
            ("original_index_array", np.array([3, 3]), "position given twice"),
            ("original_index_array", np.array([0.5]), "integers [n]"),
            ("original_index_array", [[1], [2, 3]], "numbers [n]"),
            ("original_index_array", torch.zeros(2, dtype=torch.bfloat16), "numbers [n]"),
            ("poison_indicator", np.full(TRAIN, 2.0), "0 or 1"),
            ("poison_indicator", np.ones(TRAIN), "no image for samples"),
            ("poison_indicator", None, "0 or 1"),
        ],
    )
    def test_broken_part(self, workspace: Workspace, refused: Refused, key: str, value: Any, expected: str) -> None:
        workspace.content["bd_train"][key] = value
        workspace.save()
        refused(lambda: read(workspace.record), "bd_train", expected)

    def test_image_in_memory_that_is_none(self, workspace: Workspace, refused: Refused) -> None:
        class Hollow:
            def __reduce__(self) -> tuple[Any, ...]:
                return Image.Image, ()

        workspace.container[np.int64(12)] = (Hollow(), 0, 2)
        workspace.save()
        refused(lambda: read(workspace.record), "image cannot be read", "bd_train")
        workspace.container[np.int64(12)] = (Image.new("RGB", (3, 4)), 0, 2)
        workspace.save()
        refused(lambda: read(workspace.record), "another size", "(4, 3, 3)")
        for broken in ((Image.new("RGB", (32, 32)), 0), ("image", 0, 2), (), 5):
            workspace.container[np.int64(12)] = broken
            workspace.save()
            refused(lambda: read(workspace.record), "bd_train, sample 12", "an image with label and original label")

    def test_broken_part_of_v1(self, workspace: Workspace, refused: Refused) -> None:
        image = Image.fromarray(workspace.train[0])
        workspace.save(bd_train={"x": [image, image], "y": [0], "original_index": [0, 1]})
        refused(lambda: read(workspace.record), "bd_train", "2 images", "2 positions", "as many of each")
        workspace.save(bd_train={"x": ["image"], "y": [0], "original_index": [0]})
        refused(lambda: read(workspace.record), "bd_train, sample 0", "str", "an image")


class TestOtherDataSets:
    def build(self, workspace: Workspace, name: str, classes: int, folder: str) -> Path:
        """Give the record ten made-up training samples in image folders, sorted as torchvision sorts."""
        for split, images in (("train", workspace.train), ("val", workspace.test)):
            for i in range(10):
                label = i * classes // 10
                target = workspace.root / folder / split / f"n{label:03d}" / "images" / f"{i}.png"
                target.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(images[i]).resize((40, 36)).save(target)
        for split in ("train", "val"):
            for label in range(classes):
                (workspace.root / folder / split / f"n{label:03d}").mkdir(exist_ok=True)
        empty = {
            "bd_data_container": {"save_folder_path": None, "data_dict": {}, "save_file_format": ".png"},
            "original_index_array": np.arange(10),
            "poison_indicator": np.zeros(10),
        }
        state = Classifier.build("small_resnet", classes).module.state_dict()
        return workspace.save(
            model=state, num_classes=classes, clean_data=name, data_path=f"./{folder}", bd_train=empty, bd_test=empty
        )

    def test_image_folders_are_read_in_order_and_resized(self, workspace: Workspace) -> None:
        case = read(self.build(workspace, "own", 5, "data/own"))
        train = set_of(case, "train")
        assert train.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4] and train.image_shape == (32, 32, 3)
        image = Image.fromarray(workspace.train[3]).resize((40, 36)).resize((32, 32), Image.Resampling.BILINEAR)
        assert np.array_equal(pixels(train)[3], np.asarray(image))
        assert any("normalisation of data set 'own'" in note for note in case.notes)
        assert case.truth is not None and case.truth.kind == "none"
        assert case.test_poisoned is None

    def test_normalisation_can_be_given(self, workspace: Workspace) -> None:
        case = read(self.build(workspace, "own", 5, "data/own"), mean=[0.5], std=[0.25])
        assert case.model is not None and case.model.mean.item() == 0.5
        assert not any("normalisation" in note for note in case.notes)

    def test_tiny_image_net_lies_one_folder_deeper(self, workspace: Workspace) -> None:
        record = self.build(workspace, "tiny", 200, "data/tiny/tiny-imagenet-200")
        case = read(record, data=workspace.root / "data" / "tiny")
        assert case.num_classes == 200 and len(set_of(case, "test")) == 10

    def test_missing_folders(self, workspace: Workspace, refused: Refused) -> None:
        record = self.build(workspace, "own", 5, "data/own")
        shutil.rmtree(workspace.root / "data" / "own" / "val")
        refused(lambda: read(record), "clean data incomplete", "no folder test", "train/<class>", "option data=")

    def test_other_number_of_classes(self, workspace: Workspace, refused: Refused) -> None:
        record = self.build(workspace, "own", 5, "data/own")
        (workspace.root / "data" / "own" / "train" / "n999").mkdir()
        refused(lambda: read(record), "contradict the record", "6 class folders", "5 class folders")

    def gtsrb(self, workspace: Workspace, row: str = "{name};9;9;0;0;9;9;{label}") -> Path:
        root = workspace.root / "data" / "gtsrb"
        header = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId\n"
        (root / "Test").mkdir(parents=True)
        for label in range(43):
            folder = root / "Train" / f"{label:05d}"
            folder.mkdir(parents=True)
            Image.new("RGB", (20 + label, 30), (label, 0, 0)).save(folder / "00000.ppm")
            lines = row.format(name="00000.ppm", label=label)
            (folder / f"GT-{label:05d}.csv").write_text(header + lines + "\n")
        Image.new("RGB", (9, 9), (0, 7, 0)).save(root / "Test" / "00000.ppm")
        (root / "Test" / "GT-final_test.csv").write_text(header + row.format(name="00000.ppm", label=42) + "\n")
        empty = {
            "bd_data_container": {"save_folder_path": None, "data_dict": {}, "save_file_format": ".png"},
            "original_index_array": np.arange(43),
            "poison_indicator": np.zeros(43),
        }
        test = empty | {"original_index_array": np.arange(1), "poison_indicator": np.zeros(1)}
        return workspace.save(
            model=Classifier.build("small_resnet", 43).module.state_dict(),
            num_classes=43,
            clean_data="gtsrb",
            data_path="./data/gtsrb",
            bd_train=empty,
            bd_test=test,
        )

    def test_gtsrb(self, workspace: Workspace) -> None:
        case = read(self.gtsrb(workspace))
        train = set_of(case, "train")
        assert train.labels.tolist() == list(range(43)) and train.image_shape == (32, 32, 3)
        assert pixels(train)[:, 5, 5, 0].tolist() == list(range(43))
        assert set_of(case, "test").labels.tolist() == [42]
        assert case.model is not None and case.model.mean.flatten().tolist() == [0, 0, 0]

    def test_gtsrb_table_with_a_path_that_climbs(self, workspace: Workspace, refused: Refused) -> None:
        record = self.gtsrb(workspace, row="../../../x.png;9;9;0;0;9;9;{label}")
        refused(lambda: read(record), "path leaves its folder", "../../../x.png")

    def test_gtsrb_table_of_another_form(self, workspace: Workspace, refused: Refused) -> None:
        record = self.gtsrb(workspace, row="{name},1,{label}")
        refused(lambda: read(record), "not a GTSRB table", "GT-00000.csv:2", "8 columns")

    def test_gtsrb_without_tables(self, workspace: Workspace, refused: Refused) -> None:
        record = self.gtsrb(workspace)
        (workspace.root / "data" / "gtsrb" / "Train" / "00007" / "GT-00007.csv").unlink()
        refused(lambda: read(record), "clean data incomplete", "GT-00007.csv", "option data=")

    def test_cifar_sums_are_those_of_torchvision(self) -> None:
        from torchvision.datasets import CIFAR10, CIFAR100

        for name, cls in (("cifar10", CIFAR10), ("cifar100", CIFAR100)):
            ours = data.CIFAR[name]
            assert ours.folder == cls.base_folder
            assert ours.train == dict(cls.train_list) and ours.test == dict(cls.test_list)

    def test_cifar100(self, workspace: Workspace) -> None:
        root = workspace.root / "data" / "cifar100" / "cifar-100-python"
        root.mkdir(parents=True)
        for name, images in (("train", workspace.train), ("test", workspace.test)):
            content = {
                b"data": images.transpose(0, 3, 1, 2).reshape(len(images), -1),
                b"fine_labels": [*range(len(images))],
            }
            (root / name).write_bytes(pickle.dumps(content))
        clean = data.read_clean("cifar100", root.parent, 100, (32, 32, 3))
        assert np.array_equal(pixels(clean.train), workspace.train) and clean.train.labels[-1] == TRAIN - 1
        assert clean.test.num_classes == 100 and "not the canonical files" in clean.notes[0]


class TestWriting:
    def case(self, workspace: Workspace, **options: Any) -> tuple[Case, Any]:
        return read(workspace.record, **options), get_adapter("backdoorbench")()

    def test_model_and_tables(self, workspace: Workspace) -> None:
        case, adapter = self.case(workspace)
        assert case.model is not None
        model = case.model.clone()
        model.module.get_parameter("linear.bias").data += 1
        folder = adapter.result_folder(case, "d3")
        assert folder == workspace.record / "defense" / "d3"
        metrics = ModelMetrics(acc=0.9, asr=0.1, ra=0.8, clean_loss=1.5, triggered_loss=None)
        written = adapter.write(case, Outcome(model=model), Evaluation(after=metrics), folder, "d3")
        assert sorted(path.name for path in written) == ["d3_df.csv", "d3_df_summary.csv", "defense_result.pt"]
        assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in written)
        content = torch.load(folder / "defense_result.pt")
        assert set(content) == {"model_name", "num_classes", "model"}
        assert content["model_name"] == "preactresnet18" and content["num_classes"] == 10
        assert content["model"].keys() == workspace.content["model"].keys()
        assert torch.equal(content["model"]["linear.bias"], workspace.content["model"]["linear.bias"] + 1)
        assert rows(folder / "d3_df.csv")[1] == ["0", "0", "", "", "", "1.5", "", "0.9", "0.1", "0.8"]
        summary = rows(folder / "d3_df_summary.csv")
        assert [row[0] for row in summary] == ["", "last", "valid_max", "exist_nan_value"]
        assert summary[1][-3:] == summary[2][-3:] == ["0.9", "0.1", "0.8"]
        assert summary[3][1:] == ["False"] * 9

    def test_written_weights_read_back_as_a_record(self, workspace: Workspace) -> None:
        case, adapter = self.case(workspace)
        adapter.write(case, Outcome(model=case.model), Evaluation(), workspace.root / "out", "d3")
        content = torch.load(workspace.root / "out" / "defense_result.pt")
        again = read(workspace.save(**content))
        assert again.model is not None and case.model is not None
        assert torch.equal(
            again.model.module.get_parameter("linear.weight"), case.model.module.get_parameter("linear.weight")
        )

    def test_prefix_comes_back(self, workspace: Workspace) -> None:
        workspace.save(model={f"1.{name}": value for name, value in workspace.content["model"].items()})
        case, adapter = self.case(workspace)
        adapter.write(case, Outcome(model=case.model), Evaluation(), workspace.root / "out", "d3")
        names = torch.load(workspace.root / "out" / "defense_result.pt")["model"].keys()
        assert list(names) == [f"1.{name}" for name in workspace.content["model"]]

    def test_model_of_another_architecture_is_named_so(self, workspace: Workspace) -> None:
        case, adapter = self.case(workspace)
        other = Classifier.build("cifar_resnet18", 10)
        adapter.write(case, Outcome(model=other), Evaluation(), workspace.root / "out", "iv")
        assert torch.load(workspace.root / "out" / "defense_result.pt")["model_name"] == "cifar_resnet18"

    def test_without_a_model(self, workspace: Workspace) -> None:
        case, adapter = self.case(workspace)
        outcome = Outcome(flagged=np.zeros(TRAIN, bool))
        written = adapter.write(case, outcome, Evaluation(), workspace.root / "out", "ct")
        assert [path.name for path in written] == ["ct_df.csv", "ct_df_summary.csv", "detection_info.csv"]
        assert rows(written[0])[1] == ["0", "0", *[""] * 8]

    def test_nan_is_written_as_the_toolkit_does(self, workspace: Workspace) -> None:
        case, adapter = self.case(workspace)
        metrics = ModelMetrics(acc=0.5, clean_loss=float("nan"))
        out = workspace.root / "out"
        adapter.write(case, Outcome(model=case.model), Evaluation(after=metrics), out, "d3")
        summary = {row[0]: row for row in rows(out / "d3_df_summary.csv")}
        assert (summary["last"][5], summary["valid_max"][5], summary["exist_nan_value"][5]) == ("nan_value", "", "True")
        assert rows(out / "d3_df.csv")[1][5] == "nan_value"


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


class TestRealRecords:
    @pytest.mark.parametrize(("name", "entries"), [("badnet_0_1", 122), ("blended_0_1", 102)])
    def test_read(self, shared: Path, name: str, entries: int) -> None:
        record = shared / "toolkits" / "backdoorbench" / "record" / name
        case = get_adapter("backdoorbench")().read(record)
        train = set_of(case, "train")
        assert train.images.shape == (5000, 32, 32, 3) and len(set_of(case, "clean")) == 250
        assert case.truth is not None and case.truth.poison.sum() == 500 and case.truth.kind == "dirty-label"
        assert (train.labels[case.truth.poison] == 0).all()
        assert (train.labels[~case.truth.poison] == case.truth.original_labels[~case.truth.poison]).all()  # type: ignore[index]
        assert case.test_poisoned is not None and len(case.test_poisoned.samples) == 900
        assert case.model is not None and len(case.model.module.state_dict()) == entries
        assert any("not the canonical files" in note for note in case.notes)

    @pytest.mark.e2e
    def test_measures_what_the_toolkit_measured(self, shared: Path) -> None:
        record = shared / "toolkits" / "backdoorbench" / "record" / "badnet_0_1"
        case = get_adapter("backdoorbench")().read(record)
        assert case.model is not None
        measured = model_metrics(case.model, case.test, case.test_poisoned)
        header, last = rows(record / "attack_df_summary.csv")[:2]
        toolkit = dict(zip(header, last, strict=True))
        for ours, theirs in ((measured.acc, "test_acc"), (measured.asr, "test_asr"), (measured.ra, "test_ra")):
            assert ours == pytest.approx(float(toolkit[theirs]), abs=0.0021)  # two images, for other arithmetic

    def test_tables_have_the_columns_of_the_toolkit(self, shared: Path) -> None:
        header = rows(shared / "toolkits" / "backdoorbench" / "record" / "badnet_0_1" / "attack_df.csv")[0]
        attack_only = ("train_acc_clean_only", "train_asr_bd_only", "train_ra_bd_only")
        assert ["", *module.COLUMNS] == [column for column in header if column not in attack_only]


def test_announcing_the_adapters_costs_no_torch_import() -> None:
    script = "import sys, elixir_plugin.adapters; assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.toolkit
def test_backdoorbench_itself_loads_the_result(workspace: Workspace) -> None:
    checkout = real_checkout("BackdoorBench")
    weights = Classifier.build("preactresnet18", 10).module.state_dict()
    adapter = get_adapter("backdoorbench")()
    case = adapter.read(workspace.save(model=weights))
    folder = adapter.result_folder(case, "d3")
    assert folder is not None
    adapter.write(case, Outcome(model=case.model), Evaluation(after=ModelMetrics(acc=0.5)), folder, "d3")
    script = (
        "import sys; sys.path.append('.')\n"
        "from utils.save_load_attack import load_attack_result\n"
        "from utils.aggregate_block.model_trainer_generate import generate_cls_model\n"
        "import pandas\n"
        "result = load_attack_result(sys.argv[1] + '/defense_result.pt')\n"
        "assert set(result) == {'model_name', 'num_classes', 'model'}, result.keys()\n"
        "generate_cls_model(result['model_name'], result['num_classes']).load_state_dict(result['model'])\n"
        "table = pandas.read_csv(sys.argv[1] + '/d3_df_summary.csv', index_col=0)\n"
        "assert float(table.loc['last', 'test_acc']) == 0.5\n"
    )
    command = [sys.executable, "-c", script, str(folder)]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

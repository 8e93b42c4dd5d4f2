from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from elixir_plugin.adapters import arrays as module
from elixir_plugin.adapters.arrays import Arrays
from fake_records import Hostile

from elixir_plugin import Case, Classifier, Evaluation, ImageSet, Outcome, get_adapter
from elixir_plugin.errors import SettingsError
from elixir_plugin.testing.defenses import check_settings

Refused = Callable[..., str]
X = np.random.default_rng(0).integers(0, 256, (6, 9, 8, 3), np.uint8)
Y = np.array([0, 1, 2, 0, 1, 2])


def read(path: Path, arrays: dict[str, Any], **options: Any) -> Case:
    np.savez(path, **arrays)
    return get_adapter("arrays")(options).read(path)


def pixels(samples: ImageSet | None) -> Any:
    assert samples is not None
    return samples.read(slice(None))


class TestReading:
    def test_everything(self, tmp_path: Path) -> None:
        poison = np.array([1, 0, 0, 0, 0, 0])
        given: dict[str, Any] = {
            "x_train": X,
            "y_train": Y,
            "x_clean": X[:3],
            "y_clean": Y[:3],
            "x_test": X[3:],
            "y_test": Y[3:],
            "x_test_poisoned": X[4:],
            "y_test_poisoned": [0, 0],
            "y_test_original": [1, 2],
            "is_poison": poison,
            "is_cover": np.roll(poison, 1),
            "y_original": [2, 1, 2, 0, 1, 2],
        }
        for case in (read(tmp_path / "a.npz", given), Arrays.from_arrays(**given)):
            assert np.array_equal(pixels(case.train), X) and case.num_classes == 3
            assert np.array_equal(pixels(case.clean), X[:3]) and np.array_equal(pixels(case.test), X[3:])
            assert case.test_poisoned is not None and case.test_poisoned.original_labels.tolist() == [1, 2]
            assert case.test_poisoned.samples.labels.tolist() == [0, 0]
            assert case.truth is not None and case.truth.poison.tolist() == poison.astype(bool).tolist()
            assert case.truth.cover is not None and case.truth.cover.tolist() == [False, True] + [False] * 4
            assert case.truth.original_labels is not None and case.truth.original_labels[0] == 2
            assert case.truth.kind == "dirty-label"
            assert case.notes == ("number of classes taken from the highest label: 3 (option num_classes)",)

    def test_channels_first(self, tmp_path: Path) -> None:
        case = read(tmp_path / "a.npz", {"x_train": X.transpose(0, 3, 1, 2), "y_train": Y})
        assert np.array_equal(pixels(case.train), X)

    @pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
    def test_float_becomes_float32(self, dtype: Any) -> None:
        images = (X / 255).astype(dtype)
        case = Arrays.from_arrays(x_train=images, y_train=Y)
        assert pixels(case.train).dtype == np.float32
        assert np.array_equal(pixels(case.train), images.astype(np.float32))

    def test_the_caller_s_arrays_stay_writeable(self) -> None:
        images = X.copy()
        Arrays.from_arrays(x_train=images, y_train=Y)
        images[0] = 0
        assert images.flags.writeable and not images[0].any()

    @pytest.mark.parametrize(
        "labels", [Y, Y.tolist(), Y.astype(np.uint8), Y[:, None], np.eye(3)[Y], np.eye(3, dtype=bool)[Y]]
    )
    def test_labels(self, labels: Any) -> None:
        case = Arrays.from_arrays(x_train=X, y_train=labels)
        assert case.train is not None and case.train.labels.tolist() == Y.tolist() and case.num_classes == 3

    def test_number_of_classes(self, tmp_path: Path) -> None:
        assert Arrays.from_arrays(x_train=X, y_train=np.eye(7)[Y]).num_classes == 7
        case = Arrays.from_arrays(x_train=X, y_train=Y, options={"num_classes": 5})
        assert case.num_classes == 5 and not case.notes
        Classifier.build("small_resnet", 4).save(tmp_path / "model")
        assert Arrays.from_arrays(x_train=X, y_train=Y, options={"model": tmp_path / "model"}).num_classes == 4

    def test_kind_of_poison(self) -> None:
        mask = Y == 1
        for kind, more in (
            ("dirty-label", {}),
            ("clean-label", {"y_original": Y}),
            ("dirty-label", {"y_original": (Y + 1) % 3}),
            ("indiscriminate", {"options": {"kind": "indiscriminate"}}),
        ):
            truth = Arrays.from_arrays(x_train=X, y_train=Y, is_poison=mask, **more).truth
            assert truth is not None and truth.kind == kind
        truth = Arrays.from_arrays(x_train=X, y_train=Y, is_poison=mask & False).truth
        assert truth is not None and truth.kind == "none"

    def test_model_in_memory(self) -> None:
        model = Classifier.build("small_resnet", 3)
        assert Arrays.from_arrays(x_train=X, y_train=Y, model=model).model is model


class TestRefusals:
    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            ({"x_trian": X}, ("unknown array", "x_trian", "did you mean 'x_train'?")),
            ({"y_train": None}, ("array missing", "x_train without y_train")),
            ({"x_train": None}, ("array missing", "y_train without x_train")),
            ({"x_test_poisoned": X, "y_test_poisoned": Y}, ("x_test_poisoned without y_test_original",)),
            ({"y_test_original": Y}, ("y_test_original without x_test_poisoned",)),
            ({"is_cover": Y == 1}, ("is_cover without is_poison",)),
            ({"x_train": None, "y_train": None, "is_poison": Y == 1}, ("is_poison without x_train",)),
            ({"x_train": None, "y_train": None}, ("no arrays", "x_train")),
            ({"x_train": X[:, :3]}, ("unclear: both layouts fit", "(6, 3, 8, 3)", "layout=nhwc")),
            ({"x_train": X[..., :2]}, ("unclear: no axis has", "(6, 9, 8, 2)")),
            ({"x_train": X[..., 0]}, ("four axes", "(6, 9, 8)")),
            ({"x_train": X.astype(np.float32)}, ("pixel value out of range", "255.0", "divide by 255")),
            ({"x_train": np.full(X.shape, np.nan)}, ("pixel value out of range", "nan")),
            ({"x_train": X.astype(np.int64)}, ("pixels of this type", "int64", "uint8 or float")),
            ({"x_train": X.astype(object)}, ("pixels of this type", "object")),
            ({"x_clean": X.transpose(0, 3, 1, 2), "y_clean": Y}, ("two layouts", "nchw")),
            ({"y_train": Y[:5]}, ("one label per image", "(5,)", "(6,)")),
            ({"y_train": Y - 1}, ("label out of range", "-1")),
            ({"y_train": Y.astype(float)}, ("labels must be integers", "float64", "one-hot")),
            ({"y_train": Y.astype(str)}, ("labels must be integers",)),
            ({"y_train": Y.reshape(6, 1, 1)}, ("labels must be integers", "(6, 1, 1)")),
            ({"y_train": np.eye(3)[Y] * 0.9}, ("neither integers nor one-hot", "a single 1")),
            ({"y_train": np.eye(3)[Y], "x_clean": X, "y_clean": np.eye(4)[Y]}, ("different width",)),
            ({"is_poison": Y}, ("not a mask", "is_poison")),
            ({"is_poison": (Y == 1)[:5]}, ("not a mask", "(5,)", "[6]")),
            ({"is_poison": Y == 1, "y_original": Y[:5]}, ("y_original", "(5,)", "(6,)")),
        ],
    )
    def test_arrays(self, refused: Refused, changes: dict[str, Any], expected: tuple[str, ...]) -> None:
        refused(lambda: Arrays.from_arrays(**{"x_train": X, "y_train": Y} | changes), *expected)

    def test_layout_can_be_said(self) -> None:
        case = Arrays.from_arrays(x_train=X[:, :3], y_train=Y, options={"layout": "nhwc"})
        assert case.train is not None and case.train.image_shape == (3, 8, 3)
        case = Arrays.from_arrays(x_train=X[:, :3], y_train=Y, options={"layout": "nchw"})
        assert case.train is not None and case.train.image_shape == (8, 3, 3)

    def test_objects_are_refused_unopened(self, tmp_path: Path, refused: Refused) -> None:
        labels = np.array([Hostile(tmp_path / "ran")] * 6, dtype=object)
        np.savez(tmp_path / "a.npz", x_train=X, y_train=labels)
        refused(
            lambda: get_adapter("arrays")().read(tmp_path / "a.npz"), "file cannot be read", "a.npz", "Object arrays"
        )
        assert not (tmp_path / "ran").exists()

    def test_files(self, tmp_path: Path, refused: Refused) -> None:
        adapter = get_adapter("arrays")()
        refused(lambda: adapter.read(tmp_path / "none.npz"), "file not found", "none.npz")
        np.save(tmp_path / "single.npy", X)
        refused(lambda: adapter.read(tmp_path / "single.npy"), "file cannot be read", "a single array")
        np.savez(tmp_path / "cut.npz", x_train=X, y_train=Y)
        content = (tmp_path / "cut.npz").read_bytes()
        (tmp_path / "cut.npz").write_bytes(content[: len(content) // 2])
        refused(lambda: adapter.read(tmp_path / "cut.npz"), "file cannot be read", "cut.npz", "numpy.savez")
        (tmp_path / "text.npz").write_text("hello")
        refused(lambda: adapter.read(tmp_path / "text.npz"), "file cannot be read")

    def test_model_of_another_number_of_classes(self, refused: Refused) -> None:
        model = Classifier.build("small_resnet", 2)
        refused(lambda: Arrays.from_arrays(x_train=X, y_train=Y, model=model), "label out of range", "0..1")

    def test_options(self, refused: Refused) -> None:
        check_settings(module.ArraysOptions)
        refused(lambda: get_adapter("arrays")({"layout": "hwc"}), "layout", "'hwc'", kind=SettingsError)


class TestWriting:
    @pytest.mark.parametrize("first", [False, True], ids=["nhwc", "nchw"])
    def test_round_trip(self, tmp_path: Path, first: bool) -> None:
        images = X.transpose(0, 3, 1, 2) if first else X
        case = read(tmp_path / "a.npz", {"x_train": images, "y_train": Y})
        assert case.train is not None
        model = Classifier.build("small_resnet", 3)
        outcome = Outcome(
            scores=np.linspace(0, 1, 6),
            flagged=Y == 1,
            kept=np.array([0, 2]),
            train=case.train.replace(images=255 - X, labels=(Y + 1) % 3),
            model=model,
        )
        adapter = get_adapter("arrays")()
        assert adapter.result_folder(case, "d3") is None
        written = adapter.write(case, outcome, Evaluation(), tmp_path / "out", "d3")
        assert written == [tmp_path / "out" / "outcome.npz", tmp_path / "out" / "model"]
        with np.load(written[0], allow_pickle=False) as file:
            assert sorted(file.files) == ["flagged", "kept", "scores", "x_train", "y_train"]
            assert np.array_equal(file["x_train"], 255 - images) and np.array_equal(file["y_train"], (Y + 1) % 3)
            assert np.array_equal(file["scores"], np.linspace(0, 1, 6)) and np.array_equal(file["flagged"], Y == 1)
        assert Classifier.load(written[1]).num_classes == 3

    def test_model_alone(self, tmp_path: Path) -> None:
        case = Arrays.from_arrays(x_train=X, y_train=Y)
        outcome = Outcome(model=Classifier.build("small_resnet", 3))
        assert get_adapter("arrays")().write(case, outcome, Evaluation(), tmp_path, "d3") == [tmp_path / "model"]

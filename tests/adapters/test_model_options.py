"""The suspect model that options name: saved Classifiers with and without architecture, files of weights, own code."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from elixir_plugin.adapters.arrays import Arrays, ArraysOptions
from elixir_plugin.adapters.image_folder import ImageFolder, ImageFolderOptions
from PIL import Image
from torch import Tensor, nn

from elixir_plugin import Classifier
from elixir_plugin.adapter import Source
from elixir_plugin.core.classifier.classifier import build_module
from elixir_plugin.errors import InputError, SettingsError
from elixir_plugin.runs.run import run_defense
from elixir_plugin.runs.spec import RunSpec

OWN = """
import torch
from torch import nn
from beside import WIDTH


class Net(nn.Module):
    def __init__(self, num_classes=3, channels=3):
        super().__init__()
        self.conv = nn.Conv2d(channels, WIDTH, 3, padding=1)
        self.fc = nn.Linear(WIDTH, num_classes)

    def forward(self, x):
        return self.fc(torch.relu(self.conv(x)).mean((2, 3)))


class Probabilities(Net):
    def forward(self, x):
        return super().forward(x).softmax(1)


def three():
    return Net(3)


def positional(k):
    return Net(k)


ready = Net(3)


def fails():
    raise ValueError("no weights today")


def nothing():
    return 3


def many(a, b):
    return Net(3)
"""


class Net(nn.Module):
    """The network of the file above."""

    def __init__(self, classes: int = 3, channels: int = 3) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.conv, self.fc = nn.Conv2d(channels, 6, 3, padding=1), nn.Linear(6, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.conv(x)).mean((2, 3)))


@pytest.fixture
def nets(tmp_path: Path) -> Path:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "beside.py").write_text("WIDTH = 6\n")
    (tmp_path / "code" / "nets.py").write_text(OWN)
    return tmp_path / "code" / "nets.py"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for part in ("train", "clean"):
        for label, name in enumerate(("blue", "green", "red")):
            folder = tmp_path / "photos" / part / name
            folder.mkdir(parents=True)
            for number in range(6):
                pixels = rng.integers(0, 80, (8, 8, 3), dtype=np.uint8)
                pixels[..., 2 - label] += 120
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "photos"


def arrays(folder: Path, classes: int = 3, channels: int = 3) -> Path:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (12, 8, 8, channels), dtype=np.uint8)
    np.savez(folder / "case.npz", x_train=x, y_train=np.arange(12) % classes)
    return folder / "case.npz"


def weights(module: nn.Module, folder: Path, name: str = "best.pth", **more: Any) -> Path:
    torch.save({"state_dict": module.state_dict(), **more} if more else module.state_dict(), folder / name)
    return folder / name


def logits(module: nn.Module, case: Any, mean: Any = 0.0, std: Any = 1.0) -> Any:
    return Classifier(module, 3, mean=mean, std=std).predict(case.train)


@pytest.mark.parametrize("form", ["0.5", 0.5, [0.5, 0.5, 0.5], "0.5, 0.5,0.5"])
def test_a_file_of_weights_gives_the_hosts_own_logits(photos: Path, tmp_path: Path, form: Any) -> None:
    module = build_module("small_resnet", 3).eval()
    options = {"model": weights(module, tmp_path, epoch=4), "architecture": "small_resnet", "mean": form, "std": form}
    case = ImageFolder(options).read(photos)
    assert case.model is not None and not case.model.training and case.model.architecture == "small_resnet"
    assert np.array_equal(case.model.predict(case.train), logits(module, case, (0.5,) * 3, (0.5,) * 3))  # type: ignore[arg-type]
    assert "suspect model: all 56 tensors of small_resnet read from best.pth under state_dict" in case.notes
    assert not any("normalisation" in note for note in case.notes)
    bare = ImageFolder({**options, "mean": None, "std": None}).read(photos)
    assert any("no normalisation is known for best.pth" in note for note in bare.notes)


def test_arrays_learn_the_number_of_classes_from_the_head(tmp_path: Path) -> None:
    path = arrays(tmp_path)
    module = build_module("small_resnet", 5).eval()
    options = {"model": weights(module, tmp_path), "architecture": "small_resnet"}
    case = Arrays(options).read(path)
    assert case.num_classes == 5 and case.model is not None
    assert np.array_equal(case.model.predict(case.train), Classifier(module, 5).predict(case.train))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="another number of classes"):
        Arrays({**options, "num_classes": 3}).read(path)
    x = np.zeros((4, 8, 8, 3), np.uint8)
    assert Arrays.from_arrays(x_train=x, y_train=[0, 1, 2, 2], options=options).num_classes == 5


@pytest.mark.parametrize("name", ["Net", "three", "positional", "ready"])
def test_a_network_of_ones_own_is_built_by_ones_own_code(photos: Path, nets: Path, tmp_path: Path, name: str) -> None:
    module = Net().eval()
    case = ImageFolder({"model": weights(module, tmp_path), "architecture": f"{nets}:{name}"}).read(photos)
    assert case.model is not None and case.model.architecture is None  # a file may not name code to import
    assert np.array_equal(case.model.predict(case.train), logits(module, case))
    assert str(nets.parent) not in sys.path


def test_the_number_of_classes_shows_where_the_factory_knows_it_alone(nets: Path, tmp_path: Path) -> None:
    options = {"model": weights(Net(), tmp_path), "architecture": f"{nets}:three"}
    assert Arrays(options).read(arrays(tmp_path, classes=2)).num_classes == 3


def test_the_readmes_way_of_saving_is_read(photos: Path, nets: Path, tmp_path: Path) -> None:
    module = Net().eval()
    Classifier(module, 3, mean=(0.5,) * 3, std=(0.25,) * 3).save(tmp_path / "my_model")
    with pytest.raises(InputError, match="saved without architecture") as caught:
        ImageFolder({"model": tmp_path / "my_model"}).read(photos)
    assert "option architecture=nets.py:make_net" in str(caught.value)
    case = ImageFolder({"model": tmp_path / "my_model", "architecture": f"{nets}:Net"}).read(photos)
    assert np.array_equal(case.model.predict(case.train), logits(module, case, (0.5,) * 3, (0.25,) * 3))  # type: ignore[union-attr, arg-type]


def test_modules_that_are_installed_are_named_by_their_package(photos: Path, tmp_path: Path) -> None:
    module = build_module("small_resnet", 3).eval()
    place = "elixir_plugin.core.classifier.networks:small_resnet"
    case = ImageFolder({"model": weights(module, tmp_path), "architecture": place}).read(photos)
    assert np.array_equal(case.model.predict(case.train), logits(module, case))  # type: ignore[union-attr, arg-type]


def test_a_run_on_ones_own_network_is_written_and_read_again(photos: Path, nets: Path, tmp_path: Path) -> None:
    options = {"model": str(weights(Net(), tmp_path)), "architecture": f"{nets}:Net"}
    source = Source(adapter="image_folder", path=str(photos), options=options)
    settings = {"epochs": 1, "augmentation": {"crop": 0, "flip": False}}
    spec = RunSpec(
        defense="d3", source=source, settings=settings, out=str(tmp_path / "run"), write_to=str(tmp_path / "result")
    )
    result = run_defense(spec, quiet=True)
    assert any("all 4 tensors" in note for note in result.report["notes"])
    again = {**options, "model": str(tmp_path / "result" / "model")}
    first = ImageFolder(again).read(photos).model
    shutil.rmtree(tmp_path / "result" / "model")
    assert run_defense(spec, quiet=True).already_done  # writes what is missing
    second = ImageFolder(again).read(photos)
    assert first is not None and np.array_equal(first.predict(second.train), second.model.predict(second.train))  # type: ignore[union-attr, arg-type]


def test_outputs_of_ones_own_network_are_examined(photos: Path, nets: Path, tmp_path: Path) -> None:
    module = Net().eval()
    case = ImageFolder({"model": weights(module, tmp_path), "architecture": f"{nets}:Probabilities"}).read(photos)
    assert case.model is not None and case.model.outputs == "probabilities"
    found, expected = (
        torch.from_numpy(each).softmax(1) for each in (case.model.predict(case.train), logits(module, case))
    )  # type: ignore[arg-type]
    assert torch.allclose(found, expected, atol=1e-6)


def test_one_logit_in_a_file_is_read_as_two_classes(tmp_path: Path) -> None:
    module = build_module("small_resnet", 1).eval()
    options = {"model": weights(module, tmp_path), "architecture": "small_resnet"}
    case = Arrays(options).read(arrays(tmp_path, classes=2))
    assert case.num_classes == 2 and case.model is not None
    found = torch.from_numpy(case.model.predict(case.train)).softmax(1)[:, 1]  # type: ignore[arg-type]
    z = module(torch.from_numpy(case.train.read(slice(None))).permute(0, 3, 1, 2).float() / 255)[:, 0]  # type: ignore[union-attr]
    assert torch.allclose(found, z.sigmoid(), atol=1e-5)


def test_the_input_size_of_a_file_is_given_or_known(photos: Path, tmp_path: Path) -> None:
    module = build_module("small_resnet", 3).eval()
    options = {"model": weights(module, tmp_path), "architecture": "small_resnet", "input_size": 16}
    case = ImageFolder(options).read(photos)
    assert case.model is not None and case.model.input_size == 16
    expected = Classifier(module, 3, input_size=16).predict(case.train)  # type: ignore[arg-type]
    assert np.array_equal(case.model.predict(case.train), expected)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "error", "message", "hint"),
    [
        ({"architecture": None}, InputError, "network of these weights is not named", "architecture=fast_resnet"),
        ({"architecture": "fast_resnet", "weights": "no"}, InputError, "no such weights", ""),
        ({"architecture": "cifar_resnet18"}, InputError, "do not fit", "they fit"),
        ({"architecture": "smal_resnet"}, SettingsError, "unknown architecture", "small_resnet"),
        ({"model": None}, SettingsError, "no model for this option", "model=FILE"),
        ({"model": "missing.pth"}, InputError, "model not found", "torch.save"),
        ({"mean": (0.5, 0.5)}, InputError, "one number per channel", ""),
        ({"std": -1}, InputError, "not those of pixels", ""),
        ({"architecture": "no_such_package.nets:make"}, SettingsError, "cannot be imported", "nets.py:make_net"),
        ({"architecture": "missing.py:make"}, SettingsError, "cannot be imported", ""),
    ],
)
def test_what_does_not_name_a_model_is_refused(
    photos: Path, tmp_path: Path, options: Any, error: type[Exception], message: str, hint: str
) -> None:
    given = {"model": weights(build_module("small_resnet", 3), tmp_path), "architecture": "small_resnet"}
    with pytest.raises(error, match=message) as caught:
        ImageFolder({**given, **options}).read(photos)
    assert hint in str(caught.value.hint or "")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "message", "found"),
    [
        ("Nat", "no such factory", "Nat"),
        ("fails", "fails", "ValueError: no weights today"),
        ("nothing", "no model was built", "int"),
        ("many", "fails", "TypeError"),
    ],
)
def test_code_that_builds_nothing_is_refused(
    photos: Path, nets: Path, tmp_path: Path, name: str, message: str, found: str
) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        ImageFolder({"model": weights(Net(), tmp_path), "architecture": f"{nets}:{name}"}).read(photos)
    assert found in str(caught.value.found)


def test_code_that_breaks_on_import_is_refused(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("raise RuntimeError('not here')\n")
    with pytest.raises(SettingsError, match="cannot be imported") as caught:
        ImageFolder({"model": weights(Net(), tmp_path), "architecture": f"{tmp_path}/broken.py:Net"}).read(photos)
    assert "RuntimeError: not here" in str(caught.value.found)


def test_a_saved_classifier_says_its_own_facts(photos: Path, tmp_path: Path) -> None:
    Classifier.build("small_resnet", 3).save(tmp_path / "model")
    for options in ({"mean": 0.5}, {"weights": "ema"}, {"input_size": 32}):
        with pytest.raises(SettingsError, match="says this itself"):
            ImageFolder({"model": tmp_path / "model", **options}).read(photos)
    with pytest.raises(SettingsError, match="another architecture"):
        ImageFolder({"model": tmp_path / "model", "architecture": "fast_resnet"}).read(photos)
    assert ImageFolder({"model": tmp_path / "model", "architecture": "small_resnet"}).read(photos).model is not None
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="model not found"):
        ImageFolder({"model": tmp_path / "empty"}).read(photos)


def test_a_gray_model_is_refused_for_colour_images(photos: Path, tmp_path: Path) -> None:
    Classifier.build("small_resnet", 3, channels=1).save(tmp_path / "gray")
    with pytest.raises(InputError, match="cannot take these images") as caught:
        ImageFolder({"model": tmp_path / "gray"}).read(photos)
    assert "option channels=1" in str(caught.value.hint)
    assert ImageFolder({"model": tmp_path / "gray", "channels": 1}).read(photos).model is not None


def test_code_named_in_a_file_is_never_imported(photos: Path, nets: Path, tmp_path: Path) -> None:
    Classifier(Net(), 3).save(tmp_path / "model")
    facts = tmp_path / "model" / "model.json"
    facts.write_text(facts.read_text().replace("null", f'"{nets}:Net"', 1))
    with pytest.raises(SettingsError, match="unknown architecture"):
        ImageFolder({"model": tmp_path / "model"}).read(photos)


@pytest.mark.parametrize("cls", [ImageFolderOptions, ArraysOptions])
def test_runs_without_these_options_keep_their_identity(cls: Any) -> None:
    values = cls.under_first_names(cls().dump())
    assert not {"architecture", "weights", "mean", "std", "input_size"} & set(values) and "model" in values
    assert cls.under_first_names(cls(mean=0.5).dump())["mean"] == [0.5]


def test_a_file_of_code_is_spelled_out_from_the_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert ImageFolderOptions(architecture="nets.py:Net").architecture == f"{tmp_path}/nets.py:Net"
    assert ImageFolderOptions(architecture="package.nets:Net").architecture == "package.nets:Net"

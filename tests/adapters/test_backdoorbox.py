"""BackdoorBox's kind of datasets, made up here, and the real ones where ``ELIXIR_TOOLKITS`` has a checkout."""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from elixir_plugin.adapters.backdoorbox import adapter, stand_ins
from PIL import Image
from real_checkouts import real_checkout
from torch import nn
from torch.utils.data import Dataset, Subset
from torchvision import transforms as T

from elixir_plugin import Case, Classifier, Context, Defense, Outcome, get_defense
from elixir_plugin.defense import Card
from elixir_plugin.errors import InputError, PluginError, SettingsError
from elixir_plugin.hookspecs import Entry, hookimpl
from elixir_plugin.plugins import plugins

N, CLASSES, TARGET = 24, 4, 1
PIXELS = np.random.default_rng(1).integers(0, 200, (N, 8, 8, 3), np.uint8)
LABELS = [i % CLASSES for i in range(N)]
POISON, NOISE = frozenset({0, 2, 7}), frozenset({3, 4})


class AddCorner:
    """A trigger: a white corner, on pictures, arrays and tensors."""

    def __init__(self, value: int = 255) -> None:
        self.value = value

    def __call__(self, image: Any) -> Any:
        if isinstance(image, torch.Tensor):
            image = image.clone()
            image[:, -2:, -2:] = self.value / 255
            return image
        pixels = np.array(image)
        pixels[-2:, -2:] = self.value
        return Image.fromarray(pixels) if isinstance(image, Image.Image) else pixels


class Benign(Dataset[Any]):
    """Pictures in memory, as torchvision's CIFAR10 has them."""

    def __init__(self, transform: Any = None, pixels: Any = PIXELS, labels: Any = LABELS) -> None:
        self.data, self.targets, self.transform = pixels, list(labels), transform
        self.classes = [str(each) for each in range(CLASSES)]

    def __len__(self) -> int:
        return len(self.data)

    def picture(self, index: int) -> Any:
        return Image.fromarray(self.data[index])

    def __getitem__(self, index: int) -> Any:
        picture = self.picture(index)
        return (picture if self.transform is None else self.transform(picture)), int(self.targets[index])


class Poisoned(Benign):
    """Samples of ``poisoned_set`` go through another transform, and get the target label."""

    def __init__(self, transform: Any, place: int = 0, poisoned: Any = POISON, relabel: bool = True) -> None:
        super().__init__(transform)
        self.poisoned_set = poisoned
        self.poisoned_transform = self._with(transform, place, AddCorner())
        self.poisoned_target_transform = (lambda _: TARGET) if relabel else (lambda label: label)

    @staticmethod
    def _with(transform: Any, place: int, trigger: Any) -> Any:
        chain = copy.deepcopy(transform)
        chain.transforms.insert(place, trigger)
        return chain

    def __getitem__(self, index: int) -> Any:
        if index not in self.poisoned_set:
            return super().__getitem__(index)
        return self.poisoned_transform(self.picture(index)), self.poisoned_target_transform(self.targets[index])


class Noisy(Poisoned):
    """Also samples with another trigger under their own label."""

    def __init__(self, transform: Any) -> None:
        super().__init__(transform)
        self.noise_set = NOISE
        self.poisoned_transform_noise = self._with(transform, 0, AddCorner(100))

    def __getitem__(self, index: int) -> Any:
        if index in self.noise_set:
            return self.poisoned_transform_noise(self.picture(index)), self.targets[index]
        return super().__getitem__(index)


class FromFiles(Poisoned):
    """Samples read by a loader that gives arrays, as ``cv2.imread`` does."""

    def __init__(self, transform: Any, loader: Any) -> None:
        super().__init__(transform)
        self.loader = loader
        self.samples = [(f"{i}.png", label) for i, label in enumerate(self.targets)]

    def picture(self, index: int) -> Any:
        return self.loader(self.samples[index][0])


def imread(path: str) -> Any:
    return np.ascontiguousarray(PIXELS[int(path.split(".", maxsplit=1)[0])][..., ::-1])


imread.__module__ = "cv2"
AUGMENTED = T.Compose([T.RandomHorizontalFlip(), T.RandomCrop(8, padding=2), T.ToTensor()])


def expected(rows: Any = POISON, value: int = 255) -> Any:
    pixels = PIXELS.copy()
    for row in rows:
        pixels[row, -2:, -2:] = value
    return pixels


def read(part: Any) -> Any:
    return part.read(slice(None))


# reading


def test_images_are_read_without_augmentation_and_with_the_trigger() -> None:
    case = adapter.read_case(Poisoned(AUGMENTED))
    assert case.train is not None and case.truth is not None
    assert case.train.images.dtype == np.uint8 and (read(case.train) == expected()).all()
    assert case.train.labels.tolist() == [TARGET if i in POISON else label for i, label in enumerate(LABELS)]
    assert np.flatnonzero(case.truth.poison).tolist() == sorted(POISON)
    assert case.truth.original_labels.tolist() == LABELS and case.truth.kind == "dirty-label"  # type: ignore[union-attr]
    assert case.num_classes == CLASSES and case.visible().truth is None


def test_the_dataset_stays_as_it_is_and_the_host_draws_on() -> None:
    data = Poisoned(AUGMENTED)
    before = list(data.poisoned_transform.transforms), data.transform
    state = random.getstate(), torch.get_rng_state()
    adapter.read_case(data)
    assert (list(data.poisoned_transform.transforms), data.transform) == before
    assert random.getstate() == state[0] and torch.equal(torch.get_rng_state(), state[1])


def test_a_trigger_on_tensors_keeps_floats() -> None:
    chain = T.Compose([T.RandomHorizontalFlip(), T.ToTensor()])
    case = adapter.read_case(Poisoned(chain, place=2))
    assert case.train is not None and case.train.images.dtype == np.float32
    np.testing.assert_allclose(read(case.train), expected().astype(np.float32) / 255, atol=1e-7)


def test_noise_samples_are_covers() -> None:
    case = adapter.read_case(Noisy(AUGMENTED))
    assert case.truth is not None and case.train is not None
    assert np.flatnonzero(case.truth.cover).tolist() == sorted(NOISE)
    assert (read(case.train)[sorted(NOISE), -2:, -2:] == 100).all()
    assert [case.train.labels[i] for i in NOISE] == [LABELS[i] for i in NOISE]


def test_clean_label_poison_is_called_that() -> None:
    case = adapter.read_case(Poisoned(AUGMENTED, relabel=False))
    assert case.truth is not None and case.truth.kind == "clean-label"
    nothing = adapter.read_case(Poisoned(AUGMENTED, poisoned=frozenset()))
    assert nothing.truth is not None and nothing.truth.kind == "none"


def test_membership_by_file_name_is_understood() -> None:
    class CreatePoisonedTargetDataset(FromFiles):
        pass

    data = CreatePoisonedTargetDataset(AUGMENTED, lambda path: Image.fromarray(PIXELS[int(path.split(".")[0])]))
    data.samples = data.samples[::-1]
    data.targets = data.targets[::-1]
    case = adapter.read_case(data)
    assert case.truth is not None
    assert np.flatnonzero(case.truth.poison).tolist() == sorted(N - 1 - i for i in POISON)


def test_images_read_by_cv2_are_turned_to_rgb_and_the_model_gets_its_own_order() -> None:
    data = FromFiles(AUGMENTED, imread)
    module = nn.Sequential(nn.Flatten(), nn.Linear(192, CLASSES)).eval()
    case = adapter.read_case(data, model=module)
    assert case.train is not None and (read(case.train) == expected()).all()
    assert case.model is not None
    host = torch.from_numpy(np.ascontiguousarray(expected()[..., ::-1])).permute(0, 3, 1, 2).float() / 255
    np.testing.assert_allclose(case.model.predict(case.train), module(host).detach().numpy(), atol=1e-5)


def test_normalisation_in_the_transform_goes_to_the_model() -> None:
    chain = T.Compose([T.ToTensor(), T.Normalize((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))])
    case = adapter.read_case(Benign(chain), model=nn.Sequential(nn.Flatten(), nn.Linear(192, CLASSES)))
    assert case.train is not None and (read(case.train) == PIXELS).all() and case.truth is None
    assert case.model is not None and case.model.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])


def test_images_of_mixed_size_are_resized_as_the_dataset_says() -> None:
    class Mixed(Benign):
        def picture(self, index: int) -> Any:
            return super().picture(index).resize((8 + index, 8))

    case = adapter.read_case(Mixed(T.Compose([T.Resize((6, 6)), T.RandomHorizontalFlip(), T.ToTensor()])))
    assert case.train is not None and case.train.image_shape == (6, 6, 3)
    with pytest.raises(InputError, match="mixed size"):
        adapter.read_case(Mixed(T.Compose([T.ToTensor()])))


def test_subsets_and_test_sets() -> None:
    rows = [7, 1, 0]
    poisoned_test = Poisoned(AUGMENTED, poisoned=frozenset(range(N)))
    case = adapter.read_case(
        Subset(Poisoned(AUGMENTED), rows), test=Benign(AUGMENTED), test_poisoned=poisoned_test, clean=Benign(AUGMENTED)
    )
    assert case.truth is not None and case.truth.poison.tolist() == [True, False, True]
    assert case.test_poisoned is not None and case.test_poisoned.original_labels.tolist() == LABELS
    assert set(case.test_poisoned.samples.labels) == {TARGET} and len(case.clean) == N  # type: ignore[arg-type]


def test_loaders_that_do_not_say_their_colours_are_refused() -> None:
    def unclear(path: str) -> Any:
        return imread(path)

    with pytest.raises(InputError, match="blue or red"):
        adapter.read_case(FromFiles(AUGMENTED, unclear))
    for color, turned in (("bgr", expected()), ("rgb", expected()[..., ::-1])):
        case = adapter.read_case(FromFiles(AUGMENTED, unclear), color=color)
        assert case.train is not None and (read(case.train) == turned).all()
    with pytest.raises(InputError, match="unknown order"):
        adapter.read_case(FromFiles(AUGMENTED, unclear), color="rbg")


# the classes


class Corners(Defense):
    """Flags white corners."""

    name = "corners"
    kind = "detect"
    needs = frozenset({"train"})
    card = Card("Corners", "none", 2026, "flags white corners", "nothing", "for tests")

    def defend(self, case: Case, context: Context) -> Outcome:
        assert case.train is not None
        return Outcome(flagged=(read(case.train)[:, -2:, -2:] == 255).all((1, 2, 3)))


class Trim(Corners):
    """Keeps the others."""

    name = "trim"
    kind = "purify"

    def defend(self, case: Case, context: Context) -> Outcome:
        flagged = super().defend(case, context).flagged
        return Outcome(train=case.train, kept=np.flatnonzero(~flagged))  # type: ignore[operator]


@pytest.fixture
def strangers() -> Iterator[None]:
    class Plugin:
        @hookimpl
        def elixir_defenses(self) -> list[Entry]:
            return [Entry(cls.name, cls, cls.kind) for cls in (Corners, Trim)]

    plugin = Plugin()
    plugins().register(plugin, "strangers")
    yield
    plugins()._forget(plugin, "strangers")


def network(seed: int = 0) -> nn.Module:
    return Classifier.build("fast_resnet", CLASSES, seed=seed).module.eval()


def same(first: nn.Module, second: nn.Module) -> bool:
    return all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())


SCHEDULE = {
    "device": "CPU", "benign_training": False, "batch_size": 8, "num_workers": 0, "lr": 0.01, "momentum": 0.9,
    "weight_decay": 5e-4, "gamma": 0.1, "schedule": [1], "epochs": 1, "log_iteration_interval": 100,
    "test_epoch_interval": 1, "save_epoch_interval": 1,
}  # fmt: skip


def test_repair_follows_the_schedule_and_writes_where_it_says(tmp_path: Path) -> None:
    suspect = network()
    benign = Benign(T.Compose([T.RandomHorizontalFlip(), T.ToTensor()]))
    d3 = adapter.D3(benign, benign, suspect, nn.CrossEntropyLoss(), seed=3, deterministic=True)
    assert d3.get_model() is suspect
    d3.repair({**SCHEDULE, "save_dir": str(tmp_path), "experiment_name": "mended"})
    case = adapter.read_case(clean=benign, model=network())
    values = {name: SCHEDULE[name] for name in ("epochs", "batch_size", "lr", "momentum", "weight_decay")}
    wanted = get_defense("d3")(values).run(case, Context(seed=3))
    assert wanted.model is not None and same(d3.get_model(), wanted.model.module) and same(suspect, network())
    (work,) = tmp_path.iterdir()
    assert work.name.startswith("mended_") and (work / "ckpt_epoch_1.pth").is_file()
    state = torch.load(work / "ckpt_epoch_1.pth")
    assert state.keys() == suspect.state_dict().keys()
    again = adapter.D3(model=suspect, seed=3)
    again.repair(benign, 1.0, SCHEDULE)
    assert same(again.get_model(), d3.get_model())
    less = adapter.D3(model=suspect, seed=3, epochs=2)  # what the constructor says beats the schedule
    less.repair(benign, 0.5, SCHEDULE)
    assert len(less.outcome.curves["objective"]) == 2


def test_a_model_trained_on_bgr_comes_back_for_bgr() -> None:
    data = FromFiles(T.Compose([T.ToTensor()]), imread)
    d3 = adapter.D3(data, data, network(), epochs=1)
    d3.repair(SCHEDULE)
    assert (
        type(d3.get_model()) is type(network()) and d3.get_model().state_dict().keys() == network().state_dict().keys()
    )


@pytest.mark.parametrize("metric", ["BA", "ASR", "ASR_NoTarget"])
def test_numbers_are_those_of_the_dataset_and_it_stays_whole(metric: str, tmp_path: Path) -> None:
    data = Poisoned(T.Compose([T.ToTensor()]), poisoned=frozenset(range(N)))
    d3 = adapter.D3(test_dataset=data, model=network())
    found = d3.test({**SCHEDULE, "metric": metric, "y_target": TARGET, "save_dir": str(tmp_path)})
    rows = [i for i in range(N) if metric != "ASR_NoTarget" or LABELS[i] != TARGET]
    with torch.no_grad():
        logits = network()(torch.stack([data[i][0] for i in rows]))
    top1 = int((logits.argmax(1) == TARGET).sum())
    assert found[:3] == (top1, len(rows), len(rows)) and len(data) == N  # four classes: all hits are among five
    assert found[3] == pytest.approx(float(nn.functional.cross_entropy(logits, torch.full((len(rows),), TARGET))), 1e-4)
    assert f"{metric}: top-1 {top1}/{len(rows)}" in next(tmp_path.rglob("log.txt")).read_text()


def test_a_checkpoint_with_a_wrappers_prefix_is_loaded_and_a_wrong_one_refused(tmp_path: Path) -> None:
    data = Benign(T.Compose([T.ToTensor()]))
    torch.save({f"module.{name}": value for name, value in network(5).state_dict().items()}, tmp_path / "other.pth")
    d3 = adapter.D3(test_dataset=data, model=network())
    wanted = adapter.D3(test_dataset=data, model=network(5)).test(SCHEDULE)
    assert d3.test({**SCHEDULE, "test_model": str(tmp_path / "other.pth")}) == wanted
    torch.save({"weight": torch.zeros(3)}, tmp_path / "wrong.pth")
    with pytest.raises(InputError, match="do not fit"):
        d3.test({**SCHEDULE, "test_model": str(tmp_path / "wrong.pth")})


def test_filters_say_positions(strangers: None, tmp_path: Path) -> None:
    data = Poisoned(AUGMENTED)
    corners = adapter.Corners(poisoned_trainset=data)
    poison, benign = corners.filter({"save_dir": str(tmp_path)})
    assert poison == sorted(POISON) and sorted(poison + benign) == list(range(N))
    assert corners.detect(data, LABELS).tolist() == [int(i in POISON) for i in range(N)]
    assert corners.test() == {"TPR": 100.0, "FPR": 0.0, "AUC": None}
    assert corners.test([0, 1])["TPR"] == 50.0
    bad, good = corners.get_filtered_poisoned_dataset()
    assert (list(bad.indices), len(good)) == (sorted(POISON), N - 3) and bad.dataset is data
    assert "3 of 24 samples flagged" in next(tmp_path.rglob("log.txt")).read_text()


@pytest.mark.parametrize("loader", [None, imread])
def test_training_on_what_is_left(strangers: None, loader: Any) -> None:
    chain = T.Compose([T.RandomHorizontalFlip(), T.ToTensor()])
    data = Poisoned(chain) if loader is None else FromFiles(chain, loader)
    trim = adapter.Trim(network(), poisoned_trainset=data, clean_testset=Benign(T.Compose([T.ToTensor()])))
    trim.train(SCHEDULE)
    left = trim.get_filtered_poisoned_dataset()
    assert len(left) == N - 3 and left[0][0].shape == (3, 8, 8)
    assert type(trim.get_model()) is type(network()) and not same(trim.get_model(), network())
    assert trim.test(schedule={"metric": "BA"})[2] == N


def test_a_network_with_its_own_normalisation_takes_the_hosts_images(strangers: None) -> None:
    chain = T.Compose([T.ToTensor(), T.Normalize((0.5, 0.4, 0.3), (0.2, 0.2, 0.2))])
    data = FromFiles(chain, imread)
    trim = adapter.Trim(poisoned_trainset=data)  # no model: small_resnet, which normalises in its own way
    trim.train({**SCHEDULE, "schedule": [], "epochs": 1})
    host = torch.stack([data[i][0] for i in range(N)])
    case = adapter.read_case(data)
    assert case.train is not None
    inner = trim.get_model().model
    with torch.no_grad():
        np.testing.assert_allclose(trim.get_model()(host).numpy(), inner.predict(case.train), atol=1e-3)


REFUSALS: dict[str, tuple[Any, type[Exception], str]] = {
    "an unknown setting": (lambda: adapter.D3(epoch=1), SettingsError, "settings refused"),
    "an unknown key": (lambda: adapter.D3(Benign()).repair({"epoch": 1}), SettingsError, "settings refused"),
    "no data": (lambda: adapter.D3(model=network()).repair(SCHEDULE), InputError, "nothing to repair"),
    "no model": (lambda: adapter.D3(Benign()).repair(SCHEDULE), InputError, "there is no model"),
    "no share": (lambda: adapter.D3(Benign(), model=network()).repair(portion=0), SettingsError, "not a share"),
    "no test set": (lambda: adapter.D3(model=network()).test(SCHEDULE), InputError, "nothing to test on"),
    "no model yet": (lambda: adapter.D3().get_model(), InputError, "no model yet"),
    "no target": (
        lambda: adapter.D3(Benign(), Benign(), network()).test({"metric": "ASR_NoTarget"}),
        SettingsError,
        "which class",
    ),
    "no suspects": (lambda: adapter.ConfusionTraining().filter(), InputError, "nothing to look at"),
    "no class": (lambda: adapter.D4, AttributeError, "no attribute 'D4'"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_cannot_work_is_refused(name: str) -> None:
    call, error, message = REFUSALS[name]
    with pytest.raises(error, match=message):
        call()


def test_a_gpu_that_is_not_there_is_refused() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(SettingsError, match="device not available"):
        adapter.D3(Benign(), model=network()).repair({**SCHEDULE, "device": "GPU", "GPU_num": 1})


def test_classes_go_into_a_core_that_is_there(strangers: None) -> None:
    core = SimpleNamespace(defenses=SimpleNamespace(), __name__="core")
    names = adapter.install(core)
    assert {"D3", "ConfusionTraining", "Corners", "Trim"} <= set(names) <= set(dir(adapter))
    assert core.D3 is core.defenses.D3 is adapter.D3 and adapter.install(core) == names
    taken = SimpleNamespace(defenses=SimpleNamespace(Trim=object()))
    with pytest.raises(SettingsError, match="taken"):
        adapter.install(taken)
    assert not hasattr(taken, "D3")


CORE = """
import lpips, umap, hdbscan, imageio
from torch.autograd.gradcheck import zero_gradients
from ArtFlow.glow_adain import Glow
from criteria.parse_related_loss import average_lab_color_loss
from models.psp import pSp
from datasets.latents_dataset_inference import LatentsDatasetInference
from hairclip_mapper import HairCLIPMapper
"""


class TestStandIns:
    """``import core`` needs what current torch and most machines do not have."""

    @pytest.fixture
    def package(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
        (tmp_path / "toy_core").mkdir()
        (tmp_path / "toy_core" / "__init__.py").write_text(CORE)
        monkeypatch.syspath_prepend(tmp_path)
        yield tmp_path
        sys.modules.pop("toy_core", None)

    def imported(self) -> Any:
        from importlib import import_module

        with stand_ins():
            return import_module("toy_core")

    def test_core_can_be_imported_and_nothing_is_left_behind(self, package: Path) -> None:
        before, finders = set(sys.modules), list(sys.meta_path)
        core = self.imported()
        assert set(sys.modules) - before == {"toy_core"} and sys.meta_path == finders
        assert not hasattr(sys.modules["torch.autograd.gradcheck"], "zero_gradients")
        with pytest.raises(PluginError, match="not installed") as caught:
            core.pSp("options")
        assert caught.value.where == "models.psp.pSp"
        with pytest.raises(ModuleNotFoundError):
            __import__("hairclip_mapper")

    def test_what_is_installed_is_taken(self, package: Path) -> None:
        (package / "umap.py").write_text("UMAP = 'theirs'\n")
        assert self.imported().umap.UMAP == "theirs"
        sys.modules.pop("umap")

    def test_other_missing_packages_stay_missing(self, package: Path) -> None:
        (package / "toy_core" / "__init__.py").write_text("import lpip\n")
        with pytest.raises(ModuleNotFoundError, match="lpip"):
            self.imported()
        assert "lpip" not in sys.modules

    def test_gradients_are_set_to_zero(self, package: Path) -> None:
        core = self.imported()
        with_gradient, without = torch.ones(2, requires_grad=True), torch.ones(1)
        (with_gradient * 3).sum().backward()
        core.zero_gradients([with_gradient, (without,)])
        assert with_gradient.grad is not None and with_gradient.grad.tolist() == [0, 0] and without.grad is None


# the real thing


@pytest.mark.toolkit
@pytest.mark.filterwarnings("ignore")
def test_the_real_core_with_stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import import_module

    checkout = real_checkout("BackdoorBox")
    monkeypatch.chdir(checkout)  # core looks for parts of itself below the working directory
    monkeypatch.setattr(sys, "path", [str(checkout), *sys.path])
    before = set(sys.modules)
    with stand_ins():
        core = import_module("core")
    assert "D3" in adapter.install(core) and core.BadNets.__module__ == "core.attacks.BadNets"
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("core", "curves"):
            del sys.modules[name]


@pytest.fixture
def core(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Parts of a real checkout, without ``core/__init__.py``, which needs packages that are gone."""
    checkout = real_checkout("BackdoorBox", imported=False)
    before = set(sys.modules)
    for name in ("core", "core.attacks", "core.models", "core.utils"):
        shell = ModuleType(name)
        shell.__path__ = [str(checkout / name.replace(".", "/"))]
        if name == "core.utils":
            shell.Log = shell.test = None  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, name, shell)
    from importlib import import_module

    yield import_module
    for name in set(sys.modules) - before:
        if name.startswith("core"):
            del sys.modules[name]


@pytest.mark.toolkit
@pytest.mark.filterwarnings("ignore")
def test_real_badnets_datasets(core: Any, tmp_path: Path) -> None:
    from torchvision.datasets import DatasetFolder
    from torchvision.datasets.folder import pil_loader

    for index, (pixels, label) in enumerate(zip(PIXELS, LABELS, strict=True)):
        place = tmp_path / "data" / str(label)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{index:02d}.png")
    folder = DatasetFolder(
        str(tmp_path / "data"), pil_loader, (".png",), T.Compose([T.RandomHorizontalFlip(), T.ToTensor()])
    )
    pattern, weight = torch.zeros((8, 8), dtype=torch.uint8), torch.zeros((8, 8))
    pattern[-2:, -2:], weight[-2:, -2:] = 255, 1.0
    attack = core("core.attacks.BadNets").BadNets(
        train_dataset=folder, test_dataset=folder, model=network(), loss=nn.CrossEntropyLoss(), y_target=TARGET,
        poisoned_rate=0.25, pattern=pattern, weight=weight, seed=1,
    )  # fmt: skip
    train, test = attack.get_poisoned_dataset()
    case = adapter.read_case(train, test=folder, test_poisoned=test, model=network())
    assert case.train is not None and case.truth is not None and case.test_poisoned is not None
    assert set(np.flatnonzero(case.truth.poison)) == set(train.poisoned_set) and case.truth.poison.sum() == 6
    corners = (read(case.train)[:, -2:, -2:] == 255).all((1, 2, 3))
    assert (corners == case.truth.poison).all() and (case.train.labels[corners] == TARGET).all()
    plain = [np.asarray(pil_loader(path)) for path, _ in folder.samples]
    assert (read(case.train)[~corners] == np.stack(plain)[~corners]).all()
    assert len(case.test_poisoned.samples) == N and case.test_poisoned.original_labels.tolist() == folder.targets
    d3 = adapter.D3(folder, test, network(), epochs=1)
    d3.repair(SCHEDULE)
    assert d3.test({**SCHEDULE, "metric": "ASR_NoTarget", "y_target": TARGET})[2] == N - LABELS.count(TARGET)

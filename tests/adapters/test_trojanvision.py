"""Defenses as trojanvision's own classes, held against the real PyPI release; skipped where it is not installed."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from elixir_plugin import Case, Classifier, Context, Defense, Outcome, Truth, get_defense
from elixir_plugin.core.images import ImageSet
from elixir_plugin.defense import Card
from elixir_plugin.errors import InputError, PluginError, SettingsError
from elixir_plugin.hookspecs import Entry, hookimpl
from elixir_plugin.plugins import plugins
from elixir_plugin.testing import leaks
from elixir_plugin.testing.reachable import reachable

pytestmark = pytest.mark.trojanvision
SIZE, CLASSES, TRAIN, VALID = 16, 3, 48, 24
BASE = [
    "--dataset", "tiny", "--model", "little", "--attack", "badnet", "--device", "cpu", "--num_workers", "0",
    "--train_mode", "dataset", "--poison_percent", "0.25", "--mark_path", "square_white.png", "--verbose", "0",
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def trojanvision(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The real thing, with a data set that needs no download."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setenv("HOME", str(home))
        patch.chdir(home)
        patch.setattr(sys, "argv", ["test"])  # it looks at the command line when it is imported
        warnings.simplefilter("ignore")
        module = pytest.importorskip(
            "trojanvision", reason="trojanvision is not installed: pip install .[trojanvision]", exc_type=ImportError
        )
        register_data(module)
        register_model(module)
        yield module


class Pixels(Dataset[Any]):
    """Striped pictures, with the transform of whoever asks."""

    def __init__(self, count: int, transform: Any) -> None:
        from PIL import Image

        rng = np.random.default_rng(count)
        self.targets = [i % CLASSES for i in range(count)]
        base = [128 + 90 * np.sin(np.arange(SIZE) * (label + 1) * np.pi / SIZE) for label in self.targets]
        rows = [np.clip(each[None, :, None] + rng.normal(0, 20, (SIZE, SIZE, 3)), 0, 255) for each in base]
        self.pictures = [Image.fromarray(each.astype(np.uint8)) for each in rows]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Any:
        picture = self.pictures[index]
        return (picture if self.transform is None else self.transform(picture)), self.targets[index]


def register_data(module: Any) -> None:
    class Tiny(module.datasets.ImageSet):  # type: ignore[misc,name-defined]
        name = "tiny"
        num_classes = CLASSES
        data_shape: tuple[int, ...] | list[int] = [3, SIZE, SIZE]  # noqa: RUF012

        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**{"norm_par": {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3]}, **kwargs})

        def _get_org_dataset(self, mode: str, transform: Any = None, **kwargs: Any) -> Any:
            return Pixels(TRAIN if mode == "train" else VALID, transform)

    module.datasets.class_dict["tiny"] = Tiny


def register_model(module: Any) -> None:
    from trojanvision.models.imagemodel import _ImageModel

    class Layers(_ImageModel):  # type: ignore[misc]
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**{**kwargs, "num_features": [8]})

        @classmethod
        def define_features(cls, **kwargs: Any) -> nn.Module:
            return nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU())

    class Little(module.models.ImageModel):  # type: ignore[misc,name-defined]
        available_models = ("little",)

        def __init__(self, name: str = "little", model: Any = Layers, **kwargs: Any) -> None:
            super().__init__(name=name, model=model, **kwargs)

    module.models.class_dict["little"] = Little


class Exposed(Defense):
    """Flags white corners, whitens nothing, keeps the others; it is what poison looks like here."""

    name = "exposed"
    kind = "detect"
    needs = frozenset({"train", "clean"})
    card = Card("Exposed", "none", 2026, "flags white corners", "nothing", "for tests")
    seen: list[Case] = []  # noqa: RUF012

    def defend(self, case: Case, context: Context) -> Outcome:
        assert case.train is not None
        self.seen.append(case)
        return Outcome(flagged=(case.train.read(slice(None))[:, :3, :3] > 0.999).all((1, 2, 3)))


class Sieve(Exposed):
    """The same, as a purifier."""

    name = "sieve"
    kind = "purify"

    def defend(self, case: Case, context: Context) -> Outcome:
        flagged = super().defend(case, context).flagged
        return Outcome(train=case.train, kept=np.flatnonzero(~flagged), flagged=flagged)  # type: ignore[operator]


@pytest.fixture
def strangers() -> Iterator[None]:
    class Plugin:
        @hookimpl
        def elixir_defenses(self) -> list[Entry]:
            return [Entry(cls.name, cls, cls.kind) for cls in (Exposed, Sieve)]

    plugin = Plugin()
    plugins().register(plugin, "strangers")
    Exposed.seen.clear()
    yield
    plugins()._forget(plugin, "strangers")


def parts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *arguments: str) -> Any:
    """Do what trojanvision's example scripts do, up to the defense; an attacked model lies where it looks."""
    import trojanvision as tv
    from elixir_plugin.adapters.trojanvision.adapter import register

    register()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["script.py", *BASE, *arguments])
    parser = argparse.ArgumentParser()
    names = ("environ", "datasets", "models", "trainer", "marks", "attacks", "defenses")
    for name in names:
        getattr(tv, name).add_argument(parser)
    given = parser.parse_args().__dict__
    tv.environ.create(**given)
    torch.manual_seed(0)
    dataset = tv.datasets.create(**given)
    model = tv.models.create(dataset=dataset, **given)
    mark = tv.marks.create(dataset=dataset, **given)
    attack = tv.attacks.create(dataset=dataset, model=model, mark=mark, **given)
    Path(attack.folder_path).mkdir(parents=True, exist_ok=True)
    attack.save()
    return lambda: tv.defenses.create(dataset=dataset, model=model, attack=attack, **given)


def test_every_defense_is_registered(strangers: None) -> None:
    import trojanvision.defenses as held
    from elixir_plugin.adapters.trojanvision.adapter import register

    before = set(held.class_dict)
    made = register()
    assert set(made) == set(plugins().defenses()) and set(held.class_dict) == before | set(made)
    assert issubclass(held.class_dict["d3"], held.BackdoorDefense)
    assert issubclass(held.class_dict["confusion_training"], held.TrainingFiltering)
    assert register() == made  # again: nothing changes
    with pytest.raises(SettingsError, match="taken"):
        register({"d3": held.BackdoorDefense})


def test_every_setting_is_an_argument() -> None:
    import trojanvision.defenses as held
    from elixir_plugin.adapters.trojanvision.adapter import register

    register()
    for name in ("d3", "eclipse", "confusion_training"):
        parser = argparse.ArgumentParser()
        held.class_dict[name].add_argument(parser.add_argument_group(name))
        text = parser.format_help()
        assert all(f"--{name}_{field}" in text for field in get_defense(name).Settings.model_fields)
        assert f"--{name}_preset" in text and f"--{name}_clean_num" in text


def test_d3_repairs_the_model_in_place_and_saves_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--defense", "d3", "--d3_epochs", "1", "--d3_augmentation", "{flip: false}", "--d3_clean_num", "12"]
    defense = parts(monkeypatch, tmp_path, *arguments)()
    before = {name: value.clone() for name, value in defense.model.state_dict().items()}
    clean = defense.reserved(TRAIN)
    defense.detect()
    suspect = Classifier(type(defense).classifier(defense, clean).module, CLASSES)
    suspect.module.load_state_dict(before)
    expected = get_defense("d3")(epochs=1, augmentation={"flip": False}).run(Case(clean=clean, model=suspect))
    assert len(clean) == 12 and expected.model is not None
    for name, value in expected.model.module.state_dict().items():
        assert torch.equal(value, defense.model.state_dict()[name])
    saved = list((tmp_path / "data" / "defense").rglob("*.pth"))
    assert len(saved) == 1 and saved[0].parent.name == "d3" and saved[0].name.startswith("badnet_square_white")
    assert torch.load(saved[0]).keys() == before.keys()
    out = capsys.readouterr().out
    assert "after the defense:" in out and str(saved[0].relative_to(tmp_path)) in out


def test_a_detector_sees_clean_then_poison_and_trojanvision_scores_it(
    strangers: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    defense = parts(monkeypatch, tmp_path, "--defense", "exposed", "--exposed_clean_num", "6")()
    defense.detect()
    case = Exposed.seen[-1]
    train = Pixels(TRAIN, None)
    assert case.train is not None and case.clean is not None and case.model is not None
    assert len(case.train) == TRAIN + 16 and len(case.clean) == 6 and case.truth is None
    plain = np.stack([np.asarray(picture) for picture in train.pictures]).astype(np.float32) / 255
    np.testing.assert_allclose(case.train.read(slice(0, TRAIN)), plain, atol=1e-6)  # not augmented
    assert (case.train.labels[TRAIN:] == 0).all() and case.train.labels[:TRAIN].tolist() == train.targets
    assert defense.get_pred_labels().tolist() == [False] * TRAIN + [True] * 16
    assert "f1_score        :    1.000" in capsys.readouterr().out


def test_nothing_that_a_detector_is_handed_leads_to_the_poison_or_to_trojanvision(
    strangers: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    defense = parts(monkeypatch, tmp_path, "--defense", "exposed", "--exposed_clean_num", "6")()
    defense.detect()
    seen = Exposed.seen[-1]
    assert seen.train is not None
    valid = Pixels(VALID, None)
    pixels = np.stack([np.asarray(picture) for picture in valid.pictures]).astype(np.float32) / 255
    full = Case(
        train=seen.train,
        test=ImageSet(pixels, valid.targets, CLASSES),
        truth=Truth(np.arange(len(seen.train)) >= TRAIN),
    )
    assert leaks(full, seen, name="handed") == []
    hosts = (type(defense.attack), type(defense.dataset), type(defense.model), type(defense))
    assert [how for how, found in reachable(seen) if isinstance(found, hosts)] == []


def test_a_part_of_the_training_set_may_be_looked_at(
    strangers: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    make = parts(monkeypatch, tmp_path, "--defense", "exposed", "--defense_input_num", "20")
    found = make().get_pred_labels().tolist()
    assert found == [False] * 15 + [True] * 5 == make().get_true_labels().tolist()


def test_poison_made_on_the_fly_is_as_much_as_the_attack_says(
    strangers: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    defense = parts(monkeypatch, tmp_path, "--defense", "exposed", "--train_mode", "batch")()
    assert (len(defense.clean_set), len(defense.poison_set)) == (TRAIN, 16)


def test_a_purifier_trains_the_model_anew(strangers: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plan = "{epochs: 1, augmentation: {flip: false}}"
    make = parts(monkeypatch, tmp_path, "--defense", "sieve", "--sieve_retrain", plan)
    defense = make()
    before = {name: value.clone() for name, value in defense.model.state_dict().items()}
    defense.detect()
    after = {name: value.clone() for name, value in defense.model.state_dict().items()}
    assert any(not torch.equal(value, before[name]) for name, value in after.items())
    assert len(defense.outcome.kept) == TRAIN
    again = make()
    again.detect()
    assert all(torch.equal(value, after[name]) for name, value in again.model.state_dict().items())


def test_normalisation_in_the_data_set_is_honoured(
    strangers: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    arguments = ["--defense", "exposed", "--dataset_normalize", "--train_mode", "batch"]
    defense = parts(monkeypatch, tmp_path, *arguments)()
    train = defense.suspects(defense.plain_dataset("train"))
    plain = np.stack([np.asarray(picture) for picture in Pixels(TRAIN, None).pictures]).astype(np.float32) / 255
    np.testing.assert_allclose(train.read(slice(None)), plain, atol=1e-5)
    model = defense.classifier(train)
    assert model.mean.flatten().tolist() == pytest.approx([0.4, 0.5, 0.6])
    batch, _ = next(iter(defense.dataset.loader["valid"]))
    valid = ImageSet(np.stack([np.asarray(each) for each in Pixels(VALID, None).pictures]), [0] * VALID, CLASSES)
    with torch.no_grad():
        expected = defense.model._model.eval()(batch).numpy()
    np.testing.assert_allclose(model.predict(valid), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--d3_epochs", "0"], "settings refused"),
        (["--d3_clean_num", "999"], "not that many"),
        (["--d3_clean_from", "test"], "unknown source"),
        (["--d3_preset", "codex"], "unknown preset"),
        (["--d3_seed", "abc"], "not a whole number"),
    ],
)
def test_bad_arguments_get_one_clear_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: list[str], message: str
) -> None:
    make = parts(monkeypatch, tmp_path, "--defense", "d3", *arguments)
    with pytest.raises(SettingsError, match=message):
        make().detect()


def test_config_files_of_trojanvision_reach_the_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import trojanvision.configs as configs

    path = tmp_path / "d3.yml"  # the file's name is the defense's; nested settings are text, as on the command line
    path.write_text("d3_epochs: 7\nd3_lam: 3\nd3_augmentation: '{crop: 1}'\n")
    make = parts(monkeypatch, tmp_path, "--defense", "d3", "--d3_lam", "0.5")
    configs.config.cmd_config_path = str(path)
    try:
        settings = make().settings
    finally:
        configs.config.cmd_config_path = None
    assert (settings["epochs"], settings["lam"], settings["augmentation"]["crop"]) == (7, 0.5, 1)


def test_a_model_that_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    defense = parts(monkeypatch, tmp_path, "--defense", "d3")()
    with pytest.raises(InputError, match="weights do not fit"):
        defense.adopt(Classifier.build("small_resnet", CLASSES))
    with pytest.raises(InputError, match="another normalisation"):
        defense.adopt(Classifier(defense.model._model, CLASSES, mean=(0.5,) * 3, std=(0.5,) * 3))


def test_the_launcher_registers_and_runs_a_script(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from elixir_plugin.adapters.trojanvision import launcher

    (tmp_path / "neighbour.py").write_text("WORD = 'found'\n")
    script = tmp_path / "defend.py"
    script.write_text(
        "import sys, neighbour, trojanvision\n"
        "print(__name__, sys.argv[1:], neighbour.WORD, trojanvision.defenses.class_dict['d3'].defense.name)\n"
    )
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.setattr(sys, "path", list(sys.path))
    launcher.main([str(script), "--defense", "d3"])
    assert "__main__ ['--defense', 'd3'] found d3" in capsys.readouterr().out


def test_the_launcher_has_a_chain_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from elixir_plugin.adapters.trojanvision import launcher

    parts(monkeypatch, tmp_path, "--defense", "d3")  # leaves an attacked model
    launcher.main([*BASE, "--defense", "d3", "--d3_epochs", "1", "--d3_missing_classes", "allow"])  # of 2 clean samples
    assert list((tmp_path / "data" / "defense").rglob("*.pth"))


class TestTheLauncherAsAProgram:
    """Nothing that is wrong on the command line ends in a traceback."""

    def ended(self, *arguments: str) -> int:
        from elixir_plugin.adapters.trojanvision import launcher

        with pytest.raises(SystemExit) as caught:
            launcher.main(list(arguments))
        return int(caught.value.code or 0)

    @pytest.fixture(autouse=True)
    def argv(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "argv", list(sys.argv))

    @pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["--help", "--attack", "badnet"]])
    def test_help_names_attacks_and_defenses(self, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        assert self.ended(*arguments) == 0
        text = capsys.readouterr().out
        assert "--attack NAME --defense NAME" in text and "badnet" in text and "confusion_training" in text

    def test_help_on_named_parts_lists_their_flags(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.ended("--attack", "badnet", "--defense", "d3", "--dataset", "cifar10", "--help") == 0
        assert "--d3_lam" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            ([], "no --attack and no --defense"),
            (["--defense", "d3"], "no --attack"),
            (["--attack", "badnet"], "no --defense"),
            (["--attack", "badnets", "--defense", "d3"], "did you mean 'badnet'"),
            (["--attack=badnet", "--defense=eclips"], "did you mean 'eclipse'"),
            (["nothing.py", "--defense", "d3"], "no such script"),
        ],
    )
    def test_what_is_missing_or_unknown_is_named(
        self, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert self.ended(*arguments) == 2
        text = capsys.readouterr().err
        assert text.startswith("error: ") and said in text

    def test_without_trojanvision(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        monkeypatch.setitem(sys.modules, "trojanvision.defenses", None)
        assert self.ended("--help") == 1 and "elixir_plugin[trojanvision]" in capsys.readouterr().err


def test_without_trojanvision_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from elixir_plugin.adapters.trojanvision import adapter

    monkeypatch.setitem(sys.modules, "trojanvision.defenses", None)
    with pytest.raises(PluginError, match="cannot be imported") as caught:
        adapter.register()
    assert "elixir_plugin[trojanvision]" in str(caught.value)
    assert os.environ["HOME"]

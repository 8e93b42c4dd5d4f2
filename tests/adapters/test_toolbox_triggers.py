"""Triggered test sets of backdoor-toolbox: what each attack's trigger is made from, and what cannot be made."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from elixir_plugin.adapters.backdoor_toolbox.adapter import BackdoorToolbox
from elixir_plugin.adapters.backdoor_toolbox.launcher import trigger_options
from PIL import Image
from real_checkouts import real_checkout
from test_backdoor_toolbox import write_pngs

from elixir_plugin import Classifier
from elixir_plugin.core.case import Case
from elixir_plugin.evaluation.metrics import model_metrics
from elixir_plugin.runs.resolve import identity_of
from elixir_plugin.runs.spec import RunSpec

EDGE, CLASSES = 32, 10
N, TESTS = 40, 30
STATS = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.247, 0.243, 0.261)}
RNG = np.random.default_rng(0)
TRAIN = RNG.integers(0, 256, (N, EDGE, EDGE, 3)).astype(np.uint8)
TEST = RNG.integers(0, 256, (TESTS, EDGE, EDGE, 3)).astype(np.uint8)
TEST_LABELS = np.arange(TESTS) % CLASSES
POISON = [2, 11, 23]


def patch(rows: slice, columns: slice, colour: tuple[int, int, int] = (255, 255, 255)) -> np.ndarray:
    picture = np.zeros((EDGE, EDGE, 3), np.uint8)
    picture[rows, columns] = colour
    return picture


SQUARE = patch(slice(24, 31), slice(24, 31), (250, 10, 120))
CORNER = patch(slice(0, 4), slice(0, 4), (90, 90, 20))
NOISE = np.random.default_rng(1).integers(0, 256, (EDGE, EDGE, 3)).astype(np.uint8)
PICTURES = {
    "badnet_patch_32.png": patch(slice(29, 32), slice(29, 32)),
    "trojan_square_32.png": SQUARE,
    "hellokitty_32.png": NOISE,
    "phoenix_corner2_32.png": CORNER,
    "badnet_patch4_32.png": SQUARE,
    "firefox_corner_32.png": SQUARE,
}


def make(
    root: Path,
    directory: str,
    *,
    dataset: str = "cifar10",
    shown: str | None = None,
    layout: str = "imgs",
    change: Callable[[np.ndarray], np.ndarray] = lambda images: images,
) -> Path:
    """Write a checkout's pictures, clean set and one set, whose poison samples show a picture, or are changed."""
    triggers = root / "triggers"
    triggers.mkdir(parents=True)
    for name, picture in PICTURES.items():
        Image.fromarray(picture).save(triggers / name)
    folder = root / "poisoned_train_set" / dataset / directory
    folder.mkdir(parents=True)
    pixels, labels = TRAIN.copy(), torch.arange(N) % CLASSES
    if shown is not None:
        picture = PICTURES[shown]
        pixels[POISON] = np.where((picture > 0).any(2, keepdims=True), picture, pixels[POISON])
    pixels[POISON] = np.clip(np.rint(change(pixels[POISON])), 0, 255)
    labels[POISON] = torch.tensor([3, 4, 5]) if "all_to_all" in directory else 0
    if layout == "imgs":
        torch.save(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255, folder / "imgs")
    else:
        write_pngs(folder / "data", pixels)
    torch.save(labels, folder / "labels")
    torch.save(POISON, folder / "poison_indices")
    for split, name in (("clean_split", "clean_labels"), ("test_split", "labels")):
        write_pngs(root / "clean_set" / dataset / split / "data", TEST)
        torch.save(torch.from_numpy(TEST_LABELS), root / "clean_set" / dataset / split / name)
    return folder


def read(folder: Path, **options: Any) -> Case:
    return BackdoorToolbox(options).read(folder)


def pixels_of(case: Case) -> np.ndarray:
    assert case.test_poisoned is not None
    return case.test_poisoned.samples.read(slice(None))


def note_of(case: Case) -> str:
    (note,) = (note for note in case.notes if "triggered test set" in note)
    return note


CLEAN = TEST / np.float32(255)
OTHERS = TEST_LABELS != 0


def laid(picture: np.ndarray, on: np.ndarray = CLEAN) -> np.ndarray:
    return np.where((picture > 0).any(2, keepdims=True), picture / np.float32(255), on)


@pytest.mark.parametrize(
    ("directory", "picture"),
    [
        ("badnet_0.050_poison_seed=0", "badnet_patch_32.png"),
        ("trojan_0.050_poison_seed=0", "trojan_square_32.png"),
        ("trojan_0.050", "trojan_square_32.png"),
        ("clean_label_0.050_alpha=0.200_trigger=badnet_patch4_32.png_poison_seed=0", "badnet_patch4_32.png"),
    ],
)
@pytest.mark.parametrize("layout", ["imgs", "data"])
def test_patches(tmp_path: Path, directory: str, picture: str, layout: str) -> None:
    case = read(make(tmp_path, directory, shown=picture, layout=layout))
    assert case.test_poisoned is not None
    wanted = laid(PICTURES[picture])[OTHERS]
    if layout == "data":
        assert pixels_of(case).dtype == np.uint8
        assert np.array_equal(pixels_of(case), np.rint(wanted * 255))
    else:
        assert np.array_equal(pixels_of(case), wanted)
    assert case.test_poisoned.samples.labels.tolist() == [0] * OTHERS.sum()
    assert case.test_poisoned.original_labels.tolist() == TEST_LABELS[OTHERS].tolist()
    assert f"27 of 30 test images, made from triggers/{picture}" in note_of(case)


def test_all_to_all_asks_for_the_next_label_of_every_image(tmp_path: Path) -> None:
    case = read(make(tmp_path, "badnet_all_to_all_0.050_poison_seed=0", shown="badnet_patch_32.png"))
    assert case.test_poisoned is not None
    assert np.array_equal(pixels_of(case), laid(PICTURES["badnet_patch_32.png"]))
    assert case.test_poisoned.samples.labels.tolist() == ((TEST_LABELS + 1) % CLASSES).tolist()
    assert case.test_poisoned.original_labels.tolist() == TEST_LABELS.tolist()


@pytest.mark.parametrize(("options", "source"), [({}, 1), ({"source_class": 4}, 4)])
def test_tact_marks_its_source_class_alone(tmp_path: Path, options: dict[str, Any], source: int) -> None:
    case = read(make(tmp_path, "TaCT_0.020_cover=0.050_poison_seed=0", shown="trojan_square_32.png"), **options)
    assert case.test_poisoned is not None
    assert np.array_equal(pixels_of(case), laid(SQUARE)[source == TEST_LABELS])
    assert set(case.test_poisoned.original_labels.tolist()) == {source}


@pytest.mark.parametrize(
    ("directory", "options", "opacity"),
    [
        ("blend_0.050_alpha=0.200_trigger=hellokitty_32.png_poison_seed=0", {}, 0.2),
        ("adaptive_blend_0.050_alpha=0.150_cover=0.050_trigger=hellokitty_32.png_poison_seed=0", {}, 0.15),
        ("adaptive_blend_0.050_alpha=0.150_cover=0.050_trigger=hellokitty_32.png", {"alpha": 0.4}, 0.4),
    ],
)
def test_blends(tmp_path: Path, directory: str, options: dict[str, Any], opacity: float) -> None:
    case = read(make(tmp_path, directory), **options)
    wanted = (1 - opacity) * CLEAN + opacity * NOISE / 255
    assert np.allclose(pixels_of(case), wanted[OTHERS], atol=1e-6)
    assert f"made from triggers/hellokitty_32.png at opacity {opacity}" in note_of(case)


def test_basic_is_a_faint_patch_whose_mask_may_be_gray(tmp_path: Path) -> None:
    folder = make(tmp_path, "basic_0.050_alpha=0.500_trigger=trojan_square_32.png_poison_seed=0")
    mask = np.zeros((EDGE, EDGE, 3), np.uint8)
    mask[:5], mask[5:9] = 255, 51  # one, and a fifth
    Image.fromarray(mask).save(tmp_path / "triggers" / "mask_trojan_square_32.png")
    weight = (0.5 * mask[..., :1] / 255).astype(np.float32)
    assert np.allclose(pixels_of(read(folder)), (CLEAN + weight * (SQUARE / 255 - CLEAN))[OTHERS], atol=1e-6)


@pytest.mark.parametrize(
    ("dataset", "pictures"),
    [
        ("cifar10", ("phoenix_corner2_32.png", "badnet_patch4_32.png")),
        ("gtsrb", ("firefox_corner_32.png", "trojan_square_32.png")),
    ],
)
def test_adaptive_patches_are_those_of_the_data_set(tmp_path: Path, dataset: str, pictures: tuple[str, str]) -> None:
    case = read(make(tmp_path, "adaptive_patch_0.050_cover=0.050_poison_seed=0", dataset=dataset))
    wanted = laid(PICTURES[pictures[1]], laid(PICTURES[pictures[0]]))
    assert np.array_equal(pixels_of(case), wanted[OTHERS])
    assert " and ".join(f"triggers/{name}" for name in pictures) in note_of(case)
    given = read(Path(case.origin.path), trigger=tmp_path / "triggers")
    assert np.array_equal(pixels_of(given), pixels_of(case))


def test_sig_is_a_sinusoid_along_the_rows(tmp_path: Path) -> None:
    wave = 30 / 255 * np.sin(2 * np.pi * np.arange(EDGE) * 6 / EDGE)
    case = read(make(tmp_path, "SIG_0.050_poison_seed=0", change=lambda images: images + 255 * wave[:, None]))
    assert np.allclose(pixels_of(case), np.clip(CLEAN + wave[:, None], 0, 1)[OTHERS], atol=1e-6)


def test_adaptive_k_way_sets_four_pixels(tmp_path: Path) -> None:
    def one_each(images: np.ndarray) -> np.ndarray:
        images[0, 16, 11], images[1, 27, 5], images[2, 22, 22] = (92, 0, 24), (88, 112, 110), (11, 49, 95)
        return images

    changed = pixels_of(read(make(tmp_path, "adaptive_k_way_0.050_poison_seed=0", change=one_each)))
    places = np.argwhere((changed != CLEAN[OTHERS]).any((0, 3)))
    assert places.tolist() == [[7, 30], [16, 11], [22, 22], [27, 5]]
    assert np.allclose(changed[0, 16, 11] * 255, [92, 0, 24])


def grids(folder: Path, shift: float) -> None:
    """Write WaNet's grids: all pixels come from *shift* pixels further right."""
    line = torch.linspace(-1, 1, EDGE)
    across, down = torch.meshgrid(line, line, indexing="xy")
    torch.save(torch.stack((across, down), 2)[None], folder / "identity_grid")
    noise = torch.zeros(1, EDGE, EDGE, 2)
    noise[..., 0] = shift * 2 / (EDGE - 1) * EDGE / 0.5
    torch.save(noise, folder / "noise_grid")


@pytest.mark.parametrize("shift", [0, 1, 3])
def test_wanet_takes_pixels_from_where_its_grids_say(tmp_path: Path, shift: int) -> None:
    folder = make(tmp_path, "WaNet_0.050_cover=0.100_poison_seed=0")
    grids(folder, shift)
    columns = np.minimum(np.arange(EDGE) + shift, EDGE - 1)  # the last column stands for what lies beyond
    case = read(folder)
    assert np.allclose(pixels_of(case), CLEAN[OTHERS][:, :, columns], atol=1e-5)
    assert "made from identity_grid and noise_grid" in note_of(case)


@pytest.mark.parametrize("periods", [5, 6, 7])
@pytest.mark.parametrize("amplitude", [10, 30, 40, 60])
def test_another_sinusoid_is_none_of_sig(tmp_path: Path, amplitude: int, periods: int) -> None:
    wave = amplitude * np.sin(2 * np.pi * np.arange(EDGE) * periods / EDGE)
    directory = "SIG_0.050_poison_seed=0"
    case = read(make(tmp_path, directory, change=lambda images: 100 + images / 10 + wave[:, None]))
    assert (case.test_poisoned is not None) == ((amplitude, periods) == (30, 6))


# --- what the flags and config.py of a checkout say ---------------------------------------------------------------

USUAL = ["phoenix_corner2_32.png", "badnet_patch4_32.png"]


@pytest.mark.parametrize(
    ("flags", "config", "expected"),
    [
        ({"poison_type": "badnet", "test_alpha": 0.3}, {}, {"trigger": "a.png"}),
        ({"poison_type": "trojan", "trigger": "none.png"}, {}, {}),
        ({"poison_type": "SIG"}, {}, {}),
        ({"poison_type": "blend", "alpha": 0.2}, {}, {"trigger": "a.png"}),
        ({"poison_type": "blend", "alpha": 0.1234}, {}, {"trigger": "a.png", "alpha": 0.1234}),
        ({"poison_type": "adaptive_blend", "alpha": 0.1, "test_alpha": 0.2}, {}, {"trigger": "a.png", "alpha": 0.2}),
        ({"poison_type": "TaCT"}, {"source_class": 1}, {"trigger": "a.png"}),
        ({"poison_type": "TaCT"}, {"source_class": 3}, {"trigger": "a.png", "source_class": 3}),
        ({"poison_type": "adaptive_patch"}, {}, {"trigger": "none"}),
        ({"poison_type": "adaptive_patch"}, {"names": USUAL}, {"trigger": ""}),
        ({"poison_type": "adaptive_patch"}, {"names": USUAL[::-1]}, {"trigger": "none"}),
        ({"poison_type": "adaptive_patch"}, {"names": USUAL, "alphas": [1, 0.5]}, {"trigger": "none"}),
    ],
)
def test_the_trigger_of_the_flags(
    tmp_path: Path, flags: dict[str, Any], config: dict[str, Any], expected: dict[str, Any]
) -> None:
    (tmp_path / "a.png").touch()
    lists = {"names": [], "alphas": [1, 1], **config}
    for part in ("names", "alphas"):
        lists[f"adaptive_patch_test_trigger_{part}"] = {"cifar10": lists.pop(part)}
    flags = {"dataset": "cifar10", "trigger": "a.png", **flags}
    found = trigger_options(Namespace(**flags), Namespace(triggers_dir=str(tmp_path), **lists))
    if expected.get("trigger") in ("a.png", ""):
        expected = {**expected, "trigger": str(tmp_path / expected["trigger"])}
    assert found == expected


# --- what cannot be had --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("directory", "said"),
    [
        ("dynamic_0.050_poison_seed=0", "dynamic: a generator network makes its trigger"),
        ("ISSBA_0.050_poison_seed=0", "ISSBA: an encoder network"),
        ("refool_0.050_poison_seed=0", "refool: its reflections are drawn anew"),
        ("SleeperAgent_0.050_poison_seed=0", "SleeperAgent: the toolkit draws its patch anew"),
        ("none_0.000_poison_seed=0", "none: the set holds no poison"),
        ("mine", "not named after an attack"),
        ("badnets_0.050", "not named after an attack"),
        ("trojannn_0.050", "not named after an attack"),
        ("badnet_0.050_poison_seed=0", "poison samples do not show badnet_patch_32.png"),
        ("SIG_0.050_poison_seed=0", "poison samples do not show the sinusoid"),
        ("adaptive_k_way_0.050_poison_seed=0", "poison samples do not show the pixels"),
        ("WaNet_0.050_cover=0.100_poison_seed=0", "no identity_grid and no noise_grid"),
        ("blend_0.050_trigger=hellokitty_32.png_poison_seed=0", "does not say how opaque"),
        ("blend_0.050_alpha=0.200_trigger=other.png_poison_seed=0", "blend shows other.png, and no triggers"),
        ("basic_0.050_alpha=0.200", "which picture basic shows is not known"),
    ],
)
def test_no_asr_and_why(tmp_path: Path, directory: str, said: str) -> None:
    case = read(make(tmp_path, directory))
    assert case.test_poisoned is None
    assert note_of(case).startswith("no triggered test set: ASR is not measured: ") and said in note_of(case)


def test_adaptive_patches_of_other_data_sets_are_not_known(tmp_path: Path) -> None:
    case = read(make(tmp_path, "adaptive_patch_0.050_cover=0.050", dataset="mine"), num_classes=10)
    assert case.test_poisoned is None and "not known for mine" in note_of(case)


def test_poison_samples_of_several_labels(tmp_path: Path) -> None:
    folder = make(tmp_path, "trojan_0.050_poison_seed=0", shown="trojan_square_32.png")
    torch.save(torch.arange(N) % CLASSES, folder / "labels")
    assert "poison samples have labels 1, 2, 3, not one" in note_of(read(folder))


def test_pictures_of_another_size_are_left(tmp_path: Path) -> None:
    folder = make(tmp_path, "badnet_0.050_poison_seed=0", shown="badnet_patch_32.png")
    Image.new("RGB", (9, 8)).save(tmp_path / "triggers" / "badnet_patch_32.png")
    assert "badnet_patch_32.png is 8 × 9, the images 32 × 32" in note_of(read(folder))


def test_an_asr_that_is_not_wanted(tmp_path: Path) -> None:
    folder = make(tmp_path, "badnet_0.050_poison_seed=0", shown="badnet_patch_32.png")
    assert read(folder, trigger="none").test_poisoned is None
    (tmp_path / "triggers" / "badnet_patch_32.png").write_bytes(b"none")
    assert "option trigger" in note_of(read(folder, trigger="none"))


def test_a_run_that_was_finished_without_asr_is_found_again(tmp_path: Path) -> None:
    def identity(**options: Any) -> str:
        source = {"adapter": "backdoor_toolbox", "path": str(tmp_path), "options": options}
        return identity_of(RunSpec.build({"defense": "d3", "source": source}, where="test"))

    assert identity(trigger="none") == identity()
    assert len({identity(), identity(trigger="a.png"), identity(source_class=2)}) == 3


def test_a_given_picture_that_poison_samples_do_not_show_is_told(tmp_path: Path) -> None:
    folder = make(tmp_path, "badnet_0.050_poison_seed=0", shown="badnet_patch_32.png")
    case = read(folder, trigger=tmp_path / "triggers" / "phoenix_corner2_32.png")
    assert np.array_equal(pixels_of(case), laid(CORNER)[OTHERS])
    assert any("do not show" in note and "ASR is that of another trigger" in note for note in case.notes)


@pytest.mark.parametrize(
    ("directory", "trigger", "said"),
    [
        ("SIG_0.050_poison_seed=0", "triggers/hellokitty_32.png", "the trigger of SIG is no picture"),
        ("WaNet_0.050_cover=0.100_poison_seed=0", "triggers", "the trigger of WaNet is no picture"),
        ("ISSBA_0.050_poison_seed=0", "triggers", "an encoder network"),
        ("adaptive_patch_0.050_cover=0.050", "triggers/hellokitty_32.png", "it is not in"),
        ("blend_0.050_trigger=hellokitty_32.png", "triggers/hellokitty_32.png", "option alpha"),
        ("mine", "triggers/hellokitty_32.png", "not named after an attack"),
    ],
)
def test_a_trigger_that_is_asked_for_and_cannot_be_made(
    tmp_path: Path, refused: Any, directory: str, trigger: str, said: str
) -> None:
    folder = make(tmp_path, directory)
    refused(lambda: read(folder, trigger=tmp_path / trigger), "no triggered test set can be made", said, "trigger=none")


@pytest.mark.parametrize(
    "grid",
    [
        torch.zeros(1, EDGE, EDGE + 1, 2),
        torch.zeros(1, EDGE, EDGE, 2, dtype=torch.int64),
        torch.full((1, EDGE, EDGE, 2), float("nan")),
        {"grid": 1},
        torch.zeros(1).expand(10**12),
    ],
)
def test_grids_that_are_none(tmp_path: Path, refused: Any, grid: Any) -> None:
    folder = make(tmp_path, "WaNet_0.050_cover=0.100_poison_seed=0")
    grids(folder, 1)
    torch.save(grid, folder / "noise_grid")
    refused(lambda: read(folder), "noise_grid")


def test_a_picture_that_cannot_be_read(tmp_path: Path, refused: Any) -> None:
    folder = make(tmp_path, "badnet_0.050_poison_seed=0", shown="badnet_patch_32.png")
    picture = tmp_path / "triggers" / "badnet_patch_32.png"
    picture.write_bytes(picture.read_bytes()[:50])
    refused(lambda: read(folder), "badnet_patch_32.png")
    picture.unlink()
    os.mkfifo(picture)
    refused(lambda: read(folder), "badnet_patch_32.png", "not a regular file")


# --- against the toolkit itself ------------------------------------------------------------------------------------

COVERED = ("TaCT", "adaptive_blend", "adaptive_patch", "adaptive_k_way", "WaNet")
ATTACKS = ("badnet", "badnet_all_to_all", "blend", "basic", "trojan", "SIG", *COVERED)
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"  # toolkit_shim.py is there
THEIRS = """
import argparse, runpy, sys
import numpy as np, torch
sys.path[:0] = [sys.argv[1], "."]
import toolkit_shim
toolkit_shim.adapt()
import config
from utils import supervisor, tools

network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10))
torch.save(network.state_dict(), "network.pt")
split = "clean_set/cifar10/test_split"
for name in sys.argv[2:]:
    attack, *cover = name.split("+")
    sys.argv = ["create_poisoned_set.py", "-dataset=cifar10", f"-poison_type={attack}", "-poison_rate=0.1"]
    sys.argv += [f"-cover_rate={each}" for each in cover]
    runpy.run_path(sys.argv[0], run_name="__main__")
    torch.use_deterministic_algorithms(False)
    args = argparse.Namespace(dataset="cifar10", poison_type=attack, poison_rate=0.1, cover_rate=0.1, alpha=0.2,
        seed=2333, no_normalize=False, trigger=config.trigger_default["cifar10"][attack])
    transform = supervisor.get_transforms(args)[1]
    put = supervisor.get_poison_transform(poison_type=attack, dataset_name="cifar10", target_class=0,
        trigger_transform=transform, is_normalized_input=True, alpha=0.2, trigger_name=args.trigger, args=args)
    data = tools.IMG_Dataset(f"{split}/data", f"{split}/labels", transforms=transform)
    changed, wanted = put.transform(*next(iter(torch.utils.data.DataLoader(data, batch_size=len(data)))))
    source = [config.source_class] if attack == "TaCT" else None
    loader = torch.utils.data.DataLoader(data, batch_size=7)
    acc, asr = tools.test(network, loader, True, put, 10, source, all_to_all="all_to_all" in attack)
    np.savez(f"theirs-{attack}.npz", images=changed.numpy(), labels=wanted.numpy(), acc=acc, asr=asr)
"""


@pytest.fixture(scope="module")
def toolbox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of a real checkout with sets that its scripts made, and what its functions make of the test images."""
    import shutil

    given = real_checkout("backdoor-toolbox")
    root = tmp_path_factory.mktemp("toolbox") / "box"
    shutil.copytree(given, root, ignore=shutil.ignore_patterns(".git", "assets", "models", "*.pth"))
    batches = root / "data" / "cifar10" / "cifar-10-batches-py"
    batches.mkdir(parents=True, exist_ok=True)
    (batches / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    rng = np.random.default_rng(3)
    for name in [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]:
        rows = {"data": rng.integers(0, 256, (40, 3072)).astype(np.uint8), "labels": [k % 10 for k in range(40)]}
        (batches / name).write_bytes(pickle.dumps(rows))
    for split, name in (("clean_split", "clean_labels"), ("test_split", "labels")):
        shutil.rmtree(root / "clean_set" / "cifar10" / split, ignore_errors=True)
        write_pngs(root / "clean_set" / "cifar10" / split / "data", TEST)
        torch.save(torch.from_numpy(TEST_LABELS), root / "clean_set" / "cifar10" / split / name)
    names = (f"{attack}+0.1" if attack in COVERED else attack for attack in ATTACKS)
    script = [sys.executable, "-c", THEIRS, str(BENCHMARKS), *names]
    done = subprocess.run(script, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return root


@pytest.mark.toolkit
@pytest.mark.parametrize("attack", ATTACKS)
def test_triggered_images_and_asr_are_those_of_the_toolkit(toolbox: Path, attack: str) -> None:
    sets = toolbox / "poisoned_train_set" / "cifar10"
    (folder,) = (each for each in sets.iterdir() if each.name.startswith(f"{attack}_0."))
    case = read(folder)
    assert case.test_poisoned is not None and case.test is not None, case.notes
    chosen = {"badnet_all_to_all": np.ones(TESTS, bool), "TaCT": TEST_LABELS == 1}.get(attack, OTHERS)
    mean, std = (np.array(STATS[name], np.float32)[:, None, None] for name in ("mean", "std"))
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * EDGE * EDGE, CLASSES))
    network.load_state_dict(torch.load(toolbox / "network.pt"))
    with np.load(toolbox / f"theirs-{attack}.npz") as theirs:
        plain = (theirs["images"] * std + mean).transpose(0, 2, 3, 1)[chosen]
        assert np.abs(pixels_of(case) - plain).max() < 2e-6
        assert np.array_equal(case.test_poisoned.samples.labels, theirs["labels"][chosen])
        ours = model_metrics(Classifier(network, CLASSES, **STATS), case.test, case.test_poisoned)
        assert (ours.acc, ours.asr) == (float(theirs["acc"]), float(theirs["asr"]))

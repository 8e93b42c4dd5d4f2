"""The backdoor_toolbox adapter, on made-up sets in both layouts and on real ones."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from elixir_plugin.adapters.backdoor_toolbox.adapter import BackdoorToolbox
from PIL import Image

from elixir_plugin.core.classifier.classifier import Classifier
from elixir_plugin.core.metrics import Evaluation
from elixir_plugin.core.outcome import Outcome
from elixir_plugin.errors import InputError, SettingsError
from elixir_plugin.evaluation.metrics import evaluate

N, CLASSES, EDGE = 24, 10, 8


def write_pngs(folder: Path, pixels):
    folder.mkdir(parents=True)
    for position, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{position}.png")


def make_set(
    root: Path, directory="badnet_0.050_poison_seed=0", layout="imgs", dataset="cifar10", poison=(1, 5), cover=None
) -> Path:
    """Write a set with clean_split and test_split; return its folder."""
    rng = np.random.default_rng(0)
    folder = root / "poisoned_train_set" / dataset / directory
    folder.mkdir(parents=True)
    pixels = rng.integers(0, 256, (N, EDGE, EDGE, 3)).astype(np.uint8)
    if layout == "imgs":
        faint = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 * 0.999
        torch.save(faint.contiguous(), folder / "imgs")
    else:
        write_pngs(folder / "data", pixels)
    labels = torch.arange(N) % CLASSES
    labels[list(poison)] = 0
    torch.save(labels, folder / "labels")
    torch.save(list(poison), folder / "poison_indices")
    if cover is not None:
        torch.save(list(cover), folder / "cover_indices")
    for split, name, count in (("clean_split", "clean_labels", 20), ("test_split", "labels", 12)):
        clean = root / "clean_set" / dataset / split
        if not clean.exists():
            write_pngs(clean / "data", rng.integers(0, 256, (count, EDGE, EDGE, 3)).astype(np.uint8))
            torch.save(torch.arange(count) % CLASSES, clean / name)
    return folder


def read(folder, **options):
    return BackdoorToolbox(options).read(folder)


@pytest.mark.parametrize("layout", ["imgs", "data"])
def test_both_layouts(tmp_path, layout):
    case = read(make_set(tmp_path, layout=layout, cover=[7]))
    assert len(case.train) == N and case.num_classes == CLASSES
    assert case.train.images.dtype == (np.float32 if layout == "imgs" else np.uint8)
    assert np.flatnonzero(case.truth.poison).tolist() == [1, 5]
    assert np.flatnonzero(case.truth.cover).tolist() == [7]
    assert case.truth.kind == "dirty-label"
    assert (len(case.clean), len(case.test)) == (20, 12)
    assert case.model is None and case.test_poisoned is None
    assert case.visible().origin.facts == {}


def test_float_images_are_not_rounded(tmp_path):
    folder = make_set(tmp_path)
    assert np.array_equal(read(folder).train.read(slice(None)), torch.load(folder / "imgs").permute(0, 2, 3, 1).numpy())


def test_images_that_were_parameters_are_read(tmp_path):
    folder = make_set(tmp_path)
    expected = read(folder).train.fingerprint()
    torch.save(torch.nn.Parameter(torch.load(folder / "imgs")), folder / "imgs")
    assert read(folder).train.fingerprint() == expected


@pytest.mark.parametrize("layout", ["imgs", "data"])
def test_parent_folders_may_be_called_data(tmp_path, layout):
    case = read(make_set(tmp_path / "data" / "database", layout=layout))
    assert len(case.train) == N and case.clean is not None


def test_a_relative_path_finds_the_clean_set(tmp_path, monkeypatch):
    folder = make_set(tmp_path)
    monkeypatch.chdir(folder)
    assert read(Path()).clean is not None
    assert read(Path()).num_classes == CLASSES


def test_the_nearest_clean_set_is_taken_and_options_win(tmp_path):
    folder = make_set(tmp_path / "inner")
    make_set(tmp_path)
    elsewhere = tmp_path / "inner" / "clean_set" / "cifar10" / "test_split"
    assert len(read(folder).clean) == 20
    assert len(read(folder, clean=elsewhere).clean) == 12


def test_missing_parts_are_noted(tmp_path):
    folder = make_set(tmp_path)
    shutil.rmtree(tmp_path / "clean_set")
    (folder / "poison_indices").unlink()
    case = read(folder)
    assert case.clean is case.test is case.truth is None
    text = " ".join(case.notes)
    assert "clean_split" in text and "test_split" in text and "poison_indices" in text


def test_kinds_of_poison(tmp_path):
    assert read(make_set(tmp_path, "SIG_0.020_poison_seed=0")).truth.kind == "clean-label"
    assert read(make_set(tmp_path, "none_0.000_poison_seed=0", poison=())).truth.kind == "none"


def test_number_of_classes_of_other_data_sets(tmp_path):
    folder = make_set(tmp_path, dataset="mine")
    case = read(folder)
    assert case.num_classes == CLASSES and any("num_classes" in note for note in case.notes)
    assert read(folder, num_classes=12).num_classes == 12


def test_suspect_model(tmp_path):
    folder = make_set(tmp_path)
    module = Classifier.build("small_resnet", CLASSES, seed=1).module
    torch.save(module.state_dict(), folder / "full_base_aug_seed=2333.pt")
    case = read(folder, architecture="small_resnet")
    assert torch.equal(case.model.module.linear.weight, module.linear.weight)
    assert case.model.mean.flatten().tolist() == pytest.approx([0.4914, 0.4822, 0.4465])
    with pytest.raises(InputError, match="weights do not fit"):
        read(folder)


# --- triggered test set --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("directory", ["badnet_0.050_poison_seed=0", "blend_0.050_alpha=0.200_trigger=t.png"])
def test_a_trigger_image_makes_a_triggered_test_set(tmp_path, directory):
    folder = make_set(tmp_path, directory, layout="data" if directory[:2] == "ba" else "imgs")
    trigger = np.zeros((EDGE, EDGE, 3), np.uint8)
    trigger[-3:, -3:] = 255
    Image.fromarray(trigger).save(tmp_path / "trigger.png")
    case = read(folder, trigger=tmp_path / "trigger.png")
    triggered = case.test_poisoned
    others = case.test.subset(case.test.labels != 0)
    assert (triggered.samples.labels == 0).all()
    assert np.array_equal(triggered.original_labels, others.labels)
    clean = others.images / np.float32(255)
    stamp = trigger / np.float32(255)
    if directory.startswith("blend"):
        expected = 0.8 * clean + 0.2 * stamp
        assert np.allclose(triggered.samples.images, expected, atol=1e-6)
    else:
        assert np.array_equal(triggered.samples.images, np.where(trigger > 0, trigger, others.images))


def test_a_trigger_that_cannot_be_placed_is_refused(tmp_path, refused):
    folder = make_set(tmp_path, "WaNet_0.050_cover=0.100_poison_seed=0")
    Image.new("RGB", (EDGE, EDGE)).save(tmp_path / "trigger.png")
    refused(lambda: read(folder, trigger=tmp_path / "trigger.png"), "badnet, ", "blend, ", "WaNet is no picture")


# --- damaged and inconsistent input --------------------------------------------------------------------------------


def test_truncated_png(tmp_path, refused):
    folder = make_set(tmp_path, layout="data")
    file = folder / "data" / "3.png"
    file.write_bytes(file.read_bytes()[:60])
    refused(lambda: read(folder), "3.png", "cannot be decoded")


def test_truncated_tensor(tmp_path, refused):
    folder = make_set(tmp_path)
    file = folder / "imgs"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    refused(lambda: read(folder), "imgs")


@pytest.mark.parametrize("layout", ["imgs", "data"])
@pytest.mark.parametrize("count", [N - 1, N + 1, 0])
def test_labels_of_another_length(tmp_path, refused, layout, count):
    folder = make_set(tmp_path, layout=layout)
    torch.save(torch.zeros(count, dtype=torch.int64), folder / "labels")
    refused(lambda: read(folder), f"{N} images, {count} labels")


def test_missing_image(tmp_path, refused):
    folder = make_set(tmp_path, layout="data")
    (folder / "data" / "3.png").rename(folder / "data" / f"{N}.png")
    refused(lambda: read(folder), "3.png", "not found")


@pytest.mark.parametrize("positions", [[0, N], [-1]])
@pytest.mark.parametrize("file", ["poison_indices", "cover_indices"])
def test_positions_out_of_range(tmp_path, refused, file, positions):
    folder = make_set(tmp_path)
    torch.save(positions, folder / file)
    refused(lambda: read(folder), file, "out of range", f"0..{N - 1}")


@pytest.mark.parametrize(
    ("positions", "expected"), [({"a": 1}, "not a list of positions"), ([[0], [1, 2]], "not plain numbers")]
)
def test_positions_that_are_none(tmp_path, refused, positions, expected):
    folder = make_set(tmp_path)
    torch.save(positions, folder / "poison_indices")
    refused(lambda: read(folder), "poison_indices", expected)


def test_images_of_mixed_size(tmp_path, refused):
    folder = make_set(tmp_path, layout="data")
    Image.new("RGB", (EDGE + 1, EDGE)).save(folder / "data" / "4.png")
    refused(lambda: read(folder), "4.png", "another size")


def test_clean_images_of_another_size(tmp_path, refused):
    folder = make_set(tmp_path)
    clean = tmp_path / "clean_set" / "cifar10" / "clean_split" / "data"
    for position in range(20):
        Image.new("RGB", (EDGE * 2, EDGE * 2)).save(clean / f"{position}.png")
    refused(lambda: read(folder), "image shape")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (torch.full((N, 3, EDGE, EDGE), 2.0), "out of range"),
        (torch.full((N, 3, EDGE, EDGE), float("nan")), "out of range"),
        (torch.zeros(N, 3, EDGE, EDGE, dtype=torch.uint8), "float32 tensor"),
        (torch.zeros(N, 3, EDGE, EDGE, dtype=torch.bfloat16), "plain numbers"),
        ([1, 2], "float32 tensor"),
    ],
)
def test_pixels_that_are_none(tmp_path, refused, value, expected):
    folder = make_set(tmp_path)
    torch.save(value, folder / "imgs")
    refused(lambda: read(folder), "imgs", expected)


@pytest.mark.parametrize(
    "labels",
    [
        torch.full((N,), 10),
        torch.zeros(N),
        torch.zeros(N, 2, dtype=torch.int64),
        torch.zeros(N, dtype=torch.bfloat16),
        torch.zeros(1, dtype=torch.int64).expand(10**12),
        [[0], [0, 1]],
    ],
)
def test_labels_that_are_none(tmp_path, refused, labels):
    folder = make_set(tmp_path)
    torch.save(labels, folder / "labels")
    refused(lambda: read(folder), "labels")


def test_a_file_that_wants_to_run_code(tmp_path, refused):
    folder = make_set(tmp_path)
    torch.save({"x": Path("evil")}, folder / "labels")
    refused(lambda: read(folder), "labels", "plain data")


def test_a_folder_that_holds_no_set(tmp_path, refused):
    refused(lambda: read(tmp_path / "nothing"), "set folder not found")
    folder = make_set(tmp_path)
    (folder / "imgs").unlink()
    refused(lambda: read(folder), "no images")


def test_unknown_options_are_refused():
    with pytest.raises(SettingsError, match="settings refused"):
        BackdoorToolbox({"cleen": "x"})


# --- writing -------------------------------------------------------------------------------------------------------


def test_results_are_written_where_the_toolkit_looks(tmp_path):
    folder = make_set(tmp_path)
    adapter = BackdoorToolbox()
    case = adapter.read(folder)
    flagged = np.isin(np.arange(N), [1, 5, 6])
    scores = np.linspace(-3, 1, N)
    outcome = Outcome(scores=scores, flagged=flagged, model=Classifier.build("small_resnet", CLASSES))
    target = adapter.result_folder(case, "confusion_training")
    assert target == folder
    written = adapter.write(case, outcome, evaluate(case, outcome), target, "confusion_training")
    names = [str(path.relative_to(folder)) for path in written]
    assert names == [
        "cleansed_set_indices_other_confusion_training_seed=2333",
        "defended_confusion_training_full_base_aug_seed=2333.pt",
        "suspects_confusion_training/suspects.csv",
    ]
    remaining = torch.load(written[0])
    assert remaining == [i for i in range(N) if i not in (1, 5, 6)]
    assert all(type(i) is int for i in remaining)
    assert "linear.weight" in torch.load(written[1])
    rows = list(csv.DictReader(written[2].read_text().splitlines()))
    assert [int(row["index"]) for row in rows] == list(range(N))
    assert [row["flagged"] == "True" for row in rows] == flagged.tolist()
    assert [float(row["score"]) for row in rows] == scores.tolist()


def test_kept_wins_over_flagged_and_the_seed_is_in_the_name(tmp_path):
    folder = make_set(tmp_path, layout="data")
    adapter = BackdoorToolbox({"seed": 7})
    case = adapter.read(folder)
    outcome = Outcome(flagged=np.zeros(N, bool), kept=np.array([2, 4]))
    written = adapter.write(case, outcome, Evaluation(), tmp_path / "out", "mine")
    assert written[0].name == "cleansed_set_indices_other_mine_seed=7"
    assert torch.load(written[0]) == [2, 4]
    assert list(csv.DictReader(written[1].read_text().splitlines()))[3]["name"] == "data/3.png"


# --- real sets -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("toolkit", "dtype"), [("backdoor_toolbox", np.float32), ("fight_poison", np.uint8)])
def test_real_sets(shared, toolkit, dtype):
    folder = next((shared / "toolkits" / toolkit / "poisoned_train_set" / "cifar10").iterdir())
    case = read(folder)
    assert case.train.images.shape == (2000, 32, 32, 3) and case.train.images.dtype == dtype
    assert (len(case.clean), len(case.test)) == (400, 600)
    assert case.truth.poison.sum() == 100 and (case.train.labels[case.truth.poison] == 0).all()
    pixels = case.train.read(slice(None))
    if dtype == np.float32:  # a faint blend lies between the steps of 8 bits
        poison = pixels[case.truth.poison] * 255
        assert (np.abs(poison - np.rint(poison)) > 1e-3).mean() > 0.5


@pytest.mark.parametrize("beyond", [1e-7, 9e-5, -9e-5])
def test_what_rounding_leaves_beyond_the_range_is_clipped(tmp_path, beyond):
    folder = make_set(tmp_path, directory="WaNet_0.050_cover=0.050_poison_seed=0", cover=[7])
    images = torch.load(folder / "imgs")
    images[1, 0, 0, 0] = 1 + beyond if beyond > 0 else beyond
    torch.save(images, folder / "imgs")
    pixels = read(folder).train.read(slice(None))
    assert pixels[1, 0, 0, 0] == (1 if beyond > 0 else 0) and pixels.dtype == np.float32
    images[1, 0, 0, 0] = pixels[1, 0, 0, 0].item()
    assert np.array_equal(pixels, images.permute(0, 2, 3, 1).numpy())  # and nothing else is


@pytest.mark.parametrize("value", [1.001, -0.001, 2.0, float("nan")])
def test_pixels_that_no_rounding_explains_are_refused(tmp_path, value):
    folder = make_set(tmp_path)
    images = torch.load(folder / "imgs")
    images[1, 0, 0, 0] = value
    torch.save(images, folder / "imgs")
    with pytest.raises(InputError, match="out of range"):
        read(folder)


@pytest.mark.parametrize(
    ("dataset", "options", "said"),
    [
        ("own", {}, "mean 0 and std 1 are assumed"),
        ("own", {"mean": (0.5,)}, "std 1 is assumed"),
        ("own", {"std": (0.5,)}, "mean 0 is assumed"),
        ("own", {"mean": (0.5,), "std": (0.5,)}, None),
        ("own", {"model": "none"}, None),  # nothing is normalised
        ("cifar10", {}, None),
        ("cifar100", {}, "mean 0 and std 1 are assumed"),  # the toolkit does not know it either
    ],
)
def test_a_normalisation_that_is_assumed_is_told(tmp_path, dataset, options, said):
    folder = make_set(tmp_path, dataset=dataset)
    torch.save(Classifier.build("cifar_resnet18", 10).module.state_dict(), folder / "full_base_aug_seed=2333.pt")
    case = read(folder, num_classes=10, **options)
    notes = [note for note in case.notes if "normalisation" in note]
    assert len(notes) == (said is not None) and all(said in note and dataset in note for note in notes)


@pytest.mark.parametrize(
    ("directory", "kind"),
    [("SleeperAgent_0.010", "clean-label"), ("SIG_0.010", "clean-label"), ("badnet_all_to_all_0.050", "dirty-label")],
)
def test_kind_of_poison_by_attack(tmp_path, directory, kind):
    assert read(make_set(tmp_path, directory=f"{directory}_poison_seed=0")).truth.kind == kind

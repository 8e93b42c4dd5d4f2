from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from elixir_plugin.adapters import image_folder as module
from PIL import Image

from elixir_plugin import Case, Classifier, Evaluation, ImageSet, Outcome, get_adapter
from elixir_plugin.errors import SettingsError
from elixir_plugin.io.images import image_shape

Refused = Callable[..., str]
SHAPE = (12, 10, 3)


def read(path: Path, **options: Any) -> Case:
    return get_adapter("image_folder")(options).read(path)


def picture(number: int, shape: tuple[int, int, int] = SHAPE) -> Any:
    return np.random.default_rng(number).integers(0, 256, shape, np.uint8)


def put(path: Path, number: int, shape: tuple[int, int, int] = SHAPE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(number, shape)).save(path)


def fill(root: Path, start: int = 0) -> Path:
    """Two classes, three images each."""
    for number in range(6):
        put(root / ("cat", "dog")[number // 3] / f"{number % 3}.png", start + number)
    return root


def pixels(samples: ImageSet | None) -> Any:
    assert samples is not None
    return samples.read(slice(None))


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


class TestReading:
    def test_flat(self, tmp_path: Path) -> None:
        case = read(fill(tmp_path))
        assert case.train is not None and case.clean is None and case.test is None and case.truth is None
        assert case.train.names == ("cat/0.png", "cat/1.png", "cat/2.png", "dog/0.png", "dog/1.png", "dog/2.png")
        assert case.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
        assert np.array_equal(pixels(case.train), np.stack([picture(i) for i in range(6)]))
        assert not case.notes

    def test_split(self, tmp_path: Path) -> None:
        for start, name in ((0, "train"), (10, "clean"), (20, "test")):
            fill(tmp_path / name, start)
        case = read(tmp_path)
        assert [pixels(part)[0].tolist() for part in (case.train, case.clean, case.test)] == [
            picture(start).tolist() for start in (0, 10, 20)
        ]

    def test_folders_can_be_named(self, tmp_path: Path) -> None:
        fill(tmp_path / "a")
        fill(tmp_path / "b", 10)
        case = read(tmp_path / "a", clean=tmp_path / "b")
        assert np.array_equal(pixels(case.clean)[0], picture(10))

    def test_a_class_called_train_is_no_split(self, tmp_path: Path) -> None:
        put(tmp_path / "train" / "0.png", 0)
        put(tmp_path / "bus" / "0.png", 1)
        case = read(tmp_path)
        assert case.train is not None and case.train.names == ("bus/0.png", "train/0.png")

    def test_order_is_that_of_torchvision(self, tmp_path: Path) -> None:
        from torchvision.datasets import ImageFolder

        for number, name in enumerate(
            ["b/z.png", "b/a/x.png", "b/a-b/x.png", "b/a/c/x.png", "b/A.png", "a/9.png", "a/10.png"]
        ):
            put(tmp_path / name, number)
        case = read(tmp_path)
        theirs = [Path(path).relative_to(tmp_path).as_posix() for path, _ in ImageFolder(tmp_path).samples]
        assert case.train is not None and list(case.train.names or ()) == theirs

    def test_other_files_are_ignored_with_a_note(self, tmp_path: Path) -> None:
        fill(tmp_path)
        (tmp_path / "README.txt").write_text("hello")
        (tmp_path / "cat" / "labels.csv").write_text("hello")
        (tmp_path / "cat" / ".DS_Store").write_text("hidden")
        (tmp_path / ".git").mkdir()
        case = read(tmp_path)
        assert case.train is not None and len(case.train) == 6 and case.num_classes == 2
        assert case.notes == (f"{tmp_path.name}: 2 files are not images and were ignored: README.txt, cat/labels.csv",)

    def test_empty_class_counts_where_another_set_knows_it(self, tmp_path: Path) -> None:
        (fill(tmp_path / "train") / "cow").mkdir()
        put(fill(tmp_path / "test", 10) / "cow" / "0.png", 20)
        case = read(tmp_path)
        assert case.train is not None and case.num_classes == 3 and case.train.labels.tolist() == [0, 0, 0, 2, 2, 2]
        assert case.notes == ("train: classes without an image: cow",)

    def test_resized_and_grey(self, tmp_path: Path) -> None:
        put(tmp_path / "cat" / "0.png", 0)
        put(tmp_path / "dog" / "0.png", 1, (30, 30, 3))
        case = read(tmp_path, size=16, channels=1)
        expected = Image.fromarray(picture(1, (30, 30, 3))).convert("L").resize((16, 16), Image.Resampling.BILINEAR)
        assert np.array_equal(pixels(case.train)[1, ..., 0], np.asarray(expected))

    def test_large_sets_are_lazy_and_equal(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        eager = read(fill(tmp_path)).train
        monkeypatch.setattr(module, "EAGER_BYTES", 100)
        lazy = read(tmp_path).train
        assert eager is not None and lazy is not None
        assert isinstance(eager.images, np.ndarray) and not isinstance(lazy.images, np.ndarray)
        assert lazy.fingerprint() == eager.fingerprint()

    def test_model(self, tmp_path: Path, refused: Refused) -> None:
        fill(tmp_path / "images")
        Classifier.build("small_resnet", 2).save(tmp_path / "model")
        case = read(tmp_path / "images", model=tmp_path / "model")
        assert case.model is not None and case.model.architecture == "small_resnet"
        refused(lambda: read(tmp_path / "images", model=tmp_path), "model not found", "model.json", "save(folder)")
        Classifier.build("small_resnet", 3).save(tmp_path / "three")
        refused(lambda: read(tmp_path / "images", model=tmp_path / "three"), "number of classes", "'model': 3")


class TestRefusals:
    def test_missing_folder(self, tmp_path: Path, refused: Refused) -> None:
        refused(lambda: read(tmp_path / "no"), "image folder not found", "no", "one sub-folder per class")

    def test_empty_folder(self, tmp_path: Path, refused: Refused) -> None:
        refused(lambda: read(tmp_path), "no images in image folder", "0 class folders", "<class>/<file>", "next:")

    def test_images_without_class_folders(self, tmp_path: Path, refused: Refused) -> None:
        put(tmp_path / "0.png", 0)
        refused(
            lambda: read(tmp_path),
            "no images in image folder",
            "0 class folders, 0 other files, 1 images beside each other",
        )

    def test_mixed_sizes(self, tmp_path: Path, refused: Refused) -> None:
        put(fill(tmp_path) / "cat" / "9.png", 9, (8, 8, 3))
        refused(lambda: read(tmp_path), "images of mixed size", "12×10: 6", "8×8: 1", "option size=")

    def test_truncated(self, tmp_path: Path, refused: Refused) -> None:
        file = fill(tmp_path) / "dog" / "1.png"
        file.write_bytes(file.read_bytes()[:-150])
        refused(lambda: read(tmp_path), "cannot be decoded", "dog/1.png", "truncated")

    def test_truncated_in_a_lazy_set(self, tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "EAGER_BYTES", 100)
        file = fill(tmp_path) / "dog" / "1.png"
        file.write_bytes(file.read_bytes()[:-150])
        refused(lambda: read(tmp_path), "cannot be decoded", "dog/1.png")

    def test_not_an_image(self, tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "EAGER_BYTES", 100)
        (fill(tmp_path) / "dog" / "7.jpg").write_bytes(b"\xff\xd8 no")
        refused(lambda: read(tmp_path), "cannot be opened", "7.jpg")
        refused(lambda: read(tmp_path, size=8), "cannot be opened", "7.jpg")

    def test_other_classes_in_the_clean_set(self, tmp_path: Path, refused: Refused) -> None:
        fill(tmp_path / "train")
        put(tmp_path / "clean" / "cat" / "0.png", 0)
        put(tmp_path / "clean" / "horse" / "0.png", 0)
        refused(lambda: read(tmp_path), "class folders differ", "clean", "dog, horse")

    def test_links_that_lead_out(self, tmp_path: Path, refused: Refused) -> None:
        secret = tmp_path / "secret.png"
        put(secret, 0)
        root = fill(tmp_path / "images")
        (root / "cat" / "7.png").symlink_to(secret)
        refused(lambda: read(root), "path leaves its folder", "cat/7.png")
        (root / "cat" / "7.png").unlink()
        shutil.copytree(root / "dog", tmp_path / "outside")
        (root / "cow").symlink_to(tmp_path / "outside")
        refused(lambda: read(root), "links to folders are not followed", "cow")

    def test_link_within_the_folder(self, tmp_path: Path) -> None:
        (fill(tmp_path) / "cat" / "7.png").symlink_to(tmp_path / "cat" / "0.png")
        train = read(tmp_path).train
        assert train is not None and len(train) == 7

    def test_options(self, refused: Refused) -> None:
        refused(lambda: read(Path(), channels=2, sise=4), "channels", "did you mean 'size'?", kind=SettingsError)


class TestWriting:
    def write(self, case: Case, outcome: Outcome, folder: Path) -> list[Path]:
        written = get_adapter("image_folder")().write(case, outcome, Evaluation(), folder, "x")
        assert all(path.exists() for path in written)
        return written

    def test_no_place_of_its_own(self, tmp_path: Path) -> None:
        assert get_adapter("image_folder")().result_folder(read(fill(tmp_path)), "d3") is None

    def test_model(self, tmp_path: Path) -> None:
        case = read(fill(tmp_path / "in"))
        model = Classifier.build("small_resnet", 2)
        assert self.write(case, Outcome(model=model), tmp_path / "out") == [tmp_path / "out" / "model"]
        again = Classifier.load(tmp_path / "out" / "model").module.state_dict()
        assert all((again[name] == value).all() for name, value in model.module.state_dict().items())

    @pytest.mark.parametrize("as_float", [False, True])
    def test_only_what_changed(self, tmp_path: Path, as_float: bool) -> None:
        case = read(fill(tmp_path / "in"))
        assert case.train is not None
        images, labels = pixels(case.train), case.train.labels.copy()
        images[1] = 255 - images[1]
        labels[2] = 1  # cat/2 becomes a dog, and dog/2 is there already
        images = (images / 255).astype(np.float32) if as_float else images
        outcome = Outcome(train=case.train.replace(images=images, labels=labels))
        self.write(case, outcome, tmp_path / "out")
        assert rows(tmp_path / "out" / "changes.csv") == [
            ["name", "old label", "new label", "image changed", "file"],
            ["cat/1.png", "cat", "cat", "True", "cat/1.png"],
            ["cat/2.png", "cat", "dog", "False", "dog/2-2.png"],
        ]
        files = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.png"))
        assert files == ["cat/1.png", "dog/2-2.png"]
        assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "cat" / "1.png")), 255 - picture(1))
        assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "dog" / "2-2.png")), picture(2))

    def test_names_that_differ_in_their_suffix_only(self, tmp_path: Path) -> None:
        put(tmp_path / "in" / "cat" / "0.png", 0)
        put(tmp_path / "in" / "cat" / "0.bmp", 1)
        put(tmp_path / "in" / "dog" / "0.png", 2)
        case = read(tmp_path / "in")
        assert case.train is not None
        self.write(case, Outcome(train=case.train.replace(images=255 - pixels(case.train))), tmp_path / "out")
        files = [row[-1] for row in rows(tmp_path / "out" / "changes.csv")[1:]]
        assert len(set(files)) == 3
        for number, file in zip((1, 0, 2), files, strict=True):
            assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / file)), 255 - picture(number))

    def test_grey(self, tmp_path: Path) -> None:
        case = read(fill(tmp_path / "in"), channels=1)
        assert case.train is not None
        self.write(case, Outcome(train=case.train.replace(images=255 - pixels(case.train))), tmp_path / "out")
        assert image_shape(tmp_path / "out" / "cat" / "0.png") == (12, 10, "L")

    def test_suspects(self, tmp_path: Path) -> None:
        case = read(fill(tmp_path / "in"))
        scores, flagged = np.linspace(0, 1, 6), np.arange(6) == 5
        self.write(case, Outcome(scores=scores, flagged=flagged, kept=np.arange(5)), tmp_path / "out")
        table = rows(tmp_path / "out" / "suspects.csv")
        assert table[0] == ["index", "name", "label", "score", "flagged", "kept"]
        assert table[1] == ["0", "cat/0.png", "0", "0.0", "False", "True"]
        assert table[6] == ["5", "dog/2.png", "1", "1.0", "True", "False"]
        self.write(case, Outcome(flagged=flagged), tmp_path / "out")
        assert rows(tmp_path / "out" / "suspects.csv")[1] == ["0", "cat/0.png", "0", "", "False", ""]

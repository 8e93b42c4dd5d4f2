"""Which folders are classes, which are splits, and in which order classes come: read right, told, or refused."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from elixir_plugin.adapters.common.class_folders import list_images
from PIL import Image

from elixir_plugin import Case, Classifier, get_adapter
from elixir_plugin.core.settings import fingerprint
from elixir_plugin.errors import InputError

Refused = Callable[..., str]


def read(path: Path, **options: Any) -> Case:
    return get_adapter("image_folder")(options).read(path)


STEP = 20  # grey levels between two images


def put(path: Path, value: int = 0, size: tuple[int, int] = (8, 8)) -> Path:
    """Write an image of one grey value, *value* steps up from black."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (STEP * value,) * 3).save(path)
    return path


def tree(root: Path, *names: str) -> Path:
    """Write an image for each name; a name that ends in a slash is an empty folder."""
    for value, name in enumerate(names):
        if name.endswith("/"):
            (root / name).mkdir(parents=True, exist_ok=True)
        else:
            put(root / name, value)
    return root


def values(case: Case, part: str = "train") -> dict[str, int]:
    """Return file name -> steps up from black, as read."""
    images = getattr(case, part)
    return dict(zip(images.names, (images.read(slice(None))[:, 0, 0, 0] // STEP).tolist(), strict=True))


def labelled(case: Case, part: str = "train") -> dict[str, str]:
    """Return file name -> name of its class."""
    images = getattr(case, part)
    return {name: images.classes[label] for name, label in zip(images.names, images.labels, strict=True)}


class TestSplits:
    @pytest.mark.parametrize("names", [("Train", "Test"), ("training", "testing"), ("TRAIN", "Testing")])
    def test_in_any_spelling(self, tmp_path: Path, names: tuple[str, str]) -> None:
        case = read(tree(tmp_path, *(f"{name}/{kind}/0.png" for name in names for kind in ("a", "b"))))
        assert (
            case.train is not None and case.train.names == ("a/0.png", "b/0.png") and case.train.classes == ("a", "b")
        )
        assert values(case) == {"a/0.png": 0, "b/0.png": 1} and values(case, "test") == {"a/0.png": 2, "b/0.png": 3}
        assert not case.notes

    @pytest.mark.parametrize("name", ["val", "Valid", "validation"])
    def test_a_validation_part_is_told_and_can_be_used(self, tmp_path: Path, name: str) -> None:
        tree(tmp_path, "train/a/0.png", "train/b/0.png", f"{name}/a/1.png", f"{name}/b/1.png")
        case = read(tmp_path)
        assert case.clean is None and case.test is None
        assert case.notes == (
            f"{tmp_path.name}: folders that were left out: {name} (options clean and test can name it)",
        )
        used = read(tmp_path, clean=tmp_path / name)
        assert values(used, "clean") == {"a/1.png": 2, "b/1.png": 3} and not used.notes

    def test_folders_without_images_beside_splits_are_told(self, tmp_path: Path) -> None:
        tree(tmp_path, "train/a/0.png", "train/b/0.png", "annotations/")
        (tmp_path / "annotations" / "a.xml").write_text("<a/>")
        case = read(tmp_path)
        assert case.num_classes == 2 and "annotations (no split)" in case.notes[0]

    def test_a_test_part_without_classes_is_told(self, tmp_path: Path) -> None:
        case = read(tree(tmp_path, "train/a/0.png", "train/b/0.png", "test/images/0.png"))
        assert case.test is None and "test (no class folder of the suspect set in it)" in case.notes[0]
        with pytest.raises(InputError, match="class folders differ"):
            read(tmp_path, test=tmp_path / "test")

    def test_an_option_wins_over_the_folder_beside(self, tmp_path: Path) -> None:
        both = [f"{name}/{kind}/0.png" for name in ("train", "test", "other") for kind in ("a", "b")]
        tree(tmp_path / "in", *both[:4])
        tree(tmp_path, *both[4:])
        case = read(tmp_path / "in", test=tmp_path / "other")
        assert values(case, "test") == {"a/0.png": 0, "b/0.png": 1}
        assert case.notes == ("in: folders that were left out: test (option test names another folder)",)


class TestTwoReadings:
    MIXED = ("bus/0.png", "car/0.png", "train/freight/0.png", "train/tram/0.png")

    def test_a_class_or_a_split(self, tmp_path: Path, refused: Refused) -> None:
        tree(tmp_path, *self.MIXED)
        refused(lambda: read(tmp_path), "classes or splits", "train", "bus, car", "layout=classes", "layout=splits")
        case = read(tmp_path, layout="classes")
        assert set(labelled(case).values()) == {"bus", "car", "train"} and len(values(case)) == 4
        case = read(tmp_path, layout="splits")
        assert labelled(case) == {"freight/0.png": "freight", "tram/0.png": "tram"}
        assert "bus (no split), car (no split)" in case.notes[0]

    @pytest.mark.parametrize(
        "names",
        [
            ("train/0.png", "test/0.png"),
            ("Test/a/0.png", "Valid/a/0.png"),
            ("clean/a/0.png", "clean/b/0.png"),
            ("clean/shelf/0.png", "messy/0.png"),
            ("valid/x/0.png", "invalid/x/0.png"),
        ],
    )
    def test_relatives(self, tmp_path: Path, names: tuple[str, ...], refused: Refused) -> None:
        tree(tmp_path, *names)
        refused(lambda: read(tmp_path), "classes or splits", "layout=classes")

    @pytest.mark.parametrize("names", [("Train", "train"), ("train", "training"), ("test", "Testing", "train")])
    def test_one_split_twice(self, tmp_path: Path, names: tuple[str, ...], refused: Refused) -> None:
        tree(tmp_path, *(f"{name}/{kind}/0.png" for name in names for kind in ("a", "b")))
        refused(lambda: read(tmp_path), "one split in two folders")

    @pytest.mark.parametrize(
        "names", [("clean/0.png", "messy/0.png"), ("test/0.png", "control/0.png"), ("valid/0.png", "invalid/0.png")]
    )
    def test_classes_that_are_called_like_splits(self, tmp_path: Path, names: tuple[str, ...]) -> None:
        case = read(tree(tmp_path, *names))
        assert labelled(case) == {name: name.partition("/")[0] for name in names} and not case.notes

    def test_sets_that_are_named_are_no_classes(self, tmp_path: Path) -> None:
        tree(tmp_path, "a/0.png", "b/0.png", "verified/a/0.png", "verified/b/0.png", "clean/a/1.png", "clean/b/1.png")
        Classifier.build("small_resnet", 2).save(tmp_path / "model")
        options = {"clean": tmp_path / "verified", "test": tmp_path / "clean", "model": tmp_path / "model"}
        case = read(tmp_path, **options)
        assert case.num_classes == 2 and values(case, "clean") == {"a/0.png": 2, "b/0.png": 3}
        assert values(case, "test") == {"a/1.png": 4, "b/1.png": 5}

    @pytest.mark.parametrize("depth", ["photos", "photos/photos"])
    def test_a_folder_around_the_class_folders(self, tmp_path: Path, depth: str, refused: Refused) -> None:
        tree(tmp_path / depth, "a/0.png", "b/0.png")
        refused(lambda: read(tmp_path), "only one class folder", f"give {tmp_path / 'photos'}")
        assert read(tmp_path / depth).num_classes == 2

    def test_a_single_class(self, tmp_path: Path, refused: Refused) -> None:
        tree(tmp_path, "a/0.png", "a/1.png")
        refused(lambda: read(tmp_path), "only one class folder", "classes=FILE")


class TestJunk:
    @pytest.mark.parametrize(
        "name", ["__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information", "#recycle"]
    )
    def test_folders_of_systems_are_no_classes(self, tmp_path: Path, name: str) -> None:
        tree(tmp_path, "a/0.png", "b/0.png", f"{name}/a/0.png", f"b/{name}/0.png")
        case = read(tmp_path)
        assert values(case) == {"a/0.png": 0, "b/0.png": 1} and case.num_classes == 2
        assert case.notes == (f"{tmp_path.name}: folders that are no classes were left out: {name}",)

    @pytest.mark.parametrize("name", [".ipynb_checkpoints", ".git", ".Trash-0"])
    def test_hidden_folders_need_no_word(self, tmp_path: Path, name: str) -> None:
        case = read(tree(tmp_path, "a/0.png", "b/0.png", f"{name}/0.png", f"a/{name}/0-checkpoint.png", "b/._0.png"))
        assert values(case) == {"a/0.png": 0, "b/0.png": 1} and not case.notes

    def test_junk_beside_splits_and_in_other_sets(self, tmp_path: Path) -> None:
        names = [f"{part}/{kind}/0.png" for part in ("train", "clean") for kind in ("a", "b")]
        case = read(tree(tmp_path, *names, "__MACOSX/train/a/0.png", "clean/@eaDir/a/0.png"))
        assert case.clean is not None and len(case.clean) == 2 and case.num_classes == 2
        assert case.notes == ("clean: folders that are no classes were left out: @eaDir",)

    def test_files_of_systems_need_no_word(self, tmp_path: Path) -> None:
        tree(tmp_path, "a/0.png", "b/0.png")
        for name in ("a/Thumbs.db", "desktop.ini", "b/.DS_Store"):
            (tmp_path / name).write_text("junk")
        assert not read(tmp_path).notes

    def test_images_that_are_in_no_class(self, tmp_path: Path) -> None:
        case = read(tree(tmp_path, "a/0.png", "b/0.png", "preview.png"))
        assert len(values(case)) == 2
        assert case.notes == (f"{tmp_path.name}: 1 images are in no class folder and were left out: preview.png",)

    def test_images_of_formats_that_are_not_read(self, tmp_path: Path) -> None:
        tree(tmp_path, "a/0.png", "b/0.png", "b/1.gif", "a/2.GIF")
        assert "2 image files of formats that are not read" in read(tmp_path).notes[0]

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
    def test_a_pipe_is_not_waited_for(self, tmp_path: Path) -> None:
        os.mkfifo(tree(tmp_path, "a/0.png", "b/0.png") / "a" / "1.png")
        with pytest.raises(InputError, match="1 of 3 image files") as caught:
            read(tmp_path)
        assert "a/1.png: not a regular file: a FIFO" in str(caught.value)
        assert len(values(read(tmp_path, unreadable="skip"))) == 2

    def test_the_order_of_a_toolkit_stays_its_own(self, tmp_path: Path) -> None:
        tree(tmp_path, *(f"{number}/0.png" for number in range(12)), "__MACOSX/0.png", "3/@eaDir/0.png")
        found = list_images(tmp_path)
        assert found.classes == ("0", "1", "10", "11", "2", "3", "4", "5", "6", "7", "8", "9")
        assert "3/@eaDir/0.png" in found.names  # as torchvision has it: positions count there


class TestEmptyClasses:
    EMPTY = ("a/0.png", "cow/", "b/0.png")

    @pytest.mark.parametrize("extra", ["cow/notes.txt", "cow/deep/x.csv", None, "cow/0.heic"])
    def test_unknown_ones_are_refused(self, tmp_path: Path, extra: str | None, refused: Refused) -> None:
        tree(tmp_path, *self.EMPTY)
        if extra:
            (tmp_path / extra).parent.mkdir(exist_ok=True)
            (tmp_path / extra).write_text("x")
        refused(lambda: read(tmp_path), "class folders without an image", "cow (1 of 3)", "classes=FILE")

    def test_a_model_can_know_them(self, tmp_path: Path, refused: Refused) -> None:
        tree(tmp_path / "in", *self.EMPTY)
        for count in (2, 3):
            Classifier.build("small_resnet", count).save(tmp_path / str(count))
        Classifier.build("small_resnet", 3, classes=("a", "b", "cow")).save(tmp_path / "named")
        for name in ("3", "named"):
            case = read(tmp_path / "in", model=tmp_path / name)
            assert case.num_classes == 3 and case.notes == ("in: classes without an image: cow",)
        refused(lambda: read(tmp_path / "in", model=tmp_path / "2"), "class folders without an image")

    @pytest.mark.parametrize("part", ["clean", "test"])
    def test_another_set_can_know_them(self, tmp_path: Path, part: str) -> None:
        tree(tmp_path / "in", *self.EMPTY)
        tree(tmp_path / "more", "a/0.png", "b/0.png", "cow/0.png")
        assert labelled(read(tmp_path / "in", **{part: tmp_path / "more"})) == {"a/0.png": "a", "b/0.png": "b"}

    def test_a_list_of_classes_decides(self, tmp_path: Path) -> None:
        tree(tmp_path / "in", *self.EMPTY)
        names = tmp_path / "names.txt"
        names.write_text("a\nb\ncow\n")
        assert read(tmp_path / "in", classes=names).num_classes == 3
        names.write_text("a\nb\n")
        case = read(tmp_path / "in", classes=names)
        assert case.num_classes == 2 and "left out, as they are in no list: cow" in case.notes[0]


class TestOrder:
    def test_numbers_come_by_their_value(self, tmp_path: Path) -> None:
        case = read(tree(tmp_path, *(f"{number}/0.png" for number in range(12))))
        assert case.train is not None and case.train.classes == tuple(map(str, range(12)))
        assert case.train.names == tuple(f"{number}/0.png" for number in range(12))
        assert case.train.labels.tolist() == list(range(12)) and values(case) == {f"{i}/0.png": i for i in range(12)}
        (note,) = case.notes
        assert "in the order of their numbers" in note and "0, 1, 10, 11" in note and "class_order=text" in note
        assert case.origin.facts["classes"] == [str(number) for number in range(12)]

    @pytest.mark.parametrize(
        "names", [("00", "01", "10"), ("1", "2", "3"), ("cat10", "cat2"), ("10", "2", "x"), ("²", "10")]
    )
    def test_no_word_where_text_is_the_same_or_meant(self, tmp_path: Path, names: tuple[str, ...]) -> None:
        case = read(tree(tmp_path, *(f"{name}/0.png" for name in names)))
        assert case.train is not None and case.train.classes == tuple(sorted(names)) and not case.notes

    @pytest.mark.parametrize(
        ("names", "expected"),
        [
            (("8", "12", "007"), ("007", "8", "12")),
            (("-1", "-10", "0"), ("-10", "-1", "0")),
            (("20000101", "3", "100"), ("3", "100", "20000101")),
        ],
    )
    def test_relatives(self, tmp_path: Path, names: tuple[str, ...], expected: tuple[str, ...]) -> None:
        case = read(tree(tmp_path, *(f"{name}/0.png" for name in names)))
        assert case.train is not None and case.train.classes == expected and len(case.notes) == 1
        text = read(tmp_path, class_order="text")
        assert text.train is not None and text.train.classes == tuple(sorted(names)) and not text.notes
        asked = read(tmp_path, class_order="number")
        assert asked.train is not None and asked.train.classes == expected and not asked.notes
        assert labelled(text) == labelled(asked) == {f"{name}/0.png": name for name in names}
        assert text.train.fingerprint() != asked.train.fingerprint()

    def test_one_number_twice(self, tmp_path: Path, refused: Refused) -> None:
        tree(tmp_path, "1/0.png", "01/0.png", "2/0.png")
        refused(lambda: read(tmp_path), "name one number", "01 and 1", "class_order=text")
        assert read(tmp_path, class_order="text").num_classes == 3

    @pytest.mark.parametrize("content", ["b\na\n c \n\n", '["b", "a", "c"]', "\ufeffb\r\na\r\nc\r\n"])
    def test_a_file_decides(self, tmp_path: Path, content: str) -> None:
        tree(tmp_path / "in", "a/0.png", "b/0.png")
        (tmp_path / "names").write_bytes(content.encode())
        case = read(tmp_path / "in", classes=tmp_path / "names")
        assert case.train is not None and case.train.classes == ("b", "a", "c") and case.num_classes == 3
        assert case.train.names == ("b/0.png", "a/0.png") and case.train.labels.tolist() == [0, 1]
        assert values(case) == {"b/0.png": 1, "a/0.png": 0} and case.notes == ("in: classes without an image: c",)

    @pytest.mark.parametrize(
        "content",
        [b"a\na\n", b"a\n", b"", b'{"a": 0}', b'["a", 1]', b"a\n../b\n", b"\xff\xfea\n", b'["a"', b'["a", ""]'],
    )
    def test_a_file_that_is_no_list(self, tmp_path: Path, content: bytes, refused: Refused) -> None:
        tree(tmp_path / "in", "a/0.png", "b/0.png")
        (tmp_path / "names").write_bytes(content)
        refused(lambda: read(tmp_path / "in", classes=tmp_path / "names"), "names")
        refused(lambda: read(tmp_path / "in", classes=tmp_path / "none"), "file not found")

    def test_folders_that_the_file_does_not_name(self, tmp_path: Path, refused: Refused) -> None:
        tree(tmp_path / "in", "a/0.png", "b/0.png", "d/0.png")
        (tmp_path / "names").write_text(json.dumps(["a", "b", "c"]))
        refused(lambda: read(tmp_path / "in", classes=tmp_path / "names"), "not in the list of classes", "found:   d")

    def test_a_model_with_names_in_another_order_is_refused(self, tmp_path: Path, refused: Refused) -> None:
        tree(tmp_path / "in", *(f"{number}/0.png" for number in range(11)))
        text = sorted(map(str, range(11)))
        Classifier.build("small_resnet", 11, classes=text).save(tmp_path / "model")
        refused(lambda: read(tmp_path / "in", model=tmp_path / "model"), "disagree on the names of the classes")
        case = read(tmp_path / "in", model=tmp_path / "model", class_order="text")
        assert case.train is not None and list(case.train.classes or ()) == text


class TestAlike:
    @pytest.mark.parametrize(
        ("mine", "theirs"), [("cat", "Cat"), ("caf\u00e9", "cafe\u0301"), ("Stra\u00dfe", "strasse")]
    )
    def test_other_spelling_in_another_set(self, tmp_path: Path, mine: str, theirs: str, refused: Refused) -> None:
        tree(tmp_path, f"train/{mine}/0.png", "train/b/0.png", f"clean/{theirs}/0.png", "clean/b/0.png")
        if mine not in {folder.name for folder in (tmp_path / "clean").iterdir()}:
            refused(lambda: read(tmp_path), "class folders differ", "case or Unicode form alone")

    def test_two_spellings_in_one_set_are_told(self, tmp_path: Path) -> None:
        tree(tmp_path, "a/0.png", "A/0.png")
        if len(list(tmp_path.iterdir())) == 2:
            case = read(tmp_path)
            assert case.num_classes == 2 and "A and a" in case.notes[0]


class TestLinks:
    def test_links_are_followed_when_asked(self, tmp_path: Path, refused: Refused) -> None:
        root = tree(tmp_path / "in", "a/0.png", "b/0.png")
        tree(tmp_path / "store", "x.png", "more/y.png", "c/z.png")
        (root / "a" / "1.png").symlink_to(tmp_path / "store" / "x.png")
        refused(lambda: read(root), "path leaves its folder", "a/1.png", "follow_symlinks=true")
        (root / "a" / "1.png").unlink()
        (root / "b" / "more").symlink_to(tmp_path / "store" / "more")
        (root / "c").symlink_to(tmp_path / "store" / "c")
        refused(lambda: read(root), "not followed", "follow_symlinks=true")
        (root / "a" / "1.png").symlink_to(tmp_path / "store" / "x.png")
        case = read(root, follow_symlinks=True)
        assert values(case) == {"a/0.png": 0, "a/1.png": 0, "b/0.png": 1, "b/more/y.png": 1, "c/z.png": 2}
        assert labelled(case)["c/z.png"] == "c"

    def test_circles(self, tmp_path: Path, refused: Refused) -> None:
        root = tree(tmp_path, "a/0.png", "b/0.png")
        (root / "a" / "up").symlink_to(root / "a")
        refused(lambda: read(root, follow_symlinks=True), "round in a circle", "a/up")
        (root / "a" / "up").unlink()
        (root / "a" / "deep").mkdir()
        (root / "a" / "deep" / "top").symlink_to(root)
        refused(lambda: read(root, follow_symlinks=True), "round in a circle")

    @pytest.mark.parametrize("follow", [False, True])
    def test_a_link_to_itself_or_nowhere_is_an_image_that_is_missing(
        self, tmp_path: Path, follow: bool, refused: Refused
    ) -> None:
        root = tree(tmp_path, "a/0.png", "b/0.png")
        (root / "a" / "1.png").symlink_to(root / "a" / "gone.png")
        refused(lambda: read(root, follow_symlinks=follow), "1 of 3 image files cannot be decoded", "a/1.png")
        (root / "a" / "1.png").unlink()
        (root / "a" / "2.png").symlink_to("2.png")
        refused(lambda: read(root, follow_symlinks=follow), "a/2.png")

    def test_splits_may_be_links(self, tmp_path: Path) -> None:
        tree(tmp_path / "store", "a/0.png", "b/0.png")
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "train").symlink_to(tmp_path / "store")
        assert len(values(read(tmp_path / "in"))) == 2

    def test_a_folder_that_cannot_be_read(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Refused
    ) -> None:
        tree(tmp_path, "a/0.png", "b/0.png")
        scan = os.scandir

        def denied(path: Any) -> Any:
            if Path(path).name == "b":
                raise PermissionError(13, "Permission denied")
            return scan(path)

        monkeypatch.setattr(os, "scandir", denied)
        with pytest.raises(InputError, match="folder cannot be read"):
            read(tmp_path)


def test_options_that_came_later_leave_the_identity_of_runs_as_it_was() -> None:
    former = {"clean": None, "test": None, "size": 32, "channels": 3, "model": None}
    options = get_adapter("image_folder").Options
    assert options.build({"size": 32}).fingerprint() == fingerprint(former)
    assert options.build({"size": 32, "class_order": "text"}).fingerprint() != fingerprint(former)


def test_every_set_carries_the_names_of_the_classes(tmp_path: Path) -> None:
    names = [f"{part}/{kind}/0.png" for part in ("train", "clean", "test") for kind in ("dog", "cat")]
    case = read(tree(tmp_path, *names))
    assert all(part is not None and part.classes == ("cat", "dog") for part in (case.train, case.clean, case.test))


@pytest.mark.parametrize("names", [("b", "a"), tuple(map(str, range(11))), ("1", "01"), ("a/b", "c"), ("x", "unused")])
def test_an_export_keeps_order_and_names(tmp_path: Path, names: tuple[str, ...]) -> None:
    from elixir_plugin import ImageSet

    labels = [0, 1] if "unused" not in names else [0, 0]
    pixels = (STEP * np.arange(2, dtype=np.uint8)).repeat(192).reshape(2, 8, 8, 3)
    train = ImageSet(pixels, labels, len(names), classes=names)
    model = Classifier.build("small_resnet", len(names), classes=names)
    adapter = get_adapter("image_folder")
    source = adapter().export(Case(train=train, model=model), tmp_path / "out")
    again = adapter(source.options).read(Path(source.path))
    assert again.train is not None and again.train.labels.tolist() == labels and not again.notes[1:]
    assert np.array_equal(again.train.read(slice(None)), pixels)
    assert again.train.classes == (("0", "1") if "a/b" in names else names)

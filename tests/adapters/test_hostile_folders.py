"""Folders that are hard to look through, names that no result can have, and what is no file in place of an image."""

from __future__ import annotations

import os
import re
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from elixir_plugin.adapters.common.class_folders import class_folders
from elixir_plugin.adapters.common.folder_files import write_images
from fake_records import Workspace
from PIL import Image

from elixir_plugin import Case, ImageSet, get_adapter
from elixir_plugin.diffusion.fit.data import read_pictures
from elixir_plugin.errors import ElixirError, InputError
from elixir_plugin.io import folders

Refused = Callable[..., str]
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"


def put(path: Path, value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        Image.new("RGB", (8, 8), (value,) * 3).save(file, "PNG")
    return path


def two_classes(root: Path, *more: str) -> Path:
    for name in ("a/0.png", "b/0.png", *more):
        put(root / name)
    return root


def read(path: Path, **options: Any) -> Case:
    return get_adapter("image_folder")(options).read(path)


@contextmanager
def nested(root: Path, depth: int, name: str = "d") -> Iterator[None]:
    """Put an image so many folders deep below ``root/a``; no path is short enough to name it."""
    (root / "a").mkdir(parents=True, exist_ok=True)
    here = os.open(".", os.O_RDONLY)
    try:
        os.chdir(root / "a")
        for _ in range(depth):
            os.mkdir(name)  # noqa: PTH102
            os.chdir(name)
        put(Path("0.png"))
        yield
    finally:
        os.chdir(root / "a")
        made = 0
        while made < depth and Path(name).is_dir():  # by hand: no recursion of shutil's goes so deep
            os.chdir(name)
            made += 1
        for _ in range(made):
            os.chdir("..")
            shutil.rmtree(name)
        os.fchdir(here)
        os.close(here)


class TestInPlaceOfAnImage:
    """All of it is found while the folder is read, in one error."""

    def spoiled(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        two_classes(root, "a/good.png", "b/good.png")
        os.mkfifo(root / "a" / "fifo.png")
        (root / "a" / "device.png").symlink_to("/dev/zero")
        (root / "a" / "folder.png").mkdir()
        (root / "b" / "gone.png").symlink_to("nowhere.png")
        (root / "b" / "loop.png").symlink_to("loop.png")
        (root / "b" / "deep" / "folder.jpg" / "empty").mkdir(parents=True)
        (root / "b" / "eps.png").write_bytes(EPS)
        monkeypatch.chdir(root)
        with socket.socket(socket.AF_UNIX) as opened:
            opened.bind("b/socket.png")
        return root

    def test_each_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        root = self.spoiled(tmp_path / "in", monkeypatch)
        with pytest.raises(InputError, match="8 of 12 image files cannot be decoded") as caught:
            read(root, follow_symlinks=True)
        said = str(caught.value)
        for part in (
            "a/fifo.png: not a regular file: a FIFO",
            "a/device.png: not a regular file: a device",
            "a/folder.png: not a regular file: a folder",
            "b/eps.png: image file cannot be opened: a PostScript",
        ):
            assert part in said  # fmt: skip
        case = read(root, follow_symlinks=True, unreadable="skip")
        assert case.train is not None
        assert case.train.names == ("a/0.png", "a/good.png", "b/0.png", "b/good.png")
        reasons = {each["name"]: each["reason"] for each in case.origin.facts["unreadable"]}
        assert reasons.keys() == {
            "a/device.png", "a/fifo.png", "a/folder.png", "b/deep/folder.jpg", "b/eps.png", "b/gone.png", "b/loop.png",
            "b/socket.png",
        }  # fmt: skip
        assert "a folder" in reasons["b/deep/folder.jpg"] and "not found" in reasons["b/gone.png"]
        assert "symbolic links" in reasons["b/loop.png"] and "a socket" in reasons["b/socket.png"]

    def test_a_folder_called_like_an_image_may_hold_images(self, tmp_path: Path) -> None:
        case = read(two_classes(tmp_path, "a/old.png/0.png", "a/old.png/more.jpg/1.png", "c.png/0.png"))
        assert case.train is not None and case.train.classes == ("a", "b", "c.png")
        assert set(case.train.names or ()) > {"a/old.png/0.png", "a/old.png/more.jpg/1.png", "c.png/0.png"}

    def test_pictures_for_a_denoiser(self, tmp_path: Path) -> None:
        os.mkfifo(two_classes(tmp_path) / "x.png")
        with pytest.raises(InputError, match="not a regular file") as caught:
            read_pictures(tmp_path)
        assert "x.png" in str(caught.value) and "a FIFO" in str(caught.value)

    @pytest.mark.parametrize("kind", ["a FIFO", "a folder", "a PostScript file"])
    def test_the_file_of_a_record(self, workspace: Workspace, kind: str) -> None:
        path = next(workspace.record.rglob("*.png"))
        path.unlink()
        if kind == "a PostScript file":
            path.write_bytes(EPS)
        else:
            os.mkfifo(path) if kind == "a FIFO" else path.mkdir()
        with pytest.raises(InputError) as caught:
            get_adapter("backdoorbench")({"architecture": "small_resnet"}).read(workspace.record)
        assert kind in str(caught.value) and path.name in str(caught.value)

    @pytest.mark.parametrize("name", ["imgs", "data/1.png"])
    def test_a_set_of_backdoor_toolbox(self, tmp_path: Path, name: str) -> None:
        folder = tmp_path / "poisoned_train_set" / "cifar10" / "badnet_0.050_poison_seed=0"
        for position in range(3):
            put(folder / "data" / f"{position}.png")
        torch.save(torch.zeros(3, dtype=torch.int64), folder / "labels")
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)
        with pytest.raises(InputError, match="not a regular file") as caught:
            get_adapter("backdoor_toolbox")({"model": "none"}).read(folder)
        assert "a FIFO" in str(caught.value) and Path(name).name in str(caught.value)


class TestFolders:
    @pytest.mark.parametrize("depth", [100, 1500, 3000])
    def test_folders_in_folders(self, tmp_path: Path, depth: int) -> None:
        root = two_classes(tmp_path / "in")
        with nested(root, depth):
            for reading in (read, read_pictures):
                with pytest.raises(InputError) as caught:
                    reading(root)
                said = str(caught.value)
                assert "folders are nested too deeply" in said and "at most 64" in said and len(said) < 1100

    def test_as_deep_as_can_be(self, tmp_path: Path) -> None:
        root = two_classes(tmp_path / "in", "a/" + "d/" * (folders.DEPTH - 1) + "1.png")
        assert len(read(root).train or ()) == 3
        put(root / ("a/" + "d/" * folders.DEPTH + "1.png"))
        with pytest.raises(InputError, match="nested too deeply"):
            read(root)

    def test_long_names_of_folders(self, tmp_path: Path) -> None:
        root = two_classes(tmp_path / "in")
        with nested(root, 12, "x" * 250), pytest.raises(InputError, match=r"file name is too long|cannot be read"):
            read(root)

    @pytest.mark.parametrize("path", ["x" * 10_000, "y/" * 5000, "nul\0nul", "half\ud800"])
    @pytest.mark.parametrize("option", [None, "clean", "test", "model"])
    def test_paths_that_are_none(self, tmp_path: Path, path: str, option: str | None) -> None:
        given = Path(f"{tmp_path}/{path}")
        two_classes(tmp_path / "in")
        for reading in [lambda: read(tmp_path / "in", **{option: str(given)})] if option else [
            lambda: read(given), lambda: read_pictures(given),
            lambda: get_adapter("backdoorbench")().read(given), lambda: get_adapter("backdoor_toolbox")().read(given),
        ]:  # fmt: skip
            with pytest.raises(ElixirError) as caught:
                reading()
            assert re.search(r"cannot be read|not found|not a usable path", str(caught.value))
            assert len(str(caught.value)) < 1100

    def test_loops(self, tmp_path: Path) -> None:
        root = two_classes(tmp_path / "in")
        (tmp_path / "loop").symlink_to("loop")
        with pytest.raises(InputError, match="cannot be read"):
            read(tmp_path / "loop")
        for name, target in (("self", "self"), ("one", "two"), ("two", "one")):
            (root / "a" / name).symlink_to(target)
        assert len(read(root, follow_symlinks=True).train or ()) == 2  # links to nothing, with no name of an image
        (root / "a" / "up").symlink_to("../b")
        (root / "b" / "down").symlink_to("../a")
        with pytest.raises(InputError, match="round in a circle"):
            read(root, follow_symlinks=True)
        for name in ("self", "one", "two"):
            (root / "a" / name).unlink()
        with pytest.raises(InputError, match="links to folders are not followed"):
            read_pictures(root)

    def test_a_folder_that_may_not_be_entered(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        root = two_classes(tmp_path)
        plain = Path.stat

        def denied(path: Path, **how: Any) -> Any:
            if path == root:
                raise PermissionError(13, "Permission denied")
            return plain(path, **how)

        monkeypatch.setattr(Path, "stat", denied)
        for reading in (read, read_pictures):
            with pytest.raises(InputError, match="folder cannot be read") as caught:
                reading(root)
            assert "Permission denied" in str(caught.value)

    def test_a_folder_of_many_files_is_listed_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        two_classes(tmp_path)
        for number in range(5000):
            (tmp_path / "a" / f"{number}.txt").touch()
        listed: list[str] = []
        scan = os.scandir
        monkeypatch.setattr(os, "scandir", lambda path: listed.append(str(path)) or scan(path))
        found = class_folders(tmp_path)
        assert len(found.ignored) == 5000
        assert sorted(Path(path).name for path in listed) == sorted([tmp_path.name, "a", "b"])


class TestNames:
    @pytest.mark.parametrize("name", ["x" * 256, "é" * 128, "half\ud800", "\udcff" * 300])
    def test_a_class_that_no_folder_can_be_called(self, tmp_path: Path, name: str) -> None:
        import json

        root = two_classes(tmp_path / "in")
        (tmp_path / "names.json").write_text(json.dumps(["a", "b", name]))
        with pytest.raises(InputError, match=r"not a name of a folder|text that cannot be written") as caught:
            read(root, classes=str(tmp_path / "names.json"))
        assert "names.json" in str(caught.value) and str(caught.value).encode() is not None

    @pytest.mark.parametrize("name", ["x" * 255, "é" * 127, " a ", "b.", "CON", "\x1b[31m", "\udcff"])
    def test_a_class_that_one_can_be_called(self, tmp_path: Path, name: str) -> None:
        put(tmp_path / "in" / name / "0.png")
        put(tmp_path / "in" / "a" / "0.png", 9)
        case = read(tmp_path / "in")
        assert case.train is not None and set(case.train.classes or ()) == {"a", name}
        source = get_adapter("image_folder")().export(case, tmp_path / "out")
        again = get_adapter("image_folder")(source.options).read(Path(source.path))
        assert again.train is not None and len(again.train) == 2

    @pytest.mark.parametrize(
        "names",
        [
            ("a/" + "x" * 300, "b/1"), ("a/half\ud800", "b/1"), ("a/nul\0", "b/1"), ("a/../../1", "b/1"),
            ("a/" + "d/" * 2000 + "1", "b/1"), ("a/.1", "b/1"), ("a/" + "é" * 127, "b/1"),
        ],
    )  # fmt: skip
    def test_names_that_an_export_cannot_keep_become_numbers(self, tmp_path: Path, names: tuple[str, ...]) -> None:
        images = ImageSet(np.zeros((2, 8, 8, 3), np.uint8), [0, 1], 2, names)
        write_images(images, ["a", "b"], tmp_path / "out")
        written = sorted(path.relative_to(tmp_path / "out").as_posix() for path in tmp_path.rglob("*.png"))
        assert written == ["a/0.png", "b/1.png"]

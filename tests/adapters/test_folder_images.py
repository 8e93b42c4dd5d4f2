"""Image files as people have them: turned by EXIF, damaged, huge, with palettes; read as meant, told, or refused."""

from __future__ import annotations

import csv
import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from elixir_plugin.adapters import image_folder as module
from PIL import ExifTags, Image, ImageOps

from elixir_plugin import Case, Evaluation, Outcome, get_adapter
from elixir_plugin.errors import InputError
from elixir_plugin.io.images import image_header, read_image

Refused = Callable[..., str]


def read(path: Path, **options: Any) -> Case:
    return get_adapter("image_folder")(options).read(path)


def pixels(number: int, shape: tuple[int, int, int] = (12, 10, 3)) -> Any:
    return np.random.default_rng(number).integers(0, 256, shape, np.uint8)


def put(path: Path, number: int, orientation: int | None = None, **how: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if orientation is not None:
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        how["exif"] = exif
    if path.suffix == ".webp":
        how["lossless"] = True
    Image.fromarray(pixels(number)).save(path, **how)
    return path


def damage(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:-200])
    return path


def two_classes(root: Path) -> Path:
    for number in range(6):
        put(root / "ab"[number // 3] / f"{number % 3}.png", number)
    return root


def upright(path: Path) -> Any:
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def late_exif(path: Path, orientation: int) -> Path:
    """Move the EXIF data of a PNG file behind the pixels, where some programs put them."""
    plain = put(path, 0).read_bytes()
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    body = b"eXIf" + exif.tobytes()[6:]
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    end = plain.index(b"IEND") - 4
    path.write_bytes(plain[:end] + chunk + plain[end:])
    return path


class TestOrientation:
    @pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_every_turn(self, tmp_path: Path, suffix: str, orientation: int) -> None:
        path = put(tmp_path / f"a{suffix}", 0, orientation)
        header = image_header(path)
        assert header.orientation == orientation and (header.height, header.width) == (12, 10)
        turned = read_image(path, upright=True)
        assert np.array_equal(turned, upright(path)) and turned.shape[:2] == header.size(upright=True)
        with Image.open(path) as image:
            assert np.array_equal(read_image(path), np.asarray(image.convert("RGB")))

    def test_behind_the_pixels(self, tmp_path: Path) -> None:
        path = late_exif(tmp_path / "a.png", 6)
        assert image_header(path).orientation == 6 and np.array_equal(read_image(path, upright=True), upright(path))

    @pytest.mark.parametrize("orientation", [0, 9, 255])
    def test_no_orientation_at_all(self, tmp_path: Path, orientation: int) -> None:
        assert image_header(put(tmp_path / "a.jpg", 0, orientation)).orientation == 1

    def test_tiff_is_upright_anyway(self, tmp_path: Path) -> None:
        path = put(tmp_path / "a.tif", 0, 6)
        header = image_header(path)
        assert header.orientation == 1 and read_image(path).shape == (10, 12, 3) == (header.height, header.width, 3)

    @pytest.mark.filterwarnings("ignore:Corrupt EXIF")
    def test_broken_exif_data_do_not_make_an_image_unreadable(self, tmp_path: Path) -> None:
        path = put(tmp_path / "a.jpg", 0, exif=b"Exif\x00\x00MM\x00*nonsense")
        assert image_header(path).orientation == 1 and read_image(path, upright=True).shape == (12, 10, 3)

    @pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
    def test_told_once_and_ignored_as_torchvision_does(self, tmp_path: Path, suffix: str) -> None:
        from torchvision.datasets import ImageFolder

        root = two_classes(tmp_path)
        for name in ("a/7", "b/8", "b/9"):
            put(root / f"{name}{suffix}", 7, 3)
        case = read(root)
        theirs = [np.asarray(image) for image, _ in ImageFolder(root)]
        assert case.train is not None and np.array_equal(case.train.read(slice(None)), np.stack(theirs))
        (note,) = case.notes
        assert note.startswith(
            f"3 images have an EXIF orientation, which is ignored, as torchvision does: first a/7{suffix}"
        )
        case = read(root, exif="transpose")
        assert case.train is not None and not case.notes
        place = {name: row for row, name in enumerate(case.train.names or ())}
        for name in (f"a/7{suffix}", f"b/9{suffix}", "a/0.png"):
            assert np.array_equal(case.train.read(slice(None))[place[name]], upright(root / name))

    def test_turning_can_make_sizes_agree(self, tmp_path: Path, refused: Refused) -> None:
        root = two_classes(tmp_path)
        Image.fromarray(pixels(9, (10, 12, 3))).save(put(root / "b" / "9.jpg", 9, 6), exif=_exif(6))
        refused(lambda: read(root), "images of mixed size", "12×10: 6", "10×12: 1")
        assert read(root, exif="transpose").train is not None


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif


class TestUnreadable:
    def spoiled(self, root: Path) -> Path:
        """Spoil four of eight images, each in another way."""
        two_classes(root)
        damage(root / "a" / "1.png")
        (root / "a" / "3.jpg").write_bytes(b"no image")
        (root / "b" / "0.png").write_bytes(b"")
        Image.fromarray(np.zeros((12, 10), np.uint16)).save(root / "b" / "5.png")
        return root

    @pytest.mark.parametrize("limit", [1 << 30, 100])
    @pytest.mark.parametrize("size", [None, 8])
    def test_all_are_named_at_once(
        self, tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch, limit: int, size: int | None
    ) -> None:
        monkeypatch.setattr(module, "EAGER_BYTES", limit)
        self.spoiled(tmp_path)
        message = refused(lambda: read(tmp_path, size=size), "4 of 8 image files cannot be decoded", "unreadable=skip")
        for said in (
            "a/1.png: image file cannot be decoded: image file is truncated",
            "a/3.jpg",
            "b/0.png",
            "mode I;16",
        ):
            assert said in message
        assert str(tmp_path) not in message.split("found:")[1]

    def test_the_first_ten_and_their_number(self, tmp_path: Path, refused: Refused) -> None:
        two_classes(tmp_path)
        for number in range(13):
            (tmp_path / "a" / f"x{number:02}.png").write_bytes(b"")
        message = refused(lambda: read(tmp_path), "13 of 19", "; and 3 more")
        assert "x09" in message and "x10" not in message

    @pytest.mark.parametrize("limit", [1 << 30, 100])
    def test_skipped_with_stable_positions(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
        monkeypatch.setattr(module, "EAGER_BYTES", limit)
        whole = read(two_classes(tmp_path)).train
        self.spoiled(tmp_path)
        case = read(tmp_path, unreadable="skip")
        train = case.train
        assert train is not None and whole is not None
        assert train.names == ("a/0.png", "a/2.png", "b/1.png", "b/2.png")
        assert train.ids.tolist() == [0, 2, 5, 6] and train.labels.tolist() == [0, 0, 1, 1]
        assert np.array_equal(train.read(slice(None)), whole.read(np.array([0, 2, 4, 5])))
        assert [each["index"] for each in case.origin.facts["unreadable"]] == [1, 3, 4, 7]
        assert case.notes[0].startswith(
            "4 of 8 image files cannot be read and were left out (option unreadable=skip): a/1"
        )

    def test_they_stay_in_every_table(self, tmp_path: Path) -> None:
        case = read(self.spoiled(tmp_path / "in"), unreadable="skip")
        assert case.train is not None
        labels = case.train.labels.copy()
        labels[1] = 1
        outcome = Outcome(
            scores=np.array([0.5, 1, 2, 3]), kept=np.array([0, 2]), train=case.train.replace(labels=labels)
        )
        get_adapter("image_folder")().write(case, outcome, Evaluation(), tmp_path / "out", "x")
        suspects = rows(tmp_path / "out" / "suspects.csv")
        assert suspects[0] == ["index", "name", "label", "score", "flagged", "kept", "unreadable"]
        assert [row[:2] for row in suspects[1:]] == [
            ["0", "a/0.png"], ["1", "a/1.png"], ["2", "a/2.png"], ["3", "a/3.jpg"],
            ["4", "b/0.png"], ["5", "b/1.png"], ["6", "b/2.png"], ["7", "b/5.png"],
        ]  # fmt: skip
        assert suspects[1] == ["0", "a/0.png", "0", "0.5", "", "True", ""]
        assert suspects[2][2:6] == ["0", "", "", ""] and "truncated" in suspects[2][6]
        assert suspects[6] == ["5", "b/1.png", "1", "2.0", "", "True", ""] and "I;16" in suspects[8][6]
        changes = rows(tmp_path / "out" / "changes.csv")
        assert changes[0][-1] == "unreadable" and [row[0] for row in changes[1:]] == [
            "a/1.png", "a/2.png", "a/3.jpg", "b/0.png", "b/5.png",
        ]  # fmt: skip
        assert changes[2] == ["a/2.png", "a", "b", "False", "b/2-2.png", ""]
        assert changes[1][:5] == ["a/1.png", "a", "", "", ""] and "truncated" in changes[1][5]

    def test_in_another_set(self, tmp_path: Path, refused: Refused) -> None:
        for part in ("train", "clean"):
            two_classes(tmp_path / part)
        damage(tmp_path / "clean" / "b" / "1.png")
        refused(lambda: read(tmp_path), "1 of 12", "b/1.png (clean set)")
        case = read(tmp_path, unreadable="skip")
        assert case.clean is not None and case.clean.ids.tolist() == [0, 1, 2, 3, 5]
        assert "unreadable" not in case.origin.facts and "(clean set)" in case.notes[0]

    def test_none_is_left(self, tmp_path: Path, refused: Refused) -> None:
        for name in ("a/0.png", "b/0.png"):
            (tmp_path / name).parent.mkdir()
            (tmp_path / name).write_bytes(b"")
        refused(lambda: read(tmp_path, unreadable="skip"), "2 of 2", "a readable image in the train set")

    def test_a_whole_set_needs_no_ids(self, tmp_path: Path) -> None:
        case = read(two_classes(tmp_path), unreadable="skip")
        assert case.train is not None and case.train.ids.tolist() == list(range(6)) and not case.notes
        assert case.train.fingerprint() == read(tmp_path).train.fingerprint()  # type: ignore[union-attr]


class TestHuge:
    @pytest.mark.parametrize("factor", [1, 3])  # Pillow warns up to twice the limit, and fails beyond
    def test_the_limit_and_its_reason_are_said(
        self, tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch, factor: int
    ) -> None:
        two_classes(tmp_path)
        Image.new("L", (1000, 200 * factor)).save(tmp_path / "a" / "9.png")
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 150_000)
        message = refused(lambda: read(tmp_path, size=8), "1 of 7", "a/9.png: image cannot be read: it is too large")
        assert "at most 150,000 pixels" in message and "fills all memory" in message
        assert len(read(tmp_path, size=8, unreadable="skip").train or ()) == 6

    def test_at_the_limit(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        Image.new("L", (100, 20)).save(tmp_path / "a.png")
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
        assert read_image(tmp_path / "a.png").shape == (20, 100, 3)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1999)
        with pytest.raises(InputError, match="too large") as caught:
            read_image(tmp_path / "a.png")
        assert caught.value.where == tmp_path / "a.png"


@pytest.mark.parametrize("transparency", [None, 3, bytes([0, 5, 255])])
def test_palettes_give_their_colours_whatever_is_transparent(tmp_path: Path, transparency: Any) -> None:
    colours = pixels(0, (1, 256, 3))[0]
    image = Image.fromarray(pixels(1)[..., 0])
    image.putpalette(colours.tobytes())
    keep = {} if transparency is None else {"transparency": transparency}
    image.save(tmp_path / "a.png", **keep)
    assert np.array_equal(read_image(tmp_path / "a.png"), colours[pixels(1)[..., 0]])


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_colours_below_transparency_are_those_stored(tmp_path: Path, mode: str) -> None:
    array = pixels(0, (6, 5, len(mode)))
    Image.fromarray(array, mode if mode == "RGBA" else "LA").save(tmp_path / "a.png")
    expected = array[..., :3] if mode == "RGBA" else array[..., :1].repeat(3, axis=2)
    assert np.array_equal(read_image(tmp_path / "a.png"), expected)


def test_a_file_that_is_called_otherwise_is_read_as_what_it_is(tmp_path: Path) -> None:
    two_classes(tmp_path)
    buffer = io.BytesIO()
    Image.fromarray(pixels(9)).save(buffer, "PNG")
    (tmp_path / "a" / "9.JPG").write_bytes(buffer.getvalue())
    case = read(tmp_path)
    assert case.train is not None and np.array_equal(case.train.read(slice(3, 4))[0], pixels(9))

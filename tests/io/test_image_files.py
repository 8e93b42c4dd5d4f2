"""Images are opened by one function: in listed formats alone, without another program, at a bounded cost."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from image_bombs import BOMBS, MEMORY, SECONDS, saved
from PIL import Image, ImageFile

from elixir_plugin.errors import InputError
from elixir_plugin.io import image_files
from elixir_plugin.io.images import image_header, read_image
from elixir_plugin.io.reading import read_torch

ROOT = Path(__file__).parents[2]
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"
OTHERS = {
    "a PostScript file": EPS,
    "a PostScript file (EPS)": b"\xc5\xd0\xd3\xc6" + bytes(28) + EPS,
    "a PDF file": b"%PDF-1.7\n",
    "an icon (ICO)": saved("ICO", (16, 16)),
    "a JPEG 2000 image": b"\0\0\0\x0cjP  \r\n\x87\n",
    "an AVIF image": b"\0\0\0\x1cftypavif" + bytes(16),
    "a Photoshop file": b"8BPS\0\1" + bytes(20),
    "a Windows metafile": b"\xd7\xcd\xc6\x9a" + bytes(40),
    "XML, HTML or SVG text": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "an image of floats (PFM)": b"PF\n8 8\n-1.0\n" + bytes(768),
    "the Git LFS pointer of a file, not the file itself": b"version https://git-lfs.github.com/spec/v1\n",
    "an empty file": b"",
    "a TGA image, or a cursor": saved("TGA"),
    "not an image of a known format": b"no image",
}
READ = {
    "PNG": "RGB", "JPEG": "RGB", "MPO": "RGB", "BMP": "RGB", "GIF": "P", "TIFF": "RGB", "WEBP": "RGB", "PPM": "RGB",
}  # fmt: skip


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        call()
    return str(caught.value)


@pytest.fixture
def ghostscript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a program in the place of Ghostscript; the file that is returned appears when it is started."""
    canary, program = tmp_path / "started", tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho started >> {canary}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    return canary


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a"])
@pytest.mark.parametrize("content", [EPS, OTHERS["a PostScript file (EPS)"], b"%PDF-1.4\n" + EPS])
def test_no_program_is_started(tmp_path: Path, ghostscript: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    for reading in (image_header, read_image):
        message = refused(lambda reading=reading: reading(path))  # type: ignore[misc]
        assert "PostScript" in message or "a PDF file" in message
    assert not ghostscript.exists()


@pytest.mark.parametrize("kind", OTHERS)
def test_other_formats_are_refused_by_name(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(OTHERS[kind])
    for reading in (image_header, read_image):
        message = refused(lambda reading=reading: reading(path))  # type: ignore[misc]
        assert f"found:   {kind}\n" in message and "convert it to one of PNG, JPEG, BMP" in message


@pytest.mark.parametrize("format", READ)
def test_what_users_have_is_read_under_any_name(tmp_path: Path, format: str) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    image = Image.fromarray(colours)
    if READ[format] == "P":
        image = image.quantize(64)
    path = tmp_path / "a.png"
    image.save(path, format, **({"lossless": True} if format == "WEBP" else {}))
    with Image.open(path) as opened:
        expected = np.asarray(opened.convert("RGB"))
    assert np.array_equal(read_image(path), expected) and image_header(path).size(upright=False) == (9, 7)


@pytest.mark.parametrize("suffix", ["P1", "P2", "P3", "P4", "P5"])
def test_every_kind_of_ppm(tmp_path: Path, suffix: str) -> None:
    rows = {
        "P1": b"P1\n# two\n2 1\n1 0\n", "P2": b"P2\n2 1\n255\n0 255\n", "P3": b"P3 2 1 255 0 0 0 255 255 255\n",
        "P4": b"P4\n2 1\n\x80", "P5": b"P5\n2 1\n255\n\0\xff",
    }  # fmt: skip
    (tmp_path / "a.ppm").write_bytes(rows[suffix])
    assert read_image(tmp_path / "a.ppm").tolist() == [[[0, 0, 0], [255, 255, 255]]]


class TestGlobalSwitches:
    """What a program has set in Pillow does not change what is read, and is as it was afterwards."""

    def test_a_truncated_image_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8))
        monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
        for format in ("PNG", "JPEG", "BMP", "TIFF"):
            buffer = io.BytesIO()
            noise.save(buffer, format)
            (tmp_path / "a.png").write_bytes(buffer.getvalue()[:-400])
            assert "cannot be decoded" in refused(lambda: read_image(tmp_path / "a.png"))
            assert ImageFile.LOAD_TRUNCATED_IMAGES is True

    @pytest.mark.parametrize("limit", [None, 10**12])
    def test_the_largest_image(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int | None) -> None:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        Image.new("1", (20_000, 5_000)).save(tmp_path / "a.png")
        for reading in (image_header, read_image):
            assert "at most 89,478,485 pixels" in refused(lambda reading=reading: reading(tmp_path / "a.png"))  # type: ignore[misc]
        assert limit == Image.MAX_IMAGE_PIXELS

    def test_in_threads(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
        (tmp_path / "a.png").write_bytes(saved("PNG"))
        with ThreadPoolExecutor(8) as pool:
            assert {each.shape for each in pool.map(read_image, [tmp_path / "a.png"] * 200)} == {(64, 64, 3)}
        assert ImageFile.LOAD_TRUNCATED_IMAGES is True and Image.MAX_IMAGE_PIXELS is None


class TestIrregular:
    @pytest.mark.parametrize("kind", ["a FIFO", "a folder", "a socket", "a device"])
    def test_is_refused_by_name(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
        path = tmp_path / "a.png"
        if kind == "a FIFO":
            os.mkfifo(path)
        elif kind == "a folder":
            path.mkdir()
        elif kind == "a device":
            path.symlink_to("/dev/zero")
        else:
            monkeypatch.chdir(tmp_path)  # the name of a socket is short
            with socket.socket(socket.AF_UNIX) as opened:
                opened.bind("a.png")
        for reading in (image_header, read_image):
            message = refused(lambda reading=reading: reading(path))  # type: ignore[misc]
            assert kind in message and "a.png" in message

    def test_links(self, tmp_path: Path) -> None:
        (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
        (tmp_path / "loop.png").symlink_to("loop.png")
        assert "image file not found" in refused(lambda: read_image(tmp_path / "gone.png"))
        assert "symbolic links" in refused(lambda: read_image(tmp_path / "loop.png"))

    @pytest.mark.parametrize("name", ["x" * 10_000, "nul\0nul", "half\ud800"])
    def test_paths_that_are_none(self, tmp_path: Path, name: str) -> None:
        assert "cannot be" in refused(lambda: read_image(tmp_path / name))


def test_another_size_is_told_from_the_header(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(saved("PNG")[:60])  # not one row of pixels
    message = refused(lambda: read_image(path, size=(32, 32)))
    assert "image of another size" in message and "(64, 64, 3)" in message


def test_large_images_are_decoded_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_files, "AT_ONCE", 100)
    (tmp_path / "a.png").write_bytes(saved("PNG"))
    inside, most = 0, 0
    lock, convert = threading.Lock(), Image.Image.convert

    def counted(image: Image.Image, *how: Any) -> Image.Image:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        made = convert(image, *how)
        with lock:
            inside -= 1
        return made

    monkeypatch.setattr(Image.Image, "convert", counted)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(read_image, [tmp_path / "a.png"] * 64))
    assert most == 1


def test_a_large_file_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "a.png").open("wb") as file:
        file.write(saved("PNG"))
        file.truncate(1 << 34)  # without blocks on the disk
    assert "at most 536,870,912 bytes" in refused(lambda: read_image(tmp_path / "a.png"))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the size of a process is not told here")
def test_small_files_that_would_cost_minutes_or_gigabytes(tmp_path: Path) -> None:
    script = Path(__file__).with_name("image_bombs.py")
    command = [sys.executable, "-W", "ignore", str(script), str(tmp_path)]
    told = subprocess.run(command, capture_output=True, check=True, cwd=ROOT, timeout=300).stdout
    results = json.loads(told)
    assert results.keys() == BOMBS.keys() and MEMORY == 3 << 29 and SECONDS == 4
    for name, (_, expected) in BOMBS.items():
        header, pixels = results[name]["said"]
        assert "traceback" not in header + pixels and "killed" not in header + pixels, (name, results[name])
        assert expected in pixels and (expected or not pixels), (name, results[name])
        assert results[name]["seconds"] < 2, (name, results[name])


@pytest.fixture
def spelled(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Image.Image]:
    """Make images that are pickled with a given state."""
    plain = Image.Image.__getstate__
    states: dict[int, list[Any]] = {}
    monkeypatch.setattr(Image.Image, "__getstate__", lambda image: states.get(id(image)) or plain(image))

    def make(*state: Any) -> Image.Image:
        image = Image.new("L", (1, 1))
        states[id(image)] = list(state)
        return image

    return make


class TestInPickles:
    def read(self, path: Path, value: Any) -> Any:
        torch.save(value, path)
        return read_torch(path)

    @pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "YCbCr"])
    def test_pixels_are_those_of_pillow(self, tmp_path: Path, mode: str) -> None:
        colours = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8))
        image = colours.quantize(20) if mode == "P" else colours.convert("L").convert(mode) if mode == "LA" else colours
        image = image.convert(mode)
        found = self.read(tmp_path / "a.pt", image)
        assert np.array_equal(found.pixels((9, 7, 3), "here"), np.asarray(image.convert("RGB")))

    @pytest.mark.parametrize(
        ("state", "expected"),
        [
            (({}, "RGB", (60_000, 60_000), [], b""), "0 bytes for 60000 × 60000 pixels"),
            (({}, "RGB", (8, 8), [], b"short"), "5 bytes for 8 × 8 pixels"),
            (({}, "RGB", (8, 8), [], bytes(10**6)), "1,000,000 bytes"),
            (({}, "I", (8, 8), [], bytes(256)), "more than 8 bits"),
            (({}, "P", (8, 8), [0] * 10**6, bytes(64)), "a palette that is none"),
            (({}, "P", (8, 8), ["x"], bytes(64)), "a palette that is none"),
            (({}, "no such mode", (8, 8), [], bytes(64)), "mode 'no such mo'"),
            (({}, "RGB", (8, -8), [], b""), "8 × -8 pixels"),
            (({}, "RGB", (8.0, 8), [], bytes(192)), "a size of"),
            (({}, "RGB"), "list"),
        ],
    )
    def test_what_is_none_is_refused(
        self, tmp_path: Path, spelled: Callable[..., Image.Image], state: Any, expected: str
    ) -> None:
        found = self.read(tmp_path / "a.pt", spelled(*state))
        message = refused(lambda: found.pixels((8, 8, 3), "sample 3"))
        assert expected in message and "sample 3" in message

    def test_many_images_of_the_same_pixels_take_the_memory_of_one(
        self, tmp_path: Path, spelled: Callable[..., Image.Image]
    ) -> None:
        pixels = bytes(3 << 20)
        found = self.read(tmp_path / "a.pt", [spelled({}, "RGB", (1024, 1024), [], pixels) for _ in range(30)])
        assert len({id(each.state[4]) for each in found}) == 1
        assert found[-1].pixels((1024, 1024, 3), "here").shape == (1024, 1024, 3)

from __future__ import annotations

import errno
import json
import os
import pickle
import stat
import struct
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from elixir_plugin.errors import InputError, RunError
from elixir_plugin.io import files, reading
from elixir_plugin.io import images as image_files
from elixir_plugin.io.pickles import holds_all, is_dense


class Hostile:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.marker}'",)


class TestInside:
    def test_below(self, tmp_path: Path) -> None:
        assert files.inside(tmp_path, "a/b.png") == tmp_path.resolve() / "a" / "b.png"
        assert files.inside(tmp_path, "a/../b.png") == tmp_path.resolve() / "b.png"

    @pytest.mark.parametrize("path", ["../x", "a/../../x", "/etc/passwd", "a/./../../x"])
    def test_climbing(self, tmp_path: Path, path: str) -> None:
        with pytest.raises(InputError, match="path leaves its folder") as caught:
            files.inside(tmp_path, path)
        assert path in str(caught.value) and "allowed:" in str(caught.value)

    def test_name_that_only_begins_alike(self, tmp_path: Path) -> None:
        (tmp_path / "data").mkdir()
        with pytest.raises(InputError):
            files.inside(tmp_path / "data", "../database/x")

    def test_through_a_link(self, tmp_path: Path) -> None:
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "link").symlink_to(tmp_path)
        with pytest.raises(InputError, match="path leaves its folder"):
            files.inside(tmp_path / "in", "link/x")

    def test_root_that_is_a_link(self, tmp_path: Path) -> None:
        (tmp_path / "real").mkdir()
        (tmp_path / "link").symlink_to(tmp_path / "real")
        assert files.inside(tmp_path / "link", "x") == (tmp_path / "real").resolve() / "x"

    def test_nul(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="not a usable path"):
            files.inside(tmp_path, "a\0b")


class TestImages:
    def save(self, path: Path, mode: str, size: tuple[int, int] = (5, 4)) -> Path:
        Image.new(mode, size).save(path)
        return path

    @pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "1"])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_any_mode(self, tmp_path: Path, mode: str, channels: int) -> None:
        image = image_files.read_image(self.save(tmp_path / "a.png", mode), channels)
        assert image.shape == (4, 5, channels) and image.dtype == np.uint8

    @pytest.mark.parametrize("mode", ["I;16", "I", "F"])
    def test_more_than_8_bits_would_be_clipped(self, tmp_path: Path, mode: str) -> None:
        path = self.save(tmp_path / "a.tiff", mode)
        for function in (image_files.read_image, image_files.image_shape):
            with pytest.raises(InputError, match="more than 8 bits") as caught:
                function(path)
            assert "a.tiff" in str(caught.value) and caught.value.found == f"mode {mode}"

    @pytest.mark.parametrize("error", [struct.error, KeyError, TypeError, EOFError])
    def test_whatever_pillow_raises(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Any) -> None:
        def damaged(*_: Any, **__: Any) -> Any:
            raise error("header")

        Image.new("L", (4, 4)).save(tmp_path / "a.png")
        monkeypatch.setattr(Image, "open", damaged)
        for function in (image_files.read_image, image_files.image_shape):
            with pytest.raises(InputError, match="cannot be"):
                function(tmp_path / "a.png")

    def test_header(self, tmp_path: Path) -> None:
        assert image_files.image_shape(self.save(tmp_path / "a.png", "L")) == (4, 5, "L")

    def test_faults(self, tmp_path: Path) -> None:
        noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / "cut.png")
        (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:2000])
        (tmp_path / "text.png").write_text("no image")
        for name, text in (("none.png", "not found"), ("cut.png", "truncated"), ("text.png", "cannot be decoded")):
            with pytest.raises(InputError) as caught:
                image_files.read_image(tmp_path / name)
            assert name in str(caught.value) and text in str(caught.value)
        for name, text in (("none.png", "not found"), ("text.png", "cannot be opened")):
            with pytest.raises(InputError, match=text):
                image_files.image_shape(tmp_path / name)

    def test_decompression_bomb(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = self.save(tmp_path / "bomb.png", "L", (50, 50))
        for limit in (2000, 1000):  # Pillow warns up to twice the limit, and fails beyond
            monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
            for function in (image_files.read_image, image_files.image_shape):
                with pytest.raises(InputError, match="cannot be"):
                    function(path)

    def test_in_threads_the_warning_filters_stay_as_they_are(self, tmp_path: Path) -> None:
        import warnings

        path = self.save(tmp_path / "a.png", "RGB")
        before = list(warnings.filters)
        with ThreadPoolExecutor(8) as pool:
            assert len(list(pool.map(image_files.read_image, [path] * 200))) == 200
        assert list(warnings.filters) == before


class TestTorchFiles:
    def test_plain_content(self, tmp_path: Path) -> None:
        content: dict[str, Any] = {
            "tensor": torch.arange(3),
            "array": np.arange(3.0),
            "bits": np.array([True]),
            "scalar": np.int64(7),
            "image": Image.new("RGB", (2, 2), (1, 2, 3)),
            "more": [(1, "a", None), {2: 0.5}],
        }
        torch.save(content, tmp_path / "a.pt")
        read = reading.read_torch(tmp_path / "a.pt")
        assert torch.equal(read["tensor"], content["tensor"]) and np.array_equal(read["array"], np.arange(3.0))
        assert read["scalar"] == 7 and read["bits"].tolist() == [True] and read["more"] == content["more"]
        assert read["image"].pixels((2, 2, 3), "image").tolist() == [[[1, 2, 3]] * 2] * 2

    @pytest.mark.parametrize("as_zip", [True, False])
    def test_code_is_not_run(self, tmp_path: Path, as_zip: bool) -> None:
        torch.save({"a": Hostile(tmp_path / "ran")}, tmp_path / "a.pt", _use_new_zipfile_serialization=as_zip)
        with pytest.raises(InputError, match="not plain data") as caught:
            reading.read_torch(tmp_path / "a.pt")
        assert "a.pt" in str(caught.value) and "system" in str(caught.value)
        assert not (tmp_path / "ran").exists()

    def test_object_arrays_are_refused(self, tmp_path: Path) -> None:
        torch.save({"a": np.array([Hostile(tmp_path / "ran")], object)}, tmp_path / "a.pt")
        with pytest.raises(InputError):
            reading.read_torch(tmp_path / "a.pt")
        assert not (tmp_path / "ran").exists()

    def test_allow_list_ends_with_the_call(self, tmp_path: Path) -> None:
        torch.save(np.arange(2), tmp_path / "a.pt")
        reading.read_torch(tmp_path / "a.pt")
        with pytest.raises(pickle.UnpicklingError):
            torch.load(tmp_path / "a.pt", weights_only=True)

    @pytest.mark.parametrize("content", [b"", b"no torch file", b"PK\x03\x04 cut"])
    def test_other_files(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "a.pt").write_bytes(content)
        with pytest.raises(InputError, match=r"a\.pt|file") as caught:
            reading.read_torch(tmp_path / "a.pt")
        assert "a.pt" in str(caught.value)

    def test_truncated(self, tmp_path: Path) -> None:
        torch.save(torch.zeros(1000), tmp_path / "a.pt")
        (tmp_path / "a.pt").write_bytes((tmp_path / "a.pt").read_bytes()[:3000])
        with pytest.raises(InputError, match="cannot be read"):
            reading.read_torch(tmp_path / "a.pt")

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="file not found"):
            reading.read_torch(tmp_path / "none.pt")

    def test_written_file_loads_with_the_default(self, tmp_path: Path) -> None:
        files.write_torch(tmp_path / "a.pt", {"name": "x", "model": {"w": torch.ones(2)}})
        assert torch.equal(torch.load(tmp_path / "a.pt")["model"]["w"], torch.ones(2))
        assert zipfile.is_zipfile(tmp_path / "a.pt")


def spliced(path: Path, payload: bytes) -> Path:
    """Write a torch file whose pickle is *payload*."""
    torch.save(0, path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, payload if name.endswith("data.pkl") else content)
    return path


ADDRESS = b"c_codecs\nencode\nX\x08\x00\x00\x00AAAAAAAAX\x06\x00\x00\x00latin1\x86R"
OBJECT = b"cnumpy\ndtype\nX\x01\x00\x00\x00O\x85R"
BYTES = b"cnumpy\ndtype\nX\x02\x00\x00\x00u1\x85R"
EMPTY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85K\x62\x87R"


class TestMemoryOfPickledArrays:
    """numpy's own constructors follow addresses that a pickle gives them, which ends the process, or worse."""

    @pytest.mark.parametrize(
        ("payload", "found"),
        [
            (b"\x80\x02cnumpy\nndarray\n(K\x01\x85" + OBJECT + ADDRESS + b"tR.", "numpy.dtype('O')"),
            (b"\x80\x02cnumpy\nndarray\n(K\x01\x85X\x01\x00\x00\x00O" + ADDRESS + b"tR.", "called directly"),
            (b"\x80\x02" + EMPTY + b"(K\x01K\x01\x85" + OBJECT + b"\x89" + ADDRESS + b"tb.", "numpy.dtype('O')"),
            (b"\x80\x02cnumpy.core.multiarray\nscalar\n" + OBJECT + ADDRESS + b"\x86R.", "numpy.dtype('O')"),
            # a type that only begins like a number: text, and a record
            (b"\x80\x02cnumpy\ndtype\nX\x05\x00\x00\x00u1,U4\x85R.", "numpy.dtype('u1,U4')"),
            (b"\x80\x02cnumpy\ndtype\nX\x05\x00\x00\x00i4, O\x85R.", "numpy.dtype('i4, O')"),
            # a size that is not that of the data
            (b"\x80\x02" + EMPTY + b"(K\x01M\xff\xff\x85" + BYTES + b"\x89" + ADDRESS + b"tb.", "buffer size"),
            (b"\x80\x02" + EMPTY + b"(K\x01J\xff\xff\xff\xff\x85" + BYTES + b"\x89" + ADDRESS + b"tb.", ""),
            # no dtype where one belongs
            (b"\x80\x02" + EMPTY + b"(K\x01K\x08\x85X\x01\x00\x00\x00O\x89" + ADDRESS + b"tb.", "in place of"),
        ],
    )
    def test_refused(self, tmp_path: Path, payload: bytes, found: str) -> None:
        (tmp_path / "plain").write_bytes(payload)
        spliced(tmp_path / "a.pt", payload)
        readers: dict[str, Callable[[Path], Any]] = {"plain": reading.read_plain_pickle, "a.pt": reading.read_torch}
        for name, read in readers.items():
            with pytest.raises(InputError) as caught:
                read(tmp_path / name)
            assert found in str(caught.value)

    def test_flags_of_a_type_are_not_taken_from_the_file(self, tmp_path: Path) -> None:
        counted = BYTES + b"(K\x03X\x01\x00\x00\x00|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x3ftb"  # "holds references"
        payload = b"\x80\x02" + EMPTY + b"(K\x01K\x08\x85" + counted + b"\x89" + ADDRESS + b"tb."
        for array in (
            reading.read_torch(spliced(tmp_path / "a.pt", payload)),
            reading.read_plain_pickle(_written(tmp_path / "plain", payload)),
        ):
            assert array.dtype == np.uint8 and not array.dtype.hasobject and bytes(array) == b"A" * 8

    @pytest.mark.parametrize("dtype", ["?", "i1", "u2", "<i4", ">i4", "<u8", "<f2", ">f4", "f8"])
    @pytest.mark.parametrize("order", ["C", "F"])
    def test_numbers_survive(self, tmp_path: Path, dtype: str, order: Any) -> None:
        array = np.asarray(np.arange(6).reshape(2, 3) % 4, dtype=dtype, order=order)
        content = {"array": array, "scalar": array[1, 2], "empty": array[:0], "none": np.array(array[0, 1])}
        torch.save(content, tmp_path / "a.pt")
        for read in (
            reading.read_torch(tmp_path / "a.pt"),
            *(reading.read_plain_pickle(_written(tmp_path / "b", pickle.dumps(content, p))) for p in range(6)),
        ):
            for name, value in content.items():
                got = read[name]
                assert np.array_equal(got, value) and np.shape(got) == np.shape(value)
                assert got.dtype.newbyteorder("=") == value.dtype.newbyteorder("=")

    @pytest.mark.parametrize("array", [np.array(["a"]), np.array([1j]), np.array([(1,)], [("a", "i4")])])
    def test_other_types_are_refused(self, tmp_path: Path, array: Any) -> None:
        torch.save(array, tmp_path / "a.pt")
        with pytest.raises(InputError, match="not plain data") as caught:
            reading.read_torch(tmp_path / "a.pt")
        assert "numpy.dtype(" in str(caught.value)


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


class TestPlainPickles:
    @pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
    def test_content(self, tmp_path: Path, protocol: int) -> None:
        content: dict[str, Any] = {"data": np.arange(6, dtype=np.uint8).reshape(2, 3), "labels": [1, 2], "name": "x"}
        (tmp_path / "a").write_bytes(pickle.dumps(content, protocol))
        read = reading.read_plain_pickle(tmp_path / "a")
        assert np.array_equal(read["data"], content["data"]) and read["labels"] == [1, 2] and read["name"] == "x"

    def test_text_of_python_2(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_bytes(b"(dp0\nS'data'\np1\nS'\\xff\\x00'\np2\ns.")
        assert reading.read_plain_pickle(tmp_path / "a") == {b"data": b"\xff\x00"}

    @pytest.mark.parametrize("protocol", [0, 2, 5])
    def test_code_is_not_run(self, tmp_path: Path, protocol: int) -> None:
        (tmp_path / "a").write_bytes(pickle.dumps({"data": Hostile(tmp_path / "ran")}, protocol))
        with pytest.raises(InputError, match="not plain data") as caught:
            reading.read_plain_pickle(tmp_path / "a")
        assert "system" in str(caught.value)
        assert not (tmp_path / "ran").exists()

    @pytest.mark.parametrize("content", [b"", b"no pickle", pickle.dumps([1] * 100)[:50]])
    def test_broken(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "a").write_bytes(content)
        with pytest.raises(InputError):
            reading.read_plain_pickle(tmp_path / "a")
        with pytest.raises(InputError, match="file not found"):
            reading.read_plain_pickle(tmp_path / "none")


class TestAtomicWriting:
    def test_file_appears_complete(self, tmp_path: Path) -> None:
        target = tmp_path / "new" / "a.txt"
        with files.atomic_file(target) as temporary:
            temporary.write_text("hello")
            assert not target.exists() and temporary.parent == target.parent
        assert target.read_text() == "hello" and [path.name for path in target.parent.iterdir()] == ["a.txt"]
        umask = os.umask(0)
        os.umask(umask)
        assert stat.S_IMODE(target.stat().st_mode) == 0o666 & ~umask

    def test_file_stays_as_it_was_after_an_error(self, tmp_path: Path) -> None:
        target = tmp_path / "a.txt"
        target.write_text("old")
        with pytest.raises(ZeroDivisionError), files.atomic_file(target) as temporary:
            temporary.write_text("half")
            1 / 0  # noqa: B018
        assert target.read_text() == "old" and len(list(tmp_path.iterdir())) == 1

    def test_folder_replaces_the_old_one(self, tmp_path: Path) -> None:
        target = tmp_path / "out"
        for number in range(2):
            with files.atomic_folder(target) as temporary:
                (temporary / f"{number}.txt").write_text("x")
        assert [path.name for path in target.iterdir()] == ["1.txt"] and len(list(tmp_path.iterdir())) == 1

    def test_folder_stays_as_it_was_after_an_error(self, tmp_path: Path) -> None:
        target = tmp_path / "out"
        with files.atomic_folder(target) as temporary:
            (temporary / "old.txt").write_text("x")
        with pytest.raises(ZeroDivisionError), files.atomic_folder(target) as temporary:
            (temporary / "new.txt").write_text("x")
            1 / 0  # noqa: B018
        assert [path.name for path in target.iterdir()] == ["old.txt"] and len(list(tmp_path.iterdir())) == 1

    def test_folder_comes_back_when_the_new_one_cannot_take_its_place(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        target, replace = tmp_path / "out", Path.replace
        with files.atomic_folder(target) as temporary:
            (temporary / "old.txt").write_text("x")

        def failing(self: Path, to: Path) -> Path:
            if to == target and (self / "new.txt").exists():
                raise OSError(errno.EIO, "broken disk")
            return replace(self, to)

        monkeypatch.setattr(Path, "replace", failing)
        with pytest.raises(RunError, match="cannot write"), files.atomic_folder(target) as temporary:
            (temporary / "new.txt").write_text("x")
        assert [path.name for path in target.iterdir()] == ["old.txt"] and len(list(tmp_path.iterdir())) == 1

    def test_leftovers_go_and_a_folder_that_was_moved_aside_comes_back(self, tmp_path: Path) -> None:
        for name in (".lost.1.ab12_x9z.old.part", ".there.ab12_x9z.old.part", ".there.ab12_x9y.part", "there"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "file").write_text(name)
        (tmp_path / ".report.json.ab12_x9z.part").write_text("half")
        files.remove_leftovers(tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["lost.1", "there"]
        assert (tmp_path / "lost.1" / "file").read_text() == ".lost.1.ab12_x9z.old.part"
        assert (tmp_path / "there" / "file").read_text() == "there"

    def test_place_that_cannot_be_written(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("x")
        for context in (files.atomic_file, files.atomic_folder):
            with pytest.raises(RunError, match="cannot write"), context(tmp_path / "file" / "below"):
                pass


class TestPlainFormats:
    def test_json(self, tmp_path: Path) -> None:
        value = {"a": np.float32(0.5), "b": np.arange(2), "c": [float("nan"), float("inf")], "d": tmp_path, 1: {2}}
        files.write_json(tmp_path / "a.json", value)
        expected = {"a": 0.5, "b": [0, 1], "c": [None, None], "d": str(tmp_path), "1": [2]}
        assert reading.read_json(tmp_path / "a.json") == expected == json.loads((tmp_path / "a.json").read_text())

    def test_json_faults(self, tmp_path: Path) -> None:
        (tmp_path / "a.json").write_text("{")
        with pytest.raises(InputError, match="not JSON"):
            reading.read_json(tmp_path / "a.json")
        with pytest.raises(InputError, match="not found"):
            reading.read_json(tmp_path / "none.json")

    def test_csv(self, tmp_path: Path) -> None:
        files.write_csv(tmp_path / "a.csv", ["", "x"], [[0, 'a,"b"'], [1, None]])
        assert (tmp_path / "a.csv").read_text() == ',x\n0,"a,""b"""\n1,\n'

    def test_tensors(self, tmp_path: Path) -> None:
        shared = torch.arange(6.0).reshape(2, 3)
        given: dict[str, Any] = {"a": shared, "b": shared.T, "c": np.arange(3)[::-1], "d": np.array([True, False])}
        files.write_tensors(tmp_path / "a.safetensors", given)
        read = reading.read_tensors(tmp_path / "a.safetensors")
        assert all(np.array_equal(read[name].numpy(), np.asarray(value)) for name, value in given.items())

    def test_tensors_are_copied_only_where_need_be(self) -> None:
        array, tensor = np.arange(3.0), torch.zeros(2)
        fixed = np.arange(3.0)
        fixed.flags.writeable = False
        found = files.contiguous_copies({"a": array, "b": array, "c": tensor, "d": tensor[:1], "e": fixed})
        shared = [np.shares_memory(found[name].numpy(), value) for name, value in (("a", array), ("b", array))]
        assert shared == [True, False] and np.array_equal(found["b"].numpy(), array)
        assert found["c"].data_ptr() == tensor.data_ptr() != found["d"].data_ptr()
        assert not np.shares_memory(found["e"].numpy(), fixed) and np.array_equal(found["e"].numpy(), fixed)

    def test_tensor_faults(self, tmp_path: Path) -> None:
        (tmp_path / "a.safetensors").write_bytes(b"\xff" * 20)
        with pytest.raises(InputError, match="not a safetensors file"):
            reading.read_tensors(tmp_path / "a.safetensors")
        with pytest.raises(InputError, match="not found"):
            reading.read_tensors(tmp_path / "none.safetensors")


@pytest.mark.filterwarnings("ignore")  # torch warns of sparse tensors
def test_dense_tensors_are_told_from_others() -> None:
    plain, repeated = torch.zeros(2, 3), torch.zeros(1).expand(10**12)
    assert all(is_dense(each) and holds_all(each) for each in (plain, plain.T, plain[:1], torch.zeros(0), plain.half()))
    assert is_dense(repeated) and not holds_all(repeated)
    for each in (plain.to_sparse(), plain.to("meta")):
        assert not is_dense(each) and not holds_all(each)

"""What is found out about a pickle from its opcodes alone."""

from __future__ import annotations

import argparse
import pickle
import random
import sys
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from elixir_plugin.errors import InputError
from elixir_plugin.io import files, npz, opcodes, reading, zips
from elixir_plugin.io.survey import Survey, read_head

sys.path.insert(0, str(Path(__file__).parents[1] / "hostile"))

import data_files as hostile

HERE = Path("file.pt")
ATOMS = (
    st.none() | st.booleans() | st.integers(-(2**200), 2**200) | st.floats(allow_nan=False) | st.text() | st.binary()
)
PLAIN = st.recursive(
    ATOMS,
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=30,
)


@given(PLAIN, st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_plain_data_pass_whatever_the_protocol(value: Any, protocol: int) -> None:
    content = pickle.dumps(value, protocol)
    assert Survey(content + b"more", where=HERE).end == len(content)


@given(PLAIN, st.integers(0, pickle.HIGHEST_PROTOCOL), st.data())
def test_a_part_of_a_pickle_is_told_from_a_damaged_one(value: Any, protocol: int, data: st.DataObject) -> None:
    content = pickle.dumps(value, protocol)
    cut = data.draw(st.integers(0, len(content) - 1))
    with pytest.raises(opcodes.EndsEarly):
        Survey(content[:cut], where=HERE)


@given(st.binary(max_size=200))
def test_any_bytes_give_an_answer(content: bytes) -> None:
    with suppress(InputError, ValueError, pickle.UnpicklingError):
        assert 0 < Survey(content, where=HERE).end <= len(content)


def test_what_torch_and_toolkits_save_passes(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.zeros(2, 3, 4, 4)).sum().backward()
    optimizer.step()
    shared = ["a", "b"]
    content = {
        "model": model.state_dict(),
        "again": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "parameter": nn.Parameter(torch.ones(2)),
        "half": torch.ones(2).half(),
        "bfloat": torch.ones(2, dtype=torch.bfloat16),
        "float8": torch.ones(2).to(torch.float8_e4m3fn),
        "size": torch.Size([1, 2]),
        "device": torch.device("cpu"),
        "dtype": torch.float32,
        "args": argparse.Namespace(lr=0.1, names=shared, more=argparse.Namespace(a=1)),
        "numpy state": np.random.default_rng(0).bit_generator.state,
        "python state": random.Random(0).getstate(),
        "keys": {np.int64(3): 1, (1, "a"): 2, 2**63: 3, 0.5: 4, b"x": 5, None: 6, True: 7},
        "set": {1, "a", 2.0},
        "shared": [shared] * 50,
        "images": [Image.new(mode, (3, 2), 1) for mode in ("L", "RGB", "RGBA", "1", "P", "I", "F", "I;16", "CMYK")],
        "complex": 1 + 2j,
        "bytes": b"abc",
        "bytearray": bytearray(b"abc"),
        "ordered": OrderedDict(a=1),
    }
    for as_zip in (True, False):
        if not as_zip:
            del content["float8"]  # which torch does not read back from the older kind
        path = tmp_path / f"{as_zip}.pt"
        torch.save(content, path, _use_new_zipfile_serialization=as_zip)
        read = reading.read_torch(path, argparse.Namespace)
        assert read.keys() == content.keys()
        assert torch.equal(read["model"]["0.weight"], model[0].weight) and read["shared"] == [shared] * 50
        assert read["keys"] == content["keys"] and read["python state"] == content["python state"]
        for got, wanted in zip(read["images"], content["images"], strict=True):
            if wanted.mode in ("I", "F", "I;16"):  # of more than 8 bits
                continue
            height_first = (wanted.height, wanted.width, 3)
            assert np.array_equal(got.pixels(height_first, "here"), np.asarray(wanted.convert("RGB")))
        assert read["args"] == content["args"]
        assert not as_zip or read["float8"].dtype == torch.float8_e4m3fn


@pytest.mark.parametrize("count", [100, 20_000])
def test_a_long_list_that_is_shared_a_few_times_passes(count: int) -> None:
    labels = list(range(count))
    Survey(pickle.dumps([labels] * 20), where=HERE)


def test_budgets_follow_from_the_size() -> None:
    """A list of 1,000 numbers can stand in a list 5,000 times, and not 50,000 times."""
    body = b"\x80\x02](" + b"](" + b"M\x10\x10" * 1000 + b"e" + hostile.put(0)
    Survey(body + hostile.get(0) * 5000 + b"e.", where=HERE)
    with pytest.raises(InputError, match="larger than the file accounts for") as caught:
        Survey(body + hostile.get(0) * 50_000 + b"e.", where=HERE)
    assert "references that stand for" in str(caught.value.found)


@pytest.mark.parametrize(("levels", "fits"), [(99, True), (100, True), (101, False)])
def test_depth(levels: int, fits: bool) -> None:
    value: Any = []
    for _ in range(levels - 1):
        value = [value]
    content = pickle.dumps(value, 2)
    if fits:
        Survey(content, where=HERE)
    else:
        with pytest.raises(InputError, match="larger than"):
            Survey(content, where=HERE)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("place 2**28 in the memo", "place 268,435,456 in the memo, 3 bytes into the file"),
        ("a list that holds itself", "a container that changes after another one took it, or holds itself"),
        ("an integer of 2 MiB", "an integer of 2,097,152 bytes"),
        ("five million marks", "more than 400 parts that are not finished"),
        ("six million dicts", "more than 4,194,304 containers"),
        ("20 million opcodes", "more than 16,777,216 opcodes"),
        ("a list 100,000 deep", "containers nested more than 100 deep"),
    ],
)
def test_found(name: str, found: str) -> None:
    with pytest.raises(InputError) as caught:
        Survey(hostile.PICKLES[name](), where=HERE)
    assert caught.value.found == found and caught.value.where == HERE


def test_only_the_beginning_of_a_large_file_is_read(tmp_path: Path) -> None:
    content = pickle.dumps([b"x" * (3 * 2**20)])
    (tmp_path / "a").write_bytes(content + bytes(20 * 2**20))
    lengths = []

    def examine(head: bytes) -> int:
        lengths.append(len(head))
        return Survey(head, where=HERE).end

    with (tmp_path / "a").open("rb") as file:
        end, head = read_head(file, examine)
    assert end == len(content) and lengths == [2**20, 2**23] and len(head) == 2**23


class TestSameContentSameBytes:
    def content(self) -> dict[str, Any]:
        base = torch.arange(12.0).reshape(3, 4)
        name = "".join(["na", "me"])  # not one object with the literal
        return {"name": "name", "other": name, "part": base[:1], "column": base[:, 1], "list": [base, base]}

    def test_torch(self, tmp_path: Path) -> None:
        one = {"name": "name", "other": "name", "part": torch.arange(4.0)[None], "column": torch.tensor([1.0, 5, 9])}
        one["list"] = [torch.arange(12.0).reshape(3, 4), torch.arange(12.0).reshape(3, 4)]
        paths = [tmp_path / name for name in ("a.pt", "another.bin", "third")]
        for path, value in zip(paths, (self.content(), self.content(), one), strict=True):
            files.write_torch(path, value)
        assert len({path.read_bytes() for path in paths}) == 1
        read = torch.load(paths[0])
        assert torch.equal(read["column"], one["column"]) and torch.equal(read["list"][1], one["list"][0])

    def test_a_part_of_a_large_tensor_is_written_alone(self, tmp_path: Path) -> None:
        files.write_torch(tmp_path / "a.pt", torch.zeros(10**6)[:3])
        assert (tmp_path / "a.pt").stat().st_size < 3000

    def test_npz_and_safetensors(self, tmp_path: Path) -> None:
        for name in ("a", "b"):
            npz.write_npz(tmp_path / f"{name}.npz", {"x": np.arange(3), "y": np.ones(2)})
            files.write_tensors(tmp_path / f"{name}.safetensors", {"x": torch.ones(2), "y": torch.zeros(3).half()})
        for suffix in ("npz", "safetensors"):
            assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()


class TestArrays:
    @pytest.mark.parametrize("dtype", ["?", "u1", "<i8", ">f4", "f2", "c8"])
    @pytest.mark.parametrize("order", ["C", "F"])
    @pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
    def test_read_back(self, tmp_path: Path, dtype: str, order: Any, write: Any) -> None:
        array = np.asarray(np.arange(24).reshape(2, 3, 4) % 5, dtype, order=order)
        write(tmp_path / "a.npz", a=array, empty=array[:0], single=array[0, 0, 0])
        read = npz.read_npz(tmp_path / "a.npz")
        for name, wanted in {"a": array, "empty": array[:0], "single": array[0, 0, 0]}.items():
            assert np.array_equal(read[name], wanted) and read[name].dtype == wanted.dtype, name
            assert read[name].shape == wanted.shape

    def test_what_compresses_well_is_read_up_to_the_limit(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        np.savez_compressed(tmp_path / "a.npz", a=np.zeros(10**6, np.uint8))
        assert npz.read_npz(tmp_path / "a.npz")["a"].sum() == 0
        monkeypatch.setattr(npz, "FREE", 10**6)  # header and array are more
        with pytest.raises(InputError, match="unpacks to far more") as caught:
            npz.read_npz(tmp_path / "a.npz")
        assert caught.value.found == "1,000,128 bytes" and "numpy.savez" in str(caught.value.hint)

    def test_directory(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "a.npz", a=np.zeros(3), b=np.zeros(4))
        with (tmp_path / "a.npz").open("rb") as file:
            members = zips.read_directory(file, HERE, 2)
            assert [(each.name, each.method, each.size) for each in members] == [("a.npy", 0, 152), ("b.npy", 0, 160)]
            assert zips.stored(file, members[1])[:6] == b"\x93NUMPY"
            with pytest.raises(InputError, match="archive refused") as caught:
                zips.read_directory(file, HERE, 1)
        assert "2 members" in str(caught.value.found)


def test_holes(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save(torch.zeros(4), path)
    content = path.read_bytes()
    with path.open("wb") as file:
        file.truncate(2**30)
        file.seek(0, 2)
        file.write(content)
    if path.stat().st_blocks * 512 > 2**24:
        pytest.skip("this file system keeps no holes")
    with pytest.raises(InputError, match="nearly all holes"):
        reading.read_torch(path)

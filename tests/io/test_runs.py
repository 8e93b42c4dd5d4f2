"""Long lists in a pickle, gone through at once, cost what they cost opcode by opcode; what torch saves is read."""

from __future__ import annotations

import argparse
import pickle
import random
import struct
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from elixir_plugin.errors import InputError
from elixir_plugin.io import opcodes, reading, survey
from elixir_plugin.io.survey import Survey

sys.path.insert(0, str(Path(__file__).parents[1] / "hostile"))

import data_files as hostile
from mutations import mutated

HERE = Path("file.pt")
NUMBERS = st.lists(st.integers(0, 300) | st.integers(-(2**31), 2**31 - 1) | st.none() | st.floats(allow_nan=False))
TEXTS = st.lists(st.text(max_size=140) | st.binary(max_size=140))
LISTS = st.recursive(
    NUMBERS | TEXTS | st.lists(st.integers(0, 9), min_size=20) | st.lists(st.text("ab\x94q.", max_size=3), min_size=20),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=6,
)


class OneByOne(Survey):
    """Goes through every opcode by itself."""

    def _items(self, pos: int) -> int:
        return pos


def answer(kind: type[Survey], content: bytes) -> Any:
    """Return all that is known about a pickle in the end, or how it is refused."""
    try:
        made = kind(content, where=HERE)
    except InputError as error:
        return str(error.found)
    except pickle.UnpicklingError as error:
        return str(error)
    except ValueError as error:
        return type(error)  # the place in the message may be another one
    memo = {place: shape(entry) for place, entry in made._memo.items()}
    left = [next(made._steps, None)]
    return made.end, made.storages, memo, made._spans, made._referred, made._work, made._containers, left


def shape(entry: Any) -> Any:
    if isinstance(entry, opcodes.Node):
        return entry.kind, entry.weight, entry.depth, len(entry.items), entry.closed
    return entry


@given(LISTS, st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_lists(value: Any, protocol: int) -> None:
    content = pickle.dumps(value, protocol)
    found = answer(Survey, content)
    assert found == answer(OneByOne, content) and found[0] == len(content)


@given(LISTS, st.integers(0, pickle.HIGHEST_PROTOCOL), st.integers(0, 2**32))
def test_mutated_lists(value: Any, protocol: int, seed: int) -> None:
    content = mutated(pickle.dumps([value, value], protocol), "pickle", seed)
    assert answer(Survey, content) == answer(OneByOne, content)


@pytest.mark.parametrize("name", sorted(hostile.PICKLES))
def test_hostile_pickles(name: str) -> None:
    content = hostile.PICKLES[name]()
    if len(content) < 2**20:
        assert answer(Survey, content) == answer(OneByOne, content)


OPCODES = [bytes([op]) for op in range(256) if survey._HANDLERS[op] or opcodes.FIXED[op]]
PARTS = st.one_of(
    st.sampled_from([b"](", b"]\x94(", b"]q\x00(", b"e", b"K\x01" * 9, b"M\x01\x02" * 9, b"N" * 9, b"\x94", b"h\x00"]),
    st.binary(max_size=20).map(lambda text: b"\x8c" + bytes([len(text)]) + text + b"\x94"),
    st.binary(max_size=20).map(lambda text: b"U" + bytes([len(text)]) + text + b"q\x03"),
    st.binary(max_size=20).map(lambda text: b"X" + struct.pack("<I", len(text)) + text + b"r\x04\0\0\0"),
    st.sampled_from([b"X\xff\xff\xff\xff", b"\x8c\xff", b"r\xff\xff\xff\x0f", b"q\x90", b"X\x02\x01\0\0ab\x94"]),
    st.sampled_from(OPCODES),
)


@given(st.lists(PARTS, max_size=30))
def test_programs(parts: list[bytes]) -> None:
    content = b"\x80\x04](" + b"".join(parts) + b"e."
    assert answer(Survey, content) == answer(OneByOne, content)


@pytest.mark.parametrize("put", [b"\x94", b"q\x05", b"r\x05\0\0\0"])
def test_an_opcode_inside_a_text_is_none(put: bytes) -> None:
    inner = b"\x94\x8c\x01a\x94R(2" + b"e."
    content = b"\x80\x04](" + (b"\x8c" + bytes([len(inner)]) + inner + put) * 3 + b"e."
    made = Survey(content, where=HERE)
    assert made.end == len(content) and len(made.parts(made.result)) == 3 and made._containers == 1


def test_the_limit_of_opcodes_holds_in_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "OPCODES", 1000)
    for item, count in ((b"K\x01", 994), (b"\x8c\x01a\x94", 497)):
        Survey(b"\x80\x04](" + item * count + b"e.", where=HERE)
        with pytest.raises(InputError, match="larger than") as caught:
            Survey(b"\x80\x04](" + item * (count + 10) + b"e.", where=HERE)
        assert caught.value.found == "more than 1,000 opcodes"


class TestTorchFiles:
    def changed(self, path: Path, name: str, change: Any) -> None:
        """Write a torch file again with one member changed."""
        with zipfile.ZipFile(path) as archive:
            members = {each: archive.read(each) for each in archive.namelist()}
        with zipfile.ZipFile(path, "w") as archive:
            for each, content in members.items():
                archive.writestr(each, change(content) if each.endswith(name) else content)

    @pytest.mark.filterwarnings("ignore:TypedStorage is deprecated:UserWarning")  # by this test, which asks for one
    @pytest.mark.parametrize("as_zip", [True, False])
    @pytest.mark.parametrize(
        ("offset", "shape", "strides"),
        [(0, (2,), (2**33,)), (2**33, (1,), (1,)), (1, (4,), (1,)), (0, (2, 3), (3, 1)), (0, (2,), (1, 1))],
    )
    def test_a_tensor_beyond_its_storage(
        self, tmp_path: Path, as_zip: bool, offset: int, shape: Any, strides: Any
    ) -> None:
        class Tensor:
            def __reduce__(self) -> Any:
                return torch._utils._rebuild_tensor_v2, (torch.zeros(4).storage(), offset, shape, strides, False, {})

        torch.save(Tensor(), tmp_path / "a.pt", _use_new_zipfile_serialization=as_zip)
        with pytest.raises(InputError, match="file cannot be read") as caught:
            reading.read_torch(tmp_path / "a.pt")
        assert "larger than its storage" in str(caught.value.found) or "strides" in str(caught.value.found)

    def test_numbers_of_a_machine_of_the_other_kind(self, tmp_path: Path) -> None:
        other = "big" if sys.byteorder == "little" else "little"
        torch.save(torch.tensor([1, 2**40]), tmp_path / "a.pt")
        self.changed(tmp_path / "a.pt", "byteorder", lambda _: other.encode())
        self.changed(tmp_path / "a.pt", "data/0", lambda numbers: struct.pack(">2q", *struct.unpack("<2q", numbers)))
        assert reading.read_torch(tmp_path / "a.pt").tolist() == [1, 2**40]

    def test_tensors_that_share_numbers_share_them_again(self, tmp_path: Path) -> None:
        base = torch.arange(6.0)
        torch.save({"a": base, "part": base[2:4], "column": base.view(2, 3)[:, 1]}, tmp_path / "a.pt")
        read = reading.read_torch(tmp_path / "a.pt")
        read["a"][:] += 1
        assert read["part"].tolist() == [3, 4] and read["column"].tolist() == [2, 5]

    @pytest.mark.parametrize("state", [{"__class__": 1}, {"__dict__": {}}, (None, {"__class__": argparse.Namespace})])
    def test_a_state_that_replaces_what_a_class_has(self, tmp_path: Path, state: Any) -> None:
        class Odd:
            def __reduce__(self) -> Any:
                return argparse.Namespace, (), state

        content = pickle.dumps(Odd(), 2)
        assert pickle.BUILD in content
        torch.save(torch.zeros(1), tmp_path / "a.pt")
        self.changed(tmp_path / "a.pt", "data.pkl", lambda _: content)
        with pytest.raises(InputError):
            reading.read_torch(tmp_path / "a.pt", argparse.Namespace)

    @pytest.mark.parametrize("opcode", [b"K\x00K\x01s", b"(K\x00K\x01u", b"K\x01a", b"(K\x01e", b"}b", b"(K\x01\x90"])
    def test_nothing_is_put_into_a_tensor(self, tmp_path: Path, opcode: bytes) -> None:
        torch.save(torch.zeros(2), tmp_path / "a.pt")
        self.changed(tmp_path / "a.pt", "data.pkl", lambda content: content[:-1] + opcode + b".")
        with pytest.raises(InputError, match="file cannot be read"):
            reading.read_torch(tmp_path / "a.pt")

    def test_mutations_are_read_as_torch_reads_them(self, tmp_path: Path) -> None:
        """Whatever is read is what torch's own restricted reading gives."""
        torch.save({"a": torch.arange(4.0), "b": [1, "x"] * 3, "c": torch.ones(2, 2).t()}, tmp_path / "a.pt")
        valid, both = (tmp_path / "a.pt").read_bytes(), 0
        for seed in range(300):
            (tmp_path / "b.pt").write_bytes(mutated(valid, "zip", seed))
            try:
                read = reading.read_torch(tmp_path / "b.pt")
            except InputError:
                continue
            try:
                wanted = torch.load(tmp_path / "b.pt", map_location="cpu", weights_only=True)
            except Exception:  # e.g. opcodes of plain data that torch never writes
                continue
            both += 1
            assert repr(read) == repr(wanted), seed
        assert both > 20

    @pytest.mark.filterwarnings("ignore:Validating sparse tensor:UserWarning", "ignore:Sparse:UserWarning")
    def test_a_sparse_tensor_with_indices_outside_is_refused(self, tmp_path: Path) -> None:
        tensor = torch.sparse_coo_tensor([[0, 9]], [1.0, 2.0], (3,), check_invariants=False)
        torch.save(tensor, tmp_path / "a.pt")
        with pytest.raises(InputError, match="file cannot be read"):
            reading.read_torch(tmp_path / "a.pt")
        torch.save(torch.eye(3).to_sparse(), tmp_path / "a.pt")
        assert torch.equal(reading.read_torch(tmp_path / "a.pt").to_dense(), torch.eye(3))
        torch.save(torch.eye(3).to_sparse_csr(), tmp_path / "a.pt")
        assert torch.equal(reading.read_torch(tmp_path / "a.pt").to_dense(), torch.eye(3))


def test_random_lists_in_many_pieces() -> None:
    draws = random.Random(0)
    names = ["x" * draws.randrange(140) for _ in range(30_000)]
    for protocol in range(2, 6):
        content = pickle.dumps([names, list(range(3)) * 30_000, [True] * 100_000], protocol)
        assert answer(Survey, content) == answer(OneByOne, content)

from __future__ import annotations

import errno
import io
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from elixir_plugin.core.context import Context
from elixir_plugin.core.images import ImageSet
from elixir_plugin.diffusion.store.chunks import ChunkStore
from elixir_plugin.diffusion.store.manifest import Geometry
from elixir_plugin.errors import InputError, RunError, SettingsError
from elixir_plugin.io import holding, locks
from elixir_plugin.io.distributed import barrier, local_device, rank_and_world, together

IDENTITY = {"seed": 3, "level": {"sigma": 0.025, "steps": None}, "clip": True, "denoiser": "0123456789ab"}
SHAPE = (2, 3)


def make(folder: Path, **changes: Any) -> ChunkStore:
    facts: dict[str, Any] = {"length": 10, "shape": SHAPE, "dtype": "float32", "identity": IDENTITY, "chunk": 4}
    return ChunkStore(folder, **{**facts, **changes})


def values(part: slice, dtype: str = "float32") -> Any:
    """A per-sample function: sample i is all i + 1, so that nothing equals an empty file."""
    rows = np.arange(part.start, part.stop).reshape(-1, 1, 1) + 1
    return np.broadcast_to(rows, (len(rows), *SHAPE)).astype(dtype)


class Recorder:
    """Counts which chunks were asked for, and may fail at one."""

    def __init__(self, fail_at: int | None = None, dtype: str = "float32") -> None:
        self.starts: list[int] = []
        self.fail_at, self.dtype = fail_at, dtype

    def __call__(self, part: slice) -> Any:
        if part.start == self.fail_at:
            raise KeyboardInterrupt
        self.starts.append(part.start)
        return values(part, self.dtype)


def fill(store: ChunkStore, work: Callable[[slice], Any] | None = None, **options: Any) -> Recorder:
    recorder = Recorder()
    store.fill(work or recorder, Context(), description="test", **options)
    return recorder


def expected(length: int = 10, dtype: str = "float32") -> Any:
    return values(slice(0, length), dtype)


class TestGeometry:
    @given(st.integers(0, 400), st.integers(1, 50), st.integers(1, 9))
    def test_every_sample_lies_in_one_chunk_of_one_rank(self, length: int, chunk: int, world: int) -> None:
        geometry = Geometry(length, (1,), "uint8", chunk)
        seen = np.zeros(length, int)
        for rank in range(world):
            for index in geometry.share(rank, world):
                part = geometry.part(index)
                assert 0 < part.stop - part.start <= chunk
                seen[part] += 1
        assert (seen == 1).all()

    @given(st.integers(1, 400), st.integers(1, 50), st.integers(1, 9))
    def test_shares_are_even(self, length: int, chunk: int, world: int) -> None:
        geometry = Geometry(length, (1,), "uint8", chunk)
        sizes = [len(geometry.share(rank, world)) for rank in range(world)]
        assert max(sizes) - min(sizes) <= 1

    @pytest.mark.parametrize(
        ("change", "name"),
        [
            ({"length": -1}, "length"),
            ({"length": 2.0}, "length"),
            ({"length": True}, "length"),
            ({"chunk": 0}, "chunk"),
            ({"shape": (3, 0)}, "shape"),
            ({"shape": ("3",)}, "shape"),
            ({"dtype": "float64"}, "dtype"),
            ({"dtype": "object"}, "dtype"),
        ],
    )
    def test_impossible(self, tmp_path: Path, change: dict[str, Any], name: str) -> None:
        with pytest.raises(SettingsError) as caught:
            make(tmp_path / "store", **change)
        assert caught.value.where == name
        assert not (tmp_path / "store").exists()

    @pytest.mark.parametrize(("rank", "world"), [(2, 2), (-1, 2), (0, 0)])
    def test_no_such_rank(self, tmp_path: Path, rank: int, world: int) -> None:
        with pytest.raises(SettingsError, match="no such rank"):
            fill(make(tmp_path / "store"), rank=rank, world=world)


class TestFilling:
    @pytest.mark.parametrize("dtype", ["uint8", "float32"])
    @pytest.mark.parametrize("length", [0, 1, 4, 10])
    def test_output(self, tmp_path: Path, dtype: str, length: int) -> None:
        store = make(tmp_path / "deep" / "store", dtype=dtype, length=length)
        fill(store, Recorder(dtype=dtype))
        assert store.complete
        array = store.array()
        assert isinstance(array, np.memmap) and array.dtype == dtype
        assert np.array_equal(array, expected(length, dtype))
        assert np.array_equal(np.load(tmp_path / "deep" / "store" / "data.npy"), expected(length, dtype))
        with pytest.raises(ValueError, match="read-only"):
            array[:] = 0

    def test_output_stands_behind_an_image_set(self, tmp_path: Path) -> None:
        store = make(tmp_path / "store", shape=(2, 2, 3))
        fill(store, lambda part: np.full((part.stop - part.start, 2, 2, 3), 0.5, np.float32))
        images = ImageSet(store.array(), np.zeros(10, int), 1)
        assert (images.read(slice(0, 10)) == 0.5).all()

    def test_each_chunk_once_in_order(self, tmp_path: Path) -> None:
        store = make(tmp_path / "store")
        assert fill(store).starts == [0, 4, 8]
        assert fill(store).starts == []

    @settings(max_examples=25)  # each flushes to disk many times
    @given(
        length=st.integers(0, 30),
        chunk=st.integers(1, 12),
        world=st.integers(1, 4),
        order=st.permutations(range(4)),
    )
    def test_any_number_of_ranks_makes_the_same(
        self, tmp_path_factory: pytest.TempPathFactory, length: int, chunk: int, world: int, order: list[int]
    ) -> None:
        folder = tmp_path_factory.mktemp("ranks")
        for rank in order:
            if rank < world:
                fill(make(folder / "store", length=length, chunk=chunk), rank=rank, world=world)
        store = make(folder / "store", length=length, chunk=chunk)
        assert np.array_equal(store.array(), expected(length))

    def test_a_rank_does_its_share_alone(self, tmp_path: Path) -> None:
        store = make(tmp_path / "store")
        assert fill(store, rank=1, world=2).starts == [4]
        assert not store.complete
        assert fill(store, rank=0, world=2).starts == [0, 8]

    def test_work_may_return_a_view(self, tmp_path: Path) -> None:
        store = make(tmp_path / "store")
        fill(store, lambda part: values(part).transpose(0, 2, 1).copy().transpose(0, 2, 1))
        assert np.array_equal(store.array(), expected())

    def test_no_memory_of_the_whole_is_needed(self, tmp_path: Path) -> None:
        store = make(tmp_path / "store", length=10, shape=(1 << 20,), dtype="uint8", chunk=1)
        blank = np.ones((1, 1 << 20), np.uint8)
        import tracemalloc

        tracemalloc.start()
        try:
            store.fill(lambda part: blank, Context(), description="test")
            store.fill(lambda part: blank, Context(), description="test")
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 3 << 20


class TestResuming:
    def test_only_missing_chunks_are_done(self, tmp_path: Path) -> None:
        with pytest.raises(KeyboardInterrupt):
            fill(make(tmp_path / "store"), Recorder(fail_at=8))
        store = make(tmp_path / "store")
        assert not store.complete
        assert fill(store).starts == [8]
        assert np.array_equal(store.array(), expected())

    def test_array_of_an_incomplete_store(self, tmp_path: Path) -> None:
        store = make(tmp_path / "store")
        fill(store, rank=1, world=3)
        with pytest.raises(RunError, match="not complete") as caught:
            store.array()
        assert caught.value.found == "1 of 3 chunks"

    def test_an_error_of_the_work_passes_through(self, tmp_path: Path) -> None:
        def broken(part: slice) -> Any:
            raise OSError(errno.EIO, "bad image file")

        with pytest.raises(OSError, match="bad image file"):  # and not "cannot write"
            fill(make(tmp_path / "store"), broken)
        assert fill(make(tmp_path / "store")).starts == [0, 4, 8]

    @pytest.mark.parametrize("mark", [b"", b"0123", b"\xff" * 33, b"g" * 32 + b"\n", b"0" * 32])
    def test_a_torn_mark_is_no_mark(self, tmp_path: Path, mark: bytes) -> None:
        fill(make(tmp_path / "store"))
        (tmp_path / "store" / "marks" / "00000001").write_bytes(mark)
        store = make(tmp_path / "store")
        assert not store.complete
        assert fill(store).starts == [4]
        assert np.array_equal(store.array(), expected())

    def test_a_damaged_chunk_is_done_again(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        fill(make(tmp_path / "store"))
        with (tmp_path / "store" / "data.npy").open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"\x55")
        store = make(tmp_path / "store")
        with caplog.at_level(logging.WARNING):
            assert fill(store).starts == [8]
        assert "chunk 2" in caplog.text and "damaged" in caplog.text
        assert np.array_equal(store.array(), expected())

    def test_a_chunk_that_is_done_again_is_unmarked_meanwhile(self, tmp_path: Path) -> None:
        fill(make(tmp_path / "store"))
        with (tmp_path / "store" / "data.npy").open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"\x55")
        with pytest.raises(KeyboardInterrupt):
            fill(make(tmp_path / "store"), Recorder(fail_at=8))
        assert not make(tmp_path / "store").complete

    def test_start_that_was_cut_short(self, tmp_path: Path) -> None:
        folder = tmp_path / "store"
        make(folder)
        (folder / "manifest.json").rename(folder / ".manifest.json.x1_abcde.part")
        (folder / "data.npy").write_bytes(b"half")
        store = make(folder)
        fill(store)
        assert np.array_equal(store.array(), expected())
        assert sorted(path.name for path in folder.iterdir()) == [".lock", "data.npy", "manifest.json", "marks"]

    def test_progress_counts_what_is_left(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        fill(make(tmp_path / "store"), rank=0, world=3)
        seen: list[tuple[str, int | None]] = []
        monkeypatch.setattr(
            Context, "progress", lambda self, items, text, total=None: (seen.append((text, total)), items)[1]
        )
        fill(make(tmp_path / "store"))
        assert seen == [("test", 2)]


class TestIdentity:
    def test_equal_whatever_the_key_order_and_number_types(self, tmp_path: Path) -> None:
        make(tmp_path / "store")
        fill(make(tmp_path / "store", identity=dict(reversed(IDENTITY.items()))))
        make(tmp_path / "store", identity={**IDENTITY, "seed": np.int64(3)})

    @pytest.mark.parametrize(
        ("change", "found", "allowed"),
        [
            ({"seed": 4}, "seed = 3", "seed = 4"),
            ({"seed": 3.0}, "seed = 3", "seed = 3.0"),
            ({"clip": 1}, "clip = true", "clip = 1"),
            ({"level": {"sigma": 0.05, "steps": None}}, "level.sigma = 0.025", "level.sigma = 0.05"),
            ({"rounds": 2}, "rounds = (absent)", "rounds = 2"),
        ],
    )
    def test_other_settings_are_refused(self, tmp_path: Path, change: dict[str, Any], found: str, allowed: str) -> None:
        fill(make(tmp_path / "store"))
        before = (tmp_path / "store" / "data.npy").read_bytes()
        with pytest.raises(RunError, match="other settings") as caught:
            make(tmp_path / "store", identity={**IDENTITY, **change})
        assert (caught.value.found, caught.value.allowed) == (found, allowed)
        assert caught.value.where == tmp_path / "store" and caught.value.hint
        assert (tmp_path / "store" / "data.npy").read_bytes() == before

    @pytest.mark.parametrize(
        "change",
        [{"length": 11}, {"shape": (3, 2)}, {"dtype": "uint8"}, {"chunk": 5}],
        ids=lambda each: next(iter(each)),
    )
    def test_another_geometry_is_refused(self, tmp_path: Path, change: dict[str, Any]) -> None:
        make(tmp_path / "store")
        with pytest.raises(RunError, match="other settings") as caught:
            make(tmp_path / "store", **change)
        assert f"output.{next(iter(change))}" in str(caught.value.found)

    def test_names_of_geometry_and_identity_do_not_mix(self, tmp_path: Path) -> None:
        make(tmp_path / "store", identity={"length": 1})
        with pytest.raises(RunError, match="other settings"):
            make(tmp_path / "store", identity={"length": 1}, length=11)

    def test_dots_in_names_do_not_hide_a_difference(self, tmp_path: Path) -> None:
        make(tmp_path / "store", identity={"level.sigma": 1})
        with pytest.raises(RunError, match="other settings"):
            make(tmp_path / "store", identity={"level": {"sigma": 1}})

    def test_many_differences_are_cut(self, tmp_path: Path) -> None:
        make(tmp_path / "store", identity={f"k{i}": 0 for i in range(9)})
        with pytest.raises(RunError) as caught:
            make(tmp_path / "store", identity={f"k{i}": "x" * 500 for i in range(9)})
        assert "5 more" in str(caught.value.found) and len(str(caught.value.allowed)) < 500

    def test_identity_that_json_cannot_hold(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="plain JSON"):
            make(tmp_path / "store", identity={"device": torch.device("cpu")})
        assert not (tmp_path / "store").exists()


class TestForeignAndDamaged:
    def test_folder_with_something_else(self, tmp_path: Path) -> None:
        (tmp_path / "thesis.tex").write_text("years of work")
        with pytest.raises(RunError, match="something else") as caught:
            make(tmp_path)
        assert caught.value.found == "thesis.tex"
        assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]

    def test_somebody_elses_data(self, tmp_path: Path) -> None:
        np.save(tmp_path / "data.npy", np.ones(3))
        with pytest.raises(RunError, match="something else"):
            make(tmp_path)
        assert np.load(tmp_path / "data.npy").tolist() == [1, 1, 1]

    def test_folder_that_is_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "store").write_text("")
        with pytest.raises(RunError, match="cannot write"):
            make(tmp_path / "store")

    def edit(self, folder: Path, **changes: Any) -> None:
        make(folder)
        there = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps({**there, **changes}))

    @pytest.mark.parametrize(
        "content", ["", "{", "[]", "null", '{"a": 1}', '"text"', "\0", "[" * 100_000], ids=lambda text: repr(text[:6])
    )
    def test_manifest_that_is_none(self, tmp_path: Path, content: str) -> None:
        make(tmp_path / "store")
        (tmp_path / "store" / "manifest.json").write_text(content)
        with pytest.raises(RunError, match="manifest") as caught:
            make(tmp_path / "store")
        assert caught.value.where == tmp_path / "store" / "manifest.json" and caught.value.hint

    def test_manifest_of_bytes(self, tmp_path: Path) -> None:
        make(tmp_path / "store")
        (tmp_path / "store" / "manifest.json").write_bytes(b"\xff\xfe\x00")
        with pytest.raises(RunError, match="manifest"):
            make(tmp_path / "store")

    def test_manifest_of_a_later_format(self, tmp_path: Path) -> None:
        self.edit(tmp_path / "store", format=2)
        with pytest.raises(RunError, match="another format") as caught:
            make(tmp_path / "store")
        assert caught.value.found == 2

    def test_manifest_that_was_edited(self, tmp_path: Path) -> None:
        self.edit(tmp_path / "store", identity={**IDENTITY, "seed": 9})
        with pytest.raises(RunError, match="hash does not fit"):
            make(tmp_path / "store", identity={**IDENTITY, "seed": 9})

    @pytest.mark.parametrize("geometry", [None, [], {"length": "ten"}, {"length": 10, "extra": {}}])
    def test_manifest_with_a_strange_geometry(self, tmp_path: Path, geometry: Any) -> None:
        self.edit(tmp_path / "store", geometry=geometry)
        with pytest.raises(RunError):
            make(tmp_path / "store")

    @pytest.mark.parametrize("size", [0, 50, 200, 10_000])
    def test_data_of_another_size(self, tmp_path: Path, size: int) -> None:
        fill(make(tmp_path / "store"))
        os.truncate(tmp_path / "store" / "data.npy", size)
        with pytest.raises(RunError, match="damaged"):
            make(tmp_path / "store")

    @pytest.mark.parametrize("leads", ["nowhere", "manifest.json", "data.npy"])
    def test_manifest_that_is_a_link_is_not_replaced(self, tmp_path: Path, leads: str) -> None:
        fill(make(tmp_path / "store"))
        data = (tmp_path / "store" / "data.npy").read_bytes()
        (tmp_path / "store" / "manifest.json").unlink()
        (tmp_path / "store" / "manifest.json").symlink_to(leads)
        with pytest.raises(RunError, match="manifest is damaged"):
            make(tmp_path / "store")
        assert str((tmp_path / "store" / "manifest.json").readlink()) == leads
        assert (tmp_path / "store" / "data.npy").read_bytes() == data

    def test_data_that_is_gone(self, tmp_path: Path) -> None:
        fill(make(tmp_path / "store"))
        (tmp_path / "store" / "data.npy").unlink()
        with pytest.raises(RunError, match="damaged"):
            make(tmp_path / "store")

    def test_data_with_another_head(self, tmp_path: Path) -> None:
        fill(make(tmp_path / "store"))
        with (tmp_path / "store" / "data.npy").open("r+b") as file:
            file.write(b"\x00")
        with pytest.raises(RunError, match="damaged"):
            make(tmp_path / "store")

    def test_folder_that_vanishes_meanwhile(self, tmp_path: Path) -> None:
        import shutil

        store = make(tmp_path / "store")

        def work(part: slice) -> Any:
            shutil.rmtree(tmp_path / "store")
            return values(part)

        with pytest.raises(RunError, match="cannot"):
            fill(store, work)


class TestRefusedChunks:
    @pytest.mark.parametrize(
        "answer",
        [
            lambda part: values(part)[:-1],
            lambda part: values(part)[:, :1],
            lambda part: values(part).astype(np.float64),
            lambda part: values(part, "uint8"),
            lambda part: torch.from_numpy(values(part).copy()),
            lambda part: values(part).tolist(),
            lambda part: None,
        ],
    )
    def test_wrong_shape_or_type(self, tmp_path: Path, answer: Callable[[slice], Any]) -> None:
        with pytest.raises(RunError, match="chunk refused") as caught:
            fill(make(tmp_path / "store"), answer)
        assert caught.value.where == "samples 0..3" and caught.value.allowed == "float32 (4, 2, 3)"
        assert fill(make(tmp_path / "store")).starts == [0, 4, 8]

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_not_finite(self, tmp_path: Path, bad: float) -> None:
        def work(part: slice) -> Any:
            out = values(part)
            if part.start == 4:
                out[2, 1, 1] = bad
            return out

        with pytest.raises(RunError, match="not finite") as caught:
            fill(make(tmp_path / "store"), work)
        assert "first in 6" in str(caught.value.where)
        assert fill(make(tmp_path / "store")).starts == [4, 8]


class TestFullDisk:
    def full(self, *_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def test_at_the_start(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(os, "posix_fallocate", self.full, raising=False)
            with pytest.raises(RunError, match="cannot write") as caught:
                make(tmp_path / "store")
        assert "No space left" in str(caught.value.found) and "free space" in str(caught.value.hint)
        assert [path.name for path in (tmp_path / "store").iterdir()] == [".lock"]
        fill(make(tmp_path / "store"))  # and nothing is in the way afterwards

    def test_at_the_manifest(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        real, calls = os.fsync, iter(range(1, 100))
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", lambda handle: self.full() if next(calls) == 2 else real(handle))
            with pytest.raises(RunError, match="cannot write"):
                make(tmp_path / "store")
        assert not (tmp_path / "store" / "data.npy").exists()  # it holds the space of the whole output
        fill(make(tmp_path / "store"))

    def test_at_the_mark(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A mark that cannot be written is not written by closing its file, either."""
        store = make(tmp_path / "store")
        path = tmp_path / "store" / "marks" / "00000000"

        class Full(io.FileIO):
            def write(self, content: Any) -> int:
                raise OSError(errno.ENOSPC, "No space left on device")

        def opened(file: Path, mode: str, **options: Any) -> Any:
            if file != path:
                return open(file, mode, **options)  # noqa: PTH123
            raw = Full(file, mode)
            return raw if options.get("buffering") == 0 else io.BufferedWriter(raw)

        with monkeypatch.context() as patch:
            patch.setattr(locks, "open", opened, raising=False)
            with pytest.raises(RunError, match="cannot write"):
                fill(store)
        assert path.read_bytes() == b""
        assert fill(store).starts == [0, 4, 8]

    @pytest.mark.parametrize("call", [2, 3, 4, 5])
    def test_at_any_flush_of_a_chunk(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int) -> None:
        store = make(tmp_path / "store")
        real, calls = os.fsync, iter(range(1, 100))
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", lambda handle: self.full() if next(calls) >= call else real(handle))
            with pytest.raises(RunError, match="cannot write"):
                fill(store)
        again = make(tmp_path / "store")
        assert not again.complete
        fill(again)
        assert np.array_equal(again.array(), expected())

    @pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
    def test_with_a_real_limit_on_file_size(self, tmp_path: Path) -> None:
        import resource

        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        try:
            with pytest.raises(RunError, match="cannot write"):
                make(tmp_path / "store", shape=(50_000,))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert not (tmp_path / "store" / "data.npy").exists()

    def test_system_that_cannot_reserve(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def unsupported(*_: Any) -> None:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")

        monkeypatch.setattr(os, "posix_fallocate", unsupported, raising=False)
        store = make(tmp_path / "store")
        fill(store)
        assert np.array_equal(store.array(), expected())


@pytest.mark.skipif(sys.platform == "win32", reason="no such locks")
class TestTwoProcesses:
    def test_they_share_the_work(self, tmp_path: Path) -> None:
        """A second process starts while the first is inside chunk 0: it does the others, and waits for that one."""
        inside, go_on = threading.Event(), threading.Event()
        first, second = make(tmp_path / "store"), make(tmp_path / "store")
        slow = Recorder()

        def work(part: slice) -> Any:
            inside.set()
            assert go_on.wait(30)
            return slow(part)

        runner = threading.Thread(target=fill, args=(first, work))
        runner.start()
        assert inside.wait(30)
        quick = Recorder()

        def quick_work(part: slice) -> Any:
            if part.start == 8:
                threading.Timer(0.2, go_on.set).start()
            return quick(part)

        fill(second, quick_work)
        assert second.complete  # it waited for the chunk of the other one
        runner.join(30)
        assert not runner.is_alive()
        assert sorted(slow.starts + quick.starts) == [0, 4, 8] and 0 in slow.starts
        assert np.array_equal(second.array(), expected())

    def test_a_lock_ends_with_its_process(self, tmp_path: Path) -> None:
        store = make(tmp_path / "store")
        program = (
            "import fcntl, os, signal, sys\n"
            "file = open(sys.argv[1], 'ab')\n"
            "fcntl.flock(file, fcntl.LOCK_EX)\n"
            "os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        subprocess.run([sys.executable, "-c", program, str(tmp_path / "store" / "marks" / "00000000")], check=False)
        assert fill(store).starts == [0, 4, 8]

    def test_settings_are_compared_also_when_both_start_at_once(self, tmp_path: Path) -> None:
        errors: list[RunError] = []
        start = threading.Barrier(6)

        def open_one(seed: int) -> None:
            start.wait()
            try:
                make(tmp_path / "store", identity={"seed": seed})
            except RunError as error:
                errors.append(error)

        threads = [threading.Thread(target=open_one, args=(number % 2,)) for number in range(6)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        assert len(errors) == 3 and all("other settings" in error.what for error in errors)

    def test_file_system_without_locks(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def unsupported(*_: Any) -> None:
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr(holding.fcntl, "flock", unsupported)
        store = make(tmp_path / "store")
        fill(store)
        assert np.array_equal(store.array(), expected())


class TestRanks:
    @pytest.fixture(autouse=True)
    def alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
            monkeypatch.delenv(name, raising=False)

    def test_alone(self) -> None:
        assert rank_and_world() == (0, 1)
        barrier()
        with together():
            pass

    def test_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RANK", "3")
        monkeypatch.setenv("WORLD_SIZE", "8")
        assert rank_and_world() == (3, 8)

    @pytest.mark.parametrize(
        ("rank", "world"), [("2", "2"), ("-1", "2"), ("0", "0"), ("x", "2"), ("1", None), (None, "2"), ("0", "")]
    )
    def test_contradictions(self, monkeypatch: pytest.MonkeyPatch, rank: str | None, world: str | None) -> None:
        for name, value in (("RANK", rank), ("WORLD_SIZE", world)):
            if value is not None:
                monkeypatch.setenv(name, value)
        with pytest.raises(SettingsError, match="not a rank"):
            rank_and_world()

    def test_without_an_address(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RANK", "0")
        monkeypatch.setenv("WORLD_SIZE", "2")
        with pytest.raises(RunError, match="no contact"):
            barrier()

    def test_device(self, monkeypatch: pytest.MonkeyPatch) -> None:
        cuda = torch.device("cuda")
        assert local_device(cuda) == cuda
        monkeypatch.setenv("LOCAL_RANK", "1")
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
        assert local_device(cuda) == torch.device("cuda", 1)
        assert local_device(torch.device("cuda", 3)) == torch.device("cuda", 3)
        assert local_device(torch.device("cpu")) == torch.device("cpu")

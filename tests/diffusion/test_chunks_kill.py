"""SIGKILL at any moment: what is kept, what is done again, and that the end is the same.

Run as a program, this file is the process that the slow tests kill: ``python test_chunks_kill.py purify STORE LOG``.
"""

from __future__ import annotations

import collections
import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parents[1]))

from processes import forked

from elixir_plugin.core.context import Context
from elixir_plugin.core.images import ImageSet
from elixir_plugin.diffusion.store.chunks import ChunkStore
from elixir_plugin.io.distributed import rank_and_world, together

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")

KILLS = 5
LENGTH, CHUNK, SHAPE = 240, 4, (3, 5)
COUNT = LENGTH // CHUNK
IMAGES, SIDE = 2000, 16


def values(part: slice) -> Any:
    rows = np.arange(part.start, part.stop, dtype=np.float32).reshape(-1, 1, 1)
    return np.sin(rows + np.arange(15, dtype=np.float32).reshape(SHAPE))


def make(folder: Path, length: int = LENGTH) -> ChunkStore:
    return ChunkStore(folder, length=length, shape=SHAPE, dtype="float32", identity={"of": "kill test"}, chunk=CHUNK)


def logged(log: Path, pause: float) -> Callable[[slice], Any]:
    """Return work that notes each call in an append-only file, and takes *pause* seconds."""

    def work(part: slice) -> Any:
        with log.open("ab", buffering=0) as file:
            file.write(f"{part.start // CHUNK}\n".encode())
        time.sleep(pause)
        return values(part)

    return work


def calls(log: Path) -> list[int]:
    return [int(line) for line in log.read_text().split()] if log.exists() else []


def wait_until(condition: Callable[[], bool], alive: Callable[[], bool] = lambda: True, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert alive(), "the process ended by itself"
        assert time.monotonic() < deadline, "the process does nothing"
        time.sleep(0.001)


def complete_bytes(folder: Path) -> bytes:
    store = make(folder)
    assert store.complete
    return (folder / "data.npy").read_bytes()


@pytest.fixture
def reference(tmp_path: Path) -> bytes:
    """Return the file an uninterrupted run makes."""
    store = make(tmp_path / "reference")
    store.fill(values, Context(), description="test")
    assert np.array_equal(store.array(), values(slice(0, LENGTH)))
    return complete_bytes(tmp_path / "reference")


@pytest.mark.parametrize("seed", [0, 1])
def test_killed_five_times_at_random_moments(tmp_path: Path, reference: bytes, seed: int) -> None:
    rng = random.Random(seed)
    folder, log = tmp_path / "store", tmp_path / "log"
    in_flight: list[int] = []
    for _ in range(KILLS):
        before = len(calls(log))
        pid = forked(lambda: make(folder).fill(logged(log, 0.004), Context(), description="test"))
        progress = rng.randint(1, 9)
        try:
            wait_until(lambda: len(calls(log)) >= before + progress)  # noqa: B023
            time.sleep(rng.uniform(0, 0.008))
        finally:
            os.kill(pid, signal.SIGKILL)
            status = os.waitpid(pid, 0)[1]
        assert os.WTERMSIG(status) == signal.SIGKILL
        in_flight.append(calls(log)[-1])
        assert not make(folder).complete
    make(folder).fill(logged(log, 0), Context(), description="test")
    assert complete_bytes(folder) == reference
    seen = collections.Counter(calls(log))
    assert set(seen) == set(range(COUNT))
    allowed = collections.Counter(in_flight)
    assert all(times <= 1 + allowed[chunk] for chunk, times in seen.items())


def traced(action: Callable[[], object], stop_at: int | None) -> int:
    """Run *action* and count the lines it executes in the store and in what it writes with; die before *stop_at*."""
    count = 0

    def line(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        if event == "line":
            count += 1
            if count == stop_at:
                os.kill(os.getpid(), signal.SIGKILL)
        return line

    def call(frame: FrameType, event: str, _: Any) -> Any:
        return line if frame.f_code.co_filename.endswith(("chunks.py", "storage.py")) else None

    before = sys.gettrace()
    sys.settrace(call)
    try:
        action()
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("stride", [19, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_before_every_line(tmp_path: Path, stride: int) -> None:
    """Two chunks, one of them cut off by the end of the set; the store is made in the same breath."""
    length = CHUNK + 1

    def run(folder: Path) -> None:
        make(folder, length).fill(values, Context(), description="test")

    lines = traced(lambda: run(tmp_path / "whole"), None)
    wanted = (tmp_path / "whole" / "data.npy").read_bytes()
    states = set()
    for stop_at in range(1, lines + 1, stride):
        folder = tmp_path / str(stop_at)
        pid = forked(lambda: traced(lambda: run(folder), stop_at))  # noqa: B023
        assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
        store = make(folder, length)
        states.add(sum((folder / "marks" / f"{index:08}").exists() for index in range(2)) + store.complete)
        if store.complete:
            assert (folder / "data.npy").read_bytes() == wanted
        redone = []
        store.fill(lambda part: (redone.append(part.start), values(part))[1], Context(), description="test")  # noqa: B023
        assert (folder / "data.npy").read_bytes() == wanted
        assert len(redone) <= 2
    assert {0, 2} < states if stride > 1 else states == {0, 1, 2, 3}  # nothing, first begun, second begun, all done


def test_two_killed_processes_and_a_third(tmp_path: Path, reference: bytes) -> None:
    """Two processes share one folder, both die, another one ends the work."""
    folder, log = tmp_path / "store", tmp_path / "log"
    pids = [forked(lambda: make(folder).fill(logged(log, 0.004), Context(), description="test")) for _ in range(2)]
    try:
        wait_until(lambda: len(calls(log)) >= 20)
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)  # else the second one takes up what the first one leaves
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    started = calls(log)
    make(folder).fill(logged(log, 0), Context(), description="test")
    assert complete_bytes(folder) == reference
    assert len(calls(log)) <= COUNT + len(pids)
    assert len(set(started)) == len(started)  # no chunk was done by both


# --- slow: real processes, and real purification ---------------------------------------------------------------------


def toy(store: Path, log: Path) -> None:
    rank, world = rank_and_world()
    with together():
        make(store).fill(logged(log, 0.01), Context(), description="test", rank=rank, world=world)
    assert make(store).complete  # on every rank, as soon as all have met


def failing(store: Path, log: Path) -> None:
    rank, world = rank_and_world()

    def work(part: slice) -> Any:
        if part.start == CHUNK:
            raise ValueError("a bad sample")
        return logged(log, 0)(part)

    with together():
        make(store).fill(work, Context(), description="test", rank=rank, world=world)


def random_denoiser() -> Any:
    """Return a UNet with two levels and random weights: what it makes is no image, but depends on every bit."""
    from elixir_plugin.diffusion.denoisers.denoiser import UNetDenoiser
    from elixir_plugin.diffusion.denoisers.unet import SIZES, Architecture, build_unet
    from elixir_plugin.diffusion.schedule import Schedule

    options = {**SIZES["tiny"].options, "attention_head_dim": 16}
    network = build_unet(Architecture((16, 32), 1, (False, False), options), SIDE)
    generator = torch.Generator().manual_seed(1)
    for weight in network.parameters():
        if weight.dim() > 1:
            fan = weight[0].numel()
            weight.data = torch.randn(weight.shape, generator=generator) / fan**0.5
    return UNetDenoiser(network, Schedule("cosine", 1000), variance="fixed_large")


def purified(store: Path | None, count: int = IMAGES, batch_size: int | None = None) -> ImageSet:
    from elixir_plugin.diffusion.plan import Purification
    from elixir_plugin.diffusion.purify import purify

    pixels = np.random.default_rng(0).integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)
    settings = Purification.build({"level": {"steps": 3, "of": 1000}, "steps": 3, "batch_size": batch_size})
    images = ImageSet(pixels, np.zeros(count, np.int64), 1)
    return purify(random_denoiser(), settings, images, Context(seed=5), seed_name="test", store=store)


def whole_purification(store: Path, log: Path) -> None:
    torch.set_num_threads(1)  # as torchrun does
    purified(store)


PROGRAMS = {"toy": toy, "failing": failing, "purify": whole_purification}


def start(program: str, store: Path, log: Path, ranks: int = 1, **options: Any) -> subprocess.Popen[str]:
    launcher = [] if ranks == 1 else ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    root = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root}
    return subprocess.Popen(
        [sys.executable, *launcher, __file__, program, str(store), str(log)], text=True, env=environment, **options
    )


def workers(log: Path) -> list[int]:
    return [int(path.suffix[1:]) for path in log.parent.glob(f"{log.name}.pid.*")]


@contextlib.contextmanager
def no_survivors(process: subprocess.Popen[str], log: Path) -> Iterator[None]:
    """End the launcher and its ranks, whatever happens."""
    try:
        yield
    finally:
        process.terminate()  # torchrun ends its ranks
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for path in log.parent.glob(f"{log.name}.pid.*"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(path.suffix[1:]), signal.SIGKILL)
            path.unlink()


def done(store: Path) -> int:
    return sum(path.stat().st_size > 0 for path in store.glob("marks/*"))


def kill_and_restart(store: Path, log: Path, ranks: int, seed: int) -> None:
    """Kill one rank after some chunks, at a random moment, five times; then let it end."""
    rng = random.Random(seed)
    for _ in range(KILLS):
        before = done(store)
        process = start("purify", store, log, ranks, stderr=subprocess.DEVNULL)
        with no_survivors(process, log):
            progress = rng.randint(1, 3)
            wait_until(lambda: done(store) >= before + progress, lambda: process.poll() is None)  # noqa: B023
            time.sleep(rng.uniform(0, 0.3))
            os.kill(rng.choice(workers(log)), signal.SIGKILL)
            assert process.wait(120) != 0
        assert before < done(store) < len(range(0, IMAGES, 64))
    process = start("purify", store, log, ranks)
    with no_survivors(process, log):
        assert process.wait(600) == 0


@pytest.fixture(scope="module")
def purified_once(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return the file that an uninterrupted purification in one process makes."""
    folder = tmp_path_factory.mktemp("purified")
    process = start("purify", folder / "store", folder / "log")
    with no_survivors(process, folder / "log"):
        assert process.wait(600) == 0
    return (folder / "store" / "data.npy").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_purification_killed_five_times(tmp_path: Path, purified_once: bytes, ranks: int) -> None:
    store = tmp_path / "store"
    kill_and_restart(store, tmp_path / "log", ranks, seed=ranks)
    assert (store / "data.npy").read_bytes() == purified_once
    assert done(store) == len(range(0, IMAGES, 64))


@pytest.mark.slow
def test_batch_sizes_agree_within_one_grey_level(purified_once: bytes) -> None:
    whole = np.frombuffer(purified_once, np.uint8)[-IMAGES * SIDE * SIDE * 3 :].reshape(IMAGES, SIDE, SIDE, 3)
    count = 192
    for batch_size in (1, 7, 64):
        out = purified(None, count, batch_size).read(slice(0, count)).astype(int)
        assert np.abs(out - whole[:count].astype(int)).max() <= 1
        assert np.ptp(out) > 100  # the images did not collapse to one value


@pytest.mark.slow
def test_two_ranks_equal_one_process(tmp_path: Path, reference: bytes) -> None:
    process = start("toy", tmp_path / "store", tmp_path / "log", ranks=2)
    with no_survivors(process, tmp_path / "log"):
        assert process.wait(300) == 0
    assert complete_bytes(tmp_path / "store") == reference
    assert sorted(calls(tmp_path / "log")) == list(range(COUNT))


@pytest.mark.slow
def test_a_failing_rank_ends_the_others(tmp_path: Path) -> None:
    process = start("failing", tmp_path / "store", tmp_path / "log", ranks=2, stderr=subprocess.PIPE)
    with no_survivors(process, tmp_path / "log"):
        errors = process.communicate(timeout=120)[1]
    assert process.returncode != 0
    assert "ValueError: a bad sample" in errors
    assert {each % 2 for each in calls(tmp_path / "log")} <= {0}  # rank 1 failed at its first chunk


if __name__ == "__main__":
    Path(f"{sys.argv[3]}.pid.{os.getpid()}").touch()
    PROGRAMS[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))

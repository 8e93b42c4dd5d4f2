"""Unlucky moments: each ends in the outcome that is promised for it."""

from __future__ import annotations

import os
import runpy
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

from elixir_plugin import Classifier, Recipe, Samples, ShuffledBatches
from elixir_plugin.core.context import Context
from elixir_plugin.errors import RunError
from elixir_plugin.io import process
from elixir_plugin.io.process import Stopped, clear_ends, memory_ran_out, refuse_tight_memory, stopped_by_signals
from elixir_plugin.testing import tiny_case
from elixir_plugin.training.loop import train

MOMENTS = runpy.run_path(str(Path(__file__).with_name("moments.py")))["MOMENTS"] if os.name == "posix" else {}


@pytest.mark.e2e
@pytest.mark.parametrize("moment", MOMENTS)
def test_an_unlucky_moment(moment: str, tmp_path: Path) -> None:
    MOMENTS[moment](tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_block_as_ctrl_c_does(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    try:
        with pytest.raises(KeyboardInterrupt) as caught, stopped_by_signals():
            os.kill(os.getpid(), number)
        assert isinstance(caught.value, Stopped) and process.exit_code_of(caught.value) == 128 + number
        assert signal.getsignal(number) == signal.SIG_DFL, "a second signal ends the process at once"
    finally:
        signal.signal(number, before)


class Swallowing:
    """Is asked to end while it is finalised, where Python ignores every exception."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("quiet", [True, False])
def test_a_signal_that_a_library_swallows_ends_the_loop_in_its_next_turn(quiet: bool) -> None:
    turns: list[int] = []
    context = Context(quiet=quiet)
    with pytest.raises(Stopped) as caught, stopped_by_signals():
        for turn in context.progress(range(5), "turns"):
            turns.append(turn)
            Swallowing()
    assert caught.value.number == signal.SIGTERM and turns == [0]
    assert list(context.progress(range(2), "turns")) == [0, 1], "a later program is not asked"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("loop", ["stage", "chunks", "train"])
def test_what_computes_for_long_notices_a_swallowed_signal(loop: str) -> None:
    case, context = tiny_case(), Context(quiet=True)
    model = Classifier.build("small_resnet", case.num_classes, seed=0)
    recipe = Recipe(epochs=1, batch_size=8)
    source = ShuffledBatches(Samples(case.train, torch.device("cpu")), 8, context, recipe.augmentation)
    steps: list[int] = []

    def after_step() -> None:
        steps.append(len(steps))
        Swallowing()

    with pytest.raises(Stopped), stopped_by_signals():
        if loop == "train":
            train(model, source, recipe, context, after_step=after_step)
        elif loop == "chunks":
            for _ in case.train.chunks(4):
                after_step()
        else:
            after_step()
            with context.stage("never entered"):
                steps.append(-1)
    assert steps == [0]


def test_handlers_of_a_host_and_ignored_signals_stay() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGHUP)
    seen: list[int] = []
    try:
        signal.signal(signal.SIGTERM, lambda number, _: seen.append(number))
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with stopped_by_signals():
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGHUP)
        assert seen == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before[0])
        signal.signal(signal.SIGHUP, before[1])


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried to"),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("can't start new thread"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        OSError(12, "Cannot allocate memory"),
    ],
)
def test_memory_that_runs_out_is_one_error(error: Exception) -> None:
    with pytest.raises(RunError, match="out of memory") as caught, clear_ends("d3"):
        raise error
    assert caught.value.where == "d3" and "batch size" in str(caught.value.hint)


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes do not match"), SystemError("x"), OSError(2, "No such file"), KeyError("memory")]
)
def test_other_errors_pass(error: Exception) -> None:
    assert not memory_ran_out(error)
    with pytest.raises(type(error)), clear_ends("d3"):
        raise error


def test_too_little_room_for_the_libraries_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch  # noqa: F401

    monkeypatch.setattr(process, "address_limit", lambda: 2**30)
    refuse_tight_memory()  # torch is there already
    monkeypatch.delitem(sys.modules, "torch")
    with pytest.raises(RunError, match="too little memory") as caught:
        refuse_tight_memory()
    assert str(caught.value.found).startswith("1.0 GiB")

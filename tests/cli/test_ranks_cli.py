"""A whole run under ``torchrun``: two processes share the work, and what they leave is what one leaves."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from elixir_plugin.core.images import ImageSet
from elixir_plugin.core.outcome import Outcome, same_outcome
from elixir_plugin.errors import RunError
from elixir_plugin.io import distributed
from elixir_plugin.testing.defenses import tiny_case

HOUR = 3600.0
SHORT = ["fit.iterations=6", "fit.batch_size=4", "purification.steps=2"]
ECLIPSE = ["eclipse", "--preset", "cpu", *(part for each in SHORT for part in ("--set", each))]
ECLIPSE += ["--retrain", "--retrain-set", "epochs=1"]
STEPS = (
    "[random_drop, {eclipse: {preset: cpu, fit: {iterations: 6, batch_size: 4}, purification: {steps: 2}}, "
    "only: flagged}, {retrain: {recipe: {epochs: 1}}, drop: unrepaired}]"
)


def saved_case(folder: Path) -> Path:
    case = tiny_case()
    assert case.train is not None and case.clean is not None and case.test is not None

    def flat(name: str, images: ImageSet) -> dict[str, object]:
        return {f"x_{name}": images.read(slice(None)), f"y_{name}": images.labels}

    path = folder / "case.npz"
    parts = flat("train", case.train) | flat("clean", case.clean) | flat("test", case.test)
    np.savez(path, **parts)  # type: ignore[arg-type]
    return path


def run(launcher: list[str], case: Path, out: Path, defense: list[str] = ECLIPSE) -> subprocess.CompletedProcess[str]:
    command = [*launcher, "-m", "elixir_plugin", "run", *defense, "--from", f"arrays:{case}"]
    command += ["--out", str(out), "--no-write-back"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600, check=False)


class Waited:
    """Clock and store of rank 0 of 2, where waiting takes no time.

    :param hours: after which words are said: ``"1"``, that rank 1 has come and gone, or ``"failed"``.
    """

    def __init__(self, hours: dict[str, float]) -> None:
        self.now, self._hours = 0.0, {"0": 0.0, **hours}

    def monotonic(self) -> float:
        return self.now

    def sleep(self, _: float) -> None:
        self.now += HOUR / 4

    def set(self, *_: str) -> None:
        """Rank 0 is known to be here."""

    def get(self, _: str) -> bytes:
        return b"rank 1: ValueError: a bad sample"

    def check(self, keys: list[str]) -> bool:
        return self.now >= HOUR * self._hours.get(keys[0].rpartition("/")[2], math.inf)


def waited(monkeypatch: pytest.MonkeyPatch, hours: dict[str, float]) -> Waited:
    made = Waited(hours)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(distributed, "_store", lambda *_: made)
    monkeypatch.setattr(distributed, "time", made)
    return made


def test_a_rank_whose_share_takes_a_day_longer_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    made = waited(monkeypatch, {"1": 24})
    with distributed.together():
        pass
    distributed.barrier()
    assert made.now == 24 * HOUR


def test_a_rank_that_failed_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    made = waited(monkeypatch, {"failed": 1})
    with pytest.raises(RunError, match="another rank failed"), distributed.together():
        pass
    assert made.now == HOUR


def test_a_rank_that_says_nothing_is_given_up_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    made = waited(monkeypatch, {})
    with pytest.raises(RunError, match="not all ranks have arrived"):
        distributed.barrier()
    assert made.now > 7 * 24 * HOUR


@pytest.mark.slow
@pytest.mark.parametrize("defense", [ECLIPSE, ["pipeline", "--set", f"steps={STEPS}"]], ids=["eclipse", "pipeline"])
def test_two_ranks_leave_what_one_process_leaves(tmp_path: Path, defense: list[str]) -> None:
    case, launcher = saved_case(tmp_path), [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    one = run([sys.executable], case, tmp_path / "one", defense)
    two = run(launcher, case, tmp_path / "two", defense)
    assert one.returncode == 0, one.stderr
    assert two.returncode == 0, two.stderr
    outcomes = [Outcome.load(tmp_path / name / "outcome") for name in ("one", "two")]
    assert same_outcome(*outcomes) == []
    reports = [json.loads((tmp_path / name / "report.json").read_text()) for name in ("one", "two")]
    assert reports[0]["metrics"] == reports[1]["metrics"]
    assert not (tmp_path / "two" / "work").exists()
    again = run(launcher, case, tmp_path / "two", defense)
    assert again.returncode == 0 and again.stdout.count("already done") == 1


@pytest.mark.slow
def test_an_error_ends_all_ranks_with_one_message(tmp_path: Path) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    done = run(launcher, tmp_path / "missing.npz", tmp_path / "out")
    assert done.returncode != 0 and "missing.npz" in done.stderr
    assert not (tmp_path / "out").exists()

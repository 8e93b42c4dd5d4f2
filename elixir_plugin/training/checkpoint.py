"""The state of a training run on disk, so that a killed run resumes where it stopped.

One safetensors file holds everything: tensors as tensors, the rest as JSON in its header. It is replaced in one step,
so that a run killed while writing leaves the state before. Nothing in it is a pickle.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from ..core.settings import fingerprint
from ..errors import InputError, RunError
from ..io.checked import Count, Facts, checked
from ..io.documents import parse_json
from ..io.files import atomic_file, contiguous_copies, to_json_types
from ..io.opening import is_there
from ..io.reading import read_tensors_and_facts

START_OVER = "remove the file to start over"
INTERVAL = 30.0  # seconds between two writes, at least; what a kill can cost
PAUSE = 20  # times the seconds of a write until the next one, at least: a large state on a slow disk takes long


class StateFacts(Facts):
    """What is read of the JSON beside the tensors."""

    done: Count
    curves: dict[str, list[float]]
    groups: list[dict[str, Any]]
    scheduler: dict[str, Any]
    threads: Count | None = None
    ended: bool = False


@dataclass
class Checkpoint:
    """Where :func:`~elixir_plugin.training.train` keeps its state after an epoch, and what else is saved with it.

    :param path: the file; it is read when it is there, and replaced as training proceeds.
    :param identity: whatever decides the result beyond recipe, seed and name, in JSON types: data, settings.
    :param extra: further tensors, e.g. averaged weights; saved, and filled in place when the run resumes.
    :param every: write at most once in so many seconds, less often where writing takes long, and after the last epoch;
        0: after every epoch.
    """

    path: Path
    identity: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    every: float = field(default_factory=lambda: INTERVAL)

    def discard(self) -> None:
        """Remove the file, once the result is saved elsewhere."""
        self.path.unlink(missing_ok=True)


class TrainingState:
    """What :func:`~elixir_plugin.training.train` saves and restores.

    :param run: in JSON types, what the training function itself knows of the run's identity.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        run: Mapping[str, Any],
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        scheduler: torch.optim.lr_scheduler.LRScheduler,
    ) -> None:
        self._checkpoint = checkpoint
        self._model, self._optimizer, self._scheduler = model, optimizer, scheduler
        shapes = {name: list(value.shape) for name, value in model.state_dict().items()}
        extra = {name: list(value.shape) for name, value in checkpoint.extra.items()}
        self._identity = fingerprint(to_json_types([dict(checkpoint.identity), dict(run), shapes, extra]))
        self._written, self._pause = time.monotonic(), checkpoint.every
        self.ended = False
        """Whether the state that was restored is that after the last epoch."""
        self.threads: int | None = None
        """With how many threads of the CPU the state that was restored has been computed, where that is known."""

    def restore(self) -> tuple[int, dict[str, list[float]]]:
        """Restore the state on disk.

        :returns: the epochs that are done, and their curves; ``(0, {})`` when there is no file yet.
        :raises RunError: when the file belongs to another run, or is damaged.
        """
        path = self._checkpoint.path
        try:
            if not is_there(path):
                return 0, {}
        except InputError as error:
            error.hint = START_OVER
            raise
        tensors, facts = read_state(path)
        if facts.get("identity") != self._identity:
            raise RunError(
                "checkpoint belongs to another run",
                where=path,
                found="other settings, data, seed or network",
                hint="give the settings it was started with, or remove the file to start over",
            )
        known = checked(StateFacts, facts, what="checkpoint cannot be read", where=path, hint=START_OVER)
        try:
            self._model.load_state_dict(_part(tensors, "model"))
            self._restore_optimizer(_part(tensors, "optimizer"), facts)
            self._scheduler.load_state_dict(facts["scheduler"])
            with torch.no_grad():
                for name, value in _part(tensors, "extra").items():
                    self._checkpoint.extra[name].copy_(value)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            found = " ".join(str(error).split())[:200]
            raise InputError("checkpoint cannot be read", where=path, found=found, hint=START_OVER) from None
        self.threads, self.ended = known.threads, known.ended
        return known.done, known.curves

    def save(self, done: int, curves: Mapping[str, list[float]], *, last: bool) -> None:
        """Write the state after *done* epochs, unless the latest write is recent and more epochs follow.

        :param last: whether none follows.

        :raises RunError: when the disk is full or the folder cannot be written; the file before stays.
        """
        started = time.monotonic()
        if not last and started - self._written < self._pause:
            return
        state = self._optimizer.state_dict()
        tensors = {f"model/{name}": value for name, value in self._model.state_dict().items()}
        tensors |= {f"extra/{name}": value for name, value in self._checkpoint.extra.items()}
        tensors |= {
            f"optimizer/{row}/{name}": torch.as_tensor(value)
            for row, values in state["state"].items()
            for name, value in values.items()
            if value is not None  # SGD without momentum keeps an empty buffer
        }
        facts = {
            "identity": self._identity,
            "done": done,
            "threads": torch.get_num_threads(),
            "ended": last,
            "curves": dict(curves),
            "groups": state["param_groups"],
            "scheduler": self._scheduler.state_dict(),
        }
        write_state(self._checkpoint.path, tensors, {"facts": json.dumps(facts)})
        self._written = time.monotonic()
        if self._checkpoint.every:
            self._pause = max(self._checkpoint.every, PAUSE * (self._written - started))

    def _restore_optimizer(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        parameters = [each for group in self._optimizer.param_groups for each in group["params"]]
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            row, name = key.split("/")
            like = parameters[int(row)]
            if value.shape == like.shape:  # in the parameter's memory layout, or foreach falls back to a slow path
                value = torch.empty_like(like, device="cpu", dtype=value.dtype).copy_(value)  # noqa: PLW2901
            state.setdefault(int(row), {})[name] = value
        self._optimizer.load_state_dict({"state": state, "param_groups": facts["groups"]})


def write_state(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors, with *metadata* in the header, to one safetensors file, atomically.

    :raises RunError: when the disk is full or the folder cannot be written.
    """
    with atomic_file(path) as temporary:  # not save_file: its own temporary file would outlive a kill
        temporary.write_bytes(save(contiguous_copies(tensors), dict(metadata)))


def read_state(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read back what :func:`write_state` wrote.

    :raises InputError: when the file is damaged.
    """
    try:
        tensors, texts = read_tensors_and_facts(path)
        facts = parse_json(texts.get("facts", "{}"), where=path)
        if not isinstance(facts, dict):
            raise ValueError("no facts about the training")
    except (InputError, ValueError) as error:
        found = error.found or error.what if isinstance(error, InputError) else str(error)
        raise InputError("checkpoint cannot be read", where=path, found=found, hint=START_OVER) from None
    return tensors, facts


def _part(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    prefix = f"{name}/"
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}

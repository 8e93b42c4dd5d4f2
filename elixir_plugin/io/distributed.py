"""Ranks: the processes of one job, as ``torchrun`` starts them.

A rank knows itself from the environment (``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK``); without these there is one
process, and everything here does nothing. Ranks exchange no tensors, they meet in the run folder. So what they need is
a place to say "I am here" and "I failed": the key-value store at ``MASTER_ADDR:MASTER_PORT`` that torchrun (else rank
0) serves. No process group is made: a host program's own group, of whatever backend, is left alone, and no two ranks
need a connection to each other.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING

import torch

from ..errors import ElixirError, RunError, SettingsError

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

PATIENCE = timedelta(days=7)  # shares take unequal time; a rank that failed says so at once
CONTACT = timedelta(hours=1)  # to find the store: rank 0, which may serve it, may start later
LEAVING = timedelta(seconds=30)
_meetings = itertools.count()
_stores: dict[tuple[int, int], Store] = {}


def rank_and_world() -> tuple[int, int]:
    """Return this process's rank and the number of ranks; ``(0, 1)`` when it was started alone.

    :raises SettingsError: when the environment contradicts itself.
    """
    given = {name: os.environ.get(name) for name in ("RANK", "WORLD_SIZE")}
    if not any(given.values()):
        return 0, 1
    try:
        rank, world = (int(value or "") for value in given.values())
        sound = 0 <= rank < world
    except ValueError:
        sound = False
    if not sound:
        raise SettingsError(
            "not a rank",
            where="environment",
            found=", ".join(f"{name}={value}" for name, value in given.items()),
            allowed="0 <= RANK < WORLD_SIZE, or neither",
            hint="start through torchrun, or unset both",
        )
    return rank, world


def refuse_ranks(what: str, where: str) -> None:
    """Refuse what works in one process alone, if this is one of several ranks.

    :param what: says that it does.
    :param where: the argument that asks for it.
    :raises SettingsError: under several ranks.
    """
    _, world = rank_and_world()
    if world > 1:
        raise SettingsError(what, where=where, found=f"{world} ranks", hint="run it without torchrun")


def local_device(device: torch.device) -> torch.device:
    """Return the device of this rank: ``cuda`` without a number becomes one GPU per rank of this machine."""
    local = os.environ.get("LOCAL_RANK", "")
    if str(device) != "cuda" or not local.isdecimal():
        return device
    return torch.device("cuda", int(local) % max(1, torch.cuda.device_count()))


def barrier(timeout: timedelta = PATIENCE) -> None:
    """Wait until every rank has come here; each must pass the same number of barriers.

    :param timeout: how long to wait for the slowest rank.
    :raises RunError: as soon as another rank has failed inside :func:`together`, or after *timeout*, naming the ranks
        that are missing.
    """
    rank, world = rank_and_world()
    if world == 1:
        return
    number = next(_meetings)
    with _contact(rank, world):
        store = _store(rank, world)
        store.set(f"{number}/here/{rank}", "1")
        missing = _missing(store, [f"{number}/here/{each}" for each in range(world)], timeout)
        if missing:
            raise RunError(
                "not all ranks have arrived",
                where=f"rank {rank} of {world}",
                found=f"missing: rank {', '.join(key.rpartition('/')[2] for key in missing)}",
                allowed=f"all of them within {timeout}",
                hint="see the first error of those ranks, then run again: finished chunks are kept",
            )
        store.set(f"{number}/gone/{rank}", "1")
        if rank == 0:  # it may serve the store: stay until the others have seen that all are here
            _missing(store, [f"{number}/gone/{each}" for each in range(world)], LEAVING)


@contextmanager
def together(timeout: timedelta = PATIENCE) -> Iterator[None]:
    """Run a block on every rank and leave it by a :func:`barrier`; no rank waits for one that failed.

    :raises RunError: when another rank failed, with its message.
    """
    rank, world = rank_and_world()
    if world == 1:
        yield
        return
    with _contact(rank, world):
        store = _store(rank, world)
    try:
        yield
    except BaseException as error:
        text = error.what if isinstance(error, ElixirError) else str(error)
        with suppress(RuntimeError):  # the error itself matters more
            store.set("failed", f"rank {rank}: {type(error).__name__}: {text}"[:500])
        raise
    barrier(timeout)


def _missing(store: Store, keys: list[str], timeout: timedelta) -> list[str]:
    """Wait until all *keys* are set, and return those that were not in time."""
    deadline = time.monotonic() + timeout.total_seconds()
    pause = 0.01
    while True:
        keys = [key for key in keys if not store.check([key])]
        if keys and store.check(["failed"]):
            raise RunError(
                "another rank failed",
                found=store.get("failed").decode(errors="replace"),
                hint="mend that, then run again: finished chunks are kept",
            )
        if not keys or time.monotonic() > deadline:
            return keys
        time.sleep(pause)
        pause = min(2 * pause, 0.5)


def _store(rank: int, world: int) -> Store:
    """Connect to torchrun's store, once per process; without one, rank 0 serves it for as long as it lives."""
    if (rank, world) not in _stores:
        from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]  # noqa: PLC0415  (not in every build of torch)

        served = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        store = TCPStore(
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            world,
            is_master=rank == 0 and not served,
            timeout=CONTACT,
            wait_for_workers=False,
            multi_tenant=True,
        )
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # words of an earlier attempt are void
        _stores[rank, world] = PrefixStore(f"elixir_plugin/{attempt}", store)
    return _stores[rank, world]


@contextmanager
def _contact(rank: int, world: int) -> Iterator[None]:
    """Turn what the store raises into one clear error."""
    try:
        yield
    except (RuntimeError, ValueError, KeyError) as error:  # KeyError: no MASTER_ADDR
        raise RunError(
            "no contact with the other ranks",
            where=f"rank {rank} of {world}",
            found=" ".join(str(error).split())[:200],
            allowed="MASTER_ADDR and MASTER_PORT of a job that is still running",
            hint="start through torchrun; see the first error of rank 0",
        ) from None

"""No reader runs what is in a file, changes it, or takes too long for it; each answers with one clear error."""

from __future__ import annotations

import random
import re
import sys
from pathlib import Path

import basics
import pytest
import rooms
from hostile import Hostile, pairs
from kinds import Kind, all_kinds
from readers import READERS, Reader
from sandbox import Job, Limits, run_jobs

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs fork, limits and /proc")
COSTLY = (rooms.run, rooms.denoiser, rooms.sharded, rooms.signs)  # rooms that take seconds to make
EACH, MANY = 3, 8  # kinds for each reader in the quick suite, and among whole programs


def failures(hostile: Hostile, chosen: list[tuple[Reader, Kind]]) -> list[str]:
    results = list(hostile.run(chosen))
    assert len(results) >= len(chosen)
    found = [str(result) for result in results if result.failed]
    print(*found, sep="\n")  # whole, which a failed comparison is not
    return found


def test_there_are_hundreds_of_kinds_and_of_each_family() -> None:
    families = [kind.family for kind in all_kinds().values()]
    assert len(families) >= 200
    assert {family: families.count(family) > 20 for family in families} == dict.fromkeys(families, True)


def some() -> list[tuple[Reader, Kind]]:
    """Return each kind with the first reader that it is close to, and some kinds for each other reader."""
    draws = random.Random(0)
    possible = [pair for pair in pairs(close=True) if pair[0].room not in COSTLY]
    first = {str(kind): (reader, kind) for reader, kind in reversed(possible) if kind.family != "trees"}
    first |= {str(kind): (reader, kind) for reader, kind in possible if kind.family == "trees" and reader.slot == "cat"}
    chosen = list(first.values())
    for reader in READERS.values():
        own = [pair for pair in possible if pair[0] == reader and pair not in chosen]
        chosen += draws.sample(own, min(EACH, len(own)))
    return sorted(chosen, key=lambda pair: pair[0].name)


def test_each_kind_once_and_each_reader_on_some(tmp_path: Path) -> None:
    chosen = some()
    assert {str(kind) for _, kind in chosen} == set(all_kinds())
    assert {reader.name for reader, _ in chosen} >= {each.name for each in READERS.values() if each.room not in COSTLY}
    assert failures(Hostile(tmp_path), chosen) == []


def test_what_would_run_is_refused_and_not_only_harmless(tmp_path: Path) -> None:
    names = [name for name in all_kinds() if re.match(r"data_files: (pickle|torch zip|npz) of .*", name)]
    calls = [name for name in names if name.partition(" of ")[2] in basics.CALLS]
    chosen = ("io.read_torch", "io.read_plain_pickle", "arrays: case.npz", "weights .pt")
    tried = [(READERS[reader], all_kinds()[name]) for reader in chosen for name in calls]
    assert len(calls) == 3 * len(basics.CALLS) > 60
    assert [str(each) for each in Hostile(tmp_path).run(tried) if each.state != "refused"] == []


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Hostile:
    """Rooms and kinds that several tests share."""
    return Hostile(tmp_path_factory.mktemp("hostile"))


@pytest.mark.e2e
def test_every_reader_on_many_kinds(hostile: Hostile) -> None:
    draws = random.Random(1)
    chosen = []
    for reader in READERS.values():
        own = [pair for pair in pairs(close=True) if pair[0] == reader]
        chosen += draws.sample(own, min(MANY, len(own)))
    assert failures(hostile, chosen) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(READERS))
def test_every_reader_on_every_kind(hostile: Hostile, name: str) -> None:
    assert failures(hostile, [pair for pair in pairs(close=False) if pair[0].name == name]) == []


# the harness itself: what it must notice


def test_the_watch_sees_what_a_reading_must_not_do(tmp_path: Path) -> None:
    import os
    import socket
    import subprocess
    import time

    from elixir_plugin.errors import InputError

    file = tmp_path / "file"
    file.write_text("x")

    def refuse(text: str) -> None:
        raise InputError(text)

    class Plain(InputError):
        def __str__(self) -> str:
            return str(self.what)

    def refuse_plainly(text: str) -> None:
        raise Plain(text)

    handle = os.open(file, os.O_RDWR)

    def grab() -> None:
        held = bytearray(48 << 20)
        held[:: 1 << 12] = b"x" * len(held[:: 1 << 12])

    def swallow() -> None:
        try:
            subprocess.run(["true"], check=False)
        except OSError:
            raise InputError("refused") from None

    actions = {
        "read": file.read_text,
        "refused": lambda: refuse("no"),
        "ran": swallow,
        "ran ": lambda: os.system("true"),
        "ran  ": lambda: socket.create_connection(("127.0.0.1", 9)),
        "ran   ": lambda: file.with_name("other").write_text("y"),
        "ran    ": lambda: __import__("elixir_canary"),
        "ran     ": lambda: os.utime(file),
        "slow": lambda: time.sleep(60),
        "slow ": lambda: sum(range(10**9)),
        "memory": lambda: bytearray(1 << 30),
        "memory ": grab,
        "memory  ": lambda: refuse("Unable to allocate 3 GiB"),
        "died": lambda: os.kill(os.getpid(), 9),
        "traceback": lambda: int("x"),
        "message": lambda: refuse_plainly("a\x1b[2J"),
        "message ": lambda: refuse_plainly("a" * 2000),
        "changed ": lambda: os.pwrite(handle, b"y", 0),
    }
    jobs = [Job(wanted, action, kept=(file,)) for wanted, action in actions.items()]
    results = run_jobs(jobs, tmp_path / "child", Limits(64 << 20, 32 << 20, cpu=1, wall=5))
    states = {result.name: result.state for result in results}
    os.close(handle)
    assert states == {wanted: wanted.strip() for wanted in actions}

"""Every reader of a file on seeded mutations of a valid one.

``python tests/hostile/fuzz.py READER SEED`` tries one again, and says which of its changes are needed.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from hostile import Hostile, _prepare, read_watched
from mutations import count_of, form_of, mutated
from readers import READERS, Reader, put
from sandbox import Job, Limits, Result, run_jobs


def targets(hostile: Hostile) -> dict[str, Reader]:
    """Return the readers whose slot is a file."""
    settled = {name: hostile.settled(each) for name, each in READERS.items()}
    return {name: each for name, each in settled.items() if (hostile.room(each.room) / each.slot).is_file()}


def fuzz(
    hostile: Hostile, readers: Sequence[Reader], seeds: Sequence[int], limits: Limits | None = None
) -> Iterator[Result]:
    """Yield the result of every reader and seed; its name says both."""
    jobs = [job(hostile, reader, seed) for reader in readers for seed in seeds]
    yield from run_jobs(jobs, hostile.folder / "child", limits)


def job(hostile: Hostile, reader: Reader, seed: int, keep: Sequence[int] | None = None) -> Job:
    room, reader = hostile.room(reader.room), hostile.settled(reader)
    valid = (room / reader.slot).read_bytes()
    place = hostile.place(reader)
    source = hostile.folder / "mutated" / place.name / "input"
    make_input = partial(_written, source, valid, form_of(valid, reader.slot), seed, keep)
    prepare = partial(_prepare, reader, room, make_input, place)
    kept = () if reader.adds else (place / reader.slot if reader.writes else place,)
    free = (place,) if reader.adds else tuple(place / name for name in reader.writes)
    return Job(f"{reader.name} {seed}", partial(read_watched, reader, place), prepare, kept, free)


def _written(source: Path, valid: bytes, form: str, seed: int, keep: Sequence[int] | None, slot: Path) -> None:
    source.parent.mkdir(parents=True, exist_ok=True)
    source.unlink(missing_ok=True)
    source.write_bytes(mutated(valid, form, seed, keep))
    put(source, slot)


def minimal(hostile: Hostile, reader: Reader, seed: int) -> tuple[tuple[int, ...], Result]:
    """Return the fewest changes of *seed* that fail the same way, with the result."""
    everything = tuple(range(count_of(seed)))
    (whole,) = run_jobs([job(hostile, reader, seed)], hostile.folder / "child")
    for size in range(1, len(everything)):
        for keep in itertools.combinations(everything, size):
            (result,) = run_jobs([job(hostile, reader, seed, keep)], hostile.folder / "child")
            if result.state == whole.state:
                return keep, result
    return everything, whole


def main(name: str, seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        hostile = Hostile(Path(folder))
        keep, result = minimal(hostile, READERS[name], seed)
        print(f"changes {keep} of {count_of(seed)}: {result}")
        source = hostile.folder / "mutated" / hostile.place(READERS[name]).name / "input"
        print(f"{source.stat().st_size} bytes: {source.read_bytes()[:400]!r}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))

"""Valid files, changed at random under seeds: each reader answers with a reading or with one clear error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import rooms
from fuzz import fuzz, minimal, targets
from hostile import Hostile
from mutations import FORMS, form_of, mutated
from readers import READERS, Reader
from sandbox import Result
from test_hostile import COSTLY

from elixir_plugin.errors import InputError

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs fork, limits and /proc")
QUICK, LONG = 5, 10_000  # mutations for each reader


def failures(hostile: Hostile, chosen: Sequence[Reader], count: int) -> list[str]:
    found = [str(result) for result in fuzz(hostile, chosen, range(count)) if result.failed]
    print(*found, "try one again: python tests/hostile/fuzz.py READER SEED", sep="\n")
    return found


def test_every_reader_on_a_few_mutations(tmp_path: Path) -> None:
    hostile = Hostile(tmp_path)
    chosen = [each for each in READERS.values() if each.room not in COSTLY and "trees" not in each.kin]
    assert len(chosen) > 40
    assert failures(hostile, chosen, QUICK) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(name for name, each in READERS.items() if "trees" not in each.kin))
def test_every_reader_on_ten_thousand_mutations(tmp_path: Path, name: str) -> None:
    assert failures(Hostile(tmp_path), [READERS[name]], LONG) == []


def test_every_form_is_known_and_changed(tmp_path: Path) -> None:
    hostile = Hostile(tmp_path)
    rooms.single(tmp_path / "single")
    contents = {path.name: path.read_bytes() for path in (tmp_path / "single").iterdir()}
    contents |= {"events.jsonl": b'{"event": "started"}\n{"event": "stopped"}\n'}
    forms = {form_of(content, name) for name, content in contents.items()}
    assert forms == set(FORMS)
    for name, content in contents.items():
        form = form_of(content, name)
        made = {mutated(content, form, seed) for seed in range(40)}
        assert len(made) > 20 and made == {mutated(content, form, seed) for seed in range(40)}, name
    assert targets(hostile).keys() >= {"io.read_torch", "run file"}


def test_what_fails_is_found_again_and_made_small(tmp_path: Path) -> None:
    def strict(room: Path) -> None:
        content = (room / "data.json").read_bytes()
        if b"null" not in content:
            raise ValueError("no null")
        raise InputError("refused")

    reader = Reader("strict", rooms.single, "data.json", strict)
    hostile = Hostile(tmp_path)
    results: dict[int, Result] = dict(enumerate(fuzz(hostile, [reader], range(60))))
    failing = [seed for seed, result in results.items() if result.state == "traceback"]
    assert failing and {result.state for result in results.values()} == {"traceback", "refused"}
    kept: Callable[[int], tuple[int, ...]] = lambda seed: minimal(hostile, reader, seed)[0]  # noqa: E731
    assert min(len(kept(seed)) for seed in failing[:3]) == 1

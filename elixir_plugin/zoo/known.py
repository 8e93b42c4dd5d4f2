"""The hashes that the sets of the zoo must have where the digits are poisoned: everybody has that base."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..errors import SettingsError
from ..io.reading import read_json
from ..testbed.adapter import Testbed
from .content import content_of, digest
from .entries import ZOO, ZooEntry
from .make import DIGITS
from .manifest import Manifest

HASHES = Path(__file__).parent / "digits.json"
SEED = 0
SPLIT = ("size", "clean", "test")  # the options that decide on the unpoisoned parts


def known_hashes() -> dict[str, str]:
    """Return name of an entry -> hash of the digits under it, with seed 0 and the default sizes."""
    hashes: dict[str, str] = read_json(HASHES)
    return hashes


def made_hashes() -> Iterator[tuple[str, str]]:
    """Yield the same, computed anew, entry by entry."""
    for entry in ZOO.values():
        yield entry.name, made_hash(entry)


def made_hash(entry: ZooEntry) -> str:
    """Return the hash of the digits under *entry*, with seed 0 and the default sizes; no model is trained."""
    testbed = Testbed({**entry.digits, "poison": dict(entry.settings), "model": False})
    return digest(content_of(testbed.poisoned(entry.attack(), testbed.base(SEED), SEED)))


def expected_hash(manifest: Manifest) -> str | None:
    """Return the hash that the set of *manifest* must have; None where that is not known: another base, size or seed.

    :raises SettingsError: when the zoo has no such entry.
    """
    if manifest.entry not in ZOO:
        raise SettingsError("no such set in the zoo", where="manifest: entry", found=manifest.entry)
    entry, options = ZOO[manifest.entry], manifest.base.options
    usual = Testbed.Options.build(dict(entry.digits)).dump()
    if manifest.base.adapter != DIGITS or manifest.seed != SEED:
        return None
    if any(options.get(name) != usual[name] for name in SPLIT):
        return None
    return known_hashes().get(entry.name)

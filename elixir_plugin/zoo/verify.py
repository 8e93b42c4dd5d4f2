"""Checking a folder against its manifest: every file, every sample as it is read, and the hash it must have."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..adapter import get_adapter
from ..core.classifier.classifier import Classifier
from ..errors import ElixirError, InputError, SettingsError, reason_of
from ..io.text import escape_name
from ..testbed.adapter import Testbed
from .content import Rows, differences, read_table
from .entries import ZOO, find_entry
from .formats import has_truth, how_to_read, read_content
from .known import expected_hash
from .make import DIGITS, content_facts, files_below, hashed, make
from .manifest import FILE, TABLE, FileFacts, Manifest, read_manifest

SHOWN = 5  # samples of one kind of fault that are named


@dataclass
class Verdict:
    """What was found out about a folder.

    :param faults: in words, empty for a set that is as its manifest says.
    :param known: whether it has the hash that the zoo has for it; None: the zoo knows none for this base and seed.
    :param notes: what else the reader should know.
    """

    folder: Path
    manifest: Manifest
    faults: list[str] = field(default_factory=list)
    known: bool | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether nothing was found."""
        return not self.faults


def verify(folder: Path, name: str | None = None) -> Verdict:
    """Check *folder* against its manifest; nothing is made anew, and nothing is written.

    :param name: of the entry it must be.
    :raises InputError: when there is no manifest, or it cannot be read.
    """
    manifest = read_manifest(folder)
    verdict = Verdict(folder, manifest)
    verdict.faults += _wrong_entry(manifest, name)
    verdict.faults += _wrong_files(manifest, folder)
    verdict.faults += _wrong_content(manifest, folder)
    if manifest.entry in ZOO:
        expected = expected_hash(manifest)
        verdict.known = None if expected is None else expected == manifest.content.sha256
        if verdict.known is False:
            verdict.faults.append(f"not the set of the zoo: its hash must be {expected}")
    verdict.notes += _about_model(manifest)
    return verdict


def rebuild(
    verdict: Verdict, *, base: str | None = None, options: Mapping[str, Any] | None = None, retrain: bool = False
) -> None:
    """Make the set of *verdict* anew in a temporary folder, and add to it what is different.

    :param base: where the base lies, unless it is the digits.
    :param options: of the testbed, over those of the manifest.
    :param retrain: train the suspect model anew as well; else the model that is there is taken.
    :raises ElixirError: when it cannot be made.
    """
    manifest = verdict.manifest
    entry = find_entry(manifest.entry)
    if base is None:
        if manifest.base.adapter != DIGITS:
            raise SettingsError(
                "the base of this set is needed",
                where="{argument:base}",
                found="none",
                allowed=f"what it was made from, read by the adapter {manifest.base.adapter}",
            )
        base = DIGITS
    model: bool | Classifier = manifest.model is not None
    if model and not retrain:
        source = how_to_read(manifest.read, verdict.folder)
        read = get_adapter(source.adapter)(source.options).read(Path(source.path), 0)
        model = read.model if read.model is not None else True
    with tempfile.TemporaryDirectory() as temporary:
        again = make(
            entry,
            Path(temporary) / "again",
            base=base,
            to=manifest.read.adapter,
            seed=manifest.seed,
            options=Testbed.Options.overlaid(_harmless(manifest.base.options), options or {}),
            model=model,
            device=manifest.model.device if manifest.model is not None else "cpu",
        )
    faults, notes = _otherwise(manifest, again)
    verdict.faults += faults
    verdict.notes += notes


def _wrong_entry(manifest: Manifest, name: str | None) -> Iterator[str]:
    if name is not None and name != manifest.entry:
        yield f"another set: the manifest says {escape_name(manifest.entry)}, not {name}"
    if manifest.entry not in ZOO:
        yield f"no entry of this zoo: {escape_name(manifest.entry)}"
        return
    attack = ZOO[manifest.entry].attack()
    settings = [attack.Settings.under_first_names(each) for each in (manifest.attack.settings, attack.settings.dump())]
    if manifest.attack.poison != attack.name or settings[0] != settings[1]:
        yield f"other settings than {manifest.entry} has: {manifest.attack.poison} {manifest.attack.settings}"


def _wrong_files(manifest: Manifest, folder: Path) -> Iterator[str]:
    """Say which files are not there, not as they were, or not in the manifest."""
    there = set(files_below(folder)) - {FILE}
    missing = sorted(manifest.files.keys() - there)
    sizes = {manifest.files[name].bytes for name in missing}
    added = {name: _hashed(folder / name, sizes) for name in sorted(there - manifest.files.keys())}
    for name in missing:
        facts = manifest.files[name]
        renamed = next((new for new, found in added.items() if found == facts), None)
        if renamed is None:
            yield f"file missing: {escape_name(name)}"
        else:
            del added[renamed]
            yield f"file renamed: {escape_name(name)} is {escape_name(renamed)}"
    yield from (f"file added: {escape_name(name)}" for name in added)
    for name in sorted(manifest.files.keys() & there):
        facts = manifest.files[name]
        if _hashed(folder / name, {facts.bytes}) != facts:
            yield f"file changed: {escape_name(name)}"


def _hashed(path: Path, sizes: Collection[int]) -> FileFacts | None:
    """Return the facts on a file; None for one of another size, a link, or anything else that is no regular file.

    :param sizes: in bytes. A file of another size is not read: it may be larger than anybody can wait for.
    """
    if path.is_symlink():
        return None
    try:
        return hashed(path) if path.stat().st_size in sizes else None
    except (InputError, FileNotFoundError):
        return None


def _wrong_content(manifest: Manifest, folder: Path) -> Iterator[str]:
    """Say which samples are not read as they were, and whether the hashes of the manifest are those of its table."""
    try:
        heads: dict[str, str] = {name: part.head for name, part in manifest.content.parts.items()}
        recorded = manifest.files.get(TABLE)
        table = read_table(folder / TABLE, heads, 0 if recorded is None else recorded.bytes)
    except (InputError, FileNotFoundError) as error:
        yield f"the table of samples cannot be read: {reason_of(error)}"
        return
    if content_facts(table) != manifest.content:
        yield "the table of samples is not the one of the manifest"
    try:
        read = read_content(manifest.read, folder)
    except ElixirError as error:
        yield f"the set cannot be read: {reason_of(error)}"
        return
    for name in sorted(table.keys() | read.keys()):
        if name not in read or name not in table:
            yield f"{name}: {'not there' if name in table else 'not in the manifest'}"
        else:
            truth = has_truth(manifest.read.adapter) and name in ("train", "triggered")
            yield from _wrong_samples(name, table[name], read[name], truth)


def _wrong_samples(name: str, expected: Rows, found: Rows, truth: bool) -> Iterator[str]:
    if expected.head != found.head:
        yield f"{name}: images are {found.head}, not {expected.head}"
    elif len(expected) != len(found):
        yield f"{name}: {len(found):,} samples, not {len(expected):,}"
    else:
        wrong: dict[str, list[int]] = {}
        for position, what in differences(expected, found, with_truth=truth):
            wrong.setdefault(what, []).append(position)
        yield from (f"{name}: other {what} than made: {_samples(rows)}" for what, rows in wrong.items())


def _samples(rows: list[int]) -> str:
    first = ", ".join(map(str, rows[:SHOWN])) + (", …" if rows[SHOWN:] else "")
    return f"sample {first}" if len(rows) == 1 else f"{len(rows):,} samples: {first}"


def _about_model(manifest: Manifest) -> Iterator[str]:
    if manifest.model is None:
        yield "no suspect model is part of this set"
        return
    made = manifest.environment
    facts = f"torch {made.get('torch')} on {manifest.model.device}, {made.get('cpu')}, {manifest.model.threads} threads"
    yield (
        f"the suspect model was trained with {facts}; its files were compared with their recorded hashes. Training it "
        "again gives the same bits only under the same versions, instructions and threads, elsewhere a model of about "
        "the same ACC and ASR"
    )


def _otherwise(manifest: Manifest, again: Manifest) -> tuple[list[str], list[str]]:
    """Say what a set that was made again has otherwise: faults, and notes where other versions may be the reason."""
    faults = []
    if manifest.base.sha256 != again.base.sha256:
        faults.append(f"made again: the base is another one, {again.base.sha256}, not {manifest.base.sha256}")
    parts, found = manifest.content.parts, again.content.parts
    names = sorted(parts.keys() | found.keys())
    faults += [f"made again: {name} is not the same" for name in names if parts.get(name) != found.get(name)]
    files = sorted(manifest.files.keys() | again.files.keys())
    other = [escape_name(name) for name in files if manifest.files.get(name) != again.files.get(name)]
    if not other or faults:
        return faults, []
    said = f"{len(other)} of {len(files)} files have other bytes, first {other[0]}"
    if not (changed := _other_conditions(manifest, again)):
        return [f"made again: {said}"], []
    return [], [f"made again, samples and labels are the same; {said}, made under {', '.join(changed)}"]


def _other_conditions(manifest: Manifest, again: Manifest) -> list[str]:
    """Return what may change the bytes of files, as it was and as it is."""
    then, today = dict(manifest.environment), dict(again.environment)
    for facts, made in ((then, manifest), (today, again)):
        if made.model is not None:
            facts |= {"threads": str(made.model.threads), "device": made.model.device}
    names = sorted(then.keys() | today.keys())
    return [f"{name} {then.get(name)}, here {today.get(name)}" for name in names if then.get(name) != today.get(name)]


def _harmless(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return *options* of a manifest without what could name a file, or code to import, to what reads the base."""
    inner = options.get("base_options")
    kept = {name: value for name, value in (inner or {}).items() if isinstance(value, bool | int | float)}
    return {**options, "base_options": kept}

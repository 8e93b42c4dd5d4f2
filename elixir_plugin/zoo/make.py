"""Making a set of the zoo: from base data and a seed to a folder that :mod:`.verify` accepts."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from ..core.case import Case
from ..core.classifier.classifier import Classifier
from ..core.context import Context, resolve_device
from ..core.images import ImageSet
from ..errors import InputError, RunError, SettingsError
from ..evaluation.metrics import model_metrics
from ..io.files import atomic_folder, refuse_unwritable, remove_leftovers, to_json_types
from ..io.locks import alone
from ..io.opening import open_file
from ..testbed.adapter import Testbed
from ..testbed.sources import Base
from .content import Content, Rows, content_of, digest, write_table
from .entries import ZooEntry
from .formats import has_truth, read_content, refuse_unfit, write_set
from .manifest import (
    FILE,
    SCHEMA,
    TABLE,
    ContentFacts,
    FileFacts,
    Format,
    Manifest,
    PartFacts,
    Reading,
    environment,
    write_manifest,
)

DIGITS = "digits"
BATCHES = ("cifar-10-batches-py", "cifar-100-python")  # as torchvision calls the folders
FIXED = ("poison", "base", "model")  # options of the testbed that the entry, the base and a flag of its own decide on


def make(
    entry: ZooEntry,
    out: Path,
    *,
    base: str = DIGITS,
    to: Format = "image_folder",
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    model: bool | Classifier = True,
    device: str = "cpu",
    quiet: bool = True,
) -> Manifest:
    """Make the set of *entry* in the new folder *out*, which appears only when it is complete.

    :param base: ``digits``, ``ADAPTER:PATH``, or a folder: of CIFAR's batches, or of images.
    :param options: of the testbed: sizes of the parts, and how the suspect model is trained.
    :param model: whether to train a suspect model, or the one to take.
    :param device: that the model is trained on.
    :raises ElixirError: when base, entry, options and format do not go together; nothing is then written.
    """
    out = out.absolute()
    _refuse_full(out)
    refuse_unwritable(out)
    testbed = Testbed(_options(entry, base, to, options or {}))
    source = testbed.base(seed)
    _refuse_small(entry, source)
    refuse_unfit(source, to, model=bool(model))
    case = _nameless(testbed.poisoned(entry.attack(), source, seed))
    _refuse_unpoisoned(entry, case)
    if isinstance(model, Classifier):
        case = dataclasses.replace(case, model=model)
    elif model:
        context = Context(seed=seed, device=resolve_device(device), quiet=quiet)
        case = dataclasses.replace(case, model=testbed.suspect_model(case, context).cpu())
    with alone(out.parent / f".{out.name}.lock"):
        _refuse_full(out)
        remove_leftovers(out.parent, out.name)
        return _write(entry, testbed, source, case, out, to=to, seed=seed, device=device)


def _write(
    entry: ZooEntry, testbed: Testbed, source: Base, case: Case, out: Path, *, to: Format, seed: int, device: str
) -> Manifest:
    """Write the set, read it back, and write the manifest last."""
    attack = entry.attack()
    with atomic_folder(out) as part:
        reading = write_set(case, source, entry.name, to, part)
        content = _read_back(case, reading, part)
        write_table(content, part / TABLE)
        assert case.truth is not None
        assert case.truth.cover is not None
        facts: dict[str, Any] = {
            "schema": SCHEMA,
            "entry": entry.name,
            "seed": seed,
            "attack": {
                "poison": attack.name,
                "settings": attack.settings.dump(),
                "kind": case.truth.kind,
                "poisoned": int(case.truth.poison.sum()),
                "covers": int(case.truth.cover.sum()),
            },
            "base": _base_facts(testbed, source),
            "content": content_facts(content).dump(),
            "read": reading.dump(),
            "model": _model_facts(case, testbed, reading, device),
            "environment": environment(),
            "files": {name: file.dump() for name, file in file_facts(part).items()},
        }
        manifest = Manifest.build(facts, where=FILE)
        write_manifest(manifest, part)
    return manifest


def source_of(base: str) -> str | None:
    """Return ``ADAPTER:PATH`` of a base as users name it, or None for the digits.

    :raises InputError: when it names a folder that is not there.
    """
    if base == DIGITS:
        return None
    folder = Path(base).expanduser()
    if folder.is_dir():
        batches = folder.resolve().name in BATCHES or any((folder / name).is_dir() for name in BATCHES)
        return f"{'cifar' if batches else 'image_folder'}:{base}"
    if ":" in base:
        return base
    raise InputError(
        "base not found",
        where="{argument:base}",
        found=base,
        allowed=f"{DIGITS}, an existing folder, or ADAPTER:PATH",
    )


def content_facts(content: Content) -> ContentFacts:
    """Return the hashes of a content."""
    parts = {name: PartFacts(samples=len(rows), head=rows.head, sha256=rows.digest()) for name, rows in content.items()}
    return ContentFacts(sha256=digest(content), parts=parts)


def file_facts(folder: Path) -> dict[str, FileFacts]:
    """Return the hashes of all files below *folder* but the manifest."""
    return {name: hashed(folder / name) for name in sorted(files_below(folder)) if name != FILE}


def files_below(folder: Path, under: str = "") -> Iterator[str]:
    """Yield every entry below *folder* that is no folder, links included, as a path with ``/``."""
    with os.scandir(folder / under) as entries:
        found = list(entries)
    for each in found:
        name = f"{under}/{each.name}" if under else each.name
        if each.is_dir(follow_symlinks=False):
            yield from files_below(folder, name)
        else:
            yield name


def hashed(path: Path) -> FileFacts:
    """Return the facts on one file.

    :raises InputError: when it is no regular file.
    """
    with open_file(path) as file:
        sha256, size = hashlib.sha256(), 0
        while block := file.read(1 << 20):
            sha256.update(block)
            size += len(block)
    return FileFacts(sha256=sha256.hexdigest(), bytes=size)


def _options(entry: ZooEntry, base: str, to: Format, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of the testbed, those of the user over those of entry and format."""
    if fixed := [name for name in FIXED if name in given]:
        raise SettingsError(
            "the zoo decides on this option",
            where=f"{{option:{fixed[0]}}}",
            found=given[fixed[0]],
            hint="for other settings, poison the base without the zoo: {command:export testbed:POISON to=arrays DIR}",
        )
    source = source_of(base)
    options: dict[str, Any] = dict(entry.digits) if source is None else {"base": source}
    if to == "backdoorbench":  # which builds none of the networks that the testbed trains
        options["architecture"] = "resnet18" if source is None else "preactresnet18"
    return {**Testbed.Options.overlaid(options, given), "poison": dict(entry.settings)}


def _refuse_unpoisoned(entry: ZooEntry, case: Case) -> None:
    assert case.truth is not None
    assert case.train is not None
    if not case.truth.poison.any():
        raise InputError(
            "the base is too small for the rate of this entry",
            where=f"base of {entry.name}",
            found=f"0 of {len(case.train):,} samples would be poisoned",
            hint="take a larger base, or an entry with a higher rate",
        )


def _refuse_full(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunError("output folder is not empty", where=folder, hint="choose a new one")


def _nameless(case: Case) -> Case:
    """Return *case* without names of files: those of a set of the zoo are numbers, the same on every machine."""

    def plain(images: ImageSet | None) -> ImageSet | None:
        if images is None:
            return None
        return ImageSet(images.images, images.labels, images.num_classes, ids=images.ids, classes=images.classes)

    triggered = case.test_poisoned
    if triggered is not None and (samples := plain(triggered.samples)) is not None:
        triggered = dataclasses.replace(triggered, samples=samples)
    parts = {name: plain(getattr(case, name)) for name in ("train", "clean", "test")}
    return dataclasses.replace(case, test_poisoned=triggered, **parts)  # type: ignore[arg-type]


def _refuse_small(entry: ZooEntry, base: Base) -> None:
    height, width, _ = base.splits.train.image_shape
    if min(height, width) < entry.edge:
        raise InputError(
            "the images of the base are too small for this entry",
            where=f"base of {entry.name}",
            found=f"{height} × {width}",
            allowed=entry.needs,
        )


def _read_back(case: Case, reading: Reading, folder: Path) -> dict[str, Rows]:
    """Return what was written, in the order it is read in.

    :raises InputError: when that is not what *case* holds.
    """
    meant, read = content_of(case), read_content(reading, folder)
    found = {name: meant[name].in_order_of(rows) for name, rows in read.items() if name in meant}
    wrong = sorted(name for name in meant if found.get(name) is None)
    wrong += [name for name in read if name not in meant]
    content = {name: rows for name, rows in found.items() if rows is not None}
    if not wrong and has_truth(reading.adapter):
        wrong = [name for name in meant if digest({name: read[name]}) != digest({name: content[name]})]
    if wrong:
        raise InputError(
            "the set is not read as it was written",
            where=f"format {reading.adapter}",
            found=", ".join(wrong),
            allowed="a base that this format can hold",
            hint="take another format: {argument:to=arrays}",
        )
    return content


def _base_facts(testbed: Testbed, base: Base) -> dict[str, Any]:
    options = testbed.options.dump()
    kept = {name: value for name, value in options.items() if name not in FIXED}
    splits = base.splits
    content = content_of(Case(train=splits.train, clean=splits.clean, test=splits.test))
    adapter = DIGITS if base.origin is None else base.origin.adapter
    return {"adapter": adapter, "options": to_json_types(kept), "sha256": digest(content)}


def _model_facts(case: Case, testbed: Testbed, reading: Reading, device: str) -> dict[str, Any] | None:
    if case.model is None:
        return None
    measured = model_metrics(case.model, case.test, case.test_poisoned)
    folder = reading.model or reading.path
    names = ("model.json", "model.safetensors") if reading.model else ("attack_result.pt",)
    return {
        "architecture": case.model.architecture,
        "recipe": testbed.options.recipe.dump(),
        "device": device,
        "threads": torch.get_num_threads(),
        "files": [f"{folder}/{name}" for name in names],
        "weights": case.model.fingerprint(),
        "acc": measured.acc,
        "asr": measured.asr,
    }

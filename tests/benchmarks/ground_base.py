"""The unpoisoned set of the proving ground, decoded once: full-size CIFAR-10, a part of it for a try, or the digits."""

from __future__ import annotations

import dataclasses
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elixir_plugin.adapters.arrays import FILE, Arrays

from elixir_plugin.adapter import Source, get_adapter
from elixir_plugin.core.case import Case
from elixir_plugin.core.draws import stratified_rows
from elixir_plugin.core.images import ImageSet
from elixir_plugin.io.files import remove_folder, write_json
from elixir_plugin.io.locks import alone
from elixir_plugin.io.reading import read_json
from elixir_plugin.zoo.make import DIGITS, source_of

ROOT = Path(__file__).resolve().parents[2]
ARCHIVE = ROOT.parent / "shared" / "data" / "cifar10-jpeg.zip"
WORK = ROOT.parent / "proving-ground"


@dataclass(frozen=True)
class Base:
    """What is poisoned.

    :param name: in words.
    :param options: of the testbed, to read it.
    :param facts: what tells it from others, in JSON types; no places.
    :param full: whether it has images that the recipe ``fast`` is made for.
    """

    name: str
    options: dict[str, Any]
    facts: dict[str, Any]
    full: bool = True

    @property
    def share(self) -> float:
        """Return its size, full-size CIFAR-10 being 1."""
        return float(self.facts.get("train", 1000)) / 50_000


def prepare(data: Path | str, work: Path, limit: int | None) -> Base:
    """Return the base, read through its adapter and kept as arrays in *work* the first time.

    :param data: a zip file or folder of class folders ``train/`` and ``test/``, a folder of CIFAR's batches, or
        ``digits``.
    :param limit: so many training images, class by class, and a fifth of that for testing; None: all.
    """
    if data == DIGITS:
        return Base("digits", {"size": 8, "test": 300}, {"images": DIGITS}, full=False)
    folder = work / ("base" if limit is None else f"base-{limit}")
    with alone(work / "base.lock"):
        if not (folder / "facts.json").exists():
            remove_folder(folder)
            _write(Path(data), folder, work, limit)
    facts = read_json(folder / "facts.json")
    name = f"CIFAR-10 ({facts['read_by']}), {facts['train']:,} training images"
    source = Source(**facts.pop("source"))
    options = {"base": f"{source.adapter}:{folder / FILE}", "base_options": source.options}
    return Base(name, options, facts)


def _write(data: Path, folder: Path, work: Path, limit: int | None) -> None:
    """Read *data*, keep what is wanted as arrays in *folder*, and say last what it is."""
    images = data
    if data.suffix == ".zip":
        images = work / "images"
        with zipfile.ZipFile(data) as file:
            file.extractall(images)
    source = source_of(str(images))
    assert source is not None
    adapter, _, path = source.partition(":")
    case = get_adapter(adapter)({}).read(Path(path))
    assert case.train is not None and case.test is not None, "a training set and a test set are needed"
    train, test = case.train, case.test
    if limit is not None:
        train, test = _part(train, limit), _part(test, limit // 5)
    kept = Arrays().export(Case(train=train, test=test), folder)
    facts = {"read_by": adapter, "train": len(train), "test": len(test)}
    facts |= {"train_sha": train.fingerprint(), "test_sha": test.fingerprint()}
    source_facts = dataclasses.asdict(kept) if dataclasses.is_dataclass(kept) else kept.dump()
    write_json(folder / "facts.json", {**facts, "source": source_facts})
    if images != data:
        remove_folder(images)


def _part(images: ImageSet, count: int) -> ImageSet:
    return images.subset(stratified_rows(images.labels, count, 0))

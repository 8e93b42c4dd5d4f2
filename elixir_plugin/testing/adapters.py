"""The rules for adapters, one function each; :func:`elixir_plugin.testing.check_adapter` collects what is broken."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..adapter import Adapter, Source
from ..core.case import Case, Truth
from ..core.classifier.classifier import Classifier
from ..core.images import ImageSet, LazyImages
from ..core.metrics import Evaluation
from ..core.outcome import Outcome
from ..errors import ElixirError, InputError
from .sealing import leaks

SEED = 7
SETS = ("train", "clean", "test")
CONCEALED = ("images", "labels", "num_classes", "names", "ids", "classes", "mark")  # all that an ImageSet holds


def expect(condition: bool, fault: str) -> None:
    """Raise an AssertionError that says *fault*, unless *condition* holds."""
    if not condition:
        raise AssertionError(fault)


@contextmanager
def collecting(faults: list[str], rule: str) -> Iterator[None]:
    """Turn any failure inside the block into one line of *faults*."""
    try:
        yield
    except AssertionError as error:
        faults.append(f"{rule}: {error}")
    except ElixirError as error:
        faults.append(f"{rule}: {' '.join(str(error).split())}")
    except Exception as error:  # a stranger's class may fail in any way
        faults.append(f"{rule}: {type(error).__name__}: {error}")


def adapter_faults(cls: type[Adapter], source: Source | None, case: Case, place: str) -> list[str]:
    """Return every rule that *cls* breaks.

    :param source: where a valid case lies; None: *case* is written first.
    :param place: folder below a temporary one that cases are written to.
    """
    faults: list[str] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary).resolve()
        with collecting(faults, "class attributes"):
            _check_attributes(cls)
        with collecting(faults, "missing input"):
            _check_missing(cls, folder)
        first: Case | None = None
        with collecting(faults, "reading"):
            source = source or cls().export(case, folder / "given" / place)
            first = _check_reading(cls, source)
        if first is not None and source is not None:
            with collecting(faults, "sealed truth"):
                _check_sealed(cls, first, folder / "sealed" / place)
            with collecting(faults, "read, write, read"):
                again = cls(source.options).export(first, folder / "again" / place)
                _expect_same_case(first, cls(again.options).read(Path(again.path), SEED))
            with collecting(faults, "results"):
                _check_results(cls, source, first, folder / "results")
    return faults


def tree(path: Path) -> dict[str, str]:
    """Return every file at or below *path* with the hash of its content."""
    files = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
    return {str(each): hashlib.sha256(each.read_bytes()).hexdigest() for each in files}


def _check_attributes(cls: type[Adapter]) -> None:
    expect(issubclass(cls, Adapter), "must derive from elixir_plugin.adapter.Adapter")
    expect(bool(re.fullmatch(r"[a-z][a-z0-9_]*", getattr(cls, "name", ""))), "name must be lower case")


def _check_missing(cls: type[Adapter], folder: Path) -> None:
    """A path that leads nowhere, and a folder with something else in it, get an error that is meant for the user."""
    (folder / "other").mkdir()
    (folder / "other" / "notes.txt").write_text("no case\n")
    for path in (folder / "nothing here", folder / "other"):
        read = True
        try:
            cls().read(path, SEED)
        except ElixirError:
            read = False
        except Exception as error:
            raise AssertionError(f"{path.name!r} raises {type(error).__name__} in place of an ElixirError") from None
        expect(not read, f"{path.name!r} is read without an error")


def _check_reading(cls: type[Adapter], source: Source) -> Case:
    """Reading changes nothing on disk, and the same seed gives the same case."""
    path = Path(source.path)
    before = tree(path)
    first = cls(source.options).read(path, SEED)
    expect(tree(path) == before, "reading changes files")
    expect(type(first) is Case, f"read() must return a Case, not a {type(first).__name__}")
    expect(first.origin.adapter == cls.name, f"origin.adapter must be {cls.name!r}")
    _expect_same_case(first, cls(source.options).read(path, SEED))
    return first


def _check_sealed(cls: type[Adapter], case: Case, folder: Path) -> None:
    """What a defense sees says nothing about the truth.

    No extra attributes, nothing that leads to what is sealed, and the same under another truth.
    """
    parts = {name: getattr(case, name) for name in SETS[:2] if getattr(case, name) is not None}
    for name, part in parts.items():
        extra = sorted(set(vars(part)) - set(CONCEALED))
        expect(
            type(part) is ImageSet and not extra, f"{name} carries more than images and labels: {extra or type(part)}"
        )
        expect(isinstance(part.images, np.ndarray | LazyImages), f"{name}.images is a {type(part.images).__name__}")
    if case.model is not None:
        extra = sorted(set(vars(case.model)) - set(vars(Classifier(case.model.module, 2))))
        expect(not extra, f"the model carries more than a classifier: {extra}")
    found = leaks(case)
    expect(not found, f"a defense can reach what is sealed: {'; '.join(found[:5])}")
    if case.truth is None:
        return
    swapped = Truth(np.roll(case.truth.poison, 1), original_labels=case.truth.original_labels, kind=case.truth.kind)
    written: list[Source] = []
    for name, truth in (("given", case.truth), ("swapped", swapped)):
        try:
            written.append(
                cls().export(dataclasses.replace(case, truth=truth), folder.with_name(f"{folder.name}_{name}"))
            )
        except InputError:  # a format may hold the truth against the pixels
            return
    one, other = (cls(each.options).read(Path(each.path), SEED) for each in written)
    different = _differences(_without_truth(one), _without_truth(other))
    expect(not different, f"what a defense sees depends on the truth: {', '.join(different)}")


def _without_truth(case: Case) -> Case:
    """Return *case* without what only the evaluation sees; names and ids stay, which may tell the truth too."""
    return dataclasses.replace(case, truth=None, test=None, test_poisoned=None)


def _expect_same_case(first: Case, second: Case) -> None:
    different = _differences(first, second)
    expect(not different, f"differs in {', '.join(different)}")


def _differences(first: Case, second: Case) -> list[str]:
    """Return the names of the parts in which two cases differ, bit by bit."""
    different = []
    pairs = [(name, getattr(first, name), getattr(second, name)) for name in SETS]
    triggered = [first.test_poisoned, second.test_poisoned]
    samples = [None if each is None else each.samples for each in triggered]
    pairs.append(("test_poisoned", samples[0], samples[1]))
    for name, one, other in pairs:
        if (one is None) != (other is None):
            different.append(name)
        elif one is not None:
            different += [f"{name} ({what})" for what in _set_differences(one, other)]
    for name, make in (("truth", _truth_state), ("model", _model_state)):
        if make(getattr(first, name)) != make(getattr(second, name)):
            different.append(name)
    originals = [b"" if each is None else each.original_labels.tobytes() for each in triggered]
    return different + (["test_poisoned (original labels)"] if originals[0] != originals[1] else [])


def _set_differences(one: ImageSet, other: ImageSet) -> list[str]:
    if len(one) != len(other) or one.image_shape != other.image_shape:
        return [f"{len(one)} × {one.image_shape} and {len(other)} × {other.image_shape}"]
    states: dict[str, Callable[[ImageSet], Any]] = {
        "type of the pixels": lambda each: each.images.dtype,
        "pixels": lambda each: each.content_hashes().tobytes(),
        "labels": lambda each: each.labels.tobytes(),
        "number of classes": lambda each: each.num_classes,
        "names": lambda each: each.names,
        "ids": lambda each: each.ids.tobytes(),
    }
    return [what for what, state in states.items() if state(one) != state(other)]


def _truth_state(truth: Truth | None) -> Any:
    if truth is None:
        return None
    arrays = (truth.poison, truth.cover, truth.original_labels)
    return truth.kind, [None if each is None else each.tobytes() for each in arrays]


def _model_state(model: Classifier | None) -> Any:
    if model is None:
        return None
    weights = {name: value.cpu().numpy().tobytes() for name, value in model.module.state_dict().items()}
    return weights, model.mean.flatten().tolist(), model.std.flatten().tolist(), model.architecture, model.input_size


def _check_results(cls: type[Adapter], source: Source, case: Case, folder: Path) -> None:
    """What :meth:`Adapter.write` names is there, nothing else is, and what was read stays as it was."""
    before = tree(Path(source.path))
    folder.mkdir()
    outcome = _probe(case)
    outcome.check(case)
    written = cls(source.options).write(case, outcome, Evaluation(), folder, "probe")
    missing = [path for path in written if not path.exists()]
    expect(not missing, f"write() names what is not there: {missing}")
    outside = [path for path in written if folder not in path.resolve().parents]
    expect(not outside, f"write() leaves its folder: {outside}")
    files = {path for path in folder.rglob("*") if path.is_file()}
    covered = {path for path in files if any(each in (path, *path.parents, path.parent) for each in written)}
    beside = {path for path in files - covered if not any(each.parent in path.parents for each in written)}
    expect(not beside, f"write() leaves files it does not name: {sorted(map(str, beside))[:3]}")
    left = [path for path in files if path.name.endswith(".part")]
    expect(not left, f"write() leaves unfinished files: {left}")
    expect(tree(Path(source.path)) == before, "write() changes what was read")


def _probe(case: Case) -> Outcome:
    """Return an outcome with every part that *case* allows."""
    outcome = Outcome(model=None if case.model is None else case.model.clone())
    if case.train is not None:
        n = len(case.train)
        outcome.scores = np.linspace(0, 1, n)
        outcome.flagged = outcome.scores > 0.5
        outcome.kept = np.flatnonzero(~outcome.flagged)
        pixels = case.train.read(slice(0, n))
        pixels[0] = 0
        outcome.train = case.train.replace(images=pixels, labels=np.roll(case.train.labels, 1))
    return outcome

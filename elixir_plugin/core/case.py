"""The input of every defense: image sets, the case that groups them, and the sealed truth.

``N`` samples, ``H × W`` pixels, ``C`` channels (1 or 3). Images are uint8 in 0..255 or float32 in [0, 1]; a float
set stays float, because a faint trigger would not survive rounding. The position of a sample is its join key: no
part of the project ever reorders a set.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, preview_list
from ..io.files import to_json_types
from .classifier.classifier import Classifier
from .draws import uncovered
from .images import ImageSet, Index, checked_labels, frozen
from .pixels import shared_rows
from .scale import refuse_zeros_and_ones
from .sealing import sealed_model, sealed_set
from .settings import fingerprint

POISON_KINDS = ("dirty-label", "clean-label", "indiscriminate", "none")


@dataclass(frozen=True)
class TriggeredSet:
    """Test images that carry the trigger.

    :param samples: ``samples.labels`` is the label the attacker wants.
    :param original_labels: ``[N]`` the true labels.
    :raises InputError: when there is not one true label per image, or one is out of range.

    >>> wanted = ImageSet(np.zeros((2, 8, 8, 3), np.uint8), [0, 0], num_classes=2)
    >>> TriggeredSet(wanted, original_labels=[1, 1]).original_labels.tolist()
    [1, 1]
    """

    samples: ImageSet
    original_labels: Index

    def __post_init__(self) -> None:
        labels = checked_labels(self.original_labels, len(self.samples), self.samples.num_classes, "original labels")
        object.__setattr__(self, "original_labels", labels)


@dataclass(frozen=True)
class Truth:
    """What the attacker did to the suspect set. Sealed: only ``evaluation`` opens it.

    :param poison: ``[N]`` bool, samples the attack changed to plant its behaviour.
    :param cover: ``[N]`` bool, samples that carry the trigger under their true label; never counted as poison.
    :param original_labels: ``[N]`` labels before the attack, or None when unknown.
    :param kind: ``"dirty-label"``, ``"clean-label"``, ``"indiscriminate"`` or ``"none"``.
    :raises InputError: for another kind, or parts of different length.

    >>> truth = Truth([True, False, True], original_labels=[1, 0, 1])
    >>> int(truth.poison.sum()), truth.cover.tolist(), truth.kind
    (2, [False, False, False], 'dirty-label')
    """

    poison: NDArray[np.bool_]
    cover: NDArray[np.bool_] | None = None
    original_labels: Index | None = None
    kind: str = "dirty-label"

    def __post_init__(self) -> None:
        if self.kind not in POISON_KINDS:
            raise InputError("unknown kind of poison", where="kind", found=self.kind, allowed=", ".join(POISON_KINDS))
        object.__setattr__(self, "poison", frozen(np.asarray(self.poison, bool)))
        cover = np.zeros_like(self.poison) if self.cover is None else np.asarray(self.cover, bool)
        object.__setattr__(self, "cover", frozen(cover))
        if self.original_labels is not None:
            object.__setattr__(self, "original_labels", frozen(np.array(self.original_labels, np.int64)))
        for name in ("cover", "original_labels"):
            value = getattr(self, name)
            if value is not None and value.shape != self.poison.shape:
                raise InputError("truth of another length", where=name, found=value.shape, allowed=self.poison.shape)


@dataclass(frozen=True)
class Origin:
    """Where a case came from, and what an adapter needs to write results back.

    :param facts: toolkit facts in JSON types, e.g. model name and normalisation. Hidden from defenses.

    >>> Origin("image_folder", "suspects/train").facts
    {}
    """

    adapter: str = "python"
    path: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """Everything known about one suspect set and one suspect model; each part but ``origin`` may be absent.

    :param train: the suspect set.
    :param clean: the reserved clean set.
    :param model: the suspect model.
    :param test: clean test samples; for evaluation only.
    :param test_poisoned: triggered test samples; for evaluation only.
    :param truth: what the attacker did; for evaluation only.
    :param notes: what a reader of the report should know about this case, e.g. where ``clean`` was drawn from.
    :param mirror: whether images may be mirrored left-right in training, where that is known of the data set: True for
        photographs of objects, False for digits, text or traffic signs. None: ``flip: auto`` finds out.
    :raises InputError: when the parts disagree about the number of classes, their names, the image shape, or the
        length; and for 8-bit images that hold only 0 and 1.

    >>> train = ImageSet(np.zeros((3, 8, 8, 3), np.uint8), [0, 1, 1], num_classes=2)
    >>> case = Case(train=train, truth=Truth([False, False, True]))
    >>> case.num_classes, case.visible().truth
    (2, None)
    """

    train: ImageSet | None = None
    clean: ImageSet | None = None
    model: Classifier | None = None
    test: ImageSet | None = None
    test_poisoned: TriggeredSet | None = None
    truth: Truth | None = None
    origin: Origin = field(default_factory=Origin)
    notes: tuple[str, ...] = ()
    mirror: bool | None = None

    def __post_init__(self) -> None:
        sets = {"train": self.train, "clean": self.clean, "test": self.test}
        if self.test_poisoned is not None:
            sets["test_poisoned"] = self.test_poisoned.samples
        present = {name: each for name, each in sets.items() if each is not None}
        classes = {name: each.num_classes for name, each in present.items()}
        if self.model is not None:
            classes["model"] = self.model.num_classes
        for name, each in present.items():
            refuse_zeros_and_ones(each.images, name)
        _refuse_disagreement("number of classes", classes)
        _refuse_disagreement("image shape", {name: each.image_shape for name, each in present.items()})
        _refuse_other_names({**present, "model": self.model})
        if self.truth is not None and (self.train is None or len(self.truth.poison) != len(self.train)):
            found = "no suspect set" if self.train is None else f"{len(self.truth.poison)} vs {len(self.train)}"
            raise InputError("truth and suspect set differ in length", where="truth", found=found)

    def visible(self) -> Case:
        """Return what a defense may see: suspect set, reserved clean set and model, and ``mirror``.

        No truth, no test data, no notes, no toolkit facts (they name the attack). Samples have no names, and each set
        numbers its own from 0. What is handed out leads to nothing else: see :mod:`.sealing` for what is promised.
        """
        return Case(
            train=None if self.train is None else sealed_set(self.train),
            clean=None if self.clean is None else sealed_set(self.clean),
            model=None if self.model is None else sealed_model(self.model),
            mirror=self.mirror,
        )

    @property
    def num_classes(self) -> int:
        """Number of classes, from whichever part is present.

        :raises InputError: for a case without any part.
        """
        triggered = None if self.test_poisoned is None else self.test_poisoned.samples
        for part in (self.train, self.clean, self.test, triggered, self.model):
            if part is not None:
                return part.num_classes
        raise InputError("the case is empty", allowed="at least one of train, clean, test, model")

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the classes, from whichever part knows them."""
        triggered = None if self.test_poisoned is None else self.test_poisoned.samples
        parts = (self.model, self.train, self.clean, self.test, triggered)
        return next((each.classes for each in parts if each is not None and each.classes is not None), None)


def refuse_scored_clean(case: Case) -> None:
    """Refuse a reserved clean set that shares images with the test set the result is scored on.

    What is learned from a clean image (a denoiser, a student) would be scored on that image again. The test set is
    only compared, never shown to a defense.

    :raises InputError: naming the first such image.
    """
    if case.clean is None or case.test is None:
        return
    rows = shared_rows(case.clean, case.test)
    if len(rows):
        first = rows[0] if case.clean.names is None else case.clean.names[rows[0]]
        raise InputError(
            "the reserved clean set overlaps the test set",
            where="clean",
            found=f"{len(rows)} of {len(case.clean)} images are also test images, first {first}",
            allowed="two sets without a common image",
            hint="take the clean set from elsewhere, or leave those images out of the test set",
        )


def describe(case: Case) -> dict[str, Any]:
    """Return sizes, shapes and content hashes of the parts of *case*."""
    parts = {"train": case.train, "clean": case.clean, "test": case.test}
    if case.test_poisoned is not None:
        parts["test_poisoned"] = case.test_poisoned.samples
    facts: dict[str, Any] = {
        name: {"samples": len(part), "shape": list(part.image_shape), "fingerprint": part.fingerprint()}
        for name, part in parts.items()
        if part is not None
    }
    if case.clean is not None and (few := uncovered(case.clean, case.train)).labels:
        facts["clean"]["uncovered"] = {"missing": list(few.missing), "scarce": list(few.scarce)}
    if case.model is not None:
        facts["model"] = case.model.architecture or type(case.model.module).__name__
        facts["model_fingerprint"] = case.model.fingerprint()
    if case.test_poisoned is not None:
        facts["test_poisoned"]["original_labels"] = fingerprint(case.test_poisoned.original_labels.tolist())
    if case.truth is not None:
        facts["truth"] = fingerprint(to_json_types(dataclasses.asdict(case.truth)))
    return facts | {
        "num_classes": case.num_classes,
        "origin": {"adapter": case.origin.adapter, "path": case.origin.path},
    }


def _refuse_other_names(parts: Mapping[str, Any]) -> None:
    """Refuse parts that name the classes differently; a part without names agrees with all."""
    named = {name: part.classes for name, part in parts.items() if part is not None and part.classes is not None}
    for name, classes in list(named.items())[1:]:
        first = next(iter(named))
        odd = [
            f"{label}: {one!r} and {two!r}"
            for label, (one, two) in enumerate(zip(named[first], classes, strict=True))
            if one != two
        ]
        if odd:
            raise InputError(
                "parts of the case disagree on the names of the classes",
                where=f"{first} and {name}",
                found=preview_list(odd),
                allowed="the same names in the same order" if set(classes) == set(named[first]) else "the same names",
                hint="say the order of the classes that the model was trained with, or correct the names",
            )


def _refuse_disagreement(what: str, values: Mapping[str, Any]) -> None:
    if len(set(values.values())) > 1:
        raise InputError(f"parts of the case disagree on the {what}", found=values)

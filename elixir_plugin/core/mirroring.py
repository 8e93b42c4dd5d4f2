"""``flip: auto``: whether training mirrors images left-right, decided once per case, for all that trains on it.

What the case says (``Case.mirror``) counts, where its adapter knows the data set. Else two are asked about the reserved
clean set, as :mod:`.mirror_evidence` has it:

1. the suspect model, where there is one;
2. a small probe, fitted on that set and on up to :data:`FITTED` samples of the suspect set.

Images are mirrored only if model or probe says that it does no harm, and neither that it does. Both may be poisoned:
they are judged on reserved clean samples alone, and no classifier, however made, tells a class from its mirror image.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch

from .augmentation import Augmentation, mirrored
from .case import Case
from .classifier.classifier import Classifier
from .classifier.intake import examined
from .context import Context
from .images import ImageSet
from .mirror_evidence import ONE_SIDED, Evidence, facts_of, features_of, judge, probe_scores
from .pixels import shared_rows
from .settings import Settings

JUDGED, FITTED = 5_000, 5_000  # reserved clean samples to judge on, suspect samples to fit the probe on: at most

S = TypeVar("S", bound=Settings)


@dataclass(frozen=True)
class Mirroring:
    """The decision.

    :param used: whether training mirrors images.
    :param why: a sentence for the report.
    :param evidence: what was measured, by who was asked.
    """

    used: bool
    why: str
    evidence: dict[str, Evidence]

    def facts(self) -> dict[str, Any]:
        """Return the decision in JSON types, for the tables of an outcome."""
        measured = {name: facts_of(each) for name, each in self.evidence.items()}
        return {"flip": self.used, "why": self.why, "evidence": measured}


def settled(settings: S, case: Case, context: Context) -> S:
    """Return *settings* with ``auto`` replaced by the decision for *case* wherever augmentation is nested in them.

    The very object comes back where nothing is open. The decision is noted in *context*, and made once per case.

    >>> clean = ImageSet(np.zeros((4, 8, 8, 3), np.uint8), [0, 1, 2, 3], num_classes=4)
    >>> case, context = Case(clean=clean, mirror=True), Context()
    >>> settled(Augmentation(flip="auto"), case, context).flip, context.notes
    (True, ['training mirrors images left-right: the data set is known to allow it'])
    """
    if not _is_open(settings):
        return settings
    flip = decide(case, context).used
    closed: S = _closed(settings, flip)
    return closed


def decide(case: Case, context: Context) -> Mirroring:
    """Return whether training on *case* mirrors images, and why; it is kept in *context*, and noted there."""
    found = decision(case, context)
    if found is None:
        found = _decided(case, context)
        context.mirroring = (_parts(case), found)
    context.note(found.why, logging.INFO if found.used or case.mirror is not None else logging.WARNING)
    return found


def decision(case: Case, context: Context) -> Mirroring | None:
    """Return what was decided for *case* under *context*, or None."""
    parts, found = context.mirroring or ((), None)
    same = len(parts) and all(a is b for a, b in zip(parts, _parts(case), strict=True))
    return found if same else None


def _parts(case: Case) -> tuple[Any, ...]:
    """Return what tells that two cases are the same, also when one is what a defense sees of the other."""
    module = None if case.model is None else case.model.module  # which all views of a model share
    marks = [None if each is None else each.mark for each in (case.train, case.clean)]
    return *marks, module, case.mirror


def _decided(case: Case, context: Context) -> Mirroring:
    if case.mirror is not None:
        known = "the data set is known to allow it" if case.mirror else "in this data set, left and right differ"
        return Mirroring(case.mirror, f"{_said(case.mirror)}: {known}", {})
    clean = case.clean
    if clean is None or not len(clean):
        return Mirroring(False, f"{_said(False)}: without a reserved clean set nothing shows that it does no harm", {})
    shown = _some(clean, JUDGED, context, "judged")
    evidence: dict[str, Evidence] = {}
    with context.stage("mirroring"):
        if case.model is not None:
            evidence["the suspect model"] = _ask_model(case.model, shown, context)
        evidence["a probe"] = _ask_probe(shown, case.train, context)
    for verdict, used in (("harmful", False), ("harmless", True)):
        for name, found in evidence.items():
            if found.verdict == verdict:
                return Mirroring(used, f"{_said(used)}: {_shares(name, found)}", evidence)
    doubts = "; ".join(f"{_shares(name, each)}{_doubt(each, clean)}" for name, each in evidence.items())
    return Mirroring(False, f"{_said(False)}: nothing shows that it does no harm ({doubts}); `flip` decides", evidence)


def _ask_model(suspect: Classifier, shown: ImageSet, context: Context) -> Evidence:
    model = examined(suspect, shown.read(slice(0, 2))).clone().to(context.device)
    answers = [model.predict(images).astype(np.float64) for images in (shown, mirrored(shown))]
    return judge(answers[0], answers[1], shown.labels)


def _ask_probe(shown: ImageSet, suspects: ImageSet | None, context: Context) -> Evidence:
    features, others, labels = features_of(shown), features_of(mirrored(shown)), shown.labels
    if suspects is not None and len(suspects):
        more = _some(suspects, FITTED, context, "fitted")
        known = shared_rows(more, shown)  # a copy would tell the probe the label of the image it is asked about
        more = more.subset(np.setdiff1d(np.arange(len(more)), known))
        if len(more):
            features = np.concatenate([features, features_of(more)])
            labels = np.concatenate([labels, more.labels])
    plain, sides = probe_scores(features, others, labels, shown.num_classes, len(shown))
    return judge(plain, sides, shown.labels)


def _some(images: ImageSet, most: int, context: Context, name: str) -> ImageSet:
    """Return *images*, or *most* of them drawn at random."""
    if len(images) <= most:
        return images
    order = torch.randperm(len(images), generator=context.generator("mirroring", name)).numpy()
    return images.subset(np.sort(order[:most]))


def _said(used: bool) -> str:
    return "training mirrors images left-right" if used else "training does not mirror images"


def _shares(name: str, found: Evidence) -> str:
    return (
        f"{name} labels {found.plain:.0%} of {found.samples} reserved clean images correctly, and {found.mirrored:.0%} "
        "of their mirror images"
    )


def _doubt(found: Evidence, clean: ImageSet) -> str:
    if found.closest is None or found.separation > ONE_SIDED:
        return ", too few to call that as many"
    names = [str(each) if clean.classes is None else clean.classes[each] for each in found.closest]
    few = "" if found.fewest > 1 else "; some class has fewer than two of them"
    return f", but does not surely tell classes {names[0]} and {names[1]} apart in both{few}"


def _is_open(value: Any) -> bool:
    if isinstance(value, Augmentation):
        return value.flip == "auto"
    if isinstance(value, Settings):
        return any(_is_open(getattr(value, name)) for name in type(value).model_fields)
    return isinstance(value, list | tuple) and any(map(_is_open, value))


def _closed(value: Any, flip: bool) -> Any:
    """Return *value* with every ``auto`` replaced; what holds none is returned as it is."""
    if not _is_open(value):
        return value
    if isinstance(value, Augmentation):
        return value.model_copy(update={"flip": flip})
    if isinstance(value, Settings):
        names = type(value).model_fields
        return value.model_copy(update={name: _closed(getattr(value, name), flip) for name in names})
    return type(value)(_closed(each, flip) for each in value)

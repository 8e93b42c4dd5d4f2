"""The steps of a pipeline with their defenses, and what each needs that those before do not provide."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ...core.case import Case
from ...defense import NEEDS, Defense, Kind
from ...errors import MissingNeedError
from .settings import PipelineStep

MAKERS = ("train", "repair")  # kinds of defense that always hand on a model


@dataclass(frozen=True)
class Step:
    """One step.

    :param number: from 1.
    :param label: number and name, by which reports call it.
    :param defense: with its settings.
    :param options: of the step.
    """

    number: int
    defense: Defense
    options: PipelineStep

    @property
    def label(self) -> str:
        """Number and name, by which reports call the step."""
        return f"{self.number} {self.defense.name}"

    @property
    def kind(self) -> Kind:
        """What the step does."""
        return self.defense.kind


def steps_of(settings: Iterable[PipelineStep]) -> list[Step]:
    """Return the steps that *settings* describe."""
    return [Step(number, each.cls(each.settings), each) for number, each in enumerate(settings, 1)]


def has_model(step: Step, before: Iterable[Step], case: Case) -> bool:
    """Whether *step* will surely be given a model."""
    made = any(each.kind in MAKERS for each in before)
    handed_on = (step.options.on or ("model" if step.kind == "repair" else "suspect")) == "model"
    return case.model is not None or (made and handed_on)


def needs_of(steps: list[Step]) -> frozenset[str]:
    """Return what a case must hold: the needs of all steps but for what others provide."""
    found: set[str] = set()
    for place, step in enumerate(steps):
        needs = set(step.defense.needs)
        if has_model(step, steps[:place], Case()):
            needs.discard("model")
        if step.options.clean_from is not None:
            needs -= {"clean", "denoiser", "generator"}
        found |= needs
    return frozenset(found)


def refuse_missing(steps: list[Step], case: Case) -> None:
    """Raise when some step needs what neither *case* holds nor a step before provides.

    :raises MissingNeedError: naming the step.
    """
    for place, step in enumerate(steps):
        clean = case.clean is not None and len(case.clean) > 0
        held = {
            "train": case.train is not None and len(case.train) > 0,
            "clean": clean or (step.options.clean_from is not None and case.train is not None),
            "model": has_model(step, steps[:place], case),
        }
        for need in sorted(step.defense.needs & held.keys()):
            if held[need]:
                continue
            hint = NEEDS[need]
            if need == "model":
                hint += "; or put a step `retrain` before this one"
            elif need == "clean" and step.number > 1:
                hint += "; or let the step take what is left as such: clean_from=kept"
            what = "which this case does not hold" + (", and no step before makes" if need == "model" else "")
            raise MissingNeedError(f"{step.defense.name} needs {need!r}, {what}", where=f"pipeline: step {step.label}",
                                   hint=hint)  # fmt: skip


def expected(step: Step, case: Case) -> Case:
    """Return *case* as *step* may be given it, as far as that is known before any work.

    Of samples that are to serve as further reference, it is not known which: all of them stand for these.
    """
    clean = case.clean if step.options.clean_from is None else case.train
    return Case(case.train, clean, case.model, mirror=case.mirror)

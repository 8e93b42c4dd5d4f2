"""Pipeline: several defenses, one after the other, each on what those before have left.

Every step is a registered defense (or ``retrain``) that runs as it does alone: it is handed a sealed case, made of the
set, the flags and the model as they are by then. What a step hands back is kept in the work folder, so that a killed
pipeline goes on with the step that was at work, and that step with what it has kept itself. All steps draw their random
numbers from the seed of the run, under their own names: the first step finds what it finds alone.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...core import settings as config
from ...core.case import Case
from ...core.context import Context
from ...core.outcome import Outcome
from ...core.panels import Panel
from ...core.pixels import rms_changes
from ...defense import Card, Defense, Kind, check_agreement
from ...errors import ElixirError
from .outcome import DONE, NOT_REACHED, SKIPPED, Record, build_outcome, panels_of
from .plan import Step, expected, needs_of, refuse_missing, steps_of
from .remaining import remaining_backdoor, sentence_of
from .retrain import Retrain
from .settings import NAME, PipelineSettings
from .state import Given, State
from .store import kept_or_made

KINDS: frozenset[Kind] = frozenset({"detect", "purify", "train", "repair"})


class Pipeline(Defense):
    """Run several defenses in a row; of the kind of the last one.

    :ivar steps: the steps with their defenses.
    """

    name = NAME
    kind = "train"
    needs = frozenset({"train"})
    Settings = PipelineSettings
    settings: PipelineSettings
    card = Card(
        title="Pipeline",
        paper="none: several defenses in a row",
        year=2025,
        claims="what its steps claim; to be measured, for nobody has published these combinations",
        cost="the sum of its steps",
        limits="a step works on what those before leave: what they miss stays, and what they spoil stays spoilt; "
        "samples that were not flagged are not verified either",
    )

    def __init__(
        self, settings: config.Settings | Mapping[str, Any] | None = None, *, preset: str | None = None, **values: Any
    ) -> None:
        super().__init__(settings, preset=preset, **values)
        self.steps = steps_of(self.settings.steps)
        learned = any(step.defense.trains_on_clean for step in self.steps)
        # over those of the class, which hold where settings are not known yet
        vars(self).update(kind=self.steps[-1].kind, needs=needs_of(self.steps), trains_on_clean=learned)

    @classmethod
    def possible_kinds(cls) -> frozenset[Kind]:
        return KINDS

    def refuse_missing(self, case: Case) -> None:
        refuse_missing(self.steps, case)

    def check(self, case: Case) -> None:
        for step in self.steps:
            given = expected(step, case)
            if "model" in step.defense.needs and given.model is None:
                continue  # there is none to look at until a step before has made it
            with _naming(step):
                step.defense.refuse(given)

    def trains_augmented(self, case: Case) -> bool:
        return False  # each step decides for itself

    def about_uncovered(self, case: Case, classes: Any) -> str | None:
        return None  # each step says so for itself

    def estimate(self, case: Case, context: Context) -> dict[str, Any]:
        """Return the cost of every step, by its label, and of all together.

        A step that works on some samples alone is priced for all of them.
        """
        self.refuse(case)
        visible = case.visible()
        facts: dict[str, Any] = {}
        unknown: list[str] = []
        for step in self.steps:
            given = expected(step, visible)
            possible = "model" not in step.defense.needs or given.model is not None
            found = step.defense.estimate(given, context) if possible else {}
            if "seconds_total" not in found:
                unknown.append(step.label)
            few = " (at most)" if step.options.only is not None else ""
            plain = {key: each for key, each in found.items() if not isinstance(each, Mapping)}
            facts[f"{step.label}{few}"] = plain or {"estimate": "none given"}
        priced = [each for each in facts.values() if "seconds_total" in each]
        for key, together in (("seconds_total", sum), ("nfe_total", sum), ("disk_bytes", max)):  # one step at a time
            if values := [each[key] for each in priced if key in each]:
                facts[key] = together(values)
        if unknown:
            facts["not_priced"] = ", ".join(unknown)
        return facts

    def defend(self, case: Case, context: Context) -> Outcome:
        state, records, stopped = State.start(case), list[Record](), False
        state.hold_back, state.seed = self.settings.hold_back, context.seed
        with context.scratch_dir(NAME) as folder:
            for step in self.steps:
                if stopped:
                    records.append(
                        Record(step, NOT_REACHED, "ended before", status=state.status(), left=len(state.rows))
                    )
                    continue
                records.append(self._step(step, state, folder, context))
                stopped = self.settings.stop_if_clean and _found_nothing(records[-1])
                if stopped:
                    context.note(f"step {step.label} found nothing: the pipeline ended there, and left all as it came")
        outcome = build_outcome(state, records, kind=self.kind, stopped=stopped)
        if outcome.model is not None:
            outcome.model.to(context.device)
        with context.stage("estimate what is left"):
            found = remaining_backdoor(state, outcome.undefended)
        if found is not None:
            outcome.tables["remaining"] = dataclasses.asdict(found)
            outcome.notes.append(sentence_of(found))
        return outcome

    def panels(self, outcome: Outcome) -> list[Panel]:
        return panels_of(outcome, self.steps)

    def _step(self, step: Step, state: State, folder: Path, context: Context) -> Record:
        """Do one step, or find it done, and let *state* take over what it made."""
        logging.getLogger(__name__).info("step %d of %d: %s", step.number, len(self.steps), step.defense.name)
        left = len(state.rows)
        given = state.give(step)
        if isinstance(given, str):
            return Record(step, SKIPPED, given, status=state.status(), left=len(state.rows))
        added = state.added if step.kind == "train" else None
        place = folder / f"{step.number}-{step.defense.name}"
        made = kept_or_made(
            place,
            step,
            given,
            context,
            make=lambda: _run(step, state, given, place, context),
            added=None if added is None else added.dump(),
        )
        if made.model is not None:
            made.model.to(context.device)
        outcome = state.take(given, made, step)
        images = None
        if outcome.train is not None and given.case.train is not None:
            images = int((rms_changes(given.case.train, outcome.train) != 0).sum())
        return Record(
            step, DONE, "", given, outcome, state.status(), left - len(state.rows), len(state.rows), images
        )  # fmt: skip


def _run(step: Step, state: State, given: Given, folder: Path, context: Context) -> Outcome:
    """Run the defense of *step* on what it is given, in a context of its own."""
    defense = step.defense
    if given.targets is not None:
        aimed = defense.aimed(given.targets)
        defense = defense if aimed is None else aimed
    if given.suspects is not None:
        defense = defense.narrowed(given.suspects.nonzero()[0])
    if isinstance(defense, Retrain):
        defense = copy.copy(defense)
        defense.added = state.added

    def told(stage: str, seconds: float) -> None:
        if context.on_stage is not None:
            context.on_stage(f"{step.label}: {stage}", seconds)

    inner = Context(
        seed=context.seed,
        device=context.device,
        work_dir=None if context.work_dir is None else folder / "work",
        cache=context.cache,
        quiet=context.quiet,
        any_model=True,  # the suspect model has been held against the labels, and the others were made here
        on_stage=told,
    )
    check_agreement(given.case, inner)
    agreement = inner.agreement
    outcome = defense.run(given.case, inner)
    if agreement is not None:
        said = agreement.sentence()
        outcome.notes = [note for note in outcome.notes if note != said]
        if given.case.model is not state.case.model:  # of that one, the notes of the run say it
            outcome.notes.insert(0, said.replace("the suspect model", "the model that this step was given", 1))
    context.add_cached_time(inner.cached_seconds)
    for stage, seconds in inner.timings.items():
        name = f"{step.label}: {stage}"
        context.timings[name] = context.timings.get(name, 0.0) + seconds
    return outcome


def _found_nothing(record: Record) -> bool:
    """Whether a step looked for poison, and found none."""
    outcome = record.outcome
    if outcome is None or record.step.kind not in ("detect", "purify"):
        return False
    verdict = None if outcome.verdict is None else outcome.verdict.poisoned
    if outcome.flagged is not None:
        return not outcome.flagged.any() and verdict is not True
    return verdict is False


@contextmanager
def _naming(step: Step) -> Iterator[None]:
    """Let an error say which step it is about."""
    try:
        yield
    except ElixirError as error:
        where = error.where
        error.where = f"pipeline: step {step.label}" + (f": {where}" if where else "")
        raise

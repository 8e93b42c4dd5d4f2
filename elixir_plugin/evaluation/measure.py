"""Run a defense on a case and measure it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch

from ..core.case import Case
from ..core.classifier.classifier import Classifier
from ..core.context import Context
from ..core.metrics import Evaluation, ModelMetrics, Relearning
from ..core.mirroring import decision
from ..core.outcome import Outcome
from ..defense import Defense
from ..errors import InputError, RunError, shown
from ..io.distributed import barrier
from .metrics import evaluate, model_metrics
from .relearning import measure_relearning, refuse_unknown_poison
from .retraining import Retraining, blind_control, judge_denoiser, retrain, run_controls, undefended


def execute(
    defense: Defense,
    case: Case,
    context: Context,
    plan: Retraining | None = None,
    *,
    controls: bool = False,
    relearn: bool = False,
    on_defended: Callable[[float], None] | None = None,
    described: Mapping[str, Any] | None = None,
) -> tuple[Outcome, Evaluation]:
    """Run *defense* on *case* and measure it; the test data is touched only before and after.

    :param plan: train a model on what the defense leaves, when it hands back none; without a suspect model, one
        trained the same way on the whole suspect set stands in as "before". Without a plan, ``outcome.undefended``
        does; beside a suspect model, it is the control ``undefended``, unless that is measured anyway.
    :param controls: also measure the controls of ``retraining``; needs *plan*.
    :param relearn: also measure how fast the backdoor comes back, see ``relearning``; *plan* says how the model that
        was never poisoned is trained.
    :param on_defended: called with the seconds the defense took here, before anything is measured.
    :param described: what ``describe`` says of *case*, in JSON types, where it is known: it takes reading every pixel.
    :raises InputError: with *relearn*, before any work, for a case that does not say what poison is.
    """
    if relearn:
        refuse_unknown_poison(case)
    before: ModelMetrics | None = None
    if case.model is not None:
        with context.stage("evaluate before"):
            model = case.model.clone().to(context.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            before = model_metrics(model, case.test, case.test_poisoned)
    cached = context.cached_seconds
    outcome = defense.run(case, context)
    if on_defended is not None:
        on_defended(outcome.timings["total"] - (context.cached_seconds - cached))
    barrier()  # no rank needs the intermediate files any more
    measured: dict[str, ModelMetrics] = {}
    if plan is not None and case.train is not None:
        own = outcome.model is not None
        if not own:
            outcome.model = _retrained(case, outcome, plan, context)
        plain_model = undefended(case, outcome, plan, context, described) if controls or before is None else None
        if controls:
            measured = run_controls(case, outcome, plan, context, own_model=own, undefended=plain_model)
            outcome.notes += blind_control(case, measured)
        before = before or plain_model
    if outcome.undefended is not None and "undefended" not in measured:
        with context.stage("evaluate before"):
            trained_here = model_metrics(outcome.undefended, case.test, case.test_poisoned)
        if before is None:
            before = trained_here
        elif _rates(trained_here) != _rates(before):  # else it is the suspect model itself
            measured["undefended"] = trained_here  # of the recipe of "after", as "before" need not be
    with context.stage("evaluate after"):
        evaluation = dataclasses.replace(evaluate(case, outcome, before=before), controls=measured)
    found = _relearning(case, outcome, context, plan) if relearn else None
    evaluation = dataclasses.replace(evaluation, relearning=found)
    if outcome.noise_level:
        triggered = None if case.test_poisoned is None else case.test_poisoned.samples
        sizes = [0 if each is None else len(each) for each in (case.test, triggered)]
        outcome.notes += judge_denoiser(evaluation.after, measured, *sizes)
    outcome.notes += [text for text in context.notes if text not in outcome.notes]  # of what was trained since
    if (mirroring := decision(case, context)) is not None:
        outcome.tables.setdefault("mirroring", mirroring.facts())
    outcome.timings = {**outcome.timings, **context.timings}  # with what the stages since then took
    if outcome.model is not None:
        outcome.model.cpu()
    return outcome, evaluation


def _retrained(case: Case, outcome: Outcome, plan: Retraining, context: Context) -> Classifier | None:
    """Return a model trained on what *outcome* keeps, or None, with a note, when that is nothing."""
    try:
        return retrain(case, outcome, plan, context)
    except InputError as error:
        outcome.notes.append(f"no model was trained on the result: {error.what} ({shown(error.found)})")
        return None


def _relearning(case: Case, outcome: Outcome, context: Context, plan: Retraining | None) -> Relearning | None:
    """Return how fast the backdoor comes back, or None, with a note, where that cannot be measured."""
    try:
        return measure_relearning(case, outcome, context, plan)
    except (InputError, RunError) as error:  # what the defense has done is not lost to it
        context.note(f"relearning was not measured: {error.what} ({shown(error.found)})")
        return None


def _rates(model: ModelMetrics) -> tuple[float | None, ...]:
    return model.acc, model.asr, model.ra

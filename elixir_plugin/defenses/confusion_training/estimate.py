"""Confusion Training, what a run would cost: seconds on this device, measured on a few batches. Nothing is kept."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ...core.case import Case
from ...core.context import Context
from ...training.batches import Samples
from ...training.timing import seconds_of, seconds_per_answer, seconds_per_view
from .data import EVAL_BATCH, fresh_model, kept_apart, reference_recipe
from .rounds import Round, View, base_recipe, confuse
from .schedule import Choice

CYCLES = 2  # of steps with and without an inspected part that are timed


def estimate(case: Case, choice: Choice, context: Context) -> dict[str, Any]:
    """Return the cost of a run, in JSON types.

    :param choice: the schedule, with ``flip: auto`` decided where a reference model is trained.
    :returns: ``schedule``, ``rounds``, ``epochs`` of base models and ``confusion_steps`` over all rounds, ``seconds``
        of each stage, and ``seconds_total``.
    """
    assert case.train is not None and case.clean is not None
    settings = choice.settings
    scratch = Context(seed=context.seed, device=context.device)
    held = kept_apart(case.clean.labels, settings.held_out)
    m, n = len(case.clean) - held, len(case.train) - kept_apart(case.train.labels, settings.untrained_share)
    plans = settings.rounds(n + (held if settings.mixes_in() else 0), case.num_classes, m)
    trained = _trained_on(plans, n + (held if settings.mixes_in() else 0), m)
    model = fresh_model(case, settings, scratch, "estimate")
    fast = settings.pretrain_recipe == "fast"
    recipes = [base_recipe(plan, settings.recipe(), size, fast=fast) for plan, size in zip(plans, trained, strict=True)]
    views = sum(plan.pretrain_epochs * size for plan, size in zip(plans, trained, strict=True))
    steps = sum(plan.steps for plan in plans)
    answers = len(plans) * (len(case.train) + len(case.clean))
    seconds = {}
    if settings.reference == "model" and case.model is None:
        recipe = reference_recipe(settings)
        each = seconds_per_view(fresh_model(case, settings, scratch, "estimate"), case.train, recipe, scratch)
        seconds["train reference"] = recipe.epochs * len(case.train) * each
    seconds |= {
        "pretrain": views * seconds_per_view(model, case.train, recipes[0], scratch),
        "confuse": steps * _seconds_per_step(case, choice, plans[0], scratch),
        "score": answers * seconds_per_answer(model, case.train, EVAL_BATCH),
    }
    return {
        "schedule": "as set" if choice.preset is None else f"that of preset {choice.preset}, for {choice.reason}",
        "rounds": len(plans),
        "epochs": sum(plan.pretrain_epochs for plan in plans),
        "confusion_steps": steps,
        "seconds": seconds,
        "seconds_total": sum(seconds.values()),
    }


def _trained_on(plans: list[Round], n: int, m: int) -> list[int]:
    """Return how many samples each base model is trained on; floors of small classes are left out of account."""
    shares = [1.0, *(plan.keep for plan in plans if plan.keep is not None)]
    return [int(share * n) + (m if plan.shifted else 0) for share, plan in zip(shares, plans, strict=True)]


def _seconds_per_step(case: Case, choice: Choice, plan: Round, context: Context) -> float:
    assert case.train is not None and case.clean is not None
    plan = replace(plan, steps=CYCLES * plan.factor)
    few = [images.subset(np.arange(min(len(images), plan.steps * plan.batch))) for images in (case.train, case.clean)]
    inspected, clean = (View((Samples(each, context.device), np.arange(len(each)), each.labels)) for each in few)
    model, recipe = fresh_model(case, choice.settings, context, "estimate"), choice.settings.recipe()

    def work() -> object:
        return confuse(model, inspected, clean, plan, recipe=recipe, context=context)

    work()
    return seconds_of(work) / plan.steps

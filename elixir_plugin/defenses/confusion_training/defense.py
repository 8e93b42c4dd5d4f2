"""Confusion Training (Qi, Xie, Wang, Wu, Mahloujifar, Mittal, USENIX Security 2023, arXiv 2205.13616).

Training on deliberately mislabelled clean images destroys the ordinary link from image to label. Only samples whose
label follows from something else, a trigger, can still be fitted. Each of K + 1 rounds

1. pretrains a base model on the suspects distilled so far,
2. confuses a copy of it: most of the loss pulls reserved clean images to wrong labels, a small part pulls suspects
   to their own,
3. ranks all suspects by their loss under the confused model and distils the lowest.

Then each class is tested, and isolated samples of flagged classes (those still predicted as their label) are reported.
Where no schedule is named, the size of the suspect set decides (:mod:`.schedule`). Preset ``cifar10`` has that of the
reference code (Unispac/Fight-Poison-With-Poison).

The reference tests a class for being two populations (rule ``ratio``). That needs no poison to fire. Rule
``held_out`` sets clean samples aside that confusion never sees, and flags a class when its suspects are fitted better
than nearly all of those by more than chance; the last few confused models test on their own, and the median counts.
Suspects that were distilled are memorised, so the samples set aside are mixed into the suspects under their own labels
(``mixed_in``): training cannot tell them from clean suspects, both are memorised alike, and comparing them stays
valid. Without that, the rule often fires without poison. Rule ``both`` demands that the two rules
agree; the default, ``guarded``, does so unless the second is beyond doubt. With ``untrained_share``, some suspects are
kept out of the training of all rounds, and the held-out rule tests these alone; but there are fewer samples to learn
from.

Of a flagged class, the reference reports all isolated samples under the last model; here they must be isolated under
the mean of the last models, be fitted better than nearly all held-out samples, and be discoveries at the
false-discovery rate ``fdr``. A class without any is not flagged.
"""

from __future__ import annotations

import copy
import logging
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...core.case import Case
from ...core.classifier.classifier import Classifier
from ...core.context import Context
from ...core.draws import Uncovered
from ...core.images import Index
from ...core.outcome import Outcome
from ...core.panels import Panel
from ...defense import Card, Defense
from ...errors import InputError
from ...training.fit import refuse_unknown_architecture
from .data import PreparedData, RoundCache, fresh_model, model_outputs, prepare, refuse_none_held_out, suspect_model
from .decision import Finding, RoundOutputs, decide
from .estimate import estimate
from .panels import panels_of
from .rounds import Round, View, confuse, train_base
from .schedule import choose
from .scoring import distil, sample_losses
from .settings import ConfusionSettings


class ConfusionTraining(Defense):
    """Find the poison samples of a suspect set with a small reserved clean set."""

    name = "confusion_training"
    kind = "detect"
    needs = frozenset({"train", "clean"})
    Settings = ConfusionSettings
    settings: ConfusionSettings
    card = Card(
        title="Confusion Training",
        paper="Qi, Xie, Wang, Wu, Mahloujifar, Mittal: Towards A Proactive ML Approach for Detecting Backdoor Poison "
        "Samples, USENIX Security 2023, arXiv 2205.13616",
        year=2023,
        claims="finds poison samples of all-to-one backdoors down to 0.3 % of the suspect set, cover samples excepted",
        cost="minutes on a CPU for 2,000 to 10,000 small images; with preset cifar10, about 190 epochs of a "
        "ResNet-18 on CIFAR-10, plus 100 for a suspect model when the case holds none",
        limits="all-to-all poison is missed; clean-label poison is found only where the trigger is learned; classes "
        "that the reserved clean set does not hold are not inspected",
    )

    def check(self, case: Case) -> None:
        if case.num_classes < 2:
            raise InputError("confusion needs a wrong label", where="number of classes", found=1, allowed="2 or more")
        assert case.clean is not None
        refuse_none_held_out(case.clean, self.settings)
        refuse_unknown_architecture(choose(self.settings, case).settings.architecture, case.clean.image_shape[2])

    def about_uncovered(self, case: Case, classes: Uncovered) -> str | None:
        if not classes.missing:
            return None  # of scarce classes, `clean_set_warnings` tells
        return (
            "Classes without any are not inspected: their clean images are never confused, so that being fitted says "
            "nothing, and their poison is not found"
        )

    def trains_augmented(self, case: Case) -> bool:
        return case.model is None and choose(self.settings, case).settings.reference == "model"

    def estimate(self, case: Case, context: Context) -> dict[str, Any]:
        """Return the schedule and what a run would cost, measured on a few batches; nothing is kept.

        See :mod:`.estimate`.
        """
        self.refuse(case)
        return estimate(case, choose(self.settled(case, context).settings, case), context)

    def defend(self, case: Case, context: Context) -> Outcome:
        choice = choose(self.settings, case)
        if choice.preset is not None:
            context.note(choice.sentence(), logging.INFO)
        ready = copy.copy(self)
        ready.settings = choice.settings
        outcome = ready._find(case, context)
        outcome.tables = {**outcome.tables, "schedule": choice.facts()}
        return outcome

    def _find(self, case: Case, context: Context) -> Outcome:
        """Defend *case* under a schedule that is spelled out."""
        data = prepare(case, self.settings, context)
        cache = RoundCache(context, self.settings, case)
        finding = self._search(case, data, cache, context)
        with context.stage("decide"):
            return decide(finding, data, self.settings, context)

    def panels(self, outcome: Outcome) -> list[Panel]:
        return panels_of(outcome, self.settings)

    def _search(self, case: Case, data: PreparedData, cache: RoundCache, context: Context) -> Finding:
        """Train all rounds that *cache* does not hold."""
        settings = self.settings
        trained_rows = data.trained_rows
        plans = settings.rounds(len(trained_rows), data.num_classes, len(data.clean))
        reference = self._reference(case, data, cache, context)
        base = fresh_model(case, settings, context, "base 0")
        kept = trained_rows
        curves: dict[str, list[float]] = {}
        rounds = []
        for plan in plans:
            if not settings.warm_start and plan.number:
                base = fresh_model(case, settings, context, f"base {plan.number}")

            def one_round(
                plan: Round = plan, base: Classifier = base, kept: Index = kept, reference: Index | None = reference
            ) -> tuple[dict[str, Tensor], dict[str, float]]:
                return self._round(plan, base, kept, reference=reference, data=data, context=context)

            found, measured = cache.load_or_make(f"round-{plan.number}", one_round)
            base.module.load_state_dict({name[5:]: each for name, each in found.items() if name.startswith("base.")})
            reference = found["reference"].numpy()
            for name, value in {"distilled": len(kept), **measured}.items():
                curves.setdefault(name, []).append(value)
            rounds.append(RoundOutputs(*(found[name].numpy() for name in ("suspect", "clean", "held_out"))))
            if plan.keep is not None:
                labels = data.pool_labels[trained_rows]
                logits = np.concatenate([rounds[-1].suspect, rounds[-1].held_out])  # held-out rows follow in the pool
                losses = sample_losses(logits[trained_rows], labels)
                kept = trained_rows[distil(losses, labels, data.num_classes, plan.keep, plan.floor)]
        return Finding(rounds, found["features"].numpy(), curves)

    def _reference(self, case: Case, data: PreparedData, cache: RoundCache, context: Context) -> Index | None:
        """Return what the clean samples are predicted as; None: the base model of round 0 will say."""
        if self.settings.reference == "labels":
            return data.clean_labels
        if self.settings.reference == "base0":
            return None

        def predict() -> tuple[dict[str, Tensor], None]:
            model = suspect_model(case, data, self.settings, context)
            return {"reference": model_outputs(model, data.clean)[0].argmax(1)}, None

        return cache.load_or_make("reference", predict)[0]["reference"].numpy()

    def _round(
        self,
        plan: Round,
        base: Classifier,
        kept: Index,
        *,
        reference: Index | None,
        data: PreparedData,
        context: Context,
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Pretrain *base* in place, confuse a copy, and return its outputs and what was measured."""
        settings, labels, n = self.settings, data.labels, len(data.labels)
        distilled = (data.pool, kept, data.pool_labels[kept])
        all_rows = np.arange(len(data.clean))
        shifted = (data.clean, all_rows, (data.clean_labels + 1) % data.num_classes)
        with context.stage("pretrain"):
            known = View(distilled, shifted) if plan.shifted else View(distilled)
            fast = settings.pretrain_recipe == "fast"
            base_curves = train_base(base, known, plan, settings.recipe(), context, fast=fast)
        if reference is None:
            reference = model_outputs(base, data.clean)[0].argmax(1).numpy()
        with context.stage("confuse"):
            confused, curves = confuse(
                base,
                View(distilled),
                View((data.clean, all_rows, reference)),
                plan,
                recipe=settings.recipe(),
                context=context,
                offsets=settings.offsets,
                split=settings.bn_mode == "split",
            )
        with context.stage("score"):
            pool, features = model_outputs(confused, data.pool, features=plan.keep is None)
            clean = model_outputs(confused, data.clean)[0]
            logits, held_out = pool[:n].clone(), pool[n:].clone()
            if data.held_out and not len(held_out):
                held_out = model_outputs(confused, data.held_out)[0]
        measured = {
            "base_loss": base_curves["loss"][-1] if base_curves else float("nan"),
            "confusion_loss": curves["confusion_loss"][-1],
            "confused_accuracy": _accuracy(clean, data.clean_labels),
            "isolated": _accuracy(logits, labels),
        }
        if len(held_out):
            measured["held_out_accuracy"] = _accuracy(held_out, data.held_out_labels)
        tensors = {f"base.{name}": value for name, value in base.module.state_dict().items()}
        tensors |= {
            "suspect": logits,
            "clean": clean,
            "held_out": held_out,
            "reference": torch.from_numpy(np.array(reference)),
        }
        return tensors if features is None else tensors | {"features": features[:n].clone()}, measured


def _accuracy(logits: Tensor, labels: Index) -> float:
    return float((logits.argmax(1).numpy() == labels).mean())

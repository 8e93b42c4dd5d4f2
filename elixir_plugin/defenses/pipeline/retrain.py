"""The step ``retrain``: train a fresh model on the set as the steps before have left it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from pydantic import Field

from ...core.augmentation import Augmentation
from ...core.case import Case
from ...core.classifier.classifier import Classifier
from ...core.context import Context
from ...core.outcome import Outcome
from ...core.settings import Settings
from ...defense import Card, Defense
from ...evaluation.retraining import STAGE, Retraining, fresh_for, trained
from ...training.fit import refuse_unknown_architecture
from ...training.timing import seconds_per_view

RETRAIN = "retrain"


class RetrainSettings(Settings):
    """Settings of the step ``retrain``."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType({"fast": {"recipe": "fast"}})

    recipe: Retraining = Field(Retraining(), description="how; `fast` is a preset of it")


class Retrain(Defense):
    """Train a fresh model on the suspect set it is given; no defense by itself, and not registered as one.

    :ivar added: augmentation that a step before says belongs to training on the set.
    """

    name = RETRAIN
    kind = "train"
    needs = frozenset({"train"})
    Settings = RetrainSettings
    settings: RetrainSettings
    added: Augmentation | None = None
    card = Card(
        title="Training on what is left",
        paper="none: a step of a pipeline",
        year=2025,
        claims="nothing by itself",
        cost="one training",
        limits="what poison the steps before leave is learned",
    )

    def check(self, case: Case) -> None:
        assert case.train is not None
        refuse_unknown_architecture(self.settings.recipe.architecture, case.train.image_shape[2])

    def estimate(self, case: Case, context: Context) -> dict[str, Any]:
        self.refuse(case)
        assert case.train is not None
        recipe = self.settled(case, context).settings.recipe.for_size(len(case.train))
        model = self._start(case, context) or fresh_for(case.train, case, recipe, context)
        seconds = recipe.epochs * len(case.train) * seconds_per_view(model, case.train, recipe, context)
        return {"epochs": recipe.epochs, "seconds_total": seconds}

    def defend(self, case: Case, context: Context) -> Outcome:
        assert case.train is not None
        state = None if context.work_dir is None else context.work_dir / "retrain.checkpoint"
        model, curves = trained(
            case.train,
            case,
            self.settings.recipe,
            context,
            STAGE,
            added=self.added,
            start=self._start(case, context),
            state=state,
        )
        return Outcome(model=model, curves=curves)

    def _start(self, case: Case, context: Context) -> Classifier | None:
        """Return fresh weights for a network that has no name, and is known to its host alone."""
        like = case.model
        if like is None or like.architecture is not None or self.settings.recipe.architecture is not None:
            return None
        return like.clone().to(context.device).fresh(context.derive_seed("retrain", "weights"))

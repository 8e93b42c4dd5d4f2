"""Train a fresh model on the reserved clean set alone: what clean samples are worth without the suspect set."""

from __future__ import annotations

import numpy as np

from ..core.case import Case
from ..core.context import Context
from ..core.draws import Uncovered
from ..core.outcome import Outcome
from ..defense import Card, Defense
from ..evaluation.retraining import Retraining, clean_only
from ..training.fit import refuse_unknown_architecture


class CleanOnlySettings(Retraining):
    """Settings of the baseline ``train_on_clean_only``: those of a retraining, which the control ``clean_only`` has."""


class TrainOnCleanOnly(Defense):
    """Train a fresh model on the reserved clean set alone, for as many steps as on the suspect set; keep none of it."""

    name = "train_on_clean_only"
    kind = "train"
    needs = frozenset({"train", "clean"})
    trains_on_clean = True
    Settings = CleanOnlySettings
    settings: CleanOnlySettings
    card = Card(
        title="Training on clean samples alone",
        paper="none: the control clean_only of purifiers, as a defense",
        year=2023,
        claims="no poison at all; beats every defense that throws away more than it gains",
        cost="one training, of at most ten times as many epochs as on the suspect set",
        limits="accuracy is that of a small set; of the suspect set, only the size counts: it sets the number of steps",
    )

    def check(self, case: Case) -> None:
        assert case.clean is not None
        refuse_unknown_architecture(self.settings.architecture, case.clean.image_shape[2])

    def about_uncovered(self, case: Case, classes: Uncovered) -> str | None:
        return "The trained model does not know such classes"

    def defend(self, case: Case, context: Context) -> Outcome:
        start, like = None, case.model
        if like is not None and like.architecture is None and self.settings.architecture is None:  # known to its host
            start = like.clone().to(context.device).fresh(context.derive_seed("retrain", "weights"))
        model = clean_only(case, self.settings, context, stage="train", start=start)
        return Outcome(kept=np.empty(0, np.int64), model=model)

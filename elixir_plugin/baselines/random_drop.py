"""Drop samples at random: what a detector must beat that drops as many."""

from __future__ import annotations

import numpy as np
import torch
from pydantic import Field

from ..core.case import Case
from ..core.context import Context
from ..core.outcome import Outcome
from ..core.settings import Settings
from ..defense import Card, Defense
from ..errors import InputError


class RandomDropSettings(Settings):
    """Settings of the baseline ``random_drop``."""

    share: float = Field(0.15, gt=0, lt=1, description="of the suspect set, to be flagged")


class RandomDrop(Defense):
    """Flag a share of the suspect set, drawn at random."""

    name = "random_drop"
    kind = "detect"
    needs = frozenset({"train"})
    Settings = RandomDropSettings
    settings: RandomDropSettings
    card = Card(
        title="Random drop",
        paper="none; as many as Spectral Signatures drops where 10 % are expected to be poison (1.5 times as many): "
        "Tran, Li, Madry, NeurIPS 2018, arXiv 1811.00636",
        year=2018,
        claims="nothing; TPR and FPR are the share, AUROC is 50 %",
        cost="none",
        limits="leaves most poison samples in their place",
    )

    def check(self, case: Case) -> None:
        assert case.train is not None
        if len(case.train) < 2:
            raise InputError("nothing would be left", where="case.train", found="1 sample", allowed="2 or more")

    def defend(self, case: Case, context: Context) -> Outcome:
        assert case.train is not None
        n = len(case.train)
        scores = torch.rand(n, generator=context.generator(self.name), dtype=torch.float64).numpy()
        count = min(n - 1, max(1, round(self.settings.share * n)))
        flagged = np.zeros(n, bool)
        flagged[np.argsort(-scores, kind="stable")[:count]] = True
        return Outcome(scores=scores, flagged=flagged)

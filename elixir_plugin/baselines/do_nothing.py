"""Do nothing: the suspect set as it is."""

from __future__ import annotations

from ..core.case import Case
from ..core.context import Context
from ..core.outcome import Outcome
from ..defense import Card, Defense


class DoNothing(Defense):
    """Hand back the suspect set as it is; the model trained on it is the control ``undefended``."""

    name = "do_nothing"
    kind = "purify"
    needs = frozenset({"train"})
    card = Card(
        title="Do nothing",
        paper="none: the zero of every table",
        year=2023,
        claims="nothing; shows what the recipe of the retraining alone makes of the poison",
        cost="none",
        limits="leaves every poison sample in its place",
    )

    def defend(self, case: Case, context: Context) -> Outcome:
        return Outcome(train=case.train)

"""Fine-tuning: train the suspect model further on the reserved clean set, all weights, with ordinary loss.

The method ``ft`` of BackdoorBench (Wu et al., NeurIPS 2022, arXiv 2206.12654), whose settings are the defaults.
"""

from __future__ import annotations

from ..core.case import Case
from ..core.classifier.modes import unfreeze
from ..core.context import Context
from ..core.draws import Uncovered
from ..core.outcome import Outcome
from ..defense import Card, Defense
from ..training.fit import learn
from .clean_training import CleanTraining


class FinetuneSettings(CleanTraining):
    """Settings of the baseline ``finetune``; the defaults are those of BackdoorBench's ``ft``."""


class Finetune(Defense):
    """Train all weights of the suspect model further on the reserved clean set."""

    name = "finetune"
    kind = "repair"
    needs = frozenset({"model", "clean"})
    trains_on_clean = True
    Settings = FinetuneSettings
    settings: FinetuneSettings
    card = Card(
        title="Fine-tuning",
        paper="Wu et al.: BackdoorBench: A Comprehensive Benchmark of Backdoor Learning, NeurIPS 2022, arXiv "
        "2206.12654 (method ft)",
        year=2022,
        claims="removes weak backdoors: BadNets and input-aware at 10 % poison to 1–2 % ASR with 5 % clean data (table "
        "of D3's paper, second-hand)",
        cost="100 epochs on the reserved clean set",
        limits="leaves blended, LF and SSBA in place (74–96 % ASR in the same table); with few steps, most others too",
    )

    def about_uncovered(self, case: Case, classes: Uncovered) -> str | None:
        return "The repaired model forgets such classes"

    def defend(self, case: Case, context: Context) -> Outcome:
        assert case.model is not None and case.clean is not None
        model = case.model.clone().to(context.device)
        unfreeze(model)
        recipe = self.settings.recipe(len(case.clean))
        return Outcome(curves=learn(model, case.clean, recipe, context, name=self.name, stage=self.name), model=model)

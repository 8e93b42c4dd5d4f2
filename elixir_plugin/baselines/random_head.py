"""A random head: draw the last linear layer anew, and train it alone on the reserved clean set.

What D3 must beat, whose descent starts from a random head too. Here nothing pulls away from the received weights, no
norm is held, and no other weight moves.
"""

from __future__ import annotations

from torch import nn

from ..core.case import Case
from ..core.classifier.classifier import Classifier, to_batch
from ..core.classifier.fresh import drawing, reset
from ..core.context import Context
from ..core.draws import Uncovered
from ..core.outcome import Outcome
from ..defense import Card, Defense
from ..training.fit import learn
from .clean_training import CleanTraining


class RandomHeadSettings(CleanTraining):
    """Settings of the baseline ``random_head``."""


class RandomHead(Defense):
    """Draw the classification layer of the suspect model anew, and fit it to the reserved clean set."""

    name = "random_head"
    kind = "repair"
    needs = frozenset({"model", "clean"})
    trains_on_clean = True
    Settings = RandomHeadSettings
    settings: RandomHeadSettings
    card = Card(
        title="Random head",
        paper="none of its own: the control for D3 (Wei, Liu, Zha, ICCV 2025, arXiv 2411.09585), which begins with it",
        year=2025,
        claims="forgets what the head alone knows of a trigger, and keeps the features",
        cost="100 epochs of forward passes over the reserved clean set; one layer learns",
        limits="features that tell triggered images apart stay, and the head may find them again; costs accuracy on "
        "small clean sets",
    )

    def about_uncovered(self, case: Case, classes: Uncovered) -> str | None:
        return "The repaired model knows such classes no more"

    def defend(self, case: Case, context: Context) -> Outcome:
        assert case.model is not None and case.clean is not None
        model = case.model.clone()
        name, head = _head(model, case)
        with drawing(context.derive_seed(self.name, "head")):
            reset(head)
        model.requires_grad_(False)
        head.requires_grad_(True)
        recipe = self.settings.recipe(len(case.clean))
        curves = learn(
            model.to(context.device), case.clean, recipe, context, name=self.name, stage=self.name, eval_mode=True
        )
        return Outcome(curves=curves, tables={"head": name}, model=model)


def _head(model: Classifier, case: Case) -> tuple[str, nn.Module]:
    """Return name and module of the classification layer."""
    assert case.clean is not None
    name = model.head(to_batch(case.clean.read(slice(0, 2)), model.device))
    return name, model.module.get_submodule(name)

"""Drop a whole class: the trivial opponent of detectors and purifiers of all-to-one backdoors.

Without the target class there is no backdoor, at the price of that class. Which class it is, a cheap rule guesses; it
sees nothing but the suspect set:

- ``loss``: the class that most of the samples have which a small model fits best after a few epochs. Triggers are
  learned before anything else, so that the lowest losses are those of poison samples (Li et al., NeurIPS 2021, arXiv
  2110.11571), and these all lie in the target class. The mean loss of a class says less: an easy class has a lower one.
- ``count``: the largest class. Dirty-label poison adds to its target, and benchmarks begin with classes of one size.

Neither says that there is poison: one class is always dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field

from ..core.augmentation import Augmentation
from ..core.case import Case
from ..core.context import Context
from ..core.images import ImageSet
from ..core.outcome import Outcome
from ..core.settings import Settings
from ..defense import Card, Defense
from ..errors import InputError
from ..training.fit import learn, refuse_unknown_architecture, untrained
from ..training.loop import Recipe


class DropClassSettings(Settings):
    """Settings of the baseline ``drop_class``."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"count": {"rule": "count"}}
    basic = ("label", "rule", "isolated", "architecture", "recipe.epochs")

    label: int | None = Field(None, ge=0, description="the class to drop; default: what `rule` says")
    rule: Literal["loss", "count"] = Field(
        "loss", description="drop the class of most of the samples that a small model fits best, or the largest"
    )
    isolated: float = Field(0.05, gt=0, le=1, description="share of the suspect set that counts as fitted best")
    architecture: str = Field("small_resnet", description="of the model of rule `loss`")
    recipe: Recipe = Field(
        Recipe(epochs=8, batch_size=64, lr=0.05, augmentation=Augmentation()),
        description="how the model of rule `loss` is trained",
    )


class DropClass(Defense):
    """Flag every sample of the class that looks most suspicious."""

    name = "drop_class"
    kind = "detect"
    needs = frozenset({"train"})
    Settings = DropClassSettings
    settings: DropClassSettings
    card = Card(
        title="Drop a class",
        paper="none; the rule `loss` after Li et al.: Anti-Backdoor Learning: Training Clean Models on Poisoned Data, "
        "NeurIPS 2021, arXiv 2110.11571",
        year=2021,
        claims="ends every all-to-one backdoor whose target it guesses: all poison samples are flagged",
        cost="a few epochs of a small network, or none; the accuracy of one class",
        limits="always drops a class, also of a clean set; guesses wrongly where poison is rare, clean-label or has "
        "several targets, or where a class is easy or large by nature",
    )

    def check(self, case: Case) -> None:
        assert case.train is not None
        counts, label = case.train.class_counts(), self.settings.label
        if (counts > 0).sum() < 2:
            raise InputError("nothing would be left", where="case.train", found="1 class", allowed="2 or more")
        if label is not None and (label >= len(counts) or not counts[label]):
            raise InputError(
                "no sample of the class to drop",
                where="label",
                found=label,
                allowed=", ".join(map(str, np.flatnonzero(counts)[:20])),
                hint="leave out label: a rule finds one",
            )
        if label is None and self.settings.rule == "loss":
            refuse_unknown_architecture(self.settings.architecture, case.train.image_shape[2])

    def trains_augmented(self, case: Case) -> bool:
        return self.settings.label is None and self.settings.rule == "loss"

    def defend(self, case: Case, context: Context) -> Outcome:
        assert case.train is not None
        train, counts = case.train, case.train.class_counts()
        curves: dict[str, list[float]] = {}
        if self.settings.label is not None:
            suspicion = (np.arange(len(counts)) == self.settings.label).astype(np.float64)
        elif self.settings.rule == "count":
            suspicion = counts.astype(np.float64)
        else:
            suspicion, curves = self._shares(train, context)
        dropped = int(suspicion.argmax())
        rows = [
            {"class": label, "samples": int(counts[label]), "suspicion": float(suspicion[label])}
            for label in np.flatnonzero(counts).tolist()
        ]
        return Outcome(
            scores=suspicion[train.labels],
            flagged=train.labels == dropped,
            curves=curves,
            tables={"dropped": dropped, "per_class": rows},
        )

    def _shares(self, train: ImageSet, context: Context) -> tuple[NDArray[np.float64], dict[str, list[float]]]:
        """Return which shares ``[num_classes]`` the classes have of the samples with the lowest cross-entropy."""
        seed = context.derive_seed(self.name, "weights")
        model = untrained(train, self.settings.architecture, seed, context.device)
        curves = learn(model, train, self.settings.recipe, context, name=self.name, stage="train")
        with context.stage("score"):
            logits, labels = torch.from_numpy(model.predict(train)), torch.tensor(train.labels)
            losses = F.cross_entropy(logits, labels, reduction="none").numpy()
        best = np.argsort(losses, kind="stable")[: max(1, round(self.settings.isolated * len(train)))]
        return np.bincount(train.labels[best], minlength=train.num_classes) / len(best), curves

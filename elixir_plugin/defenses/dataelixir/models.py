"""DataElixir, the classifiers it trains: the probe, the benign model in two stages, and the final model.

All have the architecture of the probe. A state is kept in the work folder while they train, so that a killed run goes
on where it was.
"""

from __future__ import annotations

from pathlib import Path

from ...core.case import Case, ImageSet
from ...core.classifier.classifier import Classifier
from ...core.context import Context
from ...training.fit import learn, untrained
from ...training.loop import Recipe
from .settings import DataElixirSettings


class Trainer:
    """Trains classifiers under the settings.

    :param folder: where states go, or None.
    :ivar probe: the classifier that votes; set by :meth:`make_probe`.
    :ivar curves: of all trainings so far.
    """

    probe: Classifier

    def __init__(self, settings: DataElixirSettings, context: Context, folder: Path | None) -> None:
        self.settings, self.context, self._folder = settings, context, folder
        self.curves: dict[str, list[float]] = {}

    def make_probe(self, case: Case) -> Classifier:
        """Return the classifier that votes: the case's model, or one trained on the suspect set as it is."""
        assert case.train is not None
        if self.settings.probe == "case":
            assert case.model is not None
            self.probe = case.model.clone().to(self.context.device).eval()
        else:
            self.probe = self.learn(case.train, fresh_classifier(case, self.settings, self.context), "probe")
        return self.probe

    def learn(self, images: ImageSet, model: Classifier, name: str, lr: float | None = None) -> Classifier:
        """Train *model* in place on *images* and return it, in eval mode.

        :param name: of the stage, its random draws and its curves.
        :param lr: instead of the recipe's; schedule and optimiser start anew all the same.
        """
        full = f"dataelixir-{name}"
        plan: Recipe = self.settings.recipe
        if lr is not None:
            plan = plan.model_copy(update={"lr": lr})
        state = None if self._folder is None else self._folder / f"{name}.checkpoint"
        curves = learn(model, images, plan, self.context, name=full, stage=f"train {name}", state=state)
        self.curves |= {f"{name}_{key}": values for key, values in curves.items()}
        return model

    def fresh(self, name: str) -> Classifier:
        """Return the probe's architecture with new weights drawn under *name*."""
        return self.probe.fresh(self.context.derive_seed("dataelixir", "weights", name))


def fresh_classifier(case: Case, settings: DataElixirSettings, context: Context) -> Classifier:
    """Return an untrained probe: the named architecture, else that of the case's model, else preactresnet18."""
    seed = context.derive_seed("dataelixir", "weights", "probe")
    return untrained(case, settings.architecture, seed, context.device)

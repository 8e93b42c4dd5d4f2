"""The descent of D3: one round, or two for a model that is still learning.

Section and equation numbers are those of the paper, see :mod:`elixir_plugin.defenses.d3.defense`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.augmentation import Augmentation
from ...core.classifier.classifier import Classifier
from ...core.context import Context
from ...core.images import ImageSet
from ...training.batches import Batch, BatchSource, Samples, ShuffledBatches, few_images_batch
from ...training.loop import Losses, Recipe, train
from .multiplier import Multiplier, PartThenAll
from .protect import Protection
from .settings import D3Settings
from .weights import TINY, Selected, at_least_float32, mean_distance

FASTER = 5.0  # by what the learning rate is higher in a second round
REACHED = (
    "on embedded digits, 30 steps cost 39 points of accuracy or more and left up to 62 % ASR, 100 steps cost 6 points "
    "or more and left up to 70 %; without steps or epochs, D3 makes at least 250, and more where the model is still "
    "learning"
)
SHORT = 150  # steps, below which a descent of a given length comes with a warning
FEWEST, MOST = 250, 1000  # steps of one round; the released settings make 1,000 on 2,500 samples, 5 % of CIFAR-10
Curves = dict[str, list[float]]


@dataclass(frozen=True)
class Descent:
    """Moves the selected weights away from where they were received while the clean loss is held.

    :param model: what is trained, in place.
    :param selected: the weights that move away.
    :param clean: the reserved clean set.
    :param protection: of classes that it lacks.
    :param multiplier: λ, where the settings leave it open.
    """

    model: Classifier
    selected: list[Selected]
    clean: ImageSet
    settings: D3Settings
    context: Context
    protection: Protection | None = None
    multiplier: Multiplier | None = None

    def run(self) -> Curves:
        """Make all steps, and return the curves."""
        settings, all_clean = self.settings, self._batches(self._together, "d3")
        steps = settings.steps or default_steps(len(self._together))
        if self.multiplier is None:
            curves = self._train("d3", all_clean, settings.epochs or math.ceil(steps / all_clean.steps))
        else:
            curves = self._with_multiplier(self.multiplier, all_clean, steps)
        if settings.warm_up == "near" and curves["penalty"][0] == 0:
            self.context.note(
                "start at the received weights with every clean loss below ε: there is no gradient to leave by"
            )
        return curves

    def _with_multiplier(self, multiplier: Multiplier, all_clean: ShuffledBatches, steps: int) -> Curves:
        """Find λ on the way, and make another round where :attr:`Multiplier.learning` says so."""
        settings = self.settings
        part = self._batches(multiplier.rest(self._together), "d3")
        source = PartThenAll(part, all_clean, steps=steps, epochs=settings.epochs)
        multiplier.until = source.first_steps
        length_given = settings.steps is not None or settings.epochs is not None
        if length_given and source.all_steps < SHORT:
            self.context.note(f"{source.all_steps} steps are a short descent: {REACHED}")
        one_round = length_given or steps >= MOST  # as long as the released settings is enough
        until = None if one_round else source.after_part(lambda: multiplier.learning)
        curves = self._train("d3", source, source.epochs, until=until)
        if len(curves["loss"]) < source.epochs:
            curves = _joined(curves, *self._another_round(multiplier, source))
        return curves

    def _another_round(self, multiplier: Multiplier, first: PartThenAll) -> tuple[Curves, Curves]:
        """Make as many steps again, faster, and as many on all reserved samples in place of the last ones."""
        multiplier.begin_another()
        part = self._batches(multiplier.rest(self._together), "d3 again")
        everything = self._batches(self._together, "d3 again")
        lr = FASTER * self.settings.lr
        again = self._train("d3 again", part, first.switch, lr=lr, schedule="constant")
        return again, self._train("d3 last", everything, math.ceil(first.first_steps / everything.steps), lr=lr)

    def _train(
        self, name: str, source: BatchSource, epochs: int, *, until: Callable[[int], bool] | None = None, **changes: Any
    ) -> Curves:
        settings, multiplier = self.settings, self.multiplier
        recipe = Recipe(
            epochs=epochs,
            batch_size=self._batch_size,
            lr=settings.lr,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            schedule="cosine",
            augmentation=self._augmentation,
            precision=settings.precision,
            channels_last=settings.channels_last,
        )
        return train(
            self.model,
            source,
            recipe.model_copy(update=changes),
            self.context,
            objective=d3_objective(settings, self.selected, None if multiplier is None else multiplier.value),
            after_step=self._after_step,
            until=until,
            no_decay=[each.weight for each in self.selected],
            eval_mode=settings.bn_eval,
            name=name,
        )

    def _after_step(self) -> None:
        if self.protection is not None:
            self.protection.restore()
        if self.settings.project:
            project(self.selected, self.settings.p)
        if self.multiplier is not None:
            self.multiplier.after_step(self.model, lambda: mean_distance(self.selected, self.settings.p))

    @property
    def _together(self) -> ImageSet:
        return self.clean if self.protection is None else self.protection.clean

    @property
    def _batch_size(self) -> int:
        return self.settings.batch_size or few_images_batch(len(self._together))

    @property
    def _augmentation(self) -> Augmentation:
        augmentation = self.settings.augmentation
        if self.multiplier is None:
            return augmentation
        most = int(self.settings.crop_limit * min(self.clean.image_shape[:2]))
        return augmentation.model_copy(update={"crop": min(most, augmentation.crop)})

    def _batches(self, images: ImageSet, name: str) -> ShuffledBatches:
        samples = Samples(images, self.context.device)
        return ShuffledBatches(samples, self._batch_size, self.context, self._augmentation, name)


def _joined(*parts: Curves) -> Curves:
    return {name: [value for part in parts for value in part[name]] for name in parts[0]}


def default_steps(samples: int) -> int:
    """Return how many steps to make on so many reserved samples: in proportion to their number, within limits.

    Small sets are learned by heart: the more steps, the more accuracy is lost, and the more of a backdoor comes back.

    >>> [default_steps(samples) for samples in (250, 1200, 2500, 50_000)]
    [250, 480, 1000, 1000]
    """
    return min(MOST, max(FEWEST, round(MOST * samples / 2500)))


def d3_objective(
    settings: D3Settings, selected: list[Selected], multiplier: Tensor | None = None
) -> Callable[[nn.Module, Batch], Losses]:
    """Return J = λ·h − Σ_i ‖W_i − W_i⁰‖_p, divided by λ + 1 when λ > 1; h is the hinged clean loss.

    :param multiplier: λ where the settings leave it open; read at every step, and J is divided by 3 λ, so that the
        body learns as fast under every λ.
    """
    lam = settings.lam if multiplier is None else multiplier
    assert not isinstance(lam, str)

    def scale() -> Tensor | float:
        if multiplier is not None:
            return 1 / (3 * multiplier) if settings.scale_objective else 1.0
        return 1 / (lam + 1) if settings.scale_objective and lam > 1 else 1.0

    def objective(model: nn.Module, batch: Batch) -> Losses:
        losses = F.cross_entropy(at_least_float32(model(batch.images)), batch.targets, reduction="none")
        if settings.hinge == "sample":
            penalty = F.relu(losses - settings.eps).mean()
        else:
            penalty = F.relu(losses.mean() - settings.eps)
        distances = [(at_least_float32(each.value) - each.received).norm(p=settings.p) for each in selected]
        value = lam * penalty
        if settings.distance:
            value = value - torch.stack(distances).sum()
        ratios = {
            f"distance/{each.name}": distance.detach() / each.norm
            for each, distance in zip(selected, distances, strict=True)
        }
        return {"loss": value * scale(), "clean_loss": losses.mean(), "penalty": penalty, **ratios}

    return objective


@torch.no_grad()
def project(selected: list[Selected], p: float) -> None:
    """Rescale each weight to the norm it was received with (Euclidean projection for p = 2).

    A weight that a step took to zero has no direction and returns to its value before that step.
    """
    for each in selected:
        value = each.value
        norm = at_least_float32(value).norm(p=p)
        scaled = value * (each.norm / norm.clamp_min(TINY))
        # no branch, so that the host never waits for the device; a NaN norm passes, and stops the training
        each.previous = torch.where((norm < TINY).logical_not(), scaled, each.previous)
        each.set(each.previous)

"""Error-minimising noise: so easy to learn that nothing is left to learn from the images."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from ..core import settings as config
from ..core.classifier.classifier import Classifier, to_batch
from ..core.classifier.modes import evaluating
from ..core.context import Context
from ..core.images import ImageSet, Index
from ..training.batches import Batch, Samples, ShuffledBatches
from ..training.loop import Recipe, train
from .base import Pixels
from .indiscriminate import Indiscriminate, IndiscriminateSettings
from .keeping import Arrays
from .learning import Learning
from .surrogate import BATCH, Descent, Surrogate, untrained_surrogate

ALTERNATING = {
    "epochs": 100,
    "batch_size": 128,
    "least_steps": 32,
    "lr": 0.1,
    "schedule": "constant",
    "precision": "float32",
}


class EMSettings(IndiscriminateSettings):
    """Settings of :class:`EM`. The preset ``class_wise`` is the released command for class-wise noise.

    :param epsilon: max |δ|, pixel scale.
    :param per: ``sample``: each image has noise of its own. ``class``: all images of a class have the same.
    :param steps: of descent on the noise per round, each a tenth of the budget.
    :param model_steps: training steps of the model per round.
    :param stop_error: training error on the noisy set below which the rounds end.
    :param surrogate: the attacker's model; ``epochs`` of its recipe is the highest number of rounds.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
        {"class_wise": {"per": "class", "steps": 1, "stop_error": 0.1}}
    )

    epsilon: float = Field(8 / 255, ge=1 / 255, le=1)
    per: Literal["sample", "class"] = "sample"
    steps: int = Field(20, ge=1)
    model_steps: int = Field(10, ge=1)
    stop_error: float = Field(0.01, ge=0, le=1)
    surrogate: Surrogate = Surrogate(recipe=Recipe.build(ALTERNATING))


class EM(Learning, Indiscriminate):
    """Noise that makes the loss of the model in training as small as it can; the labels stay.

    Huang, Ma, Erfani, Bailey and Wang, "Unlearnable Examples: Making Personal Data Unexploitable", ICLR 2021, arXiv
    2101.04898. Rounds of ``model_steps`` training steps on the noisy images and of descent on the noise of all images
    follow each other, until the model errs on less than ``stop_error`` of the noisy set. A round costs as much as
    ``steps`` epochs of training. Class-wise noise moves along the sign of the gradient over the images of a batch; the
    released code averages over what each image's own noise would be.
    """

    name: ClassVar[str] = "em"
    Settings: ClassVar[type[config.Settings]] = EMSettings
    settings: EMSettings

    def learn(self, train: ImageSet, context: Context) -> Arrays:
        model = untrained_surrogate(train, self.settings.surrogate, context)
        alternation = _Alternation(model, train, self.settings, context)
        alternation.run()
        return {"ids": train.ids, "noise": alternation.descent.whole(alternation.noise)}

    def trigger(self, images: Pixels, labels: Index, ids: Index) -> Pixels:
        if self.settings.per == "sample":
            return images + self.noise(ids)
        return images + self.known("noise")[labels].astype(np.float32) / np.float32(255)


class _Enough(Exception):
    """Ends the training once the noise is learned."""


class _Alternation:
    """The rounds: each epoch of the training loop is one, and the noise moves at its end.

    :ivar noise: float32 ``[N, C, H, W]``, or ``[K, C, H, W]`` one for each class.
    """

    def __init__(self, model: Classifier, images: ImageSet, settings: EMSettings, context: Context) -> None:
        self.model, self.settings, self.context = model, settings, context
        self.samples = Samples(images, context.device)
        height, width, channels = images.image_shape
        count = len(images) if settings.per == "sample" else images.num_classes
        self.noise = torch.zeros(count, channels, height, width, device=context.device)
        self.descent = Descent(settings.epsilon, settings.steps, 0.1)
        self.error = math.inf

    @property
    def device(self) -> torch.device:
        return self.samples.device

    @property
    def targets(self) -> Tensor:
        return self.samples.targets

    def __len__(self) -> int:
        return len(self.samples)

    def pixels(self, rows: Tensor) -> Tensor:
        """Return the noisy images at *rows*, float32 ``[B, H, W, C]``: what the model trains on."""
        clean = to_batch(self.samples.pixels(rows), self.device)
        return (clean + self.noise[self._noise_of(rows)]).clamp_(0, 1).permute(0, 2, 3, 1)

    def run(self) -> None:
        recipe = self.settings.surrogate.recipe.for_size(len(self))
        batches = ShuffledBatches(self, recipe.batch_size, self.context, recipe.augmentation, "em")
        with self.context.stage("noise"):
            try:
                source = _Steps(batches, self.settings.model_steps)
                train(self.model, source, recipe, self.context, on_epoch=self._round, name="em")
            except _Enough:
                return
        self.context.note(f"em: training error on the noisy set is still {self.error:.1%} after {recipe.epochs} rounds")

    def _round(self, _number: int) -> None:
        weights = list(self.model.parameters())
        with evaluating(self.model):
            for each in weights:
                each.requires_grad_(False)
            for rows in torch.split(torch.arange(len(self), device=self.device), BATCH):
                self._descend(rows)
            self.error = self._training_error()
            for each in weights:
                each.requires_grad_(True)
        if self.error < self.settings.stop_error:
            raise _Enough

    def _descend(self, rows: Tensor) -> None:
        images, labels = to_batch(self.samples.pixels(rows), self.device), self.targets[rows]

        def loss(logits: Tensor) -> Tensor:
            return F.cross_entropy(logits, labels, reduction="sum")

        if self.settings.per == "sample":
            self.noise[rows] = self.descent(self.model, images, self.noise[rows], loss)
        else:
            self.noise = self.descent(self.model, images, self.noise, loss, labels)

    def _training_error(self) -> float:
        wrong = torch.zeros((), device=self.device)
        with torch.no_grad():
            for rows in torch.split(torch.arange(len(self), device=self.device), BATCH):
                logits = self.model(to_batch(self.pixels(rows), self.device))
                wrong += (logits.argmax(1) != self.targets[rows]).sum()
        return float(wrong) / len(self)

    def _noise_of(self, rows: Tensor) -> Tensor:
        return rows if self.settings.per == "sample" else self.targets[rows]


class _Steps:
    """A source whose epochs have *steps* batches, and go on where the one before ended."""

    def __init__(self, source: ShuffledBatches, steps: int) -> None:
        self.steps, self._source = steps, source

    def epoch(self, number: int) -> Iterator[Batch]:
        passes, done = divmod(number * self.steps, self._source.steps)
        batches = itertools.chain.from_iterable(map(self._source.epoch, itertools.count(passes)))
        return itertools.islice(batches, done, done + self.steps)

"""Targeted adversarial poisoning: every image shows a trained model another class."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from ..core import settings as config
from ..core.context import Context
from ..core.images import ImageSet, Index
from ..errors import SettingsError
from .base import Pixels
from .indiscriminate import Indiscriminate, IndiscriminateSettings
from .keeping import Arrays
from .learning import Learning
from .surrogate import Descent, Surrogate, noise_against, trained_surrogate

_STEP = 2.5  # budgets that all steps together could go


class TAPSettings(IndiscriminateSettings):
    """Settings of :class:`TAP`.

    :param epsilon: max |δ|, pixel scale.
    :param steps: of projected gradient descent; 250 in the paper.
    :param shift: an image of class ``y`` of ``K`` is led to class ``(y + shift) mod K``.
    :param surrogate: the attacker's model.
    """

    epsilon: float = Field(8 / 255, ge=1 / 255, le=1)
    steps: int = Field(30, ge=1)
    shift: int = Field(1, ge=1)
    surrogate: Surrogate = Surrogate()


class TAP(Learning, Indiscriminate):
    """Adversarial noise that leads a model trained on the unpoisoned set to the next class; the labels stay.

    Fowl, Goldblum, Chiang, Geiping, Czaja and Goldstein, "Adversarial Examples Make Strong Poisons", NeurIPS 2021,
    arXiv 2106.10807, the class-targeted variant, with the label permutation of the released code. Whoever trains on
    the set learns that the features of one class mean another. Theirs has restarts and differentiable augmentation.
    """

    name: ClassVar[str] = "tap"
    Settings: ClassVar[type[config.Settings]] = TAPSettings
    settings: TAPSettings

    def learn(self, train: ImageSet, context: Context) -> Arrays:
        settings, classes = self.settings, train.num_classes
        if classes > 1 and settings.shift % classes == 0:
            raise SettingsError(
                "the shift leads every class to itself",
                where="settings of poison tap: shift",
                found=settings.shift,
                allowed=f"no multiple of {classes}",
            )
        model = trained_surrogate(train, settings.surrogate, context)
        descent = Descent(settings.epsilon, settings.steps, _STEP / settings.steps)
        wanted = (train.labels + settings.shift) % classes
        rows = np.arange(len(train))
        return {"ids": train.ids, "noise": noise_against(model, train, rows, wanted, descent=descent, context=context)}

    def trigger(self, images: Pixels, labels: Index, ids: Index) -> Pixels:
        return images + self.noise(ids)

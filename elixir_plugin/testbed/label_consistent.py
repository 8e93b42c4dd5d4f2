"""The label-consistent backdoor: samples of the target class, made hard to recognise, learn to rely on a patch."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from ..core import settings as config
from ..core.context import Context
from ..core.images import ImageSet, Index
from ..errors import SettingsError
from .base import Backdoor, BackdoorSettings, Pixels
from .indiscriminate import Norm
from .keeping import Arrays
from .learning import Learning
from .surrogate import Descent, Surrogate, noise_against, trained_surrogate

EDGE = 3  # of the patch, in pixels
_SIGNS = np.array([[1, -1, -1], [-1, 1, -1], [1, -1, 1]], np.float32)  # upper left; the others are its mirror images
_STEP = 1.5  # budgets that all steps together could go

BUDGETS: dict[str, dict[str, Any]] = {  # of the released sets for CIFAR-10
    **{f"l2_{size}": {"norm": "l2", "epsilon": size / 255} for size in (300, 600, 1200)},
    **{f"linf_{size}": {"norm": "linf", "epsilon": size / 255} for size in (8, 16, 32)},
}


class LabelConsistentSettings(BackdoorSettings):
    """Settings of :class:`LabelConsistent`. The presets are the budgets of the authors' released sets.

    :param rate: share of *all* training samples that is poisoned; the target class must hold as many.
    :param epsilon: size of the adversarial noise, pixel scale. For ``l2`` it is ‖δ‖₂ at 32×32 RGB; other sizes get
        ε·√(HWC/3072).
    :param norm: ``l2`` or ``linf``.
    :param steps: of projected gradient descent.
    :param robust_steps: steps of descent, within the same budget, that the attacker's model learns to withstand; 0: it
        trains on unchanged images, and its noise plants next to nothing in another model.
    :param corners: where the patch is: in ``all`` four corners, or ``lower_right``.
    :param amplitude: what the patch adds to its white pixels and takes from its black ones; 1 replaces them.
    :param test_amplitude: the same at test time; None: as in training.
    :param surrogate: the attacker's model.
    :param pattern_seed: decides the weights of that model, and its training.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(BUDGETS)

    rate: float = Field(0.025, ge=0, le=1)
    labels: Literal["clean_label"] = "clean_label"
    epsilon: float = Field(16 / 255, ge=1 / 255, allow_inf_nan=False)
    norm: Norm = "linf"
    steps: int = Field(40, ge=1)
    robust_steps: int = Field(2, ge=0)
    corners: Literal["all", "lower_right"] = "all"
    amplitude: float = Field(1.0, gt=0, le=1)
    test_amplitude: float | None = Field(None, gt=0, le=1)
    surrogate: Surrogate = Surrogate()
    pattern_seed: int = 0


class LabelConsistent(Learning, Backdoor):
    """Adversarial noise and a small black-and-white patch on samples of the target class, whose labels stay.

    Turner, Tsipras and Madry, "Label-Consistent Backdoor Attacks", arXiv 1912.02771. The noise leads the attacker's
    model away from the label, so that the patch is the easier thing to learn. That model is trained on the unpoisoned
    set to withstand such noise, because only then does the noise change what images show to other models too. At test
    time the attacker shows the patch alone. Patch, amplitudes and budgets are those of the released code and sets. All
    samples of the target class get their noise, whichever are chosen, so that it serves every seed and rate.
    """

    name: ClassVar[str] = "label_consistent"
    Settings: ClassVar[type[config.Settings]] = LabelConsistentSettings
    settings: LabelConsistentSettings
    unlearned = frozenset({"rate", "labels", "corners", "amplitude", "test_amplitude"})

    def learn(self, train: ImageSet, context: Context) -> Arrays:
        self._refuse_foreign_target(train.num_classes)
        settings = self.settings
        self._refuse_small(*train.image_shape[:2])
        against = self._descent(settings.robust_steps) if settings.robust_steps else None
        model = trained_surrogate(train, settings.surrogate, context, against)
        rows = np.flatnonzero(train.labels == settings.target)
        descent = self._descent(settings.steps)
        labels = train.labels[rows]
        noise = noise_against(model, train, rows, labels, descent=descent, context=context, away=True)
        return {"ids": train.ids[rows], "noise": noise}

    def _descent(self, steps: int) -> Descent:
        return Descent(self.settings.epsilon, steps, _STEP / steps, self.settings.norm)

    def trigger(self, images: Pixels, labels: Index, ids: Index) -> Pixels:
        return self._patched(images + self.noise(ids), self.settings.amplitude)

    def test_trigger(self, images: Pixels, labels: Index, ids: Index) -> Pixels:
        amplitude = self.settings.test_amplitude
        return self._patched(images, self.settings.amplitude if amplitude is None else amplitude)

    def _patched(self, images: Pixels, amplitude: float) -> Pixels:
        """Return copies with the patch, clipped to [0, 1]."""
        height, width = images.shape[1:3]
        self._refuse_small(height, width)
        signs = np.zeros((height, width), np.float32)
        signs[-EDGE:, -EDGE:] = _SIGNS[::-1, ::-1]
        if self.settings.corners == "all":
            signs[:EDGE, :EDGE] = _SIGNS
            signs[:EDGE, -EDGE:] = _SIGNS[:, ::-1]
            signs[-EDGE:, :EDGE] = _SIGNS[::-1]
        out: Pixels = np.clip(images.clip(0, 1) + np.float32(amplitude) * signs[..., None], 0, 1)
        return out

    def _refuse_small(self, height: int, width: int) -> None:
        if min(height, width) < 2 * EDGE:
            raise SettingsError(
                "the patches overlap",
                where="poison label_consistent",
                found=f"images of {height}×{width} pixels",
                allowed=f"{2 * EDGE}×{2 * EDGE} pixels or more",
            )

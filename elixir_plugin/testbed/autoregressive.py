"""Autoregressive poison: noise in which every value is a fixed linear function of its neighbours above and left."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from ..core import settings as config
from ..core.case import Index
from .ar_windows import class_window, filled
from .indiscriminate import Additive, BudgetSettings
from .patterns import Values, rescaled, sample_normals


class ARSettings(BudgetSettings):
    """Settings of :class:`AR`. The default is the paper's: ‖δ‖₂ = 1 at 32×32 RGB."""


class AR(Additive):
    """Noise from an autoregressive process per class, with a fresh start for every image.

    Sandoval-Segura, Singla, Geiping, Goldblum, Goldstein and Jacobs, "Autoregressive Perturbations for Data
    Poisoning", NeurIPS 2022, arXiv 2206.03693. Class and channel have a 3×3 window ``b``, ``b[2, 2] = 0``, entries
    standard normal, divided by their sum, screened. A canvas of normal noise, 4 pixels larger than the image, is
    filled in raster order, ``canvas[r+2, c+2] = Σ b[u, v] · canvas[r+u, c+v]``, and loses its first 4 rows and
    columns. L∞ differs from class to class: 14–34 / 255 at 32×32.
    """

    name: ClassVar[str] = "ar"
    Settings: ClassVar[type[config.Settings]] = ARSettings
    settings: ARSettings

    def delta(self, labels: Index, ids: Index, shape: tuple[int, int, int]) -> Values:
        height, width, channels = shape
        normals = sample_normals(self._seed("samples"), ids, (height + 4, width + 4, channels))
        classes, place = np.unique(labels, return_inverse=True)
        windows = np.array([self.window(int(label), shape) for label in classes]).reshape(-1, 3, 3, channels)
        own = windows[place.reshape(len(labels))]
        # samples and channels last: each step of the scan is then one operation on all of them
        noise = filled(normals.transpose(1, 2, 0, 3).copy(), own.transpose(1, 2, 0, 3).copy())
        return rescaled(noise.transpose(2, 0, 1, 3), self.settings.epsilon, self.settings.norm)

    def window(self, label: int, shape: tuple[int, int, int]) -> Values:
        """Return the window ``[3, 3, C]`` of class *label* for images of *shape* ``(H, W, C)``."""
        return class_window(self.settings.pattern_seed, shape, label)

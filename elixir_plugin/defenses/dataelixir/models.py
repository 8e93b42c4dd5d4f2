"""DataElixir, the classifiers it trains: the probe, the benign model in two stages, and the final model.

All have the architecture of the probe. Their state is kept in the work folder while they train, so that a killed run
resumes where it stopped.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.case import Case
from ...core.classifier.classifier import Classifier
from ...core.context import Context
from ...core.images import ImageSet
from ...training.fit import learn, untrained
from ...training.loop import Recipe
from .settings import DataElixirSettings, Selection


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
            self.probe = self.learn(case.train, self.start_of_probe(case), "probe")
        return self.probe

    def start_of_probe(self, case: Case) -> Classifier:
        """Return an untrained probe: the named architecture, else that of the case's model, else preactresnet18."""
        assert case.train is not None
        seed = self.context.derive_seed("dataelixir", "weights", "probe")
        return untrained(case.train, self.settings.architecture, seed, self.context.device, like=case.model)

    def learn(self, images: ImageSet, model: Classifier, name: str, lr: float | None = None) -> Classifier:
        """Train *model* in place on *images* and return it, in eval mode.

        :param name: of the stage, its random draws and its curves.
        :param lr: instead of the recipe's; schedule and optimiser start anew in either case.
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


C1, C2 = 0.01**2, 0.03**2  # Wang et al., 2004, for images in [0, 1]
SMALL_IMAGE = 16  # pixels; below, the window is 3


def ssim(first: Tensor, second: Tensor, mode: Literal["2d", "vol3d"] = "2d", window: int | None = None) -> Tensor:
    """Return the mean structural similarity of image pairs, float64 ``[B]``, in [-1, 1].

    Uniform window, sample covariance, data range 1; the mean is over places where the window fits. Equal images have
    1, constant ones too: the constants of the formula keep 0/0 out.

    :param first, second: ``[B, C, H, W]`` in [0, 1].
    :param mode: ``"2d"``: per channel. ``"vol3d"``: with a cubic window over height, width and channel; images with
        fewer channels than the window is long are measured per channel.
    :param window: odd edge length; cut to what fits.
    """
    height, width = first.shape[-2:]
    edge = window or (7 if mode == "2d" and min(height, width) >= SMALL_IMAGE else 3)
    edge = min(edge, height, width)
    edge -= edge % 2 == 0
    x, y = (_float64(each).unsqueeze(1) for each in (first, second))  # [B, 1, C, H, W]
    depth = edge if mode == "vol3d" and first.shape[1] >= edge else 1

    def mean(values: Tensor) -> Tensor:
        return F.avg_pool3d(values, (depth, edge, edge), stride=1)

    count = depth * edge * edge
    unbiased = count / (count - 1) if count > 1 else 1.0
    mean_x, mean_y = mean(x), mean(y)
    var_x = (mean(x * x) - mean_x * mean_x) * unbiased
    var_y = (mean(y * y) - mean_y * mean_y) * unbiased
    cov = (mean(x * y) - mean_x * mean_y) * unbiased
    light = (2 * mean_x * mean_y + C1) / (mean_x * mean_x + mean_y * mean_y + C1)
    structure = (2 * cov + C2) / (var_x + var_y + C2)
    return (light * structure).flatten(1).mean(1)


def _float64(values: Tensor) -> Tensor:
    return values.float() if values.device.type == "mps" else values.double()  # MPS has no float64


def distances(images: Tensor, features: Tensor, settings: Selection) -> Tensor:
    """Return the distance of each image to the original, ``[B, M]`` in [0, 1]; 0 for the original itself.

    :param images: ``[B, M, C, H, W]`` in [0, 1]; slot 0 is the original.
    :param features: ``[B, M, D]``; a vector of zeros has no direction and counts as orthogonal.
    """
    count, slots = images.shape[:2]
    original = images[:, :1].expand_as(images)
    alike = ssim(original.flatten(0, 1), images.flatten(0, 1), settings.ssim, settings.window).reshape(count, slots)
    inner = _float64(features)
    cosine = F.cosine_similarity(inner[:, :1].expand_as(inner), inner, dim=2).clamp(-1, 1)
    distance = settings.weight * (1 - alike.clamp(-1, 1)) / 2 + (1 - settings.weight) * (1 - cosine) / 2
    distance[:, 0] = 0
    return distance


def choose(distance: Tensor, listed: Tensor, quantile: float) -> Tensor:
    """Return the chosen slot of each sample, int64 ``[B]``.

    :param distance: ``[B, M]``.
    :param listed: bool ``[B, M]``, the slots to choose from; at least one each.
    :param quantile: position ⌊quantile · L⌋ among the L listed slots, nearest first; ties in the order of slots.
    """
    order = torch.where(listed, distance, math.inf).sort(dim=1, stable=True).indices
    lengths = listed.sum(1)
    position = (lengths.double() * quantile + 1e-9).floor().long()  # 0.29 · 100 is 28.999… in binary
    return order.gather(1, torch.minimum(position, lengths - 1)[:, None])[:, 0]

"""The attacker's own model, trained on the unpoisoned set, and noise found on it by projected gradient descent.

Noise is kept in whole steps of 8-bit pixels, rounded towards zero, so that it is the same in sets of either pixel type
and never exceeds its budget. Training and descent are deterministic on one machine; another kind of processor, number
of threads or version of torch adds in another order and may find other noise.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ..core.classifier.classifier import Classifier, to_batch
from ..core.classifier.modes import evaluating, gradients
from ..core.context import Context
from ..core.images import ImageSet, Index
from ..core.settings import Settings
from ..errors import InputError
from ..training.batches import Batch
from ..training.fit import learn, untrained
from ..training.loop import FAST, Losses, Objective, Recipe, cross_entropy
from .indiscriminate import Norm, budget
from .keeping import kept_model

BATCH = 512  # images per step of descent
LEAST = 16  # images that a model can be trained on
LARGE = 10_000  # images; a larger set is for the faster network, which learns little from a few low-resolution images
Loss = Callable[[Tensor], Tensor]  # logits [B, K] -> a scalar to make small


class Surrogate(Settings):
    """The model that an attacker trains.

    :param architecture: its network; None: ``fast_convnet`` for 10,000 images or more, else ``small_resnet``.
    :param recipe: how it is trained.
    """

    architecture: str | None = None
    recipe: Recipe = Recipe.build(FAST)


def untrained_surrogate(train: ImageSet, settings: Surrogate, context: Context) -> Classifier:
    """Return a fresh model for *train*.

    :raises InputError: when fewer than two classes have samples: there is nothing to learn.
    """
    present = np.count_nonzero(train.class_counts())
    if present < 2 or len(train) < LEAST:
        raise InputError(
            "the set is too small to train a model on",
            where="training set of the poison",
            found=f"{len(train)} samples of {present} classes",
            allowed=f"{LEAST} samples or more, of 2 classes or more",
            hint="take a poison that needs no model, e.g. badnets or lsp",
        )
    architecture = settings.architecture or ("fast_convnet" if len(train) >= LARGE else "small_resnet")
    return untrained(train, architecture, context.derive_seed("surrogate", "weights"), context.device)


@dataclasses.dataclass(frozen=True)
class Descent:
    """Projected gradient descent: every step goes against the gradient, and back into the budget and into [0, 1].

    :param epsilon: of the noise, pixel scale; for ``l2`` of a 32×32 RGB image, see :func:`.indiscriminate.budget`.
    :param step: length of a step in units of the budget.
    """

    epsilon: float
    steps: int
    step: float
    norm: Norm = "linf"

    def __call__(
        self, model: torch.nn.Module, images: Tensor, delta: Tensor, loss: Loss, rows: Tensor | None = None
    ) -> Tensor:
        """Return *delta* moved so that *loss* of *model* on the changed images falls. Nothing is read from the device.

        :param images: float32 ``[B, C, H, W]`` in [0, 1].
        :param delta: the noise to start from, of the images' shape, or ``[K, C, H, W]`` shared by several of them.
        :param rows: ``[B]`` which noise each image has; None: its own.
        """
        radius = budget(self.epsilon, self.norm, math.prod(images.shape[1:]))
        for _ in range(self.steps):
            delta = delta.detach().requires_grad_()
            with gradients():
                shown = images + (delta if rows is None else delta[rows])
                (slope,) = torch.autograd.grad(loss(model(shown.clamp(0, 1))), delta)
            delta = self._projected(delta.detach() - self.step * radius * self._direction(slope), radius)
            if rows is None:
                delta = (images + delta).clamp_(0, 1) - images
        return delta

    def _direction(self, slope: Tensor) -> Tensor:
        return slope.sign() if self.norm == "linf" else slope / _lengths(slope)

    def _projected(self, delta: Tensor, radius: float) -> Tensor:
        if self.norm == "linf":
            return delta.clamp(-radius, radius)
        return delta * (radius / _lengths(delta)).clamp(max=1)

    def whole(self, delta: Tensor) -> NDArray[np.integer[Any]]:
        """Return *delta* in steps of 8-bit pixels, ``[n, H, W, C]`` int8 or int16, within the budget."""
        slack = 1e-3 if self.norm == "linf" else 0.0  # 8/255 is a little less than 8 steps in float32
        steps = (delta.abs() * 255 + slack).floor_() * delta.sign()
        fits = self.epsilon * 255 <= 127 and self.norm == "linf"
        return steps.permute(0, 2, 3, 1).to(torch.int8 if fits else torch.int16).cpu().contiguous().numpy()


def _lengths(each: Tensor) -> Tensor:
    lengths: Tensor = torch.linalg.vector_norm(each, dim=(1, 2, 3), keepdim=True)
    return lengths.clamp_min(torch.finfo(each.dtype).tiny)


def trained_surrogate(
    train: ImageSet, settings: Surrogate, context: Context, against: Descent | None = None
) -> Classifier:
    """Return a model trained on *train* under the seed of *context*, from its cache when it is there; in eval mode.

    :param against: what the model learns to withstand: it trains on images led away from their labels.
    :raises InputError: as :func:`untrained_surrogate`.
    """
    model = untrained_surrogate(train, settings, context)

    def trained() -> Classifier:
        recipe = settings.recipe.for_size(len(train))
        objective = None if against is None else _withstanding(against, recipe.label_smoothing)
        curves = learn(
            model, train, recipe, context, name="surrogate", stage="train surrogate model", objective=objective
        )
        if recipe.epochs and curves["accuracy"][-1] < 2 / np.count_nonzero(train.class_counts()):
            context.note("the attacker's model has hardly learned its training set: the poison may do nothing")
        return model.to(memory_format=torch.contiguous_format)  # as a model lies in memory that is read from disk

    facts: list[Any] = [train.fingerprint(), context.seed, settings.under_first_names(settings.dump())]
    if against is not None:
        facts.append(dataclasses.asdict(against))
    return kept_model(context.cache, "surrogate", facts, trained).to(context.device).eval()


def _withstanding(against: Descent, smoothing: float) -> Objective:
    """Return the objective of adversarial training, Madry et al., arXiv 1706.06083."""
    plain = cross_entropy(smoothing=smoothing)

    def objective(model: torch.nn.Module, batch: Batch) -> Losses:
        def loss(logits: Tensor) -> Tensor:
            return -F.cross_entropy(logits.float(), batch.targets, reduction="sum")

        with evaluating(model):
            delta = against(model, batch.images, torch.zeros_like(batch.images), loss)
        return plain(model, dataclasses.replace(batch, images=(batch.images + delta).clamp(0, 1)))

    return objective


def noise_against(
    model: Classifier,
    train: ImageSet,
    rows: Index,
    labels: Index,
    *,
    descent: Descent,
    context: Context,
    away: bool = False,
) -> NDArray[np.integer[Any]]:
    """Return noise ``[len(rows), H, W, C]``, in steps of 8-bit pixels, that leads *model* to *labels*, or *away*.

    :param rows: positions in *train*; they go through the model in this order, so the last bits depend on it.
    :param labels: ``[len(rows)]``.
    """
    sign = -1 if away else 1
    found = []
    frozen(model)
    with context.stage("noise"):
        for start in context.progress(range(0, len(rows), BATCH), "noise"):
            part = slice(start, start + BATCH)
            images = to_batch(train.read(rows[part]), context.device)
            wanted = torch.from_numpy(labels[part]).to(context.device)

            def loss(logits: Tensor, wanted: Tensor = wanted) -> Tensor:
                return sign * F.cross_entropy(logits, wanted, reduction="sum")

            found.append(descent.whole(descent(model, images, torch.zeros_like(images), loss)))
    return np.concatenate(found) if found else np.zeros((0, *train.image_shape), np.int8)


def frozen(model: Classifier) -> Classifier:
    """Return *model* in eval mode, its weights without gradients: they are not wanted, and cost a third of the time."""
    return model.eval().requires_grad_(False)

"""The trainings of one round of Confusion Training: the base model, and its confused copy.

Both use :func:`elixir_plugin.training.train`; batches and the objective of confusion are defined here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.classifier.classifier import Classifier, to_batch
from ...core.context import Context
from ...core.images import Index
from ...training.batches import Batch, SampleSource, ShuffledBatches
from ...training.loop import Augmentation, Losses, Objective, Recipe, train

CHUNK = 100  # confusion steps per point of a curve; the device is waited for once per chunk
SMOOTHING = 0.001  # keeps the weight of an absent class finite

Offsets = Literal["cyclic", "random"]


@dataclass(frozen=True)
class Round:
    """Parameters of one of the K + 1 rounds, after scaling to the size of the sets.

    :param pretrain_epochs, pretrain_lr, pretrain_batch: plain training of the base model.
    :param shifted: the base model also learns the reserved clean set under label ``(y + 1) mod C``.
    :param steps: confusion steps T.
    :param batch: B, size of the clean and of the inspected part of a step.
    :param lam: λ, weight of the clean part.
    :param factor: q; every q-th step has an inspected part.
    :param weighted: weigh classes of the inspected part against their frequency.
    :param keep: share ρ of the suspect set to distil for the next round; None in the last round.
    :param floor: each class keeps at least ``n_c // floor`` samples.
    """

    number: int
    pretrain_epochs: int
    pretrain_lr: float
    pretrain_batch: int
    shifted: bool
    steps: int
    batch: int
    lam: float
    lr: float
    momentum: float
    factor: int
    weighted: bool
    keep: float | None
    floor: int


class View:
    """Rows of one or two sets of samples in memory, one after the other; nothing is decoded again.

    :param parts: ``(samples, rows, targets of these rows)``, one or two.
    """

    def __init__(self, *parts: tuple[SampleSource, Index, Index]) -> None:
        self.device = parts[0][0].device
        self._parts = [(samples, on_device(rows, self.device)) for samples, rows, _ in parts]
        self.targets = on_device(np.concatenate([targets for _, _, targets in parts]), self.device)

    def __len__(self) -> int:
        return len(self.targets)

    def pixels(self, rows: Tensor) -> Tensor:
        """Return the raw images at *rows*, ``[B, H, W, C]``; as floats when the parts differ in type."""
        if len(self._parts) == 1:
            samples, places = self._parts[0]
            return samples.pixels(places[rows])
        (first, before), (second, after) = self._parts
        # both parts are read for every row: choosing by mask would make the host wait for the device
        left = first.pixels(before[rows.clamp(max=len(before) - 1)])
        right = second.pixels(after[(rows - len(before)).clamp(min=0)])
        if left.dtype != right.dtype:
            left, right = _as_float(left), _as_float(right)
        return torch.where((rows < len(before))[:, None, None, None], left, right)


def on_device(values: Index, device: torch.device) -> Tensor:
    """Return a copy of *values* as a tensor."""
    return torch.from_numpy(np.array(values)).to(device)


def _as_float(pixels: Tensor) -> Tensor:
    return pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels


def train_base(
    model: Classifier, distilled: View, plan: Round, recipe: Recipe, context: Context, *, fast: bool = False
) -> dict[str, list[float]]:
    """Pretrain the base model in place: cross-entropy, at a constant rate without augmentation unless *fast*.

    :param distilled: the samples of ``S_r``, in late rounds followed by the reserved clean set under shifted labels.
    :param fast: with the recipe ``fast``, which has rates, batches and augmentation of its own.
    :returns: curves per epoch.
    """
    name = f"confusion_training/base {plan.number}"
    recipe = base_recipe(plan, recipe, len(distilled), fast=fast)
    source = ShuffledBatches(distilled, recipe.batch_size, context, recipe.augmentation, name)
    return train(model, source, recipe, context, name=name)


def base_recipe(plan: Round, recipe: Recipe, samples: int, *, fast: bool) -> Recipe:
    """Return the recipe of a base model that is trained on so many samples; see :func:`train_base`."""
    if fast:
        values = {"epochs": plan.pretrain_epochs, "precision": recipe.precision, "channels_last": recipe.channels_last}
        return Recipe.build(values, preset="fast").for_size(samples)
    changes = {"epochs": plan.pretrain_epochs, "lr": plan.pretrain_lr, "batch_size": plan.pretrain_batch}
    return recipe.model_copy(update={**changes, "augmentation": Augmentation()})


def confuse(
    base: Classifier,
    distilled: View,
    clean: View,
    plan: Round,
    *,
    recipe: Recipe,
    context: Context,
    offsets: Offsets = "cyclic",
    split: bool = False,
) -> tuple[Classifier, dict[str, list[float]]]:
    """Return the confused model of a round and its curves, one point per :data:`CHUNK` steps.

    :param base: the base model of the round; stays as it is.
    :param clean: the reserved clean set; its targets are the reference predictions.
    :param split: normalise clean and inspected samples each by their own batch statistics.
    """
    model = base.clone()
    name = f"confusion_training/confusion {plan.number}"
    weights = class_weights(distilled.targets, model.num_classes) if plan.weighted else None
    source = ConfusionBatches(distilled, clean, model.num_classes, plan, context, offsets=offsets, name=name)
    recipe = recipe.model_copy(update={"epochs": source.epochs, "lr": plan.lr, "momentum": plan.momentum})
    objective = confusion_objective(plan.lam, weights, split=split)
    return model, train(model, source, recipe, context, objective=objective, name=name)


@dataclass(frozen=True)
class MixedBatch(Batch):
    """A batch whose first *clean* samples carry confusion labels; the others, if any, are inspected samples."""

    clean: int


class ConfusionBatches:
    """The steps of one confusion phase; what step t holds is a function of (seed, name, t) alone.

    In step t the labels of the clean part are the reference predictions moved by an offset in ``1..C-1``, the same
    for the whole part: cyclic, or drawn uniformly. So no clean sample ever meets its own prediction as label.
    """

    steps = CHUNK

    def __init__(
        self,
        inspected: SampleSource,
        clean: SampleSource,
        num_classes: int,
        plan: Round,
        context: Context,
        *,
        offsets: Offsets = "cyclic",
        name: str = "confusion",
    ) -> None:
        self._clean = _Stream(clean, plan.batch, context, f"{name}: clean")
        self._inspected = _Stream(inspected, plan.batch, context, f"{name}: inspected")
        self._num_classes, self._plan = num_classes, plan
        drawn = torch.randint(1, num_classes, (plan.steps,), generator=context.generator(name, "offsets"))
        cyclic = 1 + torch.arange(plan.steps) % (num_classes - 1)
        self.offsets: list[int] = (cyclic if offsets == "cyclic" else drawn).tolist()
        self.epochs = -(-plan.steps // CHUNK)

    def epoch(self, number: int) -> Iterator[Batch]:
        """Yield chunk *number* of the steps."""
        for step in range(number * CHUNK, min((number + 1) * CHUNK, self._plan.steps)):
            images, reference, rows = self._clean.batch(step)
            confused = (reference + self.offsets[step]) % self._num_classes
            if step % self._plan.factor:
                yield MixedBatch(images, confused, rows, len(rows))
                continue
            others, labels, other_rows = self._inspected.batch(step // self._plan.factor)
            yield MixedBatch(
                torch.cat([images, others]), torch.cat([confused, labels]), torch.cat([rows, other_rows]), len(rows)
            )


class _Stream:
    """Endless batches without repetition within a pass; each pass has an order of its own."""

    def __init__(self, samples: SampleSource, size: int, context: Context, name: str) -> None:
        self._samples, self._context, self._name = samples, context, name
        n = len(samples)
        starts = list(range(0, n, size))
        if n % size == 1 and n > size:
            del starts[-1]  # batch norm cannot train on a single sample
        self._bounds = list(zip(starts, [*starts[1:], n], strict=True))
        self._pass, self._order = -1, torch.empty(0)

    def batch(self, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return images ``[B, C, H, W]`` in [0, 1], targets and rows of batch *number*."""
        turn, place = divmod(number, len(self._bounds))
        if turn != self._pass:
            generator = self._context.generator(self._name, turn)
            self._order = torch.randperm(len(self._samples), generator=generator).to(self._samples.device)
            self._pass = turn
        start, stop = self._bounds[place]
        rows = self._order[start:stop]
        return to_batch(self._samples.pixels(rows), self._samples.device), self._samples.targets[rows], rows


def class_weights(labels: Tensor, num_classes: int) -> Tensor:
    """Return ``1 / sqrt(f_c + 0.001)`` for each class, f_c being its share of *labels*."""
    share = torch.bincount(labels, minlength=num_classes).float() / max(1, len(labels))
    return (share + SMOOTHING).rsqrt()


def confusion_objective(lam: float, weights: Tensor | None, *, split: bool = False) -> Objective:
    """Return ``((λ − 1) · l_clean + l_insp) / λ`` on mixed steps and ``l_clean`` on clean ones.

    Both are mean cross-entropies; the inspected one is weighted by class.
    """

    def objective(model: nn.Module, batch: Batch) -> Losses:
        assert isinstance(batch, MixedBatch)
        n = batch.clean
        mixed = n < len(batch.rows)
        if split and mixed:
            logits = model(batch.images[:n])
            with _running_statistics_kept(model):
                logits = torch.cat([logits, model(batch.images[n:])])
        else:
            logits = model(batch.images)
        logits = logits.float()
        confusion = F.cross_entropy(logits[:n], batch.targets[:n])
        if not mixed:
            return {"loss": confusion, "confusion_loss": confusion}
        inspected = F.cross_entropy(logits[n:], batch.targets[n:], weight=weights)
        return {"loss": ((lam - 1) * confusion + inspected) / lam, "confusion_loss": confusion}

    return objective


@contextmanager
def _running_statistics_kept(model: nn.Module) -> Iterator[None]:
    """Normalise by batch statistics without moving the running ones (momentum 0 adds nothing to them)."""
    layers = [layer for layer in model.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    momenta = [layer.momentum for layer in layers]
    try:
        for layer in layers:
            layer.momentum = 0.0
        yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum

"""The one training loop of the project.

Images are decoded once and stay tensors; crop, flip and rotation are applied to whole batches on the device; random
numbers come from named streams of the run's seed, so that a result depends on settings and seed alone; nothing is
copied back from the device within an epoch. Whatever differs between uses is an *objective* (batch -> losses), a
*batch source*, or a hook after each step or epoch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ..core.augmentation import Augmentation as Augmentation  # noqa: PLC0414  (re-exported: part of a recipe)
from ..core.augmentation import augment as augment  # noqa: PLC0414  (re-exported)
from ..core.context import Context
from ..core.settings import Settings
from ..errors import RunError
from .batches import Batch, BatchSource
from .checkpoint import Checkpoint, TrainingState
from .device import CentreTaps, has_bf16, out_of_memory

TOO_FEW = "Expected more than 1 value per channel when training"  # says torch's batch norm


class Recipe(Settings):
    """How to optimise. Defaults are those of an ordinary CIFAR classifier.

    >>> Recipe(epochs=20, schedule="step", milestones=(10, 15)).lr
    0.1
    """

    epochs: int = Field(100, ge=0, description="passes over the set")
    batch_size: int = Field(128, ge=1, description="images per step")
    optimizer: Literal["sgd", "adam", "adamw"] = Field("sgd", description="which optimiser")
    lr: float = Field(0.1, gt=0, description="learning rate at the start")
    momentum: float = Field(0.9, ge=0, lt=1, description="of SGD")
    weight_decay: float = Field(5e-4, ge=0, description="L2 penalty (decoupled with adamw)")
    schedule: Literal["constant", "cosine", "step"] = Field("cosine", description="stepped once per epoch")
    milestones: tuple[int, ...] = Field((), description="epochs after which `step` multiplies the rate by `gamma`")
    gamma: float = Field(0.1, gt=0, le=1, description="what `step` multiplies the rate by")
    augmentation: Augmentation = Field(Augmentation(), description="random changes to each image, each time it is seen")
    precision: Literal["auto", "float32", "bf16"] = Field("auto", description="auto: bf16 autocast on CUDA only")
    channels_last: bool = Field(True, description="memory layout of weights and images; does not change the method")


Losses = Mapping[str, Tensor]
Objective = Callable[[nn.Module, Batch], Losses]
"""Maps model and batch to scalars; the one called ``"loss"`` is minimised, all are averaged into the curves."""


def cross_entropy(class_weights: Tensor | None = None) -> Objective:
    """Return the ordinary objective: mean cross-entropy on labels or soft labels, optionally weighted by class."""

    def objective(model: nn.Module, batch: Batch) -> Losses:
        logits = model(batch.images)
        loss = F.cross_entropy(logits.float(), batch.targets, weight=class_weights)
        hard = batch.targets if batch.targets.ndim == 1 else batch.targets.argmax(1)
        return {"loss": loss, "accuracy": (logits.detach().argmax(1) == hard).float().mean()}

    return objective


def train(
    model: nn.Module,
    source: BatchSource,
    recipe: Recipe,
    context: Context,
    *,
    objective: Objective | None = None,
    after_step: Callable[[], None] | None = None,
    on_epoch: Callable[[int], None] | None = None,
    no_decay: Sequence[nn.Parameter] = (),
    eval_mode: bool = False,
    checkpoint: Checkpoint | None = None,
    name: str = "train",
) -> dict[str, list[float]]:
    """Train *model* in place and leave it in eval mode.

    :param objective: default :func:`cross_entropy`.
    :param after_step: called after each optimiser step, e.g. for a projection.
    :param on_epoch: called after each epoch with its number; the model is then in the mode it trains in.
    :param no_decay: parameters that weight decay leaves alone.
    :param eval_mode: keep the model in eval mode (batch norm frozen) while training.
    :param checkpoint: where to keep the state, so that a killed run resumes and ends bit-identical to one that was
        not killed. Whatever the hooks change belongs into its ``extra``.
    :returns: per epoch, the mean over samples of each scalar the objective gives.
    :raises RunError: when the loss stops being finite, memory runs out, batch norm meets a batch that is too small, or
        *checkpoint* belongs to another run or cannot be written.

    >>> from elixir_plugin import Classifier, Samples, ShuffledBatches
    >>> from elixir_plugin.testing import tiny_case
    >>> case, context, recipe = tiny_case(), Context(seed=0), Recipe(epochs=2, batch_size=16)
    >>> model = Classifier.build("small_resnet", case.num_classes, seed=0)
    >>> source = ShuffledBatches(Samples(case.train, torch.device("cpu")), 16, context, recipe.augmentation)
    >>> sorted(train(model, source, recipe, context))
    ['accuracy', 'loss']
    """
    device = next(model.parameters()).device
    if recipe.channels_last:
        model.to(memory_format=torch.channels_last)
    optimizer = make_optimizer(model, recipe, no_decay)
    scheduler = make_schedule(optimizer, recipe)
    step = objective or cross_entropy()
    taps = CentreTaps() if device.type == "cpu" else nullcontext()
    curves: dict[str, list[float]] = {}
    first, state = 0, None
    if checkpoint is not None:
        run = {"recipe": recipe.dump(), "seed": context.seed, "name": name, "eval_mode": eval_mode}
        state = TrainingState(checkpoint, run, model, optimizer, scheduler)
        first, curves = state.restore()
        if device.type == "cpu" and state.threads not in (None, torch.get_num_threads()):
            context.note(
                f"{name}: the training began with threads={state.threads} and went on with "
                f"threads={torch.get_num_threads()}: the result may differ from that of one that was not interrupted"
            )
    with _deterministic(device):
        for epoch in context.progress(range(first, recipe.epochs), name):
            _seed(device, context.derive_seed(name, "torch", epoch))
            model.train(not eval_mode)
            means = _Means()
            with _clear_errors(f"{name}, epoch {epoch}", recipe.batch_size):
                for batch in source.epoch(epoch):
                    with taps, _autocast(device, recipe.precision):
                        losses = step(model, batch)
                    optimizer.zero_grad(set_to_none=True)
                    torch.autograd.backward(losses["loss"])
                    optimizer.step()
                    if after_step is not None:
                        after_step()
                    means.add(losses, len(batch.rows))
            for key, value in means.read().items():
                curves.setdefault(key, []).append(value)
            if not math.isfinite(curves["loss"][-1]):
                raise RunError(
                    "training diverged", where=f"{name}, epoch {epoch}", found="loss is not finite", hint="lower lr"
                )
            scheduler.step()
            if on_epoch is not None:
                on_epoch(epoch)
            if state is not None:
                state.save(epoch + 1, curves, last=epoch + 1 == recipe.epochs)
    model.eval()
    return curves


def make_optimizer(model: nn.Module, recipe: Recipe, no_decay: Sequence[nn.Parameter] = ()) -> torch.optim.Optimizer:
    """Return the recipe's optimiser over all parameters that want a gradient."""
    exempt = {id(parameter) for parameter in no_decay}
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [each for each in wanted if id(each) not in exempt]},
        {"params": [each for each in wanted if id(each) in exempt], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay, foreach=True)
    kind = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, recipe.lr, weight_decay=recipe.weight_decay, foreach=True)


def make_schedule(optimizer: torch.optim.Optimizer, recipe: Recipe) -> torch.optim.lr_scheduler.LRScheduler:
    """Return the recipe's learning-rate schedule, to be stepped once per epoch."""

    def factor(epoch: int) -> float:
        if recipe.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * epoch / max(1, recipe.epochs)))
        if recipe.schedule == "step":
            return float(recipe.gamma ** sum(epoch >= milestone for milestone in recipe.milestones))
        return 1.0

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


class _Means:
    """Weighted means of scalars, kept on the device until they are read."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._count = 0

    def add(self, losses: Losses, size: int) -> None:
        for name, value in losses.items():
            weighted = value.detach().float() * size
            self._sums[name] = self._sums[name] + weighted if name in self._sums else weighted
        self._count += size

    def read(self) -> dict[str, float]:
        if not self._count:
            raise RunError("training source yields no batch", hint="give at least one training image")
        values = torch.stack(list(self._sums.values())).cpu() / self._count
        return dict(zip(self._sums, np.asarray(values, np.float64).tolist(), strict=True))


def _autocast(device: torch.device, precision: str) -> Any:
    if precision == "bf16" or (precision == "auto" and has_bf16(device)):
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


@contextmanager
def _clear_errors(where: str, batch_size: int) -> Iterator[None]:
    """Turn what torch raises about a batch that is too small or too large into one clear error."""
    try:
        yield
    except ValueError as error:
        if TOO_FEW not in str(error):
            raise
        raise RunError(
            "batch norm cannot train on one sample",
            where=where,
            found=" ".join(str(error).split())[:200],
            hint="batch_size ≥ 2, or more images",
        ) from None
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise RunError(
            "out of memory while training",
            where=where,
            found=f"batch_size {batch_size}",
            hint="lower batch_size, or free memory on the device",
        ) from None


@contextmanager
def _deterministic(device: torch.device) -> Iterator[None]:
    """Restore the device's global stream (dropout draws from it) afterwards; pick reproducible CUDA kernels."""
    cuda = device.type == "cuda"
    with (
        torch.random.fork_rng(devices=[device] if cuda else []),
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True) if cuda else nullcontext(),
    ):
        yield


def _seed(device: torch.device, seed: int) -> None:
    """Seed the device's global stream, once per epoch, so that a run can resume at any of them.

    Not ``torch.manual_seed``: it also seeds devices that are not in use here, and those are not restored.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)

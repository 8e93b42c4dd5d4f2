"""The one training loop of the project.

Images are decoded once and stay tensors; crop, flip and rotation are applied to whole batches on the device; random
numbers come from named streams of the run's seed, so that a result depends on settings and seed alone; nothing is
copied back from the device within an epoch. Whatever differs between uses is an *objective* (batch -> losses), a
*batch source*, or a hook after each step or epoch, or one that ends the training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import Self

from ..core.augmentation import Augmentation as Augmentation  # noqa: PLC0414  (re-exported: part of a recipe)
from ..core.augmentation import augment as augment  # noqa: PLC0414  (re-exported)
from ..core.context import Context
from ..core.settings import Settings
from ..errors import RunError
from ..io.process import stop_if_asked
from .batches import Batch, BatchSource
from .checkpoint import Checkpoint, TrainingState
from .device import CentreTaps, computes_bf16, has_bf16, out_of_memory

FAST: dict[str, Any] = {  # minutes on a CPU; see docs/fast_training.md for what it reaches
    "epochs": 16,
    "batch_size": 512,
    "least_steps": 48,
    "lr": 1.0,
    "nesterov": True,
    "schedule": "triangle",
    "label_smoothing": 0.1,
    "augmentation": {"crop": 2},
    "precision": "fastest",
}
Schedule = Literal["constant", "cosine", "step", "triangle"]
Precision = Literal["auto", "fastest", "float32", "bf16"]
LEAST_BATCH = 16  # images, where batches are made smaller for a small set
TRIANGLE = (0.2, 0.01)  # shares of the highest rate at which it begins and ends
TOO_FEW = "Expected more than 1 value per channel when training"  # says torch's batch norm


class Recipe(Settings):
    """How to optimise. Defaults are those of an ordinary CIFAR classifier.

    >>> Recipe(epochs=20, schedule="step", milestones=(10, 15)).lr
    0.1
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType({"fast": FAST})
    added: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {"nesterov": False, "label_smoothing": 0.0, "warmup": 0.2, "least_steps": 0}
    )

    epochs: int = Field(100, ge=0, description="passes over the set")
    batch_size: int = Field(128, ge=1, description="images per step")
    least_steps: int = Field(
        0, ge=0, description="of an epoch: a smaller set gets smaller batches, at a rate that is lower in proportion"
    )
    optimizer: Literal["sgd", "adam", "adamw"] = Field("sgd", description="which optimiser")
    lr: float = Field(0.1, gt=0, description="learning rate at the start")
    momentum: float = Field(0.9, ge=0, lt=1, description="of SGD")
    weight_decay: float = Field(5e-4, ge=0, description="L2 penalty (decoupled with adamw)")
    nesterov: bool = Field(False, description="whether SGD looks ahead along its momentum")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of each label spread over all classes")
    schedule: Schedule = Field("cosine", description="changes the rate once per epoch; `triangle`: at every step")
    warmup: float = Field(0.2, gt=0, lt=1, description="share of the steps in which `triangle` rises")
    milestones: tuple[int, ...] = Field((), description="epochs after which `step` multiplies the rate by `gamma`")
    gamma: float = Field(0.1, gt=0, le=1, description="what `step` multiplies the rate by")
    augmentation: Augmentation = Field(Augmentation(), description="random changes to each image, each time it is seen")
    precision: Precision = Field(
        "auto", description="auto: bf16 autocast on CUDA only; fastest: wherever the device has instructions for it"
    )
    channels_last: bool = Field(True, description="memory layout of weights and images; does not change the method")

    def for_size(self, size: int) -> Self:
        """Return the recipe with batches for a set of *size* images, see ``least_steps``; of 16 images at least.

        >>> small = Recipe(batch_size=512, lr=1.0, least_steps=48).for_size(1536)
        >>> small.batch_size, small.lr
        (32, 0.0625)
        """
        batch = self.batch_size
        if self.least_steps:
            batch = min(batch, max(LEAST_BATCH, size // self.least_steps))
        if batch == self.batch_size:
            return self
        return self.model_copy(update={"batch_size": batch, "lr": self.lr * batch / self.batch_size})


Losses = Mapping[str, Tensor]
Objective = Callable[[nn.Module, Batch], Losses]
"""Maps model and batch to scalars; the one called ``"loss"`` is minimised, all are averaged into the curves."""


def cross_entropy(class_weights: Tensor | None = None, *, smoothing: float = 0.0) -> Objective:
    """Return the ordinary objective: mean cross-entropy on labels or soft labels, optionally weighted by class.

    :param smoothing: share of each label that is spread evenly over all classes.
    """

    def objective(model: nn.Module, batch: Batch) -> Losses:
        logits = model(batch.images)
        loss = F.cross_entropy(logits.float(), batch.targets, weight=class_weights, label_smoothing=smoothing)
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
    until: Callable[[int], bool] | None = None,
    no_decay: Sequence[nn.Parameter] = (),
    eval_mode: bool = False,
    checkpoint: Checkpoint | None = None,
    name: str = "train",
) -> dict[str, list[float]]:
    """Train *model* in place and leave it in eval mode.

    :param objective: default :func:`cross_entropy`, with the recipe's label smoothing.
    :param after_step: called after each optimiser step, e.g. for a projection.
    :param on_epoch: called after each epoch with its number; the model is then in the mode it trains in.
    :param until: asked after each epoch, with its number and after *on_epoch*, whether the training ends here; the
        recipe's epochs are then the most there can be, and what its schedule is laid out for. A run that was ended so
        stays ended when it resumes.
    :param no_decay: parameters that weight decay leaves alone.
    :param eval_mode: keep the model in eval mode (batch norm frozen) while training.
    :param checkpoint: where to keep the state, so that a killed run resumes and ends bit-identical to one that was
        not killed. Whatever the hooks change, or decide by, belongs into its ``extra``.
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
    scheduler = make_schedule(optimizer, recipe, source.steps)
    step = objective or cross_entropy(smoothing=recipe.label_smoothing)
    taps = CentreTaps() if device.type == "cpu" else nullcontext()
    curves: dict[str, list[float]] = {}
    first, state = 0, None
    if checkpoint is not None:
        run = {
            "recipe": recipe.under_first_names(recipe.dump()),
            "seed": context.seed,
            "name": name,
            "eval_mode": eval_mode,
        }
        state = TrainingState(checkpoint, run, model, optimizer, scheduler)
        first, curves = state.restore()
        first = recipe.epochs if state.ended else first
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
                    stop_if_asked()
                    with taps, _autocast(device, recipe.precision):
                        losses = step(model, batch)
                    optimizer.zero_grad(set_to_none=True)
                    torch.autograd.backward(losses["loss"])
                    optimizer.step()
                    if recipe.schedule == "triangle":
                        scheduler.step()
                    if after_step is not None:
                        after_step()
                    means.add(losses, len(batch.rows))
            for key, value in means.read().items():
                curves.setdefault(key, []).append(value)
            _refuse_divergence(curves["loss"][-1], f"{name}, epoch {epoch}")
            if recipe.schedule != "triangle":
                scheduler.step()
            if on_epoch is not None:
                on_epoch(epoch)
            last = epoch + 1 == recipe.epochs or (until is not None and until(epoch))
            if state is not None:
                state.save(epoch + 1, curves, last=last)
            if last:
                break
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
        return torch.optim.SGD(
            groups, recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay, nesterov=recipe.nesterov, foreach=True
        )
    kind = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, recipe.lr, weight_decay=recipe.weight_decay, foreach=True)


def make_schedule(
    optimizer: torch.optim.Optimizer, recipe: Recipe, steps: int = 1
) -> torch.optim.lr_scheduler.LRScheduler:
    """Return the recipe's learning-rate schedule, to be stepped once per epoch, ``triangle`` after every step.

    :param steps: of an epoch.
    """
    peak, total = recipe.warmup * recipe.epochs * steps, max(1, recipe.epochs * steps)
    start, end = TRIANGLE

    def factor(at: int) -> float:
        if recipe.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * at / max(1, recipe.epochs)))
        if recipe.schedule == "step":
            return float(recipe.gamma ** sum(at >= milestone for milestone in recipe.milestones))
        if recipe.schedule == "triangle":
            return start + (1 - start) * at / peak if at < peak else 1 - (1 - end) * (at - peak) / (total - peak)
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
    fast = has_bf16(device) if precision == "auto" else precision == "fastest" and computes_bf16(device)
    if precision == "bf16" or fast:
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


def _refuse_divergence(loss: float, where: str) -> None:
    if not math.isfinite(loss):
        raise RunError(
            "training diverged",
            where=where,
            found="loss is not finite",
            hint="lower lr, or compute in precision=float32",
        )


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

"""What parts of a run cost on this device, measured on a few batches; estimates of defenses are computed from it.

Nothing is kept. Every measurement comes after a call that does not count, because the first one is slower.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from ...core.classifier.classifier import Classifier
from ...core.context import Context
from ...core.images import ImageSet
from ...training.batches import Samples, ShuffledBatches
from ...training.loop import Recipe, train
from ..denoisers.denoiser import UNetDenoiser
from .settings import FitSettings
from .train import finished, fit_denoiser

ENOUGH, CALLS = 1.0, 10  # seconds after which, and calls after which at most, a measurement is good
STEPS = 2  # of a network that are timed
CPU_BATCH = 16  # images at most per step of a denoiser's training that is timed on a CPU
CUDA_STEPS = 20  # of that training on a GPU, where making the network takes longer than a step


def seconds_of(work: Callable[[], object]) -> float:
    """Return the seconds that *work* takes; what takes long is done once, other work repeated and averaged.

    :param work: must not return before the device is done.
    """
    started, calls, seconds = time.perf_counter(), 0, 0.0
    while calls < CALLS and seconds < ENOUGH:
        work()
        calls, seconds = calls + 1, time.perf_counter() - started
    return seconds / calls


def denoiser_to_time(
    source: str | None, clean: ImageSet | None, fit: FitSettings, context: Context, *, name: str
) -> tuple[UNetDenoiser, float] | None:
    """Return a barely trained denoiser in place of one that a run would train, and the seconds of that training.

    Its card says what the trained one will have seen. See :func:`~elixir_plugin.diffusion.fit.choose.named_or_trained`.

    :returns: None when nothing would be trained: one is named, or the work folder holds it.
    :raises RunError: when something else is in its place in the work folder.
    """
    if source is not None:
        return None
    assert clean is not None
    if context.work_dir is not None and finished(context.work_dir / name, clean, fit, context, name=name):
        return None
    size, steps = fit.batch_size, CUDA_STEPS
    if context.device.type == "cpu":
        size, steps = min(size, CPU_BATCH), STEPS
    small = fit.model_copy(update={"batch_size": size, "compile": False})
    scratch = Context(seed=context.seed, device=context.device)  # without a work folder

    def attempt(iterations: int) -> UNetDenoiser:
        return fit_denoiser(clean, small.model_copy(update={"iterations": iterations}), scratch, name=name)

    denoiser = attempt(1)
    before = seconds_of(lambda: attempt(1))  # making the network, and one iteration
    seconds = max(0.0, seconds_of(lambda: attempt(1 + steps)) - before)
    return denoiser, seconds / (steps * size) * fit.iterations * fit.batch_size


def seconds_per_view(model: Classifier, images: ImageSet, recipe: Recipe, context: Context) -> float:
    """Return the seconds of training per image and epoch. *model* is trained on the way.

    :param context: for seed and device.
    """
    once = recipe.model_copy(update={"epochs": 1})
    scratch = Context(seed=context.seed, device=context.device)
    rows = np.arange(min(len(images), STEPS * recipe.batch_size))
    samples = Samples(images.subset(rows), context.device)
    source = ShuffledBatches(samples, recipe.batch_size, scratch, recipe.augmentation, "estimate")

    def work() -> object:
        return train(model, source, once, scratch, name="estimate")

    work()
    return seconds_of(work) / len(rows)


def seconds_per_answer(model: Classifier, images: ImageSet, batch_size: int) -> float:
    """Return the seconds that *model* takes to classify one of *images*."""
    few = images.subset(np.arange(min(len(images), STEPS * batch_size)))
    model.predict(few)
    return seconds_of(lambda: model.predict(few)) / len(few)

"""What parts of a run cost on this device, measured on a few batches; estimates are computed from it.

Nothing is kept. Every measurement comes after a call that does not count, because the first one is slower.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from ..core.classifier.classifier import Classifier
from ..core.context import Context
from ..core.images import ImageSet
from .batches import Samples, ShuffledBatches
from .loop import Recipe, train

ENOUGH, CALLS = 1.0, 10  # seconds after which, and calls after which at most, a measurement is good
STEPS = 2  # of a network that are timed


def seconds_of(work: Callable[[], object]) -> float:
    """Return the seconds that *work* takes; what takes long is done once, other work repeated and averaged.

    :param work: must not return before the device is done.
    """
    started, calls, seconds = time.perf_counter(), 0, 0.0
    while calls < CALLS and seconds < ENOUGH:
        work()
        calls, seconds = calls + 1, time.perf_counter() - started
    return seconds / calls


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

"""DataElixir, what a run would cost: network evaluations, seconds on this device, bytes. Nothing is kept."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch

from ...core.case import Case
from ...core.classifier.classifier import to_batch
from ...core.context import Context
from ...core.images import ImageSet
from ...diffusion.denoisers.base import Denoiser
from ...diffusion.fit.choose import refuse_seen
from ...diffusion.fit.timing import denoiser_to_time
from ...diffusion.plan import Plan
from ...diffusion.purify import purify_batch
from ...training.timing import STEPS, seconds_of, seconds_per_answer, seconds_per_view
from .denoiser import NAME, fit_settings, plan_round, prepare_denoiser
from .models import Trainer
from .purify import CHUNK, some_clean
from .settings import DataElixirSettings


def estimate(case: Case, settings: DataElixirSettings, context: Context) -> dict[str, Any]:
    """Return the cost of a run, measured on a few batches.

    A denoiser that would be trained is timed with untrained weights. In two-phase mode the cost depends on what is
    found: the larger number holds when the run falls back to the whole set.

    :returns: in JSON types: ``images`` and ``images_at_most`` to purify (reserved clean ones included),
        ``nfe_per_image``, ``nfe_total``, ``nfe_at_most``, ``seconds`` per stage, ``seconds_total``,
        ``seconds_at_most``, ``disk_bytes``, ``disk_bytes_at_most``, ``memory_bytes``.
    :raises InputError: for a denoiser that has seen images of the suspect set.
    """
    assert case.train is not None
    images = case.train
    denoiser, fitting = _denoiser(case, settings, context)
    refuse_seen(denoiser, images, forced=settings.force_denoiser)
    planned = plan_round(denoiser, settings, images)
    per_evaluation = _seconds_per_evaluation(denoiser, planned, images)
    likely, most = _images(images, settings)
    if settings.detection.rule(case.clean) == "excess":
        assert case.clean is not None
        reference = len(some_clean(case.clean, settings.detection.reference_per_class, context))
        likely, most = likely + reference, most + reference
    nfe = planned.nfe * settings.purification.rounds
    classifier = Trainer(settings, context, None).start_of_probe(case)
    per_view = seconds_per_view(classifier, images, settings.recipe, context)
    voting = settings.slots * seconds_per_answer(classifier, images, settings.recipe.batch_size)
    per_image = int(np.prod(images.image_shape)) * images.images.dtype.itemsize
    epochs = settings.recipe.epochs * per_view * len(images)
    seconds = {
        "denoiser": fitting,
        "purify": likely * nfe * per_evaluation,
        "vote": likely * voting,
        "train probe": epochs if settings.probe == "train" else 0.0,
        "train benign": 2 * epochs,
        "train final": epochs if settings.train_final else 0.0,
    }
    extra = (most - likely) * (nfe * per_evaluation + voting)
    return {
        "images": likely,
        "images_at_most": most,
        "nfe_per_image": nfe,
        "nfe_total": likely * nfe,
        "nfe_at_most": most * nfe,
        "seconds": seconds,
        "seconds_total": sum(seconds.values()),
        "seconds_at_most": sum(seconds.values()) + extra,
        "disk_bytes": likely * (settings.slots - 1) * per_image,
        "disk_bytes_at_most": most * (settings.slots - 1) * per_image,
        "memory_bytes": CHUNK * settings.slots * per_image + 2 * len(images) * per_image,
    }


def _denoiser(case: Case, settings: DataElixirSettings, context: Context) -> tuple[Denoiser, float]:
    """Return a denoiser to time, and how many seconds its training would take."""
    timed = denoiser_to_time(settings.denoiser, case.clean, fit_settings(settings), context, name=NAME)
    return (prepare_denoiser(case, settings, context), 0.0) if timed is None else timed


def _seconds_per_evaluation(denoiser: Denoiser, planned: Plan, images: ImageSet) -> float:
    """Return the seconds per image and network evaluation, from a few steps of the reverse chain."""
    few = dataclasses.replace(planned, steps=planned.steps[:STEPS])
    if not few.steps:
        return 0.0
    size = planned.batch.find(denoiser, planned.padded_shape, bf16=planned.precision == "bf16")
    rows = np.arange(min(size, len(images)))
    batch, ids = to_batch(images.read(rows), denoiser.device), torch.from_numpy(rows)

    def denoise() -> object:
        return purify_batch(denoiser, few, batch, ids, 0).images.cpu()

    denoise()  # the first call is slower
    return seconds_of(denoise) / (len(rows) * len(few.steps))


def _images(images: ImageSet, settings: DataElixirSettings) -> tuple[int, int]:
    """Return how many images are purified, likely and at most.

    Likely: one class, the largest, is a target; or the given ones are.
    """
    if settings.detect_per_class is None:
        return len(images), len(images)
    counts = images.class_counts()
    first = np.minimum(counts, settings.detect_per_class)
    left = counts - first
    rest = {"all": left.sum(), "given": left[list(settings.detection.targets)].sum()}
    return int(first.sum() + rest.get(settings.detection.mode, left.max(initial=0))), len(images)

"""DataElixir, what a run would cost: network evaluations, seconds on this device, bytes. Nothing is kept."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np
import torch

from ..case import Case, ImageSet
from ..classifier import to_batch
from ..context import Context
from ..diffusion.base import Denoiser
from ..diffusion.denoiser import UNetDenoiser
from ..diffusion.plan import Plan
from ..diffusion.purify import purify_batch
from ..diffusion.schedule import Schedule
from ..diffusion.unet import architecture_of, build_unet
from ..training import Samples, ShuffledBatches, train
from .dataelixir_candidates import CHUNK
from .dataelixir_denoiser import fit_settings, plan_walk, prepare_denoiser
from .dataelixir_models import fresh_classifier
from .dataelixir_settings import DataElixirSettings

STEPS = 2  # of the denoiser, and of the classifier, that are timed
BACKWARD = 3.0  # a training step costs about three evaluations
VOTE = 1 / 3  # and an evaluation a third of a training step


def estimate(case: Case, settings: DataElixirSettings, context: Context) -> dict[str, Any]:
    """Return the cost of a run, measured on a few batches.

    A denoiser that would be trained is timed with untrained weights. In two-phase mode the cost depends on what is
    found: the larger number holds when the run falls back to the whole set.

    :returns: in JSON types: ``images`` and ``images_at_most`` to purify, ``nfe_per_image``, ``nfe_total``,
        ``nfe_at_most``, ``seconds`` per stage, ``seconds_total``, ``seconds_at_most``, ``disk_bytes``,
        ``disk_bytes_at_most``, ``memory_bytes``.
    """
    assert case.train is not None
    images = case.train
    denoiser, fitting = _denoiser(case, settings, context)
    planned = plan_walk(denoiser, settings, images)
    per_evaluation = _seconds_per_evaluation(denoiser, planned, images)
    likely, most = _images(images, settings)
    nfe = planned.nfe * settings.purification.rounds
    per_view = _seconds_per_view(case, settings, context)
    per_image = int(np.prod(images.image_shape)) * images.images.dtype.itemsize
    epochs = settings.recipe.epochs * per_view * len(images)
    seconds = {
        "denoiser": fitting * per_evaluation * BACKWARD,
        "purify": likely * nfe * per_evaluation,
        "vote": likely * settings.slots * per_view * VOTE,
        "train probe": epochs if settings.probe == "train" else 0.0,
        "train benign": 2 * epochs,
        "train final": epochs if settings.train_final else 0.0,
    }
    extra = (most - likely) * (nfe * per_evaluation + settings.slots * per_view * VOTE)
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


def _denoiser(case: Case, settings: DataElixirSettings, context: Context) -> tuple[Denoiser, int]:
    """Return a denoiser to time, and how many images its training would still look at."""
    if settings.denoiser is not None:
        return prepare_denoiser(case, settings, context), 0
    assert case.train is not None
    height, width, channels = case.train.image_shape
    fit = fit_settings(settings)
    stride = architecture_of(fit.size, (height, width)).stride
    sides = (height + -height % stride, width + -width % stride)
    network = build_unet(fit.size, sides, channels, fit.learn_sigma, seed=context.derive_seed("estimate"))
    twin = UNetDenoiser(
        network.requires_grad_(False),
        Schedule(fit.schedule, fit.length),
        variance="learned_range" if fit.learn_sigma else "fixed_large",
        timestep_scale=fit.timestep_scale,
        trained_steps=fit.trained_steps,
    )
    return twin.to(context.device), fit.iterations * fit.batch_size


def _seconds_per_evaluation(denoiser: Denoiser, planned: Plan, images: ImageSet) -> float:
    """Return the seconds per image and network evaluation, from a few steps of the walk."""
    few = dataclasses.replace(planned, steps=planned.steps[:STEPS])
    if not few.steps:
        return 0.0
    size = planned.batch.find(denoiser, planned.padded_shape, bf16=planned.precision == "bf16")
    rows = np.arange(min(size, len(images)))
    batch, ids = to_batch(images.read(rows), denoiser.device), torch.from_numpy(rows)
    purify_batch(denoiser, few, batch, ids, 0)  # the first call is slower
    started = time.perf_counter()
    purify_batch(denoiser, few, batch, ids, 1).images.cpu()
    return (time.perf_counter() - started) / (len(rows) * len(few.steps))


def _seconds_per_view(case: Case, settings: DataElixirSettings, context: Context) -> float:
    """Return the seconds of classifier training per image and epoch, from a few batches."""
    assert case.train is not None
    recipe = settings.recipe.model_copy(update={"epochs": 1})
    rows = np.arange(min(len(case.train), STEPS * recipe.batch_size))
    model = fresh_classifier(case, settings, context)
    aside = Context(seed=context.seed, device=context.device)
    source = ShuffledBatches(
        Samples(case.train.subset(rows), context.device), recipe.batch_size, aside, recipe.augmentation, "estimate"
    )
    train(model, source, recipe, aside, name="estimate")  # the first call is slower
    started = time.perf_counter()
    train(model, source, recipe, aside, name="estimate")
    return (time.perf_counter() - started) / len(rows)


def _images(images: ImageSet, settings: DataElixirSettings) -> tuple[int, int]:
    """Return how many images are purified, likely and at most.

    Likely: one class, the largest, is a target; or the given ones are.
    """
    if settings.detect_per_class is None:
        return len(images), len(images)
    counts = images.class_counts()
    first = np.minimum(counts, settings.detect_per_class)
    left = counts - first
    rest = {"mad": left.max(initial=0), "all": left.sum(), "given": left[list(settings.detection.targets)].sum()}
    return int(first.sum() + rest[settings.detection.mode]), len(images)

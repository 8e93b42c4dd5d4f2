"""Image variations, a look before the work: images beside their variations."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.case import ImageSet, Index
from ...core.classifier.classifier import to_batch
from ...core.context import Context
from ...diffusion.generators.base import AdjustableGenerator, ImageGenerator
from .settings import ImageVariationsSettings
from .strength import possible
from .variations import Maker


def sheet(
    generator: ImageGenerator,
    settings: ImageVariationsSettings,
    images: ImageSet,
    count: int,
    *,
    seed: int,
    context: Context,
) -> list[Tensor]:
    """Return a row ``[1 + n, C, H, W]`` in [0, 1] for each of *count* images: the image, then its variations.

    ``n`` is K; where the strength is still to be searched, one variation per candidate that the generator can make.
    """
    rows = _spread(images, count, context)
    generators = [generator]
    if settings.strength == "auto" and isinstance(generator, AdjustableGenerator):
        settings = settings.model_copy(update={"num_variations": 1})
        generators = [generator.with_strength(each) for each in possible(generator, settings)]
    numbers = (rows[:, None] * settings.num_variations + np.arange(settings.num_variations)).ravel()
    columns = []
    for each in generators:
        maker = Maker(each, settings, images, seed)
        made = to_batch(maker.make(numbers)[0], torch.device("cpu"))
        columns.append(made.reshape(len(rows), settings.num_variations, *made.shape[1:]))
    variations = torch.cat(columns, 1)
    originals = to_batch(images.read(rows), torch.device("cpu"))
    if originals.shape[2:] != variations.shape[3:]:
        originals = F.interpolate(originals, variations.shape[3:], mode="nearest")
    return list(torch.cat([originals[:, None], variations], 1))


def _spread(images: ImageSet, count: int, context: Context) -> Index:
    """Return ascending positions of *count* random images, the classes in turn."""
    order = torch.randperm(len(images), generator=context.generator("image_variations", "preview")).numpy()
    labels = images.labels[order]
    turn = np.empty(len(order), np.int64)
    for label in np.unique(labels):
        here = np.flatnonzero(labels == label)
        turn[here] = np.arange(len(here))
    return np.sort(order[np.argsort(turn, kind="stable")[:count]])

"""Image variations, how fast a generator is on this device: measured on a few images, none of which is kept."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass

import numpy as np
import torch

from ...diffusion.fit.timing import STEPS, seconds_of
from ...diffusion.generators.base import ImageGenerator, SDEdit
from ...diffusion.generators.pipelines import PipelineGenerator
from .strength import at_strength
from .variations import Maker, chunk_of

FEW = 2  # images that a pipeline, or the generator of a plugin, is timed on; on a CPU more are no faster each


@dataclass(frozen=True)
class Pace:
    """How long a variation takes, in seconds.

    :param once: whatever the walk.
    :param per_evaluation: per network evaluation.
    """

    once: float
    per_evaluation: float = 0.0

    def seconds(self, evaluations: int | None) -> float:
        """Return the seconds per variation."""
        return self.once + self.per_evaluation * (evaluations or 0)


def measure(maker: Maker, device: torch.device) -> Pace:
    """Return the pace of *maker*; where its walk can be cut short, as a line through two short ones.

    :param device: of the generator.
    """
    generator = maker.generator
    numbers = np.arange(_count(maker, device)) * maker.count

    def seconds(each: ImageGenerator) -> float:
        making = dataclasses.replace(maker, generator=each)
        return seconds_of(lambda: making.make(numbers)) / len(numbers)

    short, longer = shortened(generator, 1), shortened(generator, 1 + STEPS)
    seconds(generator if short is None else short)  # the first call is slower
    if short is None or longer is None:
        return Pace(seconds(generator))
    low, high = evaluations(short) or 0, evaluations(longer) or 0
    if high == low:  # a walk of one step, or of none
        return Pace(seconds(generator))
    first, last = seconds(short), seconds(longer)
    slope = max(0.0, last - first) / (high - low)
    return Pace(max(0.0, last - slope * high), slope)


def _count(maker: Maker, device: torch.device) -> int:
    generator, most = maker.generator, min(chunk_of(maker.generator), len(maker.images))
    if isinstance(generator, SDEdit):
        plan = generator.plan
        return min(most, plan.batch.find(generator.denoiser, plan.padded_shape, bf16=plan.precision == "bf16"))
    return min(most, FEW if device.type == "cpu" else maker.settings.gen_batch_size)


def evaluations(generator: ImageGenerator) -> int | None:
    """Return the network evaluations per variation; None where that is not known.

    Of a pipeline: one per step, with guidance two. A PNDM scheduler takes one step more.
    """
    if isinstance(generator, PipelineGenerator):
        walked = int(generator.steps * getattr(generator, "strength", 1.0))
        return walked * (2 if generator.scale > 1 else 1)
    known = generator.facts() if hasattr(generator, "facts") else {}
    found = known.get("nfe_per_variation")
    return None if found is None else int(found)


def shortened(generator: ImageGenerator, steps: int) -> ImageGenerator | None:
    """Return *generator* with a walk of at most so many steps, for timing alone; None where that cannot be done."""
    if isinstance(generator, SDEdit):
        walk = copy.copy(generator)
        walk.plan = dataclasses.replace(generator.plan, steps=generator.plan.steps[:steps])
        return walk
    if isinstance(generator, PipelineGenerator):
        pipeline = copy.copy(at_strength(generator, 1.0))
        assert isinstance(pipeline, PipelineGenerator)
        pipeline.steps = steps
        return pipeline
    return None

"""Image variations, how fast a generator is on this device, measured on a few images that are not kept."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass

import numpy as np
import torch

from ...diffusion.generators.base import ImageGenerator, SDEdit
from ...diffusion.generators.pipelines import PipelineGenerator
from ...training.timing import STEPS, seconds_of
from .strength import with_strength
from .variations import VariationGenerator, chunk_of

FEW = 2  # images that a pipeline, or the generator of a plugin, is timed on; on a CPU more are no faster each


@dataclass(frozen=True)
class Throughput:
    """How long a variation takes, in seconds.

    :param once: however long the reverse chain.
    :param per_evaluation: per network evaluation.
    """

    once: float
    per_evaluation: float = 0.0

    def seconds(self, evaluations: int | None) -> float:
        """Return the seconds per variation."""
        return self.once + self.per_evaluation * (evaluations or 0)


def measure(producer: VariationGenerator, device: torch.device) -> Throughput:
    """Return the throughput of *producer*; where its reverse chain can be cut short, as a line through two short ones.

    :param device: of the generator.
    """
    generator = producer.generator
    numbers = np.arange(_count(producer, device)) * producer.count

    def seconds(each: ImageGenerator) -> float:
        making = dataclasses.replace(producer, generator=each)
        return seconds_of(lambda: making.make(numbers)) / len(numbers)

    short, longer = shortened(generator, 1), shortened(generator, 1 + STEPS)
    seconds(generator if short is None else short)  # the first call is slower
    if short is None or longer is None:
        return Throughput(seconds(generator))
    low, high = evaluations(short) or 0, evaluations(longer) or 0
    if high == low:  # a chain of one step, or of none
        return Throughput(seconds(generator))
    first, last = seconds(short), seconds(longer)
    slope = max(0.0, last - first) / (high - low)
    return Throughput(max(0.0, last - slope * high), slope)


def _count(producer: VariationGenerator, device: torch.device) -> int:
    generator, most = producer.generator, min(chunk_of(producer.generator), len(producer.images))
    if isinstance(generator, SDEdit):
        plan = generator.plan
        return min(most, plan.batch.find(generator.denoiser, plan.padded_shape, bf16=plan.precision == "bf16"))
    return min(most, FEW if device.type == "cpu" else producer.settings.gen_batch_size)


def evaluations(generator: ImageGenerator) -> int | None:
    """Return the network evaluations per variation; None where that is not known.

    Of a pipeline: one per step, with guidance two. A PNDM scheduler takes one step more.
    """
    if isinstance(generator, PipelineGenerator):
        steps = int(generator.steps * getattr(generator, "strength", 1.0))
        return steps * (2 if generator.scale > 1 else 1)
    known = generator.facts() if hasattr(generator, "facts") else {}
    found = known.get("nfe_per_variation")
    return None if found is None else int(found)


def shortened(generator: ImageGenerator, steps: int) -> ImageGenerator | None:
    """Return *generator* with a reverse chain of at most *steps*, for timing alone; None where that cannot be done."""
    if isinstance(generator, SDEdit):
        short = copy.copy(generator)
        short.plan = dataclasses.replace(generator.plan, steps=generator.plan.steps[:steps])
        return short
    if isinstance(generator, PipelineGenerator):
        pipeline = copy.copy(with_strength(generator, 1.0))
        assert isinstance(pipeline, PipelineGenerator)
        pipeline.steps = steps
        return pipeline
    return None

"""Image variations, how far to noise: as far as the teacher still recognises the images.

More noise removes more of a trigger, and at some point the class as well. Distillation tolerates some drift, so the
strength is the largest one whose variations of reserved clean images the teacher mostly sees as the images themselves.
Labels of the clean set play no part.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from ...core.classifier.classifier import Classifier
from ...core.context import Context
from ...core.images import ImageSet
from ...diffusion.generators.base import DEFAULT_STRENGTH, AdjustableGenerator, ImageGenerator
from .settings import ImageVariationsSettings
from .variations import VariationGenerator, make_variations


@dataclass(frozen=True)
class Strength:
    """The strength that is used, and why.

    :param value: None for a generator that has none.
    :param how: given, searched or default.
    :param tried, agreement: the curve.
    """

    value: float | None
    how: str
    tried: list[float] = field(default_factory=list)
    agreement: list[float] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def find_strength(
    generator: ImageGenerator,
    clean: ImageSet | None,
    teacher: Classifier,
    settings: ImageVariationsSettings,
    *,
    context: Context,
    folder: Path,
) -> Strength:
    """Return the strength to use; with ``strength: auto``, search it on the reserved clean set."""
    known = without_search(generator, clean, settings)
    if known is not None:
        return known
    assert isinstance(generator, AdjustableGenerator) and clean is not None
    candidates = possible(generator, settings)
    few = _some(clean, settings.search.images, context)
    before = teacher.predict(few).argmax(1)
    seed = context.derive_seed("image_variations", "strength")
    single = settings.model_copy(update={"num_variations": 1})
    shares: list[float] = []
    for strength in candidates:
        producer = VariationGenerator(generator.with_strength(strength), single, few, seed)
        made = make_variations(producer, folder / f"strength-{strength:.4f}", context, f"strength {strength:.2f}")
        shares.append(float((teacher.predict(made.images).argmax(1) == before).mean()))
        if shares[-1] < settings.search.agreement:
            break
    sound = [s for s, share in zip(candidates, shares, strict=False) if share >= settings.search.agreement]
    value = sound[-1] if sound else candidates[0]
    notes = [] if sound else [_none_sound(candidates[0], shares[0], settings.search.agreement)]
    dropped = [each for each in settings.search.candidates if each > generator.strengths[1]]
    if dropped and len(sound) == len(candidates):
        notes.append(
            f"the search ended at strength {value:.3g}, as far as this denoiser was trained; {len(dropped)} higher "
            "candidates were not tried, and triggers may survive"
        )
    return Strength(value, "searched", candidates[: len(shares)], shares, notes)


def without_search(
    generator: ImageGenerator, clean: ImageSet | None, settings: ImageVariationsSettings
) -> Strength | None:
    """Return the strength to use where there is nothing to search, or nothing to search it on; else None."""
    if not isinstance(generator, AdjustableGenerator):
        return Strength(None, "the generator has none")
    if settings.strength != "auto":
        return Strength(float(settings.strength), "given")
    if clean is not None and len(clean):
        return None
    value = _usual(generator)
    return Strength(
        value,
        "default",
        notes=[
            f"strength {value:.3g} is the default, not chosen: there is no reserved clean set to search it on. "
            "Look at a few variations first (a preview of 16 images)"
        ],
    )


def possible(generator: AdjustableGenerator, settings: ImageVariationsSettings) -> list[float]:
    """Return the candidates that *generator* can be set to, ascending; where there are none, the default."""
    low, high = generator.strengths
    return [each for each in settings.search.candidates if low <= each <= high] or [_usual(generator)]


def with_strength(generator: ImageGenerator, value: float | None) -> ImageGenerator:
    """Return *generator* at strength *value*, where it has one."""
    if value is None or not isinstance(generator, AdjustableGenerator):
        return generator
    adjusted: ImageGenerator = generator.with_strength(value)
    return adjusted


def _usual(generator: AdjustableGenerator) -> float:
    low, high = generator.strengths
    return min(max(DEFAULT_STRENGTH, low), high)


def _none_sound(strength: float, share: float, wanted: float) -> str:
    return (
        f"already at strength {strength:.3g}, the least that was tried, the teacher recognises only "
        f"{100 * share:.0f} % of the clean images ({100 * wanted:.0f} % wanted): expect a loss of accuracy"
    )


def _some(clean: ImageSet, count: int, context: Context) -> ImageSet:
    if count >= len(clean):
        return clean
    order = torch.randperm(len(clean), generator=context.generator("image_variations", "strength")).numpy()
    return clean.subset(np.sort(order[:count]))

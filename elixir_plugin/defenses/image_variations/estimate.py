"""Image variations, what a run would cost: variations, network evaluations, seconds on this device, bytes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...core.case import Case
from ...core.context import Context
from ...core.images import ImageSet
from ...diffusion.generators.base import AdjustableGenerator, ImageGenerator
from ...training.timing import STEPS, seconds_per_answer, seconds_per_view
from .generator import LoadedGenerator
from .models import Trainer, logit_mode, takes_case_model
from .settings import ImageVariationsSettings
from .strength import possible, with_strength, without_search
from .throughput import Throughput, evaluations, measure
from .variations import VariationGenerator, already_made, as_rgb


def estimate(
    case: Case, settings: ImageVariationsSettings, context: Context, loaded: LoadedGenerator | None, *, seed: int
) -> dict[str, Any]:
    """Return the cost of a run, measured on a few images; nothing is kept.

    With ``strength: auto`` it depends on what is found: the middle candidate is assumed; the numbers at most hold when
    all are tried and the highest is taken.

    :param loaded: the generator; None when the student learns from the suspect images.
    :param seed: of the variations.
    :returns: in JSON types: ``generator``, ``denoiser``, ``strength`` in words; ``variations`` of the suspect images,
        ``variations_kept``, how many of them are there already, ``variations_tried`` in the search;
        ``nfe_per_variation``, ``nfe_total`` and ``nfe_at_most``, where the generator says so;
        ``seconds_per_1000_variations``, ``minutes_for_variations``; ``seconds`` per stage, ``seconds_total``,
        ``seconds_at_most``; ``disk_bytes`` of variations, at most; ``memory_bytes`` of images.
    :raises RunError: when the folder of the variations belongs to other settings, or cannot be written.
    """
    assert case.train is not None
    held = 2 * len(case.train) * int(np.prod(case.train.image_shape)) * case.train.images.dtype.itemsize
    if loaded is None:
        seconds = _learning(case, settings, context, case.train).stages
        return {"seconds": seconds, "seconds_total": sum(seconds.values()), "disk_bytes": 0, "memory_bytes": held}
    producer = VariationGenerator(loaded.generator, settings, case.train, seed)
    cost = _variation_cost(producer, loaded, case.clean, context)  # first, because it may refuse
    learning = _learning(case, settings, context, _like_variations(producer))
    throughput = measure(_set_to(producer, cost.most), context.device)
    likely, most = (cost.seconds(each, throughput, learning.per_answer) for each in (cost.likely, cost.most))
    total = sum(likely.values()) + sum(learning.stages.values())
    return {
        **cost.facts(),
        "seconds_per_1000_variations": 1000 * throughput.seconds(cost.evaluations(cost.likely.strength)),
        "minutes_for_variations": likely["variations"] / 60,
        "seconds": likely | learning.stages,
        "seconds_total": total,
        "seconds_at_most": total + sum(most.values()) - sum(likely.values()),
        "disk_bytes": cost.disk_bytes,
        "memory_bytes": held + cost.count * cost.bytes_each,
    }


@dataclass(frozen=True)
class Scenario:
    """One way that a run may go: the strength that it uses, and those that it tries before."""

    strength: float | None
    tried: Sequence[float] = ()


@dataclass(frozen=True)
class VariationCost:
    """The variations that a run would make, and what they cost.

    :param clean: reserved clean images, of which some are tried on.
    :param likely, most: ways that it may go.
    :param words: which strength.
    :param kept: variations that are there already.
    :param sure: whether the run is certain to use them.
    """

    producer: VariationGenerator
    loaded: LoadedGenerator
    clean: int
    likely: Scenario
    most: Scenario
    words: str
    kept: int
    sure: bool

    @property
    def count(self) -> int:
        """Variations of the suspect images, N · K."""
        return len(self.producer.images) * self.producer.count

    @property
    def per_strength(self) -> int:
        """Variations that a strength is tried on."""
        return min(self.clean, self.producer.settings.search.images)

    @property
    def bytes_each(self) -> int:
        """Of a variation."""
        return int(np.prod(self.producer.shape))

    @property
    def disk_bytes(self) -> int:
        """Of variations to be made, at most; a store takes all its room when it is begun."""
        return (len(self.most.tried) * self.per_strength + (0 if self.kept else self.count)) * self.bytes_each

    def evaluations(self, strength: float | None) -> int | None:
        """Return the network evaluations per variation; None where that is not known."""
        return evaluations(with_strength(self.producer.generator, strength))

    def seconds(self, scenario: Scenario, throughput: Throughput, per_answer: float) -> dict[str, float]:
        """Return the seconds per stage.

        :param per_answer: seconds that the teacher takes for an image.
        """
        tried = sum(throughput.seconds(self.evaluations(each)) + per_answer for each in scenario.tried)
        return {
            "generator": self.loaded.fitting or 0.0,
            "strength": self.per_strength * (tried + per_answer * bool(scenario.tried)),
            "variations": (self.count - self.kept) * throughput.seconds(self.evaluations(scenario.strength)),
        }

    def facts(self) -> dict[str, Any]:
        """Return what does not have to be measured."""
        found: dict[str, Any] = {"generator": self.loaded.name}
        if self.loaded.fitting is not None:
            found["denoiser"] = f"would be trained on {self.clean:,} reserved clean images; an untrained one was timed"
        found |= {"strength": self.words, "variations": self.count, "variations_kept": self.kept}
        if self.kept and not self.sure:
            found["kept_if"] = "denoiser and strength come out as before; else a run refuses their folder"
        found["variations_tried"] = len(self.likely.tried) * self.per_strength
        each = self.evaluations(self.likely.strength)
        if each is not None:
            found |= {
                "nfe_per_variation": each,
                "nfe_total": self._evaluations_of(self.likely),
                "nfe_at_most": self._evaluations_of(self.most),
            }
        return found

    def _evaluations_of(self, scenario: Scenario) -> int:
        tried = sum(self.evaluations(each) or 0 for each in scenario.tried)
        return (self.count - self.kept) * (self.evaluations(scenario.strength) or 0) + self.per_strength * tried


def _variation_cost(
    producer: VariationGenerator, loaded: LoadedGenerator, clean: ImageSet | None, context: Context
) -> VariationCost:
    likely, most, words = _scenarios(loaded.generator, clean, producer.settings)
    sure = loaded.fitting is None and likely == most
    folder = None if context.work_dir is None else context.work_dir / "image_variations"
    if producer.settings.variations is not None:
        folder = Path(producer.settings.variations)
    kept = 0 if folder is None else already_made(_set_to(producer, likely), folder, sure=sure)
    return VariationCost(producer, loaded, len(clean or ()), likely, most, words, kept, sure)


def _scenarios(
    generator: ImageGenerator, clean: ImageSet | None, settings: ImageVariationsSettings
) -> tuple[Scenario, Scenario, str]:
    """Return the likely scenario and the longest one, and in words which strength that is."""
    known = without_search(generator, clean, settings)
    if known is not None:
        scenario = Scenario(known.value)
        return scenario, scenario, known.how if known.value is None else f"{known.value:.3g}, {known.how}"
    assert isinstance(generator, AdjustableGenerator)
    candidates = possible(generator, settings)
    middle = (len(candidates) - 1) // 2
    likely = Scenario(candidates[middle], candidates[: middle + 2])  # the search ends with the first one too strong
    words = f"searched among {', '.join(f'{each:.3g}' for each in candidates)}; {candidates[middle]:.3g} assumed"
    return likely, Scenario(candidates[-1], candidates), words


def _set_to(producer: VariationGenerator, scenario: Scenario) -> VariationGenerator:
    return dataclasses.replace(producer, generator=with_strength(producer.generator, scenario.strength))


@dataclass(frozen=True)
class Learning:
    """Seconds of what classifiers do: per stage, and for one answer of the teacher."""

    stages: dict[str, float]
    per_answer: float


def _learning(case: Case, settings: ImageVariationsSettings, context: Context, shown: ImageSet) -> Learning:
    """Return what teacher and student cost, from a few batches.

    :param shown: images of the size that the student learns from.
    """
    assert case.train is not None
    trainer, recipe, suspects = Trainer(settings, context, None), settings.recipe.resolved(), case.train
    few = shown.subset(np.arange(min(len(shown), STEPS * recipe.batch_size)))
    teacher = trainer.start_of_teacher(case)
    per_answer = seconds_per_answer(teacher, few, recipe.batch_size)
    per_view = seconds_per_view(trainer.start_of_student(case, few), few, recipe, context)
    variations = 0 if settings.student_data == "originals" else len(suspects) * settings.num_variations
    seen = variations + round(settings.mixing * len(suspects)) if variations else len(suspects)
    asked = {"once": 1, "mirrored": 2, "always": recipe.epochs}[logit_mode(settings)] if settings.distill else 0
    teaching = 0.0
    if not takes_case_model(case, settings):
        alike = few.image_shape == suspects.image_shape  # the architecture always is
        per_suspect = per_view if alike else seconds_per_view(teacher, suspects, recipe, context)
        teaching = recipe.epochs * len(suspects) * per_suspect
    return Learning(
        {
            "train teacher": teaching,
            "train student": seen * (recipe.epochs * per_view + asked * per_answer),
            "compare": (len(suspects) + variations) * per_answer if variations else 0.0,
        },
        per_answer,
    )


def _like_variations(producer: VariationGenerator) -> ImageSet:
    """Return some suspect images in the size of variations."""
    few = producer.images.subset(np.arange(min(len(producer.images), STEPS * producer.settings.recipe.batch_size)))
    return ImageSet(producer.stored(as_rgb(few.read(slice(None)))), few.labels, few.num_classes)

"""Image variations, steps 1 and 3: the teacher, which may be poisoned, and the student that is distilled from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from ...core.case import Case
from ...core.classifier.classifier import Classifier
from ...core.context import Context
from ...core.images import ImageSet
from ...training.distillation import Teacher, can_look_up, distillation, known_logits, looked_up, online
from ...training.fit import learn, untrained
from .settings import ImageVariationsSettings
from .variations import as_rgb


class Trainer:
    """Trains teacher and student under the settings.

    :param folder: where states go, or None.
    :ivar curves: of all trainings so far.
    """

    def __init__(self, settings: ImageVariationsSettings, context: Context, folder: Path | None) -> None:
        self.settings, self.context, self._folder = settings, context, folder
        self.curves: dict[str, list[float]] = {}

    def make_teacher(self, case: Case) -> Classifier:
        """Return the teacher, frozen in eval mode: the case's model, or one trained on the suspect set as it is."""
        teacher = self.start_of_teacher(case)
        if not takes_case_model(case, self.settings):
            assert case.train is not None
            self._learn(teacher, case.train, "teacher")
        return teacher.eval().requires_grad_(False)

    def start_of_teacher(self, case: Case) -> Classifier:
        """Return the teacher before it is trained, if that is to be done."""
        assert case.train is not None
        if takes_case_model(case, self.settings):
            assert case.model is not None
            teacher = case.model.clone().to(self.context.device)
        else:
            teacher = self._fresh(case, "teacher")
        if teacher.input_size is None and self.settings.store_size is not None:
            teacher.input_size = case.train.image_shape[0]  # variations may be larger than what it is trained on
        return teacher

    def make_student(self, case: Case, images: ImageSet, teacher: Classifier) -> Classifier:
        """Return a student trained on *images* alone.

        :param teacher: gives the soft labels, unless ``distill`` is off.
        """
        settings = self.settings
        if settings.architecture is None and not takes_case_model(case, settings):
            student = teacher.fresh(self._seed("student"))
        else:
            student = self._fresh(case, "student")
        self._see_whole(student, images)
        if not settings.distill:
            self._learn(student, images, "student")
            return student
        chosen = settings.model_dump(mode="json", include={"temperature", "alpha", "ce_temperature"})
        chosen |= settings.model_dump(mode="json", include={"drop_disagreeing", "augment_teacher", "cache_logits"})
        objective = distillation(
            self._answers(teacher, images),
            temperature=settings.temperature,
            alpha=settings.alpha,
            ce_temperature=settings.hard_temperature,
            drop_disagreeing=settings.drop_disagreeing,
        )
        identity = {"teacher": teacher.fingerprint(), "distillation": chosen}
        self._learn(student, images, "student", objective=objective, identity=identity)
        return student

    def _answers(self, teacher: Classifier, images: ImageSet) -> Teacher:
        """Return the teacher's logits: computed beforehand where that gives the same, else for every batch."""
        how = logit_mode(self.settings)
        if how == "always":
            return online(teacher)
        return looked_up(known_logits(teacher, images, mirror=how == "mirrored"))

    def start_of_student(self, case: Case, images: ImageSet) -> Classifier:
        """Return a network like the student that learns from *images*, before it is trained."""
        student = self._fresh(case, "student")
        self._see_whole(student, images)
        return student

    def _see_whole(self, student: Classifier, images: ImageSet) -> None:
        """Have *student* see *images* in their full size, where they are stored larger than the suspect images."""
        if self.settings.store_size is not None:
            student.input_size = images.image_shape[0]

    def _fresh(self, case: Case, name: str) -> Classifier:
        assert case.train is not None
        return untrained(
            case.train,
            self.settings.architecture,
            self._seed(name),
            self.context.device,
            like=case.model,
            normalised=self.settings.normalize,
        )

    def _seed(self, name: str) -> int:
        return self.context.derive_seed("image_variations", "weights", name)

    def _learn(self, model: Classifier, images: ImageSet, name: str, **options: Any) -> None:
        state = None if self._folder is None else self._folder / f"{name}.checkpoint"
        curves = learn(
            model,
            images,
            self.settings.recipe.resolved(),
            self.context,
            name=f"image-variations-{name}",
            stage=f"train {name}",
            state=state,
            **options,
        )
        self.curves |= {f"{name}_{key}": values for key, values in curves.items()}


def logit_mode(settings: ImageVariationsSettings) -> Literal["once", "mirrored", "always"]:
    """Return when the teacher's logits are computed: beforehand (for mirror images too), or in every epoch."""
    if not settings.augment_teacher:
        return "once"
    if settings.cache_logits and can_look_up(settings.recipe.augmentation):
        return "mirrored" if settings.recipe.augmentation.flip else "once"
    return "always"


def takes_case_model(case: Case, settings: ImageVariationsSettings) -> bool:
    """Whether the case's model is the teacher."""
    return settings.teacher == "case" or (settings.teacher == "auto" and case.model is not None)


def mix_sets(variations: ImageSet, suspects: ImageSet, share: float, context: Context) -> ImageSet:
    """Return *variations* with a random *share* of the suspect images behind them; the student then sees those.

    :param share: of the suspect set.
    """
    count = round(share * len(suspects))
    if not count:
        return variations
    order = torch.randperm(len(suspects), generator=context.generator("image_variations", "mixing")).numpy()
    rows = np.sort(order[:count])
    images = as_rgb(suspects.read(rows))
    if images.shape[2:] != variations.image_shape[:2]:
        large = torch.nn.functional.interpolate(images.float(), variations.image_shape[:2], mode="bicubic")
        images = large.round_().clamp_(0, 255).to(torch.uint8)
    pixels = images.permute(0, 2, 3, 1)[..., : variations.image_shape[2]].numpy()
    return ImageSet(
        np.concatenate([variations.read(slice(None)), pixels]),
        np.concatenate([variations.labels, suspects.labels[rows]]),
        variations.num_classes,
    )

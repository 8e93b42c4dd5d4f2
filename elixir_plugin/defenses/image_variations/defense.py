"""Image variations and distillation (Struppek, Hentschel, Poth, Hintersdorf, Kersting, NeurIPS workshop on Backdoors in
Deep Learning 2023, arXiv 2310.06372).

The model that is deployed never sees a suspect image.

1. A teacher is trained on the suspect set as it is; it may be backdoored.
2. A diffusion model makes variations of every image, suspicious or not. They keep what the image shows, and lose what
   is small or looks like noise. They are stored under the given label.
3. A student is trained on the variations alone, from the given labels and from the teacher's logits; the teacher sees
   no trigger in them.

Losses follow the released code; its faults are mended: K variations per image belong to their image, each has its own
seed, and work can be resumed.

The released code never mixes suspect images in; ``mixing`` does, and is off.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.case import Case
from ...core.classifier.classifier import Classifier, to_batch
from ...core.context import Context
from ...core.draws import Uncovered
from ...core.images import ImageSet, Index
from ...core.outcome import Outcome
from ...core.panels import Panel
from ...defense import Card, Defense
from ...diffusion.fit import choose
from ...diffusion.generators.base import AdjustableGenerator, ImageGenerator
from ...errors import InputError, MissingNeedError
from ...io.files import to_json_types
from ...training.fit import refuse_unknown_architecture
from .estimate import estimate
from .generator import LoadedGenerator, choose_backend, load_generator, load_to_time, refuse_store
from .models import Trainer, mix_sets
from .outcome import compare, notes_on, panels_of, sanitised
from .settings import ImageVariationsSettings
from .strength import Strength, find_strength, possible, with_strength
from .variations import VariationGenerator, Variations, make_variations


class ImageVariations(Defense):
    """Train a student on variations of the suspect images, distilled from a suspect teacher."""

    name = "image_variations"
    kind = "train"
    needs = frozenset({"train", "generator"})
    trains_on_clean = True
    Settings = ImageVariationsSettings
    settings: ImageVariationsSettings
    card = Card(
        title="Image variations",
        paper="Struppek, Hentschel, Poth, Hintersdorf, Kersting: Leveraging Diffusion-Based Image Variations for "
        "Robust Training on Poisoned Data, NeurIPS workshop on Backdoors in Deep Learning 2023, arXiv 2310.06372",
        year=2023,
        claims="a student without backdoor from a poisoned set, without clean data and without detecting poison",
        cost="one variation per image (50 steps, or `strength` of them) and two classifier trainings; with a pipeline "
        "at 512 px about 70 TFLOP per image, 2 GPU-hours per 10,000",
        limits="only as good as the generator: with a tenth of the triggers kept the backdoor passes to the student; "
        "clean-label poisons and natural objects as triggers survive; a generator that was trained on the suspect "
        "images paints triggers back in",
    )

    def check(self, case: Case) -> None:
        settings = self.settings
        if case.num_classes < 2:
            raise InputError("nothing to distil", where="number of classes", found=1, allowed="2 or more")
        if settings.teacher == "case" and case.model is None:
            raise MissingNeedError(
                "this case holds no suspect model to take as teacher",
                where="settings of image_variations: teacher=case",
                hint="use a record that holds one, or teacher=train",
            )
        refuse_store(case, settings)
        assert case.train is not None
        refuse_unknown_architecture(settings.architecture, case.train.image_shape[2])
        if settings.student_data == "variations":
            self.refuse_no_generator(case)

    def about_uncovered(self, case: Case, classes: Uncovered) -> str | None:
        settings = self.settings
        if settings.student_data != "variations":
            return None
        if choose_backend(case, settings) == "sdedit" and settings.denoiser is None:
            return choose.UNSEEN
        return "The strength is chosen without images of them" if settings.strength == "auto" else None

    def refuse_no_generator(self, case: Case) -> None:
        """Refuse a case for which :meth:`prepare_generator` finds nothing; to be overridden together with it."""
        choose_backend(case, self.settings)

    def prepare_generator(self, case: Case, context: Context) -> LoadedGenerator:
        """Return the generator of the settings."""
        return load_generator(case, self.settings, context)

    def generator_to_time(self, case: Case, context: Context) -> LoadedGenerator:
        """Return one as fast as that of :meth:`prepare_generator`; to be overridden together with it."""
        return load_to_time(case, self.settings, context)

    def estimate(self, case: Case, context: Context) -> dict[str, Any]:
        """Return what a run would cost, measured on a few images; see :mod:`.estimate`.

        :raises ElixirError: for what :meth:`run` would refuse before any work, or once it has its generator.
        """
        self.refuse(case)
        visible = case.visible()
        makes = self.settings.student_data == "variations"
        loaded = self.generator_to_time(visible, context) if makes else None
        settings = self.settled(visible, context).settings
        return estimate(visible, settings, context, loaded, seed=self._seed(context))

    def panels(self, outcome: Outcome) -> list[Panel]:
        return panels_of(outcome, self.settings.search.agreement)

    def preview(self, case: Case, context: Context, count: int) -> list[Tensor]:
        """Return rows of an image and its variations, the very ones that a run makes.

        With ``strength: auto``, whose search needs the teacher, one variation per candidate. A denoiser that has to be
        trained is trained first; a run that follows in the same work folder takes it up.
        """
        self.refuse(case)
        visible = case.visible()
        assert visible.train is not None
        loaded = self.prepare_generator(visible, context)
        return preview_rows(
            loaded.generator, self.settings, visible.train, count, seed=self._seed(context), context=context
        )

    def defend(self, case: Case, context: Context) -> Outcome:
        assert case.train is not None
        settings, train = self.settings, case.train
        if train.images.dtype != np.uint8 and settings.student_data == "variations":
            context.note("variations are made of images rounded to 256 levels; this set is in float")
        with context.scratch_dir("image_variations") as folder:
            trainer = Trainer(settings, context, folder if context.work_dir is not None else None)
            if settings.student_data == "originals":
                teacher = trainer.make_teacher(case)
                student = trainer.make_student(case, train, teacher)
                context.note("a control: the student was trained on the suspect images themselves")
                return Outcome(model=student, undefended=teacher, curves=trainer.curves)
            with context.stage("generator"):
                loaded = self.prepare_generator(case, context)
            teacher = trainer.make_teacher(case)
            with context.stage("strength"):
                strength = find_strength(
                    loaded.generator, case.clean, teacher, settings, context=context, folder=folder
                )
            for note in [*loaded.notes, *strength.notes]:
                context.note(note)
            generator = with_strength(loaded.generator, strength.value)
            kept = folder if settings.variations is None else Path(settings.variations)
            with context.stage("variations"):
                made = make_variations(
                    VariationGenerator(generator, settings, train, self._seed(context)),
                    kept,
                    context,
                    "making variations",
                )
            scores, rows = compare(teacher, train, made.images, settings.num_variations)
            student = trainer.make_student(case, mix_sets(made.images, train, settings.mixing, context), teacher)
            outcome = self._outcome(train, made, student, teacher)
        outcome.scores = scores
        outcome.curves = {**trainer.curves, **_curve(strength)}
        outcome.tables = to_json_types(
            {"generator": _facts(loaded, generator, strength), "classes": rows, **made.counts}
        )
        return outcome

    def _outcome(self, train: ImageSet, made: Variations, student: Classifier, teacher: Classifier) -> Outcome:
        """Return student, teacher, and the variations as sanitised set where they can stand for its images."""
        settings = self.settings
        fits = made.images.image_shape == train.image_shape
        notes = notes_on(made.counts, settings.variations, settings.num_variations, fits=fits)
        if settings.mixing:
            notes.append(f"mixing: the student also saw {100 * settings.mixing:.0f} % of the suspect images")
        replaced = sanitised(train, made.images, settings.num_variations)
        return Outcome(train=replaced, model=student, undefended=teacher, notes=notes)

    def _seed(self, context: Context) -> int:
        return context.derive_seed("image_variations", "variations")


def _curve(strength: Strength) -> dict[str, list[float]]:
    return {"strength": strength.tried, "strength_agreement": strength.agreement} if strength.tried else {}


def _facts(loaded: LoadedGenerator, generator: ImageGenerator, strength: Strength) -> dict[str, Any]:
    """Return where the variations come from, for the tables."""
    known = generator.facts() if hasattr(generator, "facts") else {}
    chosen = {} if strength.value is None else {"strength": strength.value, "strength_chosen": strength.how}
    return {**loaded.facts, **known, **chosen, "fingerprint": generator.fingerprint()}


def preview_rows(
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
        producer = VariationGenerator(each, settings, images, seed)
        made = to_batch(producer.make(numbers)[0], torch.device("cpu"))
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

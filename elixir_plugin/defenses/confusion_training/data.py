"""What Confusion Training prepares once: samples on the device, held-out clean samples and networks.

:class:`RoundCache` keeps finished rounds on disk, so that a killed run continues at the round it was in.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...core.case import Case
from ...core.classifier.classifier import Classifier, to_batch
from ...core.context import Context
from ...core.images import ImageSet, Index
from ...core.pixels import normalisation, shared_rows
from ...core.settings import fingerprint
from ...errors import ElixirError, InputError, preview_list
from ...io.files import write_json, write_tensors
from ...io.reading import read_json, read_tensors
from ...training.batches import Samples, SampleSource, ShuffledBatches
from ...training.fit import untrained
from ...training.loop import Recipe, train
from .rounds import View
from .settings import ConfusionSettings

FEW_PER_CLASS = 20  # reserved clean samples per class below which a reader is warned
EVAL_BATCH = 512  # images per forward pass when nothing is trained


@dataclass(frozen=True)
class PreparedData:
    """Everything decoded and on the device.

    :param suspect: the suspect set, ``[N]``.
    :param clean: the reserved clean samples that confusion uses, ``[M]``, under their labels.
    :param held_out: ``[h]``, those that confusion never gives wrong labels, or None.
    :param pool: what models are trained on: the suspect set, and after it the held-out samples where they are mixed in.
    :param pool_labels: of *pool*.
    :param inspected: ``[C]`` whether *clean* holds the class at all.
    :param trained_rows: ascending positions in *pool* that models may be trained on.
    :param tested_rows: ascending positions of those whose fit is tested: all others, or the whole set when there are
        no others.
    """

    suspect: Samples
    clean: View
    held_out: View | None
    pool: View
    pool_labels: Index
    labels: Index
    clean_labels: Index
    held_out_labels: Index
    num_classes: int
    inspected: NDArray[np.bool_]
    trained_rows: Index
    tested_rows: Index


def prepare(case: Case, settings: ConfusionSettings, context: Context) -> PreparedData:
    """Decode both sets, set clean samples aside, and note what a reader must know."""
    assert case.train is not None and case.clean is not None
    train_set, clean = case.train, case.clean
    samples = Samples(clean, context.device)
    rows = np.arange(len(clean))
    held = hold_out(clean.labels, settings.held_out, context)
    all_rows = np.arange(len(train_set))
    untrained = hold_out(train_set.labels, settings.untrained_share, context, "witnesses")
    used = np.setdiff1d(rows, held)
    counts = np.bincount(clean.labels[used], minlength=case.num_classes)
    for note in clean_set_warnings(train_set, clean, counts):
        context.note(note)
    suspect = Samples(train_set, context.device)
    own = (suspect, all_rows, train_set.labels)
    held_out = (samples, held, clean.labels[held])
    mixed = settings.mixes_in() and len(held) > 0
    pool_labels = np.concatenate([train_set.labels, clean.labels[held]]) if mixed else train_set.labels
    return PreparedData(
        suspect=suspect,
        clean=View((samples, used, clean.labels[used])),
        held_out=View(held_out) if len(held) else None,
        pool=View(own, held_out) if mixed else View(own),
        pool_labels=pool_labels,
        labels=train_set.labels,
        clean_labels=clean.labels[used],
        held_out_labels=clean.labels[held],
        num_classes=case.num_classes,
        inspected=counts > 0,
        trained_rows=np.setdiff1d(np.arange(len(pool_labels)), untrained),
        tested_rows=untrained if len(untrained) else all_rows,
    )


def refuse_none_held_out(clean: ImageSet, settings: ConfusionSettings) -> None:
    """Refuse a reserved clean set too small to hold any sample out, where a rule rests on those: none could ever fire.

    :raises InputError: naming how many samples one class needs at least.
    """
    most = int(clean.class_counts().max())
    if settings.rule == "ratio" or int(settings.held_out * most):
        return
    raise InputError(
        "too few reserved clean samples to hold any out",
        where="clean",
        found=f"{most} of the largest class",
        allowed=f"from {math.ceil(1 / settings.held_out)} of a class on, at held_out={settings.held_out:g}",
        hint="raise held_out, or set rule=ratio",
    )


def hold_out(labels: Index, share: float, context: Context, name: str = "hold out") -> Index:
    """Return ascending positions of samples to set aside: ``floor(share · m_c)`` of every class, drawn under *name*."""
    order = torch.randperm(len(labels), generator=context.generator("confusion_training", name)).numpy()
    chosen = [
        members[: int(share * len(members))] for c in np.unique(labels) for members in [order[labels[order] == c]]
    ]
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def kept_apart(labels: Index, share: float) -> int:
    """Return how many samples :func:`hold_out` sets aside."""
    return int(sum(int(share * count) for count in np.bincount(labels)))


def clean_set_warnings(suspect: ImageSet, clean: ImageSet, counts: Index) -> list[str]:
    """Return what makes the reserved clean set less useful than it could be, beside classes that it lacks.

    :param counts: ``[C]`` clean samples of each class that confusion can use.
    """
    found = []
    present = suspect.class_counts() > 0
    if len(thin := np.flatnonzero(present & (counts > 0) & (counts < FEW_PER_CLASS))):
        found.append(
            f"fewer than {FEW_PER_CLASS} reserved clean samples to confuse in classes {preview_list(thin, 10)}: "
            "less reliable"
        )
    if shared := len(shared_rows(clean, suspect)):
        found.append(
            f"{shared} images of the reserved clean set are in the suspect set too (found by content): "
            "they are pulled to wrong labels and to their own at once, and are no independent check"
        )
    return found


def fresh_model(case: Case, settings: ConfusionSettings, context: Context, name: str) -> Classifier:
    """Return a network with weights drawn under *name*: the named architecture, else that of the case's model."""
    assert case.clean is not None
    seed = context.derive_seed("confusion_training", "weights", name)
    mean, std = normalisation(case.clean)
    return untrained(
        case.clean,
        settings.architecture,
        seed,
        context.device,
        like=case.model,
        default="cifar_resnet18",
        mean=settings.mean or mean,
        std=settings.std or std,
        input_size=settings.input_size,
    )


def reference_recipe(settings: ConfusionSettings) -> Recipe:
    """Return how a reference model is trained."""
    quarter = max(1, settings.reference_epochs // 4)  # at milestone 0 the rate would be lowered from the start
    return Recipe(
        epochs=settings.reference_epochs,
        lr=settings.reference_lr,
        weight_decay=settings.weight_decay,
        schedule="step",
        milestones=(2 * quarter, 3 * quarter),
        augmentation=settings.reference_augmentation,
        precision=settings.precision,
        channels_last=settings.channels_last,
    )


def suspect_model(case: Case, data: PreparedData, settings: ConfusionSettings, context: Context) -> Classifier:
    """Return the classifier whose predictions on clean images are confused: the case's own, else a new one.

    It may well be backdoored. That does no harm: it only sees clean images.
    """
    if case.model is not None:
        return case.model.clone().to(context.device).eval()
    model = fresh_model(case, settings, context, "reference")
    recipe = reference_recipe(settings)
    name = "confusion_training/reference"
    with context.stage("train reference"):
        train(model, ShuffledBatches(data.suspect, recipe.batch_size, context, recipe.augmentation, name), recipe,
              context, name=name)  # fmt: skip
    return model


@torch.inference_mode()
def model_outputs(model: Classifier, samples: SampleSource, *, features: bool = False) -> tuple[Tensor, Tensor | None]:
    """Return logits ``[n, C]`` and, from the same pass, features ``[n, d]``; float32 on the CPU, in eval mode."""
    model.eval()
    logits, hidden = [], []
    for start in range(0, len(samples), EVAL_BATCH):
        rows = torch.arange(start, min(start + EVAL_BATCH, len(samples)), device=samples.device)
        batch = to_batch(samples.pixels(rows), model.device)
        out, inner = model.features(batch) if features else (model.logits(batch), None)
        logits.append(out.float())
        if inner is not None:
            hidden.append(inner.float())
    return torch.cat(logits).cpu(), torch.cat(hidden).cpu() if features else None


class RoundCache:
    """Keeps finished rounds in the work folder, so that a killed run continues at the round it was in.

    There is one folder for each combination of settings, seed and data. Settings that only decide on what training
    found do not count.
    """

    def __init__(self, context: Context, settings: ConfusionSettings, case: Case) -> None:
        self._folder: Path | None = None
        if context.work_dir is not None:
            assert case.train is not None and case.clean is not None
            key = [settings.trained_with(), context.seed, case.train.fingerprint(), case.clean.fingerprint()]
            key.append(None if case.model is None else case.model.fingerprint())
            self._folder = context.work_dir / f"confusion_training-{fingerprint(key)}"

    def load_or_make(
        self, name: str, make: Callable[[], tuple[Mapping[str, Tensor], Any]]
    ) -> tuple[Mapping[str, Tensor], Any]:
        """Return the tensors and facts (JSON types) stored as *name*, or make and store them."""
        if self._folder is None:
            return make()
        tensors, facts = self._folder / f"{name}.safetensors", self._folder / f"{name}.json"
        if facts.exists():  # written last
            try:
                return read_tensors(tensors), read_json(facts)
            except ElixirError as error:
                logging.getLogger(__name__).info("%s is damaged and made again: %s", name, error.what)
        made = make()
        write_tensors(tensors, made[0])
        write_json(facts, made[1])
        return made

"""What Confusion Training prepares once: samples on the device, held-out clean samples, networks; and its memory."""

from __future__ import annotations

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
from ...core.classifier.classifier import Classifier, model_fingerprint, to_batch
from ...core.context import Context
from ...core.images import ImageSet, Index
from ...core.pixels import normalisation, shared_rows
from ...core.settings import fingerprint
from ...errors import ElixirError, InputError, preview_list
from ...io.files import read_json, read_tensors, write_json, write_tensors
from ...training.batches import Samples, SampleSource, ShuffledBatches
from ...training.loop import Augmentation, Recipe, train
from .rounds import View
from .settings import ConfusionSettings

THIN = 20  # reserved clean samples per class below which a reader is warned
READ_OUT = 512  # images per forward pass when nothing is trained


@dataclass(frozen=True)
class Material:
    """Everything decoded and on the device.

    :param suspect: the suspect set, ``[N]``.
    :param clean: the reserved clean samples that confusion uses, ``[M]``, under their labels.
    :param held_out: those it never sees, or None.
    :param inspected: ``[C]`` whether *clean* holds the class at all.
    :param taught: ascending positions of the suspects that models may be trained on.
    :param witnesses: ascending positions of those whose fit is tested: the others, or all when none sit out.
    """

    suspect: Samples
    clean: View
    held_out: View | None
    labels: Index
    clean_labels: Index
    held_out_labels: Index
    num_classes: int
    inspected: NDArray[np.bool_]
    taught: Index
    witnesses: Index


def prepare(case: Case, settings: ConfusionSettings, context: Context) -> Material:
    """Decode both sets, set clean samples aside, and note what a reader must know."""
    assert case.train is not None and case.clean is not None
    train_set, clean = case.train, case.clean
    samples = Samples(clean, context.device)
    rows = np.arange(len(clean))
    held = hold_out(clean.labels, settings.held_out, context)
    everyone = np.arange(len(train_set))
    witnesses = hold_out(train_set.labels, settings.witnesses, context, "witnesses")
    used = np.setdiff1d(rows, held)
    counts = np.bincount(clean.labels[used], minlength=case.num_classes)
    for note in warnings(train_set, clean, counts):
        context.note(note)
    return Material(
        suspect=Samples(train_set, context.device),
        clean=View((samples, used, clean.labels[used])),
        held_out=View((samples, held, clean.labels[held])) if len(held) else None,
        labels=train_set.labels,
        clean_labels=clean.labels[used],
        held_out_labels=clean.labels[held],
        num_classes=case.num_classes,
        inspected=counts > 0,
        taught=np.setdiff1d(everyone, witnesses),
        witnesses=witnesses if len(witnesses) else everyone,
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


def warnings(suspect: ImageSet, clean: ImageSet, counts: Index) -> list[str]:
    """Return what is wrong, but bearable, with the reserved clean set; *counts* are the classes confusion can use."""
    found = []
    present = suspect.class_counts() > 0
    if len(absent := np.flatnonzero(present & (counts == 0))):
        found.append(
            f"classes not inspected, because the reserved clean set does not hold them: {preview_list(absent, 10)}. "
            "Their clean images are never confused, so that being fitted says nothing"
        )
    if len(thin := np.flatnonzero(present & (counts > 0) & (counts < THIN))):
        found.append(
            f"fewer than {THIN} reserved clean samples to confuse in classes {preview_list(thin, 10)}: less reliable"
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
    mean, std = list(settings.mean or mean), list(settings.std or std)
    if settings.architecture is None and case.model is not None:
        model = case.model.clone().to(context.device).fresh(seed)
        size = settings.input_size or model.input_size
        model = Classifier(
            model.module, model.num_classes, mean=mean, std=std, channels=model.channels,
            architecture=model.architecture, input_size=size,
        )  # fmt: skip
        return model.to(context.device)
    return Classifier.build(
        settings.architecture or "cifar_resnet18",
        case.num_classes,
        channels=case.clean.image_shape[2],
        seed=seed,
        mean=mean,
        std=std,
        input_size=settings.input_size,
    ).to(context.device)


def suspect_model(case: Case, material: Material, settings: ConfusionSettings, context: Context) -> Classifier:
    """Return the classifier whose predictions on clean images are confused: the case's own, else a new one.

    It may well be backdoored. That does no harm: it only sees clean images.
    """
    if case.model is not None:
        return case.model.clone().to(context.device).eval()
    model = fresh_model(case, settings, context, "reference")
    quarter = max(1, settings.reference_epochs // 4)  # at milestone 0 the rate would be lowered from the start
    recipe = Recipe(
        epochs=settings.reference_epochs,
        lr=settings.reference_lr,
        weight_decay=settings.weight_decay,
        schedule="step",
        milestones=(2 * quarter, 3 * quarter),
        augmentation=Augmentation(crop=4, flip=True),
        precision=settings.precision,
        channels_last=settings.channels_last,
    )
    name = "confusion_training/reference"
    with context.stage("train reference"):
        train(model, ShuffledBatches(material.suspect, recipe.batch_size, context, recipe.augmentation, name), recipe,
              context, name=name)  # fmt: skip
    return model


@torch.inference_mode()
def read_out(model: Classifier, samples: SampleSource, *, features: bool = False) -> tuple[Tensor, Tensor | None]:
    """Return logits ``[n, C]`` and, from the same pass, features ``[n, d]``; float32 on the CPU, in eval mode."""
    model.eval()
    logits, hidden = [], []
    for start in range(0, len(samples), READ_OUT):
        rows = torch.arange(start, min(start + READ_OUT, len(samples)), device=samples.device)
        batch = to_batch(samples.pixels(rows), model.device)
        out, inner = model.features(batch) if features else (model.logits(batch), None)
        logits.append(out.float())
        if inner is not None:
            hidden.append(inner.float())
    return torch.cat(logits).cpu(), torch.cat(hidden).cpu() if features else None


class Memory:
    """What finished parts of a run left in the work folder, so that a killed run goes on where it was.

    Records belong to one (settings, seed, data): those of anything else are in another folder and never read.
    Settings that only decide on what training found do not count.
    """

    def __init__(self, context: Context, settings: ConfusionSettings, case: Case) -> None:
        self._folder: Path | None = None
        if context.work_dir is not None:
            assert case.train is not None and case.clean is not None
            key = [settings.trained_with(), context.seed, case.train.fingerprint(), case.clean.fingerprint()]
            key.append(None if case.model is None else model_fingerprint(case.model))
            self._folder = context.work_dir / f"confusion_training-{fingerprint(key)}"

    def recall(
        self, name: str, make: Callable[[], tuple[Mapping[str, Tensor], Any]]
    ) -> tuple[Mapping[str, Tensor], Any]:
        """Return tensors and facts (JSON types) called *name*: those on disk, else new ones, which are put there."""
        if self._folder is None:
            return make()
        tensors, facts = self._folder / f"{name}.safetensors", self._folder / f"{name}.json"
        if facts.exists():  # written last
            try:
                return read_tensors(tensors), read_json(facts)
            except ElixirError:
                pass  # damaged: make it again
        made = make()
        write_tensors(tensors, made[0])
        write_json(facts, made[1])
        return made

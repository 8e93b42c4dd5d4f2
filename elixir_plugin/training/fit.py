"""Classifiers that defenses train on a whole set: untrained ones that fit a case, and training that survives kills."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..core.case import Case
from ..core.classifier.classifier import Classifier, build_module
from ..core.context import Context
from ..core.images import ImageSet
from ..core.pixels import normalisation
from ..plugins import plugins
from .batches import Samples, ShuffledBatches
from .checkpoint import Checkpoint
from .loop import Objective, Recipe, train


def untrained(
    case: Case,
    architecture: str | None,
    seed: int,
    device: torch.device,
    *,
    default: str = "preactresnet18",
    normalised: bool = True,
) -> Classifier:
    """Return an untrained classifier for the suspect set of *case*, on *device*.

    :param architecture: its name; None: that of the case's model with its normalisation, else *default*.
    :param seed: of the weights.
    :param normalised: normalise with mean and standard deviation of the suspect set, where no model says otherwise.
    """
    assert case.train is not None
    if architecture is None and case.model is not None:
        return case.model.clone().to(device).fresh(seed)
    mean, std = normalisation(case.train) if normalised else ([0.0], [1.0])
    return Classifier.build(
        architecture or default,
        case.num_classes,
        channels=case.train.image_shape[2],
        seed=seed,
        mean=mean,
        std=std,
    ).to(device)


def refuse_unknown_architecture(architecture: str | None, channels: int) -> None:
    """Refuse a name that :func:`untrained` could not build, with the error of building it, before any work.

    :param architecture: its name; None is never refused.
    :raises SettingsError: for an unknown name, or a torchvision model with other than 3 channels.
    """
    if architecture is None or architecture in plugins().offers()["architecture"]:
        return
    import torchvision  # noqa: PLC0415  (slow, and needed for torchvision's architectures only)

    if channels != 3 or architecture not in torchvision.models.list_models(module=torchvision.models):
        build_module(architecture, 2, channels)  # which refuses it before it builds anything


def learn(
    model: Classifier,
    images: ImageSet,
    recipe: Recipe,
    context: Context,
    *,
    name: str,
    stage: str,
    state: Path | None = None,
    objective: Objective | None = None,
    identity: Mapping[str, Any] | None = None,
) -> dict[str, list[float]]:
    """Train *model* in place on *images*, leave it in eval mode, and return the curves.

    :param name: of the random draws.
    :param stage: of the context.
    :param state: file that keeps the state, so that a killed run resumes where it stopped; None: keep nothing.
    :param objective: default cross-entropy.
    :param identity: what decides the result beside images, start and recipe, in JSON types.
    """
    checkpoint = None
    if state is not None:
        facts = {"images": images.fingerprint(), "start": model.fingerprint(), **(identity or {})}
        checkpoint = Checkpoint(state, facts)
    source = ShuffledBatches(Samples(images, context.device), recipe.batch_size, context, recipe.augmentation, name)
    with context.stage(stage):
        return train(model, source, recipe, context, objective=objective, checkpoint=checkpoint, name=name)

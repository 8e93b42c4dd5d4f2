"""New classifiers for a set of images, and their training on a whole set, which resumes after a kill."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..core.classifier.classifier import Classifier, build_module
from ..core.context import Context
from ..core.images import ImageSet
from ..core.pixels import normalisation
from ..plugins import plugins
from .batches import Samples, ShuffledBatches
from .checkpoint import Checkpoint
from .loop import Objective, Recipe, train


def untrained(
    images: ImageSet,
    architecture: str | None,
    seed: int,
    device: torch.device,
    *,
    like: Classifier | None = None,
    default: str = "preactresnet18",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    normalised: bool = True,
    input_size: int | None = None,
) -> Classifier:
    """Return an untrained classifier for sets like *images*, on *device*.

    :param images: give the number of classes and of channels.
    :param architecture: its name; None: that of *like*, with its normalisation and input size, else *default*.
    :param seed: of the weights.
    :param like: a classifier for such images, which may have an architecture without a name.
    :param mean, std: normalisation; None: that of *like*, as a host that measures both models normalises once for all
        of them. Where there is none, or another architecture is named and *like* does without, see *normalised*.
    :param normalised: use mean and standard deviation of *images*, where nothing else sets them; else 0 and 1.
    :param input_size: edge length that the classifier resizes to; None: that of *like* where its architecture is taken.
    """
    if architecture is None and like is not None:
        return _adjusted(like.clone().to(device).fresh(seed), mean, std, input_size).to(device)
    if mean is None or std is None:
        own = _normalisation_of(images, like, normalised=normalised)
        mean, std = mean or own[0], std or own[1]
    return Classifier.build(
        architecture or default,
        images.num_classes,
        channels=images.image_shape[2],
        seed=seed,
        mean=mean,
        std=std,
        input_size=input_size,
    ).to(device)


def _normalisation_of(
    images: ImageSet, like: Classifier | None, *, normalised: bool
) -> tuple[Sequence[float], Sequence[float]]:
    if like is not None and not (like.mean.eq(0).all() and like.std.eq(1).all()):
        return like.mean.flatten().tolist(), like.std.flatten().tolist()
    return normalisation(images) if normalised else ([0.0], [1.0])


def _adjusted(
    model: Classifier, mean: Sequence[float] | None, std: Sequence[float] | None, input_size: int | None
) -> Classifier:
    """Return *model* with another normalisation or input size, where they are given."""
    if mean is None and std is None and input_size is None:
        return model
    return Classifier(
        model.module,
        model.num_classes,
        mean=mean or model.mean.flatten().tolist(),
        std=std or model.std.flatten().tolist(),
        channels=model.channels,
        architecture=model.architecture,
        input_size=input_size or model.input_size,
    )


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
    eval_mode: bool = False,
    identity: Mapping[str, Any] | None = None,
) -> dict[str, list[float]]:
    """Train *model* in place on *images*, leave it in eval mode, and return the curves.

    :param name: of the random draws.
    :param stage: of the context.
    :param state: file that keeps the state, so that a killed run resumes where it stopped; None: keep nothing.
    :param objective: default cross-entropy.
    :param eval_mode: keep the model in eval mode (batch norm frozen) while training.
    :param identity: what decides the result besides images, start and recipe, in JSON types.
    """
    checkpoint = None
    if state is not None:
        facts = {"images": images.fingerprint(), "start": model.fingerprint(), **(identity or {})}
        checkpoint = Checkpoint(state, facts)
    recipe = recipe.for_size(len(images))
    source = ShuffledBatches(Samples(images, context.device), recipe.batch_size, context, recipe.augmentation, name)
    with context.stage(stage):
        return train(
            model, source, recipe, context, objective=objective, eval_mode=eval_mode, checkpoint=checkpoint, name=name
        )

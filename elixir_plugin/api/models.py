"""A host's module as a classifier: with its normalisation, and the number of classes it tells apart."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..core.classifier.classifier import Classifier, evaluating, to_batch
from ..core.images import Images
from ..errors import InputError


def as_classifier(
    model: Any,
    *,
    images: Images | None = None,
    num_classes: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Classifier:
    """Return a host's module as a :class:`Classifier`; the module itself is copied and stays as it is.

    :param images: a few images ``[n, H, W, C]`` to learn channels and, if need be, the number of classes from.
    :param mean, std: what the host normalises images with, outside the module.
    :raises InputError: when the module does not map such images to one row of logits each.
    """
    if isinstance(model, Classifier):
        return model
    if not isinstance(model, nn.Module):
        raise InputError("not a model", where="model", found=type(model).__name__, allowed="an nn.Module or Classifier")
    channels = 3 if images is None else int(images.shape[3])
    clone = copy.deepcopy(model)
    device = next((parameter.device for parameter in clone.parameters()), torch.device("cpu"))
    classifier = Classifier(
        clone, num_classes or 0, mean=tuple(mean or (0.0,)), std=tuple(std or (1.0,)), channels=channels
    ).to(device)
    if images is not None:
        classifier.num_classes = _probed_width(classifier, images[:2], num_classes)
    elif num_classes is None:
        raise InputError("number of classes unknown", where="model", hint="pass num_classes")
    return classifier


@torch.inference_mode()
def _probed_width(model: Classifier, images: Images, num_classes: int | None) -> int:
    """Return the number of logits, after making sure that there is a row of them per image."""
    try:
        with evaluating(model):
            logits = model(to_batch(images, model.device))
    except (RuntimeError, ValueError, TypeError) as error:
        raise InputError(
            "the model cannot take these images", where=type(model.module).__name__, found=str(error).splitlines()[0],
            allowed=f"float [B, C, H, W], here C, H, W = {images.shape[3]}, {images.shape[1]}, {images.shape[2]}",
        ) from None  # fmt: skip
    if not isinstance(logits, Tensor) or logits.ndim != 2 or (num_classes and logits.shape[1] != num_classes):
        raise InputError(
            "the model does not return one logit per class",
            where=type(model.module).__name__,
            found=tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__,
            allowed=f"[B, {num_classes or 'classes'}]",
        )
    return int(logits.shape[1])

"""A host's module as a classifier: with its normalisation, and the number of classes it tells apart."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..core.classifier.classifier import Classifier
from ..core.classifier.copies import copied
from ..core.classifier.intake import examined, refuse_without_weights
from ..core.classifier.modes import gradients
from ..core.classifier.normalisation import PerChannel
from ..core.classifier.weights import refuse_not_finite, unwrap
from ..core.images import Images
from ..errors import InputError


def as_classifier(
    model: Any,
    *,
    images: Images | None = None,
    num_classes: int | None = None,
    mean: PerChannel | None = None,
    std: PerChannel | None = None,
) -> Classifier:
    """Return a host's module as a :class:`Classifier`; the module itself is copied and stays as it is.

    Of several outputs the main one is used, one logit is read as two classes, probabilities are turned back into
    logits, and images are resized for a module that takes one size alone and says which. The classifier's ``notes``
    tell.

    :param images: a few images ``[n, H, W, C]`` to learn channels and, if need be, the number of classes from.
    :param mean, std: what the host normalises images with, outside the module: one number, or one per channel.
    :raises InputError: when the module cannot be copied, cannot take such images, or does not map them to one row of
        logits each.
    """
    if isinstance(model, Classifier):
        return model
    if not isinstance(model, nn.Module):
        raise InputError("not a model", where="model", found=type(model).__name__, allowed="an nn.Module or Classifier")
    if images is None and num_classes is None:
        raise InputError("number of classes unknown", where="model", hint="pass num_classes")
    refuse_without_weights(model)
    refuse_not_finite(model)
    channels = 3 if images is None else int(images.shape[3])
    with gradients():  # a caller may work under inference_mode, whose tensors cannot be trained
        clone = copied(unwrap(model))
        device = next((parameter.device for parameter in clone.parameters()), torch.device("cpu"))
        classifier = Classifier(
            clone,
            num_classes or 0,
            mean=0.0 if mean is None else mean,
            std=1.0 if std is None else std,
            channels=channels,
        ).to(device)
        return classifier if images is None else examined(classifier, images[:2])

"""ART's arrays and estimators, and what they are here: image sets, integer labels, classifiers. Imports no ART."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...api.arrays import array_images, integer_labels, is_one_hot
from ...core.classifier.classifier import Classifier
from ...core.classifier.copies import copied
from ...core.classifier.intake import refuse_without_weights
from ...core.classifier.modes import evaluating
from ...core.classifier.normalisation import per_channel
from ...core.classifier.weights import load_by_name, unwrap
from ...core.images import Images, ImageSet, Index
from ...errors import InputError


@dataclass(frozen=True)
class Frame:
    """How a host's arrays are laid out.

    :param low, high: the range of float pixels (ART: ``clip_values``).
    :param channels_first: ``[N, C, H, W]`` instead of ``[N, H, W, C]``; None: whichever fits.
    :param channels: how many there are; None: 1 or 3.
    """

    low: float = 0.0
    high: float = 1.0
    channels_first: bool | None = None
    channels: int | None = None

    def read(self, x: NDArray[Any], where: str) -> Images:
        """Return images ``[N, H, W, C]``, uint8 or float32 in [0, 1]."""
        layout = "auto" if self.channels_first is None else "nchw" if self.channels_first else "nhwc"
        x = np.asarray(x)
        self._refuse_other_layout(x, where)
        if x.dtype.kind == "f" and (self.low, self.high) != (0.0, 1.0):
            x = ((x - self.low) / (self.high - self.low)).astype(np.float32)
        images, _ = array_images(x, layout, where)  # type: ignore[arg-type]
        return images.copy() if np.shares_memory(images, x) else images

    def _refuse_other_layout(self, x: NDArray[Any], where: str) -> None:
        """Refuse images whose channels are not where ``channels_first`` says, in the shape they were given in."""
        if self.channels_first is None or x.ndim != 4:
            return
        allowed = (1, 3) if self.channels is None else (self.channels,)
        here, there = (1, 3) if self.channels_first else (3, 1)
        if x.shape[here] in allowed:
            return
        axes = "N, C, H, W" if self.channels_first else "N, H, W, C"
        moved = "x.transpose(0, 3, 1, 2)" if self.channels_first else "x.transpose(0, 2, 3, 1)"
        raise InputError(
            "images are in another layout than channels_first says" if x.shape[there] in allowed
            else "images have other channels than the classifier takes",
            where=where, found=x.shape, allowed=f"[{axes}] with C = {' or '.join(map(str, allowed))}",
            hint=f"give {moved}, or channels_first={not self.channels_first} with a classifier that takes these"
            if x.shape[there] in allowed else None,
        )  # fmt: skip

    def write(self, images: Images, like: NDArray[Any]) -> NDArray[Any]:
        """Return *images* in the layout, range and type of *like*."""
        if images.dtype.kind == "f":
            images = images * (self.high - self.low) + self.low
        first = self.channels_first
        if first is None:
            first = images.shape[1:] != like.shape[1:]
        return np.ascontiguousarray(images.transpose(0, 3, 1, 2) if first else images).astype(like.dtype)

    def image_set(self, x: NDArray[Any], y: NDArray[Any], num_classes: int, where: str) -> ImageSet:
        """Return images and labels, checked."""
        return ImageSet(self.read(x, where), labels_of(y, num_classes, where), num_classes)


def labels_of(y: NDArray[Any], num_classes: int, where: str) -> Index:
    """Return integer labels ``[N]`` from any of ART's forms; a binary classifier's come as whole floats too."""
    y = np.asarray(y)
    if y.dtype.kind == "f" and not is_one_hot(y) and (y == np.rint(y)).all():
        y = y.astype(np.int64)
    return integer_labels(y, num_classes, f"{where}: labels")


def labels_like(labels: NDArray[np.int64], like: NDArray[Any], num_classes: int) -> NDArray[Any]:
    """Return integer *labels* in the form of *like*: one-hot rows, a column, or integers."""
    if is_one_hot(like):
        return np.eye(num_classes, dtype=like.dtype)[labels]
    return labels.astype(like.dtype).reshape(-1, *like.shape[1:])


class Permuted(nn.Module):
    """A module whose images come with their axes in another order.

    :param order: of the axes that come, as *inner* wants them; default: *inner* takes ``[B, H, W, C]`` and is fed with
        ``[B, C, H, W]``.
    """

    def __init__(self, inner: nn.Module, order: Sequence[int] = (0, 2, 3, 1)) -> None:
        super().__init__()
        self.inner, self.order = inner, tuple(order)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.inner(images.permute(self.order))
        return logits


class OneLogit(nn.Module):
    """What tells class 1 from class 0 in a classifier of two, as one logit ``[B, 1]``."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.inner(images)
        return logits[:, 1:] - logits[:, :1]


def frame_of(estimator: Any) -> Frame:
    """Return layout and range of the arrays *estimator* takes.

    :raises InputError: when its range differs from pixel to pixel.
    """
    low, high = 0.0, 1.0
    if estimator.clip_values is not None:
        low, high = (_constant(each, "classifier.clip_values") for each in estimator.clip_values)
    if not high > low:
        raise InputError("the range of pixels is empty", where="classifier.clip_values", found=(low, high))
    first = bool(estimator.channels_first)
    return Frame(low, high, first, int(estimator.input_shape[0 if first else -1]))


def classifier_of(estimator: Any) -> Classifier:
    """Return a copy of the module behind a ``PyTorchClassifier``, with its ``preprocessing`` inside.

    The estimator is not touched; hooks that its ``get_activations`` left in the module are not copied. A module with
    one output is a classifier of two classes.

    :raises InputError: for estimators of other frameworks, for preprocessing other than mean and deviation, and for
        modules that cannot be copied.
    """
    module = getattr(estimator, "model", None)
    if not isinstance(module, nn.Module) or not hasattr(estimator, "nb_classes"):
        raise InputError(
            "not a PyTorch classifier", where="classifier", found=type(estimator).__name__,
            allowed="art.estimators.classification.PyTorchClassifier",
        )  # fmt: skip
    frame = frame_of(estimator)
    channels = frame.channels or 3
    mean, std = _standardisation(estimator.preprocessing, channels)
    scale = frame.high - frame.low
    refuse_without_weights(module)
    clone = without_hooks(copied(unwrap(module)))
    return Classifier(
        clone if frame.channels_first else Permuted(clone),
        int(estimator.nb_classes),
        mean=[(value - frame.low) / scale for value in mean],
        std=[value / scale for value in std],
        channels=channels,
    ).to(estimator.device)


def fits(model: Classifier, estimator: Any) -> bool:
    """Tell whether the weights of *model* mean the same inside *estimator*."""
    own = classifier_of(estimator)
    given, wanted = own_module(model).state_dict(), own_module(own).state_dict()
    same = given.keys() == wanted.keys() and all(given[name].shape == wanted[name].shape for name in wanted)
    if not same or type(own_module(model)) is not type(own_module(own)) or model.input_size is not None:
        return False
    stats = [(model.mean, own.mean), (model.std, own.std)]
    return all(bool(torch.isclose(a.cpu(), b.cpu(), atol=1e-6).all()) for a, b in stats)


@torch.no_grad()
def has_one_logit(estimator: Any) -> bool:
    """Tell whether the module behind *estimator* tells two classes apart by one logit."""
    if int(estimator.nb_classes) != 2:
        return False
    model, frame = classifier_of(estimator), frame_of(estimator)
    height, width = estimator.input_shape[1:] if frame.channels_first else estimator.input_shape[:2]
    with evaluating(model):
        return model.rows(torch.zeros(1, model.channels, height, width, device=model.device)).shape[1] == 1


def load_into(estimator: Any, model: Classifier) -> None:
    """Put the weights of *model* into the module behind *estimator*, in place: its optimiser goes on working."""
    load_by_name(estimator.model, own_module(model).state_dict(), where="classifier", finite=False)
    estimator.model.eval()


def own_module(model: Classifier) -> nn.Module:
    """Return the host's own kind of module inside *model*."""
    return model.module.inner if isinstance(model.module, Permuted) else model.module


def without_hooks(module: nn.Module) -> nn.Module:
    """Remove, in place, the forward hooks that ART leaves in modules; all others stay."""
    for part in module.modules():
        left = [key for key, hook in part._forward_hooks.items() if str(getattr(hook, "__module__", "")) in _OWNERS]
        for key in left:
            del part._forward_hooks[key]
    return module


_OWNERS = ("art.estimators.classification.pytorch", "art.estimators.pytorch")


def _standardisation(preprocessing: Any, channels: int) -> tuple[list[float], list[float]]:
    if preprocessing is None:
        return [0.0], [1.0]
    if not (hasattr(preprocessing, "mean") and hasattr(preprocessing, "std")):
        raise InputError(
            "preprocessing cannot be taken over", where="classifier.preprocessing", found=type(preprocessing).__name__,
            allowed="(mean, std)", hint="other preprocessing belongs into preprocessing_defences",
        )  # fmt: skip
    try:
        mean, std = (list(per_channel(value, channels)) for value in (preprocessing.mean, preprocessing.std))
    except InputError as error:
        raise InputError(
            "preprocessing differs from pixel to pixel", where="classifier.preprocessing", found=error.found,
            allowed="one number, or one per channel",
        ) from None  # fmt: skip
    return mean, std


def _constant(value: float | Sequence[float], where: str) -> float:
    array = np.unique(np.asarray(value, np.float64))
    if len(array) != 1:
        raise InputError("the range differs from pixel to pixel", where=where, found=array[:4], allowed="one range")
    return float(array[0])

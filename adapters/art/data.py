"""ART's arrays and estimators, and what they are here: image sets, integer labels, classifiers. Imports no ART."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...api.arrays import array_images, integer_labels, is_one_hot
from ...core.classifier.classifier import Classifier
from ...core.classifier.weights import load_by_name
from ...core.images import Images, ImageSet
from ...errors import InputError


@dataclass(frozen=True)
class Frame:
    """How a host's arrays are laid out.

    :param low, high: the range of float pixels (ART: ``clip_values``).
    :param channels_first: ``[N, C, H, W]`` instead of ``[N, H, W, C]``; None: whichever fits.
    """

    low: float = 0.0
    high: float = 1.0
    channels_first: bool | None = None

    def read(self, x: NDArray[Any], where: str) -> Images:
        """Return images ``[N, H, W, C]``, uint8 or float32 in [0, 1]."""
        layout = "auto" if self.channels_first is None else "nchw" if self.channels_first else "nhwc"
        x = np.asarray(x)
        if x.dtype.kind == "f" and (self.low, self.high) != (0.0, 1.0):
            x = ((x - self.low) / (self.high - self.low)).astype(np.float32)
        images, _ = array_images(x, layout, where)  # type: ignore[arg-type]
        return images.copy() if np.shares_memory(images, x) else images

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
        labels = integer_labels(np.asarray(y), num_classes, f"{where}: labels")
        return ImageSet(self.read(x, where), labels, num_classes)


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


def frame_of(estimator: Any) -> Frame:
    """Return layout and range of the arrays *estimator* takes.

    :raises InputError: when its range differs from pixel to pixel.
    """
    low, high = 0.0, 1.0
    if estimator.clip_values is not None:
        low, high = (_constant(each, "classifier.clip_values") for each in estimator.clip_values)
    if not high > low:
        raise InputError("the range of pixels is empty", where="classifier.clip_values", found=(low, high))
    return Frame(low, high, bool(estimator.channels_first))


def classifier_of(estimator: Any) -> Classifier:
    """Return a copy of the module behind a ``PyTorchClassifier``, with its ``preprocessing`` inside.

    The estimator is not touched; hooks that its ``get_activations`` left in the module are not copied.

    :raises InputError: for estimators of other frameworks, and for preprocessing other than mean and deviation.
    """
    module = getattr(estimator, "model", None)
    if not isinstance(module, nn.Module) or not hasattr(estimator, "nb_classes"):
        raise InputError(
            "not a PyTorch classifier", where="classifier", found=type(estimator).__name__,
            allowed="art.estimators.classification.PyTorchClassifier",
        )  # fmt: skip
    frame, shape = frame_of(estimator), estimator.input_shape
    channels = int(shape[0 if frame.channels_first else -1])
    mean, std = _standardisation(estimator.preprocessing, channels)
    scale = frame.high - frame.low
    clone = without_hooks(copy.deepcopy(module))
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


def load_into(estimator: Any, model: Classifier) -> None:
    """Put the weights of *model* into the module behind *estimator*, in place: its optimiser goes on working."""
    load_by_name(estimator.model, own_module(model).state_dict(), where="classifier")
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
    return tuple(_per_channel(value, channels) for value in (preprocessing.mean, preprocessing.std))  # type: ignore[return-value]


def _per_channel(value: Any, channels: int) -> list[float]:
    """Return one number per channel; arrays may have further axes as long as they are constant along these."""
    array = np.asarray(value, np.float64)
    if array.size == 1:
        return [float(array.reshape(()))]
    axes = [axis for axis, length in enumerate(array.shape) if length == channels]
    for axis in axes:
        rows = np.moveaxis(array, axis, 0).reshape(channels, -1)
        if (rows == rows[:, :1]).all():
            return rows[:, 0].tolist()  # type: ignore[no-any-return]
    raise InputError(
        "preprocessing differs from pixel to pixel", where="classifier.preprocessing", found=array.shape,
        allowed="one number, or one per channel",
    )  # fmt: skip


def _constant(value: float | Sequence[float], where: str) -> float:
    array = np.unique(np.asarray(value, np.float64))
    if len(array) != 1:
        raise InputError("the range differs from pixel to pixel", where=where, found=array[:4], allowed="one range")
    return float(array[0])

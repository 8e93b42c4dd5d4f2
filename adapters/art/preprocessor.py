"""Purification in ART: ``Preprocessor``, applied when a classifier is fitted."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...api.arrays import is_one_hot
from ...core.augmentation import augmented_once
from ...core.case import Case
from ...errors import InputError, SettingsError
from ...evaluation.retraining import kept_rows
from .data import Frame, labels_like
from .params import COMMON, Configured
from .words import in_arts_words


class Preprocessor(Configured):
    """Take the poison out of a training set, in ``preprocessing_defences`` or by a call.

    It stands in front of training alone: what is purified are samples with labels. Samples that the defense drops are
    missing from what comes back.

    :param x_clean, y_clean: the reserved clean set; :meth:`fit` takes it too.
    :param clip_values: range of float pixels.
    :param channels_first: layout of the images; default: whichever fits.
    :param nb_classes: default: from one-hot labels, else the highest label plus one.
    :param augment: where the defense wants images changed anew at every look, change them once.
    :param preset: of the defense's settings; every other parameter is one of these settings.
    :param any_model: go on with a classifier that does not fit the reserved clean labels.
    :param verbose: show progress: a bar on a terminal, elsewhere a line a minute.
    :ivar outcome: everything the defense said, once it has run.
    """

    own: ClassVar[tuple[str, ...]] = (*COMMON, "clip_values", "channels_first", "nb_classes", "augment")

    def __init__(
        self,
        x_clean: NDArray[Any] | None = None,
        y_clean: NDArray[Any] | None = None,
        *,
        clip_values: tuple[float, float] = (0.0, 1.0),
        channels_first: bool | None = None,
        nb_classes: int | None = None,
        augment: bool = True,
        apply_fit: bool = True,
        apply_predict: bool = False,
        preset: str | None = None,
        seed: int = 0,
        device: str | None = None,
        any_model: bool = False,
        verbose: bool = True,
        **settings: Any,
    ) -> None:
        if apply_predict:
            raise SettingsError(
                "this defense purifies training sets", where="apply_predict", found=True, allowed=False,
                hint="there are no labels when a classifier predicts",
            )  # fmt: skip
        super().__init__(device_type="gpu", is_fitted=True, apply_fit=apply_fit, apply_predict=False)  # type: ignore[call-arg]
        own: dict[str, Any] = {
            "x_clean": x_clean,
            "y_clean": y_clean,
            "preset": preset,
            "seed": seed,
            "device": device,
            "any_model": any_model,
            "verbose": verbose,
        }
        own |= {"clip_values": tuple(clip_values), "channels_first": channels_first}
        self._configure({**own, "nb_classes": nb_classes, "augment": augment}, settings)

    def fit(self, x: NDArray[Any], y: NDArray[Any] | None = None, **kwargs: Any) -> None:
        """Take ``(x, y)`` as the reserved clean set."""
        self.set_params(x_clean=x, y_clean=y, **kwargs)

    @in_arts_words
    def __call__(self, x: NDArray[Any], y: NDArray[Any] | None = None) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the sanitised set in layout, range, types and label form of ``(x, y)``.

        :raises InputError: without labels.
        """
        if y is None:
            raise InputError("a training set has labels", where="y", found=None, hint="pass y")
        x, y = np.asarray(x), np.asarray(y)
        frame, classes = self._frame(), self._classes(y)
        case = Case(train=frame.image_set(x, y, classes, "x"), clean=self._clean(frame, classes))
        outcome = self._run(case)
        images = outcome.train or case.train
        assert images is not None
        rows = kept_rows(case, outcome)
        if outcome.augmentation is not None and self._own["augment"]:
            generator = self._context(torch.device("cpu")).generator("art", "augment")
            images = augmented_once(images, outcome.augmentation, generator)
        kept = images.subset(rows)
        return frame.write(kept.read(slice(None)), x), labels_like(kept.labels, y, classes)

    def forward(self, x: Tensor, y: Any = None) -> tuple[Tensor, Tensor]:
        """Do the same for tensors, as ART chains its preprocessors."""
        labels = y if y is None else y.cpu().numpy()
        images, numbers = self(x.detach().cpu().numpy(), labels)
        return torch.from_numpy(images).to(x.device), torch.from_numpy(numbers).to(x.device)

    def estimate_forward(self, x: Tensor, y: Any = None) -> Tensor:
        """Return *x*: gradients pass as if nothing were done."""
        return x

    def estimate_gradient(self, x: NDArray[Any], grad: NDArray[Any]) -> NDArray[Any]:
        """Return *grad*: gradients pass as if nothing were done."""
        return grad

    def _check_own(self, own: dict[str, Any]) -> None:
        super()._check_own(own)
        clip = own["clip_values"]
        if len(clip) != 2 or not clip[1] > clip[0]:
            raise SettingsError("not a range", where="clip_values", found=clip, allowed="(low, high)")

    def _frame(self) -> Frame:
        low, high = self._own["clip_values"]
        return Frame(float(low), float(high), self._own["channels_first"])

    def _classes(self, y: NDArray[Any]) -> int:
        known = self._own["nb_classes"]
        if known is None and is_one_hot(y):
            known = y.shape[1]
        if known is None:
            parts = [np.asarray(part) for part in (y, self._own["y_clean"]) if part is not None]
            known = 1 + max((int(part.max()) for part in parts if part.size and part.dtype.kind in "iu"), default=0)
        return int(known)

    def _clean(self, frame: Frame, classes: int) -> Any:
        if self._own["x_clean"] is None:
            return None
        x, y = self._own["x_clean"], self._own["y_clean"]
        if y is None:
            raise InputError("the reserved clean set has no labels", where="y_clean", hint="pass y_clean")
        y = np.asarray(y)
        if is_one_hot(y):
            y = y.argmax(1)
        return frame.image_set(x, y, classes, "x_clean")

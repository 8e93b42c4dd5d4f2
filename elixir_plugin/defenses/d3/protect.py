"""Keeping classes of which the reserved clean set holds too few samples; the paper has nothing on this.

The clean loss says nothing about such a class, so that a head that moves away from where it was forgets it. Three
things keep it:

- Its rows of the head, weights and biases, stay as they were received while the others move. Neither distance nor norm
  counts them.
- The clean set is filled up with images of it that are dreamt from the received model, see :mod:`.dreams`. They hold
  the features that its rows read, and the other rows away from them.
- In the end its bias is raised. Training pushes the class away from clean samples of the others, and there are none of
  its own that would push back. It gets back a share of the room between itself and the nearest of them.

What the received model knows of a protected class may include a backdoor to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...core.case import Case
from ...core.classifier.classifier import Classifier, to_batch
from ...core.context import Context
from ...core.draws import FEW, Uncovered, class_words, uncovered
from ...core.images import ImageSet
from ...core.pixels import to_bytes
from ...errors import InputError
from .dreams import dream, keeps_statistics
from .settings import D3Settings

LEAST, MOST = 8, 64  # dreamt images per class; between them, as many as there are clean samples of other classes
CHUNK = 32  # images dreamt at once
ROOM = 0.5  # share of the distance to the nearest clean sample of another class, in logits, that a bias is raised by
KNOWN = 0.5  # share of dreamt images that the received model must call by their class


@dataclass(frozen=True)
class Protection:
    """What keeps the protected classes.

    :param labels: int64 ``[M]``, on the model's device.
    :param clean: the reserved clean set, and dreamt images behind it.
    :param dreamt: these alone.
    :param held: head weight and bias, with the rows ``[M, …]`` that they were received with.
    """

    labels: Tensor
    clean: ImageSet
    dreamt: ImageSet
    held: list[tuple[nn.Parameter, Tensor]]

    @torch.no_grad()
    def restore(self) -> None:
        """Put the rows of the protected classes back to where they were received."""
        for parameter, rows in self.held:
            parameter[self.labels] = rows

    def other_rows(self, parameter: Tensor) -> Tensor | None:
        """Return the rows of *parameter* that may move; None where all may."""
        if all(parameter is not each for each, _ in self.held):
            return None
        mask = torch.ones(len(parameter), dtype=torch.bool, device=parameter.device)
        mask[self.labels] = False
        return mask.nonzero()[:, 0]

    def raise_biases(self, model: Classifier, clean: ImageSet) -> list[float]:
        """Raise the biases of the protected classes of *model*, the repaired one, and return by how much.

        :param clean: the reserved clean set.
        """
        labels = self.labels.cpu().numpy()
        logits = model.predict(clean.subset(~np.isin(clean.labels, labels)))
        nearest = (logits[:, labels] - np.delete(logits, labels, 1).max(1, keepdims=True)).max(0)
        raised = ROOM * np.maximum(0.0, -nearest)
        with torch.no_grad():
            for parameter, _ in self.held:
                if parameter.ndim == 1:
                    parameter[self.labels] += torch.from_numpy(raised).to(parameter)
                    return list(raised.tolist())
        return [0.0] * len(labels)

    def table(self, received: Classifier, repaired: Classifier) -> list[dict[str, Any]]:
        """Return, per class, how many dreamt images there are and which share of them either model calls by it."""
        calls = [model.predict(self.dreamt).argmax(1) == self.dreamt.labels for model in (received, repaired)]
        rows = []
        for label in self.labels.tolist():
            here = self.dreamt.labels == label
            before, after = (float(each[here].mean()) for each in calls)
            rows.append({"class": label, "dreamt": int(here.sum()), "received": before, "repaired": after})
        return rows


def lacking(case: Case) -> Uncovered:
    """Return the classes of which the reserved clean set of *case* holds too few samples."""
    assert case.clean is not None
    return uncovered(case.clean, case.train)


def refuse_unprotected(case: Case, settings: D3Settings) -> None:
    """Refuse a case that lacks clean samples of classes, where these shall be protected but cannot be.

    :raises InputError: saying which classes, and how to go on.
    """
    assert case.clean is not None and case.model is not None
    few = lacking(case)
    if not few.labels or settings.missing_classes == "allow":
        return
    found = few.words(case.classes)
    if settings.missing_classes == "protect":
        covered = int((case.clean.class_counts() >= FEW).sum())
        if covered < 2:
            found += f"; to protect them takes clean samples of two other classes, not {covered}"
        elif not keeps_statistics(case.model):
            found += "; they cannot be protected: without batch norm, this network has no memory to dream images from"
        else:
            return
    raise InputError(
        "the repaired model would forget classes that the reserved clean set does not hold",
        where="clean",
        found=found,
        allowed=f"at least {FEW} samples per class",
        hint="add clean samples of these classes, or accept their loss: {setting:missing_classes=allow}",
    )


def protect(model: Classifier, clean: ImageSet, labels: Sequence[int], context: Context) -> Protection:
    """Return what keeps *labels*; *model* is as received.

    :raises InputError: when the head is not found.
    """
    with context.stage("dream"):
        frozen = model.clone().eval().requires_grad_(False)
        counts = np.delete(clean.class_counts(), labels)
        count = int(np.clip(round(float(counts[counts > 0].mean())), LEAST, MOST))
        dreamt = _dreamt(frozen, clean, labels, count, context)
    together = ImageSet(
        np.concatenate([clean.read(slice(None)), dreamt.read(slice(None))]),
        np.concatenate([clean.labels, dreamt.labels]),
        clean.num_classes,
        classes=clean.classes,
    )
    head = model.module.get_submodule(model.head(to_batch(clean.read(slice(0, 2)), model.device)))
    rows = torch.tensor(labels, device=model.device)
    parameters = (getattr(head, name, None) for name in ("weight", "bias"))
    held = [(each, each.detach()[rows].clone()) for each in parameters if isinstance(each, nn.Parameter)]
    protection = Protection(rows, together, dreamt, held)
    unknown = [row["class"] for row in protection.table(frozen, frozen) if row["received"] < KNOWN]
    if unknown:
        context.note(
            f"the suspect model calls few of the images dreamt of {class_words(unknown, clean.classes)} by that class: "
            "what it knows of it may be lost"
        )
    return protection


def _dreamt(frozen: Classifier, clean: ImageSet, labels: Sequence[int], count: int, context: Context) -> ImageSet:
    height, width, channels = clean.image_shape
    images = np.empty((len(labels), count, height, width, channels), clean.images.dtype)
    for row, label in enumerate(context.progress(labels, "dreaming")):
        for start in range(0, count, CHUNK):
            part = slice(start, min(start + CHUNK, count))
            made = dream(frozen, label, (part.stop - start, channels, height, width), context, start)
            pixels = made.permute(0, 2, 3, 1).cpu().numpy()
            images[row, part] = to_bytes(pixels) if images.dtype == np.uint8 else pixels
    return ImageSet(
        images.reshape(-1, height, width, channels), np.repeat(labels, count), clean.num_classes, classes=clean.classes
    )

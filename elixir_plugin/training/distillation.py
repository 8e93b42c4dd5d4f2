"""Logit distillation (Hinton, Vinyals, Dean 2015) as an objective of the training loop.

With ``z_s``, ``z_t`` the logits of student and teacher, ``T`` the temperature, ``p = softmax(z_t / T)`` and
``q = softmax(z_s / T)``::

    L = α · T² · KL(p ‖ q) + (1 − α) · CE(z_s / T_ce, y)

both as means over the batch. The teacher is frozen: it answers in eval mode and without gradients. Where its answers
can be known beforehand, they are looked up: N passes, or 2 N with mirroring, instead of N per epoch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.augmentation import Augmentation
from ..core.augmentation import mirrored as mirrored  # noqa: PLC0414  (re-exported)
from ..core.classifier.classifier import Classifier
from ..core.images import ImageSet
from .batches import Batch
from .loop import Losses, Objective

Teacher = Callable[[Batch], Tensor]
"""Gives the teacher's logits ``[B, num_classes]`` for a batch."""


def distillation_losses(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    *,
    temperature: float,
    alpha: float,
    ce_temperature: float,
    agreeing: Tensor | None = None,
) -> dict[str, Tensor]:
    """Return the scalars ``loss``, ``kd`` and ``ce``.

    Per sample, the gradient with respect to ``z_s`` is ``α T (q − p) + (1 − α) (softmax(z_s / T_ce) − y) / T_ce``. At
    T = T_ce = 10 the hard label pulls a hundred times weaker than the teacher.

    :param student, teacher: logits ``[B, num_classes]``.
    :param labels: int64 ``[B]``.
    :param temperature: T.
    :param alpha: share of the teacher's term.
    :param ce_temperature: T_ce; 1 is the textbook's.
    :param agreeing: bool ``[B]``, samples whose hard label counts; the others add nothing to ``ce``, which stays a
        mean over the whole batch. None: all.
    """
    soft = F.log_softmax(student / temperature, 1)
    wanted = F.log_softmax(teacher / temperature, 1)
    kd = temperature**2 * F.kl_div(soft, wanted, reduction="batchmean", log_target=True)
    each = F.cross_entropy(student / ce_temperature, labels, reduction="none")
    ce = (each if agreeing is None else each * agreeing).mean()
    return {"loss": alpha * kd + (1 - alpha) * ce, "kd": kd, "ce": ce}


def distillation(
    teacher: Teacher,
    *,
    temperature: float,
    alpha: float,
    ce_temperature: float,
    drop_disagreeing: bool = False,
) -> Objective:
    """Return the objective of a student; ``accuracy`` in its curves is the agreement with the teacher.

    :param drop_disagreeing: no hard-label term where the teacher's prediction differs from the label.
    """

    def objective(model: nn.Module, batch: Batch) -> Losses:
        answers = teacher(batch).float()
        logits = model(batch.images).float()
        hard = answers.argmax(1)
        losses = distillation_losses(
            logits,
            answers,
            batch.targets,
            temperature=temperature,
            alpha=alpha,
            ce_temperature=ce_temperature,
            agreeing=(hard == batch.targets) if drop_disagreeing else None,
        )
        return {**losses, "accuracy": (logits.detach().argmax(1) == hard).float().mean()}

    return objective


def online(teacher: nn.Module) -> Teacher:
    """Return a teacher that is evaluated on every batch as the student sees it. *teacher* must be in eval mode."""

    def answer(batch: Batch) -> Tensor:
        with torch.no_grad():
            logits: Tensor = teacher(batch.images)
        return logits

    return answer


def looked_up(logits: Tensor) -> Teacher:
    """Return a teacher whose logits are known beforehand.

    :param logits: ``[N, num_classes]`` of every image as it is; or ``[N, 2, num_classes]``, of it and its mirror
        image, for batches that say which images were mirrored.
    """

    def answer(batch: Batch) -> Tensor:
        if logits.ndim == 2:
            return logits[batch.rows]
        assert batch.mirrored is not None
        return logits[batch.rows, batch.mirrored.long()]

    return answer


def can_look_up(augmentation: Augmentation) -> bool:
    """Whether every image that *augmentation* makes of one is the image itself or its mirror image."""
    return augmentation.model_copy(update={"flip": False}) == Augmentation()


def known_logits(teacher: Classifier, images: ImageSet, *, mirror: bool) -> Tensor:
    """Return what :func:`looked_up` needs, float32 on the teacher's device.

    :param mirror: also for the mirror images.
    """
    parts = [torch.from_numpy(teacher.predict(each)) for each in ([images, mirrored(images)] if mirror else [images])]
    return (torch.stack(parts, 1) if mirror else parts[0]).to(teacher.device)

"""What a classifier's answers on images and on their mirror images say about mirroring in training.

Mirroring does harm where classes differ by left and right alone (arrows, the letters b and d), and where an image and
its mirror image are different things (digits, text). Two questions are asked of ``N`` labelled images:

1. Does the classifier label mirror images about as well as the images? If not, sides matter.
2. Does it tell every class from every other, when mirror images of both count as well? Let class *j* be the mirror
   image of class *k*. Then "*k* and mirrored *k*" and "*j* and mirrored *j*" hold the same images, and no classifier
   separates them better than chance, neither one that was trained with mirroring (and confuses them) nor one that was
   trained without. So a class that is told from *j* in this sense is not its mirror image.

Mirroring is harmless where the answer is yes twice, beyond chance. A classifier that knows too little, or too few
images, say neither yes nor no.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.special import betainc  # type: ignore[import-untyped]
from torch import Tensor

from ..io.environment import one_thread_for_numpy
from .classifier.classifier import to_batch
from .images import ImageSet, Index

Scores = NDArray[np.float64]  # [N, num_classes]

FALL, FALL_P = 0.1, 0.01  # share of the correct labels that mirroring costs: harm, if beyond chance
FALL_AT_MOST = 0.2  # harmless only if such a fall is out of the question
ONE_SIDED = 1.645  # standard errors, 5 %
SIZE, CELLS, DIRECTIONS, COLOURS = 32, 7, 8, 8  # of the features
COLOUR_WEIGHT = 0.05
RIDGE = 1.0  # times the mean eigenvalue


@dataclass(frozen=True)
class Evidence:
    """How a classifier labels images and their mirror images.

    :param samples: N.
    :param plain, mirrored: shares labelled correctly.
    :param fall_p: p-value of "mirror images are labelled no worse", a sign test on the samples that differ.
    :param fall_at_most: upper confidence bound (95 %) of ``plain - mirrored``, as a share of ``plain``.
    :param separation: of the two classes that are told apart least, in standard errors above chance; infinite for one
        class.
    :param closest: these two.
    :param fewest: samples of the class that has the fewest.
    """

    samples: int
    plain: float
    mirrored: float
    fall_p: float
    fall_at_most: float
    separation: float
    closest: tuple[int, int] | None
    fewest: int

    @property
    def verdict(self) -> Literal["harmless", "harmful", "unclear"]:
        """What this says about mirroring in training."""
        if self.fall_p < FALL_P and self.plain - self.mirrored > FALL * self.plain:
            return "harmful"
        harmless = self.separation > ONE_SIDED and self.fall_at_most < FALL_AT_MOST
        return "harmless" if harmless else "unclear"


def judge(plain: Scores, mirrored: Scores, labels: Index) -> Evidence:
    """Return what scores ``[N, num_classes]`` of images and of their mirror images say; higher = more likely.

    >>> arrows = np.eye(2)[[0, 1] * 20]  # left, right: a sure classifier answers the other way on mirror images
    >>> judge(arrows, 1 - arrows, np.array([0, 1] * 20)).verdict
    'harmful'
    >>> judge(arrows, arrows, np.array([0, 1] * 20)).verdict
    'harmless'
    """
    right, still = plain.argmax(1) == labels, mirrored.argmax(1) == labels
    lost, won, n = int((right & ~still).sum()), int((~right & still).sum()), len(labels)
    fall = (lost - won) / n
    spread = np.sqrt((lost + won + 1) / n - fall**2)  # one more than seen: no change in few samples proves little
    separation, closest = _least_separated(plain, mirrored, labels)
    return Evidence(
        samples=n,
        plain=float(right.mean()),
        mirrored=float(still.mean()),
        fall_p=float(betainc(lost, won + 1, 0.5)) if lost else 1.0,  # the binomial tail from `lost` on
        fall_at_most=float((fall + ONE_SIDED * spread / np.sqrt(n)) / max(right.mean(), 1 / n)),
        separation=separation,
        closest=closest,
        fewest=int(np.bincount(labels, minlength=plain.shape[1]).min()),
    )


def _least_separated(plain: Scores, mirrored: Scores, labels: Index) -> tuple[float, tuple[int, int] | None]:
    """Return how far the two classes that are separated least lie above chance, in standard errors, and which.

    A sample of class k votes for k against j where its score for k is higher; half a vote each for image and mirror
    image. If j is the mirror image of k, the mean votes of both classes add up to 1.
    """
    classes = plain.shape[1]
    if classes < 2:
        return np.inf, None
    votes, variances = np.empty((classes, classes)), np.empty((classes, classes))
    for k in range(classes):
        rows = labels == k
        won = sum((each[rows][:, [k]] > each[rows]).sum(0) for each in (plain, mirrored)) / 2
        count = rows.sum() + 2  # one vote for either side: a few samples that agree are not certainty
        votes[k] = (won + 1) / count
        variances[k] = votes[k] * (1 - votes[k]) / count
    above = (votes + votes.T - 1) / np.sqrt(variances + variances.T)
    np.fill_diagonal(above, np.inf)
    first, second = divmod(int(above.argmin()), classes)
    return float(above[first, second]), (first, second)


@one_thread_for_numpy()
def probe_scores(
    features: Scores, mirrored: Scores, labels: Index, num_classes: int, count: int
) -> tuple[Scores, Scores]:
    """Return the scores of the first *count* samples and of their mirror images by a probe fitted on all the others.

    The probe is ridge regression on the class, each class weighing the same; "all the others" anew for each sample,
    which takes no second fit (leave-one-out residuals).

    :param features: ``[N, D]`` of the images; *mirrored*: of their mirror images, which nothing is fitted on.
    """
    weights = 1 / np.bincount(labels, minlength=num_classes)[labels]
    weights *= len(labels) / weights.sum()
    targets = np.eye(num_classes)[labels]
    centre, usual = np.average(features, 0, weights), np.average(targets, 0, weights)
    inner, outer, wanted = features - centre, mirrored[:count] - centre, targets - usual
    weighted = inner * weights[:, None]
    gram = inner.T @ weighted
    gram[np.diag_indices_from(gram)] += RIDGE * np.trace(gram) / len(gram) + 1e-9
    solved = np.linalg.solve(gram, np.concatenate([weighted.T @ wanted, weighted[:count].T], 1))
    fit, pull = solved[:, :num_classes], solved[:, num_classes:].T  # pull: how much one sample moves the fit
    own, weights = inner[:count], weights[:count]
    share = weights / len(labels)
    residual = (wanted[:count] - own @ fit) / (1 - (pull * own).sum(1) - share)[:, None]
    moved = ((pull * outer).sum(1) + share)[:, None] * residual
    return targets[:count] - residual, outer @ fit + usual - moved


def features_of(images: ImageSet) -> Scores:
    """Return features ``[N, D]`` for :func:`probe_scores`: where edges of which direction are, and coarse colours."""
    parts = [_features(to_batch(pixels, torch.device("cpu"))).double().numpy() for _, pixels in images.chunks()]
    return np.concatenate(parts)


def _features(batch: Tensor) -> Tensor:
    if batch.shape[-2:] != (SIZE, SIZE):
        batch = F.interpolate(batch, (SIZE, SIZE), mode="bilinear", antialias=True)
    across = F.pad(batch[..., 2:] - batch[..., :-2], (1, 1))
    down = F.pad(batch[:, :, 2:] - batch[:, :, :-2], (0, 0, 1, 1))
    strength, channel = (across.square() + down.square()).sqrt().max(1, keepdim=True)
    angle = torch.atan2(down.gather(1, channel), across.gather(1, channel)) * DIRECTIONS / (2 * torch.pi)
    bins = torch.arange(DIRECTIONS).reshape(1, -1, 1, 1)
    away = (angle - bins + DIRECTIONS / 2) % DIRECTIONS - DIRECTIONS / 2
    edges = F.avg_pool2d(strength * (1 - away.abs()).clamp_min(0), 2 * SIZE // (CELLS + 1), SIZE // (CELLS + 1))
    edges = F.normalize((edges + 1e-8).sqrt().flatten(1), dim=1)
    return torch.cat([edges, COLOUR_WEIGHT * F.adaptive_avg_pool2d(batch, COLOURS).flatten(1)], 1)


def facts_of(evidence: Evidence) -> dict[str, Any]:
    """Return the evidence in JSON types."""
    known = {name: None if value == np.inf else value for name, value in vars(evidence).items()}
    closest = None if evidence.closest is None else list(evidence.closest)
    return {**known, "closest": closest, "verdict": evidence.verdict}

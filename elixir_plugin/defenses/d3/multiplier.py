"""λ as the multiplier of a constraint: the price of clean loss rises while there is too much of it, and falls after.

The problem is

    maximise over θ, ‖W_i‖_p fixed:   Σ_i ‖W_i − W_i⁰‖_p   subject to   L_H(θ) ≤ c,

with L_H the mean cross-entropy of the model, in eval mode and in nats, on a part H of the reserved clean set that is
held back from training. What is allowed is

    c = max(ε, L_H(θ⁰) + margin):

a model whose clean loss is above ε as received cannot be asked for less than it had, nor an accurate one for less than
the paper allows. Dual ascent on the logarithm of λ: every few steps of the descent on (h − D / λ) / 3,

    λ ← clip(λ · exp(rate · clip((L_H(θ) − c) / WIDTH, −FALL, 1)), LOWEST, HIGHEST).

The clean loss h has the same weight whatever λ is, so that the body learns as fast under every λ, and λ says how hard
the weights are pulled away.

If the suspect model was trained on the reserved samples, no repaired model reaches on H what is asked for. A λ that
rises all the same brings the weights back, and the backdoor with them, and the loss no further down. So where L_H is
at least WIDTH above c and has found no new minimum for PATIENCE updates, λ does not rise, but falls back to FIRST if it
is above.

The rate is such that λ gets from FIRST to HIGHEST within SPAN of the steps before the last ones. These train on all
reserved samples, those of H too, under the geometric mean of λ over the steps just before; H can tell nothing from
there on.

Before the last steps, L_H also says whether they are due. Where λ has settled at HIGH or more and L_H is still above c,
L_H fell all the while that λ rose: the model is still learning. If L_H(θ⁰) ≤ ε, so that H is no harder than the paper
takes it to be, it gets another round instead of the last steps: again as many steps, at a higher learning rate.
Accuracy comes back from anywhere, but a backdoor goes with distance alone. So in a further round λ does not rise before
the distance is FAR of the norm, or half of the round is over.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ...core.classifier.classifier import Classifier
from ...core.context import Context
from ...core.images import ImageSet
from ...training.batches import Batch, BatchSource
from .weights import TINY

Mask = NDArray[np.bool_]

FIRST, LOWEST, HIGHEST = 0.5, 0.1, 4.0  # λ
PATIENCE, BETTER = 2, 0.99  # updates; share of the least loss so far below which a loss is a new minimum
WIDTH, FALL = 0.125, 2.0  # nats above what is allowed at which λ rises as fast as it can; how much faster it may fall
HIGH = 2.0  # λ, settled, of a model that is still learning
FAR = 1.8  # distance, of the norm, that comes first in further rounds; 2 is the opposite pole
SPAN, EVERY = 0.7, 10  # share of the steps before the last ones; steps from one update to the next
HELD, MOST_HELD = 0.2, 1000  # share of each class that is held back, and samples in all
LAST = 0.2  # share of the steps that come last and train on all reserved samples
SETTLED = 0.25  # share of the updates, the last ones, over which the λ of these steps is averaged


@dataclass
class Multiplier:
    """λ, on the way to the least price at which the clean loss is what is allowed.

    :ivar held: H, the samples whose loss is watched.
    :ivar mask: which reserved samples are held back, bool ``[N]``. None is where no class has samples to spare; then H
        is the whole set, which is trained on, and its loss tells less.
    :ivar received: L_H(θ⁰), in nats.
    :ivar allowed: c, in nats.
    :ivar value: λ, a scalar on the model's device.
    :ivar accurate: whether L_H(θ⁰) ≤ ε.
    :ivar until: steps of a round, the last ones not counted.
    :ivar step: steps made in this round.
    :ivar rounds: how many there are so far.
    :ivar far: whether λ may rise.
    :ivar least: the last minimum of L_H, in nats.
    :ivar since: updates since it was found.
    """

    held: ImageSet
    mask: Mask
    received: float
    allowed: float
    value: Tensor
    accurate: bool = True
    until: int = 0
    step: int = 0
    rounds: int = 1
    far: bool = True
    least: float = math.inf
    since: int = 0
    steps: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    lams: list[float] = field(default_factory=list)

    def after_step(self, model: Classifier, distance: Callable[[], float]) -> None:
        """Count a step of the descent, and update λ where it is due.

        :param distance: returns how far the weights are, of their norm.
        """
        self.step += 1
        if self.step <= self.until and self.step % EVERY == 0:
            self.far = self.far or 2 * self.step >= self.until or distance() >= FAR
            self.update(held_loss(model, self.held))
        if self.step == self.until and self.lams:
            settled = self.lams[-max(1, round(SETTLED * len(self.lams))) :]
            self.value.fill_(math.exp(sum(map(math.log, settled)) / len(settled)))

    def update(self, loss: float) -> None:
        """Move λ up where *loss*, L_H(θ) in nats, is above what is allowed, and down where it is below."""
        excess = min(1.0 if self.far else 0.0, max(-FALL, (loss - self.allowed) / WIDTH))
        rate = math.log(HIGHEST / FIRST) / max(1, SPAN * (self.until // EVERY))
        self.since += 1
        if loss < BETTER * self.least:
            self.least, self.since = loss, 0
        if excess >= 1 and self.since >= PATIENCE:
            back = max(FIRST, float(self.value) * math.exp(-rate))
            self.value.fill_(min(float(self.value), back))
        else:
            self.value.mul_(math.exp(rate * excess)).clamp_(LOWEST, HIGHEST)
        self.steps.append((self.rounds - 1) * self.until + self.step)
        self.losses.append(loss)
        self.lams.append(float(self.value))

    @property
    def learning(self) -> bool:
        """Whether an accurate model has too much loss although λ, settled, is high: it fell all the while."""
        return self.accurate and self.met is False and float(self.value) >= HIGH

    def begin_another(self) -> None:
        """Begin another round."""
        self.rounds += 1
        self.step, self.since, self.least, self.far = 0, 0, math.inf, False
        self.value.fill_(FIRST)

    def rest(self, images: ImageSet) -> ImageSet:
        """Return *images*, the reserved clean set and whatever was put behind it, without what is held back."""
        return images.subset(np.append(~self.mask, np.ones(len(images) - len(self.mask), bool)))

    @property
    def met(self) -> bool | None:
        """Whether the last loss measured is allowed; None where none was."""
        return self.losses[-1] <= self.allowed if self.losses else None

    def note(self) -> str | None:
        """Return what users must know, or None."""
        if not self.losses:
            return f"the descent is too short to look for λ, which stayed at {FIRST}: train longer, or set lam"
        where = "the held-back part of the reserved clean set" if self.mask.any() else "the reserved clean set"
        if not self.met:
            return (
                f"the clean loss on {where} is {self.losses[-1]:.2f} nats and not the {self.allowed:.2f} that are "
                f"allowed (suspect model: {self.received:.2f}), although λ went to {max(self.lams):.3g}: expect lower "
                "accuracy, or get more reserved clean samples"
            )
        return None

    def table(self) -> dict[str, object]:
        """Return what the report tells of λ; losses in nats."""
        return {
            "allowed": self.allowed,
            "received": self.received,
            "held_back": int(self.mask.sum()),
            "met": self.met,
            "final_lam": float(self.value),
            "rounds": self.rounds,
            "step": self.steps,
            "loss": self.losses,
            "lam": self.lams,
        }


def watch(model: Classifier, clean: ImageSet, eps: float, margin: float, context: Context) -> Multiplier:
    """Return λ at its start, with what is allowed.

    :param model: as received.
    :param clean: the reserved clean set.
    """
    mask = held_back(clean, context)
    held = clean.subset(mask) if mask.any() else clean
    received = held_loss(model, held)
    value = torch.tensor(FIRST, device=model.device)
    return Multiplier(held, mask, received, max(eps, received + margin, TINY), value, accurate=received <= eps)


def held_loss(model: Classifier, held: ImageSet) -> float:
    """Return the mean cross-entropy of *model* in eval mode on *held*, in nats."""
    return float(F.cross_entropy(torch.from_numpy(model.predict(held)), torch.tensor(held.labels)))


def held_back(clean: ImageSet, context: Context) -> Mask:
    """Return which of the reserved samples are held back, bool ``[N]``: a share of each class, rounded down.

    A class of fewer than ``1 / HELD`` samples has none to spare.
    """
    rng = np.random.default_rng(context.derive_seed("d3", "held back"))
    mask = np.zeros(len(clean), bool)
    share = min(HELD, MOST_HELD / max(1, len(clean)))
    for label in np.unique(clean.labels):
        rows = rng.permutation(np.flatnonzero(clean.labels == label))
        mask[rows[: int(share * len(rows) + 1e-9)]] = True
    return mask


class PartThenAll:
    """Batches of one source for the first epochs, and of another one from then on.

    :ivar epochs: of both together.
    :ivar switch: of the first source.
    :ivar first_steps: those that the first source gives in all.
    :ivar all_steps: those of both.
    """

    def __init__(self, part: BatchSource, whole: BatchSource, *, steps: int, epochs: int | None = None) -> None:
        self._part, self._whole = part, whole
        if epochs is None:
            self.switch = round((1 - LAST) * steps / part.steps)
            last = max(1, math.ceil((steps - self.switch * part.steps) / whole.steps))
        else:
            last = math.ceil(LAST * epochs)
            self.switch = epochs - last
        self.epochs = self.switch + last
        self.first_steps = self.switch * part.steps
        self.all_steps = self.first_steps + last * whole.steps
        self.steps = whole.steps

    def epoch(self, number: int) -> Iterator[Batch]:
        """Yield the batches of epoch *number*."""
        return (self._part if number < self.switch else self._whole).epoch(number)

    def after_part(self, ask: Callable[[], bool]) -> Callable[[int], bool]:
        """Return a hook that ends a training after the last epoch of the first source, if *ask* says so then."""
        return lambda epoch: epoch + 1 == self.switch and ask()

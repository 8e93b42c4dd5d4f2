"""DataElixir, steps 5 to 8: new images and labels for the samples of target classes, and for no others.

Unanimous samples get the label that their copies agree on. Ambiguous ones wait for a benign model, trained on all the
others and then, in a second stage, also on those of them on which it agrees with the copies (consensus); it gives them
their labels. Every image is chosen by SELECT.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...core.classifier.classifier import Classifier, evaluating, to_batch
from ...core.images import Images, ImageSet, Index, LazyImages
from ...training.batches import IN_MEMORY
from .models import Trainer, choose, distances
from .purify import Candidates, predict_slots
from .settings import Selection
from .votes import AMBIGUOUS, UNANIMOUS, Votes

KEPT, REPAIRED, RELABELLED = 0, 1, 2
ACTION = ("kept", "repaired", "relabelled by the benign model")
FEW_CERTAIN = 0.1  # share of a target class that should be certain

Mask = NDArray[np.bool_]


@dataclass
class Repair:
    """What becomes of every sample; arrays are ``[N]``.

    :param labels: the new labels.
    :param chosen: the slot whose image is taken; 0: the original.
    :param action: one of :data:`KEPT`, :data:`REPAIRED`, :data:`RELABELLED`.
    :param model: the benign model, or None when no sample needed one.
    :param facts: counts for the report, in JSON types.
    """

    labels: Index
    chosen: Index
    action: Index
    model: Classifier | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def changed(self, given: Index) -> Mask:
        """Return bool ``[N]``: samples with another image or another label than *given*."""
        changed: Mask = (self.labels != given) | (self.chosen > 0)
        return changed


class Repairer:
    """Repairs the samples of target classes.

    :param rows: positions ``[n]`` of the samples that *votes* are about, ascending.
    :param votes: of the probe.
    :param trainer: trains the benign model; its probe's features are what SELECT compares.
    """

    def __init__(self, candidates: Candidates, rows: Index, votes: Votes, trainer: Trainer) -> None:
        self.candidates, self.rows, self.votes, self.trainer = candidates, rows, votes, trainer
        self.settings, self.context = trainer.settings, trainer.context
        self.images = candidates.images

    def repair(self, targets: Mask) -> Repair:
        """Return what becomes of every sample when the classes *targets* (bool ``[C]``) are the target classes."""
        count = len(self.images)
        repair = Repair(self.images.labels.copy(), np.zeros(count, np.int64), np.zeros(count, np.int64))
        inside = targets[self.images.labels[self.rows]]
        waiting = inside & (self.votes.status == AMBIGUOUS)
        unanimous = inside & (self.votes.status == UNANIMOUS)
        if self.settings.verify_unanimous:
            waiting, unanimous = waiting | unanimous, np.zeros_like(unanimous)
        replaced = unanimous
        if self.settings.purify_all_in_target:
            replaced = inside & ~waiting
        with self.context.stage("select"):
            self._take(repair, np.flatnonzero(replaced), self.votes.kept)
        repair.labels[self.rows[unanimous]] = self.votes.winner[unanimous]
        repair.action[self.rows[replaced]] = REPAIRED
        repair.facts = {"certain_repaired": int(replaced.sum()), "suspicious": int(waiting.sum())}
        if waiting.any():
            self._ask_benign_model(repair, np.flatnonzero(waiting), targets)
        return repair

    def _ask_benign_model(self, repair: Repair, waiting: Index, targets: Mask) -> None:
        """Steps 6 to 8 for the suspicious samples, given as positions in :attr:`rows`."""
        where = self.rows[waiting]
        certain = np.setdiff1d(np.arange(len(self.images)), where)
        self._warn_of_starved(certain, targets)
        if not len(certain):
            self.context.note(
                "every sample is suspicious: there is nothing to train a benign model on, so none is changed"
            )
            return
        model = self._learn(repair, certain, self.trainer.fresh("benign"), targets, "benign")
        seen = predict_slots(model, self.candidates, where, self.context, "benign model")
        provisional = self.votes.winner[waiting]
        agree = seen[:, 0] == provisional
        repair.facts["consensus"] = int(agree.sum())
        if agree.any():
            interim = self._agreed(repair, waiting[agree], seen[agree])
            known = np.sort(np.concatenate([certain, where[agree]]))
            model = self._learn(interim, known, model, targets, "benign_2")
            seen = predict_slots(model, self.candidates, where, self.context, "benign model")
        with self.context.stage("select"):
            self._take(repair, waiting, _listed(seen, seen[:, 0]), rows_of=waiting)
        repair.labels[where] = seen[:, 0]
        repair.action[where] = RELABELLED
        repair.model = model

    def _agreed(self, repair: Repair, agreed: Index, seen: Index) -> Repair:
        """Step 7: return the repair in which samples on which benign model and copies agree have image and label."""
        interim = Repair(repair.labels.copy(), repair.chosen.copy(), repair.action)
        with self.context.stage("select"):
            self._take(interim, agreed, _listed(seen, seen[:, 0]), rows_of=agreed)
        interim.labels[self.rows[agreed]] = self.votes.winner[agreed]
        return interim

    def _learn(self, repair: Repair, known: Index, model: Classifier, targets: Mask, name: str) -> Classifier:
        """Train *model* on the samples *known* as *repair* has them; the second stage has a rate of its own."""
        images = repaired_set(self.candidates, repair).subset(known)
        if self.settings.rebalance:
            images = self._filled_up(images, known, targets, name)
        lr = self.settings.fine_tune_lr if name == "benign_2" else None
        return self.trainer.learn(images, model, name, lr)

    def _filled_up(self, images: ImageSet, known: Index, targets: Mask, name: str) -> ImageSet:
        """Add random copies to target classes, of random samples *known*, until they are as large as the largest class.

        A sample gives copies that the probe predicts as its new label; one without such copies gives none.
        """
        generator = self.context.generator("dataelixir", "rebalance", name)
        counts = images.class_counts()
        place = np.full(len(self.images), -1, np.int64)
        place[self.rows] = np.arange(len(self.rows))
        rows, slots, labels = [images.labels[:0]], [images.labels[:0]], [images.labels]
        for label in np.flatnonzero(targets):
            mine = known[images.labels == label]
            mine = mine[place[mine] >= 0]
            pairs = np.argwhere(self.votes.labels[place[mine], 1:] == label)
            missing = int(counts.max() - counts[label])
            if len(pairs) and missing:
                drawn = pairs[torch.randint(len(pairs), (missing,), generator=generator).numpy()]
                rows.append(mine[drawn[:, 0]])
                slots.append(drawn[:, 1] + 1)
                labels.append(np.full(missing, label))
        extra = self.candidates.take(np.concatenate(rows), np.concatenate(slots))
        return appended(images, extra, np.concatenate(labels))

    def _take(self, repair: Repair, which: Index, listed: Mask, rows_of: Index | None = None) -> None:
        """Choose a slot for the samples *which* (positions in :attr:`rows`).

        :param listed: slots to choose from, by position in :attr:`rows`, or by that in *rows_of* where it is given.
        """
        if len(which):
            allowed = listed[which] if rows_of is None else listed
            repair.chosen[self.rows[which]] = select_slots(
                self.trainer.probe, self.candidates, self.rows[which], allowed, self.settings.selection
            )

    def _warn_of_starved(self, certain: Index, targets: Mask) -> None:
        size = self.images.class_counts()
        left = np.bincount(self.images.labels[certain], minlength=len(size))
        starved = np.flatnonzero(targets & (size > 0) & (left < FEW_CERTAIN * size))
        if len(starved):
            self.context.note(
                f"fewer than {FEW_CERTAIN:.0%} of the samples of classes {', '.join(map(str, starved[:10]))} are "
                "certain: the benign model hardly knows these classes, and its labels are less reliable"
            )


def _listed(predicted: Index, label: Index) -> Mask:
    """Return the slots that SELECT may take when a sample gets *label*: the original, and copies that look like it."""
    listed: Mask = predicted == label[:, None]
    listed[:, 0] = True
    return listed


@torch.inference_mode()
def select_slots(probe: Classifier, candidates: Candidates, rows: Index, listed: Mask, settings: Selection) -> Index:
    """Return the slot that SELECT takes for each of the samples *rows*, int64 ``[n]``.

    :param listed: bool ``[n, M]``, slots to choose from.
    """
    out = np.empty(len(rows), np.int64)
    with evaluating(probe):
        for part, images in candidates.blocks(rows):
            batch = to_batch(images.reshape(-1, *images.shape[2:]), probe.device)
            features = probe.features(batch)[1]
            slots = images.shape[1]
            grouped = [each.reshape(-1, slots, *each.shape[1:]) for each in (batch, features)]
            distance = distances(grouped[0], grouped[1], settings)
            allowed = torch.from_numpy(listed[part]).to(probe.device)
            out[part] = choose(distance, allowed, settings.quantile).cpu().numpy()
    return out


def repaired_set(candidates: Candidates, repair: Repair) -> ImageSet:
    """Return the suspect set with the chosen images and new labels, in the same order.

    A set that fits into memory becomes an array; of a larger one, only the replaced images are held.
    """
    images = candidates.images
    rows = np.flatnonzero(repair.chosen)
    new = candidates.take(rows, repair.chosen[rows])
    if new.size == 0:
        return images.replace(labels=repair.labels)
    if np.prod(images.images.shape) * new.dtype.itemsize <= IN_MEMORY:
        pixels = images.read(slice(0, len(images)))
        pixels[rows] = new
        return images.replace(images=pixels, labels=repair.labels)
    place = {int(row): position for position, row in enumerate(rows)}

    def read(position: int) -> Images:
        image: Images = new[place[position]] if position in place else images.read(slice(position, position + 1))[0]
        return image

    return images.replace(images=LazyImages(read, len(images), images.image_shape, new.dtype), labels=repair.labels)


def appended(images: ImageSet, extra: Images, labels: Index) -> ImageSet:
    """Return *images* and behind them *extra*, with ids of their own; *labels* are those of all."""
    first, shape = len(images), (len(labels), *images.image_shape)
    if np.prod(shape) * extra.dtype.itemsize <= IN_MEMORY:
        return ImageSet(np.concatenate([images.read(slice(0, first)), extra]), labels, images.num_classes)

    def read(position: int) -> Images:
        image: Images = images.read(slice(position, position + 1))[0] if position < first else extra[position - first]
        return image

    return ImageSet(LazyImages(read, len(labels), images.image_shape, extra.dtype), labels, images.num_classes)

"""DataElixir, step 1: purified copies of every sample, and where they are stored.

Rounds are chained: each starts from the result of the one before. From the end of each round, *m* states are kept. They
go to a chunk store, so that memory holds one chunk and a killed run resumes where it stopped. A uint8 set has uint8
copies, a float set float copies: nothing is quantised that was not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...core.classifier.classifier import Classifier, evaluating, to_batch
from ...core.context import Context, derive_seed
from ...core.images import Images, ImageSet, Index
from ...core.settings import fingerprint
from ...diffusion.denoisers.base import Denoiser
from ...diffusion.fit.choose import count_seen
from ...diffusion.plan import Plan
from ...diffusion.purify import purify_batch
from ...diffusion.store.chunks import ChunkStore
from ...io.distributed import rank_and_world, together
from .settings import DataElixirSettings
from .votes import Reference, kept_shares

AT_ONCE = 2048 * 32 * 32  # pixels per classifier batch, whatever M and image size are
CHUNK = 256  # samples per chunk on every device, so that a run may resume elsewhere


class Candidates:
    """The ``M`` images of (some of) the samples: slot 0 the original, the others from stores.

    :param images: the suspect set.
    :param slots: M.
    :param truncate: show the original as the released code did, with grey levels lost.
    """

    def __init__(self, images: ImageSet, slots: int, *, truncate: bool = False) -> None:
        self.images, self.slots = images, slots
        self._truncate = truncate
        self._parts: list[NDArray[Any]] = []
        self._place = np.full((len(images), 2), -1, np.int64)  # part, position in it

    def add(self, rows: Index, copies: NDArray[Any]) -> None:
        """Take the copies ``[n, M − 1, H, W, C]`` of the samples *rows*."""
        self._place[rows, 0], self._place[rows, 1] = len(self._parts), np.arange(len(rows))
        self._parts.append(copies)

    @property
    def known(self) -> NDArray[np.bool_]:
        """Which samples have been purified, ``[N]``."""
        purified: NDArray[np.bool_] = self._place[:, 0] >= 0
        return purified

    def read(self, rows: Index) -> Images:
        """Return the images of the samples *rows*, ``[n, M, H, W, C]``; all of them must be known."""
        out = np.empty((len(rows), self.slots, *self.images.image_shape), self.images.images.dtype)
        original = self.images.read(rows)
        out[:, 0] = truncated(original) if self._truncate else original
        parts, positions = self._place[rows].T
        for number, part in enumerate(self._parts):
            here = np.flatnonzero(parts == number)
            if len(here):
                out[here, 1:] = part[positions[here]]
        return out

    def take(self, rows: Index, slots: Index) -> Images:
        """Return one image of each of the samples *rows*, ``[n, H, W, C]``; a sample may come up several times."""
        out = np.empty((len(rows), *self.images.image_shape), self.images.images.dtype)
        for part, images in self.blocks(rows):
            out[part] = images[np.arange(len(images)), slots[part]]
        return out

    @property
    def block(self) -> int:
        """Samples whose images a classifier takes at once."""
        return max(1, _images_at_once(self.images) // self.slots)

    def blocks(self, rows: Index) -> Iterator[tuple[slice, Images]]:
        """Yield ``(slice of rows, images [b, M, H, W, C])``, :attr:`block` samples at a time."""
        size = self.block
        for start in range(0, len(rows), size):
            part = slice(start, min(start + size, len(rows)))
            yield part, self.read(rows[part])


def truncated(images: Images) -> Images:
    """Return uint8 images after the released code's way to [-1, 1] and back: 63 of 256 levels lose one.

    >>> int((truncated(np.arange(256, dtype=np.uint8)) != np.arange(256)).sum())
    63
    """
    if images.dtype != np.uint8:
        return images
    state = 2 * (images.astype(np.float32) / np.float32(255)) - 1
    return ((state + 1) / 2 * np.float32(255)).astype(np.uint8)


@torch.inference_mode()
def predict_slots(model: Classifier, candidates: Candidates, rows: Index, context: Context, what: str) -> Index:
    """Return what *model* predicts for all images of the samples *rows*, int64 ``[n, M]``."""
    out = np.empty((len(rows), candidates.slots), np.int64)
    blocks = -(-len(rows) // candidates.block)
    with evaluating(model):
        for part, images in context.progress(candidates.blocks(rows), what, total=blocks):
            flat = images.reshape(-1, *images.shape[2:])
            out[part] = predict(model, flat).reshape(images.shape[:2])
    return out


def predict(model: Classifier, images: Images) -> Index:
    """Return the predicted labels of images ``[n, H, W, C]``; ties go to the lower label."""
    labels: Index = model.logits(to_batch(images, model.device)).argmax(1).cpu().numpy()
    return labels


@dataclass(frozen=True)
class Purifier:
    """Makes purified copies of samples: several rounds of noising and the reverse chain.

    :param planned: the plan of one round.
    :param probe: needed only to drop samples early.
    """

    denoiser: Denoiser
    planned: Plan
    settings: DataElixirSettings
    images: ImageSet
    seed: int
    probe: Classifier | None = None

    def copies(self, rows: Index) -> NDArray[Any]:
        """Return the purified copies ``[n, n_rounds · m, H, W, C]`` of the samples *rows*, in the order of time."""
        settings, keep = self.settings, self.settings.states
        originals = self.images.read(rows)
        ids = torch.tensor(self.images.ids[rows])
        out = np.empty((len(rows), settings.slots - 1, *originals.shape[1:]), originals.dtype)
        if not self.planned.steps:  # t* = 0
            out[:] = originals[:, None]
            return out
        active, states = np.arange(len(rows)), to_batch(originals, self.denoiser.device)
        for number in range(settings.purification.rounds):
            if number == settings.drop_stable_after:
                moving = self._moving(originals, out[:, : number * keep], rows)
                idle = np.setdiff1d(active, moving)
                out[idle, number * keep :] = out[idle, number * keep - 1][:, None]
                states, active = states[torch.from_numpy(np.isin(active, moving)).to(states.device)], moving
            if not len(active):
                break
            purified = purify_batch(
                self.denoiser,
                self.planned,
                states,
                ids[active],
                derive_seed(self.seed, "round", number),  # each call is round 0 to the engine
                keep=keep,
                keep_predictions=settings.keep == "predictions",
            )
            assert purified.kept is not None
            out[active, number * keep : (number + 1) * keep] = self._stored(purified.kept[:, 0])
            states = purified.images
        return out

    def _moving(self, originals: Images, copies: NDArray[Any], rows: Index) -> Index:
        """Return which samples have a copy with another label than the one they should keep."""
        assert self.probe is not None
        shape = copies.shape
        with torch.inference_mode(), evaluating(self.probe):
            votes = self._predicted(copies.reshape(-1, *shape[2:])).reshape(shape[:2])
            before = self.images.labels[rows] if self.settings.anchor == "given" else self._predicted(originals)
        return np.flatnonzero((votes != before[:, None]).any(1))

    def _predicted(self, images: Images) -> Index:
        assert self.probe is not None
        size = _images_at_once(self.images)
        parts = [predict(self.probe, images[start : start + size]) for start in range(0, len(images), size)]
        return np.concatenate(parts)

    def _stored(self, images: Tensor) -> NDArray[Any]:
        """Turn ``[n, m, C, H, W]`` in [0, 1] into ``[n, m, H, W, C]`` of the set's own type."""
        images = images.permute(0, 1, 3, 4, 2)
        if self.images.images.dtype == np.uint8:
            levels = images.mul(255)
            images = (levels.round_() if self.settings.quantise == "round" else levels.floor_()).to(torch.uint8)
        return np.ascontiguousarray(images.cpu().numpy())

    def identity(self, rows: Index) -> dict[str, Any]:
        """Return everything that decides the copies of *rows*, in JSON types."""
        settings = self.settings
        chosen = settings.model_dump(mode="json", include={"states", "keep", "quantise", "drop_stable_after"})
        dropping = settings.drop_stable_after is not None
        return {
            **chosen,
            "denoiser": self.denoiser.fingerprint(),
            "purification": {**self.planned.facts(), "rounds": settings.purification.rounds},
            "seed": self.seed,
            "images": self.images.fingerprint(),
            "ids": fingerprint(self.images.ids.tolist()),
            "rows": fingerprint(rows.tolist()),
            "probe": [settings.anchor, self.probe.fingerprint()] if dropping and self.probe else None,
        }


def _images_at_once(images: ImageSet) -> int:
    height, width, _ = images.image_shape
    return max(1, AT_ONCE // (height * width))


def make_copies(purifier: Purifier, rows: Index, folder: Path, context: Context, description: str) -> NDArray[Any]:
    """Make the copies of the samples *rows* that are missing; return all, a read-only map ``[n, M − 1, H, W, C]``.

    Under ``torchrun``, with a work folder, each rank makes its share.
    """
    images, slots = purifier.images, purifier.settings.slots
    dtype: Literal["uint8", "float32"] = "uint8" if images.images.dtype == np.uint8 else "float32"
    rank, world = rank_and_world() if context.work_dir is not None else (0, 1)
    with together():
        store = ChunkStore(
            folder,
            length=len(rows),
            shape=(slots - 1, *images.image_shape),
            dtype=dtype,
            identity=purifier.identity(rows),
            chunk=CHUNK,
        )
        store.fill(lambda part: purifier.copies(rows[part]), context, description=description, rank=rank, world=world)
    return store.array()


def some_clean(clean: ImageSet, per_class: int, context: Context) -> Index:
    """Return ascending positions of at most ``per_class · C`` images, drawn at random."""
    order = torch.randperm(len(clean), generator=context.generator("dataelixir", "reference")).numpy()
    return np.sort(order[: per_class * clean.num_classes])


def make_reference(purifier: Purifier, folder: Path, context: Context) -> Reference:
    """Purify the images of *purifier*, which are clean, and count how many of their copies keep the label.

    :param folder: where the copies go.
    """
    assert purifier.probe is not None
    rows = np.arange(len(purifier.images))
    if seen := count_seen(purifier.denoiser, purifier.images):
        context.note(
            f"the denoiser was trained on {seen} of the {len(rows)} reserved clean images that suspects are compared "
            "with: once purified, these may keep their labels more often than benign suspects do"
        )
    candidates = Candidates(purifier.images, purifier.settings.slots)
    with context.stage("purify"):
        candidates.add(rows, make_copies(purifier, rows, folder, context, "purifying clean images"))
    with context.stage("vote"):
        labels = predict_slots(purifier.probe, candidates, rows, context, "votes on clean images")
    return Reference(*kept_shares(labels, purifier.images.labels, purifier.images.num_classes))

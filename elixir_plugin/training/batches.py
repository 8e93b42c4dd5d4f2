"""Batches for the training loop: images and targets on the device, shuffled and augmented per epoch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from ..core.augmentation import Augmentation as Augmentation  # noqa: PLC0414  (re-exported: part of a recipe)
from ..core.augmentation import augment as augment  # noqa: PLC0414  (re-exported)
from ..core.augmentation import draw_augmentation as _draw
from ..core.augmentation import draw_noise
from ..core.classifier.classifier import to_batch
from ..core.context import Context
from ..core.images import ImageSet

IN_MEMORY = 4 << 30  # bytes of pixels kept as one tensor; larger sets are read batch by batch


@dataclass(frozen=True)
class Batch:
    """One batch on the device.

    :param images: float ``[B, C, H, W]`` in [0, 1].
    :param targets: int64 ``[B]`` labels or float ``[B, K]`` soft labels.
    :param rows: int64 ``[B]`` positions in the set.
    :param mirrored: bool ``[B]``, which images were mirrored; None where that is not drawn.
    """

    images: Tensor
    targets: Tensor
    rows: Tensor
    mirrored: Tensor | None = field(default=None, kw_only=True)


class BatchSource(Protocol):
    """Where the batches of an epoch come from."""

    steps: int

    def epoch(self, number: int) -> Iterator[Batch]:
        """Yield the batches of epoch *number*; the same number gives the same batches."""
        ...


class SampleSource(Protocol):
    """What :class:`ShuffledBatches` draws from: :class:`Samples`, or a view of some."""

    @property
    def device(self) -> torch.device: ...

    @property
    def targets(self) -> Tensor:
        """``[N]`` labels or ``[N, K]`` soft labels, on the device."""
        ...

    def __len__(self) -> int: ...

    def pixels(self, rows: Tensor) -> Tensor:
        """Return the raw images at *rows*, ``[B, H, W, C]``, on the device."""
        ...


class Samples:
    """Images and targets ready for batching, on the device when they fit into :data:`IN_MEMORY`.

    :param images: the set to learn from.
    :param targets: ``[N]`` labels or ``[N, K]`` soft labels; default: the set's labels.

    >>> from elixir_plugin.testing import tiny_case
    >>> samples = Samples(tiny_case().train, torch.device("cpu"))
    >>> len(samples), samples.pixels(torch.tensor([3, 1])).shape
    (96, torch.Size([2, 8, 8, 3]))
    """

    def __init__(self, images: ImageSet, device: torch.device, targets: Tensor | None = None) -> None:
        self.device = device
        self._set = images
        size = math.prod(images.images.shape) * images.images.dtype.itemsize
        self._pixels = torch.from_numpy(images.read(slice(None))).to(device) if size <= IN_MEMORY else None
        self.targets = (torch.tensor(images.labels) if targets is None else targets).to(device)

    def __len__(self) -> int:
        return len(self._set)

    def pixels(self, rows: Tensor) -> Tensor:
        """Return the raw images at *rows*, ``[B, H, W, C]``, on the device."""
        if self._pixels is not None:
            return self._pixels[rows]
        return torch.from_numpy(self._set.read(rows.cpu().numpy())).to(self.device)


def few_images_batch(count: int) -> int:
    """Return a batch size for a set of *count* images: 256, or less so that an epoch has 8 steps, at least 32.

    >>> few_images_batch(2500), few_images_batch(500), few_images_batch(100)
    (256, 62, 32)
    """
    return min(256, max(32, count // 8))


class ShuffledBatches:
    """Passes over :class:`Samples` in a new random order each epoch, augmented.

    Order and augmentation are functions of (seed, name, epoch, position in the set), but for noise, which is drawn
    batch by batch and so depends on the batch size too. A last batch of one sample joins the one before it, because
    batch norm cannot train on a single sample.

    >>> from elixir_plugin.testing import tiny_case
    >>> samples = Samples(tiny_case().train, torch.device("cpu"))
    >>> source = ShuffledBatches(samples, 16, Context(seed=0), Augmentation(flip=True))
    >>> next(source.epoch(0)).images.shape
    torch.Size([16, 3, 8, 8])
    """

    def __init__(
        self, samples: SampleSource, batch_size: int, context: Context, augmentation: Augmentation, name: str = "train"
    ) -> None:
        self.samples, self.batch_size, self.augmentation = samples, batch_size, augmentation
        self._context, self._name = context, name
        n = len(samples)
        self.steps = max(1, math.ceil(n / batch_size) - (n > batch_size and n % batch_size == 1))

    def epoch(self, number: int) -> Iterator[Batch]:
        n, device = len(self.samples), self.samples.device
        generator = self._context.generator(self._name, "batches", number)
        order = torch.randperm(n, generator=generator).to(device)
        draws = _draw(self.augmentation, n, generator, device)
        bounds = [*range(0, self.batch_size * self.steps, self.batch_size), n]
        for start, stop in zip(bounds[: self.steps], [*bounds[1 : self.steps], n], strict=True):
            rows = order[start:stop]
            pixels = self.samples.pixels(rows)
            chosen = {name: draw[rows] for name, draw in draws.items()}
            chosen |= draw_noise(self.augmentation, pixels.shape, generator, device)
            images = augment(pixels, self.augmentation, chosen)
            yield Batch(to_batch(images, device), self.samples.targets[rows], rows, mirrored=chosen.get("mirror"))

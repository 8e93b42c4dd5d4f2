"""Image variations, step 2: K variations of every image, each made once even if the run is interrupted.

Variation ``k`` of image ``i`` is row ``i · K + k``. Its seed is a function of (seed of the run, id of the image, k), so
that it depends neither on batch, order nor interruptions. Blank variations are made again under other seeds.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ...core.context import Context, derive_seed
from ...core.images import Images, ImageSet
from ...core.settings import fingerprint
from ...diffusion.generators.base import ImageGenerator
from ...diffusion.store.chunks import MANIFEST, MARKS, ChunkStore
from ...diffusion.store.manifest import START_OVER
from ...errors import InputError, PluginError
from ...io.checked import Count, Facts
from ...io.checked import checked as held_against
from ...io.distributed import rank_and_world, together
from ...io.files import refuse_unwritable, write_json
from ...io.reading import read_json
from .settings import ImageVariationsSettings

CHUNK = 16  # variations per chunk, unless the generator says otherwise; the same on every device
BLANK = 1.0  # spread, in grey levels, below which an image counts as blank
TRIES = 3  # times that a blank variation is made again


@dataclass(frozen=True)
class VariationGenerator:
    """Makes variations of the images of one set.

    :param seed: all seeds follow from it.
    """

    generator: ImageGenerator
    settings: ImageVariationsSettings
    images: ImageSet
    seed: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(H, W, C)`` of a variation."""
        height, width, channels = self.images.image_shape
        edge = self.settings.store_size
        return (height, width, channels) if edge is None else (edge, edge, channels)

    @property
    def count(self) -> int:
        """K."""
        return self.settings.num_variations

    def make(self, numbers: NDArray[np.int64]) -> tuple[NDArray[np.uint8], dict[str, int]]:
        """Return the variations *numbers*, ``[n, H, W, C]``, and how many were made again, and are still blank.

        An image that is blank itself may have blank variations.
        """
        rows, places = np.unique(numbers // self.count, return_inverse=True)
        originals = as_rgb(self.images.read(rows))[torch.from_numpy(places)]
        ids = self.images.ids[rows][places]
        made = self._vary(originals, ids, numbers % self.count, 0)
        again = 0
        for attempt in range(1, TRIES + 1):
            bad = torch.nonzero(blank(made) & ~blank(originals))[:, 0]
            if not len(bad):
                break
            again += len(bad)
            chosen = bad.numpy()
            made[bad] = self._vary(originals[bad], ids[chosen], numbers[chosen] % self.count, attempt)
        left = int((blank(made) & ~blank(originals)).sum())
        if self.settings.color_transfer:
            made = transfer_colour(made, originals)
        return self.stored(made), {"regenerated": again, "blank": left}

    def _vary(self, originals: Tensor, ids: Any, copies: Any, attempt: int) -> Tensor:
        """Return the generator's own output, uint8 ``[n, 3, S, T]``."""
        seeds = torch.tensor(
            [derive_seed(self.seed, int(i), int(k), attempt) for i, k in zip(ids, copies, strict=True)],
            dtype=torch.int64,
        )
        size, parts = self.settings.gen_batch_size, []
        if hasattr(self.generator, "chunk"):  # it splits batches itself
            size = max(size, len(originals))
        for start in range(0, len(originals), size):
            part = slice(start, start + size)
            parts.append(checked(self.generator.vary(originals[part], seeds[part]), len(seeds[part])))
        return torch.cat(parts)

    def stored(self, made: Tensor) -> NDArray[np.uint8]:
        """Return uint8 ``[n, 3, S, T]`` as it is stored, ``[n, H, W, C]``."""
        height, width, channels = self.shape
        if made.shape[2:] != (height, width):
            resized = F.interpolate(made.float(), (height, width), mode="bicubic", align_corners=False, antialias=True)
            made = resized.round_().clamp_(0, 255).to(torch.uint8)
        if channels == 1:
            made = made.float().mean(1, keepdim=True).round_().to(torch.uint8)
        return np.ascontiguousarray(made.permute(0, 2, 3, 1).numpy())

    def identity(self) -> dict[str, Any]:
        """Return everything that decides the variations, in JSON types."""
        return {
            "generator": self.generator.fingerprint(),
            "num_variations": self.count,
            "color_transfer": self.settings.color_transfer,
            "seed": self.seed,
            "images": self.images.replace(labels=np.zeros_like(self.images.labels)).fingerprint(),
            "ids": fingerprint(self.images.ids.tolist()),
        }


@dataclass(frozen=True)
class Variations:
    """What was made.

    :param images: all variations as a set ``[N · K]``, with the labels of their images.
    :param counts: ``regenerated`` and ``blank``.
    """

    images: ImageSet
    counts: dict[str, int]


def make_variations(producer: VariationGenerator, folder: Path, context: Context, description: str) -> Variations:
    """Make the variations that are missing in *folder*, and return all of them, memory-mapped.

    Under ``torchrun``, with a work folder, each rank makes its share.

    :raises RunError: when *folder* belongs to other settings, or cannot be written.
    """
    rank, world = rank_and_world() if context.work_dir is not None else (0, 1)

    def work(part: slice) -> NDArray[np.uint8]:
        made, counts = producer.make(np.arange(part.start, part.stop))
        if any(counts.values()):
            write_json(folder / "again" / f"{part.start:010}.json", counts)
        return made

    with together():
        store = _store(producer, folder, producer.identity())
        store.fill(work, context, description=description, rank=rank, world=world)
    labels = np.repeat(producer.images.labels, producer.count)
    return Variations(ImageSet(store.array(), labels, producer.images.num_classes), _counted(folder))


def already_made(producer: VariationGenerator, folder: Path, *, sure: bool) -> int:
    """Return how many variations :func:`make_variations` would find in *folder*; nothing is written.

    :param sure: whether the generator is the one that will be used; else any generator's count.
    :raises RunError: when *folder* belongs to other settings, or cannot be written.
    """
    refuse_unwritable(folder)
    manifest = folder / "images" / MANIFEST
    if not manifest.exists():
        return 0
    identity = producer.identity()
    if not sure:
        identity["generator"] = _generator_in(manifest)
    store = _store(producer, folder, identity)
    marks = [mark for mark in (store.folder / MARKS).iterdir() if mark.stat().st_size]  # an empty one is a lock
    parts = [store.geometry.part(int(mark.name)) for mark in marks]
    return sum(part.stop - part.start for part in parts)


def _generator_in(manifest: Path) -> Any:
    try:
        return read_json(manifest)["identity"]["generator"]
    except (InputError, KeyError, TypeError):
        return None  # a damaged manifest is refused, with a message, by the store itself


def _store(producer: VariationGenerator, folder: Path, identity: dict[str, Any]) -> ChunkStore:
    return ChunkStore(
        folder / "images",
        length=len(producer.images) * producer.count,
        shape=producer.shape,
        dtype="uint8",
        identity=identity,
        chunk=chunk_of(producer.generator),
    )


def chunk_of(generator: ImageGenerator) -> int:
    """Return how many variations are made and written at once."""
    return int(getattr(generator, "chunk", CHUNK))


class Again(Facts):
    """How many variations of a chunk were made again, and how many are blank."""

    regenerated: Count
    blank: Count


def _counted(folder: Path) -> dict[str, int]:
    what = "not the counts of a chunk"
    files = [
        held_against(Again, read_json(path), what=what, where=path, hint=START_OVER)
        for path in sorted((folder / "again").glob("*.json"))
    ]
    return {name: sum(getattr(each, name) for each in files) for name in ("regenerated", "blank")}


def as_rgb(images: Images) -> Tensor:
    """Turn ``[n, H, W, C]`` of a set into uint8 ``[n, 3, H, W]``; a single channel is repeated, floats are rounded."""
    levels = images if images.dtype == np.uint8 else np.rint(images * np.float32(255)).astype(np.uint8)
    return torch.from_numpy(levels).permute(0, 3, 1, 2).expand(-1, 3, -1, -1).contiguous()


def blank(images: Tensor) -> Tensor:
    """Return bool ``[n]``: which uint8 images ``[n, C, H, W]`` are one colour, or nearly so."""
    spread: Tensor = images.float().flatten(2).std(2, correction=0).amax(1)
    return spread < BLANK


def checked(made: Tensor, count: int) -> Tensor:
    """Return what a generator gave, after holding it against the rules; a plugin may give anything.

    :raises PluginError: when it is not uint8 ``[count, 3, S, T]``.
    """
    sound = isinstance(made, Tensor) and made.dtype == torch.uint8 and made.ndim == 4
    if not sound or made.shape[:2] != (count, 3) or 0 in made.shape:
        found = f"{made.dtype} {tuple(made.shape)}" if isinstance(made, Tensor) else type(made).__name__
        raise PluginError(
            "the generator broke the rules", where="vary", found=found, allowed=f"uint8 [{count}, 3, S, T]"
        )
    return made.cpu()


LEAST = 1e-3  # spread, in grey levels, of a channel that counts as constant


def transfer_colour(variations: Tensor, images: Tensor) -> Tensor:
    """Return *variations* with the channel moments of *images*, in float64, rounded and clipped to uint8.

    The released code truncates, which darkens by half a grey level, and divides by the spread of constant channels.
    A constant channel becomes the constant mean of its image here.

    :param variations: uint8 ``[B, C, S, T]``.
    :param images: uint8 ``[B, C, H, W]``; the sizes may differ.
    """
    made, wanted = variations.double(), images.double()
    spread, mean = torch.std_mean(made, (2, 3), correction=0, keepdim=True)
    wanted_spread, wanted_mean = torch.std_mean(wanted, (2, 3), correction=0, keepdim=True)
    scale = torch.where(spread < LEAST, 0.0, wanted_spread / spread.clamp(min=LEAST))
    return ((made - mean) * scale + wanted_mean).round().clamp(0, 255).to(torch.uint8)

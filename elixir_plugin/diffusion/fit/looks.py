"""Looking at a denoiser while it is trained: how well it denoises held-back images, in numbers and pictures.

The looks come early and then every tenth of the training. What they see is a function of settings, seed and images, so
a training that was killed and went on ends with the same pictures and the same curves.
"""

from __future__ import annotations

import math
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...core.classifier.classifier import to_batch
from ...core.context import Context
from ...core.images import ImageSet
from ...errors import InputError
from ...io.environment import environment
from ...io.files import remove_folder, write_json
from ...io.images import read_image, write_grid
from ..denoisers.base import Denoiser
from ..denoisers.denoiser import UNetDenoiser
from ..noise import normal_noise
from ..plan import Plan, Purification, padded, plan
from ..purify import purify_batch
from ..schedule import NoiseLevel, Schedule
from .page import write_page_of
from .settings import FitSettings

SHARES = (0.02, 0.1, 0.25, 0.5, 1.0)  # of the trained steps: levels at which the loss is measured
PICTURED = (0.1, 0.5, 1.0)  # levels of which pictures show the way there and back
JUDGED, SHOWN = 64, 8  # held-back images in the loss, and in a picture
STEPS = 10  # on the way back, in pictures
PARTS = 10  # of a training between whose ends it is looked at, besides early on


def held_back(images: ImageSet, count: int, context: Context, name: str = "denoiser") -> tuple[ImageSet, ImageSet]:
    """Return *count* images drawn at random, which a training does not see, and the others."""
    order = torch.randperm(len(images), generator=context.generator(name, "held back")).numpy()
    return images.subset(np.sort(order[:count])), images.subset(np.sort(order[count:]))


def noised_and_purified(
    denoiser: Denoiser, originals: Tensor, level: NoiseLevel, steps: int | None, seed: int
) -> tuple[Plan, Tensor, Tensor]:
    """Return the plan, the noised images as a person may see them, and the purified ones; on the CPU.

    :param originals: float ``[n, C, H, W]`` in [0, 1].
    """
    count, channels, height, width = originals.shape
    resolved = plan(denoiser, Purification(level=level, steps=steps), (height, width, channels))
    ids = torch.arange(count)
    purified = purify_batch(denoiser, resolved, originals, ids, seed).images.cpu()
    noise = normal_noise(seed, ids, 0, resolved.t_star, resolved.padded_shape, device="cpu")[:, :, :height, :width]
    return resolved, (originals.cpu() + resolved.sigma * noise).clamp(0, 1), purified


class Looks:
    """What is seen of a denoiser in training.

    :param images: held-back images of the shape of those that it is trained on; at least one.
    :param settings: of the training.
    :param block: iterations in one of its blocks; the last one may be shorter.
    :param folder: for the pictures, while the training goes on.
    """

    def __init__(self, images: ImageSet, settings: FitSettings, context: Context, folder: Path, *, block: int) -> None:
        self.folder = folder
        self._context, self._seed = context, context.derive_seed("denoiser", "looks")
        self._schedule = Schedule(settings.schedule, settings.length)
        trained_steps = settings.trained_steps
        self._iterations, self._block = settings.iterations, block
        self._blocks = looked_at(math.ceil(settings.iterations / block))
        self._levels = sorted({max(1, round(share * trained_steps)) for share in SHARES})
        self._pictured = sorted({max(1, round(share * trained_steps)) for share in PICTURED})
        few = images.subset(np.arange(min(JUDGED, len(images))))
        self._images, self._ids = to_batch(few.read(slice(None)), context.device), torch.from_numpy(few.ids.copy())
        self._set = images
        self._losses = torch.full((len(self._blocks), len(self._levels)), math.nan, dtype=torch.float64)

    def due(self, blocks: int) -> bool:
        """Whether the denoiser is looked at after so many *blocks*."""
        return blocks in self._blocks

    def look(self, denoiser: UNetDenoiser, blocks: int) -> None:
        """Measure the loss, and write a picture: images, and for three levels the noised and the purified ones."""
        self.measure(denoiser, self._blocks.index(blocks))
        originals, rows = self._images[:SHOWN].cpu(), [self._images[:SHOWN]]
        for level in self._pictured:
            chosen = NoiseLevel(steps=level, of=self._schedule.length)
            _, noised, purified = noised_and_purified(denoiser, originals, chosen, min(STEPS, level), self._seed)
            rows += [noised, purified]
        self.folder.mkdir(parents=True, exist_ok=True)
        write_grid(self.folder / self._picture(blocks), rows)

    @torch.inference_mode()
    def measure(self, denoiser: UNetDenoiser, row: int = 0) -> None:
        """Measure the mean squared error of the predicted noise, per level."""
        height, width = self._images.shape[2:]
        stride = denoiser.stride
        images = padded(2 * self._images - 1, (-height % stride, -width % stride))
        for column, level in enumerate(self._levels):
            noise = normal_noise(self._seed, self._ids, 1, level, tuple(images.shape[1:]), device=images.device)
            kept = float(self._schedule.alphas_cumprod[level - 1])
            states = math.sqrt(kept) * images + math.sqrt(1 - kept) * noise
            indices = torch.full((len(states),), level - 1, dtype=torch.int64, device=states.device)
            wrong = (denoiser.predict(states, indices).eps - noise)[:, :, :height, :width]
            self._losses[row, column] = float(wrong.double().square().mean())

    def evaluations(self) -> float:
        """Return the network evaluations of a look, as a multiple of those of :meth:`measure`."""
        pictures = len(self._images[:SHOWN]) * sum(min(STEPS, level) for level in self._pictured)
        return 1 + pictures / (len(self._images) * len(self._levels))

    def state(self) -> dict[str, Tensor]:
        """Return what a training keeps with its state, to be filled again in place."""
        return {"held_back": self._losses}

    def facts(self) -> dict[str, Any]:
        """Return images, levels and losses for the card; losses per level, one for each of ``iterations``."""
        return {
            "count": len(self._set),
            "judged": len(self._images),
            "fingerprint": self._set.fingerprint(),
            "of": self._schedule.length,
            "levels": self._levels,
            "sigmas": [self._schedule.noise_std(level) for level in self._levels],
            "iterations": self._looked(),
            "losses": self._losses.T.tolist(),
        }

    def add_to(self, part: Path, denoiser: UNetDenoiser, seconds: float) -> None:
        """Add pictures, seconds and machine, and the page that shows all of it, to the folder of the denoiser."""
        pictures: dict[int, bytes] = {}
        (part / "samples").mkdir()
        for blocks, iterations in zip(self._blocks, self._looked(), strict=True):
            with suppress(InputError):  # removed or damaged meanwhile: no reason to lose what took days
                pictures[iterations] = kept_picture(self.folder / self._picture(blocks), self._images.shape[1])
                (part / "samples" / self._picture(blocks)).write_bytes(pictures[iterations])
        made = {"seconds": seconds, **environment(self._context.device)}
        write_json(part / "made.json", made)
        write_page_of(part / "card.html", denoiser, made, pictures)

    def discard(self) -> None:
        """Remove the pictures, which the finished folder holds."""
        remove_folder(self.folder)

    def __len__(self) -> int:
        return len(self._blocks)

    def _looked(self) -> list[int]:
        return [min(blocks * self._block, self._iterations) for blocks in self._blocks]

    def _picture(self, blocks: int) -> str:
        return f"{min(blocks * self._block, self._iterations):07}.png"


def kept_picture(path: Path, channels: int) -> bytes:
    """Return the picture of a look, decoded and encoded anew as PNG.

    :raises InputError: when it is gone, or no image any more.
    """
    pixels = read_image(path, channels)
    with BytesIO() as file:
        Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save(file, format="PNG")
        return file.getvalue()


def looked_at(blocks: int) -> list[int]:
    """Return after how many of so many *blocks* a denoiser is looked at: 1, 2, 4, …, and every tenth of them.

    >>> looked_at(80)
    [1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64, 72, 80]
    """
    tenths = {max(1, round(blocks * part / PARTS)) for part in range(1, PARTS + 1)}
    early = {2**power for power in range(blocks.bit_length()) if 2**power < min(tenths)}
    return sorted(early | tenths)

"""Purification: noise images up to ``t*``, then run the reverse chain; for a batch, or for a whole set with resume."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..core.classifier.classifier import to_batch
from ..core.context import Context
from ..core.images import ImageSet
from ..core.settings import fingerprint
from ..errors import InputError, RunError, SettingsError
from ..io.distributed import local_device, rank_and_world, together
from ..io.reading import read_json
from .batches import in_parts, power_of_two, tuned
from .denoisers.base import Denoiser, Prediction
from .noise import normal_noise
from .plan import Plan, Purification, padded, plan
from .sampler import jump, predicted_image, reverse, sampled
from .store.chunks import MANIFEST, ChunkStore

CHUNK_PIXELS = 512 * 64 * 64  # per chunk on a GPU, where it holds more images than on a CPU

__all__ = ["Plan", "Purification", "Purified", "plan", "purify", "purify_batch"]


@dataclass(frozen=True)
class Purified:
    """A purified batch, on the denoiser's device.

    :param images: float32 ``[B, C, H, W]`` in pixel scale, within [0, 1].
    :param kept: float32 ``[B, rounds, keep, C, H, W]`` likewise: what the last *keep* steps of each round made, in the
        order of time; or None.
    """

    images: Tensor
    kept: Tensor | None = None


def purify_batch(
    denoiser: Denoiser,
    plan: Plan,
    images: Tensor,
    ids: Tensor,
    seed: int,
    *,
    keep: int = 0,
    keep_predictions: bool = False,
) -> Purified:
    """Purify a batch of any size; it is split into what fits into memory.

    Each image's result depends on the image, its id, *seed*, denoiser and plan, and not on the rest of the batch
    (up to rounding inside the network's kernels). The modes and layout of the network are left as they were.

    :param images: float ``[B, C, H, W]`` in pixel scale, within [0, 1], on any device.
    :param ids: int64 ``[B]`` sample ids; the noise follows them.
    :param keep: how many of the last states of each round to return.
    :param keep_predictions: keep the predicted images x̂_0 of these steps instead of the states.
    :raises InputError: for images or ids of another shape or range.
    :raises SettingsError: when *keep* exceeds the number of steps.
    :raises RunError: when the denoiser gives numbers that are not finite, or memory does not suffice for one image.
    """
    _refuse_bad_batch(plan, images, ids)
    if not 0 <= keep <= len(plan.steps):
        raise SettingsError("more states to keep than steps", where="keep", found=keep, allowed=f"0..{len(plan.steps)}")
    device = denoiser.device
    out = torch.empty(images.shape, device=device)
    kept = torch.empty((len(images), plan.settings.rounds, keep, *images.shape[1:]), device=device) if keep else None
    if not plan.steps:
        return Purified(out.copy_(images))
    chosen = plan.settings
    with tuned(
        denoiser,
        plan.batch,
        plan.padded_shape,
        channels_last=chosen.channels_last,
        compile=chosen.compile,
        bf16=plan.precision == "bf16",
    ) as ready:

        def work(part: slice) -> None:
            purifier = _BatchPurifier(ready.for_samples(ids[part]), plan, ids[part].to(device), seed, keep_predictions)
            out[part] = purifier.run(images[part], None if kept is None else kept[part])

        in_parts(work, len(images), plan.batch)
    return Purified(out, kept)


def _refuse_bad_batch(plan: Plan, images: Tensor, ids: Tensor) -> None:
    height, width, channels = plan.image_shape
    if images.dim() != 4 or images.shape[1:] != (channels, height, width) or not images.is_floating_point():
        raise InputError(
            "images do not fit the plan",
            where="images",
            found=f"{images.dtype} {tuple(images.shape)}",
            allowed=f"float [B, {channels}, {height}, {width}]",
        )
    if ids.shape != (len(images),) or ids.dtype != torch.int64:
        raise InputError(
            "one id per image", where="ids", found=f"{ids.dtype} {tuple(ids.shape)}", allowed=f"int64 [{len(images)}]"
        )
    if len(images):
        low, high = (float(end) for end in images.aminmax())
        if not (low >= 0 and high <= 1):  # NaN fails both
            raise InputError("pixel value out of range", where="images", found=f"{low}..{high}", allowed="[0, 1]")


@dataclass(frozen=True)
class _BatchPurifier:
    """Purifies one part of a batch: noise up to ``t*``, then the reverse chain, as often as there are rounds."""

    denoiser: Denoiser
    plan: Plan
    ids: Tensor
    seed: int
    keep_predictions: bool

    @torch.inference_mode()
    def run(self, images: Tensor, kept: Tensor | None) -> Tensor:
        """Return the purified images; fills *kept* ``[B, rounds, keep, C, H, W]``."""
        states = padded(images.to(self.denoiser.device, torch.float32) * 2 - 1, self.plan.padding)
        if self.plan.settings.channels_last:
            states = states.contiguous(memory_format=torch.channels_last)
        finite = torch.ones(len(states), dtype=torch.bool, device=states.device)
        # of the network alone: autocast does not touch the arithmetic on states. It casts the weights at every step, as
        # inference mode keeps no cast; keeping them gained nothing on a CPU and changed results by a rounding
        with torch.autocast(states.device.type, torch.bfloat16, enabled=self.plan.precision == "bf16"):
            for number in range(self.plan.settings.rounds):
                slots = None if kept is None else kept[:, number]
                states = self._round(states, number, slots, finite)
        finite &= states.flatten(1).isfinite().all(1)
        self._refuse_broken(finite)
        return self._pixels(states)

    def _round(self, states: Tensor, number: int, slots: Tensor | None, finite: Tensor) -> Tensor:
        """Noise and denoise once; only the states that were asked for are kept."""
        settings, steps = self.plan.settings, self.plan.steps
        states = jump(steps[0], states, self._noise(states, number, self.plan.t_star))
        first_kept = len(steps) - (0 if slots is None else slots.shape[1])
        for place, step in enumerate(steps):
            prediction = self._predict(states, step.index)
            finite &= prediction.eps.sum((1, 2, 3)).isfinite()  # clipping would hide an infinity
            image = predicted_image(step, states, prediction.eps, clip=settings.clip)
            noise = self._noise(states, number, step.index) if sampled(settings.sampler, step) else None
            states = reverse(
                step, states, image, prediction, noise, sampler=settings.sampler, variance=self.denoiser.variance
            )
            if slots is not None and place >= first_kept:
                slots[:, place - first_kept] = self._pixels(image if self.keep_predictions else states)
        return states.clamp(-1, 1)

    def _predict(self, states: Tensor, index: int) -> Prediction:
        compiled = self.plan.settings.compile and self.denoiser.network is not None
        asked = self.plan.batch.fill_up(states) if compiled else states
        indices = torch.full((len(asked),), index, dtype=torch.int64, device=asked.device)
        found, count = self.denoiser.predict(asked, indices), len(states)
        if len(asked) == count:
            return found
        return Prediction(found.eps[:count], None if found.variance is None else found.variance[:count])

    def _noise(self, states: Tensor, number: int, step: int) -> Tensor:
        """Return fresh noise; the jump is step ``t*``, a reverse step has its index."""
        shape = tuple(states.shape[1:])
        return normal_noise(self.seed, self.ids, number, step, shape, device=states.device)

    def _pixels(self, states: Tensor) -> Tensor:
        height, width, _ = self.plan.image_shape
        return states[:, :, :height, :width].add(1).div_(2).clamp_(0, 1)

    def _refuse_broken(self, finite: Tensor) -> None:
        if bool(finite.all()):
            return
        broken = self.ids[~finite].tolist()
        raise RunError(
            "the denoiser gave numbers that are not finite",
            where=f"sample ids {', '.join(map(str, broken[:5]))}{', …' * (len(broken) > 5)}",
            found=f"{len(broken)} of {len(finite)} samples",
            hint="use precision=float32; if that does not help, the denoiser's weights are broken",
        )


def purify(
    denoiser: Denoiser,
    settings: Purification,
    images: ImageSet,
    context: Context,
    *,
    seed_name: str,
    store: Path | None = None,
) -> ImageSet:
    """Purify a whole set, chunk by chunk: the same samples in the same order, with other pixels.

    With a *store*, memory holds one chunk, a killed call continues where it stopped, and under ``torchrun`` each rank
    does its share of the chunks. Without one, the result is an array, and each rank makes all of it.

    :param denoiser: moved to the context's device; with several GPUs, each rank takes its own.
    :param seed_name: name of the random draws in this run; the noise is a function of the run's seed and this name.
    :param store: folder for the result and for what a later call continues from.
    :return: uint8 for a uint8 set (rounded), float32 for a float set; memory-mapped from *store* where there is one.
    :raises RunError: when *store* belongs to other settings, cannot be written, or the denoiser breaks down.
    """
    denoiser = denoiser.to(local_device(context.device))
    resolved = plan(denoiser, settings, images.image_shape)
    if not resolved.steps:
        return images  # t* = 0
    for note in resolved.notes:
        context.note(note)
    seed = context.derive_seed(seed_name)
    work = partial(_purify_rows, denoiser, resolved, images, seed)
    size = _chunk_size(denoiser, images.image_shape, store)
    if store is None:
        return images.replace(images=_in_memory(work, images, size, context))
    identity = {
        "denoiser": denoiser.fingerprint(),
        "purification": resolved.facts(),
        "seed": seed,
        "images": images.fingerprint(),
        "ids": fingerprint(images.ids.tolist()),
    }
    dtype: Literal["uint8", "float32"] = "uint8" if images.images.dtype == np.uint8 else "float32"
    rank, world = rank_and_world()
    with together():
        output = ChunkStore(
            store, length=len(images), shape=images.image_shape, dtype=dtype, identity=identity, chunk=size
        )
        output.fill(work, context, description="purifying", rank=rank, world=world)
    return images.replace(images=output.array())


def _purify_rows(denoiser: Denoiser, plan: Plan, images: ImageSet, seed: int, part: slice) -> NDArray[Any]:
    """Purify the samples *part*: ``[n, H, W, C]`` of the set's own type."""
    batch = to_batch(images.read(part), denoiser.device)
    out = purify_batch(denoiser, plan, batch, torch.tensor(images.ids[part]), seed).images.permute(0, 2, 3, 1)
    if images.images.dtype == np.uint8:
        out = out.mul(255).round_().to(torch.uint8)
    return np.ascontiguousarray(out.cpu().numpy())


def _in_memory(work: Callable[[slice], NDArray[Any]], images: ImageSet, size: int, context: Context) -> NDArray[Any]:
    out = np.empty((len(images), *images.image_shape), images.images.dtype)
    starts = range(0, len(images), size)
    for start in context.progress(starts, "purifying", total=len(starts)):
        part = slice(start, min(start + size, len(images)))
        out[part] = work(part)
    return out


def _chunk_size(denoiser: Denoiser, image_shape: tuple[int, int, int], store: Path | None) -> int:
    """Return samples per chunk: few where they are slow or large. A store that was begun elsewhere keeps its own."""
    height, width, _ = image_shape
    fitting = power_of_two(max(1, CHUNK_PIXELS // (height * width)))
    size = 64 if denoiser.device.type == "cpu" else min(512, fitting)
    if store is not None and (store / MANIFEST).exists():
        try:
            size = int(read_json(store / MANIFEST)["geometry"]["chunk"])
        except (InputError, KeyError, TypeError, ValueError):
            return size  # a damaged manifest is refused, with a message, by the store itself
    return size

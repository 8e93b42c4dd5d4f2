"""How many images fit into one call of the network on a device, and the memory layout of the network meanwhile."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn

from ..core.classifier.classifier import evaluating
from ..errors import RunError
from ..training.device import out_of_memory
from .denoisers.base import Denoiser

CPU_PIXELS = 32 * 32 * 32  # per batch; more spills out of the cache and gains nothing
CUDA_PIXELS = 512 * 32 * 32  # per batch; more gains nothing
MEMORY_SHARE = 0.8  # of what is free on the device


class BatchSize:
    """The number of images per call: given, or found once; halved whenever memory runs out.

    :ivar compiled: the number that the network was compiled for; 0: for none yet.
    """

    def __init__(self, size: int | None = None) -> None:
        self.size = size
        self.compiled = 0

    def find(self, denoiser: Denoiser, shape: tuple[int, int, int], *, bf16: bool) -> int:
        """Return the size, found from memory at the first call.

        On a CPU it depends on the image size alone, so that a run that is continued has the same batches. On CUDA two
        small batches are tried, and the result is rounded down to a power of two.

        :param shape: ``(C, H, W)`` of a padded image.
        """
        if self.size is None:
            cuda = denoiser.device.type == "cuda" and denoiser.network is not None
            limit = max(1, (CUDA_PIXELS if cuda else CPU_PIXELS) // (shape[1] * shape[2]))
            self.size = power_of_two(min(limit, _fitting(denoiser, shape, bf16) if cuda else limit))
        return self.size

    def fill_up(self, states: Tensor) -> Tensor:
        """Return *states* ``[B, …]``, repeated up to the largest batch so far.

        A compiled network then sees batches of one size: compiling it for another costs more than filling up.
        """
        self.compiled = max(self.compiled, len(states))
        if len(states) == self.compiled:
            return states
        times = -(-self.compiled // len(states))
        return torch.cat([states] * times)[: self.compiled]  # keeps the memory layout, unlike indexing

    def halve(self, tried: int) -> None:
        """Take half of *tried* from now on.

        :raises RunError: when a single image was too much.
        """
        if tried == 1:
            raise RunError(
                "out of memory with a single image",
                where="purification",
                hint="free memory on the device, use another device, or a smaller denoiser",
            )
        self.size = tried // 2
        self.compiled = 0
        logging.getLogger(__name__).warning("out of memory with %d images at once; now trying %d", tried, self.size)


def in_parts(work: Callable[[slice], None], length: int, size: BatchSize) -> None:
    """Call *work* with slices that cover ``0..length``, smaller ones after it ran out of memory.

    *work* may be called twice for the same rows. *size* must have been found.

    :raises RunError: when a single row is too much.
    """
    start = 0
    while start < length:
        assert size.size is not None
        part = slice(start, min(start + size.size, length))
        if _fits(work, part):
            start = part.stop
        else:  # outside the handler, whose traceback would keep the tensors alive
            size.halve(part.stop - part.start)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def _fits(work: Callable[[slice], None], part: slice) -> bool:
    try:
        work(part)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        return False
    return True


def _fitting(denoiser: Denoiser, shape: tuple[int, int, int], bf16: bool) -> int:
    """Return how many images fit on the CUDA device, from the peaks of two small batches; 1 when these do not fit."""
    device = denoiser.device
    try:
        peaks = [_peak(denoiser, (n, *shape), bf16) for n in (2, 8)]
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        return 1
    per_image = max((peaks[1] - peaks[0]) // 6, 1)
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    free = torch.cuda.mem_get_info(device)[0] + held
    return max(1, int(free * MEMORY_SHARE / per_image))


def _peak(denoiser: Denoiser, shape: tuple[int, ...], bf16: bool) -> int:
    device = denoiser.device
    torch.cuda.reset_peak_memory_stats(device)
    states, indices = torch.zeros(shape, device=device), torch.zeros(shape[0], dtype=torch.int64, device=device)
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        denoiser.predict(states, indices)
    return torch.cuda.max_memory_allocated(device)


def power_of_two(number: int) -> int:
    """Return the largest power of two up to *number*, which is at least 1."""
    return 1 << (number.bit_length() - 1)


@contextmanager
def tuned(
    denoiser: Denoiser, batch: BatchSize, shape: tuple[int, int, int], *, channels_last: bool, compile: bool, bf16: bool
) -> Iterator[Denoiser]:
    """Yield *denoiser* with its network in eval mode and laid out for speed; both are restored afterwards.

    The batch size is found on the way, before anything is compiled.

    :param shape: ``(C, H, W)`` of a padded image.
    """
    network = denoiser.network
    if network is None:
        batch.find(denoiser, shape, bf16=bf16)
        yield denoiser
        return
    with evaluating(network), _channels_last(network, channels_last):
        batch.find(denoiser, shape, bf16=bf16)
        if compile:
            denoiser = copy.copy(denoiser)
            denoiser.network = cast(nn.Module, torch.compile(network, dynamic=False))
        yield denoiser


@contextmanager
def _channels_last(network: nn.Module, wanted: bool) -> Iterator[None]:
    """Lay out convolution weights channels-last; saving a network wants them as they were."""
    changed = [
        weight
        for weight in network.parameters()
        if wanted and weight.dim() == 4 and not weight.is_contiguous(memory_format=torch.channels_last)
    ]
    try:
        for weight in changed:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)
        yield
    finally:
        for weight in changed:
            weight.data = weight.data.contiguous()

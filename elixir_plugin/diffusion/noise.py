"""Noise as a pure function of (seed, sample id, round, step, position).

Counter-based: nothing is drawn from a stream, so results depend neither on batch size, order, number of processes nor
on what was done before. The generator is Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
SC 2011), in integer arithmetic on any device.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..core.context import derive_seed

_ROUNDS = 10
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)  # what each round adds to the key: golden ratio, √3 − 1
_WORD = 0xFFFFFFFF


def normal_noise(
    seed: int, ids: Tensor, round: int, step: int, shape: tuple[int, ...], *, device: torch.device | str
) -> Tensor:
    """Return standard normal noise ``[B, *shape]``, float32.

    Row ``b`` depends on *seed*, ``ids[b]``, *round* and *step* alone; its values on their place in *shape* (row-major,
    whatever the memory layout). Values reach ±6.76, the range of 32-bit uniforms.

    :param seed: any integer.
    :param ids: int64 ``[B]`` sample ids, on any device.
    :param round: which pass over the chain, from 0.
    :param step: which step of the pass.
    :param device: where the noise is made and returned.
    """
    device = torch.device(device)
    place = torch.device("cpu") if device.type == "mps" else device  # MPS has no float64
    count = math.prod(shape)
    ids = ids.to(place)
    key = derive_seed(seed, "diffusion noise", round, step)
    blocks = torch.arange(-(-count // 4), dtype=torch.int64, device=place)
    zero = torch.zeros((), dtype=torch.int64, device=place)
    counter = (blocks[None] & _WORD, zero, ids[:, None] & _WORD, (ids[:, None] >> 32) & _WORD)
    words = philox(counter, (key & _WORD, key >> 32))
    noise = torch.stack(_box_muller(words[0], words[1]) + _box_muller(words[2], words[3]), dim=-1)
    return noise.reshape(len(ids), -1)[:, :count].reshape(len(ids), *shape).to(device)


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """Apply Philox4x32-10: four words of random bits per counter.

    :param counter: four int64 tensors of 32-bit words in 0..2³²−1, low word first; shapes broadcast.
    :param key: two 32-bit words.
    :return: four int64 tensors of 32-bit words, of the broadcast shape.
    """
    first, second, third, fourth = counter
    low_key, high_key = key
    for _ in range(_ROUNDS):
        product, other = first * _MULTIPLIERS[0], third * _MULTIPLIERS[1]  # the low 64 bits, also where the sign flips
        first, second = _high(other) ^ second ^ low_key, other & _WORD
        third, fourth = _high(product) ^ fourth ^ high_key, product & _WORD
        low_key, high_key = (low_key + _WEYL[0]) & _WORD, (high_key + _WEYL[1]) & _WORD
    words = torch.broadcast_tensors(first, second, third, fourth)  # type: ignore[no-untyped-call]
    return tuple(word.contiguous() for word in words)


def _high(product: Tensor) -> Tensor:
    return (product >> 32) & _WORD


def _box_muller(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Turn two 32-bit words into two independent standard normal numbers, float32.

    The uniforms are ``(word + ½) / 2³²``: never 0 or 1, and exact in float64, which the tail needs.
    """
    radius = first.double().add_(0.5).mul_(2**-32).log_().mul_(-2).sqrt_()
    angle = second.double().add_(0.5).mul_(2 * math.pi * 2**-32)
    return (radius * angle.cos()).float(), (radius * angle.sin()).float()

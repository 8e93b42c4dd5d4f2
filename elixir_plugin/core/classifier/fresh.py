"""Weights drawn anew, under a seed that leaves the global stream alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ...errors import InputError, preview_list


@contextmanager
def drawing(seed: int) -> Iterator[None]:
    """Seed the stream that weights are drawn from, and restore it afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reach the host's CUDA streams too
        yield


@torch.no_grad()
def reset(module: nn.Module) -> None:
    """Draw all weights of *module* again, in place, with the ``reset_parameters`` of its layers.

    Every weight is made NaN first: one that still is NaN afterwards was not drawn, e.g. because a weight norm computes
    what its layer draws.

    :raises InputError: naming the weights that nothing draws.
    """
    drawn = [(name, weight) for name, weight in module.named_parameters() if weight.is_floating_point()]
    for _, weight in drawn:
        weight.fill_(math.nan)
    for layer in module.modules():
        again = getattr(layer, "reset_parameters", None) or getattr(layer, "_reset_parameters", None)
        if callable(again):
            again()
    left = [name for name, weight in drawn if bool(weight.isnan().any())]
    left += [name for name, weight in module.named_parameters() if not weight.is_floating_point()]
    if left:
        raise InputError(
            "module cannot be drawn anew",
            where=type(module).__name__,
            found=f"no reset_parameters() for {preview_list(left)}",
            hint="build the classifier by architecture name",
        )

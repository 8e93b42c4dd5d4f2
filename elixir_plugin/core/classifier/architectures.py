"""Which known architectures weights fit."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial

from torch import Tensor, nn

from ...errors import ElixirError
from ...plugins import plugins
from .classifier import build_module
from .matching import Sets, behind_prefixes, classes_in, without_numbers


def fitting_architectures(sets: Sets, channels: int) -> list[str]:
    """Return the names of the architectures that weights in a file fit: registered ones, else of torchvision.

    Of torchvision's families, such as ``resnet``, one member shows whether the names are at all alike.
    """
    import torchvision  # noqa: PLC0415  (slow)

    own = [name for name in sorted(plugins().offers()["architecture"]) if _fits(sets, channels, name)]
    if own:
        return own
    families: dict[str, list[str]] = {}
    for name in torchvision.models.list_models(module=torchvision.models):
        family = re.match(r"[a-z]+(_v\d)?", name)
        families.setdefault(family[0] if family else name, []).append(name)
    for names in families.values():
        if _fits(sets, channels, names[0], alike=True) and (
            fits := [name for name in names if _fits(sets, channels, name)]
        ):
            return fits
    return []


def _fits(sets: Sets, channels: int, name: str, *, alike: bool = False) -> bool:
    """Tell whether some of *sets* fit the architecture called *name*, or look alike."""
    make = partial(_module, name, channels)
    try:
        wanted = without_numbers(make, 2)
    except (NotImplementedError, RuntimeError, ElixirError):
        return False  # takes numbers to build, or other channels
    return _alike(sets, wanted) and (alike or classes_in(sets, make) is not None)


def _alike(sets: Sets, wanted: Mapping[str, Tensor]) -> bool:
    """Tell whether a quarter of the names is the same."""
    return any(
        4 * len(each.weights.keys() & wanted.keys()) >= min(len(each.weights), len(wanted))
        for each in behind_prefixes(sets, wanted)
    )


def _module(name: str, channels: int, classes: int) -> nn.Module:
    return build_module(name, classes, channels)

"""The network that a checkout's own ``config.py`` names, under a name that runs can refer to.

It is the user's code, imported by the user's script: what is built here is what the toolkit's scripts build.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...core.classifier.classifier import build_module, evaluating
from ...core.classifier.weights import build_by_name
from ...errors import InputError
from ...hookspecs import Entry, hookimpl
from ...io.reading import read_torch
from ...plugins import plugins
from .export import ARCHITECTURE, DATASETS

PREFIX = "toolbox_"  # of names that are known inside a checkout alone


class _Offer:
    """A plugin that offers one architecture."""

    def __init__(self, name: str, make: Callable[..., nn.Module]) -> None:
        self.name, self.make = name, make

    @hookimpl
    def elixir_architectures(self) -> Iterable[Entry]:
        """Offer it; the toolkit's networks take three channels."""
        made = self.make
        return [Entry(self.name, lambda num_classes, _: made(num_classes=num_classes), summary="of config.py")]


def network_of(args: Any) -> str | None:
    """Return the name of an architecture that is what the checkout's scripts build for *args*; None: it names none.

    The toolkit's own ResNet-18 goes by the name it has everywhere. Any other network is offered in this process, as
    ``toolbox_<name>``.
    """
    get = getattr(import_module("utils.supervisor"), "get_arch", None)
    dataset = DATASETS.get(args.dataset)
    if get is None or dataset is None:
        return None
    make = get(args)
    with torch.random.fork_rng(devices=[]):
        if _are_same(make(num_classes=dataset.num_classes), build_module(ARCHITECTURE, dataset.num_classes)):
            return ARCHITECTURE
    name = PREFIX + re.sub(r"\W+", "_", make.__name__).lower()
    if name not in plugins().offers()["architecture"]:
        plugins().register(_Offer(name, make), name)
    return name


def misfit(file: Path, architecture: str, num_classes: int) -> InputError | None:
    """Return why the weights in *file* do not belong to *architecture*, or None when they do."""
    try:
        build_by_name(partial(build_module, architecture, num_classes), read_torch(file), where=str(file))
    except InputError as error:
        return error
    return None


def _are_same(first: nn.Module, second: nn.Module) -> bool:
    """Tell whether two networks are one: the same weights by name and shape, and with them the same answers."""
    shapes = [{name: value.shape for name, value in each.state_dict().items()} for each in (first, second)]
    if shapes[0] != shapes[1]:
        return False
    second.load_state_dict(first.state_dict())
    images = torch.rand(2, 3, 32, 32)
    with torch.inference_mode(), evaluating(first), evaluating(second):
        return torch.allclose(first(images), second(images), atol=1e-4)

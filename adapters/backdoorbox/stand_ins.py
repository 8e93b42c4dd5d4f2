"""What BackdoorBox's ``core`` imports and no longer finds, for as long as it takes to import it.

``import core`` needs a function that torch 1.9 removed, and the packages and checkouts of single attacks and defenses
(BAAT, ISSBA, FLARE), whether they are used or not.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import torch

from ...errors import PluginError

NAMES = (
    *("lpips", "imageio", "umap", "hdbscan", "hairclip_mapper", "ArtFlow", "ArtFlow.glow_adain"),
    *("criteria", "criteria.parse_related_loss", "models", "models.psp"),
    *("datasets", "datasets.latents_dataset_inference"),
)


@contextmanager
def stand_ins() -> Iterator[None]:
    """Let ``import core`` succeed in the body.

    What is installed is imported as ever. What is not is stood in for by a module whose functions and classes raise a
    ``PluginError`` when they are called; afterwards, other code finds it missing as before.

    .. code-block:: python

        with stand_ins():
            import core  # in a process that runs at the root of BackdoorBox's checkout
        install(core)
    """
    finder, gradcheck = _Finder(), sys.modules["torch.autograd.gradcheck"]
    removed = not hasattr(gradcheck, "zero_gradients")
    if removed:
        gradcheck.zero_gradients = _zero_gradients  # type: ignore[attr-defined]
    sys.meta_path.append(finder)  # the last to be asked
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        if removed:
            del gradcheck.zero_gradients
        for name in finder.made:
            sys.modules.pop(name, None)


class _Finder(MetaPathFinder, Loader):
    def __init__(self) -> None:
        self.made: list[str] = []

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if name in NAMES else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        self.made.append(spec.name)
        return _StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: there is nothing in it."""


class _StandIn(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        where = f"{self.__name__}.{name}"

        def refuse(self: Any, *_: Any, **__: Any) -> None:
            raise PluginError("not installed", where=where, hint="BackdoorBox says in its README where it comes from")

        return type(name, (), {"__init__": refuse})


def _zero_gradients(tensors: torch.Tensor | Iterable[Any]) -> None:
    """Set the gradient of each tensor to zero, where it has one."""
    if not isinstance(tensors, torch.Tensor):
        for each in tensors:
            _zero_gradients(each)
    elif tensors.grad is not None:
        tensors.grad.detach_().zero_()

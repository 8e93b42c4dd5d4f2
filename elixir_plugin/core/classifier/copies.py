"""Independent copies of modules, also of those that ``copy.deepcopy`` refuses."""

from __future__ import annotations

import copy
import weakref
from collections import UserDict, deque
from collections.abc import Iterator
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ...errors import InputError

M = TypeVar("M", bound=nn.Module)
FUNCTIONS = (FunctionType, BuiltinFunctionType, weakref.ref, property, range)  # copies are the same object
ATOMS = (str, bytes, int, float, complex, bool, type(None), type, torch.dtype, torch.device, nn.Parameter, *FUNCTIONS)


def copied(module: M) -> M:
    """Return an independent copy of *module*, in normal mode wherever this is called.

    Computed tensors that it keeps (activations caught by a hook, the product of a weight norm) become plain ones.
    Locks, open files and whatever else cannot be copied are shared.

    :raises InputError: when it cannot be copied, or its own ``__deepcopy__`` hands out its own weights.
    """
    with torch.inference_mode(False), torch.no_grad():
        memo = _shortcuts(module)
        try:
            clone = copy.deepcopy(module, memo)
        except Exception as error:  # user code may run here
            raise InputError(
                "the model cannot be copied",
                where=type(module).__name__,
                found=" ".join(str(error).split())[:200] or type(error).__name__,
                hint="build the module anew and load its state_dict into it, then pass that one",
            ) from None
    if isinstance(clone, torch.jit.ScriptModule):  # whose copies forget it
        for weight, given in zip(clone.parameters(), module.parameters(), strict=True):
            weight.requires_grad_(given.requires_grad)
    if shared := _shared(module, clone):
        raise InputError(
            "a copy of the model shares weights with it",
            where=f"{type(module).__name__}.__deepcopy__",
            found=shared,
            allowed="a copy with weights of its own: the given model must stay as it is",
        )
    return clone


def _shortcuts(module: nn.Module) -> dict[int, Any]:
    """Return what a deep copy has to take in place of what it cannot copy, by ``id``."""
    found: dict[int, Any] = {}
    for each in _held(module):
        if isinstance(each, Tensor):
            if not each.is_leaf:
                found[id(each)] = each.detach().clone()
        elif not _can_be_copied(each):
            found[id(each)] = each
    return found


def _held(module: nn.Module) -> Iterator[Any]:
    """Yield everything that a deep copy of *module* would come by, except plain values, functions and weights."""
    seen: set[int] = set()
    left: list[Any] = [module]
    while left:
        each = left.pop()
        if id(each) in seen or isinstance(each, ATOMS):
            continue
        seen.add(id(each))
        if isinstance(each, dict | UserDict):
            left += [*each.keys(), *each.values()]
        elif isinstance(each, list | tuple | set | frozenset | deque):
            left += each
        else:
            if each is not module and not isinstance(each, nn.Module):
                yield each
            left += _parts(each)


def _parts(value: Any) -> list[Any]:
    if isinstance(value, Tensor | torch.jit.ScriptModule | ModuleType):
        return []
    if isinstance(value, MethodType):  # is copied with its object
        return [value.__self__]
    if isinstance(value, partial):
        return [value.func, *value.args, *value.keywords.values()]
    slots = [getattr(value, name, None) for cls in type(value).__mro__ for name in _slots(cls)]
    return [*getattr(value, "__dict__", {}).values(), *slots]


def _slots(cls: type) -> tuple[str, ...]:
    found = cls.__dict__.get("__slots__", ())
    return (found,) if isinstance(found, str) else tuple(found)


def _can_be_copied(value: Any) -> bool:
    """Tell whether *value* itself, whatever is in it, can be taken apart for a copy."""
    if hasattr(type(value), "__deepcopy__"):
        return True
    try:
        value.__reduce_ex__(4)
    except Exception:
        return False
    return True


def _shared(module: nn.Module, clone: nn.Module) -> str | None:
    """Return the name of a weight that both have in the same memory, or None."""
    own = {value.data_ptr() for value in _tensors(module).values()} - {0}
    return next((name for name, value in _tensors(clone).items() if value.data_ptr() in own), None)


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}

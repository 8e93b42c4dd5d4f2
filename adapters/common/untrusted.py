"""Numbers from files that must not be trusted: tensors, arrays and lists of any content become arrays, or an error."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...errors import InputError
from ...io.pickles import holds_all

DEPTH = 8  # axes of an array given as lists in lists
_SINGLE = (bool, int, float, np.number, np.bool_)


def numbers(value: Any, where: object) -> NDArray[Any]:
    """Return a tensor, an array or a list as an array; what is in it is for the caller to check.

    :raises InputError: for ragged lists, lists of anything but numbers, and tensors that are sparse, larger than their
        memory, or of a type that numpy does not have.
    """
    if isinstance(value, torch.Tensor) and not holds_all(value):
        raise _no_numbers(value, where, "not dense, or larger than its memory")
    if isinstance(value, list | tuple) and (other := _other_than_numbers(value)):
        raise _no_numbers(value, where, other)
    try:
        array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
    except (ValueError, TypeError, RuntimeError, NotImplementedError, OverflowError) as error:
        raise _no_numbers(value, where, " ".join(str(error).split())[:100]) from None
    if array.dtype.kind == "O" and array.ndim:  # an integer that no type of numpy holds
        raise _no_numbers(value, where, "not all of them are numbers of 64 bits")
    return array


def _other_than_numbers(rows: Any, depth: int = 1) -> str | None:
    """Return what makes a list no array; numpy would go through it, and allot memory, before it says so."""
    kinds = set(map(type, rows))
    if all(issubclass(kind, _SINGLE) for kind in kinds):
        return None
    if kinds <= {list, tuple}:
        if len({len(row) for row in rows}) > 1:
            return "rows of different lengths"
        if depth == DEPTH:
            return f"more than {DEPTH} axes"
        return next(filter(None, (_other_than_numbers(row, depth + 1) for row in rows)), None)
    if all(issubclass(kind, (*_SINGLE, np.ndarray, torch.Tensor)) for kind in kinds):
        large = any(math.prod(getattr(row, "shape", ())) != 1 for row in rows)  # one array may stand in every row
        return "it holds arrays" if large else None
    names = sorted(kind.__name__ for kind in kinds if not issubclass(kind, (*_SINGLE, list, tuple)))
    return f"it holds {', '.join(names[:3]) or 'rows beside numbers'}"


def _no_numbers(value: Any, where: object, why: str) -> InputError:
    kind = f"{value.dtype} tensor" if isinstance(value, torch.Tensor) else type(value).__name__
    return InputError("not plain numbers", where=where, found=f"{kind}: {why}", allowed="a dense array of numbers [n]")

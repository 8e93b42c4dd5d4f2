"""Numbers from files that must not be trusted: tensors, arrays and lists of any content become arrays, or an error."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...errors import InputError
from ...io.pickles import holds_all


def numbers(value: Any, where: object) -> NDArray[Any]:
    """Return a tensor, an array or a list as an array; what is in it is for the caller to check.

    :raises InputError: for ragged lists, and tensors that are sparse, larger than their memory, or of a type that
        numpy does not have.
    """
    if isinstance(value, torch.Tensor) and not holds_all(value):
        raise _no_numbers(value, where, "not dense, or larger than its memory")
    try:
        return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
    except (ValueError, TypeError, RuntimeError, NotImplementedError, OverflowError) as error:
        raise _no_numbers(value, where, " ".join(str(error).split())[:100]) from None


def _no_numbers(value: Any, where: object, why: str) -> InputError:
    kind = f"{value.dtype} tensor" if isinstance(value, torch.Tensor) else type(value).__name__
    return InputError("not plain numbers", where=where, found=f"{kind}: {why}", allowed="a dense array of numbers [n]")

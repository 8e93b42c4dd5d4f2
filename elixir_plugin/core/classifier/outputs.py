"""What modules return, read as one row of logits per image.

Modules return tensors, tuples ``(logits, features)``, dicts, dataclasses, or several outputs in train mode only
(auxiliary heads). One of them is meant: the one called ``logits`` or ``out``; else, of a sequence, the first of the
right shape, and of named outputs the only one. Training works on it alone: auxiliary heads get no gradient.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from ...errors import InputError

Form = Literal["logits", "probabilities", "sigmoids"]
MAIN = ("logits", "out", "output", "outputs", "pred", "preds", "prediction", "predictions")
HALF = (torch.float16, torch.bfloat16)


def main_rows(output: Any, batch: int, classes: int, where: str) -> Tensor:
    """Return the main output ``[B, classes]`` of a module, or ``[B, 1]`` where one logit tells two classes apart.

    :param output: what the module returned for *batch* images.
    :param classes: how many there are; 0: not known yet.
    :raises InputError: when no output is meant for certain, or it has another shape.
    """
    if isinstance(output, Tensor):
        rows = rows_of(output, batch, classes)
        if rows is None:
            raise _wrong_shape(output, classes, where)
        return rows
    return chosen(output, batch, classes, where)[1]


def chosen(output: Any, batch: int, classes: int, where: str) -> tuple[str, Tensor, list[str]]:
    """Return name and rows of the main one of several outputs, and the names of all that have its shape."""
    parts = parts_of(output)
    if parts is None:
        raise InputError(
            "the model returns no logits", where=where, found=type(output).__name__,
            allowed="a tensor [B, classes], or several with one called logits or out",
        )  # fmt: skip
    tensors = {name: value for name, value in parts.items() if isinstance(value, Tensor)}
    rows = {name: rows_of(value, batch, classes) for name, value in tensors.items()}
    fits = [name for name, value in rows.items() if value is not None]
    named = next((name for name in MAIN if name in tensors), None)
    if named is not None and rows[named] is None:
        raise _wrong_shape(tensors[named], classes, f"{where}: output {named!r}")
    ordered = isinstance(output, tuple | list)
    main = named or (fits[0] if len(fits) == 1 or (fits and ordered and classes) else None)
    if main is None:
        shapes = ", ".join(f"{name}: {tuple(value.shape)}" for name, value in tensors.items())
        raise InputError(
            "it is unclear which of the outputs are the logits" if fits else "none of the outputs are logits",
            where=where,
            found=shapes or ", ".join(f"{name}: {type(value).__name__}" for name, value in parts.items()) or "nothing",
            allowed=f"one tensor [B, {classes or 'classes'}], or one called logits or out",
            hint="wrap the module in one that returns the logits alone"
            + ("" if classes else ", or give {argument:num_classes}"),
        )
    found = rows[main]
    assert found is not None
    return main, found, fits


def rows_of(tensor: Tensor, batch: int, classes: int) -> Tensor | None:
    """Return *tensor* as rows ``[B, W]``, or None when it is no row of logits per image.

    Axes of length 1 do not count (``[B, K, 1, 1]`` of a convolutional head), nor does it matter that a module has
    squeezed a batch of one.
    """
    if not tensor.is_floating_point():
        return None
    if batch == 1 and (tensor.ndim == 0 or (tensor.ndim == 1 and len(tensor) == classes)):
        tensor = tensor[None]
    if tensor.ndim == 0 or len(tensor) != batch or sum(length != 1 for length in tensor.shape[1:]) > 1:
        return None
    rows = tensor if tensor.ndim == 2 else tensor.reshape(batch, -1)
    width = rows.shape[1]
    return rows if not classes or width == classes or (classes == 2 and width == 1) else None


def as_logits(rows: Tensor, form: Form, classes: int) -> Tensor:
    """Turn rows ``[B, W]`` into logits ``[B, classes]``, in float32 where they are of half precision.

    Of probabilities *p* the logarithm: its softmax is *p*. Of sigmoids, what entered them. One logit *z* becomes
    ``(0, z)``, whose softmax is the sigmoid of *z*.
    """
    if rows.dtype in HALF and not torch.is_autocast_enabled(rows.device.type):
        rows = rows.float()
    if form == "probabilities":
        rows = rows.clamp_min(torch.finfo(rows.dtype).tiny).log()
    elif form == "sigmoids":
        rows = torch.logit(rows, eps=torch.finfo(rows.dtype).eps)
    if rows.shape[1] == 1 and classes == 2:
        rows = torch.cat([torch.zeros_like(rows), rows], 1)
    return rows


def parts_of(output: Any) -> dict[str, Any] | None:
    """Return name -> value of several outputs, or None when *output* holds nothing by name or in order."""
    if isinstance(output, Mapping):
        return {str(name): value for name, value in output.items()}
    if isinstance(output, tuple) and hasattr(output, "_asdict"):
        return dict(output._asdict())
    if isinstance(output, tuple | list):
        return {str(place): value for place, value in enumerate(output)}
    if dataclasses.is_dataclass(output):
        return {each.name: getattr(output, each.name) for each in dataclasses.fields(output)}
    return dict(vars(output)) if hasattr(output, "__dict__") else None


def _wrong_shape(output: Tensor, classes: int, where: str) -> InputError:
    shape = tuple(output.shape)
    hint = None
    if output.ndim == 2 and classes:
        hint = f"the model tells {shape[1]} classes apart: give {{argument:num_classes={shape[1]}}}, or the model for "
        hint += f"these {classes}"
    elif output.ndim > 2:
        hint = "let the module average over positions"
    return InputError(
        "the model does not return one logit per class",
        where=where,
        found=shape if output.is_floating_point() else f"{output.dtype} {shape}",
        allowed=f"[B, {classes or 'classes'}]",
        hint=hint,
    )

"""What a module from elsewhere is like, found out on two images before any work: outputs, precision, input size."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from ...errors import ElixirError, InputError
from ..images import Images
from .classifier import Classifier, to_batch
from .copies import copied
from .modes import evaluating, gradients
from .outputs import HALF, Form, as_logits, chosen, main_rows
from .weights import refuse_not_finite

SUM = 1e-3  # how far rows of probabilities may be from 1; half precision: ten times as far
SIGMOIDS = ("SigmoidBackward", "HardsigmoidBackward")
PASSED_ON = (
    "View", "UnsafeView", "Reshape", "Squeeze", "Unsqueeze", "Select", "Slice", "Clone", "Alias", "ToCopy", "Transpose",
    "T", "Permute", "Expand",
)  # fmt: skip  # what autograd calls steps that change no number


def examined(model: Classifier, images: Images) -> Classifier:
    """Return *model* as it is to be used for *images*: a view on the same module, or a copy in float32.

    The view knows whether the module returns logits, probabilities or sigmoids, how many classes it tells apart if that
    was open (``num_classes=0``), and the input size that the module itself names if it takes no other. What was found
    is in its ``notes``. *model* stays as it is.

    :param images: a few of those it is for, ``[n, H, W, C]``; none: *model* is returned as it is.
    :raises InputError: when the module cannot take them, has no weights yet, or returns NaN or anything else than one
        row of logits per image.
    """
    if len(images) == 0:
        return model
    refuse_without_weights(model.module)
    refuse_not_finite(model.module)
    view, notes = _view(model), list(model.notes)
    batch = to_batch(np.array(images[:2]), model.device)
    _take_float32(view, batch, notes)
    with torch.no_grad(), evaluating(view):
        output = _run(view, batch, images.shape[1:], notes)
        rows = _main(view, output, len(batch), notes)
        view.num_classes = view.num_classes or max(2, rows.shape[1])
        if view.outputs == "logits":
            view.outputs = _form(view, rows.float(), batch)
        logits = as_logits(rows, view.outputs, view.num_classes)
    if view.outputs != "logits":
        kind = "a softmax" if view.outputs == "probabilities" else "sigmoids"
        _tell(notes, f"the model ends with {kind}: its outputs are turned back into logits inside")
    if rows.shape[1] == 1:
        _tell(notes, "the model returns one logit: it is read as that of class 1 against class 0")
    if logits.softmax(1).isnan().any():
        raise InputError(
            "the model returns NaN",
            where=type(view.module).__name__,
            found="finite weights",
            allowed="finite logits",
            hint="check mean and std, and what the model computes",
        )
    view.notes = tuple(notes)
    return view


def refuse_without_weights(module: nn.Module) -> None:
    """Refuse a module whose weights have no values.

    :raises InputError: for lazy layers that were never run, and for the meta device.
    """
    weights = [*module.named_parameters(), *module.named_buffers()]
    lazy = [name for name, value in weights if isinstance(value, UninitializedParameter)]
    lazy += [name for name, value in weights if type(value).__name__ == "UninitializedBuffer"]
    empty = [name for name, value in weights if not isinstance(value, UninitializedParameter) and value.is_meta]
    if lazy or empty:
        raise InputError(
            "the model has no weights yet",
            where=type(module).__name__,
            found=f"{lazy[0]} is uninitialised" if lazy else f"{empty[0]} is on the meta device",
            allowed="a trained model",
            hint="load its weights first" + ("" if empty else ", after running it once"),
        )


def declared_size(module: nn.Module) -> int | None:
    """Return the edge length of the images that *module* says it takes, as ViTs of torchvision, timm and HF do."""
    config = getattr(module, "default_cfg", None) or getattr(module, "pretrained_cfg", None)
    named: list[Any] = [
        getattr(module, "image_size", None),
        getattr(getattr(module, "config", None), "image_size", None),
        getattr(getattr(module, "patch_embed", None), "img_size", None),
        getattr(module, "img_size", None),
        config.get("input_size") if isinstance(config, dict) else None,
    ]
    for size in named:
        edges = {size} if isinstance(size, int) else set(size[-2:]) if isinstance(size, tuple | list) else set()
        if len(edges) == 1 and isinstance(edge := edges.pop(), int):
            return edge
    return None


def _view(model: Classifier) -> Classifier:
    """Return another classifier around the same module."""
    view = copy.copy(model)
    view._modules, view._buffers = dict(model._modules), dict(model._buffers)
    return view


def _main(view: Classifier, output: Any, batch: int, notes: list[str]) -> Tensor:
    where = type(view.module).__name__
    if isinstance(output, Tensor):
        return main_rows(output, batch, view.num_classes, where)
    name, rows, fits = chosen(output, batch, view.num_classes, where)
    others = ", ".join(each for each in fits if each != name)
    beside = f", not {others}, of the same shape" if others else ""
    _tell(notes, f"the model returns several outputs: {name!r} is taken for the logits{beside}")
    return rows


def _tell(notes: list[str], text: str) -> None:
    if text not in notes:
        notes.append(text)


@torch.no_grad()
def _take_float32(view: Classifier, batch: Tensor, notes: list[str]) -> None:
    """Work on a float32 copy of a module in half precision, unless it can take nothing else."""
    kinds = {each.dtype for each in view.module.parameters() if each.dtype in HALF}
    if not kinds:
        return
    kind = str(kinds.pop()).removeprefix("torch.")
    given, view.module = view.module, copied(view.module).float()
    try:
        with evaluating(view):
            view.raw(batch)
        _tell(notes, f"the weights of the model are {kind}: a float32 copy of them is used, and handed back")
    except Exception:  # the module converts its inputs itself
        view.module = given
        _tell(notes, f"the weights of the model are {kind}, and it takes no other: steps of training are rounded to it")


@torch.no_grad()
def _run(view: Classifier, batch: Tensor, shape: tuple[int, ...], notes: list[str]) -> Any:
    """Run the module; where it cannot take images of this size, at the size it names itself."""
    with evaluating(view):
        try:
            return view.raw(batch)
        except ElixirError:
            raise
        except Exception as error:  # whatever a module raises
            reason = " ".join(str(error).split())[:200] or type(error).__name__
        size = declared_size(view.module)
        if view.input_size is None and size is not None and (size, size) != tuple(batch.shape[-2:]):
            view.input_size = size
            try:
                output = view.raw(batch)
            except Exception:
                view.input_size = None
            else:
                _tell(notes, f"images are resized to {size} × {size} for the model, which takes no other size")
                return output
    raise InputError(
        "the model cannot take these images",
        where=type(view.module).__name__,
        found=reason,
        allowed=f"float [B, C, H, W], here C, H, W = {shape[2]}, {shape[0]}, {shape[1]}",
        hint=_channels_hint(view.module, shape[2])
        or "for images of another size than the model takes, give a Classifier with {argument:input_size}",
    )


def _channels_hint(module: nn.Module, channels: int) -> str | None:
    first = next((layer for layer in module.modules() if isinstance(layer, nn.Conv2d)), None)
    if first is None or first.in_channels == channels or first.in_channels not in (1, 3):
        return None
    kinds = {1: "gray", 3: "colour"}
    given = kinds.get(channels, f"{channels}-channel")
    return (
        f"the model is for {kinds[first.in_channels]} images, and these are {given}: read them with "
        f"{{option:channels={first.in_channels}}}, or give them with {first.in_channels} channels"
    )


def _form(view: Classifier, rows: Tensor, batch: Tensor) -> Form:
    """Tell logits from probabilities, whose rows sum to 1, and from sigmoids, which autograd shows."""
    if rows.isnan().any() or rows.min() < 0 or rows.max() > 1:
        return "logits"
    tolerance = SUM * (10 if any(each.dtype in HALF for each in view.module.parameters()) else 1)
    if rows.shape[1] > 1 and bool((rows.sum(1) - 1).abs().max() < tolerance):
        return "probabilities"
    return "sigmoids" if _ends_with_sigmoid(view, batch) else "logits"


def _ends_with_sigmoid(view: Classifier, batch: Tensor) -> bool:
    probe = copied(view)
    try:
        with gradients(), evaluating(probe):
            step = probe.rows(batch.clone().requires_grad_()).grad_fn
    except RuntimeError:  # a part without gradients
        return False
    while step is not None and step.name().rstrip("0123456789").removesuffix("Backward") in PASSED_ON:
        step = step.next_functions[0][0] if step.next_functions else None
    return step is not None and step.name().startswith(SIGMOIDS)

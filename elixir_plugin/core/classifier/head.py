"""Where the classification layer of a module is."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import InputError
from .modes import evaluating


def find_head(module: nn.Module, run: Callable[[], Tensor]) -> str:
    """Return the name of the last executed linear layer (else 1×1 convolution) that makes the main output.

    Execution order counts, not registration order. Of several layers as wide as the output, the one whose output it is
    comes first: others belong to further outputs. A model that ends with attention has no such layer: its head is
    several weights.

    :param run: runs *module* on a small batch, and returns its main output ``[B, W]``.
    :raises InputError: when no layer fits; the whole model is never meant instead.
    """
    ran: list[tuple[str, nn.Module, Tensor]] = []

    def watch(name: str, layer: nn.Module, _inputs: Any, output: Any) -> None:
        ran.append((name, layer, output[0] if isinstance(layer, nn.MultiheadAttention) else output))

    handles = [
        layer.register_forward_hook(partial(watch, name))
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.MultiheadAttention)
    ]
    try:
        with torch.inference_mode(), evaluating(module):
            main = run()
    finally:
        for handle in handles:
            handle.remove()
    width = main.shape[-1]
    wide = [each for each in ran if each[2].shape[1 if isinstance(each[1], nn.Conv2d) else -1] == width]
    fits = [each for each in wide if not isinstance(each[1], nn.Conv2d) or each[1].kernel_size == (1, 1)]
    if not fits or isinstance(fits[-1][1], nn.MultiheadAttention):
        scripted = isinstance(module, torch.jit.ScriptModule)
        raise InputError(
            "no classification layer found",
            where=type(module).__name__,
            found="attention comes last" if fits else "TorchScript, whose layers cannot be told" if scripted else None,
            allowed=f"a Linear or 1×1 Conv2d with {width} outputs",
            hint="pass the module that was scripted or traced"
            if scripted
            else f"name the layer yourself, e.g. {{setting:select=[{fits[-1][0] if fits else 'classifier.6'}]}}",
        )
    mains = [each for each in fits if _makes(each[2], main)]
    linears = [name for name, layer, _ in mains or fits if isinstance(layer, nn.Linear)]
    return linears[-1] if linears else (mains or fits)[-1][0]


def _makes(output: Tensor, main: Tensor) -> bool:
    """Tell whether *output* of a layer is the main output, as it is or as probabilities."""
    if output.numel() != main.numel() or main.is_meta:
        return False
    rows = output.reshape(main.shape)
    readings = (rows, rows.softmax(1), rows.log_softmax(1), rows.sigmoid())
    return any(torch.allclose(each, main, atol=1e-6) for each in readings)

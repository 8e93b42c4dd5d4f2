"""Which weights D3 moves."""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from ...core.classifier.classifier import Classifier, to_batch
from ...core.images import ImageSet
from ...errors import InputError

TINY = 1e-12  # a norm below this has no direction
WEIGHTS = ("weight", "in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")  # as layers name them


@dataclass
class Selected:
    """One weight tensor to move away from where it was received.

    :ivar received: its value in the received model; float32, or float64 like the weight.
    :ivar norm: the norm to hold, a scalar.
    :ivar rows: which rows move; None: all. Distance, norm and all values are those of these rows.
    :ivar previous: its value after the last projection.
    """

    name: str
    weight: nn.Parameter
    received: Tensor
    norm: Tensor
    rows: Tensor | None = None
    previous: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.previous = self.value.detach().clone()

    @property
    def value(self) -> Tensor:
        """What moves: the weight, or its rows."""
        return self.weight if self.rows is None else self.weight[self.rows]

    def set(self, values: Tensor) -> None:
        """Write what moves; without gradients."""
        if self.rows is None:
            self.weight.copy_(values)
        else:
            self.weight[self.rows] = values.to(self.weight.dtype)


def select_weights(model: Classifier, select: str | tuple[str, ...], clean: ImageSet) -> list[Selected]:
    """Return the weights that *select* means, each once.

    ``"head"`` is found by running two clean images. A name may be a layer, a container (all linear and convolution
    layers inside) or a pattern such as ``layer4.*``. Attention layers count as linear; their input projections
    are included.

    :raises InputError: when nothing matches, or a match cannot be moved (frozen, computed, or zero).
    """
    if select == "head":
        names = [model.head(to_batch(clean.read(slice(0, 2)), model.device))]
        layers = [(names[0], model.module.get_submodule(names[0]))]
    elif isinstance(select, str):
        kinds = (
            (nn.Linear, nn.MultiheadAttention) if select == "linears" else (nn.Linear, nn.Conv2d, nn.MultiheadAttention)
        )
        layers = [(name, layer) for name, layer in model.module.named_modules() if isinstance(layer, kinds)]
    else:
        layers = _named_layers(model.module, select)
    found: dict[int, Selected] = {}
    for name, layer in layers:
        for weight_name in WEIGHTS:
            weight = getattr(layer, weight_name, None)
            if weight is not None and id(weight) not in found:
                found[id(weight)] = _selected(f"{name}.{weight_name}".lstrip("."), layer, weight)
    if not found:
        raise InputError("no weights selected", where="select", found=select, allowed="a model with such layers")
    return list(found.values())


def _named_layers(module: nn.Module, patterns: tuple[str, ...]) -> list[tuple[str, nn.Module]]:
    movable = nn.Linear | nn.Conv2d | nn.MultiheadAttention
    layers = [(name, layer) for name, layer in module.named_modules() if isinstance(layer, movable)]
    chosen: list[tuple[str, nn.Module]] = []
    for pattern in patterns:
        hits = [
            (name, layer)
            for name, layer in layers
            if name == pattern or name.startswith(f"{pattern}.") or fnmatchcase(name, pattern)
        ]
        if not hits:
            raise InputError(
                "no such layer", where="select", found=pattern, allowed=", ".join(name for name, _ in layers)
            )
        chosen += hits
    return chosen


def _selected(name: str, layer: nn.Module, weight: Tensor) -> Selected:
    if not isinstance(weight, nn.Parameter) or hasattr(layer, "parametrizations"):
        raise InputError("weight is computed, not stored", where=name, hint="remove the parametrisation first")
    if not weight.is_floating_point():
        raise InputError(
            "weight is quantised",
            where=name,
            found=weight.dtype,
            allowed="floating point",
            hint="repair the model as it was before that, or select other layers",
        )
    if not weight.requires_grad:
        raise InputError("weight is frozen", where=name, hint="set requires_grad, or select other layers")
    return Selected(name, weight, at_least_float32(weight.detach().clone()), torch.tensor(0.0))


def at_least_float32(values: Tensor) -> Tensor:
    """Return *values* in float32, or in float64 if they are: norms in lower precision drift."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


@torch.no_grad()
def distance_ratios(selected: list[Selected], p: float) -> dict[str, float]:
    """Return ‖W_i − W_i⁰‖_p / ‖W_i⁰‖_p per layer; in [0, 2] on the sphere."""
    return {each.name: float((at_least_float32(each.value) - each.received).norm(p=p) / each.norm) for each in selected}


@torch.no_grad()
def mean_distance(selected: list[Selected], p: float) -> float:
    """Return Σ_i ‖W_i − W_i⁰‖_p / Σ_i ‖W_i⁰‖_p."""
    distances = [(at_least_float32(each.value) - each.received).norm(p=p) for each in selected]
    return float(torch.stack(distances).sum() / torch.stack([each.norm for each in selected]).sum())

"""D3, distance-driven detoxification (Wei, Liu, Zha, ICCV 2025, arXiv 2411.09585).

A backdoored model sits near a minimum of the backdoor loss, so that loss grows with the distance from it. D3 moves
selected weights as far from their received values as a small reserved clean set allows:

    minimise over θ, ‖W_i‖_p fixed:   λ · max(0, L_clean(θ) − ε) − Σ_i ‖W_i − W_i⁰‖_p

solved by projected gradient descent. Where paper and released code differ, this follows the code, except for λ
(paper 10, code 0.5); preset ``code`` has the released configuration.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.case import Case
from ...core.classifier.classifier import Classifier, to_batch
from ...core.context import Context
from ...core.images import ImageSet
from ...core.outcome import Outcome
from ...core.panels import Panel
from ...defense import Card, Defense
from ...errors import InputError
from ...training.batches import Batch, Samples, ShuffledBatches
from ...training.loop import Losses, Recipe, train
from .panels import panels_of
from .settings import D3Settings, WarmUp

TINY = 1e-12  # a norm below this has no direction
WEIGHTS = ("weight", "in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")  # as layers name them


@dataclass
class Selected:
    """One weight tensor to move away from where it was received.

    :ivar received: its value in the received model; float32, or float64 like the weight.
    :ivar norm: the norm to hold, a scalar.
    :ivar previous: its value after the last projection.
    """

    name: str
    weight: nn.Parameter
    received: Tensor
    norm: Tensor
    previous: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.previous = self.weight.detach().clone()


class D3(Defense):
    """Detoxify a backdoored model with a small reserved clean set."""

    name = "d3"
    kind = "repair"
    needs = frozenset({"model", "clean"})
    Settings = D3Settings
    settings: D3Settings
    card = Card(
        title="Distance-Driven Detoxification",
        paper="Wei, Liu, Zha: Backdoor Mitigation by Distance-Driven Detoxification, ICCV 2025, arXiv 2411.09585",
        year=2025,
        claims="removes dirty-label and clean-label backdoors from a trained classifier with 1–5 % clean data",
        cost="one fine-tuning run on the reserved clean set: 100 epochs, no suspect image needed",
        limits="does not detect; costs some accuracy, more on small clean sets; a clean set holding 1 % triggered "
        "samples defeats it",
    )

    def defend(self, case: Case, context: Context) -> Outcome:
        assert case.model is not None and case.clean is not None
        model = case.model.clone().to(context.device)
        _unfreeze(model)
        selected = select_weights(model, self.settings.select, case.clean)
        bias = _bias_of(model, selected)
        warm_up(selected, self.settings, context)
        start = distance_ratios(selected, self.settings.p)
        with context.stage("detoxify"):
            curves = self._descend(model, selected, case.clean, context)
        curves = {key: value for key, value in curves.items() if key != "loss"} | {"objective": curves["loss"]}
        above_eps = fraction_above(model, case.clean, self.settings.eps)
        if above_eps > 0.5:
            context.note(f"{above_eps:.0%} of the reserved clean set still has a loss above ε = {self.settings.eps}")
        tables = {
            "start_distance_ratio": start,
            "distance_ratio": distance_ratios(selected, self.settings.p),
            "fraction_above_eps": above_eps,
            "bias_change": None if bias is None else float((bias[0] - bias[1]).norm()),
        }
        return Outcome(model=model.eval(), curves=curves, tables=tables)

    def panels(self, outcome: Outcome) -> list[Panel]:
        return panels_of(outcome, self.settings.eps)

    def _descend(
        self, model: Classifier, selected: list[Selected], clean: ImageSet, context: Context
    ) -> dict[str, list[float]]:
        settings = self.settings
        recipe = Recipe(
            epochs=settings.epochs,
            batch_size=settings.batch_size or min(256, max(32, len(clean) // 8)),
            lr=settings.lr,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            schedule="cosine",
            augmentation=settings.augmentation,
            precision=settings.precision,
            channels_last=settings.channels_last,
        )
        samples = Samples(clean, context.device)
        source = ShuffledBatches(samples, recipe.batch_size, context, recipe.augmentation, "d3")
        curves = train(
            model,
            source,
            recipe,
            context,
            objective=d3_objective(settings, selected),
            after_step=(lambda: project(selected, settings.p)) if settings.project else None,
            no_decay=[each.weight for each in selected],
            eval_mode=settings.bn_eval,
            name="d3",
        )
        if settings.warm_up == "near" and curves["penalty"][0] == 0:
            context.note(
                "start at the received weights with every clean loss below ε: there is no gradient to leave by"
            )
        return curves


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
    return Selected(name, weight, _at_least_float32(weight.detach().clone()), torch.tensor(0.0))


@torch.no_grad()
def warm_up(selected: list[Selected], settings: D3Settings, context: Context) -> None:
    """Measure the norms to hold, and move the selected weights to where the descent starts.

    All starts but ``middle`` are projected at once, so that the norms hold from step 0 on. ``middle`` starts at
    zero, which has no direction, and is projected after the first step.
    """
    for each in selected:
        each.norm = each.received.norm(p=settings.p)
        if not each.norm > TINY:
            raise InputError("weight to move is zero", where=each.name, found=float(each.norm), allowed="a norm > 0")
        each.weight.copy_(_start(each, settings.warm_up, context.generator("d3", "warm_up", each.name)))
        each.previous = each.weight.detach().clone()
    project(selected, settings.p)


def _start(each: Selected, kind: WarmUp, generator: torch.Generator) -> Tensor:
    shape, device = each.received.shape, each.received.device
    if kind == "near":
        return each.received
    if kind == "far":
        return -each.received
    if kind == "middle":
        return torch.zeros_like(each.received)
    if kind == "noise":
        return each.received + each.received.std() * torch.randn(shape, generator=generator).to(device)
    return (torch.rand(shape, generator=generator) - 0.5).to(device)


@torch.no_grad()
def project(selected: list[Selected], p: float) -> None:
    """Rescale each weight to the norm it was received with (Euclidean projection for p = 2).

    A weight that a step took to zero has no direction and returns to its value before that step.
    """
    for each in selected:
        norm = _at_least_float32(each.weight).norm(p=p)
        scaled = each.weight * (each.norm / norm.clamp_min(TINY))
        # no branch, so that the host never waits for the device; a NaN norm passes, and stops the training
        each.previous = torch.where((norm < TINY).logical_not(), scaled, each.previous)
        each.weight.copy_(each.previous)


def d3_objective(settings: D3Settings, selected: list[Selected]) -> Callable[[nn.Module, Batch], Losses]:
    """Return J = λ·h − Σ_i ‖W_i − W_i⁰‖_p, divided by λ + 1 when λ > 1; h is the hinged clean loss."""
    scale = 1 / (settings.lam + 1) if settings.scale_objective and settings.lam > 1 else 1.0

    def objective(model: nn.Module, batch: Batch) -> Losses:
        losses = F.cross_entropy(_at_least_float32(model(batch.images)), batch.targets, reduction="none")
        if settings.hinge == "sample":
            penalty = F.relu(losses - settings.eps).mean()
        else:
            penalty = F.relu(losses.mean() - settings.eps)
        distances = [(_at_least_float32(each.weight) - each.received).norm(p=settings.p) for each in selected]
        value = settings.lam * penalty
        if settings.distance:
            value = value - torch.stack(distances).sum()
        ratios = {
            f"distance/{each.name}": distance.detach() / each.norm
            for each, distance in zip(selected, distances, strict=True)
        }
        return {"loss": value * scale, "clean_loss": losses.mean(), "penalty": penalty, **ratios}

    return objective


@torch.no_grad()
def distance_ratios(selected: list[Selected], p: float) -> dict[str, float]:
    """Return ‖W_i − W_i⁰‖_p / ‖W_i⁰‖_p per layer; in [0, 2] on the sphere."""
    return {
        each.name: float((_at_least_float32(each.weight) - each.received).norm(p=p) / each.norm) for each in selected
    }


def fraction_above(model: Classifier, clean: ImageSet, eps: float) -> float:
    """Return the share of clean samples whose loss in eval mode is above ε."""
    logits = torch.from_numpy(model.predict(clean))
    return float((F.cross_entropy(logits, torch.tensor(clean.labels), reduction="none") > eps).float().mean())


def _at_least_float32(values: Tensor) -> Tensor:
    """Return *values* in float32, or in float64 if they are: norms in lower precision drift."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _unfreeze(model: nn.Module) -> None:
    """Make all weights trainable if none is: some toolkits freeze finished models."""
    if not any(parameter.requires_grad for parameter in model.parameters()):
        for parameter in model.parameters():
            parameter.requires_grad_(parameter.is_floating_point() or parameter.is_complex())


def _bias_of(model: Classifier, selected: list[Selected]) -> tuple[Tensor, Tensor] | None:
    """Return (live, received) bias of the last selected layer: it may drift, so its change is reported."""
    name = selected[-1].name.removesuffix(".weight")
    bias = getattr(model.module.get_submodule(name), "bias", None) if name != selected[-1].name else None
    return None if not isinstance(bias, nn.Parameter) else (bias.detach(), bias.detach().clone())

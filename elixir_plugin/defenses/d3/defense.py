"""D3, distance-driven detoxification (Wei, Liu, Zha, ICCV 2025, arXiv 2411.09585).

A backdoored model sits near a minimum of the backdoor loss, so that loss grows with the distance from it. D3 moves
selected weights as far from their received values as a small reserved clean set allows:

    minimise over θ, ‖W_i‖_p fixed:   λ · max(0, L_clean(θ) − ε) − Σ_i ‖W_i − W_i⁰‖_p

solved by projected gradient descent. λ is the multiplier of a constraint, "as far as the clean loss allows", and is
found as that: see :mod:`.multiplier`. Presets ``paper`` and ``code`` fix it at 10 and 0.5. Where paper and released
code differ in other things, this follows the code; preset ``code`` has the released configuration.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.case import Case
from ...core.classifier.classifier import Classifier
from ...core.classifier.modes import unfreeze
from ...core.context import Context
from ...core.draws import Uncovered
from ...core.images import ImageSet
from ...core.outcome import Outcome
from ...core.panels import Panel
from ...defense import Card, Defense
from ...errors import InputError
from .descent import Descent, project
from .multiplier import watch
from .panels import panels_of
from .protect import Protection, lacking, protect, refuse_unprotected
from .settings import D3Settings, WarmUp
from .weights import TINY, Selected, distance_ratios, select_weights


class D3(Defense):
    """Detoxify a backdoored model with a small reserved clean set."""

    name = "d3"
    kind = "repair"
    needs = frozenset({"model", "clean"})
    trains_on_clean = True
    Settings = D3Settings
    settings: D3Settings
    card = Card(
        title="Distance-Driven Detoxification",
        paper="Wei, Liu, Zha: Backdoor Mitigation by Distance-Driven Detoxification, ICCV 2025, arXiv 2411.09585",
        year=2025,
        claims="removes dirty-label and clean-label backdoors from a trained classifier with 1–5 % clean data",
        cost="one fine-tuning run on the reserved clean set: 250 to 1,000 steps, up to 2.4 times as many for a model "
        "that is still learning; no suspect image needed",
        limits="does not detect; costs some accuracy, more on small clean sets; a clean set holding 1 % triggered "
        "samples defeats it",
    )

    def check(self, case: Case) -> None:
        refuse_unprotected(case, self.settings)

    def about_uncovered(self, case: Case, classes: Uncovered) -> str | None:
        if self.settings.missing_classes == "protect":
            return (
                "D3 keeps most of what the suspect model knows of such classes (their weights in the head, and images "
                "dreamt from it), and with it a backdoor that has one of them as target: that one stays"
            )
        return "The repaired model forgets such classes"

    def defend(self, case: Case, context: Context) -> Outcome:
        assert case.model is not None and case.clean is not None
        model = case.model.clone().to(context.device)
        unfreeze(model)
        few = lacking(case).labels if self.settings.missing_classes == "protect" else ()
        protection = protect(model, case.clean, few, context) if few else None
        selected = select_weights(model, self.settings.select, case.clean)
        if protection is not None:
            selected = [_narrowed(each, protection) for each in selected]
        bias = _bias_of(model, selected)
        multiplier = None
        if self.settings.lam == "auto":
            multiplier = watch(model, case.clean, self.settings.eps, self.settings.margin, context)
        warm_up(selected, self.settings, context)
        start = distance_ratios(selected, self.settings.p)
        with context.stage("detoxify"):
            descent = Descent(model, selected, case.clean, self.settings, context, protection, multiplier)
            curves = descent.run()
        raised = [] if protection is None else protection.raise_biases(model, case.clean)
        curves = {key: value for key, value in curves.items() if key != "loss"} | {"objective": curves["loss"]}
        above_eps = fraction_above(model, case.clean, self.settings.eps)
        if multiplier is not None and (note := multiplier.note()) is not None:
            context.note(note)
        if above_eps > 0.5:
            context.note(f"{above_eps:.0%} of the reserved clean set still has a loss above ε = {self.settings.eps}")
        tables = {
            "start_distance_ratio": start,
            "distance_ratio": distance_ratios(selected, self.settings.p),
            "fraction_above_eps": above_eps,
            "bias_change": None if bias is None else float((bias[0] - bias[1]).norm()),
        }
        if multiplier is not None:
            tables["multiplier"] = multiplier.table()
        if protection is not None:
            rows = protection.table(case.model.clone().to(context.device), model)
            tables["protected"] = [{**row, "bias_raised": value} for row, value in zip(rows, raised, strict=True)]
        return Outcome(model=model.eval(), curves=curves, tables=tables)

    def panels(self, outcome: Outcome) -> list[Panel]:
        return panels_of(outcome, self.settings.eps)


def _narrowed(selected: Selected, protection: Protection) -> Selected:
    """Leave the rows of protected classes out of what moves."""
    rows = protection.other_rows(selected.weight)
    if rows is None:
        return selected
    return Selected(selected.name, selected.weight, selected.received[rows], selected.norm, rows)


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
        each.set(_start(each, settings.warm_up, context.generator("d3", "warm_up", each.name)))
        each.previous = each.value.detach().clone()
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


def fraction_above(model: Classifier, clean: ImageSet, eps: float) -> float:
    """Return the share of clean samples whose loss in eval mode is above ε."""
    logits = torch.from_numpy(model.predict(clean))
    return float((F.cross_entropy(logits, torch.tensor(clean.labels), reduction="none") > eps).float().mean())


def _bias_of(model: Classifier, selected: list[Selected]) -> tuple[Tensor, Tensor] | None:
    """Return (live, received) bias of the last selected layer: it may drift, so its change is reported."""
    name = selected[-1].name.removesuffix(".weight")
    bias = getattr(model.module.get_submodule(name), "bias", None) if name != selected[-1].name else None
    return None if not isinstance(bias, nn.Parameter) else (bias.detach(), bias.detach().clone())

"""D3, distance-driven detoxification (Wei, Liu, Zha, ICCV 2025, arXiv 2411.09585).

A backdoored model sits near a minimum of the backdoor loss, so that loss grows with the distance from it. D3 moves
selected weights as far from their received values as a small reserved clean set allows:

    minimise over θ, ‖W_i‖_p fixed:   λ · max(0, L_clean(θ) − ε) − Σ_i ‖W_i − W_i⁰‖_p

solved by projected gradient descent. λ is the multiplier of a constraint, "as far as the clean loss allows", and is
found as that: see :mod:`.multiplier`. Presets ``paper`` and ``code`` fix it at 10 and 0.5. Where paper and released
code differ in other things, this follows the code; preset ``code`` has the released configuration.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

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
from ...training.batches import Batch, BatchSource, Samples, ShuffledBatches, few_images_batch
from ...training.loop import Losses, Recipe, train
from .multiplier import Multiplier, PartThenAll, watch
from .panels import panels_of
from .protect import Protection, lacking, protect, refuse_unprotected
from .settings import D3Settings, WarmUp
from .weights import TINY, Selected, at_least_float32, distance_ratios, mean_distance, select_weights

FASTER = 5.0  # by what the learning rate is higher in a second round
REACHED = (
    "on embedded digits, 30 steps cost 39 points of accuracy or more and left up to 62 % ASR, 100 steps cost 6 points "
    "or more and left up to 70 %; without steps or epochs, D3 makes at least 250, and more where the model is still "
    "learning"
)
SHORT = 150  # steps, below which a descent of a given length comes with a warning
FEWEST, MOST = 250, 1000  # steps of one round; the released settings make 1,000 on 2,500 samples, 5 % of CIFAR-10


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
            curves = self._descend(model, selected, case.clean, context, protection=protection, multiplier=multiplier)
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

    def _descend(
        self,
        model: Classifier,
        selected: list[Selected],
        clean: ImageSet,
        context: Context,
        *,
        protection: Protection | None,
        multiplier: Multiplier | None,
    ) -> dict[str, list[float]]:
        settings = self.settings
        together = clean if protection is None else protection.clean
        batch_size = settings.batch_size or few_images_batch(len(together))
        augmentation = settings.augmentation
        if multiplier is not None:
            most = int(settings.crop_limit * min(clean.image_shape[:2]))
            augmentation = augmentation.model_copy(update={"crop": min(most, augmentation.crop)})
        hooks = [] if protection is None else [protection.restore]
        hooks += [lambda: project(selected, settings.p)] if settings.project else []
        if multiplier is not None:
            hooks += [lambda: multiplier.after_step(model, lambda: mean_distance(selected, settings.p))]

        def batches(images: ImageSet, name: str) -> ShuffledBatches:
            return ShuffledBatches(Samples(images, context.device), batch_size, context, augmentation, name)

        def descend(name: str, source: BatchSource, epochs: int, **changes: Any) -> dict[str, list[float]]:
            until = changes.pop("until", None)
            recipe = Recipe(
                epochs=epochs,
                batch_size=batch_size,
                lr=settings.lr,
                momentum=settings.momentum,
                weight_decay=settings.weight_decay,
                schedule="cosine",
                augmentation=augmentation,
                precision=settings.precision,
                channels_last=settings.channels_last,
            )
            return train(
                model,
                source,
                recipe.model_copy(update=changes),
                context,
                objective=d3_objective(settings, selected, None if multiplier is None else multiplier.value),
                after_step=_one_after_another(hooks) if hooks else None,
                until=until,
                no_decay=[each.weight for each in selected],
                eval_mode=settings.bn_eval,
                name=name,
            )

        whole = batches(together, "d3")
        steps = settings.steps or default_steps(len(together))
        if multiplier is None:
            curves = descend("d3", whole, settings.epochs or math.ceil(steps / whole.steps))
        else:
            part = batches(multiplier.rest(together), "d3")
            both = PartThenAll(part, whole, steps=steps, epochs=settings.epochs)
            multiplier.until = both.first_steps
            fixed = settings.steps is not None or settings.epochs is not None
            if fixed and both.all_steps < SHORT:
                context.note(f"{both.all_steps} steps are a short descent: {REACHED}")
            ends = fixed or steps >= MOST  # a round as long as the released settings is enough
            until = None if ends else both.after_part(lambda: multiplier.learning)
            curves = descend("d3", both, both.epochs, until=until)
            if len(curves["loss"]) < both.epochs:
                multiplier.begin_another()
                lr = FASTER * settings.lr
                again, last = (batches(each, "d3 again") for each in (multiplier.rest(together), together))
                for more in (
                    descend("d3 again", again, both.switch, lr=lr, schedule="constant"),
                    descend("d3 last", last, math.ceil(both.first_steps / last.steps), lr=lr),
                ):
                    curves = {name: values + more[name] for name, values in curves.items()}
        if settings.warm_up == "near" and curves["penalty"][0] == 0:
            context.note(
                "start at the received weights with every clean loss below ε: there is no gradient to leave by"
            )
        return curves


def default_steps(samples: int) -> int:
    """Return how many steps to make on so many reserved samples: in proportion to their number, within limits.

    Small sets are learned by heart: the more steps, the more accuracy is lost, and the more of a backdoor comes back.

    >>> [default_steps(samples) for samples in (250, 1200, 2500, 50_000)]
    [250, 480, 1000, 1000]
    """
    return min(MOST, max(FEWEST, round(MOST * samples / 2500)))


def _one_after_another(hooks: list[Callable[[], None]]) -> Callable[[], None]:
    def run() -> None:
        for hook in hooks:
            hook()

    return run


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


@torch.no_grad()
def project(selected: list[Selected], p: float) -> None:
    """Rescale each weight to the norm it was received with (Euclidean projection for p = 2).

    A weight that a step took to zero has no direction and returns to its value before that step.
    """
    for each in selected:
        value = each.value
        norm = at_least_float32(value).norm(p=p)
        scaled = value * (each.norm / norm.clamp_min(TINY))
        # no branch, so that the host never waits for the device; a NaN norm passes, and stops the training
        each.previous = torch.where((norm < TINY).logical_not(), scaled, each.previous)
        each.set(each.previous)


def d3_objective(
    settings: D3Settings, selected: list[Selected], multiplier: Tensor | None = None
) -> Callable[[nn.Module, Batch], Losses]:
    """Return J = λ·h − Σ_i ‖W_i − W_i⁰‖_p, divided by λ + 1 when λ > 1; h is the hinged clean loss.

    :param multiplier: λ where the settings leave it open; read at every step, and J is divided by 3 λ, so that the
        body learns as fast under every λ.
    """
    lam = settings.lam if multiplier is None else multiplier
    assert not isinstance(lam, str)

    def scale() -> Tensor | float:
        if multiplier is not None:
            return 1 / (3 * multiplier) if settings.scale_objective else 1.0
        return 1 / (lam + 1) if settings.scale_objective and lam > 1 else 1.0

    def objective(model: nn.Module, batch: Batch) -> Losses:
        losses = F.cross_entropy(at_least_float32(model(batch.images)), batch.targets, reduction="none")
        if settings.hinge == "sample":
            penalty = F.relu(losses - settings.eps).mean()
        else:
            penalty = F.relu(losses.mean() - settings.eps)
        distances = [(at_least_float32(each.value) - each.received).norm(p=settings.p) for each in selected]
        value = lam * penalty
        if settings.distance:
            value = value - torch.stack(distances).sum()
        ratios = {
            f"distance/{each.name}": distance.detach() / each.norm
            for each, distance in zip(selected, distances, strict=True)
        }
        return {"loss": value * scale(), "clean_loss": losses.mean(), "penalty": penalty, **ratios}

    return objective


def fraction_above(model: Classifier, clean: ImageSet, eps: float) -> float:
    """Return the share of clean samples whose loss in eval mode is above ε."""
    logits = torch.from_numpy(model.predict(clean))
    return float((F.cross_entropy(logits, torch.tensor(clean.labels), reduction="none") > eps).float().mean())


def _bias_of(model: Classifier, selected: list[Selected]) -> tuple[Tensor, Tensor] | None:
    """Return (live, received) bias of the last selected layer: it may drift, so its change is reported."""
    name = selected[-1].name.removesuffix(".weight")
    bias = getattr(model.module.get_submodule(name), "bias", None) if name != selected[-1].name else None
    return None if not isinstance(bias, nn.Parameter) else (bias.detach(), bias.detach().clone())

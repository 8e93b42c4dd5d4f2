"""Train on what a defense leaves, and on what it might as well have left: controls that keep a claim honest.

Every model here starts from the same weights and sees the same recipe; they differ in images and labels alone. A
purification defense that is no better than noise without a denoiser, or than the reserved clean set on its own, does
not earn its cost, and the report says so. A purification defense that trains its own model, by a recipe of its own, is
judged by a model trained like the controls on what it leaves (:data:`RETRAINED`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from ..core.augmentation import Augmentation, augmented_once
from ..core.case import Case, describe
from ..core.classifier.classifier import Classifier
from ..core.context import Context
from ..core.draws import Uncovered, uncovered
from ..core.images import ImageSet, Index
from ..core.metrics import Evaluation, ModelMetrics
from ..core.mirroring import settled
from ..core.outcome import Outcome
from ..core.settings import fingerprint
from ..errors import InputError
from ..io.checked import Facts, Seconds
from ..io.files import to_json_types, write_json
from ..training.fit import learn, untrained
from ..training.loop import FAST, Recipe
from .kept import known
from .metrics import der, detection_metrics, model_metrics

CONTROLS = {
    "undefended": "the suspect set as it is",
    "no_denoiser": "the suspect set, with the augmentation of the defense but not purified",
    "noise_only": "the same, with as much noise as purification adds before it denoises",
    "clean_only": "the reserved clean set alone, with its labels",
}
RETRAINED = "retrained"  # no control: what the defense leaves, trained as the controls are
STAGE = "retrain on kept"
UNDEFENDED = "control undefended"  # the stage of the control of that name


class Retraining(Recipe):
    """How to train a classifier on a sanitised set."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"fast": {**FAST, "architecture": "fast_convnet"}}

    architecture: str | None = Field(None, description="default: that of the case's model, else small_resnet")
    epochs: int = Field(30, ge=1)
    lr: float = Field(0.05, gt=0)
    augmentation: Augmentation = Augmentation(crop=4, flip="auto")


def retrain(
    case: Case,
    outcome: Outcome,
    plan: Retraining,
    context: Context,
    *,
    start: Classifier | None = None,
    stage: str = STAGE,
) -> Classifier:
    """Return a model trained on what *outcome* keeps.

    These are the samples at ``outcome.kept_rows``; images and labels are those of ``outcome.train``, else of the
    suspect set. ``outcome.augmentation`` comes on top of the plan's own.

    :param start: the classifier to train, in place, for networks that have no name; default: a fresh one by name.
    :param stage: of the context.
    :raises InputError: when the case holds no suspect set, or nothing is kept.
    """
    images = (outcome.train or _suspects(case)).subset(kept_rows(case, outcome))
    plan = settled(plan, case, context)
    return _trained(images, case, _with(plan, outcome.augmentation), context, stage, start=start)


def retrain_and_measure(
    case: Case,
    outcome: Outcome,
    context: Context,
    plan: Retraining | None = None,
    *,
    before: ModelMetrics | None = None,
) -> Evaluation:
    """Measure a model trained on what *outcome* keeps beside one trained the same way on the whole suspect set.

    :param before: metrics of the undefended model when they are known; saves one training.
    :raises InputError: when the case holds no suspect set, or nothing is kept.
    """
    plan = plan or Retraining()
    kept_rows(case, outcome)  # refused before the first training
    if before is None:
        before = run_control("undefended", case, outcome, plan, context)
    after = model_metrics(retrain(case, outcome, plan, context), case.test, case.test_poisoned)
    found = None if case.truth is None else detection_metrics(outcome.scores, outcome.flagged, case.truth)
    return Evaluation(before=before, after=after, der=der(before, after), detection=found)


def run_controls(
    case: Case,
    outcome: Outcome,
    plan: Retraining,
    context: Context,
    *,
    own_model: bool = False,
    undefended: ModelMetrics | None = None,
) -> dict[str, ModelMetrics]:
    """Train and measure every control of :data:`CONTROLS` that this case and outcome allow.

    :param own_model: the outcome's model is the defense's own, not trained under *plan*; of a purifier there is then
        one more, :data:`RETRAINED`.
    :param undefended: that control, where it is known already.
    """
    if case.train is None:
        return {}
    possible = {"undefended": True}
    possible["no_denoiser"] = outcome.train is not None
    possible["noise_only"] = bool(outcome.noise_level)
    possible["clean_only"] = case.clean is not None and len(case.clean) > 1
    found: dict[str, ModelMetrics] = {}
    for name in CONTROLS:
        if not possible[name]:
            continue
        if name == "no_denoiser" and outcome.augmentation is None and outcome.static_augmentation is None:
            found[name] = found["undefended"]  # the same images under the same recipe
        elif name == "undefended" and undefended is not None:
            found[name] = undefended
        else:
            found[name] = run_control(name, case, outcome, plan, context)
    if own_model and outcome.noise_level:
        with suppress(InputError):  # nothing is kept
            model = retrain(case, outcome, plan, context, stage=f"control {RETRAINED}")
            found[RETRAINED] = model_metrics(model, case.test, case.test_poisoned)
    return found


def run_control(name: str, case: Case, outcome: Outcome, plan: Retraining, context: Context) -> ModelMetrics:
    """Train and measure one control of :data:`CONTROLS`."""
    images, plan = _suspects(case), settled(plan, case, context)
    added, static = outcome.augmentation, outcome.static_augmentation
    if name == "noise_only":
        level = outcome.noise_level or 0.0
        added, static = (added, _noisier(static, level)) if static else (_noisier(added, level), None)
    elif name != "no_denoiser":
        added = static = None
    if name == "clean_only":
        model = clean_only(case, plan, context, stage=f"control {name}")
        return model_metrics(model, case.test, case.test_poisoned)
    if static is not None:
        images = augmented_once(images, static, context.generator("control", name))
    return model_metrics(
        _trained(images, case, _with(plan, added), context, f"control {name}"), case.test, case.test_poisoned
    )


def clean_only(
    case: Case, plan: Retraining, context: Context, *, stage: str, start: Classifier | None = None
) -> Classifier:
    """Return a model trained under *plan* on the reserved clean set alone, for as many steps as on the suspect set.

    No image is seen more than ten times as often.

    :param stage: of the context.
    :param start: as in :func:`retrain`.
    """
    assert case.clean is not None
    plan = _as_many_steps(settled(plan, case, context), len(_suspects(case)), len(case.clean))
    return _trained(case.clean, case, plan, context, stage, start=start)


def blind_control(case: Case, controls: Mapping[str, ModelMetrics]) -> list[str]:
    """Say which classes the control ``clean_only``, where it is among *controls*, could hardly learn."""
    few = Uncovered() if case.clean is None else uncovered(case.clean, case.train)
    if "clean_only" not in controls or not few.labels:
        return []
    return [
        f"control clean_only: the reserved clean set holds {few.words(case.classes)}. The control cannot know them: to "
        "beat it says less"
    ]


def judge_denoiser(
    after: ModelMetrics | None, controls: Mapping[str, ModelMetrics], test_size: int, triggered_size: int | None = None
) -> list[str]:
    """Say in words which controls the defense does not beat: by a higher ACC, or a lower ASR at no loss of ACC.

    A gain or a loss counts from two standard errors on. The standard error (in points) is that of the difference of two
    shares, as if independent.

    :param after: of the outcome's model; that of :data:`RETRAINED` stands in where *controls* hold it.
    :param test_size: samples that ACC is measured on.
    :param triggered_size: samples that ASR is measured on; default: as many.
    """
    after = controls.get(RETRAINED, after)
    if after is None or after.acc is None:
        return []
    close, triggered = [], test_size if triggered_size is None else triggered_size
    for name in ("noise_only", "no_denoiser", "clean_only"):
        other = controls.get(name, ModelMetrics())
        if other.acc is None or _gains(after.acc, other.acc, test_size):
            continue
        safer = after.asr is not None and other.asr is not None and _gains(other.asr, after.asr, triggered)
        if safer and not _gains(other.acc, after.acc, test_size):
            continue
        error = 100 * _standard_error(after.acc, other.acc, test_size)
        close.append(f"{_said(other)} with {name} ({CONTROLS[name]}; standard error {error:.1f})")
    if not close:
        return []
    return [f"the denoiser does not earn its cost here: {'; '.join([f'{_said(after)} with it', *close])}"]


def _gains(more: float, less: float, size: int) -> bool:
    """Whether one share of *size* samples exceeds another by two standard errors."""
    return more > less and more - less >= 2 * _standard_error(more, less, size)


def _standard_error(first: float, second: float, size: int) -> float:
    return math.sqrt((first * (1 - first) + second * (1 - second)) / max(1, size))


def _said(model: ModelMetrics) -> str:
    shares = {"ACC": model.acc, "ASR": model.asr}
    return ", ".join(f"{name} {100 * share:.1f} %" for name, share in shares.items() if share is not None)


def kept_rows(case: Case, outcome: Outcome) -> Index:
    """Return the positions of the samples that *outcome* leaves to train on.

    :raises InputError: when there are none.
    """
    kept = outcome.kept_rows(len(_suspects(case)))
    if not len(kept):
        raise InputError("nothing to train on", where="outcome.kept", found="no sample is kept")
    return kept


def _suspects(case: Case) -> ImageSet:
    if case.train is None:
        raise InputError("nothing to train on", where="case.train", allowed="a suspect set")
    return case.train


def _with(plan: Retraining, added: Augmentation | None) -> Retraining:
    if added is None:
        return plan
    values: dict[str, Any] = {key: value for key, value in added.dump().items() if value}
    return plan.model_copy(update={"augmentation": plan.augmentation.model_copy(update=values)})


def _noisier(added: Augmentation | None, noise: float) -> Augmentation:
    added = added or Augmentation()
    return added.model_copy(update={"noise": math.hypot(added.noise, noise)})


def _as_many_steps(plan: Retraining, suspects: int, clean: int) -> Retraining:
    """Give a small set as many steps as a large one, but look at no image more than ten times as often."""
    epochs = min(10 * plan.epochs, max(1, round(plan.epochs * suspects / clean)))
    milestones = tuple(max(1, round(each * epochs / plan.epochs)) for each in plan.milestones)
    return plan.model_copy(update={"epochs": epochs, "milestones": milestones})


def trained(
    images: ImageSet,
    case: Case,
    plan: Retraining,
    context: Context,
    stage: str,
    *,
    added: Augmentation | None = None,
    start: Classifier | None = None,
    state: Path | None = None,
) -> tuple[Classifier, dict[str, list[float]]]:
    """Return a model trained on all of *images*, and the curves of its training.

    :param case: for what is open in *plan*, see :func:`fresh_for`.
    :param added: augmentation on top of the plan's own.
    :param start: as in :func:`retrain`.
    :param state: file that keeps the state, so that a killed training goes on; None: keep nothing.
    """
    plan = _with(settled(plan, case, context), added)
    model = fresh_for(images, case, plan, context) if start is None else start
    return model, learn(model, images, plan, context, name="retrain", stage=stage, state=state)


def _trained(
    images: ImageSet, case: Case, plan: Retraining, context: Context, stage: str, *, start: Classifier | None = None
) -> Classifier:
    return trained(images, case, plan, context, stage, start=start)[0]


def fresh_for(images: ImageSet, case: Case, plan: Retraining, context: Context) -> Classifier:
    """Return an untrained classifier; of the case's model, its normalisation counts, and an architecture by name."""
    name, size = plan.architecture or "small_resnet", None
    if case.model is not None and plan.architecture is None and case.model.architecture is not None:
        name, size = case.model.architecture, case.model.input_size
    seed = context.derive_seed("retrain", "weights")
    mean = std = None
    if case.model is not None:  # also where it does without: its host then normalises nothing
        mean, std = case.model.mean.flatten().tolist(), case.model.std.flatten().tolist()
    return untrained(images, name, seed, context.device, mean=mean, std=std, input_size=size)


def undefended(
    case: Case, outcome: Outcome, plan: Retraining, context: Context, described: Mapping[str, Any] | None = None
) -> ModelMetrics:
    """Return the metrics of the control ``undefended``: of a model trained on the suspect set as it is.

    Of the runs that share a cache, one trains it; the seconds of its training count in each of them.

    :param described: what ``describe`` says of *case*, in JSON types; default: found out where it is needed.
    """
    plan = settled(plan, case, context)
    if context.cache is None:
        return run_control("undefended", case, outcome, plan, context)
    facts = [
        to_json_types(describe(case)) if described is None else dict(described),
        plan.dump(),
        context.seed,
        context.device.type,
    ]
    file = context.cache / f"undefended-{fingerprint(facts)}.json"
    sign = None if context.work_dir is None else context.work_dir / f"{file.stem}.trained-here"
    known = _known(file)
    if known is None:
        before = context.timings.get(UNDEFENDED, 0.0)
        found = run_control("undefended", case, outcome, plan, context)
        if sign is not None:
            sign.parent.mkdir(parents=True, exist_ok=True)
            sign.touch()
        write_json(file, {"metrics": dataclasses.asdict(found), "seconds": context.timings[UNDEFENDED] - before})
        return found
    if sign is None or not sign.exists():  # else an earlier attempt of this very run trained it, and has counted it
        with context.stage(UNDEFENDED):
            context.add_cached_time(known.seconds)
    return known.metrics


class Undefended(Facts):
    """What runs share of the control ``undefended``."""

    metrics: ModelMetrics
    seconds: Seconds


def _known(file: Path) -> Undefended | None:
    """Return what another run has measured; None where there is nothing, or nothing that can be used."""
    return known(file, Undefended, "not the metrics of a model")

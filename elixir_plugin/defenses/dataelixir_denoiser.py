"""DataElixir, which denoiser purifies: one that is named, or one trained on the reserved clean set."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from ..case import Case, ImageSet
from ..context import Context
from ..diffusion.base import Denoiser
from ..diffusion.denoiser import UNetDenoiser, find_denoiser
from ..diffusion.fit import FitSettings, fit_denoiser
from ..diffusion.plan import Plan, plan
from ..diffusion.sampler import Step
from ..diffusion.schedule import Schedule
from ..errors import InputError, MissingNeedError, SettingsError
from .dataelixir_settings import DataElixirSettings


def refuse_no_denoiser(case: Case, settings: DataElixirSettings) -> None:
    """Refuse a case that holds nothing to train a denoiser on, when none is named.

    :raises MissingNeedError: then.
    """
    if settings.denoiser is None and (case.clean is None or not len(case.clean)):
        raise MissingNeedError(
            "dataelixir needs a denoiser, and this case holds no reserved clean set to train one on",
            where="settings of dataelixir: denoiser",
            hint="name one (--set denoiser=FOLDER, or a Hub name such as google/ddpm-cifar10-32), or give a reserved "
            "clean set",
        )


def prepare_denoiser(case: Case, settings: DataElixirSettings, context: Context) -> Denoiser:
    """Return the denoiser named in the settings, or one trained on the reserved clean set.

    A denoiser with fixed variance gets the large one (spec §2, step 1), whatever its scheduler config says.
    """
    assert case.train is not None
    height, _, channels = case.train.image_shape
    if settings.denoiser is not None:
        denoiser = find_denoiser(settings.denoiser, image_size=height, channels=channels, device=context.device)
    else:
        assert case.clean is not None
        denoiser = fit_denoiser(case.clean, fit_settings(settings), context, name="dataelixir-denoiser")
    if denoiser.variance == "fixed_small":
        denoiser.variance = "fixed_large"
    return denoiser


def fit_settings(settings: DataElixirSettings) -> FitSettings:
    """Return how to train a denoiser: unless something else is said, on the part of the chain that is used."""
    fit = settings.fit
    if fit.t_train_max is not None:
        return fit
    needed = settings.purification.level.resolve(Schedule(fit.schedule, fit.length))
    return fit.model_copy(update={"t_train_max": min(fit.length, max(1, needed + settings.jump_beyond))})


def refuse_seen(denoiser: Denoiser, train: ImageSet, *, forced: bool) -> str | None:
    """Refuse a denoiser that was trained on images of the suspect set: it has learned their triggers as well.

    :returns: what a reader must know when it is *forced* all the same.
    :raises InputError: naming how many images it has seen.
    """
    if not isinstance(denoiser, UNetDenoiser):
        return None
    count = int(denoiser.seen(train).sum())
    if not count:
        return None
    found = f"{count} of {len(train)} suspect images"
    if not forced:
        raise InputError(
            "the denoiser was trained on images of the suspect set",
            where="card of the denoiser",
            found=found,
            allowed="a denoiser trained on other images: it would paint triggers back in",
            hint="use another denoiser or clean set, or set force_denoiser=true",
        )
    return f"the denoiser was trained on {found}, and used all the same: it may paint triggers back in"


def provenance(denoiser: Denoiser, settings: DataElixirSettings) -> tuple[dict[str, Any], str | None]:
    """Return which data the denoiser saw, for the tables, and a note where that is not known."""
    card: dict[str, Any] = getattr(denoiser, "card", {})
    images = card.get("images") or {}
    facts = {
        "source": settings.denoiser or "trained on the reserved clean set",
        "origin": card.get("origin", type(denoiser).__name__),
        "images_seen": images.get("count"),
        "data": images.get("fingerprint"),
        "fingerprint": denoiser.fingerprint(),
    }
    if settings.denoiser is None or images:
        return facts, None
    return facts, (
        f"what {settings.denoiser} was trained on is not on record. If it has seen the clean originals of the suspect "
        "images (the usual CIFAR-10 denoiser has), the result rests on clean data that a defender does not have"
    )


def plan_walk(denoiser: Denoiser, settings: DataElixirSettings, train: ImageSet) -> Plan:
    """Return the plan of one round.

    :raises SettingsError: when the kept states would not be the end of the walk, or the chain is too short.
    """
    one_round = settings.purification.model_copy(update={"rounds": 1})
    planned = plan(denoiser, one_round, train.image_shape)
    if not planned.steps:  # t* = 0
        return planned
    _refuse_noisy_states(planned, settings)
    return _beyond(planned, denoiser.schedule) if settings.jump_beyond else planned


def _refuse_noisy_states(planned: Plan, settings: DataElixirSettings) -> None:
    kept = settings.states
    if kept > len(planned.indices):
        raise SettingsError(
            "more states to keep than steps",
            where="settings of dataelixir: states",
            found=kept,
            allowed=f"1..{len(planned.indices)}, the steps of one round",
        )
    if settings.keep == "states" and planned.indices[-kept:] != tuple(range(kept - 1, -1, -1)):
        raise SettingsError(
            "the last states of so coarse a walk are noisy",
            where="settings of dataelixir: states",
            found=f"indices {', '.join(map(str, planned.indices[-kept:]))}",
            allowed=f"every index below {kept}",
            hint=f"set purification.dense_below={kept}, or keep=predictions",
        )


def _beyond(planned: Plan, schedule: Schedule) -> Plan:
    """Return the plan with a step in front that noises one index deeper and walks back without a change.

    The released code noises to index T and tells the network that it is at T − 1 (spec §2). The step in front costs
    an evaluation whose answer is not used.

    :raises SettingsError: when the chain ends at T − 1.
    """
    index = planned.t_star
    if index >= schedule.length:
        raise SettingsError(
            "no step beyond the end of the chain",
            where="settings of dataelixir: jump_beyond",
            found=f"t* = {index}",
            allowed=f"t* < {schedule.length}",
        )
    kept = float(schedule.alphas_cumprod[index])
    idle = Step(
        index=index,
        signal=math.sqrt(kept),
        noise=math.sqrt(1 - kept),
        from_image=0.0,
        from_state=1.0,
        log_lower=-1e4,  # a variance of zero
        log_upper=-1e4,
        previous_signal=0.0,
        previous_noise=0.0,
        last=False,
    )
    return dataclasses.replace(planned, steps=(idle, *planned.steps))

"""DataElixir, which denoiser purifies: one that is named, or one trained on the reserved clean set."""

from __future__ import annotations

import dataclasses
import math

from ...core.case import Case
from ...core.context import Context
from ...core.images import ImageSet
from ...diffusion.denoisers.base import Denoiser
from ...diffusion.denoisers.gaussian import GaussianDenoiser
from ...diffusion.fit import choose
from ...diffusion.fit.settings import FitSettings
from ...diffusion.plan import Plan, plan
from ...diffusion.sampler import Step
from ...diffusion.schedule import Schedule
from ...errors import SettingsError
from .settings import DataElixirSettings

NAME = "dataelixir-denoiser"  # of the one trained here: its draws, its folder


def refuse_no_denoiser(case: Case, settings: DataElixirSettings) -> None:
    """Refuse a case that holds nothing to train a denoiser on, when none is named; before any work.

    :raises ElixirError: without a reserved clean set, when that set holds images of the suspect set, or when the
        reverse chain does not fit the chain that would be trained.
    """
    choose.refuse_no_denoiser(case, settings.denoiser, defense="dataelixir", forced=settings.force_denoiser)
    if settings.denoiser is None and case.train is not None:
        fit = fit_settings(settings)
        choose.refuse_untrained(settings.purification.level, fit)
        stand_in = GaussianDenoiser(Schedule(fit.schedule, fit.length), 0.0, 1.0, case.train.image_shape[2])
        plan_round(stand_in, settings, case.train)


def prepare_denoiser(case: Case, settings: DataElixirSettings, context: Context) -> Denoiser:
    """Return the denoiser named in the settings, or one trained on the reserved clean set.

    A denoiser with fixed variance gets the one of the settings, whatever its scheduler config says.
    """
    assert case.train is not None
    denoiser = choose.named_or_trained(
        settings.denoiser,
        case.clean,
        fit_settings(settings),
        case.train.image_shape,
        context,
        name=NAME,
    )
    if denoiser.variance != "learned_range":
        denoiser.variance = settings.step_variance(case.clean)
    return denoiser


def fit_settings(settings: DataElixirSettings) -> FitSettings:
    """Return how to train a denoiser: unless something else is said, on the part of the chain that is used."""
    return choose.fit_for(settings.fit, settings.purification.level, beyond=int(settings.jump_beyond))


def plan_round(denoiser: Denoiser, settings: DataElixirSettings, train: ImageSet) -> Plan:
    """Return the plan of one round.

    :raises SettingsError: when the kept states would not be the end of the reverse chain, or the chain is too short.
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
            "the last states of so coarse a reverse chain are noisy",
            where="settings of dataelixir: states",
            found=f"indices {', '.join(map(str, planned.indices[-kept:]))}",
            allowed=f"every index below {kept}",
            hint=f"set purification.dense_below={kept}, or keep=predictions",
        )


def _beyond(planned: Plan, schedule: Schedule) -> Plan:
    """Return the plan with a step in front that noises one index deeper and denoises without a change.

    The released code noises to index T but passes T − 1 to the network. The step in front costs
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

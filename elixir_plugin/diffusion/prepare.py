"""A defense's own denoiser, trained on the reserved clean set; once, however many ranks and restarts there are."""

from __future__ import annotations

from datetime import timedelta

from ..case import ImageSet
from ..context import Context
from ..errors import SettingsError
from .base import Denoiser
from .fit import FitSettings, fit_denoiser
from .ranks import barrier, rank_and_world
from .schedule import NoiseLevel, Schedule

TRAINING = timedelta(days=7)  # how long the other ranks wait for rank 0 to train


def refuse_untrained(level: NoiseLevel, settings: FitSettings) -> None:
    """Refuse a noise level that a denoiser trained with *settings* would not know, before it is trained.

    :raises SettingsError: naming the highest level allowed.
    """
    steps = level.resolve(Schedule(settings.schedule, settings.length))
    if steps > settings.trained_steps:
        raise SettingsError(
            "noise level above what the denoiser is to be trained for",
            where="purification.level, fit.t_train_max",
            found=f"t* = {steps}",
            allowed=f"t* ≤ {settings.trained_steps} of {settings.length}",
            hint="raise fit.t_train_max, or lower the level",
        )


def trained_denoiser(clean: ImageSet, settings: FitSettings, context: Context, name: str) -> Denoiser:
    """Return a denoiser trained on *clean*; with a work folder, the state is kept and a killed call goes on.

    Under ``torchrun`` rank 0 trains, and the others load what it has saved.

    :param name: of the random draws, and of the folder below the work folder.
    """
    rank, world = rank_and_world()
    if world > 1 and context.work_dir is not None:
        if rank == 0:
            fit_denoiser(clean, settings, context, name=name)
        barrier(TRAINING)
    return fit_denoiser(clean, settings, context, name=name)

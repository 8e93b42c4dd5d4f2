"""What the training of a denoiser costs on this device, measured on a few batches; see also ``training.timing``."""

from __future__ import annotations

from typing import Any

from ...core.context import Context
from ...core.images import ImageSet
from ...training.timing import STEPS, seconds_of
from ..denoisers.denoiser import UNetDenoiser
from .looks import Looks
from .settings import FitSettings
from .train import finished, fit_denoiser

STATES = 4  # copies of the weights in a state on disk: weights, their average, two moments of the optimiser

CPU_BATCH = 16  # images at most per step of a denoiser's training that is timed on a CPU
CUDA_STEPS = 20  # of that training on a GPU, where making the network takes longer than a step


def denoiser_to_time(
    source: str | None, clean: ImageSet | None, fit: FitSettings, context: Context, *, name: str
) -> tuple[UNetDenoiser, float] | None:
    """Return a barely trained denoiser in place of one that a run would train, and the seconds of that training.

    Its card says what the trained one will have seen. See :func:`~elixir_plugin.diffusion.fit.choose.named_or_trained`.

    :returns: None when nothing would be trained: one is named, or the work folder holds it.
    :raises RunError: when something else is in its place in the work folder.
    """
    if source is not None:
        return None
    assert clean is not None
    if context.work_dir is not None and finished(context.work_dir / name, clean, fit, context, name=name):
        return None
    size, steps = fit.batch_size, CUDA_STEPS
    if context.device.type == "cpu":
        size, steps = min(size, CPU_BATCH), STEPS
    small = fit.model_copy(update={"batch_size": size, "compile": False})
    scratch = Context(seed=context.seed, device=context.device)  # without a work folder

    def attempt(iterations: int) -> UNetDenoiser:
        return fit_denoiser(clean, small.model_copy(update={"iterations": iterations}), scratch, name=name)

    denoiser = attempt(1)
    before = seconds_of(lambda: attempt(1))  # making the network, and one iteration
    seconds = max(0.0, seconds_of(lambda: attempt(1 + steps)) - before)
    return denoiser, seconds / (steps * size) * fit.iterations * fit.batch_size


def cost_of_training(images: ImageSet, settings: FitSettings, looks: Looks | None, context: Context) -> dict[str, Any]:
    """Return what the training of a denoiser costs, measured on a few batches, in JSON types.

    :param looks: what is looked at on the way, if anything; a loss is measured once here, and no picture is made.
    """
    timed = denoiser_to_time(None, images, settings, Context(seed=context.seed, device=context.device), name="denoiser")
    assert timed is not None
    denoiser, seconds = timed
    training = {"training": seconds}
    if looks is not None:
        training["looks"] = len(looks) * looks.evaluations() * seconds_of(lambda: looks.measure(denoiser))
    return {
        "images": len(images),
        "parameters": denoiser.parameters,
        "iterations": settings.iterations,
        "seconds_per_iteration": seconds / settings.iterations,
        "seconds": training,
        "seconds_total": sum(training.values()),
        "disk_bytes": 4 * STATES * denoiser.parameters,
    }

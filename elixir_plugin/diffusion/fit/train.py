"""Training a denoiser on clean images, on the project's one training loop. Labels are not needed.

An "epoch" of the loop is a block of iterations: after each, the curves get a point and the state may be written.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ...core.classifier.classifier import to_batch
from ...core.context import Context
from ...core.images import ImageSet
from ...core.settings import fingerprint
from ...errors import InputError, RunError
from ...io.checked import Facts, Seconds, checked
from ...io.distributed import rank_and_world, together
from ...io.files import refuse_unwritable, remove_leftovers, write_json
from ...io.locks import alone
from ...io.reading import read_json
from ...training.batches import Samples
from ...training.checkpoint import Checkpoint
from ...training.loop import Objective, Recipe, train
from ..denoisers.denoiser import UNetDenoiser, load_denoiser, read_card
from ..denoisers.unet import architecture_of, build_unet
from ..plan import padded
from ..schedule import Schedule
from .card import identity_of, provenance_card
from .ema import WeightAverage
from .looks import Looks
from .objective import NoisyBatch, denoising_objective
from .settings import FitSettings
from .stopwatch import Stopwatch

BLOCK = 250  # iterations between two points of the curves, unless the settings say


def block_of(settings: FitSettings) -> int:
    """Return how many iterations a block has."""
    return BLOCK if settings.block is None else settings.block


class NoisyBatches:
    """Blocks of batches drawn uniformly, with replacement, from ``[0, B)``, each with its noise and indices.

    All draws of a block are functions of (seed, name, number of the block), so training can resume at any block. Copies
    of the images would change no draw's distribution, so there are none.

    :param padding: rows and columns to add below and to the right, by reflection, as purification does.
    """

    def __init__(
        self, images: ImageSet, settings: FitSettings, context: Context, name: str, padding: tuple[int, int] = (0, 0)
    ) -> None:
        self._samples = Samples(images, context.device)
        self._settings, self._context, self._name, self._padding = settings, context, name, padding
        self.steps = block_of(settings)

    def epoch(self, number: int) -> Iterator[NoisyBatch]:
        settings, device = self._settings, self._context.device
        size, count = settings.batch_size, min(self.steps, settings.iterations - number * self.steps)
        generator = self._context.generator(self._name, "block", number)
        rows = torch.randint(len(self._samples), (count, size), generator=generator).to(device)
        indices = torch.randint(settings.trained_steps, (count, size), generator=generator).to(device)
        for chosen, at in zip(rows, indices, strict=True):
            images = padded(to_batch(self._samples.pixels(chosen), device), self._padding)
            noise = _moved(torch.randn(images.shape, generator=generator), device)
            yield NoisyBatch(images, self._samples.targets[chosen], chosen, noise, at)


def _moved(draws: Tensor, device: torch.device) -> Tensor:
    """Move to *device*; from pinned memory, so that a CUDA device can keep working meanwhile."""
    return draws.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else draws.to(device)


def fit_denoiser(images: ImageSet, settings: FitSettings, context: Context, *, name: str = "denoiser") -> UNetDenoiser:
    """Train a denoiser on *images*, whose labels play no part.

    With a work folder, the finished denoiser is kept there under *name*, and a call that was killed resumes where it
    stopped; both end bit-identical to a call that was not. Where runs share a cache, it is kept there for equal calls
    of all of them; each counts the seconds that its training took. With neither, nothing is kept.

    :param name: of the random draws, the progress bar, and the folder.
    :returns: the denoiser with averaged weights, in eval mode, on the context's device.
    :raises InputError: for a set without images.
    :raises RunError: when training diverges, or what is in the work folder belongs to other settings or data.
    """
    if context.cache is not None:
        return _fit_once(images, settings, context, name, context.cache)
    if context.work_dir is None:
        return _fit(images, settings, context, name, None)[0]
    return fit_into(context.work_dir / name, images, settings, context, name=name)


def _fit_once(images: ImageSet, settings: FitSettings, context: Context, name: str, cache: Path) -> UNetDenoiser:
    """Return what an equal call has saved in *cache*, or save it there; the seconds of its training count either way.

    A file in the work folder says that an earlier attempt of this very run trained it, and so has counted them already.
    """
    identity = fingerprint([identity_of(images, settings, context, name), context.device.type])
    folder, timing = cache / f"{name}-{identity}", cache / f"{name}-{identity}.json"
    sign = None if context.work_dir is None else context.work_dir / f"{name}.trained-here"
    counted, started = sign is not None and sign.exists(), time.perf_counter()
    denoiser = fit_into(folder, images, settings, context, name=name, timing=timing, sign=sign)
    if not counted:
        context.add_cached_time(max(0.0, _seconds_in(timing) - (time.perf_counter() - started)))
    return denoiser


class Timing(Facts):
    """How long a training took."""

    seconds: Seconds


def _seconds_in(timing: Path) -> float:
    """Return the seconds that *timing* says; 0 where it cannot be used: they are for information."""
    try:
        return checked(Timing, read_json(timing), what="not the seconds of a training", where=timing).seconds
    except InputError as error:
        logging.getLogger(__name__).warning("seconds of a training that are kept are left out: %s", error)
        return 0.0


def fit_into(
    folder: Path,
    images: ImageSet,
    settings: FitSettings,
    context: Context,
    *,
    name: str = "denoiser",
    timing: Path | None = None,
    sign: Path | None = None,
    looks: Looks | None = None,
) -> UNetDenoiser:
    """Train as :func:`fit_denoiser` does and save to *folder*, or load what an equal call has saved there.

    The state of an unfinished call is in :func:`state_file`, which is removed when the folder is there. Under
    ``torchrun`` rank 0 trains, and the others wait for it; so does another process that is to make the same folder.

    :param timing: JSON file that gets the ``seconds`` of the training, those of killed calls up to the last state that
        they saved; not in *folder*, which is the same however often a call was killed.
    :param sign: a file that is touched when the training starts, and every few seconds until it ends.
    :param looks: looks at the denoiser now and then; the folder also holds what was seen.
    :raises RunError: when something else is in *folder*.
    """
    rank, _ = rank_and_world()
    with together():
        if rank == 0 and not finished(folder, images, settings, context, name=name):
            _refuse_empty(images)
            refuse_unwritable(folder)
            with alone(Path(f"{folder.absolute()}.lock")):
                if not finished(folder, images, settings, context, name=name):  # another process may have been faster
                    _make(folder, images, settings, context, name, timing=timing, sign=sign, looks=looks)
        if rank == 0:
            state_file(folder).unlink(missing_ok=True)
            if looks is not None:
                looks.discard()
    return load_denoiser(folder, device=context.device)


def _make(
    folder: Path,
    images: ImageSet,
    settings: FitSettings,
    context: Context,
    name: str,
    *,
    timing: Path | None,
    sign: Path | None,
    looks: Looks | None,
) -> None:
    """Train, or resume, and save to *folder*; see :func:`fit_into`."""
    for path in (folder.absolute(), state_file(folder)):
        remove_leftovers(path.parent, path.name)
    denoiser, seconds = _fit(images, settings, context, name, state_file(folder), sign=sign, looks=looks)
    if timing is not None:
        write_json(timing, {"seconds": seconds})
    if looks is None:
        denoiser.save(folder)
    else:
        denoiser.card["held_back"] = looks.facts()
        denoiser.save(folder, lambda part: looks.add_to(part, denoiser, seconds))


def state_file(folder: Path) -> Path:
    """Return where the state of an unfinished call is kept."""
    return Path(f"{folder.absolute()}.checkpoint")


def finished(
    folder: Path, images: ImageSet, settings: FitSettings, context: Context, *, name: str = "denoiser"
) -> bool:
    """Whether *folder* holds the result of an equal call.

    :raises RunError: when it holds anything else.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    known = read_card(folder).get("identity")
    if known != identity_of(images, settings, context, name):
        raise RunError(
            "folder is in the way",
            where=folder,
            found="something else" if known is None else "a denoiser of other settings, images or seed",
            hint="choose another folder, or remove this one",
        )
    return True


def _refuse_empty(images: ImageSet) -> None:
    if not len(images):
        raise InputError("no images to train a denoiser on", where="clean", found="0 images")


def _fit(
    images: ImageSet,
    settings: FitSettings,
    context: Context,
    name: str,
    checkpoint: Path | None,
    *,
    sign: Path | None = None,
    looks: Looks | None = None,
) -> tuple[UNetDenoiser, float]:
    """Return a trained denoiser, and the seconds of its training."""
    _refuse_empty(images)
    block = block_of(settings)
    height, width, channels = images.image_shape
    stride = architecture_of(settings.size, (height, width)).stride
    padding = (-height % stride, -width % stride)
    sides = (height + padding[0], width + padding[1])
    if any(padding):
        context.note(f"images of {height} × {width} are padded by reflection to {sides[0]} × {sides[1]}")
    schedule = Schedule(settings.schedule, settings.length)
    network = build_unet(
        settings.size,
        sides[0] if height == width else sides,
        channels,
        settings.learn_sigma,
        dropout=settings.dropout,
        seed=context.derive_seed(name, "weights"),
    )
    network.to(context.device).to(memory_format=torch.channels_last)
    average = WeightAverage(list(network.parameters()), settings.ema_decay, warmup=settings.ema_warmup)
    identity = identity_of(images, settings, context, name)
    recipe = Recipe(
        epochs=math.ceil(settings.iterations / block),
        batch_size=settings.batch_size,
        optimizer="adamw",
        lr=settings.lr,
        weight_decay=0.0,
        schedule="constant",
        precision=settings.precision,
    )
    objective = denoising_objective(
        schedule,
        timestep_scale=settings.timestep_scale,
        learn_sigma=settings.learn_sigma,
        device=context.device,
    )
    if settings.compile:
        objective = _through(cast(nn.Module, torch.compile(network)), objective)
    watch = Stopwatch(sign)

    def after_step() -> None:
        average.update()
        watch.update()

    def wrapped(card: dict[str, Any] | None = None) -> UNetDenoiser:
        return UNetDenoiser(
            network,
            schedule,
            variance="learned_range" if settings.learn_sigma else "fixed_small",
            timestep_scale=settings.timestep_scale,
            trained_steps=settings.trained_steps,
            image_size=height if height == width else None,
            card=card,
        )

    def after_block(number: int) -> None:
        if looks is not None and looks.due(number + 1):
            with average.applied():
                looks.look(wrapped(), number + 1)

    seen = {} if looks is None else looks.state()
    curves = train(
        network,
        NoisyBatches(images, settings, context, name, padding),
        recipe,
        context,
        objective=objective,
        after_step=after_step,
        on_epoch=after_block,
        checkpoint=None
        if checkpoint is None
        else Checkpoint(checkpoint, {"fit": identity}, {**average.state(), **seen, "seconds": watch.seconds}),
        name=name,
    )
    average.apply()
    network.requires_grad_(False).to(memory_format=torch.contiguous_format)
    denoiser = wrapped(provenance_card(images, settings, context, curves, identity=identity, block=block))
    watch.update()
    return denoiser, float(watch.seconds)


def _through(network: nn.Module, objective: Objective) -> Objective:
    """Return *objective* with *network*, a compiled twin, in the place of the one that is trained."""
    return lambda _, batch: objective(network, batch)

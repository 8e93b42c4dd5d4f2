"""Image variations, which generator: chosen by what is available. Nothing is downloaded unless a model is named."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ...core.case import Case
from ...core.context import Context
from ...diffusion.denoisers.base import Denoiser
from ...diffusion.fit import choose
from ...diffusion.fit.settings import FitSettings
from ...diffusion.fit.timing import denoiser_to_time
from ...diffusion.generators.base import ImageGenerator, find_generator, sdedit_on
from ...diffusion.generators.pipeline_files import is_cached, pipeline_of
from ...diffusion.schedule import NoiseLevel
from ...errors import InputError, SettingsError
from ...plugins import plugins
from .settings import ImageVariationsSettings

ORDER = ("image_variation", "versatile", "unclip")  # of the pipelines that ``auto`` looks for
NAME = "image-variations-denoiser"
ROUNDING = 1e-9  # of a share of a chain, in steps


@dataclass(frozen=True)
class LoadedGenerator:
    """A generator, with what the report says of it.

    :param notes: what a reader must know.
    :param fitting: seconds that the training of its denoiser would take, of one that stands in for it.
    """

    name: str
    generator: ImageGenerator
    facts: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    fitting: float | None = None


def choose_backend(case: Case, settings: ImageVariationsSettings) -> str:
    """Return the name of the generator, without loading anything.

    :raises SettingsError: for an unknown name, when ``auto`` finds nothing, or for a strength that the denoiser would
        not be trained for.
    :raises MissingNeedError: for sdedit with neither a denoiser nor a reserved clean set.
    """
    name = settings.backend
    if name == "auto":
        name = _available(case, settings)
    plugins().get("generator", name)
    if name == "sdedit":
        choose.refuse_no_denoiser(case, settings.denoiser, defense="image_variations", forced=settings.force_denoiser)
        _refuse_untrained(settings)
    return name


def _refuse_untrained(settings: ImageVariationsSettings) -> None:
    """Refuse a strength that a denoiser trained here would not know; a search keeps to those that it knows."""
    if settings.denoiser is not None or settings.strength == "auto":
        return
    choose.refuse_untrained(_highest_level(settings), fit_settings(settings), where="strength")


def _available(case: Case, settings: ImageVariationsSettings) -> str:
    from ...diffusion.generators.pipelines import ADAPTERS, names  # noqa: PLC0415  (only needed here)

    if settings.denoiser is not None:
        return "sdedit"
    if settings.weights is not None:
        found = pipeline_of(Path(settings.weights))
        for name, adapter in ADAPTERS.items():
            if found in (adapter.pipeline, *adapter.also):
                return name
        raise SettingsError(
            "which backend are these weights for?",
            where=f"weights: {settings.weights}",
            found=found or "no diffusers folder",
            hint=f"say so: {{setting:backend=NAME}} with one of {', '.join(ADAPTERS)}",
        )
    for name in ORDER:
        if is_cached(ADAPTERS[name].default):
            return name
    if case.clean is not None and len(case.clean):
        return "sdedit"
    raise SettingsError(
        "no generator is at hand",
        where="backend: auto",
        found="no denoiser is named, no reserved clean set to train one on, no pipeline on this machine",
        allowed=f"sdedit (denoiser=FOLDER, or a reserved clean set), {names()}",
        hint="name weights, e.g. {setting:backend=image_variation} {setting:weights=FOLDER}",
    )


def load_generator(case: Case, settings: ImageVariationsSettings, context: Context) -> LoadedGenerator:
    """Return the generator on the context's device.

    :raises InputError: when weights cannot be had, or the denoiser has seen the suspect set.
    """
    assert case.train is not None
    shape = case.train.image_shape
    name = choose_backend(case, settings)
    if name != "sdedit":
        generator = find_generator(name, settings, shape, context.device)
        return LoadedGenerator(name, generator, {"backend": name, "fingerprint": generator.fingerprint()})
    denoiser = choose.named_or_trained(
        settings.denoiser, case.clean, fit_settings(settings), shape, context, name=NAME
    ).to(context.device)
    return _sdedit(case, settings, denoiser)


def load_to_time(case: Case, settings: ImageVariationsSettings, context: Context) -> LoadedGenerator:
    """Return a generator as fast as that of :func:`load_generator`: nothing is trained for long, nothing is kept.

    :raises ElixirError: for what is refused there.
    """
    if choose_backend(case, settings) == "sdedit":
        timed = denoiser_to_time(settings.denoiser, case.clean, fit_settings(settings), context, name=NAME)
        if timed is not None:
            denoiser, seconds = timed
            return replace(_sdedit(case, settings, denoiser), fitting=seconds)
    return load_generator(case, settings, context)


def _sdedit(case: Case, settings: ImageVariationsSettings, denoiser: Denoiser) -> LoadedGenerator:
    assert case.train is not None
    facts, notes = choose.admit_denoiser(denoiser, settings.denoiser, case.train, forced=settings.force_denoiser)
    edit = sdedit_on(denoiser, settings, case.train.image_shape)
    return LoadedGenerator("sdedit", edit, {"backend": "sdedit", "denoiser": facts}, [*notes, *edit.plan.notes])


def fit_settings(settings: ImageVariationsSettings) -> FitSettings:
    """Return how to train a denoiser: unless something else is said, on the part of the chain that may be used."""
    return choose.fit_for(settings.fit, _highest_level(settings))


def _highest_level(settings: ImageVariationsSettings) -> NoiseLevel:
    """Return the noise level of the strength, or of the highest candidate of a search."""
    length = settings.fit.length
    if settings.strength == "auto":  # rounded up: the search leaves out what lies above the part that is trained
        steps = math.ceil(max(settings.search.candidates) * length - ROUNDING)
    else:
        steps = round(settings.strength * length)
    return NoiseLevel(steps=steps, of=length)


def refuse_store(case: Case, settings: ImageVariationsSettings) -> None:
    """Refuse a stored size that is smaller than the images, or for images that are not square.

    :raises SettingsError: for the first.
    :raises InputError: for the second.
    """
    assert case.train is not None
    height, width, _ = case.train.image_shape
    if settings.store_size is None:
        return
    if height != width:
        raise InputError(
            "store_size is for square images", where="settings of image_variations", found=f"{height} × {width}"
        )
    if settings.store_size < height:
        raise SettingsError(
            "stored variations must not be smaller than the images",
            where="settings of image_variations: store_size",
            found=settings.store_size,
            allowed=f"from {height} on",
        )

"""Which denoiser a defense uses, a named one or one trained on the reserved clean set, and what it was trained on."""

from __future__ import annotations

from typing import Any

from ...core.case import Case
from ...core.context import Context
from ...core.images import ImageSet
from ...core.pixels import shared_rows
from ...errors import InputError, MissingNeedError, SettingsError
from ..denoisers.base import Denoiser
from ..denoisers.denoiser import UNetDenoiser, find_denoiser
from ..schedule import NoiseLevel, Schedule
from .settings import FitSettings
from .train import fit_denoiser

UNSEEN = (  # what it means that the reserved clean set lacks a class
    "A denoiser that is trained on it has not seen such images, and turns more of them into others at strong noise"
)


def refuse_no_denoiser(case: Case, source: str | None, *, defense: str, forced: bool) -> None:
    """Refuse a case that holds nothing to train a denoiser on, when none is named; before any work.

    :param source: the denoiser that is named, or None.
    :param forced: see :func:`refuse_seen`.
    :raises MissingNeedError: without a reserved clean set.
    :raises InputError: when that set holds images of the suspect set.
    """
    if source is not None:
        return
    if case.clean is None or not len(case.clean):
        raise MissingNeedError(
            f"{defense} needs a denoiser, and this case holds no reserved clean set to train one on",
            where=f"settings of {defense}: denoiser",
            hint="name one ({setting:denoiser=FOLDER}, or a Hub name such as google/ddpm-cifar10-32), or give a "
            "reserved clean set",
        )
    if case.train is not None and not forced:
        count = len(shared_rows(case.train, case.clean))
        if count:
            raise _seen(
                "a denoiser would be trained on images of the suspect set", "the reserved clean set", count, case.train
            )


def refuse_untrained(level: NoiseLevel, fit: FitSettings, *, where: str = "purification.level") -> None:
    """Refuse a noise level that a denoiser trained with *fit* would not know, before it is trained.

    :param where: the setting that says the level.
    :raises SettingsError: naming the highest level allowed.
    """
    steps = level.resolve(Schedule(fit.schedule, fit.length))
    if steps > fit.trained_steps:
        raise SettingsError(
            "noise level above what the denoiser is to be trained for",
            where=f"{where}, fit.t_train_max",
            found=f"t* = {steps}",
            allowed=f"t* ≤ {fit.trained_steps} of {fit.length}",
            hint="raise fit.t_train_max, or lower the level",
        )


def named_or_trained(
    source: str | None,
    clean: ImageSet | None,
    fit: FitSettings,
    image_shape: tuple[int, int, int],
    context: Context,
    *,
    name: str = "denoiser",
) -> Denoiser:
    """Return the denoiser *source* on the context's device, or one trained on *clean* when none is named.

    :param image_shape: ``(H, W, C)`` of the images to come.
    :param name: of the random draws of its training, and of the folder that keeps it.
    """
    if source is not None:
        height, _, channels = image_shape
        return find_denoiser(source, image_size=height, channels=channels, device=context.device)
    assert clean is not None
    return fit_denoiser(clean, fit, context, name=name)


def fit_for(fit: FitSettings, level: NoiseLevel, *, beyond: int = 0) -> FitSettings:
    """Return *fit*, limited to the part of the chain that *level* needs unless ``t_train_max`` is set already.

    :param beyond: indices to train above the level.
    """
    if fit.t_train_max is not None:
        return fit
    needed = level.resolve(Schedule(fit.schedule, fit.length)) + beyond
    return fit.model_copy(update={"t_train_max": min(fit.length, max(1, needed))})


def admit_denoiser(
    denoiser: Denoiser, source: str | None, train: ImageSet, *, forced: bool
) -> tuple[dict[str, Any], list[str]]:
    """Return which data the denoiser saw, for the tables, and warnings about it.

    :param source: the denoiser that was named, or None when it was trained on the reserved clean set.
    :param train: the suspect set.
    :param forced: see :func:`refuse_seen`.
    :raises InputError: when the denoiser was trained on images of the suspect set.
    """
    seen = refuse_seen(denoiser, train, forced=forced)
    facts, unknown = provenance(denoiser, source)
    return facts, [note for note in (*denoiser.notes, unknown, seen) if note is not None]


def refuse_seen(denoiser: Denoiser, train: ImageSet, *, forced: bool) -> str | None:
    """Refuse a denoiser that was trained on images of the suspect set: it has learned their triggers as well.

    :returns: a warning when it is *forced* in spite of that; else None.
    :raises InputError: naming how many images it has seen.
    """
    count = count_seen(denoiser, train)
    if not count:
        return None
    error = _seen("the denoiser was trained on images of the suspect set", "card of the denoiser", count, train)
    if not forced:
        raise error
    return f"the denoiser was trained on {error.found}, and used all the same: it may paint triggers back in"


def count_seen(denoiser: Denoiser, images: ImageSet) -> int:
    """Return how many of *images* the denoiser was trained on, by content, as far as that is on record."""
    return int(denoiser.seen(images).sum()) if isinstance(denoiser, UNetDenoiser) else 0


def _seen(what: str, where: str, count: int, train: ImageSet) -> InputError:
    return InputError(
        what,
        where=where,
        found=f"{count} of {len(train)} suspect images",
        allowed="a denoiser trained on other images: it would paint triggers back in",
        hint="use another denoiser or clean set (records of BackdoorBench: clean_from=test), or set "
        "force_denoiser=true",
    )


def provenance(denoiser: Denoiser, source: str | None) -> tuple[dict[str, Any], str | None]:
    """Return which data the denoiser saw, for the tables, and a note where that is not known.

    :param source: the denoiser that was named, or None when it was trained on the reserved clean set.
    """
    card: dict[str, Any] = getattr(denoiser, "card", {})
    images = card.get("images") or {}
    facts = {
        "source": source or "trained on the reserved clean set",
        "origin": card.get("origin", type(denoiser).__name__),
        "images_seen": images.get("count"),
        "data": images.get("fingerprint"),
        "fingerprint": denoiser.fingerprint(),
    }
    if source is None or images:
        return facts, None
    return facts, (
        f"what {source} was trained on is not on record. If it has seen the clean originals of the suspect "
        "images (the usual CIFAR-10 denoiser has), the result rests on clean data that a defender does not have"
    )

"""A result card run again, seed by seed: does it still hold?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from ..adapter import Source
from ..errors import InputError, SettingsError
from .cards import Measured, Metric, ResultCard, card_from_runs, made_text
from .run import run_defense
from .spec import RunSpec

LEAST = 0.01  # a point: what other versions and processors move even where the seed is the same
ERRORS = 2  # standard errors of the difference of two means


@dataclass(frozen=True)
class Check:
    """One number of a card beside the one measured again.

    :param allowed: how far they may be apart.
    """

    metric: Metric
    stated: float
    found: float | None
    allowed: float

    @property
    def holds(self) -> bool:
        """Whether the two are as near as they must be."""
        return self.found is not None and abs(self.found - self.stated) <= self.allowed


def verify_card(card: ResultCard, folder: Path, source: Source | None = None) -> list[Check]:
    """Run what *card* says with each of its seeds in *folder*, and compare every number.

    A killed run goes on with the same call. Numbers may differ by a point, or by two standard errors over the seeds,
    whichever is more.

    :param source: where the data are; needed unless the card's case is of the testbed.
    :raises SettingsError: when the card does not say what to run, or *source* is needed.
    :raises InputError: when *source* holds another number of images than the card was made with.
    """
    if card.run is None:
        raise SettingsError(
            "the card does not say what to run",
            where=card.name,
            found=f"{card.defense}: {made_text(card)}",
            hint="only cards of `elixir-plugin cards add` do",
        )
    spec = RunSpec.build(card.run, where=f"card {card.name}: run")
    if source is None and spec.source.adapter != "testbed":
        named = f"{spec.source.adapter}:{spec.source.path}"
        raise SettingsError(
            "the card does not say where its data lie", where=card.name, found=named, hint="give {argument:source}"
        )
    folders = []
    for seed in card.seeds:
        values = {"seed": seed, "out": str(folder / f"{card.name}-{seed}"), "write_back": False}
        if source is not None:
            values["source"] = source
        folders.append(run_defense(spec.model_copy(update=values)).folder)
    again = card_from_runs(folders)
    if card.setting is not None and again.setting is not None:
        for name in ("images", "reserved"):
            stated, found = getattr(card.setting, name), getattr(again.setting, name)
            if stated != found:
                raise InputError(
                    "not the data of the card", where=card.name, found=f"{name}: {found}", allowed=f"{name}: {stated}"
                )
    return [
        _check(metric, stated, again.measured.get(metric), len(folders)) for metric, stated in card.measured.items()
    ]


def _check(metric: Metric, stated: Measured, found: Measured | None, seeds: int) -> Check:
    variance = sum((each.std or 0.0) ** 2 for each in (stated, found) if each is not None) / seeds
    allowed = max(LEAST, ERRORS * math.sqrt(variance))
    return Check(metric, stated.value, None if found is None else found.value, allowed)

"""Poisoned cases made on the spot."""

from __future__ import annotations

from ..core.case import Case, Origin
from .digits import Splits
from .poisons import Poison


def poisoned_case(poison: Poison, splits: Splits, seed: int = 0) -> Case:
    """Return a case whose suspect set is ``splits.train`` under *poison*; it holds no model.

    :param seed: decides which samples are poisoned.
    :raises SettingsError: when the poison does not fit the data.
    """
    train, truth = poison.poison(splits.train, seed)
    settings = poison.settings.dump()
    count = int(truth.poison.sum())
    return Case(
        train=train,
        clean=splits.clean if len(splits.clean) else None,
        test=splits.test,
        test_poisoned=poison.triggered_test(splits.test),
        truth=truth,
        origin=Origin("testbed", poison.name, {"poison": poison.name, "settings": settings, "seed": seed}),
        notes=(
            f"built-in testbed: {count} of {len(train)} training samples poisoned with {poison.name}",
            "the reserved clean set was set aside before poisoning and shares no sample with the suspect set",
        ),
    )

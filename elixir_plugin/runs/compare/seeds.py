"""What several seeds tell of a number: how far it spreads, and whether one is better than another."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import Any

ERRORS = 2  # standard errors by which the best has to be better at least, however many seeds there are
ROUNDING = 1e-9


def spread(by_seed: Mapping[int, float]) -> dict[str, Any]:
    """Return mean, sample standard deviation, 95 % interval of the mean, and the values themselves."""
    numbers = list(by_seed.values())
    mean, several = statistics.fmean(numbers), len(numbers) > 1
    std = statistics.stdev(numbers) if several else None
    half = None if std is None else quantile(0.975, len(numbers)) * std / math.sqrt(len(numbers))
    return {
        "mean": mean,
        "std": std,
        "low": None if half is None else mean - half,
        "high": None if half is None else mean + half,
        "best": False,
        "clear": False,
        "by_seed": {str(seed): value for seed, value in by_seed.items()},
    }


def quantile(share: float, count: int) -> float:
    """Return the quantile of Student's t for *count* values.

    >>> [round(quantile(0.95, count), 2) for count in (2, 3, 5)]
    [6.31, 2.92, 2.13]
    """
    from scipy.stats import t  # type: ignore[import-untyped]  # noqa: PLC0415  (slow)

    return float(t.ppf(share, count - 1))


def beats(value: Mapping[str, Any], other: Mapping[str, Any], way: str) -> bool:
    """Tell whether *value* is better than *other* by more than the seeds leave to chance.

    Both were measured on the same seeds, so their differences are tested: one-sided, at 5 %, and :data:`ERRORS`
    standard errors are needed at least. False for one seed.

    :param way: ``max`` where more is better, else ``min``.
    """
    sign = 1 if way == "max" else -1
    differences = [sign * (each - other["by_seed"][seed]) for seed, each in value["by_seed"].items()]
    if len(differences) < 2:
        return False
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    return bool(statistics.fmean(differences) > max(ERRORS, quantile(0.95, len(differences))) * error + ROUNDING)

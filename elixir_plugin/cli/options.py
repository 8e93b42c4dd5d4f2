"""Options that several commands share: KEY=VALUE, told in the same words everywhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click


def key_values(*declarations: str, sets: str, example: str, more: str = "") -> Callable[[Any], Any]:
    """Return a repeatable option ``KEY=VALUE``.

    :param sets: what it sets, in words.
    :param example: one assignment.
    :param more: a further sentence of the help.
    """
    said = f"Sets {sets}, e.g. {example}; repeatable.{' ' if more else ''}{more}"
    return click.option(*declarations, multiple=True, metavar="KEY=VALUE", help=said)

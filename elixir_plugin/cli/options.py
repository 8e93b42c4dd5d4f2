"""Options that several commands share: KEY=VALUE, told in the same words everywhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ..errors import InputError, shown
from ..io.opening import refuse_unusable


class PathType(click.Path):
    """A path that the system takes; whether something is there is for the command to say."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            refuse_unusable(Path(value))
        except InputError as error:
            self.fail(f"{shown(value)!r}: {error.found}", param, ctx)
        return super().convert(value, param, ctx)


def key_values(*declarations: str, sets: str, example: str, more: str = "") -> Callable[[Any], Any]:
    """Return a repeatable option ``KEY=VALUE``.

    :param sets: what it sets, in words.
    :param example: one assignment.
    :param more: a further sentence of the help.
    """
    said = f"Sets {sets}, e.g. {example}; repeatable.{' ' if more else ''}{more}"
    return click.option(*declarations, multiple=True, metavar="KEY=VALUE", help=said)

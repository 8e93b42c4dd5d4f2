"""``python -m elixir_plugin.adapters.trojanvision``: every defense registered, then a script, or a chain of parts.

A front end like the command line: it prints, and it turns errors into messages and exit codes.
"""

from __future__ import annotations

import argparse
import runpy
import sys
from pathlib import Path
from typing import Any

import click

from ...errors import ElixirError, SettingsError, nearest
from ...io.text import escape_control
from ...plugins import plugins
from .adapter import register

COMMAND = f"python -m {__package__}"


def main(arguments: list[str]) -> None:
    """Register, then run the script that *arguments* begin with, or trojanvision's usual chain of parts.

    Errors raised on purpose become messages and exit codes.
    """
    try:
        _run(arguments)
    except ElixirError as error:
        click.echo(escape_control(f"error: {error}"), err=True)
        sys.exit(error.exit_code)


def _run(arguments: list[str]) -> None:
    script = Path(arguments[0]) if arguments and arguments[0].endswith(".py") else None
    if script is not None and not script.is_file():
        raise SettingsError("no such script", where=Path.cwd(), found=script)
    sys.argv = arguments if script else [COMMAND, *arguments]
    register(baselines=_defense_of(arguments) in plugins().baselines())
    if script is None:
        _refuse_unnamed(arguments)
        chain()
        return
    sys.path.insert(0, str(script.absolute().parent))  # as python SCRIPT does
    runpy.run_path(str(script), run_name="__main__")


def _defense_of(arguments: list[str]) -> str | None:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--defense")
    named: str | None = parser.parse_known_args(arguments)[0].defense
    return named


def _refuse_unnamed(arguments: list[str]) -> None:
    """See that attack and defense are named: which flags there are depends on them."""
    import trojanvision  # noqa: PLC0415

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    known = {"attack": trojanvision.attacks.class_dict, "defense": trojanvision.defenses.class_dict}
    for part in known:
        parser.add_argument(f"--{part}")
    parser.add_argument("-h", "--help", action="store_true")
    given = parser.parse_known_args(arguments)[0]
    missing = [f"--{part}" for part in known if getattr(given, part) is None]
    for part, names in known.items():
        name = getattr(given, part)
        if name is not None and name not in names:
            raise SettingsError(
                f"unknown {part}", where=f"--{part}", found=name, allowed=", ".join(names), hint=nearest(name, names)
            )
    if given.help and missing:
        click.echo(f"usage: {COMMAND} [SCRIPT.py] --attack NAME --defense NAME [flags of each part]")
        for part, names in known.items():
            click.echo(f"\n{part}s: {', '.join(names)}")
        click.echo("\nWith both named, --help lists all flags. Flags of a defense begin with its name: --d3_epochs 20.")
        sys.exit(0)
    if missing:
        raise SettingsError(
            "not named", where="command line", found=f"no {' and no '.join(missing)}", hint="--help lists the names"
        )


def chain() -> None:
    """Create environment, dataset, model, trainer, mark and attack from ``sys.argv``, and run the defense on them."""
    import trojanvision  # noqa: PLC0415

    parts = ["datasets", "models", "trainer", "marks", "attacks", "defenses"]
    parser = argparse.ArgumentParser(description="run a defense in trojanvision")
    for part in ("environ", *parts):
        getattr(trojanvision, part).add_argument(parser)
    given = vars(parser.parse_args())
    trojanvision.environ.create(**given)
    made: dict[str, Any] = {}
    for part in parts:
        made[part.removesuffix("s")] = getattr(trojanvision, part).create(**{**given, **made})
        if part == "trainer":
            trainer = made.pop("trainer")  # it is for the defense's detect alone
    made["defense"].detect(**trainer)

"""TrojanZoo's vision part: every defense as a class in ``trojanvision.defenses.class_dict``.

.. code-block:: sh

    # a script of yours, or of trojanzoo's examples, that parses its arguments itself
    python -m elixir_plugin.adapters.trojanvision examples/backdoor_defense.py --attack badnet --defense d3 --d3_lam 0.5
    # the same without a script: all parts created from the command line, then the defense
    python -m elixir_plugin.adapters.trojanvision --dataset cifar10 --model resnet18_comp --attack badnet --defense d3

Or in Python, before arguments are parsed: ``elixir_plugin.adapters.trojanvision.register()``. The settings of a
defense are arguments ``--<defense>_<setting>``, and keys of ``configs/trojanvision/<defense>.yml``.

trojanvision is imported when :func:`register` is called. It is distributed as ``trojanzoo``; release 2.0.3 needs
Python 3.11 and matplotlib before 3.9.
"""

from __future__ import annotations

import argparse
import runpy
import sys
from functools import cache
from pathlib import Path
from typing import Any

import click

from ...api.registry import register_into
from ...defense import Defense, get_defense
from ...errors import ElixirError, PluginError, SettingsError, nearest
from ...io.text import escape_control
from .defenses import Behaviour, Filtering, Repairing, Training

COMMAND = f"python -m {__package__}"
KINDS: dict[str, tuple[type[Behaviour], str]] = {  # kind of defense -> behaviour, trojanvision's base
    "detect": (Filtering, "TrainingFiltering"),
    "purify": (Training, "BackdoorDefense"),
    "train": (Training, "BackdoorDefense"),
    "repair": (Repairing, "BackdoorDefense"),
}


def register(registry: Any = None, *, replace: bool = False) -> dict[str, Any]:
    """Put every defense into trojanvision's registry, and return name -> class. Calling it again changes nothing.

    :param registry: default: ``trojanvision.defenses.class_dict``.
    :param replace: let our names replace others that are there.
    :raises PluginError: when trojanvision cannot be imported.
    :raises SettingsError: when a name is taken by somebody else.
    """
    held = _defenses().class_dict if registry is None else registry
    own = [name for name, cls in held.items() if issubclass(cls, Behaviour)]
    for name in own:
        del held[name]
    return register_into(held, defense_class, replace=replace)


def defense_class(name: str) -> Any:
    """Return the class that is the defense *name* in trojanvision."""
    return _made(get_defense(name))


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
    register()
    if script is None:
        _refuse_unnamed(arguments)
        chain()
        return
    sys.path.insert(0, str(script.absolute().parent))  # as python SCRIPT does
    runpy.run_path(str(script), run_name="__main__")


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


@cache
def _made(cls: type[Defense]) -> Any:
    """Join our behaviour with trojanvision's base."""
    behaviour, base = KINDS[cls.kind]
    names = {
        "__module__": __package__,
        "__doc__": f"{cls.card.title} in trojanvision: {cls.card.claims}.\n\n{behaviour.__doc__}",
        "name": cls.name,
        "defense": cls,
    }
    return type(cls.__name__, (behaviour, getattr(_defenses(), base)), names)


def _defenses() -> Any:
    try:
        import trojanvision.defenses  # noqa: PLC0415
    except ImportError as error:
        raise PluginError(
            "trojanvision cannot be imported",
            where=__name__,
            found=" ".join(str(error).split()),
            hint='pip install "elixir_plugin[trojanvision]" (Python 3.11 or newer; matplotlib before 3.9)',
        ) from error
    return trojanvision.defenses

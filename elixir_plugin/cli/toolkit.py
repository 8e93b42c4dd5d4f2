"""``elixir-plugin toolkit …`` and ``elixir-plugin export``: into a toolkit's checkout, and into its formats.

Everything slow is imported inside the commands, so that ``--help`` answers at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..io.text import escape_control
from .options import PathType, key_values

if TYPE_CHECKING:
    from ..adapter import Adapter
    from ..runs.checkout import Change

_root = click.argument("root", metavar="PATH", type=PathType(path_type=Path, file_okay=False))
_modified = click.option(
    "--modified",
    type=click.Choice(["refuse", "keep", "discard"]),
    default="refuse",
    show_default=True,
    help="What to do with placed files that were edited since.",
)
FORMER = {"edited": "modified"}  # flags that are still understood -> what they are called
_understood = {"token_normalize_func": lambda token: FORMER.get(token, token)}


@click.group()
def toolkit() -> None:
    """Make the defenses callable from inside a toolkit's checkout, by its own command line."""


@toolkit.command(context_settings=_understood)
@click.argument("name", metavar="TOOLKIT")
@_root
@click.option("--defense", "defenses", multiple=True, help="Only this one; repeatable (default: the five built in).")
@_modified
def install(name: str, root: Path, defenses: tuple[str, ...], modified: str) -> None:
    """Place scripts and config files in the checkout of TOOLKIT at PATH; nothing that is there is overwritten."""
    from ..runs.checkout import place

    changes = place(_adapter(name).placement(root, _chosen(defenses)), root, modified=modified)  # type: ignore[arg-type]
    _report(changes, root)


@toolkit.command(context_settings=_understood)
@click.argument("name", metavar="TOOLKIT")
@_root
@_modified
def uninstall(name: str, root: Path, modified: str) -> None:
    """Take away what install placed in the checkout of TOOLKIT at PATH, and nothing else."""
    from ..runs.checkout import remove

    _report(remove(root, name, modified=modified), root)  # type: ignore[arg-type]


@toolkit.command()
@click.argument("name", metavar="TOOLKIT")
@_root
def status(name: str, root: Path) -> None:
    """Say what is placed in the checkout of TOOLKIT at PATH, and whether it is as it was placed."""
    from ..runs.checkout import inspect, placed_defenses

    names = [each for each in placed_defenses(root, name) if each in _registered()]
    _report(inspect(root, _adapter(name).placement(root, names)), root)


@click.command()
@click.argument("source", metavar="CASE_OR_RUN")
@click.option("--to", required=True, metavar="FORMAT", help="backdoorbench, backdoor_toolbox, image_folder or arrays.")
@click.argument("folder", metavar="DIR", type=PathType(path_type=Path))
@key_values("-o", "--option", "options", sets="an option of the adapter that reads", example="size=32")
@key_values("--to-option", "to_options", sets="an option of the adapter that writes", example="dataset=cifar10")
@click.option("--seed", default=0, show_default=True, help="Of what the reading adapter draws.")
def export(
    *, source: str, to: str, folder: Path, options: tuple[str, ...], to_options: tuple[str, ...], seed: int
) -> None:
    """Write a case (ADAPTER:PATH), or what a finished run left (its folder), to DIR in a toolkit's own format."""
    from ..core.settings import parse_assignments
    from ..runs.export import export as write

    read_with = parse_assignments(options, where="--option")
    write_with = parse_assignments(to_options, where="--to-option")
    written = write(source, to, folder, options=read_with, to_options=write_with, seed=seed)
    click.echo(escape_control(f"written: {folder}"))
    flags = "".join(f" -o {key}={value}" for key, value in written.options.items())
    click.echo(escape_control(f"read it with: --from {written.adapter}:{written.path}{flags}"))


def _adapter(name: str) -> Adapter:
    from ..adapter import get_adapter

    return get_adapter(name)()


def _registered() -> list[str]:
    from ..plugins import plugins

    return list(plugins().offers()["defense"])


def _chosen(names: tuple[str, ...]) -> list[str]:
    """Return *names* after checking them, else those of the defenses in the box, without the baselines."""
    from ..plugins import plugins

    for name in names:
        plugins().get("defense", name)
    offers = plugins().defenses()
    return sorted(names or (name for name, offer in offers.items() if offer.origin.startswith("elixir_plugin:")))


def _report(changes: Iterable[Change], root: Path) -> None:
    for change in changes:
        click.echo(escape_control(f"{change.state + ':':<24} {root / change.path}"))

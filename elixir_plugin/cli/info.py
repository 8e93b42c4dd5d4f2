"""Commands that look and change nothing: ``list``, ``show``, ``settings``, ``plugins`` and ``env``.

Everything slow is imported inside the commands, so that ``list`` answers at once.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import click

from .._version import __version__
from ..errors import SettingsError, nearest
from ..io.text import escape_control
from .completion import names_of
from .text import card_lines, settings_lines

if TYPE_CHECKING:
    from ..plugins import Offer

PART = {
    "defense": "defenses",
    "adapter": "adapters",
    "poison": "poisons",
    "architecture": "architectures",
    "denoiser": "denoisers",
    "generator": "generators",
}


@click.command("list")
def list_() -> None:
    """List defenses, baselines, adapters, poisons, architectures, denoisers and generators of image variations."""
    from ..plugins import plugins

    for kind, title in PART.items():
        offers = plugins().offers()[kind]
        _list_section(title, {name: offer for name, offer in offers.items() if not offer.entry.baseline})
        if kind == "defense":
            _list_section("baselines, which defenses are compared with", plugins().baselines())
    broken = [info.name for info in plugins().infos.values() if info.broken or info.refused]
    if broken:
        click.echo(
            escape_control(f"not everything was loaded ({', '.join(broken)}): see 'elixir-plugin plugins'"), err=True
        )


@click.command()
@click.argument("name", shell_complete=names_of(*PART))
@click.option("--expert", is_flag=True, help="Show all settings, also those that few users change.")
def show(*, name: str, expert: bool) -> None:
    """Show what NAME is, what it needs, and its settings."""
    from ..plugins import plugins

    offers = plugins().offers()
    for kind in PART:
        if name in offers[kind]:
            thing = plugins().get(kind, name)
            offer = offers[kind][name]
            what = "baseline" if offer.entry.baseline else kind
            click.echo(escape_control(f"{name} ({what}, from {offer.origin}): {offer.entry.summary}"))
            say(card_lines(thing))
            say(settings_lines(getattr(thing, "Settings", None) or getattr(thing, "Options", None), expert=expert))
            if kind == "denoiser":
                say([f"use:    --set denoiser={name}; look at it: elixir-plugin denoiser show {name} --image-size 32"])
            return
    known = [each for kind in PART for each in offers[kind]]
    raise SettingsError("unknown name", found=name, allowed="see 'elixir-plugin list'", hint=nearest(name, known))


@click.command()
def settings() -> None:
    """Print every setting of everything built in, as Markdown; docs/settings.md is made this way."""
    from .reference import reference as text

    click.echo(text(), nl=False)


@click.command()
@click.option("--json", "as_json", is_flag=True)
def plugins(as_json: bool) -> None:
    """List loaded plugins, their versions and hooks, and what was refused and why."""
    from ..plugins import plugins as loaded

    loaded().offers()
    infos = [vars(info) for info in loaded().infos.values()]
    if as_json:
        click.echo(json.dumps(infos, indent=2))
        return
    for info in infos:
        click.echo(escape_control(f"{info['name']} {info['version']}: {', '.join(info['hooks']) or 'no hooks'}"))
        for fault in [info["broken"], *info["refused"]]:
            if fault:
                click.echo(escape_control(f"  refused: {fault}"))


@click.command()
@click.option("--json", "as_json", is_flag=True)
def env(as_json: bool) -> None:
    """Show versions and devices; exit code 1 when something does not fit together."""
    from ..io.versions import inspect_environment

    report = inspect_environment()
    if as_json:
        click.echo(json.dumps(vars(report), indent=2))
    else:
        for name, value in {"elixir_plugin": __version__, **report.facts}.items():
            click.echo(f"{name:<14} {value}")
        for fault in report.faults:
            click.echo(f"\nproblem: {fault}", err=True)
    if report.faults:
        sys.exit(1)


def _list_section(title: str, offers: Mapping[str, Offer]) -> None:
    if not offers:
        return
    click.echo(f"{title}:")
    for name, offer in sorted(offers.items()):
        click.echo(escape_control(f"  {name:<19} {offer.entry.kind:<8} {offer.entry.summary}".rstrip()))


def say(lines: Iterable[str]) -> None:
    """Print *lines*."""
    for line in lines:
        click.echo(escape_control(line))

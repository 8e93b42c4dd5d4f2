"""``elixir-plugin report``: look at a finished run again."""

from __future__ import annotations

from pathlib import Path

import click

from .text import shown


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("-q", "--quiet", is_flag=True, help="Print nothing.")
def report(folder: Path, quiet: bool) -> None:
    """Make report.html and figures/ of the run in FOLDER anew, from its report.json; nothing is computed."""
    from ..report.single import write_report  # noqa: PLC0415  (slow)

    page, *figures = write_report(folder)
    if not quiet:
        click.echo(shown(f"report:  {page}"))
        if figures:
            click.echo(shown(f"figures: {len(figures)} files in {figures[0].parent}"))

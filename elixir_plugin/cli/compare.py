"""``elixir-plugin compare``: a table of defenses × cases from one YAML file.

Everything slow is imported inside the commands, so that ``--help`` answers at once.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import click

from ..io.process import going_on_unheard, refuse_tight_memory
from ..io.text import escape_control
from .info import say as say_lines
from .options import PathType


@click.command()
@click.argument("file", type=PathType(path_type=Path))
@click.option("--out", type=PathType(path_type=Path), help="Folder (default: as in FILE, or runs/compare-NAME).")
@click.option("--device", help="auto, cpu, cuda, cuda:1, … (default: that of the file).")
@click.option("--relearn", is_flag=True, help="Also measure how fast a few poison samples bring each backdoor back.")
@click.option("--dry-run", is_flag=True, help="List what is done and what is missing; run and write nothing.")
@click.option("-q", "--quiet", is_flag=True, help="No progress, no table.")
@click.option("--json", "as_json", is_flag=True, help="Print the content of results.json.")
def compare(
    *, file: Path, out: Path | None, device: str | None, relearn: bool, dry_run: bool, quiet: bool, as_json: bool
) -> None:
    """Run every defense on every case under every seed that FILE lists, and make one table.

    What is done already is kept; a run that fails is shown as failed, and the others go on. The exit code is 1 when
    any failed.
    """
    refuse_tight_memory()
    from ..runs.compare.run import default_folder, plan_cells, run_compare
    from ..runs.compare.spec import CompareSpec
    from ..runs.compare.table import table_lines

    spec = CompareSpec.from_yaml(file)
    if device is not None:
        spec = spec.model_copy(update={"device": device})
    if relearn:
        spec = spec.model_copy(update={"relearn": True})
    folder = out or Path(spec.out or default_folder(file))
    if dry_run:
        for cell in plan_cells(spec):
            place = cell.folder(folder)
            done = place is not None and (place / "report.json").is_file()
            state = "done" if done else f"cannot run: {cell.reason}" if place is None else "missing"
            click.echo(escape_control(f"{cell.defense} on {cell.case}, seed {cell.seed}: {state}"))
        return
    logging.getLogger("elixir_plugin").setLevel(logging.INFO)  # for log.txt; the terminal gets lines of its own
    loud = going_on_unheard(lambda line: click.echo(escape_control(line), err=True), 2)
    say = None if quiet or as_json else loud
    found = run_compare(spec, folder, quiet=quiet or as_json, on_line=say)
    if as_json:
        going_on_unheard(click.echo)(json.dumps(found.results, indent=2))
    elif not quiet:
        going_on_unheard(say_lines)([*table_lines(found.results, found.timings), f"page: {folder / 'compare.html'}"])
    if found.failed:
        click.echo(
            f"{found.failed} of {len(found.results['cells'])} runs failed; the same command tries them again.", err=True
        )
        sys.exit(1)

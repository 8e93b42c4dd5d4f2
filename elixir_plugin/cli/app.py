"""The command line; the only module that prints or configures logging.

Exit codes: 0 done, 1 failed, 2 wrong usage, 128 + the number of a signal that ended it: 130 Ctrl-C, 143 SIGTERM, 129
SIGHUP. Everything slow is imported inside the commands, so that ``--help`` and
``list`` answer at once.
"""

from __future__ import annotations

import copy
import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from .._version import __version__
from ..errors import MESSAGE, ElixirError, SettingsError, shown
from ..io.process import (
    clear_ends,
    exit_code_of,
    fill_closed_streams,
    folder_gone,
    going_on_unheard,
    interruption,
    refuse_tight_memory,
    stopped_by_signals,
)
from ..io.text import escape_control, with_flags
from .compare import compare
from .completion import completion, names_of, sources
from .denoiser import denoiser
from .info import env, list_, plugins, say, settings, show
from .options import PathType, key_values
from .report import cards, report
from .text import demo_header, demo_line, estimate_lines
from .toolkit import export, toolkit
from .zoo import zoo

if TYPE_CHECKING:
    from ..runs.spec import RunSpec


say_on = going_on_unheard(say)


class _Program(click.Group):
    """Turns every error raised on purpose into a message and an exit code."""

    def main(self, *args: Any, **options: Any) -> Any:
        try:
            return super().main(*args, **options)
        except OSError as error:
            # click ends quietly where whoever reads the output has gone, as after "| head -1"; to write a file fails
            # with a RunError, and what else concerns a file names it
            if error.filename is not None:
                raise
            with suppress(OSError):
                click.echo(f"error: the output cannot be written\n  found:   {error.strerror}", err=True)
            for stream in filter(None, (sys.stdout, sys.stderr)):  # one that was closed from the start is None
                _silence_broken(stream)
            sys.exit(1)

    def make_context(self, *args: Any, **options: Any) -> click.Context:
        with _bounded_usage_errors():
            return super().make_context(*args, **options)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with stopped_by_signals(), clear_ends(ctx.command_path), _bounded_usage_errors():
                if (gone := folder_gone()) is not None:
                    raise gone
                return super().invoke(ctx)
        except ElixirError as error:
            click.echo(escape_control(f"error: {error.told(with_flags(self._flags(ctx)))}"), err=True)
            sys.exit(error.exit_code)
        except KeyboardInterrupt as error:
            with suppress(OSError):  # the terminal may be gone
                click.echo(f"\n{interruption(error)}", err=True)
            code = exit_code_of(error)
            # since bpo-1054041, CPython takes a KeyboardInterrupt that leaves an exec of text, as dataclasses use, for
            # unhandled, and would end by the signal; the next exec takes that back
            exec("")  # noqa: S102
            sys.exit(code)

    def _flags(self, ctx: click.Context) -> set[str]:
        """Return the flags of the command that was called, with those of its subcommands."""
        command = self.get_command(ctx, ctx.invoked_subcommand or "")
        found = [command] if command is not None else []
        found += list(command.commands.values()) if isinstance(command, click.Group) else []
        return {flag for each in found for parameter in each.params for flag in parameter.opts}


@contextmanager
def _bounded_usage_errors() -> Iterator[None]:
    """Make what click says about a command line safe to show, however long it is and whatever it holds."""
    try:
        yield
    except click.ClickException as error:
        error.__dict__["message"] = shown(error.message, MESSAGE)  # declared final
        raise


def _silence_broken(stream: TextIO) -> None:
    """Drop what waits in a *stream* that cannot be written: at its end, Python would try again and show a traceback."""
    try:
        stream.flush()
    except OSError:
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@click.group(cls=_Program, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="elixir-plugin")
def program() -> None:
    """Strong defenses against poisoned training data, drop-in for the toolkits people already use."""


def _hidden(name: str, command: click.Command) -> click.Command:
    """Return *command* under its former *name*, which still works and is not listed."""
    alias = copy.copy(command)
    alias.name, alias.hidden = name, True
    return alias


for _command in (
    compare,
    denoiser,
    report,
    toolkit,
    export,
    zoo,
    cards,
    list_,
    show,
    settings,
    plugins,
    env,
    completion,
):
    program.add_command(_command)
for _command in (_hidden("results", cards), _hidden("reference", settings)):
    program.add_command(_command)


def main() -> None:
    """Entry point of the console script."""
    fill_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal may lack characters
    program()


@program.command()
@click.argument("target", shell_complete=names_of("defense", or_files=True))
@click.option(
    "--from",
    "source",
    metavar="ADAPTER:PATH",
    shell_complete=sources,
    help="Where the case is, e.g. backdoorbench:record/badnet_0_1.",
)
@click.option("--data", type=PathType(), help="Folder of the toolkit's clean data (short for --option data=…).")
@click.option("--clean", type=PathType(), help="Folder of the reserved clean set (short for --option clean=…).")
@key_values("-o", "--option", "options", sets="an option of the adapter", example="size=32")
@key_values("-s", "--set", "assignments", sets="a setting of the defense", example="epochs=20")
@click.option("--preset", help="Named settings below --set; see 'show DEFENSE'.")
@click.option("--retrain", "retrain", is_flag=True, help="Train a model on what the defense leaves, and measure it.")
@key_values(
    "--retrain-set",
    "retrain_values",
    sets="how --retrain trains that model",
    example="epochs=30",
    more="Main keys: architecture, epochs, batch_size, lr, augmentation.crop. Implies --retrain.",
)
@click.option(
    "--controls", is_flag=True, help="Also train without the denoiser, and on the clean set alone; implies --retrain."
)
@click.option(
    "--relearn",
    is_flag=True,
    help="Also measure how fast a few poison samples bring the backdoor back; implies --retrain.",
)
@click.option(
    "--spike",
    multiple=True,
    metavar="POISON",
    help="Plant this known poison in copies of the suspect set, and tell how much would have been found; repeatable.",
)
@key_values(
    "--spike-set",
    "spike_values",
    sets="what --spike plants",
    example="rates=[0.01,0.05]",
    more="Keys: poisons, rates, settings. Implies --spike.",
)
@click.option(
    "--recommend",
    is_flag=True,
    help="Also measure whether the denoiser is worth its cost, against filters that cost nothing; no truth needed.",
)
@click.option("--any-model", is_flag=True, help="Go on with a suspect model that does not fit the clean labels.")
@click.option("--seed", type=int, help="The one seed of the run (default 0).")
@click.option("--device", help="auto, cpu, cuda, cuda:1, … (default auto).")
@click.option("--threads", type=int, help="Threads of the CPU (default: as many as the run began with).")
@click.option("--out", type=PathType(), help="Run folder (default runs/DEFENSE-CASE-HASH).")
@click.option("--write-to", type=PathType(), help="Where files in the toolkit's format go (default: where it looks).")
@click.option("--no-write-back", is_flag=True, help="Write nothing in the toolkit's format.")
@click.option("--force", is_flag=True, help="Run anew, in a folder beside an existing one.")
@click.option("--preview", type=click.IntRange(0, 64), default=0, help="First write a picture of so many images.")
@click.option("--dry-run", is_flag=True, help="Say what it would cost, measured on a few batches; write nothing.")
@click.option("-q", "--quiet", is_flag=True, help="No progress, no table.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def run(*, target: str, force: bool, preview: int, dry_run: bool, quiet: bool, as_json: bool, **flags: Any) -> None:
    """Run a defense: TARGET is its name (with --from) or a YAML run file."""
    refuse_tight_memory()
    from ..runs.estimate import estimate_run
    from ..runs.run import run_defense

    _log_to_terminal(logging.ERROR)  # notes are printed with the result
    if dry_run:
        facts = estimate_run(_spec(target, flags), force=force)
        say([json.dumps(facts, indent=2)] if as_json else estimate_lines(facts))
        return
    silent = quiet or as_json
    result = run_defense(
        _spec(target, flags),
        force=force,
        quiet=silent,
        preview=preview,
        on_preview=lambda path: None if silent else say_on([f"preview: {path} (Ctrl-C to stop here)"]),
    )
    if not result.report:  # another rank than 0
        return
    if as_json:
        say_on([json.dumps(result.report, indent=2)])
    elif not quiet:
        say_on(result.lines())


def _spec(target: str, flags: dict[str, Any]) -> RunSpec:
    """Merge run file and flags; flags win."""
    from ..adapter import Source, get_adapter
    from ..core.settings import parse_assignments
    from ..defense import get_defense
    from ..evaluation.retraining import Retraining
    from ..runs.spec import RunSpec
    from ..runs.spike import Spike

    values: dict[str, Any]
    if target.endswith((".yaml", ".yml")):
        values = RunSpec.from_yaml(Path(target)).dump()
    elif flags["source"] is None:
        raise SettingsError(
            "where is the case?", where=f"run {target}", hint="add --from ADAPTER:PATH, or give a .yaml file"
        )
    else:
        values = {"defense": target}
    if flags["source"] is not None:
        values["source"] = Source.parse(flags["source"]).dump()
    shortcuts = {key: str(Path(flags[key]).absolute()) for key in ("data", "clean") if flags[key] is not None}
    given = {**parse_assignments(flags["options"], where="--option"), **shortcuts}
    source = values["source"]
    source["options"] = get_adapter(source["adapter"]).Options.overlaid(source["options"], given)
    given = parse_assignments(flags["assignments"], where="--set")
    values["settings"] = get_defense(values["defense"]).Settings.overlaid(values.get("settings", {}), given)
    direct = ("preset", "seed", "device", "threads", "out", "write_to")
    values |= {key: flags[key] for key in direct if flags[key] is not None}
    if flags["no_write_back"]:
        values["write_back"] = False
    if flags["retrain"] or flags["retrain_values"]:
        given = parse_assignments(flags["retrain_values"], where="--retrain-set")
        values["retrain"] = Retraining.overlaid(values.get("retrain") or {}, given)
    if flags["spike"] or flags["spike_values"]:
        given = parse_assignments(flags["spike_values"], where="--spike-set")
        named = {"poisons": list(flags["spike"])} if flags["spike"] else {}
        values["spike"] = Spike.overlaid(values.get("spike") or {}, {**named, **given})
    values |= {key: True for key in ("controls", "relearn", "recommend", "any_model") if flags[key]}
    return RunSpec.build(values, where=target)


@program.command()
@click.option("--poison", default="badnets", show_default=True, help="Which poison to plant; see 'list'.")
@click.option("--size", default=16, show_default=True, type=click.IntRange(8, 64), help="Edge length of the digits.")
@click.option("--only", multiple=True, metavar="DEFENSE", help="Run this defense alone; repeatable.")
@click.option("--seed", default=0, show_default=True)
@click.option("--device", default="auto", show_default=True)
@click.option("--out", type=PathType(path_type=Path), default=Path("runs/demo"), show_default=True)
def demo(*, poison: str, size: int, only: tuple[str, ...], seed: int, device: str, out: Path) -> None:
    """Poison embedded digits, train a suspect classifier, run every defense; no download.

    Exit code 1 when a defense failed; one that is skipped for want of something it needs has not.
    """
    refuse_tight_memory()
    from ..core.context import Context, resolve_device
    from ..plugins import plugins
    from .demo import run_demo

    if size % 8:
        raise SettingsError(
            "digits are scaled by whole factors", where="--size", found=size, allowed="8, 16, 24, 32, …"
        )
    _log_to_terminal(logging.ERROR)
    chosen = plugins().get("poison", poison)()
    for name in only:
        plugins().get("defense", name)
    values = ", ".join(f"{key}={value}" for key, value in chosen.settings.dump().items())
    say_on([f"digits {size}×{size}, poison {poison} ({values}), seed {seed}: training the suspect model …"])
    say_on(demo_header())
    context = Context(seed=seed, device=resolve_device(device), quiet=False)
    started = time.perf_counter()
    rows = run_demo(chosen, context, out, size=size, only=only, on_row=lambda row: say_on([demo_line(row)]))
    say_on([f"{time.perf_counter() - started:.0f} seconds in all, with the suspect model and the reports"])
    say_on([f"reports: {out / '*' / 'report.html'}, {out / 'report.json'}"])
    if failed := [row.defense for row in rows if row.failed]:
        click.echo(escape_control(f"failed: {', '.join(failed)}"), err=True)
        sys.exit(1)


def _log_to_terminal(level: int) -> None:
    """Show what is logged under *level* or above, and what a person wants to know before a long run goes on."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    handler.addFilter(lambda record: record.levelno >= level or getattr(record, "at_once", False))
    handler.addFilter(lambda record: not hasattr(record, "raised"))  # that is printed when it arrives
    logger = logging.getLogger("elixir_plugin")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)

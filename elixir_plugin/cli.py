"""The command line; the only module that prints or configures logging.

Exit codes: 0 done, 1 failed, 2 wrong usage. Everything slow is imported inside the commands, so that ``--help`` and
``list`` answer at once.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import __version__
from .denoiser_commands import denoiser
from .errors import ElixirError, SettingsError

if TYPE_CHECKING:
    from .config import RunSpec
    from .demo import Row
    from .evaluation import ModelMetrics
    from .run import RunResult

PART = {"defense": "defenses", "adapter": "adapters", "poison": "poisons", "architecture": "architectures"}


class _Program(click.Group):
    """Turns every error raised on purpose into a message and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ElixirError as error:
            click.echo(shown(f"error: {error}"), err=True)
            sys.exit(error.exit_code)
        except KeyboardInterrupt:
            click.echo("\ninterrupted; nothing half-written is left. Run the same command again to go on.", err=True)
            sys.exit(1)


@click.group(cls=_Program, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="elixir-plugin")
def program() -> None:
    """Strong defenses against poisoned training data, drop-in for the toolkits people already use."""


program.add_command(denoiser)


def main() -> None:
    """Entry point of the console script."""
    program()


@program.command()
@click.argument("target")
@click.option(
    "--from", "source", metavar="ADAPTER:PATH", help="Where the case is, e.g. backdoorbench:record/badnet_0_1."
)
@click.option("--data", type=click.Path(), help="Folder of the toolkit's clean data (short for --option data=…).")
@click.option("--clean", type=click.Path(), help="Folder of the reserved clean set (short for --option clean=…).")
@click.option("-o", "--option", "options", multiple=True, metavar="KEY=VALUE", help="Adapter option; repeatable.")
@click.option("-s", "--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Defense setting; repeatable.")
@click.option("--preset", help="Named settings below --set; see 'show DEFENSE'.")
@click.option("--retrain", "retrain", is_flag=True, help="Train a model on what the defense leaves, and measure it.")
@click.option(
    "--retrain-set", "retrain_values", multiple=True, metavar="KEY=VALUE", help="How, e.g. epochs=30; repeatable."
)
@click.option(
    "--controls", is_flag=True, help="Also train without the denoiser, and on the clean set alone; implies --retrain."
)
@click.option("--seed", type=int, help="The one seed of the run (default 0).")
@click.option("--device", help="auto, cpu, cuda, cuda:1, … (default auto).")
@click.option("--out", type=click.Path(), help="Run folder (default runs/DEFENSE-CASE-HASH).")
@click.option("--write-to", type=click.Path(), help="Where files in the toolkit's format go (default: where it looks).")
@click.option("--no-write-back", is_flag=True, help="Write nothing in the toolkit's format.")
@click.option("--force", is_flag=True, help="Run anew, in a folder beside an existing one.")
@click.option("-q", "--quiet", is_flag=True, help="No progress, no table.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def run(target: str, force: bool, quiet: bool, as_json: bool, **flags: Any) -> None:
    """Run a defense: TARGET is its name (with --from) or a YAML run file."""
    from .run import run_defense

    _log_to_terminal(logging.ERROR)  # notes are printed with the result
    result = run_defense(_spec(target, flags), force=force, quiet=quiet or as_json)
    if not result.report:  # another rank than 0
        return
    if as_json:
        click.echo(json.dumps(result.report, indent=2))
    elif not quiet:
        _print_result(result)


def _spec(target: str, flags: dict[str, Any]) -> RunSpec:
    """Merge run file and flags; flags win."""
    from .config import RunSpec, Source, parse_assignments

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
    values["source"]["options"] |= {**parse_assignments(flags["options"], where="--option"), **shortcuts}
    values["settings"] = {**values.get("settings", {}), **parse_assignments(flags["assignments"])}
    values |= {key: flags[key] for key in ("preset", "seed", "device", "out", "write_to") if flags[key] is not None}
    if flags["no_write_back"]:
        values["write_back"] = False
    if flags["retrain"] or flags["retrain_values"]:
        given = parse_assignments(flags["retrain_values"], where="--retrain-set")
        values["retrain"] = {**(values.get("retrain") or {}), **given}
    if flags["controls"]:
        values["controls"] = True
    return RunSpec.build(values, where=target)


@program.command()
@click.option("--poison", default="badnets", show_default=True, help="Which poison to plant; see 'list'.")
@click.option("--size", default=16, show_default=True, type=click.IntRange(8, 64), help="Edge length of the digits.")
@click.option("--only", multiple=True, metavar="DEFENSE", help="Run this defense alone; repeatable.")
@click.option("--seed", default=0, show_default=True)
@click.option("--device", default="auto", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/demo"), show_default=True)
def demo(*, poison: str, size: int, only: tuple[str, ...], seed: int, device: str, out: Path) -> None:
    """Poison embedded digits, train a suspect classifier, run every defense; no download."""
    from .context import Context, resolve_device
    from .demo import run_demo
    from .plugins import plugins

    if size % 8:
        raise SettingsError(
            "digits are scaled by whole factors", where="--size", found=size, allowed="8, 16, 24, 32, …"
        )
    _log_to_terminal(logging.ERROR)
    chosen = plugins().get("poison", poison)()
    for name in only:
        plugins().get("defense", name)
    values = ", ".join(f"{key}={value}" for key, value in chosen.settings.dump().items())
    click.echo(f"digits {size}×{size}, poison {poison} ({values}), seed {seed}: training the suspect model …")
    click.echo(_line("defense", "ACC", "", "ASR", "", "found", "false", "seconds"))
    click.echo(_line("", "before", "after", "before", "after", "poison", "alarms", ""))
    context = Context(seed=seed, device=resolve_device(device), quiet=False)
    run_demo(chosen, context, out, size=size, only=only, on_row=_print_row)
    click.echo(f"report: {out / 'report.json'}")


@program.command("list")
def list_() -> None:
    """List defenses, adapters, poisons and architectures."""
    from .plugins import plugins

    for kind, title in PART.items():
        click.echo(f"{title}:")
        for name, offer in sorted(plugins().offers()[kind].items()):
            click.echo(shown(f"  {name:<18} {offer.entry.kind:<8} {offer.entry.summary}".rstrip()))
    broken = [info.name for info in plugins().infos.values() if info.broken or info.refused]
    if broken:
        click.echo(shown(f"not everything was loaded ({', '.join(broken)}): see 'elixir-plugin plugins'"), err=True)


@program.command()
@click.argument("name")
def show(name: str) -> None:
    """Show what NAME is, what it needs, and its settings."""
    from .plugins import plugins

    offers = plugins().offers()
    for kind in PART:
        if name in offers[kind]:
            thing = plugins().get(kind, name)
            click.echo(shown(f"{name} ({kind}, from {offers[kind][name].origin}): {offers[kind][name].entry.summary}"))
            _show_card(thing)
            _show_settings(getattr(thing, "Settings", None) or getattr(thing, "Options", None))
            return
    from .errors import nearest

    known = [each for kind in PART for each in offers[kind]]
    raise SettingsError("unknown name", found=name, allowed="see 'elixir-plugin list'", hint=nearest(name, known))


@program.command()
@click.option("--json", "as_json", is_flag=True)
def plugins(as_json: bool) -> None:
    """List loaded plugins, their versions and hooks, and what was refused and why."""
    from .plugins import plugins as loaded

    loaded().offers()
    infos = [vars(info) for info in loaded().infos.values()]
    if as_json:
        click.echo(json.dumps(infos, indent=2))
        return
    for info in infos:
        click.echo(shown(f"{info['name']} {info['version']}: {', '.join(info['hooks']) or 'no hooks'}"))
        for fault in [info["broken"], *info["refused"]]:
            if fault:
                click.echo(shown(f"  refused: {fault}"))


@program.command()
@click.option("--json", "as_json", is_flag=True)
def env(as_json: bool) -> None:
    """Show versions and devices; exit code 1 when something does not fit together."""
    from .environment import inspect_environment

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


def shown(text: str) -> str:
    """Return *text* with control characters made visible, so that no input can drive the terminal."""
    return "".join(char if char.isprintable() or char == "\n" else repr(char)[1:-1] for char in text)


def _log_to_terminal(level: int) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    handler.setLevel(level)
    logger = logging.getLogger(__package__)
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)


def _print_result(result: RunResult) -> None:
    report = result.report
    run_, metrics, outcome = report["run"], report["metrics"], report["outcome"]
    source = run_["source"]
    state = "already done: " if result.already_done else ""
    click.echo(shown(f"{state}{run_['defense']} on {source['adapter']}:{source['path']} (seed {run_['seed']})"))
    if metrics["before"] or metrics["after"]:
        click.echo(f"{'':<22}{'ACC':>9}{'ASR':>9}{'RA':>9}")
        for when in ("before", "after"):
            if (values := metrics[when]) is None:
                continue
            click.echo(_scores(when, values))
        for name, values in metrics["controls"].items():
            click.echo(_scores(f"  control: {name}", values))
    if metrics["der"] is not None:
        click.echo(f"DER {metrics['der']:.3f}")
    if metrics["detection"]:
        found = metrics["detection"]
        click.echo(
            f"flagged {found['flagged']}: TPR {_percent(found['tpr'])}, FPR {_percent(found['fpr'])}, "
            f"AUROC {_plain(found['auroc'])}, AP {_plain(found['average_precision'])}"
        )
    if outcome["verdict"]:
        verdict = outcome["verdict"]
        word = {True: "poisoned", False: "no evidence of poison", None: "none"}[verdict["poisoned"]]
        click.echo(shown(f"verdict: {word} ({_plain(verdict['score'])}: {verdict['meaning']})"))
    if outcome["flagged"] is not None and not metrics["detection"]:
        click.echo(f"flagged: {outcome['flagged']} suspect samples")
    seconds = ", ".join(f"{stage} {value:.1f}" for stage, value in outcome["timings"].items())
    click.echo(f"seconds: {seconds}")
    for note in report["notes"]:
        click.echo(shown(f"note: {note}"))
    click.echo(shown(f"report:  {result.folder / 'report.json'}"))
    for path in result.written:
        click.echo(shown(f"written: {path}"))


def _print_row(row: Row) -> None:
    if row.evaluation is None:
        click.echo(shown(f"{row.defense:<20}{row.remark}"))
        return
    before, after, found = row.evaluation.before, row.evaluation.after, row.evaluation.detection
    click.echo(
        _line(
            row.defense,
            *_pair(before, after, "acc"),
            *_pair(before, after, "asr"),
            _percent(found.tpr if found else None),
            _percent(found.fpr if found else None),
            f"{row.seconds:.1f}",
        )
    )


def _pair(before: ModelMetrics | None, after: ModelMetrics | None, key: str) -> tuple[str, str]:
    return _percent(getattr(before, key, None)), _percent(getattr(after, key, None))


def _line(name: str, *cells: str) -> str:
    return f"{name:<20}" + "".join(f"{cell:>9}" for cell in cells)


def _scores(name: str, values: dict[str, float | None]) -> str:
    return f"{name:<22}" + "".join(f"{_percent(values.get(key)):>9}" for key in ("acc", "asr", "ra"))


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _plain(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _show_card(thing: Any) -> None:
    card = getattr(thing, "card", None)
    if card is not None:
        click.echo(f"needs:  {', '.join(sorted(thing.needs)) or 'nothing'}")
        for field in ("title", "paper", "claims", "cost", "limits"):
            click.echo(f"{field + ':':<8}{getattr(card, field)}")


def _show_settings(settings: Any) -> None:
    from .config import Settings

    if not (isinstance(settings, type) and issubclass(settings, Settings)):
        return
    click.echo("settings:")
    for name, field in settings.model_fields.items():
        bounds = ", ".join(_bound(item) for item in field.metadata if _bound(item))
        kind = str(field.annotation) if "[" in str(field.annotation) else getattr(field.annotation, "__name__", "")
        default = field.get_default(call_default_factory=True)
        click.echo(f"  {name} = {default!r}  ({kind.replace('typing.', '')}{', ' + bounds if bounds else ''})")
        if field.description:
            click.echo(f"      {field.description}")
    for name, values in settings.presets.items():
        click.echo(f"preset {name}: " + ", ".join(f"{key}={value}" for key, value in values.items()))


def _bound(item: Any) -> str:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    return ", ".join(f"{signs[key]} {getattr(item, key)}" for key in signs if getattr(item, key, None) is not None)

"""``elixir-plugin zoo …``: poisoned sets under one name each, made from base data and a seed, and checked.

Everything slow is imported inside the commands, so that ``--help`` answers at once.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import SettingsError
from ..io.text import escape_control
from .info import say
from .options import key_values

if TYPE_CHECKING:
    from ..zoo.verify import Verdict

_base = click.option(
    "--base",
    metavar="WHAT",
    help="What is poisoned: digits, a folder of images or of CIFAR's batches, or ADAPTER:PATH.",
)
_options = key_values(
    "-o",
    "--option",
    "options",
    sets="an option of the testbed",
    example="recipe.epochs=10",
    more="Main keys: size, clean, test, architecture, recipe, base_options.",
)


@click.group()
def zoo() -> None:
    """Poisoned sets with a name: list them, make them from your own data, verify them."""


@zoo.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print the entries as JSON.")
def list_(*, as_json: bool) -> None:
    """List the sets of the zoo: attack, rate, kind, what the base must have, and whose attack it is."""
    from ..zoo.entries import ZOO

    rows = []
    for entry in ZOO.values():
        attack = entry.attack()
        values = attack.settings.dump()
        facts = {"name": entry.name, "poison": entry.poison, "rate": values["rate"], "kind": attack.kind}
        rows.append({**facts, "needs": entry.needs, "about": entry.about, "paper": entry.paper, "settings": values})
    if as_json:
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    for row in rows:
        click.echo(f"{row['name']:<28}{row['rate']:>6.1%}  {row['kind']:<15}{row['about']}")
        click.echo(f"{'':<36}{row['paper']}; needs {row['needs']}")


@zoo.command("make")
@click.argument("name")
@_base
@click.option(
    "--to",
    type=click.Choice(["image_folder", "backdoorbench", "arrays"]),
    default="image_folder",
    show_default=True,
    help="Format.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder (default: zoo/NAME).")
@click.option("--seed", default=0, show_default=True, help="Decides split, poisoned samples and suspect model.")
@click.option("--no-model", is_flag=True, help="Train no suspect model.")
@click.option("--device", default="cpu", show_default=True, help="That the suspect model is trained on.")
@_options
@click.option("-q", "--quiet", is_flag=True, help="Print nothing.")
def make_(
    *,
    name: str,
    base: str | None,
    to: Any,
    out: Path | None,
    seed: int,
    no_model: bool,
    device: str,
    options: tuple[str, ...],
    quiet: bool,
) -> None:
    """Make the set NAME in a new folder, with its suspect model and a manifest, zoo.json."""
    from ..core.settings import parse_assignments
    from ..zoo.entries import find_entry
    from ..zoo.formats import how_to_read
    from ..zoo.make import DIGITS, make

    entry = find_entry(name)
    folder = out or Path("zoo") / name
    given = parse_assignments(options, where="--option")
    manifest = make(
        entry,
        folder,
        base=base or DIGITS,
        to=to,
        seed=seed,
        options=given,
        model=not no_model,
        device=device,
        quiet=quiet,
    )
    if quiet:
        return
    attack, model = manifest.attack, manifest.model
    covers = f" and {attack.covers} covers" if attack.covers else ""
    samples = manifest.content.parts["train"].samples
    click.echo(escape_control(f"made:    {folder}, {attack.poisoned} poison samples{covers} of {samples:,}"))
    if model is not None:
        shares = {"ACC": model.acc, "ASR": model.asr}
        click.echo("model:   " + ", ".join(f"{key} {value:.1%}" for key, value in shares.items() if value is not None))
    click.echo(f"hash:    {manifest.content.sha256}")
    source = how_to_read(manifest.read, folder)
    flags = "".join(f" -o {key}={_flag(value)}" for key, value in source.options.items())
    click.echo(escape_control(f"read it: --from {source.adapter}:{source.path}{flags}"))


@zoo.command("verify")
@click.argument("words", metavar="[NAME] DIR", nargs=-1, required=True)
@click.option("--rebuild", "again", is_flag=True, help="Also make the set anew from its base, and compare.")
@click.option("--retrain", is_flag=True, help="Also train the suspect model anew, and compare; implies --rebuild.")
@_base
@_options
@click.option("-q", "--quiet", is_flag=True, help="Print faults alone.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def verify_(
    *,
    words: tuple[str, ...],
    again: bool,
    retrain: bool,
    base: str | None,
    options: tuple[str, ...],
    quiet: bool,
    as_json: bool,
) -> None:
    """Check the set in DIR against its manifest, file by file and sample by sample; exit code 1 for any fault.

    With NAME, the set must be of this name. Nothing is written, and without --rebuild nothing is made anew.
    """
    from ..core.settings import parse_assignments
    from ..zoo.entries import find_entry
    from ..zoo.verify import rebuild, verify

    if len(words) > 2:
        raise SettingsError("too many arguments", where="zoo verify", found=" ".join(words), allowed="[NAME] DIR")
    given = parse_assignments(options, where="--option")
    if (base is not None or given) and not (again or retrain):
        raise SettingsError("this is for making the set anew", where="--base, --option", allowed="with --rebuild")
    name = find_entry(words[0]).name if len(words) == 2 else None
    verdict = verify(Path(words[-1]), name)
    if again or retrain:
        rebuild(verdict, base=base, options=given, retrain=retrain)
    if as_json:
        click.echo(json.dumps(_facts(verdict), indent=2))
    else:
        say(_lines(verdict, quiet, retrain))
    if not verdict.sound:
        sys.exit(1)


@zoo.command("hashes")
def hashes() -> None:
    """Compute the hashes of the digits under every entry, as JSON; elixir_plugin/zoo/digits.json is made this way."""
    from ..zoo.known import made_hashes

    click.echo(json.dumps(dict(made_hashes()), indent=2))


def _flag(value: Any) -> str:
    return json.dumps(value) if isinstance(value, list | tuple) else str(value)


def _facts(verdict: Verdict) -> dict[str, Any]:
    manifest = verdict.manifest
    return {
        "entry": manifest.entry,
        "sound": verdict.sound,
        "known": verdict.known,
        "sha256": manifest.content.sha256,
        "faults": verdict.faults,
        "notes": verdict.notes,
    }


def _lines(verdict: Verdict, quiet: bool, retrained: bool) -> Iterator[str]:
    yield from (f"fault:   {fault}" for fault in verdict.faults)
    if quiet:
        return
    manifest = verdict.manifest
    count = len(manifest.files)
    found = f"as made: {count:,} files" if verdict.sound else f"not as made: {len(verdict.faults)} faults"
    yield f"{verdict.folder}: {manifest.entry}, {found}"
    yield f"hash:    {manifest.content.sha256}"
    if verdict.sound:
        said = "the set of the zoo" if verdict.known else "its own alone: the zoo knows no hash for this base and seed"
        yield f"known:   {said}"
    yield from (f"note:    {note}" for note in verdict.notes)
    if manifest.model is not None and not retrained:
        yield "note:    --retrain trains the suspect model again and compares it"

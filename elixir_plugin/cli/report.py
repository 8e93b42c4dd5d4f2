"""``elixir-plugin cards …``: what was measured beside what others report, and new cards from finished runs."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ..errors import SettingsError
from ..io.text import escape_control
from .completion import names_of
from .options import PathType

UNITS = "accuracies and rates in percent, AUROC and DER times 100; over seeds with range or deviation"


@click.group(invoke_without_command=True)
@click.option(
    "--cards", "folders", type=PathType(path_type=Path), multiple=True, help="Folder of more cards; repeatable."
)
@click.option("--defense", shell_complete=names_of("defense"), help="Only the cards of this defense.")
@click.option("--json", "as_json", is_flag=True, help="Print the cards as JSON.")
@click.option("--html", "site", type=PathType(path_type=Path), help="Write leaderboard.html to this folder instead.")
@click.pass_context
def cards(
    context: click.Context, *, folders: tuple[Path, ...], defense: str | None, as_json: bool, site: Path | None
) -> None:
    """Print what was measured, beside what is reported elsewhere."""
    if context.invoked_subcommand is not None:
        return
    from ..runs.cards import BUILT_IN, card_lines_of, load_cards
    from ..runs.published import load_published, published_lines

    found = [card for card in load_cards(BUILT_IN, *folders) if defense in (None, card.defense)]
    if as_json:
        click.echo(json.dumps([card.dump() for card in found], indent=2))
        return
    if found and site is None:
        click.echo(UNITS)
    claims = load_published()
    if site is not None:
        from ..runs.leaderboard import write_leaderboard

        page, *_ = write_leaderboard(site, found, claims)
        click.echo(escape_control(f"page: {page}"))
        return
    for card in found:
        click.echo()
        for line in [*card_lines_of(card), *published_lines(card, claims)]:
            click.echo(escape_control(line))
    if not found:
        click.echo(escape_control(f"no result card{'' if defense is None else ' of ' + defense}"))


@cards.command()
@click.argument("runs", nargs=-1, required=True, type=PathType(path_type=Path))
@click.option("--to", type=PathType(path_type=Path), default=Path("cards"), show_default=True, help="Folder.")
@click.option("--case", help="What was defended, in words (default: adapter and name).")
@click.option("-r", "--reported", multiple=True, metavar="METRIC=SHARE", help="A reported number, e.g. asr=0.02.")
@click.option("--by", help="Who reports them: paper and table.")
def add(*, runs: tuple[Path, ...], to: Path, case: str | None, reported: tuple[str, ...], by: str | None) -> None:
    """Make a card from finished run folders RUNS that differ in their seed alone."""
    from ..core.settings import parse_assignments
    from ..runs.cards import Reported, card_from_runs, card_lines_of, save_card

    if bool(reported) != (by is not None):
        raise SettingsError("reported numbers and who reports them go together", where="--reported, --by")
    others = []
    if by is not None:
        numbers = parse_assignments(reported, where="--reported")
        others = [Reported.build({"source": by, "numbers": numbers}, where="--reported")]
    card = card_from_runs(runs, case=case, reported=others)
    file = save_card(card, to)
    for line in card_lines_of(card):
        click.echo(escape_control(line))
    click.echo(escape_control(f"card: {file}"))


@cards.command()
@click.argument("file", type=PathType(path_type=Path))
@click.option("--from", "source", metavar="ADAPTER:PATH", help="Where its data lie, unless the testbed makes them.")
@click.option(
    "--out", type=PathType(path_type=Path), default=Path("verify"), show_default=True, help="Folder of the runs."
)
def verify(*, file: Path, source: str | None, out: Path) -> None:
    """Run the card FILE again with each of its seeds, and say whether it still holds.

    Exit code 1: some number does not. A killed command goes on where it stopped.
    """
    from ..adapter import Source
    from ..runs.cards import read_card, share_text
    from ..runs.verify import verify_card

    card = read_card(file)
    place = None
    if source is not None:
        options = ((card.run or {}).get("source") or {}).get("options", {})
        place = Source.build({**Source.parse(source, where="--from").dump(), "options": options}, where=str(file))
    checks = verify_card(card, out, place)
    click.echo(escape_control(f"{card.defense} on {card.case}, seeds {', '.join(map(str, card.seeds))}"))
    for each in checks:
        said = "holds" if each.holds else "does not hold"
        click.echo(
            f"  {each.metric.upper():<8}card {share_text(each.stated):>6}   again {share_text(each.found):>6}"
            f"   may differ by {100 * each.allowed:.1f}   {said}"
        )
    if not all(each.holds for each in checks):
        raise click.exceptions.Exit(1)


@cards.command()
@click.pass_context
def published(context: click.Context) -> None:
    """Print what papers and repositories publish, with what was measured here on the same attack and defense.

    Options go before the command: `elixir-plugin cards --defense d3 published`.
    """
    from ..runs.cards import BUILT_IN, load_cards
    from ..runs.published import claim_lines, load_published

    given = (context.parent or context).params
    claims = [claim for claim in load_published() if given["defense"] in (None, claim.row.defense)]
    if given["as_json"]:
        rows = [{**claim.table.dump(), "rows": [claim.row.dump()]} for claim in claims]
        click.echo(json.dumps(rows, indent=2))
        return
    click.echo(UNITS if claims else f"no published numbers of {escape_control(given['defense'])}")
    for line in claim_lines(claims, load_cards(BUILT_IN, *given["folders"])):
        click.echo(escape_control(line))


@click.command()
@click.argument("folder", type=PathType(path_type=Path))
@click.option("-q", "--quiet", is_flag=True, help="Print nothing.")
def report(folder: Path, quiet: bool) -> None:
    """Make report.html and figures/ of the run in FOLDER anew, from its report.json; nothing is computed."""
    from ..report.single import write_report

    page, *figures = write_report(folder)
    if not quiet:
        click.echo(escape_control(f"report:  {page}"))
        if figures:
            click.echo(escape_control(f"figures: {len(figures)} files in {figures[0].parent}"))

"""Numbers that papers and repositories publish, and how what was measured here compares with each.

Each file in ``elixir_plugin/results/published/`` holds one table of one source. A published number and one of ours are
set side by side only where attack and defense are the same, and always with what differs between them: data, size,
network, poison rate, reserved clean images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from ..core.settings import Settings
from ..errors import InputError
from ..io.reading import read_json
from .cards import METRICS, Metric, ResultCard, Share, made_text, measured_text, share_text
from .conditions import Conditions

PUBLISHED = Path(__file__).parent.parent / "results" / "published"
Relation = Literal["same setting", "smaller", "another setting"]


class PublishedRow(Settings):
    """One published number, or several of one model."""

    attack: str = Field(description="by the name it has here, or by its own; `clean`: no poison")
    defense: str = Field(description="by the name it has here, or by its own")
    before: dict[Metric, Share] = Field({}, description="of the undefended model")
    numbers: dict[Metric, Share] = Field(min_length=1, description="with the defense")
    setting: Conditions = Field(Conditions(), description="what differs from the setting of the table")
    doubtful: bool = Field(False, description="whether it is among what the table's `doubts` speak of")


class PublishedTable(Settings):
    """One table of one source."""

    format: int = Field(1, ge=1, le=1, description="version of this format")
    source: str = Field(description="paper or repository")
    table: str = Field(description="which table of it")
    read: Literal["at the source", "second-hand"] = Field(description="where the numbers were read")
    copy_of: str = Field("", alias="copy", description="the copy that they were read in, if second-hand")
    doubts: str = Field("", description="what speaks against some of them")
    setting: Conditions = Field(description="what the numbers were measured on")
    rows: tuple[Annotated[PublishedRow, Field()], ...] = Field(min_length=1, description="the numbers")


class Claim:
    """One row with the table it stands in."""

    def __init__(self, table: PublishedTable, row: PublishedRow) -> None:
        self.table, self.row = table, row
        self.setting = table.setting.with_other(row.setting)

    def source(self) -> str:
        """Return who says so, and what to think of it."""
        told = [f"{self.table.source}, {self.table.table}"]
        if self.table.read == "second-hand":
            told.append(f"second-hand: {self.table.copy_of}")
        if self.row.doubtful:
            told.append(f"doubtful: {self.table.doubts}")
        return "; ".join(told)


def load_published(folder: Path = PUBLISHED) -> list[Claim]:
    """Return every row of the tables in *folder*, by file name.

    :raises InputError: for a folder or file that cannot be read.
    :raises SettingsError: for a file that holds no such table.

    >>> {claim.row.defense for claim in load_published()} >= {"d3", "eclipse", "jpeg"}
    True
    """
    if not folder.is_dir():
        raise InputError("folder of published numbers not found", where=folder)
    return [
        Claim(table, row) for file in sorted(folder.glob("*.json")) for table in [_read(file)] for row in table.rows
    ]


def _read(file: Path) -> PublishedTable:
    content = read_json(file)
    if not isinstance(content, dict):
        raise InputError("not a table of numbers", where=file, found=type(content).__name__, allowed="an object")
    return PublishedTable.build(content, where=str(file))


def relation(ours: Conditions, published: Conditions) -> tuple[Relation, list[str]]:
    """Say how a setting of ours is to a published one, and list what differs, ours first.

    >>> relation(Conditions(images=5000, rate=0.1), Conditions(images=50_000, rate=0.1))
    ('smaller', ['5,000 of 50,000 images'])
    """
    differences = ours.differences(published)
    if not differences:
        return "same setting", []
    fewer = ours.images is not None and published.images is not None and ours.images < published.images
    return ("smaller" if fewer else "another setting"), differences


def nearest_claims(card: ResultCard, claims: Sequence[Claim]) -> list[tuple[Claim, Relation, list[str]]]:
    """Return what is published on the attack and the defense of *card*: of each table the row of the nearest setting.

    Empty where the card does not say its attack. Sources that the card itself quotes in ``reported`` are left out.
    """
    if card.setting is None or card.attack is None:
        return []
    found: dict[int, tuple[Claim, Relation, list[str]]] = {}
    for claim in claims:
        if (claim.row.attack, claim.row.defense) != (card.attack, card.defense):
            continue
        if any(claim.table.source in each.source for each in card.reported):
            continue
        how, differences = relation(card.setting, claim.setting)
        known = found.get(id(claim.table))
        if known is None or len(differences) < len(known[2]):
            found[id(claim.table)] = claim, how, differences
    return list(found.values())


def published_lines(card: ResultCard, claims: Sequence[Claim]) -> Iterator[str]:
    """Yield what is published beside *card*, as text."""
    for claim, how, differences in nearest_claims(card, claims):
        yield f"  published: {numbers_text(claim.row.numbers)} ({claim.source()})"
        yield f"    {_told(how, differences)}"


def claim_lines(claims: Sequence[Claim], cards: Sequence[ResultCard]) -> Iterator[str]:
    """Yield every published row with what was measured here on the same attack and defense, in the nearest setting."""
    table = None
    for claim in claims:
        if claim.table is not table:
            table = claim.table
            yield ""
            yield from _head(table)
        before = f"; undefended {numbers_text(claim.row.before)}" if claim.row.before else ""
        differs = claim.row.setting.text()
        mark = " (doubtful)" if claim.row.doubtful else ""
        about = f"{claim.row.defense} on {claim.row.attack}{f', {differs}' if differs else ''}"
        yield f"  {about}: {numbers_text(claim.row.numbers)}{mark}{before}"
        yield f"    here: {_here(claim, cards)}"


def _here(claim: Claim, cards: Sequence[ResultCard]) -> str:
    """Return the number of ours in the nearest setting; among equals the one nearest to the defense's defaults."""
    found = []
    for card in cards:
        if card.setting is None or (card.attack, card.defense) != (claim.row.attack, claim.row.defense):
            continue
        how, differences = relation(card.setting, claim.setting)
        shown = [
            f"{metric.upper()} {measured_text(card.measured[metric])}"
            for metric in METRICS
            if metric in claim.row.numbers and metric in card.measured
        ]
        if shown:
            text = f"{', '.join(shown)} with {made_text(card)}; {_told(how, differences)}"
            found.append((len(differences), len(card.settings) + (card.preset is not None), text))
    if not found:
        return "not yet run"
    more = f" (and {len(found) - 1} more in `elixir-plugin cards`)" if len(found) > 1 else ""
    return min(found)[2] + more


def _told(how: Relation, differences: Sequence[str]) -> str:
    return f"{how}{': ' if differences else ''}{'; '.join(differences)}"


def _head(table: PublishedTable) -> Iterator[str]:
    yield f"{table.source}: {table.table}"
    yield f"  {table.setting.text()}; read {table.read}{f': {table.copy_of}' if table.copy_of else ''}"
    if table.doubts:
        yield f"  doubtful: {table.doubts}"


def numbers_text(numbers: Mapping[Metric, float]) -> str:
    """Return numbers in percent.

    >>> numbers_text({"asr": 0.0074, "acc": 0.9077})
    'ACC 90.8, ASR 0.7'
    """
    return ", ".join(f"{metric.upper()} {share_text(numbers[metric])}" for metric in METRICS if metric in numbers)

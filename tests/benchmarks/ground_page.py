"""The page of the proving ground: a function of the cards, and of what failed or was not tried, alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ground_cells import OPEN, Prices
from ground_list import ATTACKS, COLUMNS, PUBLISHED, PUBLISHED_CLEAN, RESERVED, SEED, SUSPECT, TRAINING, Attack, Column

from elixir_plugin.io.files import atomic_file
from elixir_plugin.io.reading import read_json
from elixir_plugin.runs.cards import ResultCard, load_cards

ASR_BAR, ACC_BAR = 0.9, 0.88  # that a dirty-label attack has to reach to be worth defending against
DROP_BAR = 0.9  # share of the published drop of ACC that an indiscriminate poison has to reach
Key = tuple[str, str, int, int]  # attack, column, reserved, seed


class Known:
    """What the files in the folder of cards say."""

    def __init__(
        self, cards: Sequence[ResultCard], open_files: Sequence[Mapping[str, Any]], training: float = TRAINING
    ) -> None:
        self.cards: dict[Key, ResultCard] = {}
        for card in cards:
            about = card.details
            self.cards[about["attack"], about["column"], about["reserved"], about["seed"]] = card
        self.failed: dict[Key, str] = {
            (each["attack"], each["defense"], each["reserved"], each["seed"]): each["failed"]
            for each in open_files
            if "failed" in each
        }
        estimates = {each["defense"]: each["seconds"] for each in open_files if "seconds" in each}
        self.prices = Prices(list(cards), estimates, training)

    @classmethod
    def read(cls, folder: Path, training: float = TRAINING) -> Known:
        """Read the cards in *folder*; what is there for another purpose is passed over.

        :param training: seconds that a training takes, until a card says more.
        """
        cards = [card for card in load_cards(folder) if "column" in card.details] if folder.is_dir() else []
        files = sorted((folder / OPEN).glob("*.json")) if (folder / OPEN).is_dir() else []
        return cls(cards, [read_json(file) for file in files], training)

    def rows(self) -> list[tuple[Attack, int, int]]:
        """Return attack, reserved size and seed of every row, those without any card among them."""
        usual = [(attack.name, RESERVED, seed) for attack in ATTACKS.values() for seed in attack.seeds]
        held = {(attack, reserved, seed) for attack, _, reserved, seed in [*self.cards, *self.failed]}
        if held and not any(reserved == RESERVED for _, reserved, _ in held):
            usual = []  # a try at another size
        order = {name: at for at, name in enumerate(ATTACKS)}
        rows = sorted({*usual, *held}, key=lambda row: (order.get(row[0], len(order)), row[0], -row[1], row[2]))
        return [(ATTACKS[name], reserved, seed) for name, reserved, seed in rows if name in ATTACKS]

    def number(self, key: Key, metric: str) -> float | None:
        card = self.cards.get(key)
        measured = None if card is None else card.measured.get(metric)  # type: ignore[call-overload]
        return None if measured is None else float(measured.value)

    def text(self, key: Key, *metrics: str) -> str:
        """Return what a table says of a cell."""
        if key in self.cards:
            return " / ".join(_percent(self.number(key, metric)) for metric in metrics)
        if key in self.failed:
            return "failed"
        if (key[0], SUSPECT, *key[2:]) in self.failed:
            return "no suspect model"
        column = None if key[1] == SUSPECT else COLUMNS[key[1]]
        return f"not yet run: {_hours(self.prices.of(ATTACKS[key[0]], column))}"


def write_page(cards: Path) -> Path:
    """Write the page of the cards in a folder beside it, and return it."""
    file = cards.parent / f"{cards.name}.md"
    with atomic_file(file) as temporary:
        temporary.write_text(page(Known.read(cards)), encoding="utf-8", newline="\n")
    return file


def page(known: Known) -> str:
    """Return the page as Markdown."""
    defenses = [column for column in COLUMNS.values() if not column.control]
    controls = [column for column in COLUMNS.values() if column.control]
    parts = [
        "# The proving ground",
        "",
        "Written by `python tests/benchmarks/proving_ground.py --write` from the cards beside it; changes by hand are "
        "lost. `elixir-plugin cards --cards docs/proving-ground` prints the cards.",
        "",
        *_conditions(known),
        "",
        "## Do the attacks bite?",
        "",
        *_attacks(known),
        "",
        "## Defenses",
        "",
        "ACC / ASR in percent of the suspect model, and of the model after each defense.",
        "",
        *_table(known, [None, *defenses], ("acc", "asr")),
        "",
        "## Free controls",
        "",
        "The same after what costs nothing to think of. A defense has to beat these.",
        "",
        *_table(known, [None, *controls], ("acc", "asr")),
        "",
        "## Detection",
        "",
        "TPR / FPR in percent, of what points at samples.",
        "",
        *_table(known, [each for each in COLUMNS.values() if _detects(known, each)], ("tpr", "fpr")),
        "",
        *_failures(known),
    ]
    return "\n".join(parts).rstrip() + "\n"


def _conditions(known: Known) -> Iterator[str]:
    """Yield what all numbers have in common, as far as the cards do."""
    bases = sorted({f"{each.details['data']}, {each.details['reserved']:,} reserved" for each in known.cards.values()})
    trained = sorted({_recipe(card) for card in known.cards.values() if "suspect_model" in card.details})
    commits = sorted({card.details["commit"] for card in known.cards.values()})
    yield f"- Cells: {len(known.cards)} done, {len(known.failed)} failed."
    yield f"- Data: {'; '.join(bases) or '–'}. The reserved clean images are taken out before poisoning."
    yield f"- Models: {'; '.join(trained) or '–'}. What a defense leaves is trained on as the suspect set was."
    yield f"- One thread per training, so that a result does not depend on the load. Seed {SEED} where none is named."
    yield f"- Commits: {', '.join(commits) or '–'}. Each card has versions, settings, seconds and the command."
    yield f"- `not yet run: 3 h`: about so many hours of one core (a training: {known.prices.training / 60:.0f} min)."


def _attacks(known: Known) -> Iterator[str]:
    """Yield the table of what attacks do to a model that nobody defends."""
    yield from _head("attack", "kind", "poisoned", "covers", "ACC", "ASR", "published ACC", "verdict")
    for attack, reserved, seed in known.rows():
        key = (attack.name, SUSPECT, reserved, seed)
        card = known.cards.get(key)
        name = _row_name(attack, reserved, seed)
        if card is None:
            yield _line(name, "", "", "", "", "", "", known.text(key))
            continue
        facts = card.details
        shares = [
            f"{100 * facts[part] / facts['suspects']:.2g} %" if facts[part] else "–" for part in ("poisoned", "covers")
        ]
        numbers = [_percent(known.number(key, metric)) for metric in ("acc", "asr")]
        yield _line(name, facts["kind"], *shares, *numbers, _percent(attack.published), verdict(known, attack, key))
    yield ""
    yield (
        f"A dirty-label attack holds with ASR ≥ {100 * ASR_BAR:.0f} % at ACC ≥ {100 * ACC_BAR:.0f} %; an "
        f"indiscriminate one, where a number is published, with {100 * DROP_BAR:.0f} % of the published drop, "
        "below our own `clean`. "
        f"Published: {PUBLISHED}; {100 * PUBLISHED_CLEAN:.2f} % without poison."
    )


def verdict(known: Known, attack: Attack, key: Key) -> str:
    """Say whether an attack reaches its bar."""
    acc, asr, kind = known.number(key, "acc"), known.number(key, "asr"), known.cards[key].details["kind"]
    if acc is None:
        return "no test set"
    if kind == "dirty-label":
        return _said(asr is not None and asr >= ASR_BAR and acc >= ACC_BAR)
    if kind != "indiscriminate":
        return "no bar"
    clean = known.number(("clean", SUSPECT, *key[2:]), "acc")
    if clean is None:
        return "needs `clean`"
    drop = clean - acc
    said = f"drop of {100 * drop:.1f} points"
    if attack.published is None:
        return f"{said}; no number to compare"
    wanted = PUBLISHED_CLEAN - attack.published
    return f"{_said(drop >= DROP_BAR * wanted)}: {said}, published {100 * wanted:.1f}"


def _table(known: Known, columns: Sequence[Column | None], metrics: Sequence[str]) -> Iterator[str]:
    if not columns:
        yield "No cell yet."
        return
    names = [SUSPECT if column is None else column.label for column in columns]
    yield from _head("attack", *names)
    for attack, reserved, seed in known.rows():
        keys = [(attack.name, name, reserved, seed) for name in names]
        if metrics[0] == "acc" or any(known.number(key, each) is not None for key in keys for each in metrics):
            yield _line(_row_name(attack, reserved, seed), *(known.text(key, *metrics) for key in keys))


def _detects(known: Known, column: Column) -> bool:
    return any(key[1] == column.label and "fpr" in card.measured for key, card in known.cards.items())


def _failures(known: Known) -> Iterator[str]:
    if known.failed:
        yield "## Failed"
        yield ""
        for (attack, defense, reserved, seed), reason in sorted(known.failed.items()):
            yield f"- {defense} on {attack}, {reserved:,} reserved, seed {seed}: {_escaped(reason)}"


def _row_name(attack: Attack, reserved: int, seed: int) -> str:
    more = [f"{reserved:,} reserved"] if reserved != RESERVED else []
    more += [f"seed {seed}"] if seed != SEED else []
    return ", ".join([attack.name, *more])


def _recipe(card: ResultCard) -> str:
    model = card.details["suspect_model"]
    return f"`{model['architecture']}`, {model['recipe']['epochs']} epochs"


def _said(reached: bool) -> str:
    return "holds" if reached else "falls short"


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.2g} %" if part else "–"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds < 36000 else f"{seconds / 3600:.0f} h"


def _escaped(text: str) -> str:
    return "".join(f"\\{each}" if each in "\\`*_[]<>|~$" else each for each in " ".join(text.split()))


def _head(*names: str) -> Iterator[str]:
    yield _line(*names)
    yield _line(*("---" for _ in names))


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"

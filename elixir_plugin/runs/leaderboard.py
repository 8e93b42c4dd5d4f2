"""``leaderboard.html``: every result card in one table, their trade-offs, and published numbers beside them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..core.panels import Panel, Points, Series
from ..report.page import RenderedPanel, prepare, render, script
from ..report.single import write_page
from .cards import METRICS, ResultCard, card_lines_of, made_text, measured_text, share_text
from .compare.table import UNDEFENDED
from .published import Claim, claim_lines, published_lines

PAGE = "leaderboard.html"
UNKNOWN = "not recorded"
GLOSSARY = {
    "ACC": "accuracy: share of clean test images that the model classifies as labelled.",
    "ASR": "attack success rate: share of triggered test images, of other classes, that go to the target class. "
    "A defense lowers it.",
    "RA": "robust accuracy: share of triggered test images that the model classifies as they would be without trigger.",
    "DER": "defense effectiveness rating: 1 when the attack is gone and no accuracy is lost, 0.5 when nothing is won.",
    "TPR": "true positive rate: share of the poison samples that are flagged.",
    "FPR": "false positive rate: share of the clean samples that are flagged.",
    "AUROC": "how well the scores part poison from clean samples: 100 is perfect, 50 is chance.",
}


def write_leaderboard(folder: Path, cards: Sequence[ResultCard], claims: Sequence[Claim]) -> list[Path]:
    """Write the page and its figures as PNG files; return what was written.

    :raises RunError: when *folder* cannot be written.
    """
    figures = prepare(panels(cards), "leaderboard")
    return write_page(folder, PAGE, page(cards, claims, figures), figures)


def page(cards: Sequence[ResultCard], claims: Sequence[Claim], figures: list[RenderedPanel]) -> str:
    """Return the page; whatever comes from cards is escaped."""
    metrics = [metric for metric in METRICS if any(metric in card.measured for card in cards)]
    rows = sorted((_row(card, metrics, claims) for card in cards), key=lambda row: (row["attack"], row["defense"]))
    code, digest = script("table.js")
    return render(
        "leaderboard.html",
        rows=rows,
        metrics=[metric.upper() for metric in metrics],
        defenses={row["defense"] for row in rows},
        attacks={row["attack"] for row in rows if row["attack"] != UNKNOWN},
        unversioned=sum(not any(card.versions.values()) for card in cards),
        filters={name: sorted({row[name] for row in rows}) for name in ("defense", "attack", "data")},
        figures=figures,
        published=_published(claims, cards),
        glossary={word: text for word, text in GLOSSARY.items() if word.lower() in metrics},
        script=code,
        script_digest=digest,
    )


def panels(cards: Iterable[ResultCard]) -> list[Panel]:
    """Return accuracy against attack success, one frame for each attack and size that has several results."""
    points: dict[str, list[tuple[str, float, float]]] = {}
    for card in cards:
        if "acc" in card.measured and "asr" in card.measured:
            found = points.setdefault(_frame(card), [])
            found.append((card.defense, 100 * card.measured["asr"].value, 100 * card.measured["acc"].value))
            if "asr" in card.before and "acc" in card.before:
                before = (UNDEFENDED, 100 * card.before["asr"], 100 * card.before["acc"])
                found += [before] if before not in found else []
    frames = {name: each for name, each in points.items() if len(each) > 1}
    names = {defense for each in frames.values() for defense, _, _ in each}
    series = []
    for defense in sorted(names, key=lambda name: (name == UNDEFENDED, name)):
        own = [(x, y, name) for name, each in frames.items() for found, x, y in each if found == defense]
        x, y, labels = ([point[at] for point in own] for at in range(3))
        series.append(Series(name=defense, x=x, y=y, labels=labels))
    caption = "One point per result; settings are in the table. Up and to the left is better."
    return [
        Points(
            title="Accuracy against attack success",
            caption=caption,
            series=series,
            x_label="ASR %",
            y_label="ACC %",
            frames=True,
        )
    ] * bool(series)


def _frame(card: ResultCard) -> str:
    setting = card.setting
    if card.attack is None or setting is None:
        return card.case
    size = "" if setting.images is None else f", {setting.images:,} images"
    return f"{card.attack}{'' if setting.rate is None else f' {100 * setting.rate:g} %'}{size}"


def _row(card: ResultCard, metrics: Sequence[Any], claims: Sequence[Claim]) -> dict[str, Any]:
    setting = card.setting
    numbers = []
    for metric in metrics:
        found, before = card.measured.get(metric), card.before.get(metric)
        text, _, spread = measured_text(found).partition(" ")
        more = [spread.strip("()"), "" if before is None or found is None else f"from {share_text(before)}"]
        numbers.append((None if found is None else found.value, text, [each for each in more if each]))
    seconds = card.details.get("cpu_seconds", card.details.get("seconds"))
    return {
        "defense": card.defense,
        "made": made_text(card.model_copy(update={"settings": _short(card.settings)})),
        "attack": card.attack or UNKNOWN,
        "rate": setting.rate if setting else None,
        "data": (setting.data if setting else None) or UNKNOWN,
        "images": setting.images if setting else None,
        "network": (setting.model if setting else None) or UNKNOWN,
        "numbers": numbers,
        "seconds": float(seconds) if isinstance(seconds, int | float) else None,
        "seeds": len(card.seeds),
        "case": card.case,
        "lines": [line.strip() for line in [*card_lines_of(card), *published_lines(card, claims)][1:]],
    }


def _short(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: "{…}" if isinstance(value, Mapping) else value for key, value in settings.items()}


def _published(claims: Sequence[Claim], cards: Sequence[ResultCard]) -> dict[str, list[str]]:
    """Return the lines on published numbers by their source."""
    found: dict[str, list[str]] = {}
    for line in claim_lines(claims, cards):
        if line and not line.startswith(" "):
            lines = found.setdefault(line, [])
        elif line:
            lines.append(line)
    return found

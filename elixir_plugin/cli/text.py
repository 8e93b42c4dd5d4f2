"""How things look on a terminal: lines of text, made here and printed by the command line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..core.metrics import ModelMetrics
    from .demo import Row
from ..report.text import percent


def demo_header() -> list[str]:
    """Return the two lines above the rows of :func:`demo_line`."""
    names = _line("defense", "ACC", "", "ASR", "", "found", "false", "seconds")
    return [names, _line("", "before", "after", "before", "after", "poison", "alarms", "")]


def estimate_lines(facts: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a run would cost; see ``Defense.estimate``."""
    if not facts:
        yield "the input is sound; this defense gives no estimate of its cost"
    for name, value in facts.items():
        parts = value.items() if isinstance(value, dict) else [("", value)]
        text = ", ".join(f"{key} {_amount(key or name, each)}".strip() for key, each in parts)
        yield f"{name.replace('_', ' ') + ':':<20} {text}"


def _amount(name: str, value: Any) -> str:
    if name.endswith(("_bytes", "bytes_at_most")):
        return f"{value / 1e6:,.0f} MB"
    return f"{value:,.1f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def demo_line(row: Row) -> str:
    """Return one row of the demo's table."""
    if row.evaluation is None:
        return f"{row.defense:<20}{row.remark}"
    before, after, found = row.evaluation.before, row.evaluation.after, row.evaluation.detection
    return _line(
        row.defense,
        *_pair(before, after, "acc"),
        *_pair(before, after, "asr"),
        percent(found.tpr if found else None),
        percent(found.fpr if found else None),
        f"{row.seconds:.1f}",
    )


def _pair(before: ModelMetrics | None, after: ModelMetrics | None, key: str) -> tuple[str, str]:
    return percent(getattr(before, key, None)), percent(getattr(after, key, None))


def _line(name: str, *cells: str) -> str:
    return f"{name:<20}" + "".join(f"{cell:>9}" for cell in cells)


def card_lines(thing: Any) -> Iterator[str]:
    """Yield what a defense needs, and its paper card; nothing for other things."""
    card = getattr(thing, "card", None)
    if card is not None:
        yield f"needs:  {', '.join(sorted(thing.needs)) or 'nothing'}"
        for field in ("title", "paper", "claims", "cost", "limits"):
            yield f"{field + ':':<8}{getattr(card, field)}"


def settings_lines(settings: Any) -> Iterator[str]:
    """Yield every setting with default, type, range and description, nested ones under dotted names, and presets."""
    from ..core.settings import Settings  # noqa: PLC0415  (slow, and --help imports this module)

    if not (isinstance(settings, type) and issubclass(settings, Settings)):
        return
    yield "settings:"
    yield from _setting_lines(settings, None, "  ", "")
    for name, values in settings.presets.items():
        yield f"preset {name}: " + ", ".join(f"{key}={value}" for key, value in values.items())


def _setting_lines(settings: Any, chosen: Any, margin: str, prefix: str) -> Iterator[str]:
    """Yield the settings of a class; *chosen*, an instance, has the defaults where a setting is nested in another."""
    from .reference import nested_of, rows_of  # noqa: PLC0415

    for name, kind, default, bounds, said in rows_of(settings, chosen):
        inner = nested_of(settings, name)
        if inner is None:
            facts = ", ".join(filter(None, (kind, bounds)))
            yield f"{margin}{prefix}{name} = {default or '(must be given)'}{f'  ({facts})' if facts else ''}"
        else:
            yield f"{margin}{prefix}{name}:"
        if said:
            yield f"{margin}    {said}"
        if inner is not None:
            field = settings.model_fields[name]
            value = getattr(chosen, name, None if field.is_required() else field.get_default(call_default_factory=True))
            yield from _setting_lines(inner, value, f"{margin}  ", f"{prefix}{name}.")

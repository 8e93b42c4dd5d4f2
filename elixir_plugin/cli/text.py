"""How things look on a terminal: lines of text, made here and printed by the command line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

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


def settings_lines(settings: Any, *, expert: bool = False) -> Iterator[str]:
    """Yield every setting with default, type, range and description, nested ones under dotted names, and presets.

    :param expert: whether to yield all, or the basic ones and how many others there are; see ``Settings.basic``.
    """
    from ..core.settings import Settings

    if not (isinstance(settings, type) and issubclass(settings, Settings)):
        return
    items = list(_items(settings, None, settings.basic, "  ", ""))
    for_experts = [item for item in items if not item.basic]
    yield "settings:"
    yield from (line for item in items if item.basic for line in item.lines)
    if for_experts and expert:
        yield "expert settings:"
        yield from (line for item in for_experts for line in item.lines)
    elif for_experts:
        count = sum(not item.group for item in for_experts)
        yield f"  {count} more setting{'s' if count > 1 else ''} for experts: --expert shows them"
    for name, values in settings.presets.items():
        yield f"preset {name}: " + ", ".join(f"{key}={value}" for key, value in values.items())


class _Item(NamedTuple):
    """What is said of one setting, or above a group of nested ones."""

    basic: bool
    group: bool
    lines: list[str]


def _items(settings: Any, chosen: Any, basic: Sequence[str] | None, margin: str, prefix: str) -> Iterator[_Item]:
    """Yield the settings of a class, groups before what is in them.

    :param chosen: an instance that has the defaults, where the settings are nested in others; else None.
    :param basic: names of the basic settings, or None for all.
    """
    from .reference import basic_inside, is_basic, nested_of, rows_of

    for name, kind, default, bounds, said in rows_of(settings, chosen):
        inner, basic_here = nested_of(settings, name), is_basic(basic, name)
        about = [f"{margin}    {said}"] if said else []
        if inner is None:
            facts = ", ".join(filter(None, (kind, bounds)))
            line = f"{margin}{prefix}{name} = {default or '(must be given)'}{f'  ({facts})' if facts else ''}"
            yield _Item(basic_here, False, [line, *about])
            continue
        yield _Item(basic_here, True, [f"{margin}{prefix}{name}:", *about])
        field = settings.model_fields[name]
        value = getattr(chosen, name, None if field.is_required() else field.get_default(call_default_factory=True))
        inside = basic_inside(basic, name, inner) if basic_here else ()
        yield from _items(inner, value, inside, f"{margin}  ", f"{prefix}{name}.")

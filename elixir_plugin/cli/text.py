"""How things look on a terminal: lines of text, made here and printed by the command line."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..evaluation.metrics import ModelMetrics
    from ..runs.demo import Row
    from ..runs.run import RunResult


def shown(text: str) -> str:
    """Return *text* with control characters made visible, so that no input can drive the terminal."""
    return "".join(char if char.isprintable() or char == "\n" else repr(char)[1:-1] for char in text)


def demo_header() -> list[str]:
    """Return the two lines above the rows of :func:`demo_line`."""
    names = _line("defense", "ACC", "", "ASR", "", "found", "false", "seconds")
    return [names, _line("", "before", "after", "before", "after", "poison", "alarms", "")]


def result_lines(result: RunResult) -> Iterator[str]:
    """Yield what a person wants to know after a run."""
    report = result.report
    run_, metrics, outcome = report["run"], report["metrics"], report["outcome"]
    source = run_["source"]
    state = "already done: " if result.already_done else ""
    yield f"{state}{run_['defense']} on {source['adapter']}:{source['path']} (seed {run_['seed']})"
    if metrics["before"] or metrics["after"]:
        yield f"{'':<22}{'ACC':>9}{'ASR':>9}{'RA':>9}"
        for when in ("before", "after"):
            if (values := metrics[when]) is None:
                continue
            yield _scores(when, values)
        for name, values in metrics["controls"].items():
            yield _scores(f"  control: {name}", values)
    if metrics["der"] is not None:
        yield f"DER {metrics['der']:.3f}"
    if metrics["detection"]:
        found = metrics["detection"]
        yield (
            f"flagged {found['flagged']}: TPR {_percent(found['tpr'])}, FPR {_percent(found['fpr'])}, "
            f"AUROC {_plain(found['auroc'])}, AP {_plain(found['average_precision'])}"
        )
    if metrics.get("repair"):  # older reports have none
        yield _repaired(metrics["repair"])
    if outcome["verdict"]:
        verdict = outcome["verdict"]
        word = {True: "poisoned", False: "no evidence of poison", None: "none"}[verdict["poisoned"]]
        yield f"verdict: {word} ({_plain(verdict['score'])}: {verdict['meaning']})"
    if outcome["flagged"] is not None and not metrics["detection"]:
        yield f"flagged: {outcome['flagged']} suspect samples"
    seconds = ", ".join(f"{stage} {value:.1f}" for stage, value in outcome["timings"].items())
    yield f"seconds: {seconds}"
    for note in report["notes"]:
        yield f"note: {note}"
    yield f"report:  {result.folder / 'report.html'}, made from report.json beside it"
    for line in _listed(result.written):
        yield f"written: {line}"


def _repaired(found: Mapping[str, Any]) -> str:
    """Return one line about ``repair_metrics.RepairMetrics``, as nested JSON types."""

    def share(name: str) -> str:
        return _percent(found[name])

    return (
        f"repair: poison changed {share('change_recall')}, relabelled {share('relabel_recall')} "
        f"(right {share('relabelled_right')}), stable {share('stable_poison')}; "
        f"others changed {share('change_fpr')}, relabelled {share('relabel_fpr')}; "
        f"right labels {share('label_accuracy_before')} before, {share('label_accuracy_after')} after"
    )


def _listed(paths: Sequence[Path], limit: int = 8) -> list[str]:
    """Return a line per file; for many, a line per kind of file, with their number and the folder they are in."""
    if len(paths) <= limit:
        return [str(path) for path in paths]
    folder = os.path.commonpath([path.parent for path in paths])
    counts = Counter(path.suffix or "no suffix" for path in paths)
    lone = [str(path) for path in paths if counts[path.suffix or "no suffix"] == 1]
    return lone + [f"{count} files {suffix} in {folder}" for suffix, count in counts.items() if count > 1]


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
        _percent(found.tpr if found else None),
        _percent(found.fpr if found else None),
        f"{row.seconds:.1f}",
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

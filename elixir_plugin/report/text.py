"""What a person wants to know after a run, as lines of text."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any


def result_lines(
    report: Mapping[str, Any], folder: Path, written: Sequence[Path] = (), *, already_done: bool = False
) -> Iterator[str]:
    """Yield what a person wants to know after a run.

    :param report: content of ``report.json`` in *folder*.
    :param written: files written in the toolkit's own format.
    """
    run_, metrics, outcome = report["run"], report["metrics"], report["outcome"]
    source = run_["source"]
    state = "already done: " if already_done else ""
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
        rates = f"flagged {found['flagged']}: TPR {percent(found['tpr'])}, FPR {percent(found['fpr'])}, "
        ranked = f"AUROC {_plain(found['auroc'])}, AP {_plain(found['average_precision'])}"
        yield ("ranked, none flagged: " if found["flagged"] is None else rates) + ranked
    if metrics.get("repair"):  # older reports have none
        yield _repaired(metrics["repair"])
    if metrics.get("relearning"):
        yield f"relearning: {metrics['relearning']['sentence']}"
    if metrics.get("recommendation"):
        yield f"recommended: {metrics['recommendation']['take']}. {metrics['recommendation']['sentence']}"
    yield from _answer(outcome["verdict"], metrics.get("power"))
    if outcome["flagged"] is not None and not metrics["detection"]:
        yield f"flagged: {outcome['flagged']} suspect samples"
    seconds = ", ".join(f"{stage} {value:.1f}" for stage, value in outcome["timings"].items())
    device = report["environment"].get("device")
    yield f"seconds: {seconds}" + (f"; on {device}" if device else "")
    for note in report["notes"]:
        yield f"note: {note}"
    yield f"report:  {folder / 'report.html'}, made from report.json beside it"
    for line in _listed(written):
        yield f"written: {line}"


def _answer(verdict: Mapping[str, Any] | None, power: Mapping[str, Any] | None) -> Iterator[str]:
    """Yield the verdict, and what would have been found."""
    if verdict:
        word = {True: "poisoned", False: "no evidence of poison", None: "none"}[verdict["poisoned"]]
        yield f"verdict: {word} ({_plain(verdict['score'])}: {verdict['meaning']})"
    if power:
        yield f"power: {power['sentence']}"
    elif verdict and verdict["poisoned"] is False:
        yield "power: not measured; a run with spike tells how much poison would have been found"


def percent(value: float | None) -> str:
    """Return a share in percent, or a dash."""
    return "–" if value is None else f"{100 * value:.1f} %"


def _repaired(found: Mapping[str, Any]) -> str:
    """Return one line about ``RepairMetrics``, as nested JSON types."""

    def share(name: str) -> str:
        return percent(found[name])

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


def _scores(name: str, values: dict[str, float | None]) -> str:
    return f"{name:<22}" + "".join(f"{percent(values.get(key)):>9}" for key in ("acc", "asr", "ra"))


def _plain(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"

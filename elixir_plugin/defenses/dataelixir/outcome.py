"""DataElixir, what it reports: scores, verdict, and what became of every sample."""

from __future__ import annotations

import numpy as np

from ...core.images import ImageSet, Index
from ...core.outcome import Outcome, Verdict
from ...core.panels import Bars, Level, Panel, Table, line_panels
from ...errors import preview_list
from .repair import ACTION, Repair
from .settings import DataElixirSettings
from .target import COMPARED, FEW_CLASSES, ClassFinding, verdict_score
from .votes import STATUS, Votes

NOT_PURIFIED = -1


def build_outcome(
    train: ImageSet,
    rows: Index,
    votes: Votes,
    repair: Repair,
    *,
    finding: ClassFinding,
    settings: DataElixirSettings,
) -> Outcome:
    """Return the outcome without set, model and curves.

    - ``scores``: the share of a sample's purified copies that the probe gives another label than its own, plus 1 in
      target classes: samples of target classes come first. A sample that was not purified (two-phase mode) has 0.
    - ``flagged``: samples whose image or label was changed; ``kept``: all, as they are repaired and not dropped.
    - ``tables["samples"]``: lists of N numbers. ``status`` 0 stable, 1 unanimous, 2 ambiguous, -1 not purified;
      ``action`` 0 kept, 1 repaired, 2 relabelled by the benign model; ``chosen``: the slot whose image was taken,
      0 the original, else 1 + round · states + state; ``old_label``, ``new_label``.

    :param rows: positions ``[n]`` of the samples that *votes* are about.
    """
    count, changed = len(train), repair.changed(train.labels)
    scores = np.zeros(count)
    scores[rows] = votes.against(train.labels[rows]) + finding.flagged[train.labels[rows]]
    status = np.full(count, NOT_PURIFIED, np.int64)
    status[rows] = votes.status
    tables = {
        "target_classes": finding.targets,
        "classes": finding.table(),
        "threshold": finding.threshold,
        "relative": finding.relative,
        "detection": finding.mode,
        "status": {name: int((status == code).sum()) for code, name in enumerate(STATUS)},
        "action": {name: int((repair.action == code).sum()) for code, name in enumerate(ACTION)},
        "changed": {
            "samples": int(changed.sum()),
            "labels": int((repair.labels != train.labels).sum()),
            "images": int((repair.chosen > 0).sum()),
        },
        "repair": repair.facts,
        "samples": {
            "status": status,
            "action": repair.action,
            "chosen": repair.chosen,
            "old_label": train.labels,
            "new_label": repair.labels,
        },
    }
    return Outcome(
        scores=scores,
        flagged=changed,
        kept=np.arange(count),
        verdict=_verdict(finding, settings),
        tables=tables,
    )


def _verdict(finding: ClassFinding, settings: DataElixirSettings) -> Verdict:
    excess = finding.mode == "excess"
    unit = "share of votes" if excess else "nats"
    what = "largest robust score of a class" if finding.relative else f"largest discrepancy of a class ({unit})"
    measured = (
        "how much more of the votes its samples lose, once purified, than reserved clean images do"
        if excess
        else "how little of what its label-changing samples are predicted as, once purified, stays on the class"
    )
    detection = settings.detection
    effect = detection.min_excess if excess else detection.min_effect
    meaning = (
        f"{what}: {measured}. From {finding.threshold:g} on"
        + (f", and {effect:g} ({unit}) above the median," if finding.relative else "")
        + " a class is flagged as target"
    )
    if finding.mode not in COMPARED:
        return Verdict(None, verdict_score(finding), f"{meaning}; here the targets were set by detection.mode")
    known = (
        f"of 20 clean sets of synthetic images, {'none' if excess else 2} had such a class when this was measured "
        f"(mode {finding.mode}, default settings)"
    )
    return Verdict(bool(finding.flagged.any()), verdict_score(finding), f"{meaning}; {known}")


HIGH_ANOMALY = 0.3  # share of anomalous samples above which a probe is called fragile
SCATTERED = 0.25  # share of anomalies whose copies agree on another label, above which a class looks attacked


def warnings_for(finding: ClassFinding) -> list[str]:
    """Return warnings about how far this finding can be trusted."""
    notes = []
    count = len(finding.size)
    compared = finding.mode in COMPARED
    if compared and not finding.relative and (count <= FEW_CLASSES or finding.eligible.any()):
        unit = "nats" if finding.mode == "mad" else "of the votes"
        notes.append(
            f"{int(finding.eligible.sum())} of {count} classes can be judged, and of so few none can stand out from "
            f"the others: a class is flagged from a discrepancy of {finding.threshold:g} {unit} on. If you know the "
            "target, give it: detection.mode=given"
        )
    rate = finding.anomalous / np.maximum(finding.size, 1)
    fragile = np.flatnonzero(rate > HIGH_ANOMALY)
    if len(fragile):
        notes.append(
            f"{rate.max():.0%} of class {int(rate.argmax())} change their label when purified, more than "
            f"{HIGH_ANOMALY:.0%} in {len(fragile)} of {count} classes: the probe is fragile, or purification too "
            "strong; only the choice of target classes limits the damage"
        )
    if finding.targets and compared:
        notes.append(
            f"target classes: {preview_list(finding.targets, 10)}. Their ambiguous samples get new labels; if this is "
            "a false alarm, that costs accuracy in these classes"
        )
    if not finding.flagged.any():
        notes += _why_none(finding)
    return notes


def _why_none(finding: ClassFinding) -> list[str]:
    """Return what may lie behind it when no class stands out: an attack on most classes raises all of them alike."""
    count, eligible, scattered = len(finding.size), int(finding.eligible.sum()), _scattered(finding)
    if scattered > count / 2:
        return [
            f"no class stands out, but in {scattered} of {count} classes many samples agree on another label once "
            "purified: the attack may have many targets (all-to-all), which a comparison of classes cannot see; "
            "nothing was repaired. Consider detection.mode=all"
        ]
    if eligible > count / 2:
        return [
            f"no class stands out, so nothing was repaired; but in {eligible} of {count} classes labels change when "
            "images are purified. That is what a fragile probe does, and also an attack with many targets "
            "(all-to-all): a comparison of classes cannot tell them apart. If you suspect one, use detection.mode=all"
        ]
    return []


def _scattered(finding: ClassFinding) -> int:
    """Return in how many classes the copies of many anomalous samples agree on another label."""
    share = finding.unanimous / np.maximum(finding.anomalous, 1)
    return int((finding.eligible & (share > SCATTERED)).sum())


TRAINING = (("Training", "Loss of each classifier on the way, in nats.", ("*_loss",)),)


def panels_of(outcome: Outcome) -> list[Panel]:
    """Return the statistic that finds target classes, what samples of each class did, and the trainings."""
    classes = outcome.tables.get("classes", [])
    names = [str(row["class"]) for row in classes]
    panels: list[Panel] = []
    if classes:
        few = not outcome.tables.get("relative", True)
        excess = outcome.tables.get("detection") == "excess"
        unit = "share of votes" if excess else "nats"
        measured = (
            "How much more of the votes a class's purified samples lose than reserved clean images do, "
            if excess
            else "How far the labels of a class's purified samples scatter away from it, "
        )
        panels.append(
            Bars(
                title="Target statistic per class",
                caption=measured
                + (f"in {unit}" if few else "in robust deviations from the median class")
                + "; classes above the line are taken for targets of an attack.",
                labels=names,
                values={"statistic": [row["score"] for row in classes]},
                levels=[Level(name="threshold", value=outcome.tables["threshold"])]
                if "threshold" in outcome.tables
                else [],
                x_label="class",
                y_label=unit if few else "robust score",
            )
        )
        states = ("unanimous", "ambiguous")
        panels.append(
            Bars(
                title="Samples that changed their label when purified",
                caption="Share of each class. unanimous: all purified copies agree on another label; ambiguous: they "
                "do not agree.",
                labels=names,
                values={state: [row[state] / max(1, row["size"]) for row in classes] for state in states},
                x_label="class",
                y_label="share of the class",
            )
        )
    panels += line_panels(outcome.curves, TRAINING, x_label="epoch")
    rows = [
        [f"{what}: {name}", value]
        for what in ("status", "action", "changed")
        for name, value in outcome.tables.get(what, {}).items()
    ]
    if rows:
        panels.append(
            Table(
                title="What became of the samples",
                caption="status: by the votes on purified copies; action: what was done.",
                header=["", "samples"],
                rows=rows,
            )
        )
    return panels

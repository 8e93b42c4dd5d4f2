"""DataElixir, what it reports: scores, verdict, and what became of every sample."""

from __future__ import annotations

import numpy as np

from ...core.case import ImageSet, Index
from ...core.outcome import Outcome, Verdict
from .repair import ACTION, Repair
from .settings import DataElixirSettings
from .target import COMPARED, ClassFinding, verdict_score
from .votes import STATUS, Votes

NOT_PURIFIED = -1


def describe(
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

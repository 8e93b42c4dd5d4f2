"""DataElixir, what a reader must know about the choice of target classes."""

from __future__ import annotations

import numpy as np

from ...errors import few
from .target import COMPARED, FEW_CLASSES, ClassFinding

HIGH_ANOMALY = 0.3  # share of anomalous samples above which a probe is called fragile
SCATTERED = 0.25  # share of anomalies whose copies agree on another label, above which a class looks attacked


def notes_on(finding: ClassFinding) -> list[str]:
    """Return what a reader must know about this finding."""
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
            f"target classes: {few(finding.targets, 10)}. Their ambiguous samples get new labels; if this is a false "
            "alarm, that costs accuracy in these classes"
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

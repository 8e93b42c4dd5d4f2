"""How well a set was repaired, against the truth; a part of :mod:`elixir_plugin.evaluation`, no defense sees any of it.

All shares are of the samples that the outcome keeps (``Outcome.kept_rows``). A sample that is dropped has no new
image and no new label. Measures after DataElixir (Zhou et al., AAAI 2024):

- Changed: another image, to the last bit of a pixel, or another label. Relabelled: another label.
- Change recall, change FPR: share of poison / of all other samples that is changed. Cover samples are not poison.
- Relabelled right: share of the relabelled poison whose new label is the true one.
- Label accuracy: share of labels that are the true ones, poison and all others together.
- Stable poison: share of the poison whose label did not move when the defense probed it, so that it stays as it is.

Under a clean-label attack the given label is the true one, so that relabelling poison is no merit there.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ..core.case import Truth
from ..core.images import ImageSet
from ..core.metrics import RepairMetrics
from ..core.outcome import Outcome
from ..core.pixels import rms_changes

STABLE = "stable"

Mask = NDArray[np.bool_]


def repair_metrics(suspects: ImageSet, outcome: Outcome, truth: Truth) -> RepairMetrics | None:
    """Return how well *outcome* repairs *suspects*; None when it hands back no set.

    Reads the pixels of both sets once, in chunks. The status of the samples is that of :func:`status_counts`.

    >>> suspects = ImageSet(np.zeros((3, 8, 8, 3), np.uint8), [0, 0, 1], num_classes=2)
    >>> truth = Truth([True, False, False], original_labels=[1, 0, 1])
    >>> found = repair_metrics(suspects, Outcome(train=suspects.replace(labels=[1, 0, 1])), truth)
    >>> found.relabel_recall, found.relabel_fpr, found.relabelled_right, found.label_accuracy_after
    (1.0, 0.0, 1.0, 1.0)
    """
    if outcome.train is None:
        return None
    kept = np.zeros(len(suspects), bool)
    kept[outcome.kept_rows(len(suspects))] = True
    poison, others = kept & truth.poison, kept & ~truth.poison
    relabelled: Mask = outcome.train.labels != suspects.labels
    changed: Mask = relabelled | (rms_changes(suspects, outcome.train) != 0)  # NaN, another size, is a change
    right = before = after = None
    if truth.original_labels is not None:
        fixed: Mask = outcome.train.labels == truth.original_labels
        right, after = share(fixed, poison & relabelled), share(fixed, kept)
        before = share(suspects.labels == truth.original_labels, kept)
    status = status_counts(outcome, poison)
    known = sum(status.values())
    return RepairMetrics(
        change_recall=share(changed, poison),
        change_fpr=share(changed, others),
        relabel_recall=share(relabelled, poison),
        relabel_fpr=share(relabelled, others),
        relabelled_right=right,
        label_accuracy_before=before,
        label_accuracy_after=after,
        stable_poison=status[STABLE] / known if known and STABLE in status else None,
        poison_status=status,
        poison=int(poison.sum()),
        kept=int(kept.sum()),
    )


def status_counts(outcome: Outcome, of: Mask) -> dict[str, int]:
    """Return status -> how many of the samples *of* (bool ``[N]``) have it; empty when the outcome gives none.

    A defense gives one with ``tables["samples"]["status"]``, ``[N]`` codes, and ``tables["status"]``, the name of every
    code from 0 on -> number of samples. A sample with another code has no status. Tables of these names that say
    something else, so that the numbers do not agree, are passed over.

    >>> tables = {"samples": {"status": [0, 1, 0, -1]}, "status": {"stable": 2, "unanimous": 1}}
    >>> status_counts(Outcome(tables=tables), np.array([True, True, False, True]))
    {'stable': 1, 'unanimous': 1}
    """
    samples, names = outcome.tables.get("samples"), outcome.tables.get("status")
    if not isinstance(samples, Mapping) or not isinstance(names, Mapping):
        return {}
    codes = np.asarray(samples.get("status"), object)
    if codes.shape != of.shape or any((codes == code).sum() != names[name] for code, name in enumerate(names)):
        return {}
    return {str(name): int((codes[of] == code).sum()) for code, name in enumerate(names)}


def share(hit: Mask, of: Mask) -> float | None:
    """Return the share of the samples *of* that are *hit*, both bool ``[N]``; None when there are none.

    >>> share(np.array([True, False, True]), np.array([True, True, False])), share(np.ones(2, bool), np.zeros(2, bool))
    (0.5, None)
    """
    return float(hit[of].mean()) if of.any() else None

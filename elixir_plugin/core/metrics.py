"""What is measured after a defense: models, detection, repair."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class RepairMetrics:
    """How well a set was repaired; shares in [0, 1], None where the denominator is zero or what it takes is not known.

    :param change_recall: share of poison with another image or label.
    :param change_fpr: the same of all other samples.
    :param relabel_recall: share of poison with another label.
    :param relabel_fpr: the same of all other samples.
    :param relabelled_right: share of the relabelled poison whose new label is the true one.
    :param label_accuracy_before: share of the labels as they came that are the true ones.
    :param label_accuracy_after: the same of the repaired set.
    :param stable_poison: share of the poison with a status whose status is "stable".
    :param poison_status: status -> poison samples; empty when the defense gives its samples no status.
    :param poison: poison samples that are kept.
    :param kept: samples that are kept.
    """

    change_recall: float | None = None
    change_fpr: float | None = None
    relabel_recall: float | None = None
    relabel_fpr: float | None = None
    relabelled_right: float | None = None
    label_accuracy_before: float | None = None
    label_accuracy_after: float | None = None
    stable_poison: float | None = None
    poison_status: dict[str, int] = field(default_factory=dict)
    poison: int = 0
    kept: int = 0


@dataclass(frozen=True)
class ModelMetrics:
    """How one model does; all in [0, 1] but the losses, which are mean cross-entropies in nats."""

    acc: float | None = None
    asr: float | None = None
    ra: float | None = None
    clean_loss: float | None = None
    triggered_loss: float | None = None


@dataclass(frozen=True)
class DetectionMetrics:
    """How well poison was found; None where the denominator is zero."""

    tpr: float | None = None
    fpr: float | None = None
    auroc: float | None = None
    average_precision: float | None = None
    flagged: int | None = None
    poison: int = 0


@dataclass(frozen=True)
class Evaluation:
    """Everything measured about one outcome.

    :param before: the suspect model.
    :param after: the outcome's model.
    :param der: defense effectiveness rating in [0, 1], see :func:`der`.
    :param detection: how well poison was found; None without truth, or when nothing was scored or flagged.
    :param repair: how well the set was repaired; None without truth, or when no set was handed back.
    :param controls: models trained as the outcome's was, but without one part of the defense; see ``retraining``.

    >>> Evaluation(after=ModelMetrics(acc=0.9, asr=0.02)).before is None
    True
    """

    before: ModelMetrics | None = None
    after: ModelMetrics | None = None
    der: float | None = None
    detection: DetectionMetrics | None = None
    controls: dict[str, ModelMetrics] = field(default_factory=dict)
    repair: RepairMetrics | None = None

"""What is measured after a defense: models, detection, repair."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..io.checked import Count, Finite, Flag, Share


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

    change_recall: Share | None = None
    change_fpr: Share | None = None
    relabel_recall: Share | None = None
    relabel_fpr: Share | None = None
    relabelled_right: Share | None = None
    label_accuracy_before: Share | None = None
    label_accuracy_after: Share | None = None
    stable_poison: Share | None = None
    poison_status: dict[str, Count] = field(default_factory=dict)
    poison: Count = 0
    kept: Count = 0


@dataclass(frozen=True)
class ModelMetrics:
    """How one model does; all in [0, 1] but the losses, which are mean cross-entropies in nats."""

    acc: Share | None = None
    asr: Share | None = None
    ra: Share | None = None
    clean_loss: Finite | None = None
    triggered_loss: Finite | None = None


@dataclass(frozen=True)
class DetectionMetrics:
    """How well poison was found; None where the denominator is zero."""

    tpr: Share | None = None
    fpr: Share | None = None
    auroc: Share | None = None
    average_precision: Share | None = None
    flagged: Count | None = None
    poison: Count = 0


@dataclass(frozen=True)
class RelearnedPath:
    """How one model relearned the backdoor from some poison samples.

    :param samples: how many different ones.
    :param asr: at each of ``Relearning.steps``.
    :param reached: the first of these steps at which ASR was ``Relearning.goal`` or more; None: at none of them.
    :param acc: after the last step.
    """

    samples: Count
    asr: list[Share]
    reached: Count | None = None
    acc: Share | None = None


@dataclass(frozen=True)
class RelearnedModel:
    """How one model relearned the backdoor.

    :param paths: one per number of poison samples, fewest first; each starts at the same model.
    :param acc: before the first step.
    """

    paths: list[RelearnedPath]
    acc: Share | None = None


@dataclass(frozen=True)
class Relearning:
    """How fast the backdoor comes back under fine-tuning with a few poison samples; see ``evaluation.relearning``.

    :param steps: optimiser steps after which ASR was measured, ascending.
    :param goal: the ASR at which the backdoor counts as back.
    :param models: ``"after"``: the outcome's model; ``"never_poisoned"``; ``"before"``: the suspect model, if any.
    :param triggered: triggered test samples that ASR was measured on.
    :param sentence: what this says of the outcome's model, in words.
    :raises ValueError: when a model has no path, or a path has not one ASR per step, or names a step that was not
        measured.
    """

    steps: list[Count]
    goal: Share
    models: dict[str, RelearnedModel]
    triggered: Count = 0
    sentence: str = ""

    def __post_init__(self) -> None:
        for name, model in self.models.items():
            if not model.paths:
                raise ValueError(f"{name}: no path")
            for path in model.paths:
                if len(path.asr) != len(self.steps) or path.reached not in (None, *self.steps):
                    raise ValueError(f"{name}: {len(path.asr)} values of ASR for {len(self.steps)} steps")


@dataclass(frozen=True)
class PlantedPoison:
    """What a defense found of a known poison in a copy of the suspect set; see ``runs.spike``.

    :param rate: share of the suspect set.
    :param samples: how many were planted.
    :param tpr: share of them that was flagged.
    :param others: further samples that were flagged, and are not in the set as it came.
    :param poisoned: the verdict.
    :param found: whether that counts as found.
    """

    poison: str
    rate: Share
    samples: Count
    tpr: Share
    others: Count
    poisoned: Flag | None
    found: Flag


@dataclass(frozen=True)
class DetectionPower:
    """What a defense would have found; see ``runs.spike``.

    :param planted: every poison and rate that was tried.
    :param limits: poison -> the lowest rate at which it was found; None: at none.
    :param suspects: size of the suspect set.
    :param sentence: the same in words.
    """

    planted: list[PlantedPoison]
    limits: dict[str, Share | None]
    suspects: Count
    sentence: str = ""


@dataclass(frozen=True)
class TriedSetting:
    """How a small model fared on what one setting leaves; see ``runs.recommend``.

    :param acc: share of the reserved clean images that it gets right.
    :param error: standard error of the difference from the first setting that was tried.
    :param given: share of the held-out flagged samples that still get the label they came with.
    :param given_error: likewise.
    """

    name: str
    acc: Share
    error: Share | None = None
    given: Share | None = None
    given_error: Share | None = None


@dataclass(frozen=True)
class Recommendation:
    """Whether a denoiser is worth its cost on this set; see ``runs.recommend``.

    :param tried: the defense first, then what it is held against.
    :param judged: reserved clean images that all of them are judged on.
    :param held_out: flagged samples that no model was trained on.
    :param take: the name of what is recommended.
    :param sentence: the same in words.
    """

    tried: list[TriedSetting]
    judged: Count
    held_out: Count
    take: str
    sentence: str = ""


@dataclass(frozen=True)
class StepMetrics:
    """How one step of several did, measured on the samples that it was given.

    :param label: number and name of the step.
    :param samples: how many it was given.
    :param detection: how well poison was found among them; None without truth, or when nothing was scored or flagged.
    :param repair: how well they were repaired; None without truth, or when no set was handed on.
    :param after: the model that it handed on, if any.
    """

    label: str
    kind: str
    samples: Count
    detection: DetectionMetrics | None = None
    repair: RepairMetrics | None = None
    after: ModelMetrics | None = None


@dataclass(frozen=True)
class RemainingBackdoor:
    """Attack success of a model, estimated without the truth from flagged samples that it was not trained on.

    :param samples: how many.
    :param share: of them, that are given the label they came with.
    :param low, high: confidence interval of the share.
    :param control: the share of a model that was trained on the suspect set.
    :param targets: classes that the samples came from.
    :param asr: the true ASR, where it was measured.
    """

    samples: Count
    share: Share
    low: Share
    high: Share
    control: Share | None = None
    targets: list[Count] = field(default_factory=list)
    asr: Share | None = None


@dataclass(frozen=True)
class Evaluation:
    """Everything measured about one outcome.

    :param before: the suspect model.
    :param after: the outcome's model.
    :param der: defense effectiveness rating in [0, 1], see :func:`der`.
    :param detection: how well poison was found; None without truth, or when nothing was scored or flagged.
    :param repair: how well the set was repaired; None without truth, or when no set was handed back.
    :param controls: models trained as the outcome's was, but without one part of the defense; see ``retraining``.
    :param relearning: how fast the backdoor comes back, where that was asked for.
    :param power: which poison would have been found, where that was asked for.
    :param recommendation: whether the denoiser is worth its cost, where that was asked for.
    :param steps: each step of a defense that has several.
    :param remaining: ASR as it is estimated without the truth, beside the true one; None where there is no estimate.

    >>> Evaluation(after=ModelMetrics(acc=0.9, asr=0.02)).before is None
    True
    """

    before: ModelMetrics | None = None
    after: ModelMetrics | None = None
    der: Share | None = None
    detection: DetectionMetrics | None = None
    controls: dict[str, ModelMetrics] = field(default_factory=dict)
    repair: RepairMetrics | None = None
    relearning: Relearning | None = None
    power: DetectionPower | None = None
    recommendation: Recommendation | None = None
    steps: list[StepMetrics] = field(default_factory=list)
    remaining: RemainingBackdoor | None = None

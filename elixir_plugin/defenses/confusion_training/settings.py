"""Settings and presets of Confusion Training, and how a schedule is scaled to the size of the sets."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from ...core.augmentation import Augmentation
from ...core.settings import Settings
from ...training.loop import Precision, Recipe
from .held_out import Level, Vote
from .presets import PRESETS
from .rounds import Offsets, Round

Count = Annotated[int, Field(ge=0, le=1_000_000)]
Size = Annotated[int, Field(ge=1, le=1_000_000)]
Share = Annotated[float, Field(gt=0, le=1)]
Rate = Annotated[float, Field(gt=0, le=10)]
Momentum = Annotated[float, Field(ge=0, lt=1)]
Weight = Annotated[float, Field(ge=1, le=1000)]
PER_ROUND = (
    "pretrain_epochs",
    "pretrain_lr",
    "pretrain_batch",
    "confusion_steps",
    "confusion_lr",
    "confusion_momentum",
    "lam",
    "factor",
)
LEAST_PER_CLASS = 5  # samples a class has, on average, in the smallest distilled set; fewer teach a base model nothing
DECIDING = (
    "decision",
    "threshold",
    "top_threshold",
    "pca_dims",
    "pca_eps",
    "rule",
    "p_value",
    "certain_p",
    "tolerated_share",
    "last_models",
    "vote",
    "fdr",
    "class_level",
)
APART = ("held_out", "untrained_share", "mixed_in", "mean", "std", "input_size", "channels_last")
"""Settings that go with any schedule, beside those of DECIDING."""
FIRST_AUGMENTATION = Augmentation(crop=4, flip=True).dump()  # of reference models, before there was a setting for it


class ConfusionSettings(Settings):
    """Settings of Confusion Training.

    Where neither a preset nor a setting of the schedule is given, the size of the suspect set decides on the schedule
    (``schedule: auto``, see :mod:`.schedule`). Otherwise, what is not given is that of the reference schedule for
    CIFAR-10, with another final test.

    There are K distillation ratios and K + 1 rounds. What differs from round to round is given as one value per
    round, or as one value for all.

    A schedule is stated for ``suspect_size`` suspects and ``reserved_size`` reserved clean samples. It is fitted to N
    suspects in C classes and M clean samples (those that confusion uses) by four rules:

    1. Epochs of pretraining × ``sqrt(suspect_size / N)``, at least by 1/4 and at most by 2: a smaller set is seen
       more often, while the work still grows with N.
    2. Confusion steps × ``M / reserved_size``: as many passes over the clean samples as stated. At least
       ``2 (C − 1)``: every wrong label comes up twice.
    3. A distilled set holds at least ``5 C`` samples (but at most half the suspects).
    4. Of every class at least ``1 / floor_divisor`` is distilled, whatever its loss.

    Presets ``cifar10``, ``gtsrb``, ``imagenet``: the reference schedules. ``parity``: the reference behaviour, nothing
    scaled, nothing held out. ``small``: for 2,000 to 10,000 images on a CPU. ``medium``: from 5,000 images of 32 pixels
    on, also for triggers that are learned late. ``demo``: seconds.
    """

    basic = (
        "schedule",
        "architecture",
        "input_size",
        "reference",
        "pretrain_epochs",
        "confusion_steps",
        "confusion_lr",
        "lam",
        "decision",
        "rule",
        "held_out",
        "untrained_share",
        "p_value",
        "last_models",
    )

    former: ClassVar[Mapping[str, str]] = {
        "witnesses": "untrained_share",
        "sure": "certain_p",
        "strays": "tolerated_share",
        "jury": "last_models",
    }

    added: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {"mixed_in": False, "fdr": None, "pretrain_recipe": "plain", "schedule": "as_set", "class_level": "suspects"}
    )

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = PRESETS
    for_a_look = ("demo",)

    schedule: Literal["auto", "as_set"] = Field(
        "auto",
        description="auto: that of preset medium or small, by the size of the suspect set; as_set: what the other "
        "settings say; default where a preset or a setting of the schedule is given: as_set",
    )
    architecture: str | None = Field(None, description="default: that of the case's model, else cifar_resnet18")
    input_size: int | None = Field(None, ge=8, le=1024, description="resize images to this edge length")
    mean: tuple[float, ...] | None = Field(None, description="normalisation; default: of the reserved clean set")
    std: tuple[Annotated[float, Field(gt=0)], ...] | None = Field(None, description="normalisation; see `mean`")

    suspect_size: int | None = Field(50_000, ge=1, description="N the epochs are stated for; null: never scale")
    reserved_size: int | None = Field(2_000, ge=1, description="M the steps are stated for; null: never scale")

    ratios: tuple[Share, ...] = Field((1 / 2, 1 / 5, 1 / 25, 1 / 50, 1 / 100), description="ρ, share to distil")
    floor_divisor: int = Field(50, ge=1, description="each class keeps 1/50 of itself")
    last_floor_divisor: int = Field(100, ge=1, description="the same for the last distillation")

    reference: Literal["model", "base0", "labels"] = Field(
        "model", description="whose predictions on the clean set are confused: the case's model (else one is trained)"
    )
    reference_epochs: int = Field(100, ge=1, le=1000, description="of a reference model trained here")
    reference_lr: float = Field(0.1, gt=0, le=10, description="of a reference model trained here")

    reference_augmentation: Augmentation = Field(
        Augmentation(crop=4, flip="auto"), description="of the suspect images, for a reference model trained here"
    )

    pretrain_epochs: tuple[Count, ...] = Field(
        (100, 100, 40, 40, 40, 40), description="of the base model, on the suspects distilled so far"
    )
    pretrain_lr: tuple[Rate, ...] = Field((0.01,), description="learning rate of the base model")
    pretrain_batch: tuple[Size, ...] = Field((32,), description="images per step of the base model")
    pretrain_momentum: float = Field(0.9, ge=0, lt=1, description="of the base model")
    pretrain_recipe: Literal["plain", "fast"] = Field(
        "plain",
        description="of the base model: a constant rate and no augmentation, or the recipe `fast` for "
        "`pretrain_epochs`, which learns faint triggers sooner",
    )
    warm_start: bool = Field(True, description="start a base model from that of the round before")
    shifted_from: int = Field(5, ge=0, description="first round whose base model learns shifted clean labels too")

    confusion_steps: tuple[Size, ...] = Field((6000, 6000, 6000, 6000, 2000, 2000), description="steps on wrong labels")
    confusion_batch: int = Field(32, ge=2, le=4096, description="images per step of confusion")
    confusion_lr: tuple[Rate, ...] = Field(
        (0.001, 0.001, 0.001, 0.01, 0.01, 0.01), description="learning rate of confusion"
    )
    confusion_momentum: tuple[Momentum, ...] = Field((0.7,), description="of confusion")
    lam: tuple[Weight, ...] = Field((20, 20, 20, 30, 30, 15), description="λ, weight of the clean part")
    factor: tuple[Size, ...] = Field((2,), description="q, steps per inspected batch")
    class_weights: bool = Field(True, description="weigh inspected classes against their frequency, but in the end")
    offsets: Offsets = Field("cyclic", description="how confusion labels move away from the reference")
    bn_mode: Literal["joint", "split"] = Field(
        "joint", description="batch norm sees clean and inspected images together, or apart"
    )
    weight_decay: float = Field(1e-4, ge=0, le=0.1, description="L2 penalty in all trainings")
    precision: Precision = Field(
        "float32", description="auto: bf16 autocast on CUDA only; fastest: wherever it is fast"
    )
    channels_last: bool = Field(True, description="memory layout of weights and images; does not change the method")

    decision: Literal["gated", "ungated"] = Field("gated", description="ungated: report all isolated samples")
    threshold: float = Field(2.0, ge=1, le=100, description="likelihood ratio that flags a class")
    top_threshold: float = Field(1.5, ge=1, le=100, description="the same for the class with the largest ratio")
    pca_dims: int = Field(2, ge=1, le=64, description="principal components of the features that the ratio test sees")
    pca_eps: float = Field(0.001, gt=0, le=1, description="added to the diagonal of covariances")
    rule: Literal["ratio", "held_out", "both", "guarded"] = Field(
        "guarded",
        description="what flags a class: the likelihood ratio (the reference rule), being fitted better than held-out "
        "clean samples, both, or (guarded) both, or the second alone when it is beyond doubt",
    )
    held_out: float = Field(0.2, ge=0, lt=1, description="share of the clean set that confusion never sees")
    untrained_share: float = Field(
        0.0,
        ge=0,
        le=0.5,
        description="share of the suspects that no base or confused model is trained on; the held-out rule then tests "
        "these alone, so that nothing memorised counts",
    )
    mixed_in: bool = Field(
        True,
        description="train on the held-out samples among the suspects, under their own labels, so that clean suspects "
        "and held-out samples are memorised alike (not with `untrained_share`)",
    )
    p_value: float = Field(1e-3, gt=0, le=1, description="below it, the held-out rule flags a class")
    certain_p: float = Field(1e-6, gt=0, le=1, description="below it, the guarded rule asks no likelihood ratio")
    tolerated_share: float = Field(
        0.05, ge=0, le=0.5, description="share of the held-out samples that may be fitted as well as poison is"
    )
    fdr: float | None = Field(
        0.2,
        gt=0,
        le=1,
        description="false-discovery rate among the flagged samples of a class, by Benjamini and Hochberg over "
        "conformal p-values; null: not controlled (nor for `ratio`)",
    )
    class_level: Level = Field(
        "both",
        description="level of a class, above which the held-out rule compares its suspects with held-out samples of "
        "all classes: the lower quartile of its suspects, or (both) also the median of its held-out samples",
    )
    last_models: int = Field(
        3, ge=1, le=10, description="last rounds whose confused models decide together (not for `ratio`)"
    )
    vote: Vote = Field("median", description="which of their p-values counts: the median, or the largest (all agree)")

    @field_validator(*PER_ROUND, mode="before")
    @classmethod
    def _same_in_all_rounds(cls, value: Any) -> Any:
        return (value,) if isinstance(value, int | float) else value

    @model_validator(mode="before")
    @classmethod
    def _as_set_where_it_is_named(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or "schedule" in values:
            return values
        named = cls.of_schedule() & values.keys()
        nested = cls._nested_defaults()  # which `build` fills in
        return {**values, "schedule": "as_set"} if any(values[name] != nested.get(name) for name in named) else values

    @model_validator(mode="after")
    def _auto_or_named(self) -> ConfusionSettings:
        if self.schedule == "auto":
            defaults = {name: field.default for name, field in type(self).model_fields.items()}
            named = [name for name in defaults if name in self.of_schedule() and getattr(self, name) != defaults[name]]
            if named:
                raise ValueError(f"schedule auto decides on {', '.join(named)}: leave these out, or set it to as_set")
        return self

    @model_validator(mode="after")
    def _one_value_per_round(self) -> ConfusionSettings:
        if not self.ratios or list(self.ratios) != sorted(self.ratios, reverse=True):
            raise ValueError("ratios must not be empty and must not grow")
        rounds = len(self.ratios) + 1
        for name in PER_ROUND:
            if len(getattr(self, name)) not in (1, rounds):
                raise ValueError(f"{name} needs 1 or {rounds} values: one per round")
        if self.rule != "ratio" and not self.held_out:
            raise ValueError(f"rule {self.rule} needs held_out > 0")
        return self

    @classmethod
    def of_schedule(cls) -> frozenset[str]:
        """Return the settings that make up the schedule."""
        return frozenset(cls.model_fields) - {"schedule", *APART, *DECIDING}

    @classmethod
    def under_first_names(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Leave out settings that say what was done before there were such settings, or that change nothing.

        No reference model is trained but with ``reference: model``.
        """
        named = super().under_first_names(values)
        if named.get("reference") != "model" or named.get("reference_augmentation") == FIRST_AUGMENTATION:
            named.pop("reference_augmentation", None)
        if not named.get("held_out") or named.get("witnesses"):
            named.pop("mixed_in", None)  # nothing to mix in
        if named.get("rule") == "ratio":
            named.pop("fdr", None)
            named.pop("class_level", None)
        return named

    def trained_with(self) -> dict[str, Any]:
        """Return the settings that training depends on, in JSON types; the others only decide on what it found.

        They are under their first names, for :class:`~.data.RoundCache` to find rounds again.
        """
        values = {name: value for name, value in self.dump().items() if name not in DECIDING}
        return self.under_first_names(values)

    def mixes_in(self) -> bool:
        """Return whether models are trained on held-out samples as they are on suspects."""
        return self.mixed_in and not self.untrained_share

    def recipe(self) -> Recipe:
        """Return what all of its trainings share: SGD at a constant rate, no augmentation."""
        return Recipe(
            momentum=self.pretrain_momentum,
            weight_decay=self.weight_decay,
            schedule="constant",
            precision=self.precision,
            channels_last=self.channels_last,
        )

    def rounds(self, n: int, num_classes: int, m: int) -> list[Round]:
        """Return the rounds for *n* suspect samples in *num_classes* classes and *m* reserved clean samples."""
        epochs = 1.0 if self.suspect_size is None else min(2.0, max(0.25, math.sqrt(self.suspect_size / n)))
        steps = 1.0 if self.reserved_size is None else m / self.reserved_size
        least = 1 if self.reserved_size is None else 2 * (num_classes - 1)
        smallest = 0.0 if self.suspect_size is None else min(0.5, LEAST_PER_CLASS * num_classes / n)
        last = len(self.ratios)
        plans = []
        for r in range(last + 1):
            values = {name: given[r if len(given) > 1 else 0] for name in PER_ROUND for given in [getattr(self, name)]}
            plans.append(
                Round(
                    number=r,
                    pretrain_epochs=max(1, round(values["pretrain_epochs"] * epochs))
                    if values["pretrain_epochs"]
                    else 0,
                    pretrain_lr=values["pretrain_lr"],
                    pretrain_batch=values["pretrain_batch"],
                    shifted=r >= self.shifted_from,
                    steps=max(least, round(values["confusion_steps"] * steps)),
                    batch=self.confusion_batch,
                    lam=values["lam"],
                    lr=values["confusion_lr"],
                    momentum=values["confusion_momentum"],
                    factor=values["factor"],
                    weighted=self.class_weights and r < last,
                    keep=max(self.ratios[r], smallest) if r < last else None,
                    floor=self.last_floor_divisor if r == last - 1 else self.floor_divisor,
                )
            )
        return plans

"""Settings of DataElixir and its presets; the symbols are those of the released code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator
from typing_extensions import Self

from ...core.augmentation import Augmentation
from ...core.images import ImageSet
from ...core.settings import Settings, usable_path
from ...diffusion.fit.settings import FitSettings
from ...diffusion.purify import Purification
from ...diffusion.schedule import NoiseLevel
from ...training.loop import Recipe

MANY_CLASSES = 40  # from here on some class stands out by chance
PER_CLASS = 20  # reserved clean images per class, on average, from which on mode auto compares with them


class Detection(Settings):
    """How target classes are found."""

    basic = ("mode", "targets", "z_threshold")

    mode: Literal["auto", "mad", "excess", "all", "given"] = Field(
        "auto",
        description="mad: classes whose samples scatter more than those of others (paper); excess: classes whose "
        "samples lose their label more often than reserved clean images of the class; auto: excess where there are 20 "
        "of these per class; all: all classes (all-to-all attacks); given: those in `targets`",
    )
    targets: tuple[int, ...] = Field((), description="target classes, for mode given")
    z_threshold: float | None = Field(
        None,
        gt=0,
        description="robust score from which a class is flagged; default: 2, but 2.5 in mode excess and 3.5 from 40 "
        "classes on",
    )
    side: Literal["upper", "both"] = Field("upper", description="both: also flag unusually consistent classes (code)")
    smoothing: float = Field(1.0, ge=0, description="κ of guard G1; 0: off")
    min_anomalies: int = Field(10, ge=0, description="guard G2: anomalous samples a class needs to be judged")
    min_share: float = Field(0.005, ge=0, le=1, description="guard G2: the same, as a share of the class")
    mad_floor: float = Field(0.02, ge=0, description="guard G3, nats; 0: off")
    mad_eps: float = Field(1e-6, gt=0, description="added to the spread (code)")
    min_effect: float = Field(0.25, ge=0, description="guard G4: nats above the median; 0: off")
    absolute_cut: float = Field(1.0, gt=0, description="nats from which a class is flagged where there are at most 3")
    min_excess: float = Field(
        0.15, gt=0, lt=1, description="mode excess: share of votes above the median class; also the cut for 3 classes"
    )
    reference_per_class: int = Field(
        100, ge=1, description="mode excess: reserved clean images to purify, per class on average"
    )

    @model_validator(mode="after")
    def _targets_where_given(self) -> Self:
        if (self.mode == "given") != bool(self.targets):
            raise ValueError("`targets` belongs to mode given, e.g. mode=given, targets=[0]")
        if len(set(self.targets)) != len(self.targets) or min(self.targets, default=0) < 0:
            raise ValueError("`targets` must be different classes, 0 or more")
        return self

    def rule(self, clean: ImageSet | None) -> Literal["mad", "excess", "all", "given"]:
        """Return the mode, auto decided by how many reserved clean images there are.

        >>> import numpy as np
        >>> clean = ImageSet(np.zeros((40, 8, 8, 3), np.uint8), [0, 1] * 20, num_classes=2)
        >>> Detection().rule(clean), Detection().rule(None)
        ('excess', 'mad')
        """
        if self.mode != "auto":
            return self.mode
        return "mad" if clean is None or len(clean) < PER_CLASS * clean.num_classes else "excess"

    def threshold(self, num_classes: int) -> float:
        """Return the robust score from which a class is flagged."""
        if self.z_threshold is not None:
            return self.z_threshold
        if num_classes >= MANY_CLASSES:
            return 3.5
        return 2.5 if self.mode == "excess" else 2.0


class Selection(Settings):
    """How SELECT measures and chooses."""

    weight: float = Field(0.5, ge=0, le=1, description="λ: structure against features")
    quantile: float = Field(0.8, ge=0, lt=1, description="how far from the original, among the images of a sample")
    ssim: Literal["2d", "vol3d"] = Field(
        "2d", description="mean over channels; or one volume of height, width and channel, as the released code has it"
    )
    window: int | None = Field(
        None, ge=3, le=63, description="edge of the SSIM window; default: 7; 3 below 16 pixels and for volumes"
    )


LEVEL: dict[str, Any] = {"steps": 150, "of": 1000, "schedule": "linear"}  # T: noise of 66/255 relative to the image
FULL: dict[str, Any] = {"level": LEVEL, "rounds": 5, "steps": None, "dense_below": 0}
FEW: dict[str, Any] = {"level": LEVEL, "rounds": 5, "steps": 10, "dense_below": 5}
PLAIN_FIT: dict[str, Any] = {"schedule": "linear", "length": 1000, "learn_sigma": False}  # the chain LEVEL counts in
CPU_FIT: dict[str, Any] = {**FitSettings.presets["cpu"], **PLAIN_FIT, "t_train_max": None}
RELEASED_RULE: dict[str, Any] = {
    "mode": "mad",
    "z_threshold": 2.0,
    "side": "both",
    "smoothing": 0,
    "min_anomalies": 0,
    "min_share": 0,
    "mad_floor": 0,
    "min_effect": 0,
}
SMALL_PURIFICATION: dict[str, Any] = {
    # one round: chained, what a small denoiser blurs in the first looks like some other class after the third
    "purification": {"level": LEVEL, "rounds": 1, "steps": 8, "dense_below": 3},
    "states": 3,
    "threshold": 1,
}
PAPER: dict[str, Any] = {
    "purification": FULL,
    "variance": "fixed_large",
    "states": 10,
    "threshold": 5,
    "rebalance": False,
    "detection": {"mode": "mad"},
}


class PurificationRounds(Purification):
    """How images are purified; defaults are those of DataElixir, few-step: 14 evaluations per round."""

    basic = ("rounds", "steps")

    level: NoiseLevel = Field(NoiseLevel(**LEVEL), description="T; how deep each round goes")
    rounds: int = Field(5, ge=1, le=100, description="n, chained: each starts from the result of the one before")
    steps: int | None = Field(10, ge=1, description="steps of the reverse chain, evenly spaced; None: all")
    dense_below: int = Field(5, ge=0, description="visit every index below this one; at least `states`")


class Training(Recipe):
    """How the probe, the benign model and the final model are trained; defaults are those of the released code."""

    basic = ("epochs",)

    epochs: int = Field(100, ge=1)
    lr: float = Field(0.01, gt=0)
    augmentation: Augmentation = Augmentation(crop=4, flip="auto")


class DataElixirSettings(Settings):
    """Settings of DataElixir.

    The defaults are few-step: 70 network evaluations per image instead of 750; and they rebalance, because a target
    class that has most of its samples set aside is hardly learned by the benign model, which then relabels all of
    them. ``paper``: the full procedure.
    ``parity``: the released code with its faults (but images that no step touches stay as they are). ``small``: a few
    thousand images on a CPU, with a denoiser trained on the spot. ``demo``: seconds.
    """

    basic = (
        "denoiser",
        "purification",
        "states",
        "threshold",
        "detect_per_class",
        "fallback",
        "detection",
        "probe",
        "architecture",
        "recipe",
        "purify_all_in_target",
        "train_final",
    )

    for_a_look = ("demo",)
    added: ClassVar[Mapping[str, Any]] = {"fallback": "whole"}
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": PAPER,
        "parity": {
            **PAPER,
            "quantise": "truncate",
            "jump_beyond": True,
            "detection": RELEASED_RULE,
            "selection": {"ssim": "vol3d", "window": 3},
            "train_final": False,
        },
        "small": {
            **SMALL_PURIFICATION,
            "architecture": "fast_resnet",
            "fit": CPU_FIT,
            "recipe": {"epochs": 30, "lr": 0.05},
            "fine_tune_lr": 0.01,
        },
        "demo": {
            "probe": "case",
            "fit": {**CPU_FIT, "iterations": 150, "batch_size": 16, "lr": 1e-3, "ema_decay": 0.98},
            "purification": {"level": LEVEL, "rounds": 2, "steps": 3, "dense_below": 1},
            "states": 1,
            "threshold": 1,
            "recipe": {"epochs": 8, "lr": 0.05, "batch_size": 64, "augmentation": {"crop": 1, "flip": False}},
            "fine_tune_lr": 0.01,
            "train_final": False,
        },
    }

    denoiser: str | None = Field(
        None,
        description="diffusers folder, Hub name, checkpoint of improved- or guided-diffusion or registered name; "
        "default: train one on the reserved clean set",
    )
    _usable_path = field_validator("denoiser")(usable_path)

    force_denoiser: bool = Field(False, description="take a denoiser that was trained on images of the suspect set")
    fit: FitSettings = Field(
        FitSettings.build({**PLAIN_FIT, "size": "small", "dropout": 0.1}, preset="fast").model_copy(
            update={"t_train_max": None}
        ),
        description="how a denoiser is trained; t_train_max defaults to what the level needs",
    )
    purification: PurificationRounds = PurificationRounds()
    variance: Literal["auto", "fixed_large", "fixed_small"] = Field(
        "auto",
        description="of the noise of each step back, unless the denoiser learned it; small leaves less noise after "
        "few steps, but raises false alarms where mode mad decides; auto: large there, else small",
    )
    states: int = Field(5, ge=1, le=1000, description="m, images kept from the end of each round")
    keep: Literal["states", "predictions"] = Field(
        "states", description="what is kept of the last steps: the states, or the images predicted from them"
    )
    threshold: int = Field(3, ge=1, description="τ, votes from which a second label counts; about half of `states`")
    anchor: Literal["predicted", "given"] = Field(
        "predicted", description="what a stable label is compared with: the prediction on the original, or its label"
    )
    drop_stable_after: int | None = Field(
        None,
        ge=1,
        description="stop purifying samples whose label has not moved in so many rounds; may hide a target class",
    )
    detect_per_class: int | None = Field(
        None, ge=10, description="find target classes on so many samples per class, then purify those classes alone"
    )
    fallback: Literal["whole", "grow"] = Field(
        "whole",
        description="with `detect_per_class`, where no class stands out or the decision is a close one: purify all; or "
        "grow: four times as many samples per class, until it is clear. In mode excess, that none stands out is clear",
    )
    detection: Detection = Detection()
    selection: Selection = Selection()
    probe: Literal["train", "case"] = Field(
        "train", description="the classifier that votes: trained here on the suspect set, or the case's model"
    )
    architecture: str | None = Field(None, description="default: that of the case's model, else preactresnet18")
    recipe: Training = Training()
    fine_tune_lr: float = Field(0.002, gt=0, description="of the benign model's second stage")
    verify_unanimous: bool = Field(False, description="let the benign model confirm unanimous labels too")
    purify_all_in_target: bool = Field(
        False, description="replace the images of stable samples of target classes too (clean-label attacks)"
    )
    rebalance: bool = Field(
        True, description="fill target classes up with purified copies while the benign model is trained"
    )
    train_final: bool = Field(True, description="train a fresh model on the repaired set")
    quantise: Literal["round", "truncate"] = Field("round", description="of purified images; truncate: released code")
    jump_beyond: bool = Field(False, description="noise one step deeper than the reverse chain starts (released code)")

    @model_validator(mode="after")
    def _drops_before_the_end(self) -> Self:
        if self.drop_stable_after is not None and self.drop_stable_after >= self.purification.rounds:
            raise ValueError("`drop_stable_after` must be less than purification.rounds, or nothing is saved")
        return self

    @model_validator(mode="after")
    def _grows_from_something(self) -> Self:
        if self.fallback == "grow" and self.detect_per_class is None:
            raise ValueError("`fallback: grow` says how `detect_per_class` grows: give it, e.g. detect_per_class=100")
        return self

    @model_validator(mode="after")
    def _jump_beyond_needs_ddpm(self) -> Self:
        if self.jump_beyond and self.purification.sampler != "ddpm":  # the step in front would leave nothing but zeros
            raise ValueError("`jump_beyond` needs purification.sampler=ddpm")
        return self

    def step_variance(self, clean: ImageSet | None) -> Literal["fixed_large", "fixed_small"]:
        """Return the variance, auto decided by the rule that finds target classes.

        :param clean: the reserved clean set.
        """
        if self.variance != "auto":
            return self.variance
        return "fixed_large" if self.detection.rule(clean) == "mad" else "fixed_small"

    @property
    def slots(self) -> int:
        """M: images per sample, the original included."""
        return self.purification.rounds * self.states + 1

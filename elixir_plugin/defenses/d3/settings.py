"""Settings of D3; the symbols are those of the paper."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator
from typing_extensions import Self

from ...core.settings import Settings
from ...training.loop import Augmentation, Precision

WarmUp = Literal["random", "far", "noise", "near", "middle"]

TUNING: dict[str, Any] = {"distance": False, "project": False, "eps": 0.0, "lam": 1.0, "epochs": 100}


class D3Settings(Settings):
    """Settings of D3; the symbols are those of the paper."""

    basic = (
        *("lam", "eps", "margin", "select", "warm_up", "steps", "epochs", "batch_size", "lr"),
        *("augmentation.crop", "augmentation.flip", "missing_classes"),
    )
    added: ClassVar[Mapping[str, Any]] = {
        "missing_classes": "protect",  # where no class is missing, they are all alike
        "margin": 0.1,  # of no effect where λ is a number
        "crop_limit": 0.125,  # likewise
        "steps": None,  # formerly, all runs were as long as `epochs` said
    }

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"lam": 10.0, "epochs": 100},
        "code": {"lam": 0.5, "batch_size": 256, "epochs": 100},
        "finetune": {"warm_up": "near", **TUNING},
        "random_head": {"warm_up": "random", **TUNING},
    }

    lam: Annotated[float, Field(ge=0)] | Literal["auto"] = Field(
        "auto",
        description="λ, weight of the clean loss against the distance; auto: raised while the loss of reserved samples "
        "that are held back is above what is allowed, and lowered while it is below",
    )

    @field_validator("lam", mode="before")
    @classmethod
    def _number_or_auto(cls, value: Any) -> Any:
        """Say in one sentence what is wrong with the value, and not once for each type."""
        if value == "auto":
            return value
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            raise ValueError("must be a number or auto") from None
        if not (math.isfinite(number) and number >= 0):
            raise ValueError("must be a finite number ≥ 0, or auto")
        return number

    margin: float = Field(
        0.1,
        ge=0,
        description="where λ is auto: nats by which the clean loss may exceed that of the suspect model, if that is "
        "above ε",
    )
    eps: float = Field(0.1, ge=0, description="ε, clean loss (nats) below which a sample is not penalised")
    p: float = Field(2.0, ge=1, description="order of the norm, for distance and projection")
    select: Literal["head", "linears", "all"] | tuple[str, ...] = Field(
        "head", description="weights to move: the last linear layer, all linear, linear and conv, or names and patterns"
    )

    @field_validator("select", mode="before")
    @classmethod
    def _one_name(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) and value not in ("head", "linears", "all") else value

    warm_up: WarmUp = Field("random", description="where the selected weights start")
    hinge: Literal["sample", "batch"] = Field("sample", description="apply ε to each sample, or to the mean")
    scale_objective: bool = Field(True, description="divide the objective by λ + 1 when λ > 1")
    project: bool = Field(True, description="hold the norm of the selected weights; off only for ablation")
    distance: bool = Field(True, description="pull away from the received weights; off only for ablation")
    bn_eval: bool = Field(False, description="freeze batch-norm statistics")
    steps: int | None = Field(
        None,
        ge=1,
        description="of the descent, rounded up to whole epochs; default: as `epochs` says, else 250, or more for "
        "more than 625 samples, 1,000 from 2,500 on; and where λ is auto, another round if the model is still learning",
    )
    epochs: int | None = Field(None, ge=1, description="passes over the reserved clean set, in place of `steps`")
    batch_size: int | None = Field(
        None, ge=2, description="default: 256, or less so that an epoch has 8 steps (at least 32)"
    )
    lr: float = Field(0.01, gt=0, description="learning rate at the start; falls along a cosine")
    momentum: float = Field(0.9, ge=0, lt=1, description="of SGD")
    weight_decay: float = Field(0.0, ge=0, le=5e-4, description="not applied to the selected weights")
    augmentation: Augmentation = Field(Augmentation(crop=4, flip="auto"), description="of the reserved clean images")
    crop_limit: float = Field(
        0.125,
        ge=0,
        le=1,
        description="where λ is auto: share of the shorter edge that `augmentation.crop` is cut to",
    )
    precision: Precision = Field(
        "fastest",
        description="fastest: bf16 autocast wherever the device has instructions for it; auto: on CUDA only; default "
        "where λ is a number: float32",
    )
    channels_last: bool = Field(True, description="memory layout of weights and images; does not change the method")
    missing_classes: Literal["protect", "refuse", "allow"] = Field(
        "protect",
        description="classes of which the reserved clean set holds fewer than 2 samples: keep what the suspect model "
        "knows of them, refuse the case, or let them be forgotten",
    )

    @model_validator(mode="before")
    @classmethod
    def _precision_of_a_fixed_lam(cls, values: Any) -> Any:
        """Compute as the paper and the released code do, where λ is theirs to choose."""
        if isinstance(values, Mapping) and values.get("lam", "auto") != "auto" and "precision" not in values:
            return {**values, "precision": "float32"}
        return values

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if self.steps is not None and self.epochs is not None:
            raise ValueError("steps and epochs both say how long to train: give one of them, or null for the other")
        return self

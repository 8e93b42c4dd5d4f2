"""Settings of D3; the symbols are those of the paper."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from ...core.settings import Settings
from ...training.loop import Augmentation

WarmUp = Literal["random", "far", "noise", "near", "middle"]


class D3Settings(Settings):
    """Settings of D3; the symbols are those of the paper."""

    basic = (
        *("lam", "eps", "select", "warm_up", "epochs", "batch_size", "lr", "augmentation.crop", "augmentation.flip"),
        "missing_classes",
    )
    added: ClassVar[Mapping[str, Any]] = {"missing_classes": "protect"}  # where no class is missing, they are all alike

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "code": {"lam": 0.5, "batch_size": 256},
        "finetune": {"distance": False, "project": False, "warm_up": "near", "eps": 0.0, "lam": 1.0},
        "random_head": {"distance": False, "project": False, "warm_up": "random", "eps": 0.0, "lam": 1.0},
    }

    lam: float = Field(10.0, ge=0, description="λ, weight of the clean loss against the distance")
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
    epochs: int = Field(100, ge=1, description="passes over the reserved clean set")
    batch_size: int | None = Field(
        None, ge=2, description="default: 256, or less so that an epoch has 8 steps (at least 32)"
    )
    lr: float = Field(0.01, gt=0, description="learning rate at the start; falls along a cosine")
    momentum: float = Field(0.9, ge=0, lt=1, description="of SGD")
    weight_decay: float = Field(0.0, ge=0, le=5e-4, description="not applied to the selected weights")
    augmentation: Augmentation = Field(Augmentation(crop=4, flip="auto"), description="of the reserved clean images")
    precision: Literal["auto", "float32", "bf16"] = Field("float32", description="auto: bf16 autocast on CUDA only")
    channels_last: bool = Field(True, description="memory layout of weights and images; does not change the method")
    missing_classes: Literal["protect", "refuse", "allow"] = Field(
        "protect",
        description="classes of which the reserved clean set holds fewer than 2 samples: keep what the suspect model "
        "knows of them, refuse the case, or let them be forgotten",
    )

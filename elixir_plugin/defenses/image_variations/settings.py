"""Settings of image variations and their presets; the symbols are those of the released code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from ...core.augmentation import Augmentation
from ...core.settings import Settings
from ...diffusion.fit.settings import FitSettings
from ...diffusion.generators.base import GeneratorSettings
from ...training.loop import Recipe, Schedule

CHAIN: dict[str, Any] = {"schedule": "linear", "length": 1000, "learn_sigma": False}  # what strengths are shares of
CPU_FIT: dict[str, Any] = {**FitSettings.presets["cpu"], **CHAIN, "t_train_max": None}
Share = Annotated[float, Field(ge=0, le=1)]


class Learning(Recipe):
    """How teacher and student are trained; defaults are those of the released code."""

    basic = ("epochs",)

    epochs: int = Field(100, ge=1)
    optimizer: Literal["sgd", "adam", "adamw"] = "adam"
    lr: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    schedule: Schedule = "step"
    drops: tuple[Share, ...] = Field(
        (0.3, 0.5), description="shares of the epochs after which `step` lowers the rate, where `milestones` is empty"
    )
    augmentation: Augmentation = Augmentation(flip="auto")

    def resolved(self) -> Recipe:
        """Return the recipe with milestones in epochs."""
        values = self.model_dump(exclude={"drops"})
        if not self.milestones:
            # at milestone 0 the rate would be lowered from the start
            values["milestones"] = tuple(max(1, round(share * self.epochs)) for share in self.drops)
        return Recipe(**values)


class StrengthSearch(Settings):
    """How ``strength=auto`` is searched on the reserved clean set."""

    candidates: tuple[Share, ...] = Field(
        (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7), min_length=1, description="ascending; tried until one is too strong"
    )
    agreement: float = Field(
        0.7, ge=0, le=1, description="share of clean images whose variation the teacher must see as the image itself"
    )
    images: int = Field(256, ge=1, description="clean images to try on, drawn at random")

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        if list(self.candidates) != sorted(set(self.candidates)):
            raise ValueError("`candidates` must ascend")
        return self


class ImageVariationsSettings(GeneratorSettings):
    """Settings of image variations.

    Defaults are the training of the released code; the generator is the first one at hand. ``paper``: its generator
    too. ``cpu``: a few thousand small images, with a denoiser trained on the spot. ``demo``: seconds.
    """

    basic = (
        "backend",
        "weights",
        "denoiser",
        "num_inference_steps",
        "strength",
        "num_variations",
        "color_transfer",
        "variations",
        "teacher",
        "architecture",
        "recipe",
        "temperature",
        "alpha",
    )

    for_a_look = ("demo",)
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {
            "backend": "versatile",
            "num_inference_steps": 50,
            "guidance_scale": 7.5,
            "gen_size": 512,
            "teacher": "train",
            "architecture": "resnet101",
        },
        "cpu": {
            "backend": "sdedit",
            "num_inference_steps": 20,
            "fit": CPU_FIT,
            "architecture": "fast_resnet",
            "normalize": True,
            "recipe": {"epochs": 40, "batch_size": 64, "lr": 2e-3},
        },
        "demo": {
            "backend": "sdedit",
            "num_inference_steps": 6,
            "sampler": "ddpm",
            "fit": {**CPU_FIT, "iterations": 150, "batch_size": 16, "lr": 1e-3, "ema_decay": 0.98},
            "search": {"candidates": (0.2, 0.3, 0.4, 0.5), "images": 48},
            "recipe": {"epochs": 12, "batch_size": 64, "lr": 2e-3, "augmentation": {"flip": False, "crop": 1}},
        },
    }

    force_denoiser: bool = Field(False, description="take a denoiser that was trained on images of the suspect set")
    fit: FitSettings = Field(
        FitSettings.build({**CHAIN, "size": "small", "dropout": 0.1}, preset="fast").model_copy(
            update={"t_train_max": None}
        ),
        description="how a denoiser is trained; t_train_max defaults to what the strength needs",
    )
    search: StrengthSearch = StrengthSearch()
    num_variations: int = Field(1, ge=1, le=64, description="K, per image; variation k of image i is number i·K + k")
    color_transfer: bool = Field(
        True,
        description="give each channel of a variation mean and spread of its image; false where a trigger may be a "
        "colour cast or cover the whole image",
    )
    store_size: int | None = Field(
        None, ge=8, le=2048, description="edge length to store and train at; default: that of the suspect images"
    )
    variations: str | None = Field(
        None,
        description="folder that keeps the variations, so that runs with other settings of the student find them made; "
        "default: the work folder, which goes when the run is done",
    )
    teacher: Literal["auto", "train", "case"] = Field(
        "auto", description="trained here on the suspect set, or the case's model; auto: the latter where there is one"
    )
    architecture: str | None = Field(
        None, description="of teacher and student; default: that of the case's model, else preactresnet18"
    )
    normalize: bool = Field(
        False,
        description="where no suspect model does, networks made here normalise: with mean and spread of the set",
    )
    recipe: Learning = Learning()
    temperature: float = Field(10.0, ge=1, le=100, description="T, of the teacher's soft labels")
    alpha: float = Field(0.5, ge=0, le=1, description="share of the soft labels in the loss")
    ce_temperature: float | None = Field(
        None, ge=1, le=100, description="of the hard-label term: T (default; released code), or 1 (textbook)"
    )
    distill: bool = Field(True, description="false: the student learns the given labels alone, without a teacher")
    augment_teacher: bool = Field(
        True, description="the teacher answers for each image as the student sees it; false: as it is stored"
    )
    cache_logits: bool = Field(
        True, description="ask the teacher once per image and mirror image, where augmentation does no more than flip"
    )
    drop_disagreeing: bool = Field(
        False, description="no hard-label term where the teacher sees another class than the label (extension)"
    )
    mixing: float = Field(
        0.0, ge=0, le=1, description="share of the suspect images, drawn at random, that the student sees as well"
    )
    student_data: Literal["variations", "originals"] = Field(
        "variations", description="originals: a control, in which the student learns from the suspect images"
    )

    @model_validator(mode="after")
    def _mixing_needs_variations(self) -> Self:
        if self.mixing and self.student_data == "originals":
            raise ValueError("`mixing` adds suspect images to variations; with student_data=originals there are none")
        return self

    @property
    def hard_temperature(self) -> float:
        """Temperature of the hard-label term."""
        return self.temperature if self.ce_temperature is None else self.ce_temperature

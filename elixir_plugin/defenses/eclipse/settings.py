"""Settings of ECLIPSE; the symbols are those of the paper."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from ...core.settings import Settings, usable_path
from ...diffusion.fit.settings import FitSettings
from ...diffusion.plan import Purification
from ...diffusion.schedule import NoiseLevel

PAPER_LEVEL = {"steps": 100, "of": 4000, "schedule": "cosine"}  # t* of the released configuration: 6.37/255


class EclipseSettings(Settings):
    """Settings of ECLIPSE; preset ``paper`` has the released configuration, days of work on a CPU."""

    basic = (
        "denoiser",
        "sparse",
        "fit.size",
        "fit.iterations",
        "fit.batch_size",
        "purification.level",
        "purification.steps",
        "gray_p",
        "noise_std",
        "mode",
    )

    for_a_look = ("demo",)
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {
            "fit": FitSettings.build(preset="paper").dump(),
            "purification": {"steps": None, "precision": "float32"},
        },
        "fast": {"fit": FitSettings.build(preset="fast").dump(), "purification": {"steps": 25}},
        "cpu": {"fit": FitSettings.build(preset="cpu").dump(), "purification": {"steps": 5}},
        "demo": {
            "fit": FitSettings.build({"iterations": 250}, preset="cpu").dump(),
            "purification": {"steps": 5},
        },
    }

    denoiser: str | None = Field(
        None,
        description="diffusers folder, Hub name, checkpoint of improved- or guided-diffusion or registered name; "
        "default: train one on the reserved clean set",
    )
    _usable_path = field_validator("denoiser")(usable_path)

    force_denoiser: bool = Field(False, description="take a denoiser that was trained on images of the suspect set")
    sparse: int | None = Field(
        None, ge=2, description="clean images to train the denoiser on, drawn at random; default: all"
    )
    fit: FitSettings = Field(FitSettings.build(preset="fast"), description="how the denoiser is trained")
    purify: bool = Field(True, description="module A; off only for ablation")
    purification: Purification = Field(
        Purification(level=NoiseLevel(**PAPER_LEVEL), steps=25),
        description="how far images are noised, and how they come back",
    )
    gray_p: float = Field(0.4, ge=0, le=1, description="module B: probability of losing the colour")
    noise_std: float = Field(0.05, ge=0, le=0.5, description="module C: noise in pixel scale")
    mode: Literal["online", "static"] = Field(
        "online", description="draw B and C anew whenever a model sees an image (code), or once into the set (paper)"
    )

"""What a checkpoint of improved-diffusion or guided-diffusion does not say of itself: stated in a JSON file beside it.

``NAME.json`` beside ``NAME.pt`` holds flags of the training under their own names, e.g. ``{"image_size": 32,
"diffusion_steps": 4000, "noise_schedule": "cosine", "rescale_timesteps": true, "num_heads": 4,
"use_new_attention_order": false}``, and for a network that is conditional on a class ``class_label``, the class that
every image is taken for. Flags that the weights show are compared with them. For the published checkpoints, what was
published with them is taken by file name; a JSON file overrides it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from ...core.settings import Settings
from ...errors import InputError, SettingsError, preview_list
from ...io.opening import is_there
from ...io.reading import read_json
from ..schedule import Schedule
from .base import Variance
from .guided_unet import GuidedPlan, Heads

EXAMPLE = {
    "image_size": 32,
    "diffusion_steps": 4000,
    "noise_schedule": "cosine",
    "rescale_timesteps": True,
    "num_heads": 4,
    "use_new_attention_order": False,
}
USUAL_STEPS = 1000  # of a chain; times are told on its scale where they are rescaled
UNSET = -1  # how the flags of both projects say "not given"


def _numbers(value: Any) -> Any:
    """Read the flags' form of a list, ``"32,16,8"``; an empty one is none."""
    if not isinstance(value, str):
        return value
    return tuple(part.strip() for part in value.split(",")) if value.strip() else None


Head = Annotated[int, Field(ge=-1, le=8192)]


class GuidedSettings(Settings):
    """Flags of both projects that say something about the network or its chain; those left out are not stated."""

    image_size: int | None = Field(None, ge=1, le=4096, description="edge length of the images it was trained on")
    num_channels: int | None = None
    num_res_blocks: int | None = None
    num_heads: Head | None = None
    num_heads_upsample: Head = UNSET
    num_head_channels: Head = UNSET
    attention_resolutions: Annotated[tuple[int, ...] | None, BeforeValidator(_numbers)] = None
    channel_mult: Annotated[tuple[float, ...] | None, BeforeValidator(_numbers)] = None
    dropout: float | None = None
    class_cond: bool | None = None
    class_label: int | None = Field(None, ge=0, description="the class that every image is taken for")
    use_checkpoint: bool | None = None
    use_scale_shift_norm: bool | None = None
    resblock_updown: bool | None = None
    use_fp16: bool | None = None
    use_new_attention_order: bool | None = None
    learn_sigma: bool | None = None
    sigma_small: bool = False
    diffusion_steps: int | None = Field(None, ge=1, le=100_000)
    noise_schedule: Literal["linear", "cosine"] | None = None
    timestep_respacing: str | int | None = Field(None, description="of their sampling; has no effect here")
    use_kl: bool | None = None
    predict_xstart: Literal[False] = Field(False, description="networks that predict the image are not taken")
    rescale_timesteps: bool | None = None
    rescale_learned_sigmas: bool | None = None

    def missing(self) -> list[str]:
        """Return what is not stated and cannot be read from the weights."""
        wanted = {
            "image_size": self.image_size,
            "diffusion_steps": self.diffusion_steps,
            "noise_schedule": self.noise_schedule,
            "use_new_attention_order (false in improved-diffusion)": self.use_new_attention_order,
        }
        names = [name for name, value in wanted.items() if value is None]
        if self.num_heads in (None, UNSET) and self.num_head_channels == UNSET:
            names.append("num_heads or num_head_channels")
        if self.rescale_timesteps is None and self.diffusion_steps != USUAL_STEPS:
            names.append("rescale_timesteps (by default true in improved-diffusion, false in guided-diffusion)")
        return names

    def heads(self) -> Heads:
        """Return how attention is divided."""
        given = [None if each == UNSET else each for each in (self.num_heads, self.num_heads_upsample)]
        channels = None if self.num_head_channels == UNSET else self.num_head_channels
        return Heads(given[0], given[0] if given[1] is None else given[1], channels, bool(self.use_new_attention_order))

    def schedule(self) -> Schedule:
        """Return the chain; a linear one keeps its noise when it has more or fewer steps."""
        assert self.diffusion_steps is not None and self.noise_schedule is not None
        if self.noise_schedule == "cosine":
            return Schedule("cosine", self.diffusion_steps)
        scale = USUAL_STEPS / self.diffusion_steps
        return Schedule("linear", self.diffusion_steps, scale * 1e-4, scale * 0.02)

    def timestep_scale(self) -> float:
        """Return what an index is multiplied with for the network."""
        assert self.diffusion_steps is not None
        return USUAL_STEPS / self.diffusion_steps if self.rescale_timesteps else 1.0

    def variance(self, plan: GuidedPlan) -> Variance:
        """Return how the variance of a reverse step is found."""
        if plan.out_channels == 2 * plan.in_channels:
            return "learned_range"
        return "fixed_small" if self.sigma_small else "fixed_large"


def _published(image_size: int, num_channels: int, num_res_blocks: int, **more: Any) -> dict[str, Any]:
    """Return what was published with a checkpoint; *more* differs from most of guided-diffusion's."""
    usual = {"diffusion_steps": 1000, "noise_schedule": "linear", "num_head_channels": 64} | {
        "use_new_attention_order": False,
        "rescale_timesteps": False,
        "class_cond": False,
    }
    sizes = {"image_size": image_size, "num_channels": num_channels, "num_res_blocks": num_res_blocks}
    return {**sizes, **usual, **more}


_IMPROVED = {"num_heads": 4, "num_head_channels": UNSET, "diffusion_steps": 4000, "noise_schedule": "cosine"}
_CIFAR = _published(32, 128, 3, **_IMPROVED, rescale_timesteps=True)
_IMAGENET = _published(64, 128, 3, **_IMPROVED, rescale_timesteps=True)
_BEDROOMS = _published(256, 128, 2, num_heads=1, num_head_channels=UNSET)
_LARGE = _published(256, 256, 2)
PUBLISHED: MappingProxyType[str, dict[str, Any]] = MappingProxyType(
    {
        "cifar10_uncond_50M_500K": _CIFAR,
        "cifar10_uncond_vlb_50M_500K": _CIFAR,
        "imagenet64_uncond_100M_1500K": _IMAGENET,
        "imagenet64_uncond_vlb_100M_1500K": _IMAGENET,
        "imagenet64_cond_270M_250K": _published(64, 192, 3, **_IMPROVED, class_cond=True),
        "lsun_uncond_100M_1200K_bs128": _BEDROOMS,
        "lsun_uncond_100M_2400K_bs64": _BEDROOMS,
        "64x64_diffusion": _published(
            64, 192, 3, noise_schedule="cosine", use_new_attention_order=True, class_cond=True
        ),
        "128x128_diffusion": _published(128, 256, 2, num_heads=4, num_head_channels=UNSET, class_cond=True),
        "256x256_diffusion": _published(256, 256, 2, class_cond=True),
        "256x256_diffusion_uncond": _LARGE,
        "512x512_diffusion": _published(512, 256, 2, class_cond=True),
        "lsun_bedroom": _LARGE,
        "lsun_cat": _LARGE,
        "lsun_horse": _LARGE,
        "lsun_horse_nodropout": _LARGE,
    }
)


def read_settings(path: Path) -> tuple[GuidedSettings, Path | None, bool]:
    """Return what is known of the checkpoint *path*, the JSON file that states it, and whether some of it is published.

    :raises InputError: when the file is no JSON, states something unknown or out of range, or something is missing.
    """
    file, published = path.with_suffix(".json"), PUBLISHED.get(path.stem, {})
    stated = read_json(file) if is_there(file) else {}
    if not isinstance(stated, dict):
        raise InputError("settings of a network are one mapping", where=file, found=type(stated).__name__)
    try:
        settings = GuidedSettings.build({**published, **stated}, where=str(file))
    except SettingsError as error:
        raise InputError(
            "settings of the network refused",
            where=file,
            found=error.found,
            allowed=error.allowed or "flags of improved-diffusion and guided-diffusion, and class_label",
            hint=error.hint,
        ) from None
    if missing := settings.missing():
        raise InputError(
            "a checkpoint does not say all that its network needs",
            where=path,
            found=f"not known: {'; '.join(missing)}",
            allowed=f"{file.name} beside it, with what it was trained with, e.g. {json.dumps(EXAMPLE)}",
            hint=f"write these into {file}: the names are those of the training's flags",
        )
    return settings, file if is_there(file) else None, bool(published)


def refuse_contradictions(settings: GuidedSettings, plan: GuidedPlan, path: Path, where: object) -> None:
    """Compare what is stated with what the weights show.

    :param path: of the weights.
    :param where: of the statement.
    :raises InputError: naming every difference, or the class that must be named.
    """
    assert settings.image_size is not None
    shown = {
        "num_channels": plan.base,
        "num_res_blocks": plan.blocks,
        "channel_mult": tuple(width / plan.base for width in plan.widths),
        "class_cond": plan.classes is not None,
        "learn_sigma": plan.out_channels == 2 * plan.in_channels,
        "use_scale_shift_norm": plan.scale_shift,
        "attention_resolutions": _resolutions(plan, settings.image_size, settings.attention_resolutions),
    }
    if len(plan.widths) > 1:
        shown["resblock_updown"] = plan.block_resampling
    stated = {name: getattr(settings, name) for name in shown}
    wrong = [f"{name} = {stated[name]}" for name in shown if stated[name] is not None and stated[name] != shown[name]]
    if wrong:
        raise InputError(
            "what is stated of the network is not what the weights show",
            where=where,
            found="; ".join(wrong),
            allowed="; ".join(f"{name} = {shown[name]}" for name in shown if f"{name} = {stated[name]}" in wrong),
            hint=f"correct it, or leave it out: it is read from {path.name}",
        )
    _refuse_misfit(settings, plan, where)
    _refuse_class(settings, plan, path, where)


def _resolutions(plan: GuidedPlan, image_size: int, stated: Iterable[int] | None) -> tuple[int, ...]:
    """Return image sizes at which the network attends: as they are stated, where that means the same levels."""
    rates = {2**level for level, attends in enumerate(plan.attention) if attends}
    given = tuple(stated or ())
    reached = {image_size // each for each in given if each > 0} & {2**level for level in range(len(plan.attention))}
    return given if given and reached == rates else tuple(image_size // rate for rate in sorted(rates))


def _refuse_misfit(settings: GuidedSettings, plan: GuidedPlan, where: object) -> None:
    assert settings.image_size is not None
    if settings.image_size % plan.stride:
        raise InputError(
            "the network cannot halve images of this size as often as it does",
            where=f"{where}: image_size",
            found=settings.image_size,
            allowed=f"multiples of {plan.stride}",
        )
    heads = settings.heads()
    odd = [width for width in plan.attended for up in (False, True) if not heads.of(width, up=up)]
    if odd:
        raise InputError(
            "attention cannot be divided into these heads",
            where=f"{where}: num_heads, num_heads_upsample, num_head_channels",
            found=f"{heads.count}, {heads.count_up}, {heads.channels or UNSET}",
            allowed=f"divisors of {preview_list(sorted(set(odd)))} channels",
        )
    if plan.out_channels not in (plan.in_channels, 2 * plan.in_channels):
        raise InputError(
            "the network predicts something else than noise",
            where=where,
            found=f"{plan.out_channels} outputs for {plan.in_channels} channels",
            allowed=f"{plan.in_channels}, or {2 * plan.in_channels} with the variance",
        )


def _refuse_class(settings: GuidedSettings, plan: GuidedPlan, path: Path, where: object) -> None:
    label = settings.class_label
    if plan.classes is None and label is not None:
        raise InputError(
            "the network knows no classes", where=f"{where}: class_label", found=label, hint="leave class_label out"
        )
    if plan.classes is not None and label is None:
        raise InputError(
            "the network is conditional on a class, and images of unknown class are to be purified",
            where=path,
            found=f"{plan.classes:,} classes",
            allowed="a network without classes, or one class that every image is taken for: labels of suspect samples "
            "are not to be trusted, so they are never used",
            hint=f'best, name an unconditional checkpoint; else write "class_label": NUMBER into '
            f"{path.with_suffix('.json')}, e.g. the number that stands for no class where it was trained with one",
        )
    if plan.classes is not None and label is not None and label >= plan.classes:
        raise InputError("no such class", where=f"{where}: class_label", found=label, allowed=f"0..{plan.classes - 1}")

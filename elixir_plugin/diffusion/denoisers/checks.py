"""Checks of denoiser folders, which anybody may have written: nothing in them is used before it is checked."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import torch
from pydantic import ConfigDict, Field, field_validator, model_validator
from torch import Tensor, nn
from typing_extensions import Self

from ...core.classifier.weights import load_by_name
from ...core.settings import Settings
from ...errors import InputError, SettingsError, preview_list
from ...io.reading import read_json
from ..schedule import Schedule
from .base import Variance
from .folders import Parts
from .unet import instantiate, refuse_missing_groupnorm

OF_AVERAGING = (  # what diffusers writes into the config of averaged weights; it says nothing about the network
    "decay",
    "inv_gamma",
    "min_decay",
    "optimization_step",
    "power",
    "update_after_step",
    "use_ema_warmup",
)
SCHEDULERS = ("DDPMScheduler", "DDIMScheduler", "PNDMScheduler")
CONDITIONAL = (
    "networks that are led by a text or an image are no denoisers; image_variations uses whole pipelines of them: "
    "{setting:weights=FOLDER}"
)
OTHER_SAMPLER = (
    "only the chain counts here, not how it is sampled: where the network was trained on a DDPM chain with these "
    'betas, write "_class_name": "DDPMScheduler"'
)
VARIANCES: dict[str, Variance] = {
    "fixed_small": "fixed_small",
    "fixed_small_log": "fixed_small",
    "fixed_large": "fixed_large",
    "fixed_large_log": "fixed_large",
    "learned_range": "learned_range",
}

Down = Literal["DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D"]
Up = Literal["UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"]
Side = Annotated[int, Field(ge=1, le=4096)]
Width = Annotated[int, Field(ge=1, le=2048)]
Levels = Field(min_length=1, max_length=8)

C = TypeVar("C", bound=Settings)


class UNetConfig(Settings):
    """Arguments of ``UNet2DModel`` that are accepted, with diffusers' own defaults; everything else is refused."""

    sample_size: Side | tuple[Side, Side] | None = None
    in_channels: Literal[1, 3] = 3
    out_channels: Literal[1, 2, 3, 6] = 3
    center_input_sample: Literal[False] = False
    time_embedding_type: Literal["positional"] = "positional"
    time_embedding_dim: Annotated[int, Field(ge=1, le=8192)] | None = None
    freq_shift: float = Field(0, ge=0, le=1)
    flip_sin_to_cos: bool = True
    down_block_types: Annotated[tuple[Down, ...], Levels] = (
        "DownBlock2D",
        "AttnDownBlock2D",
        "AttnDownBlock2D",
        "AttnDownBlock2D",
    )
    mid_block_type: Literal["UNetMidBlock2D"] | None = "UNetMidBlock2D"
    up_block_types: Annotated[tuple[Up, ...], Levels] = ("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D")
    block_out_channels: Annotated[tuple[Width, ...], Levels] = (224, 448, 672, 896)
    layers_per_block: int = Field(2, ge=1, le=8)
    mid_block_scale_factor: float = Field(1, gt=0, le=100)
    downsample_padding: int = Field(1, ge=0, le=1)
    downsample_type: Literal["conv", "resnet"] = "conv"
    upsample_type: Literal["conv", "resnet"] = "conv"
    dropout: float = Field(0.0, ge=0, lt=1)
    act_fn: Literal["silu", "swish", "mish", "gelu", "relu"] = "silu"
    attention_head_dim: Width | None = 8
    norm_num_groups: Width = 32
    attn_norm_num_groups: Width | None = None
    norm_eps: float = Field(1e-5, gt=0, lt=1)
    resnet_time_scale_shift: Literal["default", "scale_shift"] = "default"
    add_attention: bool = True
    class_embed_type: Literal[None] = Field(None, description="class-conditional networks are not taken")
    num_class_embeds: Literal[None] = None
    num_train_timesteps: Annotated[int, Field(ge=1, le=100_000)] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        levels = {len(self.block_out_channels), len(self.down_block_types), len(self.up_block_types)}
        if len(levels) > 1:
            raise ValueError("block_out_channels, down_block_types and up_block_types differ in length")
        if self.out_channels not in (self.in_channels, 2 * self.in_channels):
            raise ValueError(
                f"out_channels = {self.out_channels}: must be in_channels = {self.in_channels}, or twice that"
            )
        return self

    @property
    def stride(self) -> int:
        """Both image sides must be a multiple of this."""
        return int(2 ** (len(self.block_out_channels) - 1))


class SchedulerConfig(Settings):
    """What counts in a scheduler config. Keys that only say how diffusers would sample are passed over."""

    model_config = ConfigDict(extra="ignore", frozen=True, validate_default=True)

    num_train_timesteps: int = Field(1000, ge=1, le=100_000)
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear"
    beta_start: float = Field(1e-4, gt=0, lt=1)
    beta_end: float = Field(0.02, gt=0, lt=1)
    trained_betas: Literal[None] = Field(None, description="betas given one by one are not taken")
    rescale_betas_zero_snr: Literal[False] = False
    prediction_type: Literal["epsilon"] = "epsilon"
    predict_epsilon: Literal[True] = Field(True, description="an older name")
    variance_type: Literal["fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "learned_range"] = (
        "fixed_small"
    )

    @field_validator("trained_betas", mode="before")
    @classmethod
    def _no_betas(cls, value: Any) -> Any:
        if value is not None:
            raise ValueError("betas given one by one are not taken, only those of a beta_schedule")
        return value

    @model_validator(mode="after")
    def _sound_chain(self) -> Self:
        if self.beta_start > self.beta_end:
            raise ValueError(f"beta_start = {self.beta_start} lies above beta_end = {self.beta_end}")
        try:
            self.schedule()
        except SettingsError as error:
            raise ValueError(f"{error.where}: {error.what}; found {error.found}, allowed {error.allowed}") from None
        return self

    def schedule(self) -> Schedule:
        """Return the chain."""
        return Schedule.from_diffusers(self.beta_schedule, self.num_train_timesteps, self.beta_start, self.beta_end)


def read_unet_config(path: Path) -> tuple[UNetConfig, dict[str, Any]]:
    """Read and check a network's ``config.json``.

    :returns: the checked arguments, and the keys that begin with an underscore, as they are.
    :raises InputError: for another class of network, an unknown argument, or a value out of bounds.
    """
    values = {key: value for key, value in _mapping(path).items() if key not in OF_AVERAGING}
    _refuse_class(values.get("_class_name"), ("UNet2DModel",), path)
    private = {key: value for key, value in values.items() if key.startswith("_")}
    return _checked(UNetConfig, {key: values[key] for key in values.keys() - private.keys()}, path), private


def read_scheduler_config(path: Path) -> SchedulerConfig:
    """Read and check a ``scheduler_config.json``.

    :raises InputError: for an unknown scheduler, schedule, kind of prediction or of variance; what is allowed is said.
    """
    values = _mapping(path)
    _refuse_class(values.get("_class_name"), SCHEDULERS, path)
    return _checked(SchedulerConfig, values, path)


def load_unet(config: UNetConfig, parts: Parts) -> nn.Module:
    """Build the network and fill it; no more memory is taken than the weight file accounts for.

    :raises InputError: when config and weights do not belong together, or the network lost its GroupNorm.
    """
    arguments = config.model_dump(exclude_defaults=True)  # older versions of diffusers do not know all of them
    try:
        with torch.device("meta"):
            unet = instantiate(arguments)
    except (ValueError, TypeError, AssertionError, RuntimeError, ZeroDivisionError) as error:
        found = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            "network cannot be built",
            where=parts.config,
            found=found,
            hint="the file may be damaged or edited: fetch it again from where the weights come from",
        ) from None
    refuse_missing_groupnorm(unet, parts.config)
    weights, size = parts.weights.read()
    weights = {_modern(name): value for name, value in weights.items()}
    return fill(unet, weights, size, where=parts.weights.path, by=parts.config.name)


def fill(network: nn.Module, weights: dict[str, Tensor], size: int, *, where: Path, by: str) -> nn.Module:
    """Return *network*, which is on the meta device, filled with *weights*, in float32 and eval mode, on the CPU.

    :param size: bytes of the files that *weights* come from: many names may stand for one tensor.
    :param by: what the network was made from.
    :raises InputError: when the two do not belong together, or the weights are no finite floating-point numbers.
    """
    if odd := [f"{name} ({value.dtype})" for name, value in weights.items() if not value.is_floating_point()]:
        raise InputError(
            "weights are no floating-point numbers",
            where=where,
            found=preview_list(odd),
            allowed="float16, bfloat16, float32, float64",
            hint="name the original weights: those of a quantised network cannot be computed with by themselves",
        )
    have, need = (sum(each.numel() for each in values) for values in (weights.values(), network.parameters()))
    have = min(have, size)
    mixed = f"{by} and weights may come from different models: fetch both from the same place"
    if have < need:
        raise InputError(
            "weights do not fit the network",
            where=where,
            found=f"{have:,} numbers",
            allowed=f"{need:,}, by {by}",
            hint=mixed,
        )
    network = network.to_empty(device="cpu")
    load_by_name(network, weights, where=str(where), hint=mixed)
    return network.eval().requires_grad_(False)


_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def _modern(name: str) -> str:
    """Return a weight's present name; attention layers were called otherwise in older files.

    >>> _modern("mid_block.attentions.0.proj_attn.bias")
    'mid_block.attentions.0.to_out.0.bias'
    """
    found = re.fullmatch(r"(.*\.attentions\.\d+)\.(query|key|value|proj_attn)\.(weight|bias)", name)
    return f"{found[1]}.{_OLD_ATTENTION[found[2]]}.{found[3]}" if found else name


def _mapping(path: Path) -> dict[str, Any]:
    values = read_json(path)
    if not isinstance(values, dict):
        raise InputError("a config holds one mapping", where=path, found=type(values).__name__, allowed="{…}")
    return values


def _refuse_class(name: object, known: tuple[str, ...], path: Path) -> None:
    if name not in known:
        raise InputError(
            "unknown scheduler" if known == SCHEDULERS else "unknown network",
            where=f"{path}: _class_name",
            found=name,
            allowed=", ".join(known),
            hint=CONDITIONAL if name == "UNet2DConditionModel" else OTHER_SAMPLER if known == SCHEDULERS else None,
        )


def _checked(cls: type[C], values: dict[str, Any], path: Path) -> C:
    """Check *values*; what a file holds is input, not a setting."""
    try:
        return cls.build(values, where=str(path))
    except SettingsError as error:
        raise InputError(
            "config refused", where=path, found=error.found, allowed=error.allowed, hint=error.hint
        ) from None

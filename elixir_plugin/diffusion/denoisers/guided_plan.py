"""What the weights of improved-diffusion and guided-diffusion show of their network: all that decides their shapes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from ...core.classifier.weights import WRAPPERS
from ...errors import InputError, preview_list
from .guided_unet import GuidedPlan

MOST_BLOCKS = 200  # on one side of the network
_BLOCK = re.compile(r"(?P<side>input|output)_blocks\.(?P<number>\d{1,3})\.(?P<part>\d)\.(?P<rest>.+)")
_OPTIMIZER = {"state", "param_groups"}


def unwrapped(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return *state* without the prefix that a wrapper put before every name."""
    found = dict(state)
    for prefix in WRAPPERS * 2:
        if found and all(name.startswith(prefix) for name in found):
            found = {name.removeprefix(prefix): value for name, value in found.items()}
    return found


def plan_of(state: Mapping[str, Tensor], path: Path) -> GuidedPlan:
    """Return the plan of the network that *state* belongs to.

    :param path: where it comes from, for messages.
    :raises InputError: when it is of another network, or of one that is no denoiser; whether every name and shape fits
        the plan is left to the loading.
    """
    _refuse_other_kinds(state, path)
    try:
        return _plan(state)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise InputError(
            "not the weights of a network of improved-diffusion or guided-diffusion",
            where=path,
            found=f"something else than expected at {error}",
            allowed="the state dict of its UNetModel, as its training writes it (ema_0.9999_….pt, model….pt)",
        ) from None


def _refuse_other_kinds(state: Mapping[str, Tensor], path: Path) -> None:
    """Say what the weights are of, where they are of something that lies beside denoisers."""
    sides = {name.partition(".")[0] for name in state}
    what, hint = "", None
    if any(name.startswith(("down_blocks.", "up_blocks.", "conv_in.")) for name in state):
        what = "weights of a diffusers network without their config"
        hint = "name the folder that holds config.json, the weights and the scheduler's config"
    elif "input_blocks" in sides and "output_blocks" not in sides:
        what, hint = "weights of a classifier, and not of a denoiser", "name the checkpoint of the diffusion model"
    elif not {"input_blocks", "output_blocks", "time_embed"} <= sides:
        what = "not the weights of a network of improved-diffusion or guided-diffusion"
    if what:
        raise InputError(
            what,
            where=path,
            found=f"{len(state)} tensors ({preview_list(list(state))})",
            allowed="a diffusers folder, or the state dict of the UNetModel of improved-diffusion or guided-diffusion",
            hint=hint,
        )
    first = state.get("input_blocks.0.0.weight")
    if first is not None and first.dim() == 4 and first.shape[1] not in (1, 3):
        raise InputError(
            "the network takes more than an image",
            where=f"{path}: input_blocks.0.0.weight",
            found=f"{first.shape[1]} channels" + " (an upsampler)" * (first.shape[1] == 6),
            allowed="1 or 3 channels",
            hint="name the checkpoint of a diffusion model of images, not of an upsampler or a latent model",
        )


def _plan(state: Mapping[str, Tensor]) -> GuidedPlan:
    downs, ups = _blocks(state, "input"), _blocks(state, "output")
    doubled = [kind for parts in ups for kind in (_doubles(parts),) if kind is not None]
    levels = len(doubled) + 1
    if len(set(doubled)) > 1 or len(ups) % levels:
        raise ValueError("output_blocks")
    blocks = len(ups) // levels - 1
    if blocks < 1 or len(downs) != levels * (blocks + 1):
        raise ValueError("input_blocks")
    firsts = [1 + level * (blocks + 1) for level in range(levels)]
    widths = tuple(len(state[f"input_blocks.{number}.0.out_layers.3.weight"]) for number in firsts)
    base = state["time_embed.0.weight"].shape[1]
    if base % 2 or base < 2:
        raise ValueError("time_embed.0.weight")
    classes = state.get("label_emb.weight")
    return GuidedPlan(
        in_channels=state["input_blocks.0.0.weight"].shape[1],
        out_channels=len(state["out.2.weight"]),
        base=base,
        first=len(state["input_blocks.0.0.weight"]),
        widths=widths,
        blocks=blocks,
        attention=tuple(f"input_blocks.{number}.1.qkv.weight" in state for number in firsts),
        scale_shift=len(state["input_blocks.1.0.emb_layers.1.weight"]) == 2 * widths[0],
        block_resampling="residual" in doubled,
        classes=None if classes is None else len(classes),
    )


def _blocks(state: Mapping[str, Tensor], side: str) -> list[dict[int, set[str]]]:
    """Return, for each block of *side*, part -> names of its weights."""
    found: dict[int, dict[int, set[str]]] = {}
    for name in state:
        match = _BLOCK.fullmatch(name)
        if match and match["side"] == side:
            found.setdefault(int(match["number"]), {}).setdefault(int(match["part"]), set()).add(match["rest"])
    if sorted(found) != list(range(len(found))) or len(found) > MOST_BLOCKS:
        raise ValueError(f"{side}_blocks")
    return [found[number] for number in range(len(found))]


def _doubles(parts: dict[int, set[str]]) -> str | None:
    """Return how a block on the way up doubles the image: its first part never does."""
    later = set().union(*(names for part, names in parts.items() if part)) if len(parts) > 1 else set()
    if "conv.weight" in later:
        return "convolution"
    return "residual" if "in_layers.2.weight" in later else None

"""Checkpoints of improved-diffusion and guided-diffusion as denoisers: a ``.pt`` file, and a JSON file beside it.

See :mod:`.guided_settings` for what the JSON file states.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from ...errors import InputError, SettingsError
from .base import Variance
from .checks import fill
from .guided_plan import plan_of, unwrapped
from .guided_settings import GuidedSettings, read_settings, refuse_contradictions
from .guided_unet import GuidedUNet
from .network import NetworkDenoiser
from .weight_files import read_weights

SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".safetensors")
ORIGIN = "a checkpoint of improved-diffusion or guided-diffusion"


class GuidedDenoiser(NetworkDenoiser):
    """A network of improved-diffusion or guided-diffusion that predicts ε, and perhaps the variance.

    :param network: the network, in float32.
    :param settings: everything its weights do not show.
    :param variance: instead of what the settings say.
    :param card: where the weights come from, in JSON types.
    """

    network: GuidedUNet

    def __init__(
        self,
        network: GuidedUNet,
        settings: GuidedSettings,
        *,
        variance: Variance | None = None,
        card: Mapping[str, Any] | None = None,
    ) -> None:
        plan = network.plan
        self.network, self.plan, self.heads, self.label = network.eval(), plan, settings.heads(), network.label
        self.schedule, self.timestep_scale = settings.schedule(), settings.timestep_scale()
        self.variance = variance or settings.variance(plan)
        self.image_size, self.channels, self.stride = settings.image_size, plan.in_channels, plan.stride
        self.trained_steps = self.schedule.length
        self.device = next(network.parameters()).device
        self.card: dict[str, Any] = dict(card or {})
        self.summary = (
            f"UNetModel {list(plan.widths)}, {plan.blocks} blocks per level, "
            f"{plan.in_channels} → {plan.out_channels} channels"
            + ("" if plan.classes is None else f", class {self.label} of {plan.classes}")
        )

    def output(self, states: Tensor, times: Tensor) -> Tensor:
        predicted: Tensor = self.network(states, times)
        return predicted

    def facts(self) -> dict[str, Any]:
        return {
            "schedule": self.schedule.facts(),
            "variance": self.variance,
            "timestep_scale": self.timestep_scale,
            "network": {"kind": "guided", **asdict(self.plan), **asdict(self.heads), "label": self.label},
        }


def load_checkpoint(
    path: Path, *, device: torch.device | str = "cpu", variance: Variance | None = None
) -> GuidedDenoiser:
    """Load a checkpoint of improved-diffusion or guided-diffusion; only the network's weights are read, never code.

    Most of the network is read from the shapes of its weights; the rest is stated in ``NAME.json`` beside ``NAME.pt``.

    :param variance: instead of what the checkpoint's settings say.
    :raises InputError: when the file is none, something about it is not stated or contradicts the weights, or it is
        conditional on a class and none is named.
    """
    if path.suffix not in SUFFIXES:
        raise InputError(
            "not a denoiser",
            where=path,
            found="a file",
            allowed="a diffusers folder, or a checkpoint of improved-diffusion or guided-diffusion (NAME.pt)",
            hint="name the folder, where this file is part of one",
        )
    if variance is not None and variance not in get_args(Variance):
        raise SettingsError("unknown variance", found=variance, allowed=", ".join(get_args(Variance)))
    state = unwrapped(read_weights(path))
    plan = plan_of(state, path)
    settings, file, published = read_settings(path)
    where = file or f"what was published with {path.name}"
    refuse_contradictions(settings, plan, path, where)
    if variance == "learned_range" and plan.out_channels == plan.in_channels:
        raise InputError("the network predicts no variance", where=path, allowed="a fixed variance")
    try:
        with torch.device("meta"):
            network = GuidedUNet(plan, settings.heads(), settings.class_label)
    except (ValueError, RuntimeError) as error:
        raise InputError("network cannot be built", where=path, found=str(error)) from None
    filled = fill(network, state, path.stat().st_size, where=path, by="the network that the first weights show")
    assert isinstance(filled, GuidedUNet)
    stated = {name: value for name, value in settings.dump().items() if value is not None}
    card = {"source": str(path), "origin": ORIGIN, "settings": stated}
    denoiser = GuidedDenoiser(filled, settings, variance=variance, card=card)
    denoiser.notes = tuple(_notes(path, settings, file, published=published))
    return denoiser.to(device)


def _notes(path: Path, settings: GuidedSettings, file: Path | None, *, published: bool) -> list[str]:
    notes = []
    if published:
        chain = f"{settings.noise_schedule}, {settings.diffusion_steps} steps"
        also = "" if file is None else f", with what {file.name} states"
        notes.append(
            f"by its name, {path.name} is taken for the published checkpoint ({chain}, {settings.image_size} px){also}"
        )
    if settings.class_label is not None:
        notes.append(
            f"the denoiser is conditional on a class: every image was denoised as one of class {settings.class_label}, "
            "whatever it shows, which can change what images show"
        )
    raw = re.fullmatch(r"model(\d+)\.pt", path.name)
    averaged = sorted(path.parent.glob(f"ema_*_{raw[1]}.pt")) if raw else []
    if averaged:
        notes.append(
            f"the weights in {path.name} are not averaged over the training; {averaged[0].name} beside it often "
            "denoises better"
        )
    return notes

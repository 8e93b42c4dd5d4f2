"""Where the weights of a denoiser come from: its card, and the identity of its training."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Any

from ..._version import __version__
from ...core.context import Context
from ...core.images import ImageSet
from ...core.settings import fingerprint
from ...io.versions import installed
from ..denoisers.denoiser import hexadecimal
from .settings import FitSettings


def identity_of(images: ImageSet, settings: FitSettings, context: Context, name: str) -> str:
    """Return the identity of a training: settings, seed, name and images."""
    return fingerprint([settings.under_first_names(settings.dump()), context.seed, name, hexadecimal(images)])


def provenance_card(
    images: ImageSet,
    settings: FitSettings,
    context: Context,
    curves: Mapping[str, list[float]],
    *,
    identity: str,
    block: int,
) -> dict[str, Any]:
    """Return where the weights come from. No times: an interrupted run must end with the same files.

    :param curves: one point per *block* of iterations.
    :param identity: see :func:`identity_of`.
    """
    seen = settings.iterations * settings.batch_size
    return {
        "origin": "trained by elixir_plugin",
        "identity": identity,
        "images": {
            "count": len(images),
            "shape": list(images.image_shape),
            "fingerprint": images.fingerprint(),
            "content": hexadecimal(images),
        },
        "settings": settings.dump(),
        "seed": context.seed,
        "device": context.device.type,
        "trained_steps": settings.trained_steps,
        "timestep_scale": settings.timestep_scale,
        "timesteps": "the network is told index · timestep_scale; diffusers pipelines pass the index itself",
        "ema_decay": settings.ema_decay,
        "passes": round(seen / (len(images) * (settings.replications + 1)), 3),
        "final": {key: values[-1] for key, values in curves.items()},
        "curves": {"block": block, **curves},
        "versions": {
            "elixir_plugin": __version__,
            "python": platform.python_version(),
            **{package: installed(package) for package in ("torch", "diffusers")},
        },
    }

"""Denoisers from the Hugging Face Hub; the one place that may download them, and only when no local folder is given."""

from __future__ import annotations

import re
from pathlib import Path

from ...errors import InputError

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_CONFIGS = ["config.json", "scheduler_config.json", "unet/config.json", "scheduler/scheduler_config.json", "card.json"]
_SAFE = ["diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model.safetensors"]
_SHARDS_AND_VARIANTS = [  # and averaged weights, which are read where they are alone
    f"{folder}{name}"
    for folder in ("", "unet/", "unet_ema/")
    for name in ("diffusion_pytorch_model*.safetensors", "diffusion_pytorch_model*.json", "config.json")
]
_PICKLED = ["diffusion_pytorch_model.bin", "unet/diffusion_pytorch_model.bin"]


def is_hub_name(source: str) -> bool:
    """Whether *source* has the form ``owner/name``."""
    return _NAME.fullmatch(source) is not None


def fetch_from_hub(name: str) -> Path:
    """Return a local folder with the files of the Hub model *name* (``owner/name``), from the cache where it has them.

    ``HF_HUB_OFFLINE=1`` keeps it to the cache. Whole safetensors are fetched; shards and variants of them
    where there are none, and pickled weights where there are none of these either.

    :raises InputError: when it cannot be had, with how to continue from a local folder.
    """
    from huggingface_hub import snapshot_download  # noqa: PLC0415  (slow to import)

    try:
        folder = Path(snapshot_download(name, allow_patterns=_CONFIGS + _SAFE))
        if not any((folder / each).is_file() for each in _SAFE):
            folder = Path(snapshot_download(name, allow_patterns=_CONFIGS + _SHARDS_AND_VARIANTS))
            if not any(folder.rglob("*.safetensors")):
                folder = Path(snapshot_download(name, allow_patterns=_CONFIGS + _PICKLED))
    except Exception as error:  # offline, no such model, a proxy in between: the client raises dozens of classes
        raise InputError(
            "denoiser cannot be fetched from the Hub",
            where=name,
            found=" ".join(f"{type(error).__name__}: {error}".split())[:200],
            hint=f"where the network is reachable, run 'hf download {name} --local-dir FOLDER'; copy FOLDER here and "
            "give its path instead of the name",
        ) from error
    return folder

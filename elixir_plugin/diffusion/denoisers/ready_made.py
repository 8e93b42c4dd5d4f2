"""Denoisers that are built in: what stands behind the names that ``elixir_plugin.builtin`` offers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ...errors import SettingsError
from ..schedule import Schedule
from .denoiser import UNetDenoiser, load_denoiser
from .gaussian import GaussianDenoiser

CIFAR = "google/ddpm-cifar10-32"
CIFAR_SIDE = 32
SPREAD = 0.5  # standard deviation of the pixels of photographs, in model scale; those of CIFAR-10 have 0.49 to 0.52


class GrayDenoiser(GaussianDenoiser):
    """A formula for images whose pixels are independent draws around mid-gray, spread as in photographs.

    It knows nothing about images: it draws every pixel a little towards gray. For a try without training or download.

    :param channels: of the images to purify, 1 or 3.
    """

    card: ClassVar[Mapping[str, Any]] = {
        "origin": "a formula",
        "images": {"count": 0, "shape": "any", "fingerprint": "none"},
    }

    def __init__(self, channels: int) -> None:
        super().__init__(Schedule("cosine", 4000), 0.0, SPREAD, channels)


def ddpm_cifar10(image_size: int, channels: int) -> UNetDenoiser:
    """Return the usual denoiser for colour images of 32 px, from the Hub or its cache (35.7 M weights).

    It was trained on the training part of CIFAR-10: where suspect images come from there, it has seen their clean
    originals.

    :param image_size: edge length in pixels of the images to purify.
    :param channels: of these images.
    :raises SettingsError: for images that are not 32 px in colour; before anything is fetched.
    :raises InputError: when it cannot be fetched, with how to go on from a local folder.
    """
    if (image_size, channels) != (CIFAR_SIDE, 3):
        raise SettingsError(
            "this denoiser is for other images",
            where="denoiser ddpm_cifar10",
            found=f"{image_size} px, {channels} channel{'s' * (channels != 1)}",
            allowed=f"{CIFAR_SIDE} px, 3 channels",
            hint="resize the images, or train a denoiser on clean images like these: "
            "elixir-plugin denoiser train --clean DIR --out DIR",
        )
    return load_denoiser(CIFAR)


def gaussian(image_size: int, channels: int) -> GrayDenoiser:
    """Return a :class:`GrayDenoiser`.

    :param image_size: any edge length in pixels; it plays no part.
    :param channels: of the images to purify.
    :raises SettingsError: for channels other than 1 or 3.

    >>> gaussian(32, 3).schedule.length
    4000
    """
    if channels not in (1, 3):
        raise SettingsError("images are gray or in colour", where="channels", found=channels, allowed="1, 3")
    return GrayDenoiser(channels)

"""Denoisers that are formulas: exact answers to test samplers, defenses and third-party code with, without training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from ...core.settings import fingerprint
from ...errors import InputError, SettingsError
from ..schedule import Schedule
from .base import Denoiser, Prediction, Variance
from .denoiser import UNetDenoiser, load_denoiser


class ClosedFormDenoiser(Denoiser):
    """A denoiser without a network: any image size, the whole chain "trained".

    :param schedule: the chain.
    :param channels: of the images.
    :param head: value of the variance head ``w`` in [-1, 1]: -1 gives the lower variance β̃, 1 the upper β, 0 their
        geometric mean. None: no head.
    :param variance: default ``learned_range`` with a head, ``fixed_large`` without.
    """

    def __init__(
        self, schedule: Schedule, channels: int = 3, *, head: float | None = None, variance: Variance | None = None
    ) -> None:
        if variance is None:
            variance = "fixed_large" if head is None else "learned_range"
        if (variance == "learned_range") != (head is not None):
            raise SettingsError(
                "a variance head belongs to learned_range", where="head", found=f"head={head}, variance={variance}"
            )
        self.schedule, self.channels, self.head, self.variance = schedule, channels, head, variance
        self.image_size, self.stride, self.trained_steps = None, 1, schedule.length
        self.device = torch.device("cpu")

    def predict(self, states: Tensor, indices: Tensor) -> Prediction:
        kept = self.schedule.alphas_cumprod[indices.cpu()].to(states.device)[:, None, None, None]
        eps = self.noise_in(states.double(), kept).float()
        return Prediction(eps, None if self.head is None else torch.full_like(eps, self.head))

    def noise_in(self, states: Tensor, kept: Tensor) -> Tensor:
        """Return the noise in *states*, float64 ``[B, C, H, W]``; *kept* is ᾱ, float64 ``[B, 1, 1, 1]``."""
        raise NotImplementedError

    def facts(self) -> dict[str, Any]:
        """Return what decides the predictions, in JSON types."""
        return {
            "class": type(self).__qualname__,
            "schedule": self.schedule.facts(),
            "channels": self.channels,
            "head": self.head,
            "variance": self.variance,
        }

    def fingerprint(self) -> str:
        return fingerprint(self.facts())


class OracleDenoiser(ClosedFormDenoiser):
    """Knows the clean image of every sample, and says which noise separates a state from it.

    Purified images are the known ones, whatever the input.

    :param clean: float ``[N, C, H, W]`` in pixel scale.
    :param ids: int64 ``[N]`` sample ids that *clean* belongs to; default ``0..N-1``.

    >>> oracle = OracleDenoiser(Schedule("cosine", 1000), torch.full((2, 3, 4, 4), 0.25))
    >>> oracle.for_samples(torch.tensor([1])).predict(torch.zeros(1, 3, 4, 4), torch.tensor([500])).eps.shape
    torch.Size([1, 3, 4, 4])
    """

    def __init__(self, schedule: Schedule, clean: Tensor, ids: Tensor | None = None, **options: Any) -> None:
        super().__init__(schedule, clean.shape[1], **options)
        self.clean = clean
        self.ids = torch.arange(len(clean)) if ids is None else ids.cpu()
        self._rows = {int(sample): row for row, sample in enumerate(self.ids.tolist())}
        self._answers: Tensor | None = None

    def for_samples(self, ids: Tensor) -> Self:
        unknown = [sample for sample in ids.tolist() if sample not in self._rows]
        if unknown:
            raise InputError("no clean image for these samples", where="ids", found=unknown[:5])
        rows = torch.tensor([self._rows[sample] for sample in ids.tolist()], dtype=torch.int64)
        twin = type(self).__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin._answers = self.clean[rows].double().mul(2).sub(1).to(self.device)
        return twin

    def noise_in(self, states: Tensor, kept: Tensor) -> Tensor:
        if self._answers is None or len(self._answers) != len(states):
            raise InputError(
                "an oracle must be told which samples the states belong to",
                where="OracleDenoiser.predict",
                hint="call for_samples(ids) first, and predict with what it returns",
            )
        return (states - kept.sqrt() * self._answers) / (1 - kept).sqrt()

    def to(self, device: torch.device | str) -> Self:
        self.device = torch.device(device)
        return self

    def facts(self) -> dict[str, Any]:
        return {**super().facts(), "clean": _numbers(self.clean), "ids": self.ids.tolist()}


class GaussianDenoiser(ClosedFormDenoiser):
    """Exact for images that are independent N(m, s²) in every direction (model scale): E[ε | x_i].

    A chain that starts at relative noise σ (model scale) multiplies any offset from ``m`` by s²/(s² + σ²), the Wiener
    gain, for any number of steps.

    :param mean: ``m``; a number, or a tensor that broadcasts to ``[C, H, W]``.
    :param std: ``s`` ≥ 0; likewise.
    """

    def __init__(
        self, schedule: Schedule, mean: float | Tensor, std: float | Tensor, channels: int = 3, **options: Any
    ) -> None:
        super().__init__(schedule, channels, **options)
        self.mean = torch.as_tensor(mean, dtype=torch.float64)
        self.std = torch.as_tensor(std, dtype=torch.float64)
        if not bool((self.std >= 0).all()):
            raise SettingsError("a standard deviation is not negative", where="std", found=float(self.std.min()))

    def noise_in(self, states: Tensor, kept: Tensor) -> Tensor:
        return (1 - kept).sqrt() * (states - kept.sqrt() * self.mean) / (kept * self.std.square() + 1 - kept)

    def to(self, device: torch.device | str) -> Self:
        self.device = torch.device(device)
        self.mean, self.std = self.mean.to(self.device), self.std.to(self.device)
        return self

    def facts(self) -> dict[str, Any]:
        return {**super().facts(), "mean": _numbers(self.mean), "std": _numbers(self.std)}


def _numbers(values: Tensor) -> list[Any]:
    return [list(values.shape), values.flatten().tolist()]


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
    :raises InputError: when it cannot be fetched, with how to continue from a local folder.
    """
    if (image_size, channels) != (CIFAR_SIDE, 3):
        raise SettingsError(
            "this denoiser is for other images",
            where="denoiser ddpm_cifar10",
            found=f"{image_size} px, {channels} channel{'s' * (channels != 1)}",
            allowed=f"{CIFAR_SIDE} px, 3 channels",
            hint="resize the images, or train a denoiser on clean images like these: "
            "{command:denoiser train clean=DIR out=DIR}",
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

"""Windows of the autoregressive poison: the scan that makes noise, the filter that finds it, the seeded search.

The search follows the published one in what it accepts: windows whose noise does not explode, and
classes that the filters of lower classes tell from their own.
"""

from __future__ import annotations

import itertools
from functools import lru_cache
from typing import ClassVar

import numpy as np

from ..core import settings as config
from ..core.context import derive_seed
from ..core.images import Index
from ..errors import SettingsError
from .indiscriminate import Additive, BudgetSettings, Values, rescaled, sample_normals

# Bounds at 32×32 pixels, as measured on the published coefficients
_LARGEST_NORM = 40.0  # of one channel of raw noise
_LEAST_RESPONSE = 9.0  # summed ReLU of a lower class's matched filter, on noise of norm 1
_TESTS = 3  # noise samples that a window must pass with
_SIDE = 32  # smaller images take the windows found for this size
_BATCH = 192  # one-channel windows drawn together; about one in five is tame
_WAYS = 60_000  # of joining them that are looked at
_TRIES = 24  # joined windows tested exactly per batch
_PATIENCE = 15  # batches without success before the least response is lowered
_LATER_PATIENCE = 3  # the same once it has been lowered
_LOWERED = 0.95
_MOST_BATCHES = 300


def filled(canvas: Values, windows: Values) -> Values:
    """Run the raster scan in place and return what is kept of the canvas, ``[H, W, …]``.

    ``canvas[r+2, c+2] = Σ windows[u, v] · canvas[r+u, c+v]`` over the eight neighbours above and left.

    :param canvas: ``[H+4, W+4, …]`` start values.
    :param windows: ``[3, 3, …]``; axes after the second go with those of *canvas*.
    """
    past = [(u, v) for u in range(3) for v in range(3) if (u, v) != (2, 2)]
    for r in range(canvas.shape[0] - 2):
        for c in range(canvas.shape[1] - 2):
            value = windows[0, 0] * canvas[r, c]
            for u, v in past[1:]:
                value += windows[u, v] * canvas[r + u, c + v]
            canvas[r + 2, c + 2] = value
    return canvas[4:, 4:]


def matched(window: Values) -> Values:
    """Return the matched filter of *window* ``[3, 3, C]``: the window, with −1 in the place of the predicted value."""
    out = window.copy()
    out[2, 2] = -1
    return out


def response(window: Values, noise: Values) -> Values:
    """Return the response of the matched filter of *window* to *noise*, summed over channels, interior only.

    It is 0 on noise that follows the window.

    :param window: ``[3, 3, C]``.
    :param noise: ``[n, H, W, C]``.
    :return: ``[n, H−2, W−2]``.
    """
    weights = matched(window)
    height, width = noise.shape[1] - 2, noise.shape[2] - 2
    out = np.zeros((len(noise), height, width))
    for u in range(3):
        for v in range(3):
            out += (noise[:, u : u + height, v : v + width] * weights[u, v]).sum(axis=3)
    return out


def class_window(pattern_seed: int, shape: tuple[int, int, int], label: int) -> Values:
    """Return the window ``[3, 3, C]`` of class *label* for images of *shape* ``(H, W, C)``, read-only.

    It depends on the windows of lower classes, never on higher ones. A class is accepted when the matched filters of
    all lower classes respond to its noise with a summed ReLU of at least 9 (at 32×32; scaled for larger images,
    because noise that is tame there may explode). The more classes there are, the rarer such windows get. After 15
    batches of 192 without success the bound is lowered by 5 %, for this class and all higher ones, and again after
    every 3 more.

    :raises SettingsError: for images so large that the noise of almost all windows explodes.
    """
    height, width, channels = shape
    return _found(pattern_seed, (max(height, _SIDE), max(width, _SIDE), channels), label)[0]


@lru_cache(maxsize=4096)
def _found(pattern_seed: int, shape: tuple[int, int, int], label: int) -> tuple[Values, float]:
    """Return the window of a class and the least response that it was accepted at."""
    lower = [_found(pattern_seed, shape, each) for each in range(label)]
    windows = [window for window, _ in lower]
    full = _least_response(shape)
    least = lower[-1][1] if lower else full
    rng = np.random.default_rng(derive_seed(pattern_seed, "ar", "window", label))
    waited = 0
    for _ in range(_MOST_BATCHES):
        window = _accepted(rng, shape, windows, least)
        if window is not None:
            window.flags.writeable = False  # shared by all who ask
            return window, least
        waited += 1
        if waited >= (_PATIENCE if least == full else _LATER_PATIENCE):
            least, waited = least * _LOWERED, 0
    raise SettingsError(
        "no autoregressive noise of this size stays small",
        where="poison ar",
        found=f"images of {shape[0]}×{shape[1]} pixels",
        hint="use smaller images",
    )


def _accepted(
    rng: np.random.Generator, shape: tuple[int, int, int], lower: list[Values], least: float
) -> Values | None:
    """Draw one batch; return its first window that the filters of *lower* windows respond to, or None."""
    drawn, noise = _tame_windows(rng, shape)
    ways = np.array(list(itertools.permutations(range(len(drawn)), shape[2])), np.int64).reshape(-1, shape[2])
    ways = rng.permutation(ways)[:_WAYS]
    if lower and len(ways):
        ways = _promising(ways, noise, lower, least)
    for rows in ways[:_TRIES]:
        joined = _unit(noise[rows].transpose(1, 2, 3, 0))
        if all(np.maximum(response(each, joined), 0).sum(axis=(1, 2)).min() >= least for each in lower):
            window: Values = drawn[rows].transpose(1, 2, 0).copy()
            return window
    return None


def _least_response(shape: tuple[int, int, int]) -> float:
    """Scale the bound: a sum over (H−2)(W−2) places of values that shrink as 1/√(HW)."""
    height, width, _ = shape
    return float(_LEAST_RESPONSE * (height - 2) * (width - 2) / 900 * np.sqrt(1024 / (height * width)))


def _tame_windows(rng: np.random.Generator, shape: tuple[int, int, int]) -> tuple[Values, Values]:
    """Draw one-channel windows and keep those whose noise stays small.

    :return: windows ``[m, 3, 3]`` and raw noise ``[m, tests, H, W]``.
    """
    height, width, _ = shape
    windows = rng.standard_normal((3, 3, _BATCH, 1))
    windows[2, 2] = 0
    windows /= windows.sum(axis=(0, 1))
    canvas = rng.standard_normal((height + 4, width + 4, _BATCH, _TESTS))
    with np.errstate(over="ignore", invalid="ignore"):  # a wild window may leave the range of floats
        noise = filled(canvas, windows)
        norms = np.sqrt((noise**2).sum(axis=(0, 1)))
        tame = (norms <= _LARGEST_NORM * np.sqrt(height * width / 1024)).all(axis=1)  # False for NaN
    return windows[:, :, tame, 0].transpose(2, 0, 1), noise[:, :, tame].transpose(2, 3, 0, 1)


def _promising(ways: Index, noise: Values, lower: list[Values], least: float) -> Index:
    """Return the *ways* whose noise should answer to all *lower* filters: a cheap look at tens of thousands.

    The mean square of a response follows from the covariance of 3×3 neighbourhoods, and adds up over channels; the
    summed ReLU follows from it as if the values were normal.

    :param ways: ``[k, C]``, which of the noise each channel gets.
    :param noise: ``[m, tests, H, W]``.
    """
    places = np.lib.stride_tricks.sliding_window_view(noise, (3, 3), axis=(2, 3)).reshape(*noise.shape[:2], -1, 9)
    covariance = np.matmul(places.swapaxes(2, 3), places)
    power = (noise**2).sum(axis=(2, 3))
    for window in lower:
        filters = matched(window).reshape(9, -1)
        total, norms = np.zeros((2, len(ways), noise.shape[1]))
        for channel, weights in enumerate(filters.T):
            total += ((covariance @ weights) @ weights)[ways[:, channel]]
            norms += power[ways[:, channel]]
        # E max(x, 0) = σ / √(2π) for a normal x; p places whose squares sum to q: √(q p / 2π)
        expected = np.sqrt(total / norms * places.shape[2] / (2 * np.pi))
        ways = ways[(expected >= least).all(axis=1)]
    return ways


def _unit(noise: Values) -> Values:
    """Bring each of the noise samples ``[n, H, W, C]`` to norm 1, whatever its size."""
    out: Values = noise / np.sqrt((noise**2).sum(axis=(1, 2, 3), keepdims=True))
    return out


class ARSettings(BudgetSettings):
    """Settings of :class:`AR`. The default is the paper's: ‖δ‖₂ = 1 at 32×32 RGB."""


class AR(Additive):
    """Noise from an autoregressive process per class, with a fresh start for every image.

    Sandoval-Segura, Singla, Geiping, Goldblum, Goldstein and Jacobs, "Autoregressive Perturbations for Data
    Poisoning", NeurIPS 2022, arXiv 2206.03693. Class and channel have a 3×3 window ``b``, ``b[2, 2] = 0``, entries
    standard normal, divided by their sum, screened. A canvas of normal noise, 4 pixels larger than the image, is
    filled in raster order, ``canvas[r+2, c+2] = Σ b[u, v] · canvas[r+u, c+v]``, and loses its first 4 rows and
    columns. L∞ differs from class to class: 14–34 / 255 at 32×32.
    """

    name: ClassVar[str] = "ar"
    Settings: ClassVar[type[config.Settings]] = ARSettings
    settings: ARSettings

    def delta(self, labels: Index, ids: Index, shape: tuple[int, int, int]) -> Values:
        height, width, channels = shape
        normals = sample_normals(self._seed("samples"), ids, (height + 4, width + 4, channels))
        classes, place = np.unique(labels, return_inverse=True)
        windows = np.array([self.window(int(label), shape) for label in classes]).reshape(-1, 3, 3, channels)
        own = windows[place.reshape(len(labels))]
        # samples and channels last: each step of the scan is then one operation on all of them
        noise = filled(normals.transpose(1, 2, 0, 3).copy(), own.transpose(1, 2, 0, 3).copy())
        return rescaled(noise.transpose(2, 0, 1, 3), self.settings.epsilon, self.settings.norm)

    def window(self, label: int, shape: tuple[int, int, int]) -> Values:
        """Return the window ``[3, 3, C]`` of class *label* for images of *shape* ``(H, W, C)``."""
        return class_window(self.settings.pattern_seed, shape, label)

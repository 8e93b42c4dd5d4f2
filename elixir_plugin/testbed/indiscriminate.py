"""Indiscriminate poisons (unlearnable examples): faint noise on every image, under labels that stay correct.

The noise of a class is so easy to learn that a classifier learns nothing else, and fails on clean images. Recipes:
the papers named below, at the budgets of the ECLIPSE evaluation (arXiv 2406.15093, Fig. 2). None needs training.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from ..core import settings as config
from ..core.context import derive_seed
from ..core.images import ImageSet, Index
from ..errors import SettingsError
from .base import Pixels, Poison

Values = NDArray[np.float64]
Norm = Literal["l2", "linf"]
_CIFAR_PIXELS = 3072  # values of a 32×32 RGB image, for which the papers state their L2 budgets


class IndiscriminateSettings(config.Settings):
    """What all indiscriminate poisons share.

    :param rate: share of *each class* that is poisoned; the number is rounded to the nearest integer.
    :param pattern_seed: decides the noise. It is not the seed that chooses samples.
    """

    rate: float = Field(1.0, ge=0, le=1)
    pattern_seed: int = 0


class Indiscriminate(Poison):
    """A poison that changes samples of all classes, keeps their labels, and has no trigger to test with."""

    Settings: ClassVar[type[config.Settings]] = IndiscriminateSettings
    settings: IndiscriminateSettings

    @property
    def kind(self) -> str:
        return "indiscriminate"

    def choose(self, train: ImageSet, seed: int) -> Index:
        """Return ``round(rate · N_c)`` positions of each class; a lower rate chooses a subset.

        Which samples these are follows from their ids, not from their order.
        """
        chosen = [np.empty(0, np.int64)]
        for label in np.unique(train.labels):
            rows = np.flatnonzero(train.labels == label)
            rows = rows[np.argsort(train.ids[rows])]
            rng = np.random.default_rng(derive_seed(seed, "poison", self.name, int(label)))
            chosen.append(rng.permutation(rows)[: round(self.settings.rate * len(rows))])
        return np.sort(np.concatenate(chosen))

    def _seed(self, *name: object) -> int:
        return derive_seed(self.settings.pattern_seed, self.name, *name)


class BudgetSettings(IndiscriminateSettings):
    """Settings of noise with a budget, in pixel scale.

    :param epsilon: size of the noise before clipping to [0, 1]. For ``l2`` it is ‖δ‖₂ at 32×32 RGB; other sizes
        get ε·√(HWC/3072).
    :param norm: ``l2`` or ``linf``.
    """

    epsilon: float = Field(1.0, gt=0, allow_inf_nan=False)
    norm: Norm = "l2"


class Additive(Indiscriminate):
    """A poison ``x + δ``. Subclasses write :meth:`delta` alone."""

    Settings: ClassVar[type[config.Settings]] = BudgetSettings
    settings: BudgetSettings

    @abstractmethod
    def delta(self, labels: Index, ids: Index, shape: tuple[int, int, int]) -> Values:
        """Return the noise ``[n, H, W, C]`` for samples of *labels* and *ids*, in pixel scale, before clipping.

        :param shape: ``(H, W, C)``.
        """

    def trigger(self, images: Pixels, labels: Index, ids: Index) -> Pixels:
        height, width, channels = images.shape[1:]
        delta = self.delta(labels, ids, (height, width, channels))
        return (images + delta).astype(np.float32)


class LSPSettings(BudgetSettings):
    """Settings of :class:`LSP`.

    :param patch: edge length of the cells of one colour, in pixels.
    """

    epsilon: float = Field(6 / 255 * 3072**0.5, gt=0, allow_inf_nan=False)  # 1.304: ‖δ‖₂ = 6/255 per value
    patch: int = Field(8, ge=1)


class LSP(Additive):
    """Linearly separable patches: every image gets its own grid of coloured cells from a cloud of its class.

    Yu, Zhang, Chen, Yin and Liu, "Availability Attacks Create Shortcuts", KDD 2022, arXiv 2111.00898. The cells of
    class ``c`` are ``z A_c + v_c``: ``v_c`` a vertex of the cube {±10}^d, no two alike, ``z`` standard normal,
    ``A_c`` uniform in [-1, 1], with d = C·⌈H/patch⌉·⌈W/patch⌉. L∞ is not bounded by 6/255.
    """

    name: ClassVar[str] = "lsp"
    Settings: ClassVar[type[config.Settings]] = LSPSettings
    settings: LSPSettings

    def delta(self, labels: Index, ids: Index, shape: tuple[int, int, int]) -> Values:
        height, width, channels = shape
        patch = self.settings.patch
        grid = (-(-height // patch), -(-width // patch), channels)
        cells = self._cells(labels, ids, int(np.prod(grid))).reshape(len(labels), *grid)
        full = cells.repeat(patch, axis=1).repeat(patch, axis=2)[:, :height, :width]
        return rescaled(full, self.settings.epsilon, self.settings.norm)

    def _cells(self, labels: Index, ids: Index, d: int) -> Values:
        """Return the colours ``[n, d]``."""
        centres = self._centres(int(labels.max(initial=-1)) + 1, d)
        normals = sample_normals(self._seed("samples"), ids, (d,))
        cells = centres[labels]
        for label in np.unique(labels):
            rows = labels == label
            spread = np.random.default_rng(self._seed("spread", int(label))).uniform(-1, 1, (d, d))
            mine, z = cells[rows], normals[rows]
            for k in range(d):  # not a matrix product: its last bits depend on the number of rows
                mine += z[:, k, None] * spread[k]
            cells[rows] = mine
        return cells

    def _centres(self, classes: int, d: int) -> Values:
        """Return distinct vertices ``[classes, d]``; the vertex of a class does not depend on later classes."""
        if d < 63 and classes > 2**d:
            raise SettingsError(
                "too few cells to tell the classes apart",
                where=f"settings of poison {self.name}: patch",
                found=f"{self.settings.patch} ({d} cells over all channels for {classes} classes)",
                allowed=f"at least {(classes - 1).bit_length()} cells",
                hint="lower the patch size",
            )
        taken: dict[bytes, NDArray[np.bool_]] = {}
        for label in range(classes):
            rng = np.random.default_rng(self._seed("centre", label))
            corner = rng.random(d) < 0.5
            while corner.tobytes() in taken:
                corner = rng.random(d) < 0.5
            taken[corner.tobytes()] = corner
        return np.where(np.array(list(taken.values())).reshape(classes, d), 10.0, -10.0)


class URPSettings(BudgetSettings):
    """Settings of :class:`URP`.

    :param distribution: of the noise under ``linf``: uniform in ±ε, or normal with deviation ε, clipped to ±ε.
        ECLIPSE says "Gaussian" and states no deviation.
    """

    epsilon: float = Field(8 / 255, gt=0, allow_inf_nan=False)
    norm: Norm = "linf"
    distribution: Literal["uniform", "normal"] = "uniform"


class URP(Additive):
    """Universal random perturbation: one fixed noise image per class, ‖δ‖∞ ≤ 8/255.

    The class-wise random noise of Huang, Ma, Erfani, Bailey and Wang, "Unlearnable Examples: Making Personal Data
    Unexploitable", ICLR 2021, arXiv 2101.04898, under the name that ECLIPSE gives it.
    """

    name: ClassVar[str] = "urp"
    Settings: ClassVar[type[config.Settings]] = URPSettings
    settings: URPSettings

    def delta(self, labels: Index, ids: Index, shape: tuple[int, int, int]) -> Values:
        classes, place = np.unique(labels, return_inverse=True)
        drawn = [self._noise(np.random.default_rng(self._seed("class", int(label))), shape) for label in classes]
        noise = np.array(drawn).reshape(len(classes), *shape)
        if self.settings.norm == "l2":
            noise = rescaled(noise, self.settings.epsilon, "l2")
        else:
            noise = noise * self.settings.epsilon
        return noise[place.reshape(len(labels))]  # numpy 2.0 returned another shape

    def _noise(self, rng: np.random.Generator, shape: tuple[int, int, int]) -> Values:
        """Return noise in [-1, 1]."""
        if self.settings.distribution == "uniform":
            return rng.uniform(-1, 1, shape)
        return np.clip(rng.standard_normal(shape), -1, 1)


class CUDASettings(IndiscriminateSettings):
    """Settings of :class:`CUDA`.

    :param blur: p_b, upper bound of all entries of a kernel but one; 0.3 for CIFAR-10.
    :param kernel: edge length of the kernels in pixels, odd.
    """

    blur: float = Field(0.3, ge=0, le=1)
    kernel: int = Field(3, ge=3)

    @field_validator("kernel")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError("a kernel needs a centre: the edge length must be odd")
        return value


class CUDA(Indiscriminate):
    """Class-wise convolution: all images of a class are filtered with one random kernel. Not bounded.

    Sadasivan, Soltanolkotabi and Feizi, "CUDA: Convolution-based Unlearnable Datasets", CVPR 2023, arXiv
    2303.04278. Entries are uniform in [0, p_b], and one, drawn at random, is 1; the same kernel on all channels,
    zeros beyond the border; each image is divided by its own maximum, so the brightest value is 1.
    """

    name: ClassVar[str] = "cuda"
    Settings: ClassVar[type[config.Settings]] = CUDASettings
    settings: CUDASettings

    def trigger(self, images: Pixels, labels: Index, ids: Index) -> Pixels:
        classes, place = np.unique(labels, return_inverse=True)
        size = self.settings.kernel
        kernels = np.array([self.kernel(int(label)) for label in classes], np.float32).reshape(-1, size, size)
        weights = kernels[place.reshape(len(labels))]
        height, width = images.shape[1:3]
        border = size // 2
        padded = np.pad(images, ((0, 0), (border, border), (border, border), (0, 0)))
        out = np.zeros_like(images)
        for row in range(size):
            for column in range(size):
                weight = weights[:, row, column, None, None, None]
                out += weight * padded[:, row : row + height, column : column + width]
        brightest = out.max(axis=(1, 2, 3), keepdims=True, initial=0)
        np.divide(out, brightest, out=out, where=brightest > 0)  # a black image stays black
        return out

    def kernel(self, label: int) -> NDArray[np.float32]:
        """Return the kernel ``[k, k]`` of class *label*; it is laid over the image, not flipped."""
        rng = np.random.default_rng(self._seed("class", label))
        size = self.settings.kernel
        kernel = rng.uniform(0, self.settings.blur, (size, size)).astype(np.float32)
        kernel.flat[rng.integers(kernel.size)] = 1
        return kernel


def sample_normals(seed: int, ids: Index, shape: tuple[int, ...]) -> Values:
    """Return standard normal noise ``[n, *shape]``: row ``i`` is a function of *seed* and ``ids[i]`` alone.

    :param seed: 0 ≤ seed < 2⁶⁴.
    :param ids: ``[n]`` sample ids.
    """
    out = np.empty((len(ids), *shape))
    for row, sample in zip(out, ids.astype(np.uint64), strict=True):  # a negative id wraps around; ids stay unique
        key = np.array([seed, sample], np.uint64)
        np.random.Generator(np.random.Philox(key=key)).standard_normal(out=row)
    return out


def rescaled(delta: NDArray[Any], epsilon: float, norm: Norm) -> Values:
    """Return *delta* ``[n, H, W, C]`` with every sample brought to its full budget, pixel scale.

    :param epsilon: see :func:`budget`.
    """
    flat = np.asarray(delta, np.float64).reshape(len(delta), int(np.prod(delta.shape[1:])))
    if norm == "l2":
        size = np.sqrt((flat * flat).sum(axis=1))
    else:
        size = np.abs(flat).max(axis=1)
    scale = budget(epsilon, norm, flat.shape[1]) / np.maximum(size, np.finfo(np.float64).tiny)  # none stays none
    out: Values = flat * scale[:, None]
    return out.reshape(delta.shape)


def budget(epsilon: float, norm: Norm, values: int) -> float:
    """Return how large the noise of an image of *values* = HWC numbers may be.

    :param epsilon: ``l2``: ‖δ‖₂ of a 32×32 RGB image; other sizes get ε·√(HWC/3072), the same strength per pixel.
        ``linf``: max |δ|.
    """
    return float(epsilon * np.sqrt(values / _CIFAR_PIXELS)) if norm == "l2" else epsilon

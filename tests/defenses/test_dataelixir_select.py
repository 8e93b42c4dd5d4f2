"""DataElixir, SELECT: SSIM, distances, and the slot that is chosen."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import pytest
import torch
from scipy.ndimage import uniform_filter
from torch import Tensor

from elixir_plugin.defenses.dataelixir.models import choose, distances, ssim
from elixir_plugin.defenses.dataelixir.settings import Selection


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def reference_ssim(x: np.ndarray, y: np.ndarray, window: int) -> float:  # type: ignore[type-arg]
    """SSIM of two arrays of any number of dimensions as scikit-image defines it: uniform window, sample covariance."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    points = window**x.ndim
    unbiased = points / (points - 1)
    ux, uy = (uniform_filter(each, size=window) for each in (x, y))
    vx = unbiased * (uniform_filter(x * x, size=window) - ux * ux)
    vy = unbiased * (uniform_filter(y * y, size=window) - uy * uy)
    vxy = unbiased * (uniform_filter(x * y, size=window) - ux * uy)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    full = ((2 * ux * uy + c1) * (2 * vxy + c2)) / ((ux**2 + uy**2 + c1) * (vx + vy + c2))
    border = (window - 1) // 2
    return float(full[tuple(slice(border, length - border) for length in x.shape)].mean())


# structural_similarity(x, y, win_size=window, data_range=255) of scikit-image 0.24.0, with channel_axis=2 for "2d"
SCIKIT_IMAGE = {
    (20, 22, "vol3d", 3): 0.7855133259511097,
    (20, 22, "2d", 3): 0.703748254949761,
    (20, 22, "2d", 7): 0.8054601363072109,
    (12, 9, "vol3d", 3): 0.8048155273478099,
    (12, 9, "2d", 3): 0.764998039189383,
    (12, 9, "2d", 7): 0.8015684132399913,
    (32, 32, "vol3d", 3): 0.7966872886101156,
    (32, 32, "2d", 3): 0.7354528705108642,
    (32, 32, "2d", 7): 0.8046075060630019,
}


def pictures(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    """Return two uint8 images ``[H, W, 3]`` that no random generator has a part in."""
    i, j, c = np.indices((height, width, 3))
    first = (7 * i * i + 13 * j + 29 * c * (i + 1) + i * j) % 256
    second = (first + 3 * ((11 * i + 5 * j * j + 3 * c) % 61 - 30)).clip(0, 255)
    return first.astype(np.uint8), second.astype(np.uint8)


@pytest.mark.parametrize("shape", SCIKIT_IMAGE, ids=str)
def test_ssim_has_the_values_of_scikit_image(shape: tuple[int, int, Literal["2d", "vol3d"], int]) -> None:
    height, width, mode, window = shape
    first, second = (torch.from_numpy(each).permute(2, 0, 1)[None] / 255 for each in pictures(height, width))
    assert float(ssim(first, second, mode, window)) == pytest.approx(SCIKIT_IMAGE[shape], abs=1e-6)


@pytest.mark.parametrize(("mode", "window", "size"), [("2d", 7, 20), ("2d", 3, 10), ("vol3d", 3, 20)])
def test_ssim_is_the_formula_of_scikit_image(mode: Literal["2d", "vol3d"], window: int, size: int) -> None:
    x = (images(3, 3, size, size + 2) * 255).round()
    y = (x + 60 * images(3, 3, size, size + 2, seed=1)).clamp(0, 255).round()
    found = ssim(x / 255, y / 255, mode)
    for a, b, value in zip(x.numpy(), y.numpy(), found, strict=True):
        if mode == "2d":
            expected = np.mean([reference_ssim(a[c], b[c], window) for c in range(3)])
        else:
            expected = reference_ssim(a.transpose(1, 2, 0), b.transpose(1, 2, 0), window)
        assert float(value) == pytest.approx(expected, abs=1e-7)


def test_a_volume_differs_from_channels() -> None:
    x, y = images(2, 3, 20, 20), images(2, 3, 20, 20, seed=1)
    assert not torch.allclose(ssim(x, y, "vol3d", 3), ssim(x, y, "2d", 3))


def test_a_single_channel_has_no_volume() -> None:
    x, y = images(2, 1, 20, 20), images(2, 1, 20, 20, seed=1)
    assert torch.equal(ssim(x, y, "vol3d", 3), ssim(x, y, "2d", 3))


@pytest.mark.parametrize("size", [1, 2, 3, 6, 16])
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_constant_and_tiny_images_give_no_nan(size: int, value: float) -> None:
    flat = torch.full((2, 3, size, size), value)
    assert ssim(flat, flat).tolist() == pytest.approx([1, 1])
    assert ssim(flat, images(2, 3, size, size)).isfinite().all()
    found = distances(flat[:, None].repeat(1, 4, 1, 1, 1), torch.zeros(2, 4, 5), Selection())
    assert found.isfinite().all()  # features of zero length have no direction


def test_distances_lie_in_the_unit_interval_and_start_at_the_original() -> None:
    pictures, features = images(5, 9, 3, 8, 8), images(5, 9, 6, seed=1) - 0.5
    pictures[:, 1], features[:, 1] = 1 - pictures[:, 0], -features[:, 0]  # as far as can be
    found = distances(pictures, features, Selection())
    assert (found[:, 0] == 0).all() and (found >= 0).all() and (found <= 1).all()
    assert (found[:, 1] > 0.5).all()


def test_the_weight_turns_either_part_off() -> None:
    pictures, features = images(4, 6, 3, 8, 8), images(4, 6, 5, seed=1)
    others = images(4, 6, 5, seed=2)
    pixels_alone = Selection(weight=1)
    assert torch.equal(distances(pictures, features, pixels_alone), distances(pictures, others, pixels_alone))
    features_alone = Selection(weight=0)
    fresh = images(4, 6, 3, 8, 8, seed=3)
    assert torch.equal(distances(pictures, features, features_alone), distances(fresh, features, features_alone))
    assert not torch.equal(distances(pictures, features, Selection()), distances(pictures, others, Selection()))


def test_a_batch_is_a_loop() -> None:
    pictures, features = images(4, 6, 3, 16, 16), images(4, 6, 5, seed=1)
    together = distances(pictures, features, Selection())
    for row in range(4):
        for slot in range(1, 6):
            cosine = float(torch.cosine_similarity(features[row, 0], features[row, slot], dim=0))
            alike = float(ssim(pictures[row, :1], pictures[row, slot : slot + 1])[0])
            assert float(together[row, slot]) == pytest.approx((1 - alike) / 4 + (1 - cosine) / 4, abs=1e-6)


@pytest.mark.parametrize(("length", "position"), [(1, 0), (2, 1), (5, 4), (41, 32), (51, 40)])
def test_the_choice_is_the_080_quantile_of_the_listed(length: int, position: int) -> None:
    generator = torch.Generator().manual_seed(length)
    distance = torch.rand(3, 60, generator=generator).double()
    distance[:, 0] = 0
    listed = torch.zeros(3, 60, dtype=torch.bool)
    for row in range(3):
        listed[row, torch.randperm(59, generator=generator)[: length - 1] + 1] = True
    listed[:, 0] = True
    chosen = choose(distance, listed, 0.8)
    for row in range(3):
        ranked = sorted(torch.nonzero(listed[row])[:, 0].tolist(), key=lambda slot: float(distance[row, slot]))
        assert int(chosen[row]) == ranked[position]


def test_ties_go_in_the_order_of_slots_and_quantiles_are_not_lost_to_rounding() -> None:
    assert choose(torch.zeros(1, 5), torch.ones(1, 5, dtype=torch.bool), 0.8).tolist() == [4]
    hundred = torch.arange(100.0)[None]
    assert math.floor(0.29 * 100) == 28
    assert choose(hundred, torch.ones(1, 100, dtype=torch.bool), 0.29).tolist() == [29]

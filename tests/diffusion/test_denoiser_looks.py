"""Looks at a denoiser in training: when, and what the numbers mean."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from elixir_plugin.core.context import Context
from elixir_plugin.core.images import ImageSet
from elixir_plugin.diffusion.denoisers.base import Prediction
from elixir_plugin.diffusion.fit.ema import WeightAverage
from elixir_plugin.diffusion.fit.looks import Looks, held_back, looked_at
from elixir_plugin.diffusion.fit.settings import FitSettings


def pictures(count: int = 20) -> ImageSet:
    return ImageSet(np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), np.uint8), [0] * count, 1)


class Sees:
    """Predicts a fixed share of the noise that images of gray would need."""

    stride = 1

    def __init__(self, eps: float) -> None:
        self.eps = eps

    def predict(self, states: torch.Tensor, indices: torch.Tensor) -> Prediction:
        return Prediction(torch.full_like(states, self.eps))


@pytest.mark.parametrize("blocks", [1, 2, 3, 9, 10, 11, 80, 1200])
def test_looks_come_early_and_at_the_end_and_are_few(blocks: int) -> None:
    found = looked_at(blocks)
    assert found[0] == 1 and found[-1] == blocks and found == sorted(set(found))
    assert len(found) <= 10 + blocks.bit_length()


@pytest.mark.parametrize("eps", [0.0, 1.0, -0.5])
def test_the_loss_is_the_mean_squared_error_of_the_noise(eps: float, tmp_path: Path) -> None:
    settings = FitSettings.build({"iterations": 4}, preset="tiny")
    seen = Looks(pictures(), settings, Context(), tmp_path / "looks", block=2)
    seen.measure(Sees(eps), 1)  # type: ignore[arg-type]
    facts = seen.facts()
    assert facts["iterations"] == [2, 4] and not (tmp_path / "looks").exists()
    for losses in facts["losses"]:
        assert np.isnan(losses[0]) and losses[1] == pytest.approx(1 + eps**2, abs=0.2)
    assert facts["sigmas"] == sorted(facts["sigmas"]) and facts["levels"][-1] == 1000


def test_the_draw_is_that_of_the_seed() -> None:
    images = pictures()
    apart, rest = held_back(images, 6, Context(seed=1))
    again, _ = held_back(images, 6, Context(seed=1))
    other, _ = held_back(images, 6, Context(seed=2))
    assert apart.fingerprint() == again.fingerprint() != other.fingerprint()
    together = [*apart.content_hashes().tolist(), *rest.content_hashes().tolist()]
    assert sorted(together) == sorted(images.content_hashes().tolist())


def test_an_average_that_is_tried_leaves_the_weights_as_they_were() -> None:
    weight = torch.rand(5)
    average = WeightAverage([weight], 0.5, warmup=False)
    before = weight.clone()
    average.average[0].fill_(7)
    with average.applied():
        assert (weight == 7).all()
    assert torch.equal(weight, before)
    with pytest.raises(KeyboardInterrupt), average.applied():
        raise KeyboardInterrupt
    assert torch.equal(weight, before)

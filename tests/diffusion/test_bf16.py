"""Purification in bf16: pixels move by fractions of a level, and what a classifier says of them hardly changes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from elixir_plugin import Classifier
from elixir_plugin.core.context import Context
from elixir_plugin.core.images import ImageSet
from elixir_plugin.diffusion.denoisers.denoiser import UNetDenoiser
from elixir_plugin.diffusion.denoisers.unet import SIZES, Architecture, build_unet
from elixir_plugin.diffusion.plan import Purification
from elixir_plugin.diffusion.purify import purify
from elixir_plugin.diffusion.schedule import Schedule

TOY = Architecture((8, 16), 1, (False, True), {**SIZES["tiny"].options, "attention_head_dim": 8})


def speaking(learn_sigma: bool) -> UNetDenoiser:
    """Return a denoiser whose answers are not zero, as those of a fresh network are."""
    network = build_unet(TOY, 8, 3, learn_sigma, seed=1)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for part in network.modules():
            if isinstance(part, nn.Conv2d) and not part.weight.any():
                part.weight.normal_(0, 0.1, generator=generator)
    variance = "learned_range" if learn_sigma else "fixed_small"
    return UNetDenoiser(network, Schedule("linear", 1000), variance=variance)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
@pytest.mark.parametrize("learn_sigma", [False, True])
@pytest.mark.parametrize(("steps", "rounds"), [(25, 1), (150, 1), (150, 3)])
def test_votes_stay_what_they_are(sampler: str, learn_sigma: bool, steps: int, rounds: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 4, 4, 3), np.uint8).repeat(2, 1).repeat(2, 2)
    images = ImageSet(pixels, np.zeros(64, int), 10)
    denoiser, probe = speaking(learn_sigma), Classifier.build("small_resnet", 10, seed=0)
    level = {"steps": steps, "of": 1000}
    found = {}
    for precision in ("float32", "bf16"):
        values = {"level": level, "steps": 8, "rounds": rounds, "sampler": sampler, "precision": precision}
        found[precision] = purify(denoiser, Purification.build(values), images, Context(), seed_name="x")
    apart = [each.read(slice(None)).astype(float) for each in found.values()]
    assert 0 < np.sqrt(np.square(apart[0] - apart[1]).mean()) < 1  # of 255
    before, after = (probe.predict(each).argmax(1) for each in found.values())
    assert (before == after).mean() >= 0.96

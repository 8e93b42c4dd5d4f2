"""Purification and scoring do not depend on the number of threads; only training does."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from elixir_plugin import Classifier
from elixir_plugin.core.context import Context
from elixir_plugin.core.images import ImageSet
from elixir_plugin.diffusion.fit.settings import FitSettings
from elixir_plugin.diffusion.fit.train import fit_denoiser
from elixir_plugin.diffusion.plan import Purification
from elixir_plugin.diffusion.purify import purify
from elixir_plugin.io.environment import threads

COUNTS = (1, 2)


def pictures(count: int) -> ImageSet:
    rng = np.random.default_rng(0)
    return ImageSet(rng.integers(0, 256, (count, 8, 8, 3), np.uint8), np.arange(count) % 2, 2)


def purified(sampler: str) -> Callable[[], bytes]:
    fit = FitSettings(size="tiny", iterations=1, batch_size=4)
    denoiser = fit_denoiser(pictures(6), fit, Context(), name="d")
    chosen = Purification.build({"level": {"steps": 30, "of": 1000}, "steps": 2, "sampler": sampler})
    return lambda: purify(denoiser, chosen, pictures(6), Context(), seed_name="x").read(slice(None)).tobytes()


def logits(architecture: str) -> Callable[[], bytes]:
    model = Classifier.build(architecture, 2, seed=0).eval()
    images = torch.rand(16, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return lambda: model.logits(images).detach().numpy().tobytes()


@pytest.mark.parametrize(
    ("make", "what"),
    [(purified, "ddpm"), (logits, "small_resnet"), (logits, "fast_resnet")],
)
def test_any_number_of_threads_gives_the_same(make: Callable[[str], Callable[[], bytes]], what: str) -> None:
    compute, found = make(what), []
    for count in COUNTS:
        with threads(count):
            found.append(compute())
    assert found[1:] == found[:1] * (len(COUNTS) - 1)

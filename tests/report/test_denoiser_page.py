"""The page of a denoiser that was made to be kept: sound HTML, and nothing foreign in it is markup."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from page_checks import check_page

from elixir_plugin.core.context import Context
from elixir_plugin.core.images import ImageSet
from elixir_plugin.diffusion.denoisers import unet
from elixir_plugin.diffusion.denoisers.unet import SIZES, Architecture
from elixir_plugin.diffusion.fit.looks import Looks
from elixir_plugin.diffusion.fit.page import write_page_of
from elixir_plugin.diffusion.fit.settings import FitSettings
from elixir_plugin.diffusion.fit.train import fit_denoiser

TOY = Architecture((8, 16), 1, (False, True), {**SIZES["tiny"].options, "attention_head_dim": 8})


@pytest.mark.parametrize("iterations", [1, 3])
def test_the_page_is_sound(iterations: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unet, "SIZES", {**SIZES, "tiny": TOY})
    images = ImageSet(np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8), [0] * 6, 1)
    settings = FitSettings.build({"iterations": iterations, "batch_size": 2, "block": 1}, preset="tiny")
    found = fit_denoiser(images, settings, Context())
    looks = Looks(images, settings, Context(), tmp_path / "looks", block=1)
    for row in range(len(looks)):
        looks.measure(found, row)
    found.card["held_back"] = looks.facts()
    made = {"seconds": 7300.0, "device": "<b>cpu</b>"}
    write_page_of(tmp_path / "card.html", found, made, {iterations: b"png"})
    html = (tmp_path / "card.html").read_text()
    check_page(html)
    assert "2\xa0h 2\xa0min" in html and "&lt;b&gt;cpu" in html and "6 images of 8 × 8 × 3" in html
    assert html.count("<svg") == 2 and f"After {iterations} iterations" in html

"""Generators: the one on the engine, the hook, and how they are chosen."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from elixir_plugin.defenses.image_variations import generator as choosing
from elixir_plugin.defenses.image_variations.settings import ImageVariationsSettings
from elixir_plugin.diffusion.denoisers.gaussian import GaussianDenoiser, OracleDenoiser
from elixir_plugin.diffusion.generators.base import AdjustableGenerator, GeneratorSettings, SDEdit, find_generator
from elixir_plugin.diffusion.sampler import jump
from elixir_plugin.diffusion.schedule import Schedule
from elixir_plugin.errors import MissingNeedError, SettingsError
from elixir_plugin.hookspecs import Entry, hookimpl
from elixir_plugin.plugins import plugins
from elixir_plugin.testing.defenses import tiny_case

CHAIN = Schedule("linear", 1000)


def images(count: int = 6, size: int = 8) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, 3, size, size), np.uint8))


def gaussian(strength: float = 0.5, **options: Any) -> SDEdit:
    return SDEdit(GaussianDenoiser(CHAIN, mean=0.0, std=0.6), (8, 8), strength, **options)


@pytest.mark.parametrize("strength", [0.05, 0.5, 1.0])
def test_with_an_oracle_the_image_comes_back(strength: float) -> None:
    given = images()
    seeds = torch.arange(6) + 100
    edit = SDEdit(OracleDenoiser(CHAIN, given.float() / 255, seeds), (8, 8), strength)
    assert (edit.vary(given, seeds).int() - given.int()).abs().max() == 0
    assert edit.plan.t_star == round(strength * 1000) and edit.plan.nfe == max(1, round(50 * strength))


def test_strength_0_is_the_identity() -> None:
    edit = gaussian(0.0)
    assert edit.plan.nfe == 0 and torch.equal(edit.vary(images(), torch.arange(6)), images())


def test_at_full_strength_the_start_hardly_depends_on_the_image() -> None:
    (first, *_), noise = gaussian(1.0).plan.steps, torch.randn(1, 3, 8, 8)
    black, white = (jump(first, torch.full((1, 3, 8, 8), value), noise) for value in (-1.0, 1.0))
    amplitude = float((white - black).mean()) / 2
    assert amplitude == pytest.approx(float(CHAIN.alphas_cumprod[999].sqrt()), rel=1e-4)
    assert amplitude == pytest.approx(0.006, abs=5e-4)


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_a_variation_depends_on_its_image_and_seed_alone(sampler: Any) -> None:
    edit, given, seeds = gaussian(sampler=sampler), images(), torch.tensor([5, 2**62, 7, 8, 9, 10])
    whole = edit.vary(given, seeds)
    order = torch.tensor([4, 1])
    assert torch.equal(edit.vary(given[order], seeds[order]), whole[order])
    other = edit.vary(given[:1].expand(2, -1, -1, -1), torch.tensor([5, 6]))
    assert torch.equal(other[0], whole[0]) and not torch.equal(other[1], whole[0])


def test_a_denoiser_of_one_channel_varies_the_mean_of_three() -> None:
    edit = SDEdit(GaussianDenoiser(CHAIN, 0.0, 0.6, channels=1), (8, 8), 0.3)
    made = edit.vary(images(), torch.arange(6))
    assert made.shape == (6, 3, 8, 8) and torch.equal(made[:, 0], made[:, 2])


def test_strength_is_part_of_the_fingerprint_and_can_be_changed() -> None:
    edit = gaussian()
    assert isinstance(edit, AdjustableGenerator) and edit.strengths == (0.0, 1.0)
    assert edit.with_strength(0.2).fingerprint() == gaussian(0.2).fingerprint() != edit.fingerprint()
    assert gaussian(steps=20).fingerprint() != edit.fingerprint()


class Negative:
    """A generator of a third party."""

    def vary(self, images: Tensor, seeds: Tensor) -> Tensor:
        return 255 - images

    def fingerprint(self) -> str:
        return "negative"


class Plugin:
    @hookimpl
    def elixir_generators(self) -> list[Entry]:
        return [Entry("negative", lambda settings, image_shape, device: Negative(), summary="inverted")]


@pytest.fixture
def plugin() -> Any:
    offered = Plugin()
    plugins().register(offered, "test plugin")
    yield offered
    plugins()._forget(offered, "test plugin")


def test_a_plugin_offers_a_generator(plugin: Any) -> None:
    found = find_generator("negative", GeneratorSettings(), (8, 8, 3), torch.device("cpu"))
    assert torch.equal(found.vary(images(), torch.arange(6)), 255 - images())
    settings = ImageVariationsSettings(backend="negative")
    assert choosing.choose_backend(tiny_case(), settings) == "negative"


def test_unknown_backends_are_refused_with_the_nearest_name() -> None:
    with pytest.raises(SettingsError, match="unknown generator") as refusal:
        choosing.choose_backend(tiny_case(), ImageVariationsSettings(backend="sdedt"))
    assert "sdedit" in str(refusal.value)


def test_auto_takes_what_is_named_or_cached_or_the_clean_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case, cached = tiny_case(), set[str]()
    monkeypatch.setattr(choosing, "is_cached", lambda name: name in cached)
    bare = dataclasses.replace(case, clean=None)

    def chosen(case: Any, **values: Any) -> str:
        return choosing.choose_backend(case, ImageVariationsSettings(**values))

    assert chosen(case) == "sdedit"
    with pytest.raises(SettingsError, match="no generator is at hand") as refusal:
        chosen(bare)
    assert "lambdalabs" in str(refusal.value) and "denoiser=FOLDER" in str(refusal.value)
    with pytest.raises(MissingNeedError, match="denoiser"):
        chosen(bare, backend="sdedit")
    cached.add("shi-labs/versatile-diffusion")
    assert chosen(bare) == chosen(case) == "versatile"
    cached.add("lambdalabs/sd-image-variations-diffusers@v2.0")
    assert chosen(case) == "image_variation"
    assert chosen(case, denoiser="folder") == "sdedit"
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableUnCLIPImg2ImgPipeline"}')
    assert chosen(case, weights=str(tmp_path)) == "unclip"
    with pytest.raises(SettingsError, match="which backend"):
        chosen(case, weights="owner/name")


def test_a_denoiser_is_trained_as_deep_as_the_strength_needs() -> None:
    def depth(**values: Any) -> int | None:
        return choosing.fit_settings(ImageVariationsSettings.build(values, preset="cpu")).t_train_max

    assert (depth(strength=0.4), depth(), depth(strength=0)) == (400, 700, 1)
    assert depth(fit={"t_train_max": 300}) == 300


@pytest.mark.parametrize("values", [{"gen_size": 60}, {"strength": 1.5}, {"strength": "high"}, {"dtype": "int8"}])
def test_impossible_settings_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        GeneratorSettings.build(values)

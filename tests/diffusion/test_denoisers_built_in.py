"""The denoisers that are built in: found by name, refused for images they are not made for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from elixir_plugin import get_defense
from elixir_plugin.cli.app import program
from elixir_plugin.diffusion.denoisers import gaussian
from elixir_plugin.diffusion.denoisers.denoiser import find_denoiser
from elixir_plugin.errors import SettingsError
from elixir_plugin.testing.defenses import tiny_case


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What would have been loaded; nothing is."""
    asked: list[Any] = []

    def load(source: str) -> Any:
        asked.append(source)
        return gaussian.gaussian(32, 3)

    monkeypatch.setattr(gaussian, "load_denoiser", load)
    return asked


def test_the_usual_denoiser_comes_from_the_hub(fetched: list[Any]) -> None:
    find_denoiser("ddpm_cifar10", image_size=32)
    assert fetched == ["google/ddpm-cifar10-32"]


@pytest.mark.parametrize(("size", "channels"), [(16, 3), (64, 3), (32, 1)])
def test_it_is_refused_for_other_images_before_it_is_fetched(size: int, channels: int, fetched: list[Any]) -> None:
    with pytest.raises(SettingsError, match="other images") as caught:
        find_denoiser("ddpm_cifar10", image_size=size, channels=channels)
    assert f"{size} px" in str(caught.value) and "32 px, 3 channels" in str(caught.value)
    assert fetched == []


@pytest.mark.parametrize("channels", [1, 3])
def test_the_formula_draws_pixels_towards_gray(channels: int) -> None:
    found = find_denoiser("gaussian", image_size=7, channels=channels)
    bright = torch.ones(1, channels, 7, 7)
    noise = found.predict(bright, torch.tensor([2000])).eps
    assert noise.shape == bright.shape and bool((noise > 0).all())
    with pytest.raises(SettingsError, match="gray or in colour"):
        gaussian.gaussian(7, 4)


def test_a_defense_takes_the_formula_by_name_and_nothing_is_said_to_be_unknown() -> None:
    case = tiny_case()
    outcome = get_defense("eclipse")(preset="cpu", denoiser="gaussian").run(case)
    assert outcome.train is not None and case.train is not None and len(outcome.train) == len(case.train)
    assert outcome.tables["denoiser"]["origin"] == "a formula"
    assert [note.split()[:3] for note in outcome.notes] == [["the", "suspect", "model"]]  # agrees with the labels


def test_list_and_show_name_denoisers() -> None:
    listed = CliRunner().invoke(program, ["list"]).output
    assert "denoisers:" in listed
    for name in ("ddpm_cifar10", "gaussian"):
        assert f"  {name} " in listed
        told = CliRunner().invoke(program, ["show", name])
        assert told.exit_code == 0 and f"{name} (denoiser, from elixir_plugin:builtin)" in told.output
        assert f"--set denoiser={name}" in told.output


def test_a_denoiser_of_a_plugin_is_listed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    import elixir_plugin.plugins as module
    from elixir_plugin.hookspecs import Entry, hookimpl

    class Mine:
        @hookimpl
        def elixir_denoisers(self) -> list[Entry]:
            return [Entry("house_denoiser", lambda image_size, channels: None, summary="of the house")]

    mine = module.Plugins([])
    mine.register(Mine(), "mine")
    monkeypatch.setattr(module, "plugins", lambda: mine)
    assert "house_denoiser" in CliRunner().invoke(program, ["list"]).output
    told = CliRunner().invoke(program, ["show", "house_denoiser"]).output
    assert "house_denoiser (denoiser, from mine): of the house" in told


def test_info_shows_the_formula(tmp_path: Path) -> None:
    told = CliRunner().invoke(program, ["denoiser", "info", "gaussian", "--image-size", "16"])
    assert told.exit_code == 0 and "a formula" in told.output and "any px" in told.output

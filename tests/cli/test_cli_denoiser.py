"""``elixir-plugin denoiser``: train, info, sample, and what they say when something is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from elixir_plugin.cli.denoiser import denoiser
from elixir_plugin.diffusion.denoisers import unet
from elixir_plugin.diffusion.denoisers.denoiser import UNetDenoiser, load_denoiser
from elixir_plugin.diffusion.denoisers.unet import SIZES, Architecture, build_unet
from elixir_plugin.diffusion.fit import train as fit
from elixir_plugin.diffusion.fit.data import read_pictures
from elixir_plugin.diffusion.schedule import Schedule
from elixir_plugin.errors import ElixirError, InputError
from elixir_plugin.io.images import write_grid

TOY = Architecture((8, 16), 1, (False, True), {**SIZES["tiny"].options, "attention_head_dim": 8})


def call(*arguments: object) -> Result:
    return CliRunner().invoke(denoiser, [str(each) for each in arguments])


def fails(*arguments: object) -> str:
    """Return the message of the one error that the command raises."""
    result = call(*arguments)
    assert isinstance(result.exception, ElixirError), result.output
    return str(result.exception)


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unet, "SIZES", {**SIZES, "tiny": TOY})


def draw(path: Path, size: tuple[int, int] = (8, 8), seed: int = 0, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8)).save(path)


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    """Ten images in a mixture of layouts, and what is none."""
    folder = tmp_path / "clean"
    for i in range(4):
        draw(folder / f"{i}.png", seed=i)
    for i in range(6):
        draw(folder / "cat" / "deep" / f"{i}.png", seed=10 + i)
    (folder / "notes.txt").write_text("mine")
    draw(folder / ".hidden.png", seed=99)
    draw(folder / ".cache" / "x.png", seed=98)
    return folder


def made(folder: Path, *, steps: int | None = None, length: int = 20, **options: Any) -> Path:
    network = build_unet(TOY, 8, 3, True)
    UNetDenoiser(network, Schedule("cosine", length), variance="learned_range", trained_steps=steps, **options).save(
        folder
    )
    return folder


# images


def test_images_are_read_in_any_layout(clean: Path) -> None:
    for junk in ("@eaDir", "cat/__MACOSX"):
        (clean / junk).mkdir()
        (clean / junk / "thumb.png").write_bytes((clean / "0.png").read_bytes())
    images = read_pictures(clean)
    assert images.names == (*(f"{i}.png" for i in range(4)), *(f"cat/deep/{i}.png" for i in range(6)))
    assert images.image_shape == (8, 8, 3) and not images.labels.any()
    assert np.array_equal(images.read(slice(0, 1))[0], np.asarray(Image.open(clean / "0.png")))
    assert len(read_pictures(clean, limit=3)) == 3
    assert read_pictures(clean, channels=1, resize=16).image_shape == (16, 16, 1)


def test_a_set_larger_than_memory_is_read_as_it_is_used(clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from elixir_plugin.diffusion.fit import data

    eager = read_pictures(clean)
    monkeypatch.setattr(data, "EAGER_BYTES", 10)
    lazy = read_pictures(clean)
    assert not isinstance(lazy.images, np.ndarray) and lazy.fingerprint() == eager.fingerprint()


def test_bad_image_folders_are_named(clean: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not found"):
        read_pictures(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no images"):
        read_pictures(tmp_path / "empty")
    (clean / "elsewhere").symlink_to(tmp_path)
    with pytest.raises(InputError, match="links to folders"):
        read_pictures(clean)
    (clean / "elsewhere").unlink()
    draw(tmp_path / "outside.png")
    (clean / "link.png").symlink_to(tmp_path / "outside.png")
    with pytest.raises(InputError, match="leaves its folder"):
        read_pictures(clean)
    (clean / "link.png").unlink()
    (clean / "4.png").write_bytes((clean / "3.png").read_bytes()[:60])
    with pytest.raises(InputError, match="cannot be"):
        read_pictures(clean)
    draw(clean / "4.png", size=(8, 12))
    with pytest.raises(InputError, match="mixed size") as caught:
        read_pictures(clean)
    assert "8×8" in str(caught.value) and "12×8" in str(caught.value)
    assert read_pictures(clean, resize=8).image_shape == (8, 8, 3)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_grid_shows_every_image_where_it_belongs(channels: int, tmp_path: Path) -> None:
    rows = [torch.rand(3, channels, 8, 8, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    write_grid(tmp_path / "grid.png", rows)
    grid = np.asarray(Image.open(tmp_path / "grid.png")).reshape(2 * 66 + 2, 3 * 66 + 2, channels)
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            tile = grid[2 + 66 * i : 66 + 66 * i : 8, 2 + 66 * j : 66 + 66 * j : 8]
            assert np.array_equal(tile, (image * 255).round().byte().permute(1, 2, 0).numpy())
    assert (grid[:2] == 255).all() and (grid[66:68] == 255).all()


# train


def test_train_writes_a_denoiser_says_so_and_is_done_the_second_time(
    clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["train", "--clean", clean, "--out", tmp_path / "d", "--preset", "cpu", "-s", "iterations=3"]
    result = call(*arguments, "-s", "batch_size=4", "--seed", 5, "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert "10 images" in result.output and "loss" in result.output and "t* ≤ 40" in result.output
    loaded = load_denoiser(tmp_path / "d")
    assert loaded.card["seed"] == 5 and loaded.card["settings"]["batch_size"] == 4
    assert not (tmp_path / "d.checkpoint").exists()
    monkeypatch.setattr(fit, "_fit", lambda *_: pytest.fail("trained again"))
    again = call(*arguments, "-s", "batch_size=4", "--seed", 5, "--device", "cpu")
    assert again.exit_code == 0 and "already done" in again.output
    assert "in the way" in fails(*arguments)


def test_train_goes_on_after_a_stop(clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from elixir_plugin.training import checkpoint

    monkeypatch.setattr(fit, "BLOCK", 1)
    monkeypatch.setattr(checkpoint, "INTERVAL", 0.0)
    arguments = ["train", "--clean", clean, "--preset", "cpu", "-s", "iterations=3", "-s", "batch_size=2"]
    with monkeypatch.context() as patch:
        patch.setattr(UNetDenoiser, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        stopped = call(*arguments, "--out", tmp_path / "a")
    assert stopped.exit_code != 0 and (tmp_path / "a.checkpoint").exists()
    result = call(*arguments, "--out", tmp_path / "a")
    assert result.exit_code == 0 and "going on from" in result.output
    assert call(*arguments, "--out", tmp_path / "b", "-q").output == ""
    assert load_denoiser(tmp_path / "a").fingerprint() == load_denoiser(tmp_path / "b").fingerprint()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--preset", "cp"], "did you mean 'cpu'?"),
        (["--set", "iteration=3"], "did you mean 'iterations'?"),
        (["--set", "t_train_max=5000", "--preset", "cpu"], "beyond the chain"),
        (["--device", "quantum"], "device not available"),
        (["--clean", "nowhere"], "image folder not found"),
    ],
)
def test_train_refuses(more: list[str], says: str, clean: Path, tmp_path: Path) -> None:
    assert says in fails("train", "--clean", clean, "--out", tmp_path / "d", *more)
    assert not (tmp_path / "d").exists() and not (tmp_path / "d.checkpoint").exists()


# info


def test_info_tells_network_chain_and_noise_levels(tmp_path: Path) -> None:
    folder = made(tmp_path / "d", length=4000, timestep_scale=0.25, card={"origin": "a test", "seed": 3})
    result = call("info", folder)
    assert result.exit_code == 0, result.output
    for text in ("UNet2DModel [8, 16]", "cosine", "learned_range", "index · 0.25", "t* ≤ 4000 of 4000", "a test"):
        assert text in result.output
    assert "t* =   100 of 4000" not in result.output or "6.37/255" in result.output
    facts = json.loads(call("info", folder, "--json").output)
    sigmas = [row["sigma"] for row in facts["levels"]]
    assert sigmas == sorted(sigmas) and facts["parameters"] > 0 and facts["levels"][-1]["steps"] == 4000


def test_info_makes_control_characters_visible(tmp_path: Path) -> None:
    folder = made(tmp_path / "d", card={"origin": "\x1b[2Jevil"})
    output = call("info", folder).output
    assert "\x1b" not in output and "evil" in output


def test_info_of_nothing_says_how_to_get_one() -> None:
    assert "denoiser train" in fails("info", "nowhere")


# sample


def test_sample_shows_original_noised_and_purified(clean: Path, tmp_path: Path) -> None:
    folder = made(tmp_path / "d", steps=10)
    result = call("sample", folder, "--images", clean, "--level", "5/20", "--count", 4, "--out", tmp_path / "g.png")
    assert result.exit_code == 0, result.output
    assert "t* = 5 of 20" in result.output and "RMS" in result.output
    grid = np.asarray(Image.open(tmp_path / "g.png"))
    assert grid.shape == (3 * 66 + 2, 4 * 66 + 2, 3)
    first = grid[2:66:8, 2:66:8]
    assert np.array_equal(first, np.asarray(Image.open(clean / "0.png")))
    before = (tmp_path / "g.png").read_bytes()
    call("sample", folder, "--images", clean, "--level", "5/20", "--count", 4, "--out", tmp_path / "g.png")
    assert (tmp_path / "g.png").read_bytes() == before
    call("sample", folder, "--images", clean, "--level", "5/20", "--count", 4, "--out", tmp_path / "g.png", "--seed", 1)
    assert (tmp_path / "g.png").read_bytes() != before


def test_the_noised_row_has_the_noise_of_the_level(tmp_path: Path) -> None:
    from elixir_plugin.cli.grids import there_and_back
    from elixir_plugin.diffusion.schedule import NoiseLevel

    found = load_denoiser(made(tmp_path / "d", length=1000))
    gray = torch.full((8, 3, 8, 8), 0.5)
    plan, noised, purified = there_and_back(found, gray, NoiseLevel(sigma=0.02498), 1, 0)
    assert plan.t_star == 25 and float((noised - gray).std()) == pytest.approx(0.025, rel=0.1)
    # a zero network predicts no noise: what it takes for the image is the noised image
    assert torch.allclose(purified, noised, atol=1e-5)


def test_sample_without_a_level_takes_that_of_eclipse_or_all_that_was_trained(clean: Path, tmp_path: Path) -> None:
    long, short = made(tmp_path / "long", length=1000), made(tmp_path / "short", length=1000, steps=3)
    for folder, text in ((long, "t* = 25 of 1000"), (short, "t* = 3 of 1000")):
        result = call("sample", folder, "--images", clean, "--steps", 1, "--out", tmp_path / "g.png")
        assert text in result.output


def test_sample_from_noise_takes_a_chain_trained_whole(tmp_path: Path) -> None:
    whole, part = made(tmp_path / "whole"), made(tmp_path / "part", steps=10)
    result = call("sample", whole, "--from-noise", "--count", 5, "--out", tmp_path / "g.png")
    assert result.exit_code == 0, result.output
    assert np.asarray(Image.open(tmp_path / "g.png")).shape == (2 * 66 + 2, 3 * 66 + 2, 3)
    message = fails("sample", part, "--from-noise", "--out", tmp_path / "no.png")
    assert "t* ≤ 10 of 20" in message and "--images" in message
    assert not (tmp_path / "no.png").exists()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ([], "what shall be shown?"),
        (["--from-noise", "--level", "1/20"], "no noise level"),
        (["--images", "CLEAN", "--level", "5"], "names its chain"),
        (["--images", "CLEAN", "--level", "x/y"], "--level"),
        (["--images", "CLEAN", "--level", "5/20", "--sigma", "0.1"], "one noise level"),
        (["--images", "CLEAN", "--level", "15/20"], "trained for"),
        (["--images", "CLEAN", "--sigma", "-1"], "--sigma"),
        (["--images", "nowhere"], "image folder not found"),
    ],
)
def test_sample_refuses(more: list[str], says: str, clean: Path, tmp_path: Path) -> None:
    folder = made(tmp_path / "d", steps=10)
    arguments = [str(clean) if each == "CLEAN" else each for each in more]
    assert says in fails("sample", folder, *arguments, "--out", tmp_path / "g.png")
    assert not (tmp_path / "g.png").exists()


def test_the_command_is_part_of_the_program() -> None:
    from elixir_plugin.cli.app import program

    result = CliRunner().invoke(program, ["denoiser", "info", "nowhere"])
    assert result.exit_code == 1 and "denoiser not found" in result.output
    assert CliRunner().invoke(program, ["denoiser", "sample", "x", "--out", "y", "--level", "5"]).exit_code == 2


def test_help_answers_without_torch() -> None:
    assert isinstance(denoiser, click.Group)
    code = (
        "import sys\nfrom elixir_plugin.cli.denoiser import denoiser\n"
        "try:\n    denoiser(['train', '--help'])\nexcept SystemExit: pass\n"
        "print('LOADED', [name for name in ('torch', 'numpy', 'pydantic', 'diffusers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "LOADED []" in done.stdout and "--clean" in done.stdout

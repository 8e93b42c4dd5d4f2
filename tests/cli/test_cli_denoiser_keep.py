"""``elixir-plugin denoiser train`` and ``show``: a denoiser that is made once and kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from elixir_plugin.cli.denoiser import denoiser
from elixir_plugin.core.context import Context
from elixir_plugin.core.images import ImageSet
from elixir_plugin.diffusion.denoisers import unet
from elixir_plugin.diffusion.denoisers.denoiser import find_denoiser, load_denoiser
from elixir_plugin.diffusion.denoisers.unet import SIZES, Architecture
from elixir_plugin.diffusion.fit import choose, looks
from elixir_plugin.diffusion.fit.data import read_pictures
from elixir_plugin.diffusion.fit.settings import FitSettings
from elixir_plugin.errors import ElixirError, InputError
from elixir_plugin.training import checkpoint, timing

TOY = Architecture((8, 16), 1, (False, True), {**SIZES["tiny"].options, "attention_head_dim": 8})
SHORT = ("--preset", "tiny", "-s", "iterations=6", "-s", "batch_size=4", "-s", "block=2", "--device", "cpu")


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unet, "SIZES", {**SIZES, "tiny": TOY})
    monkeypatch.setattr(checkpoint, "INTERVAL", 0.0)
    monkeypatch.setattr(looks, "STEPS", 2)


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    folder = tmp_path / "clean"
    folder.mkdir()
    for i in range(12):
        pixels = np.random.default_rng(i).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:02}.png")
    return folder


def call(*arguments: object) -> Result:
    result = CliRunner().invoke(denoiser, [str(each) for each in arguments])
    if result.exception is not None and not isinstance(result.exception, ElixirError | SystemExit | KeyboardInterrupt):
        raise result.exception
    return result


def made(clean: Path | str, out: Path, *more: object) -> Path:
    result = call("train", "--data", clean, "--out", out, *SHORT, *more)
    assert result.exit_code == 0, result.output
    return out


def files(folder: Path) -> dict[str, bytes]:
    """Return the content of what must not depend on how often a training was stopped."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("made.json", "card.html")  # which tell seconds and machine
    }


# what is kept


def test_the_folder_holds_card_page_and_pictures(clean: Path, tmp_path: Path) -> None:
    folder = made(clean, tmp_path / "d", "--held-back", 3)
    assert {path.name for path in folder.iterdir()} == {
        *("unet", "scheduler", "model_index.json", "card.json"),
        *("samples", "made.json", "card.html"),
    }
    assert [path.name for path in sorted((folder / "samples").iterdir())] == [f"{i:07}.png" for i in (2, 4, 6)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clean", "d"]
    card, facts = load_denoiser(folder).card, json.loads((folder / "made.json").read_text())
    assert card["images"]["count"] == 9 and card["held_back"]["count"] == 3
    assert card["held_back"]["levels"] == [20, 100, 250, 500, 1000] and card["held_back"]["iterations"] == [2, 4, 6]
    assert np.array(card["held_back"]["losses"]).shape == (5, 3)
    assert facts["seconds"] > 0 and facts["device"].startswith("cpu")
    page = (folder / "card.html").read_text()
    for text in ("9 images of 8 × 8 × 3", card["images"]["fingerprint"], "After 6 iterations", "took"):
        assert text in page
    assert page.count("data:image/png") == 3 and page.count("<svg") == 2


def test_a_held_back_image_is_not_trained_on_and_no_other_is_lost(clean: Path, tmp_path: Path) -> None:
    found = load_denoiser(made(clean, tmp_path / "d", "--held-back", 5))
    assert int(found.seen(read_pictures(clean)).sum()) == 7
    whole = load_denoiser(made(clean, tmp_path / "w", "--held-back", 0))
    assert whole.seen(read_pictures(clean)).all() and "held_back" not in whole.card
    assert not (tmp_path / "w" / "samples").exists()


def test_looking_changes_no_weight(clean: Path, tmp_path: Path) -> None:
    images = read_pictures(clean)
    apart, rest = looks.held_back(images, 3, Context())
    from elixir_plugin.diffusion.fit.train import fit_into

    settings = FitSettings.build({"iterations": 6, "batch_size": 4, "block": 2, "dropout": 0.3}, preset="tiny")
    watched = looks.Looks(apart, settings, Context(), tmp_path / "looks", block=2)
    seen = fit_into(tmp_path / "a", rest, settings, Context(), looks=watched)
    assert seen.fingerprint() == fit_into(tmp_path / "b", rest, settings, Context()).fingerprint()


@pytest.mark.parametrize(("at", "moment"), [(1, "look"), (3, "look"), (2, "save"), (3, "save")])
def test_a_stopped_training_goes_on_and_ends_with_the_same_files(
    at: int, moment: str, clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = files(made(clean, tmp_path / "whole", "--held-back", 3))
    target, name = {"look": (looks.Looks, "look"), "save": (checkpoint.TrainingState, "save")}[moment]
    usual, calls = getattr(target, name), 0

    def stopping(*arguments: Any, **options: Any) -> None:
        nonlocal calls
        calls += 1
        usual(*arguments, **options)
        if calls == at:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(target, name, stopping)
        stopped = call("train", "--data", clean, "--out", tmp_path / "d", *SHORT, "--held-back", 3)
    assert stopped.exit_code != 0 and not (tmp_path / "d").exists()
    assert (tmp_path / "d.looks" / "0000002.png").exists()  # early pictures are there while it goes on
    again = call("train", "--data", clean, "--out", tmp_path / "d", *SHORT, "--held-back", 3)
    assert again.exit_code == 0 and ("going on from" in again.output) == (at > 1 or moment == "save")
    assert files(tmp_path / "d") == expected
    assert not (tmp_path / "d.looks").exists() and not (tmp_path / "d.checkpoint").exists()


def test_a_picture_that_is_damaged_or_gone_does_not_cost_the_training(
    clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = looks.Looks.add_to

    def damaged(self: looks.Looks, *arguments: Any) -> None:
        (self.folder / "0000002.png").write_bytes(b"half")
        (self.folder / "0000004.png").unlink()
        usual(self, *arguments)

    monkeypatch.setattr(looks.Looks, "add_to", damaged)
    folder = made(clean, tmp_path / "d", "--held-back", 3)
    assert [path.name for path in (folder / "samples").iterdir()] == ["0000006.png"]
    assert (folder / "card.html").read_text().count("data:image/png") == 1


def test_another_denoiser_is_not_overwritten(clean: Path, tmp_path: Path) -> None:
    folder = made(clean, tmp_path / "d")
    before = files(folder)
    for more in (["--seed", 1], ["-s", "lr=0.1"], ["--held-back", 4], ["--sigma", 0.1]):
        result = call("train", "--data", clean, "--out", folder, *SHORT, *more)
        assert isinstance(result.exception, ElixirError) and "in the way" in str(result.exception)
    assert files(folder) == before
    assert "already done" in call("train", "--data", clean, "--out", folder, *SHORT).output


# levels


@pytest.mark.parametrize(
    ("more", "steps"),
    [
        (["--level", "150/1000"], 150),  # of DataElixir
        (["--sigma", 0.025], None),
        (["-s", "t_train_max=7"], 7),
        ([], 1000),
    ],
)
def test_levels_limit_what_is_trained(more: list[object], steps: int | None, clean: Path, tmp_path: Path) -> None:
    found = load_denoiser(made(clean, tmp_path / "d", *more))
    if steps in (150, 7, 1000):
        assert found.trained_steps == steps
    sigma = found.schedule.noise_std(found.trained_steps)
    if "--sigma" in more:
        assert sigma == pytest.approx(0.025, rel=0.1)
    assert found.card["held_back"]["levels"][-1] == found.trained_steps


def test_two_levels_are_refused(clean: Path, tmp_path: Path) -> None:
    for more in (["--level", "1/10", "--sigma", "0.1"], ["--sigma", "0.1", "-s", "t_train_max=5"]):
        result = call("train", "--data", clean, "--out", tmp_path / "d", *SHORT, *more)
        assert "one noise level" in str(result.exception)


@pytest.mark.parametrize("preset", ["tiny", "small", "ddpm"])
def test_presets_to_keep_serve_every_defense_and_lose_little_when_stopped(preset: str) -> None:
    settings = FitSettings.build(preset=preset)
    assert (settings.schedule, settings.length, settings.trained_steps) == ("linear", 1000, 1000)
    assert settings.size == preset and settings.block is not None and settings.block <= 50


def test_a_block_that_is_not_said_leaves_identities_as_they_were() -> None:
    found = {preset: FitSettings.build(preset=preset).fingerprint() for preset in ("paper", "fast", "cpu")}
    assert found == {"paper": "adb068934536", "fast": "00d32c6a4aa9", "cpu": "a35e77c68ced"}


# sources


def test_an_adapter_gives_its_reserved_clean_set_or_what_is_asked_for(tmp_path: Path) -> None:
    out = tmp_path / "d"
    result = call("train", "--data", "testbed:badnets", "-o", "model=false", "--out", out, *SHORT)
    assert result.exit_code == 0, result.output
    assert "trained on the reserved clean set of testbed:badnets" in result.output
    from elixir_plugin import get_adapter

    case = get_adapter("testbed")({"model": False}).read(Path("badnets"), 0)
    assert case.clean is not None and case.train is not None and case.test is not None
    found = load_denoiser(out)
    assert int(found.seen(case.clean).sum()) == found.card["images"]["count"]
    assert choose.count_seen(found, case.train) == 0
    refused = call("train", "--data", "testbed:badnets", "-o", "model=false", "--part", "train", "--out", out, *SHORT)
    assert "poisoned" in str(refused.exception)
    tested = call("train", "--data", "testbed:badnets", "-o", "model=false", "--part", "test", "--out", out, *SHORT)
    assert "in the way" in str(tested.exception)  # other images


def test_a_suspect_set_that_shares_images_is_refused_later(clean: Path, tmp_path: Path) -> None:
    found, images = find_denoiser(made(clean, tmp_path / "d")), read_pictures(clean)
    with pytest.raises(InputError, match="trained on images of the suspect set") as caught:
        choose.refuse_seen(found, images, forced=False)
    assert "11 of 12" in str(caught.value)  # one was held back
    others = ImageSet(255 - images.read(slice(None)), images.labels, 1)
    assert choose.refuse_seen(found, others, forced=False) is None


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--part", "clean"], "no such option"),
        (["-o", "size=3"], "no such option"),
        (["--held-back", "12"], "no images would be left"),
        (["--data", "nowhere"], "image folder not found"),
        (["--data", "cifr:x"], "cifr"),
        (["--data", "testbed:badnets", "--resize", "8"], "not resized"),
    ],
)
def test_train_refuses(more: list[str], says: str, clean: Path, tmp_path: Path) -> None:
    result = call("train", "--data", clean, "--out", tmp_path / "d", *SHORT, *more)
    assert isinstance(result.exception, ElixirError) and says in str(result.exception)
    assert not (tmp_path / "d").exists()


# what it costs


def test_a_dry_run_measures_and_writes_nothing(clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "ENOUGH", 0.01)
    result = call("train", "--data", clean, "--out", tmp_path / "d", *SHORT, "--dry-run", "--json")
    facts = json.loads(result.output)
    assert facts["images"] == 11 and facts["iterations"] == 6 and facts["parameters"] > 0
    assert facts["seconds"]["training"] == pytest.approx(6 * facts["seconds_per_iteration"])
    assert facts["seconds_total"] == pytest.approx(sum(facts["seconds"].values())) and facts["seconds"]["looks"] > 0
    assert facts["disk_bytes"] == 16 * facts["parameters"]
    assert [path.name for path in tmp_path.iterdir()] == ["clean"]
    text = call("train", "--data", clean, "--out", tmp_path / "d", *SHORT, "--dry-run", "--held-back", 0).output
    assert "seconds total" in text and "looks" not in text
    made(clean, tmp_path / "d")
    assert "done" in call("train", "--data", clean, "--out", tmp_path / "d", *SHORT, "--dry-run").output


# show


def test_show_tells_how_well_held_back_images_are_denoised(clean: Path, tmp_path: Path) -> None:
    folder = made(clean, tmp_path / "d", "--held-back", 3)
    losses = load_denoiser(folder).card["held_back"]["losses"]
    output = call("show", folder).output
    assert "on 3 held-back images, after 2 and 6 iterations" in output and f"page: {folder / 'card.html'}" in output
    for row in losses:
        assert f"{row[0]:.4f} → {row[-1]:.4f}" in output
    assert call("info", folder).output == output


@pytest.mark.parametrize("held", ["text", {"sigmas": [1]}, {"sigmas": [1], "losses": [[]], "iterations": []}, [1]])
def test_show_survives_a_card_that_says_nonsense(held: Any, clean: Path, tmp_path: Path) -> None:
    folder = made(clean, tmp_path / "d")
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps({**card, "held_back": held}))
    result = call("show", folder)
    assert result.exit_code == 0 and "held-back images, after" not in result.output

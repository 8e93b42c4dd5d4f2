"""The patches of the authors, pixel by pixel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from elixir_plugin import ImageSet
from elixir_plugin.errors import InputError
from elixir_plugin.testbed.poisons import BadNets, TaCT

GREY = 90


def corner(preset: str, shown: int, channels: int = 3, edge: int = 32, **values: Any) -> Any:
    """Return the lower right corner of a grey image with the trigger, ``[shown, shown, C]``."""
    images = ImageSet(np.full((2, edge, edge, channels), GREY, np.uint8), [1, 1], 2)
    poison = BadNets({"preset": preset, **values})
    stamped = poison.triggered_test(images).samples.read(slice(None))
    rest = stamped[:, : edge - shown - 1]
    assert (rest == GREY).all()
    return stamped[0, -shown:, -shown:].astype(int)


def test_backdoorbench_paints_a_white_corner() -> None:
    found = corner("backdoorbench", 4)
    assert (found[1:, 1:] == 255).all()
    assert (found[0] == GREY).all() and (found[:, 0] == GREY).all()


def test_dataelixir_paints_four_blocks_and_leaves_the_channels_between() -> None:
    found = corner("dataelixir", 4)
    assert (found[:2, :2] == [255, 255, GREY]).all()
    assert (found[:2, 2:] == [255, GREY, 255]).all()
    assert (found[2:, :2] == [GREY, 255, 255]).all()
    assert (found[2:, 2:] == 122).all()


def test_its_blocks_are_white_in_images_without_colour() -> None:
    found = corner("dataelixir", 4, channels=1)[..., 0]
    assert found.tolist() == [[255] * 4, [255] * 4, [255, 255, 122, 122], [255, 255, 122, 122]]


def test_confusion_training_paints_a_diagonal_and_a_corner() -> None:
    found = corner("confusion_training", 3)[..., 0]
    assert found.tolist() == [[0, 0, 255], [0, 255, 0], [255, 0, 255]]


def test_image_variations_paints_a_checkerboard_for_large_images() -> None:
    found = corner("image_variations", 9, edge=224)[..., 0]
    assert found[0].tolist() == [255, 0] * 4 + [255]
    assert (found == found.T).all() and (found[1] == 255 - found[0]).all()


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("pattern", ["white", "colour_blocks", "diagonal", "checkerboard"])
def test_every_pattern_has_any_size(pattern: str, size: int) -> None:
    found = corner("backdoorbench", size, pattern=pattern, size=size)
    assert found.shape == (size, size, 3)
    assert (found != GREY).any()


def test_other_poisons_take_the_patterns_too() -> None:
    images = ImageSet(np.full((4, 8, 8, 3), GREY, np.uint8), [0, 1, 2, 1], 3)
    stamped = TaCT(pattern="white", margin=0).triggered_test(images).samples.read(slice(None))
    assert len(stamped) == 2 and (stamped[:, -3:, -3:] == 255).all()


def patch_file(folder: Path, edge: int) -> str:
    """Write a patch of random colours, and return its path."""
    pixels = np.random.default_rng(2).integers(0, 256, (edge, edge, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(folder / "patch.png")
    return str(folder / "patch.png")


class TestPicture:
    def test_the_patch_is_the_file_pixel_by_pixel(self, tmp_path: Path) -> None:
        path = patch_file(tmp_path, 5)
        found = corner("backdoorbench", 6, picture=path, size=5)
        assert np.array_equal(found[1:, 1:], np.asarray(Image.open(path)))
        assert (found[0] == GREY).all() and (found[:, 0] == GREY).all()

    def test_it_is_scaled_to_the_size(self, tmp_path: Path) -> None:
        path = patch_file(tmp_path, 12)
        expected = np.asarray(Image.open(path).resize((4, 4), Image.Resampling.BILINEAR))
        assert np.array_equal(corner("backdoorbench", 4, picture=path, size=4), expected)

    def test_images_without_colour_get_its_luminance(self, tmp_path: Path) -> None:
        path = patch_file(tmp_path, 3)
        expected = np.asarray(Image.open(path).convert("L"))
        assert np.array_equal(corner("backdoorbench", 3, channels=1, picture=path)[..., 0], expected)

    def test_one_source_class_can_carry_it(self, tmp_path: Path) -> None:
        path = patch_file(tmp_path, 8)
        images = ImageSet(np.full((4, 32, 32, 3), GREY, np.uint8), [0, 1, 2, 1], 3)
        stamped = TaCT(picture=path, size=8, margin=3).triggered_test(images).samples.read(slice(None))
        assert len(stamped) == 2
        assert np.array_equal(stamped[0, 21:29, 21:29], np.asarray(Image.open(path)))
        assert ((stamped != GREY).any((0, 3)).sum(0) > 0).nonzero()[0].tolist() == list(range(21, 29))

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        images = ImageSet(np.full((2, 8, 8, 3), GREY, np.uint8), [1, 1], 2)
        with pytest.raises(InputError, match=r"none\.png"):
            BadNets(picture=str(tmp_path / "none.png")).triggered_test(images)

    def test_sets_without_one_are_named_as_before(self) -> None:
        settings = BadNets(picture=None).settings
        assert "picture" not in settings.under_first_names(settings.dump())

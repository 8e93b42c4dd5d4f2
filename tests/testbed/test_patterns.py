"""The patches of the authors, pixel by pixel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from elixir_plugin import ImageSet
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

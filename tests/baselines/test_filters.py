"""Baselines that change images by a formula: exactly that one, each image on its own, in its own type of pixel."""

from __future__ import annotations

import dataclasses
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from elixir_plugin.core.augmentation import Augmentation
from elixir_plugin.core.case import Case
from elixir_plugin.core.context import Context
from elixir_plugin.core.images import ImageSet
from elixir_plugin.core.outcome import Outcome
from elixir_plugin.core.pixels import as_float, changed, to_bytes
from elixir_plugin.defense import get_defense
from elixir_plugin.evaluation.measure import execute
from elixir_plugin.evaluation.retraining import Retraining
from elixir_plugin.testing import tiny_case

FILTERS = ("jpeg", "grayscale", "gaussian_noise")


def noise_set(n: int = 6, size: int = 16, channels: int = 3, seed: int = 0) -> ImageSet:
    pixels = np.random.default_rng(seed).integers(0, 256, (n, size, size, channels), np.uint8)
    return ImageSet(pixels, np.arange(n) % 2, num_classes=2)


def run(name: str, images: ImageSet, seed: int = 0, **values: Any) -> Outcome:
    return get_defense(name)(**values).run(Case(train=images), Context(seed=seed))


def pixels_of(outcome: Outcome) -> np.ndarray[Any, Any]:
    assert outcome.train is not None
    return outcome.train.read(slice(None))


def pillow(image: np.ndarray[Any, Any], quality: int) -> np.ndarray[Any, Any]:
    """What Pillow makes of an image when nothing but the quality is said, as in the released code."""
    file = BytesIO()
    Image.fromarray(image.squeeze()).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file)).reshape(image.shape)


@pytest.mark.parametrize("quality", [10, 1, 50, 95])
@pytest.mark.parametrize(("size", "channels"), [(16, 3), (16, 1), (9, 3), (40, 3)])
def test_jpeg_is_what_pillow_makes_of_each_image(size: int, channels: int, quality: int) -> None:
    images = noise_set(3, size, channels)
    expected = [pillow(each, quality) for each in images.read(slice(None))]
    assert np.array_equal(pixels_of(run("jpeg", images, quality=quality)), expected)


def test_jpeg_of_floats_goes_through_bytes_and_back() -> None:
    images = as_float(noise_set()).load()
    made = pixels_of(run("jpeg", images))
    assert made.dtype == np.float32 and made.min() >= 0 and made.max() <= 1
    assert np.array_equal(to_bytes(made), pixels_of(run("jpeg", noise_set())))


@pytest.mark.parametrize(("size", "channels", "warned"), [(15, 3, True), (8, 3, True), (16, 3, False), (8, 1, False)])
def test_jpeg_notes_images_smaller_than_a_block(size: int, channels: int, warned: bool) -> None:
    notes = run("jpeg", noise_set(2, size, channels)).notes
    assert any("blocks of 16" in note for note in notes) is warned


def test_grayscale_has_equal_channels_of_the_right_luminance() -> None:
    images = noise_set()
    made = pixels_of(run("grayscale", images))
    assert (made == made[..., :1]).all() and made.dtype == np.uint8
    weights = np.array([0.299, 0.587, 0.114])
    assert np.abs(made[..., 0] - images.read(slice(None)) @ weights).max() <= 0.5 + 1e-4
    floats = pixels_of(run("grayscale", as_float(images).load()))
    assert np.allclose(floats[..., 0], images.read(slice(None)) @ weights / 255, atol=1e-6)


def test_grayscale_of_one_channel_changes_nothing_and_says_so() -> None:
    images = noise_set(channels=1)
    outcome = run("grayscale", images)
    assert np.array_equal(pixels_of(outcome), images.read(slice(None))) and "one channel" in " ".join(outcome.notes)


@pytest.mark.parametrize("std", [0.05, 0.2])
def test_noise_has_its_deviation_and_no_mean(std: float) -> None:
    grey = ImageSet(np.full((40, 16, 16, 3), 0.5, np.float32), np.arange(40) % 2, 2)
    made = pixels_of(run("gaussian_noise", grey, std=std)) - 0.5
    assert abs(made.std() / std - 1) < 0.02 and abs(made.mean()) < std / 40
    assert len(np.unique(made[:, 0, 0, 0])) == 40  # of its own for each image


def test_noise_belongs_to_the_place_in_the_set_not_to_the_chunk() -> None:
    from elixir_plugin.baselines import gaussian_noise

    images = noise_set(130, 8)
    whole = pixels_of(run("gaussian_noise", images))
    first = pixels_of(run("gaussian_noise", images.subset(np.arange(3))))
    assert len(whole) > gaussian_noise.CHUNK and np.array_equal(whole[:3], first)
    assert not np.array_equal(whole, pixels_of(run("gaussian_noise", images, seed=1)))


def test_noise_drawn_online_is_left_to_training() -> None:
    images = noise_set()
    outcome = run("gaussian_noise", images, mode="online", std=0.1)
    assert np.array_equal(pixels_of(outcome), images.read(slice(None)))
    assert outcome.augmentation == Augmentation(noise=0.1)


@pytest.mark.parametrize("name", FILTERS)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=5, unique=True))
def test_each_image_is_changed_on_its_own_and_the_rest_stays(name: str, rows: list[int]) -> None:
    images = noise_set(10, 8)
    outcome = run(name, images)
    assert outcome.train is not None and outcome.flagged is None and outcome.kept is None
    assert np.array_equal(outcome.train.labels, images.labels)
    assert not np.array_equal(pixels_of(outcome), images.read(slice(None)))
    assert outcome.tables["rms_change"] > 0
    if name != "gaussian_noise":  # whose noise follows the place
        part = run(name, images.subset(np.array(rows)))
        assert np.array_equal(pixels_of(part), pixels_of(outcome)[rows])


@pytest.mark.parametrize("name", FILTERS)
def test_a_preview_shows_what_a_run_does(name: str) -> None:
    case = Case(train=noise_set(5))
    before, after = get_defense(name)().preview(case, Context(seed=0), 3)
    assert before.shape == after.shape == (3, 3, 16, 16)
    expected = pixels_of(run(name, noise_set(5)))[:3]
    assert np.array_equal(to_bytes(after.permute(0, 2, 3, 1).numpy()), expected)


def test_a_set_that_is_read_in_parts_is_changed_in_parts() -> None:
    images, seen = noise_set(5, 8), list[tuple[int, int]]()

    def change(rows: slice, pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        seen.append((rows.start, len(pixels)))
        return pixels // 2

    assert np.array_equal(changed(images, change, 2).read(slice(None)), images.read(slice(None)) // 2)
    assert seen == [(0, 2), (2, 2), (4, 1)]
    assert len(changed(images.subset([]), change)) == 0


# do_nothing, random_crop


def test_nothing_done_is_the_undefended_model() -> None:
    case, plan = dataclasses.replace(tiny_case(), model=None), Retraining(epochs=1, architecture="fast_resnet")
    outcome, found = execute(get_defense("do_nothing")(), case, Context(seed=3), plan)
    assert outcome.train is not None and case.train is not None
    assert outcome.train.fingerprint() == case.train.fingerprint() and found.after == found.before


@pytest.mark.parametrize(("shape", "crop"), [((32, 32), 8), ((16, 24), 4), ((3, 3), 1)])
def test_crops_are_a_quarter_of_the_shorter_edge(shape: tuple[int, int], crop: int) -> None:
    images = ImageSet(np.zeros((4, *shape, 3), np.uint8), [0, 1, 0, 1], 2)
    case = Case(train=images, mirror=True)
    outcome = get_defense("random_crop")().run(case, Context())
    assert outcome.augmentation == Augmentation(crop=crop, flip=True)
    chosen = get_defense("random_crop")(crop=2).run(dataclasses.replace(case, mirror=False), Context()).augmentation
    assert chosen == Augmentation(crop=2, flip=False)


def test_crops_reach_the_training() -> None:
    case = dataclasses.replace(tiny_case(), model=None, mirror=True)
    plan = Retraining(epochs=1, architecture="fast_resnet", augmentation=Augmentation(crop=1))
    same = Retraining(epochs=1, architecture="fast_resnet", augmentation=Augmentation(crop=2, flip=True))
    cropped = execute(get_defense("random_crop")(), case, Context(), plan)[0].model
    expected = execute(get_defense("do_nothing")(), case, Context(), same)[0].model
    assert cropped is not None and expected is not None and cropped.fingerprint() == expected.fingerprint()
    assert torch.is_tensor(cropped.mean)

"""What values pixels may have, whichever way they come in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from elixir_plugin.adapters.arrays import Arrays
from elixir_plugin.adapters.art.data import Frame
from torch.utils.data import TensorDataset

from elixir_plugin import Case, ImageSet
from elixir_plugin.api.arrays import Normalisation
from elixir_plugin.api.convert import as_image_set, to_raw
from elixir_plugin.api.functions import make_case
from elixir_plugin.core.images import LazyImages
from elixir_plugin.core.scale import in_unit_range, refuse_zeros_and_ones, scale_notes
from elixir_plugin.errors import InputError

N, EDGE = 6, 4
LABELS = [0, 1, 0, 1, 0, 1]
BITS = np.random.default_rng(0).integers(0, 2, (N, EDGE, EDGE, 3), np.uint8)
FLOATS = np.random.default_rng(1).random((N, EDGE, EDGE, 3), np.float32)


def beyond(value: float) -> Any:
    pixels = FLOATS.copy()
    pixels[3, 1, 2, 0] = value
    return pixels


def memmap(pixels: Any, folder: Path) -> Any:
    np.save(folder / "x.npy", pixels)
    return np.load(folder / "x.npy", mmap_mode="r")


def as_set(pixels: Any, _: Path) -> Any:
    return ImageSet(pixels, LABELS, 2).read(slice(None))


FLOAT_SOURCES = {
    "image set": as_set,
    "subset": lambda pixels, _: ImageSet(pixels, LABELS, 2).subset(range(N)).read(slice(None)),
    "memory map": lambda pixels, folder: as_set(memmap(pixels, folder), folder),
    "lazy": lambda pixels, folder: as_set(LazyImages(lambda i: pixels[i], N, pixels.shape[1:], np.float32), folder),
    "pair": lambda pixels, _: to_raw((pixels, LABELS)).images,
    "tensors": lambda pixels, _: (
        to_raw(TensorDataset(torch.from_numpy(pixels).permute(0, 3, 1, 2), torch.tensor(LABELS))).images
    ),
    "list": lambda pixels, _: to_raw(list(zip(pixels, LABELS, strict=True))).images,
    "stream": lambda pixels, _: to_raw(iter(zip(pixels, LABELS, strict=True))).images,
    "npz": lambda pixels, _: Arrays.from_arrays(x_train=pixels, y_train=LABELS).train.read(slice(None)),  # type: ignore[union-attr]
    "ART": lambda pixels, _: Frame().read(pixels, "x"),
    "ART, 0..255": lambda pixels, _: Frame(0, 255).read(pixels * 255, "x"),
}


@pytest.mark.parametrize("value", [1.0000001, 1 + 1e-6, 1 + 9e-5, -1e-7, -9e-5])
@pytest.mark.parametrize("source", FLOAT_SOURCES)
def test_what_rounding_leaves_outside_is_clipped_by_every_float_source(
    source: str, value: float, tmp_path: Path
) -> None:
    found = FLOAT_SOURCES[source](beyond(value), tmp_path)
    assert found.dtype == np.float32 and found.min() >= 0 and found.max() <= 1
    np.testing.assert_allclose(found, np.clip(beyond(value), 0, 1), rtol=0, atol=1e-7)


@pytest.mark.parametrize("value", [1 + 2e-4, 1.01, -2e-4, 255.0, np.nan, np.inf])
@pytest.mark.parametrize("source", FLOAT_SOURCES)
def test_what_is_further_outside_is_refused_by_every_float_source(source: str, value: float, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="pixel value out of range"):
        FLOAT_SOURCES[source](beyond(value), tmp_path)


def test_nothing_is_copied_where_nothing_is_outside() -> None:
    assert in_unit_range(FLOATS, "images") is FLOATS
    outside = beyond(1.00001)
    assert in_unit_range(outside, "images").max() == 1 and outside.max() > 1  # the host's own array stays


def test_the_hint_fits_the_range() -> None:
    for pixels, hint in (
        (FLOATS * 2 - 1, "(x + 1) / 2"),
        (FLOATS * 255, "divide by 255"),
        (FLOATS - 3, "normalisation"),
    ):
        with pytest.raises(InputError) as caught:
            in_unit_range(pixels, "images")
        assert hint in str(caught.value.hint)


def test_a_normalisation_must_fit_the_channels() -> None:
    grey = FLOATS[..., :1]
    with pytest.raises(InputError, match="do not fit") as caught:
        Normalisation((0.5,) * 3, (0.5,) * 3).undo(grey)  # would make three channels of one
    assert caught.value.allowed == "one value, or one per channel (1)"
    np.testing.assert_allclose(Normalisation((0.5,), (0.5,)).undo(FLOATS * 2 - 1), FLOATS, atol=1e-6)


def test_half_precision_behind_a_normalisation_has_room() -> None:
    mean, std = np.array([0.49, 0.48, 0.45]), np.array([0.25, 0.24, 0.26])
    white = ((np.ones_like(FLOATS) - mean) / std).astype(np.float16)
    found = Normalisation(mean.tolist(), std.tolist()).undo(white)
    assert found.max() <= 1 and found.min() > 0.999


BIT_SOURCES = {
    "pair": lambda pixels: as_image_set((pixels, LABELS)),
    "channels first": lambda pixels: as_image_set((pixels.transpose(0, 3, 1, 2), LABELS), layout="nchw"),
    "items": lambda pixels: as_image_set(list(zip(pixels, LABELS, strict=True))),
    "tensors": lambda pixels: as_image_set(
        TensorDataset(torch.from_numpy(pixels).permute(0, 3, 1, 2), torch.tensor(LABELS))
    ),
    "stream": lambda pixels: as_image_set(iter(zip(pixels, LABELS, strict=True))),
    "npz": lambda pixels: Arrays.from_arrays(x_train=pixels, y_train=LABELS),
    "npz, clean": lambda pixels: Arrays.from_arrays(x_train=BITS * 255, y_train=LABELS, x_clean=pixels, y_clean=LABELS),
    "ART": lambda pixels: Case(train=Frame().image_set(pixels, np.array(LABELS), 2, "x")),
    "image set in a case": lambda pixels: Case(clean=ImageSet(pixels, LABELS, 2)),
    "test set in a case": lambda pixels: make_case(train=ImageSet(BITS * 255, LABELS, 2), clean=(pixels, LABELS)),
}


@pytest.mark.parametrize("source", BIT_SOURCES)
def test_8_bit_images_of_0_and_1_are_refused_and_other_readings_pass(source: str) -> None:
    read = BIT_SOURCES[source]
    with pytest.raises(InputError, match="8-bit images that hold only 0 and 1") as caught:
        read(BITS)
    assert "multiply them by 255" in str(caught.value.hint) and "float32" in str(caught.value.hint)
    read(BITS * 255)  # black and white, saved as 0 and 255
    read(BITS * 2)
    read(np.zeros_like(BITS))  # black is black in both readings
    read(np.full_like(BITS, 255))


def test_the_ways_out_give_both_readings() -> None:
    white, dark = as_image_set((BITS * 255, LABELS)), as_image_set((BITS.astype(np.float32) / 255, LABELS))
    assert (white.read(slice(None)) == BITS * 255).all() and dark.read(slice(None)).max() == np.float32(1 / 255)
    ones = as_image_set((BITS.astype(np.float64), LABELS))  # floats say which: 1 is white
    assert (ones.read(slice(None)) == BITS).all() and ones.images.dtype == np.float32


def test_one_bright_pixel_anywhere_makes_a_set_plain() -> None:
    pixels = np.concatenate([np.tile(BITS, (100, 1, 1, 1)), np.full((1, EDGE, EDGE, 3), 9, np.uint8)])
    refuse_zeros_and_ones(pixels, "images")
    with pytest.raises(InputError):
        refuse_zeros_and_ones(pixels[:-1], "images")


@pytest.mark.parametrize(
    ("pixels", "hint"),
    [
        (BITS.astype(bool), "multiply by 255"),
        ((FLOATS * 255).astype(np.int64), "turn them into uint8"),
        (BITS.astype(np.int32), None),  # two readings
        (BITS.astype(np.int16) - 3, None),
    ],
)
def test_other_types_are_refused_with_the_way_out_where_there_is_one(pixels: Any, hint: str | None) -> None:
    with pytest.raises(InputError, match="of this type") as caught:
        as_image_set((pixels, LABELS))
    assert caught.value.hint is None if hint is None else hint in str(caught.value.hint)


def test_images_divided_by_255_twice_are_told() -> None:
    twice = make_case(train=(FLOATS / 255, LABELS), clean=(FLOATS, LABELS))
    (note,) = twice.notes
    assert note.startswith("train: no pixel is above 0.00") and "divided by 255 twice" in note
    assert "twice" in " ".join(Arrays.from_arrays(x_train=FLOATS / 255, y_train=LABELS).notes)
    assert scale_notes({"a": ImageSet(FLOATS, LABELS, 2), "b": ImageSet(np.zeros_like(FLOATS), LABELS, 2)}) == []

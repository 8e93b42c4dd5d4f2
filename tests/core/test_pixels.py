"""Images shared between sets are found by content, and a scored clean set is refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from elixir_plugin.core.case import Case, refuse_scored_clean
from elixir_plugin.core.images import ImageSet
from elixir_plugin.core.pixels import as_float, as_uint8, shared_rows
from elixir_plugin.errors import InputError


def images(count: int, seed: int) -> ImageSet:
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 5, 4, 3), np.uint8)
    return ImageSet(pixels, np.zeros(count, int), 2, names=[f"{seed}-{i}.png" for i in range(count)])


def joined(first: ImageSet, second: ImageSet) -> ImageSet:
    pixels = np.concatenate([first.read(slice(None)), second.read(slice(None))])
    return ImageSet(pixels, np.ones(len(pixels), int), 2)


def test_shared_images_are_found_whatever_their_place_and_label() -> None:
    clean, test = images(6, 0), images(9, 1)
    assert shared_rows(clean, test).tolist() == []
    assert shared_rows(clean, joined(test, clean.subset([4, 1]))).tolist() == [1, 4]


def test_a_scored_clean_image_is_refused_by_name() -> None:
    clean, test = images(6, 0), images(9, 1)
    refuse_scored_clean(Case(clean=clean, test=test))
    with pytest.raises(InputError, match="overlaps the test set") as refused:
        refuse_scored_clean(Case(clean=clean, test=joined(test, clean.subset([2]))))
    assert "0-2.png" in str(refused.value) and "1 of 6" in str(refused.value)


def test_a_case_without_one_of_the_two_is_fine() -> None:
    case = Case(clean=images(6, 0), test=images(6, 0))
    for part in ("test", "clean"):
        assert refuse_scored_clean(dataclasses.replace(case, **{part: None})) is None
    with pytest.raises(InputError, match="overlaps the test set"):
        refuse_scored_clean(case)


def test_images_in_8_bits_and_in_float_are_compared_in_8_bits() -> None:
    clean, test = images(6, 0), images(9, 1)
    other = joined(test, clean.subset([4, 1]))
    faint = as_float(clean)
    faint = faint.replace(images=np.clip(faint.read(slice(None)) + np.float32(0.001), 0, 1))
    for first, second in ((as_float(clean), other), (clean, as_float(other)), (faint, other)):
        assert shared_rows(first, second).tolist() == [1, 4]
    assert shared_rows(faint, as_float(other)).tolist() == []  # both in float: nothing is rounded
    with pytest.raises(InputError, match="overlaps the test set"):
        refuse_scored_clean(Case(clean=as_float(clean), test=other))


def test_rounding_undoes_fractions() -> None:
    plain = images(6, 0)
    assert as_uint8(plain) is plain and as_float(as_float(plain)).images.dtype == np.float32
    assert (as_uint8(as_float(plain)).read(slice(None)) == plain.read(slice(None))).all()
    assert as_uint8(as_float(plain)).images.dtype == np.uint8

"""Stratified draws, and which classes a reserved clean set lacks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elixir_plugin.core.case import Case, describe
from elixir_plugin.core.draws import Uncovered, class_shares, class_words, per_class_words, stratified_rows, uncovered
from elixir_plugin.core.images import ImageSet
from elixir_plugin.errors import InputError

GTSRB = [  # samples per class of the training set
    210, 2220, 2250, 1410, 1980, 1860, 420, 1440, 1410, 1470, 2010, 1320, 2100, 2160, 780, 630, 420, 1110, 1200, 210,
    360, 330, 390, 510, 270, 1500, 600, 240, 540, 270, 450, 780, 240, 689, 420, 1200, 390, 210, 2070, 300, 360, 240,
    240,
]  # fmt: skip


def labelled(counts: list[int], classes: int | None = None, names: list[str] | None = None) -> ImageSet:
    labels = np.repeat(np.arange(len(counts)), counts)
    return ImageSet(np.zeros((len(labels), 4, 4, 1), np.uint8), labels, classes or len(counts), classes=names)


@st.composite
def draws(draw: st.DrawFn) -> tuple[Any, int, int]:
    """Labels in any order, with gaps between the classes; a count; a seed."""
    sizes = draw(st.lists(st.integers(1, 40), min_size=1, max_size=12))
    labels = np.repeat(np.arange(len(sizes)) * draw(st.integers(1, 5)), sizes)
    order = np.random.default_rng(draw(st.integers(0, 9))).permutation(len(labels))
    return labels[order], draw(st.integers(0, len(labels))), draw(st.integers(0, 2**62))


@given(draws())
def test_a_draw_has_the_size_asked_for_and_every_class_its_share(drawn: tuple[Any, int, int]) -> None:
    labels, count, seed = drawn
    rows = stratified_rows(labels, count, seed)
    assert rows.dtype == np.int64 and len(rows) == count and (np.diff(rows) > 0).all()
    assert not count or (rows[0] >= 0 and rows[-1] < len(labels))
    assert np.array_equal(rows, stratified_rows(labels.tolist(), count, seed))
    classes, sizes = np.unique(labels, return_counts=True)
    found = np.array([(labels[rows] == each).sum() for each in classes])
    assert (found <= sizes).all()
    if count < len(classes):
        assert found.max(initial=0) <= 1 and (not count or sizes[found == 1].min() >= sizes[found == 0].max())
        return
    assert found.min() >= 1
    exact = count * sizes / len(labels)
    lifted = exact < 1
    assert (found[lifted] == 1).all() or (found <= np.ceil(exact)).all()
    assert (found <= np.maximum(np.ceil(exact), 1)).all(), "no class gets more than its share, rounded up"
    if not lifted.any():
        assert (np.abs(found - exact) < 1).all(), "largest remainders stay within one sample of the exact share"
        fractions, more = exact - np.floor(exact), found - np.floor(exact)
        assert fractions[more == 1].min(initial=1) >= fractions[more == 0].max(initial=0) - 1e-9


@given(draws())
def test_a_larger_class_never_gets_fewer(drawn: tuple[Any, int, int]) -> None:
    labels, count, seed = drawn
    sizes = np.unique(labels, return_counts=True)[1]
    shares = class_shares(sizes, count, np.random.default_rng(seed))
    assert shares.sum() == count
    assert all(one >= two for a, one in zip(sizes, shares, strict=True) for b, two in zip(sizes, shares, strict=True)
               if a > b)  # fmt: skip


@given(st.integers(2, 6), st.integers(2, 30), st.integers(0, 99))
def test_samples_of_a_class_are_drawn_at_random(classes: int, size: int, seed: int) -> None:
    labels = np.repeat(np.arange(classes), size)
    first, second = (stratified_rows(labels, classes, each) for each in (seed, seed + 100))
    assert np.array_equal(first // size, np.arange(classes)) and np.array_equal(second // size, np.arange(classes))
    seen = {tuple(stratified_rows(labels, classes, each)) for each in range(20)}
    assert len(seen) > 1


def test_one_percent_of_traffic_signs_leaves_no_class_out() -> None:
    labels, count = np.repeat(np.arange(len(GTSRB)), GTSRB), round(0.01 * sum(GTSRB))
    drawn = [np.bincount(labels[stratified_rows(labels, count, seed)], minlength=43) for seed in range(5)]
    assert [each.sum() for each in drawn] == [count] * 5
    assert min(each.min() for each in drawn) == 2 and max(each.max() for each in drawn) == 23
    rng = np.random.default_rng(0)
    uniform = [np.bincount(labels[rng.choice(len(labels), count, False)], minlength=43).min() for _ in range(100)]
    assert sum(each == 0 for each in uniform) > 50, "which a uniform draw does more often than not"


@pytest.mark.parametrize(
    ("sizes", "count", "wanted"),
    [
        ([100, 3], 1, [1, 0]),
        ([100, 3], 2, [1, 1]),
        ([297, 3], 3, [2, 1]),  # a class of three samples at 1 %
        ([1000, 1, 1, 1, 1], 10, [6, 1, 1, 1, 1]),  # more classes to lift than the others' fractions pay for
        ([50, 50, 100], 4, [1, 1, 2]),
        ([5, 5], 10, [5, 5]),
        ([7], 0, [0]),
    ],
)
def test_shares_worked_out_by_hand(sizes: list[int], count: int, wanted: list[int]) -> None:
    assert class_shares(sizes, count, np.random.default_rng(0)).tolist() == wanted


def test_who_of_equals_gets_more_is_drawn() -> None:
    got = {tuple(class_shares([10, 10, 10], 4, np.random.default_rng(seed)).tolist()) for seed in range(30)}
    assert got == {(2, 1, 1), (1, 2, 1), (1, 1, 2)}


@pytest.mark.parametrize("count", [-1, 4])
def test_more_than_there_are_cannot_be_drawn(count: int) -> None:
    with pytest.raises(InputError, match="not that many samples") as caught:
        stratified_rows([0, 0, 1], count, 0)
    assert caught.value.allowed == "0..3"


def test_nothing_can_be_drawn_from_nothing() -> None:
    assert stratified_rows([], 0, 0).tolist() == []


def test_classes_without_and_with_few_samples() -> None:
    assert uncovered(labelled([5, 0, 1, 2, 0])) == Uncovered(missing=(1, 4), scarce=(2,))
    assert uncovered(labelled([5, 2])) == Uncovered()
    assert uncovered(labelled([3, 3], classes=4)) == Uncovered(missing=(2, 3))


def test_a_class_that_the_suspect_set_does_not_hold_does_not_count() -> None:
    assert uncovered(labelled([3, 0], classes=4), labelled([9, 9, 9, 0])) == Uncovered(missing=(1, 2))
    assert uncovered(labelled([3, 1], classes=2), labelled([9, 0])) == Uncovered(scarce=(1,)), "the clean set has it"


def test_classes_are_named() -> None:
    names = ["stop", "yield", "turn", "3"]
    few = uncovered(labelled([2, 0, 1, 0], names=names))
    assert few.words(names) == "no sample of classes 1 (yield), 3 and only one sample of class 2 (turn)"
    assert few.words(None) == "no sample of classes 1, 3 and only one sample of class 2"
    assert Uncovered().words(names) == ""
    assert class_words(range(1000), None) == "0, 1, 2, 3, 4, 5, 6, 7 and 992 more"
    assert per_class_words(labelled([2, 0, 5], names=names[:3])) == "2 to 5 per class, none of 1 (yield)"
    assert per_class_words(labelled([4, 4])) == "4 per class"
    assert per_class_words(labelled([0, 0])) == "none of any class"


def test_a_case_is_described_with_what_its_clean_set_lacks() -> None:
    """So that a run that was finished before classes were looked after is not taken for one that looks after them."""
    whole, lacking = labelled([2, 2, 2]), labelled([2, 0, 1])
    assert "uncovered" not in describe(Case(clean=whole))["clean"]
    assert describe(Case(clean=lacking))["clean"]["uncovered"] == {"missing": [1], "scarce": [2]}
    assert describe(Case(clean=lacking, train=labelled([4, 0, 4])))["clean"]["uncovered"]["missing"] == []

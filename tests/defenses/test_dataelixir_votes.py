"""DataElixir, steps 2 to 4: votes, statuses, target classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import entropy

from elixir_plugin.defenses.dataelixir.outcome import warnings_for
from elixir_plugin.defenses.dataelixir.settings import DataElixirSettings, Detection
from elixir_plugin.defenses.dataelixir.target import (
    MARGIN,
    decided,
    discrepancies,
    find_targets,
    robust_scores,
    stand_out,
)
from elixir_plugin.defenses.dataelixir.votes import (
    AMBIGUOUS,
    STABLE,
    UNANIMOUS,
    Reference,
    Votes,
    count_votes,
    pooled_votes,
)
from elixir_plugin.errors import SettingsError

RELEASED = DataElixirSettings.build(preset="parity").detection
OFF = Detection(smoothing=0, min_anomalies=0, min_share=0, mad_floor=0, min_effect=0)


def slots(first: int, *counts: int) -> np.ndarray[Any, Any]:
    """Return one sample's labels: *first* in slot 0, then label 0 so often, label 1 so often, …"""
    return np.array([[first, *np.repeat(np.arange(len(counts)), counts)]])


@pytest.mark.parametrize(
    ("counts", "kept", "status"),
    [
        ((50,), 51, None),
        ((46, 4), 47, None),
        ((45, 5), 51, AMBIGUOUS),
        ((25, 25), 51, AMBIGUOUS),
        ((20, 15, 15), 51, AMBIGUOUS),
    ],
)
@pytest.mark.parametrize("first", [0, 1])
def test_truth_table_of_the_vote_filter(counts: tuple[int, ...], kept: int, status: int | None, first: int) -> None:
    votes = count_votes(slots(first, *counts), threshold=5)
    assert votes.kept.sum() == kept and votes.kept[0, 0]
    assert votes.status[0] == (status if status is not None else UNANIMOUS if first else STABLE)
    assert votes.winner[0] == 0


def test_a_tie_goes_to_the_label_that_came_first() -> None:
    votes = count_votes(np.array([[0, 5, 2, 2, 5], [0, 2, 5, 5, 2]]), threshold=1)
    assert votes.winner.tolist() == [5, 2] and votes.runner_up.tolist() == [2, 2]


def test_rarer_labels_stay_with_a_strong_second_one() -> None:
    votes = count_votes(slots(0, 30, 15, 5), threshold=10)
    assert votes.kept.all() and votes.status[0] == AMBIGUOUS


def test_the_given_label_as_anchor() -> None:
    labels = np.array([[3, 3, 3, 3], [3, 1, 1, 1]])
    assert count_votes(labels, 1).status.tolist() == [STABLE, UNANIMOUS]
    assert count_votes(labels, 1, anchor=np.array([1, 1])).status.tolist() == [UNANIMOUS, STABLE]


@given(st.lists(st.lists(st.integers(0, 3), min_size=7, max_size=7), min_size=1, max_size=20), st.integers(1, 6))
def test_counting_agrees_with_counting_by_hand(rows: list[list[int]], threshold: int) -> None:
    votes = count_votes(np.array(rows), threshold)
    for row, winner, runner_up, kept, status in zip(
        rows, votes.winner, votes.runner_up, votes.kept, votes.status, strict=True
    ):
        copies = row[1:]
        ranked = sorted(set(copies), key=lambda label: (-copies.count(label), copies.index(label)))
        second = copies.count(ranked[1]) if len(ranked) > 1 else 0
        assert winner == ranked[0] and runner_up == second
        wanted = [True, *[label == ranked[0] or second == 0 or second >= threshold for label in copies]]
        assert kept.tolist() == wanted
        left = {label for label, stays in zip(copies, kept[1:], strict=True) if stays}
        if len(left) > 1:
            assert status == AMBIGUOUS
        else:
            assert status == (STABLE if left == {row[0]} else UNANIMOUS)


def test_shares_against_a_label() -> None:
    votes = count_votes(np.array([[0, 0, 0, 1, 2]]), threshold=2)
    assert votes.against(np.array([0])).tolist() == [0.5] and votes.against(np.array([3])).tolist() == [1.0]


def test_pools_hold_kept_slots_of_anomalous_samples_by_given_label() -> None:
    labels = np.array([[0, 1, 1, 1], [0, 0, 0, 0], [2, 0, 0, 1]])
    pools = pooled_votes(count_votes(labels, threshold=2), np.array([2, 2, 1]), num_classes=3)
    # the first sample's slots; nothing from the stable second one; of the third, the lone vote for 1 is dropped
    assert pools.tolist() == [[0, 0, 0], [2, 0, 1], [1, 3, 0]]


@given(st.lists(st.integers(0, 50), min_size=4, max_size=4), st.sampled_from([0.0, 1.0]))
def test_the_discrepancy_is_a_kl_divergence(counts: list[int], smoothing: float) -> None:
    pools = np.zeros((4, 4), np.int64)
    pools[1] = counts
    found = discrepancies(pools, smoothing)
    assert found[[0, 2, 3]].tolist() == [0, 0, 0]  # empty pools
    if sum(counts):
        share = (np.array(counts) + smoothing) / (sum(counts) + 4 * smoothing)
        assert found[1] == pytest.approx(min(entropy([0, 1, 0, 0], share), 50.0), abs=1e-9)


def random_votes(seed: int, samples: int = 400, classes: int = 6) -> tuple[Votes, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(seed)
    given_labels = rng.integers(classes, size=samples)
    labels = np.where(rng.random((samples, 11)) < 0.6, given_labels[:, None], rng.integers(classes, size=(samples, 11)))
    return count_votes(labels, threshold=2), given_labels


def standing_out(discrepancy: np.ndarray[Any, Any], settings: Detection) -> np.ndarray[Any, Any]:
    """Return which classes stand out, where all of them are compared."""
    return stand_out(discrepancy, settings, settings.threshold(len(discrepancy)))


@pytest.mark.parametrize("settings", [Detection(), RELEASED])
def test_renaming_classes_renames_the_scores(settings: Detection) -> None:
    votes, labels = random_votes(0)
    order = np.random.default_rng(1).permutation(6)
    renamed = count_votes(order[votes.labels], threshold=2)
    first = find_targets(votes, labels, 6, settings)
    second = find_targets(renamed, order[labels], 6, settings)
    np.testing.assert_allclose(second.score[order], first.score)
    assert (second.flagged[order] == first.flagged).all()


def test_a_class_with_one_anomalous_sample_is_never_flagged_but_by_the_released_rule() -> None:
    labels = np.zeros((40, 51), np.int64) + np.arange(40)[:, None] % 4
    labels[0, 1:] = 3  # one sample of class 0 is unanimous
    votes, given_labels = count_votes(labels, threshold=5), np.arange(40) % 4
    assert not find_targets(votes, given_labels, 4, Detection()).flagged.any()
    released = find_targets(votes, given_labels, 4, RELEASED)
    assert released.targets == [0] and released.discrepancy[0] == pytest.approx(np.log(51))


def test_samples_that_all_stay_raise_nothing_and_flag_nothing() -> None:
    labels = np.zeros((30, 11), np.int64) + np.arange(30)[:, None] % 3
    for settings in (Detection(), RELEASED):
        finding = find_targets(count_votes(labels, threshold=5), np.arange(30) % 3, 3, settings)
        assert finding.targets == [] and finding.discrepancy.tolist() == [0, 0, 0]


def test_classes_without_any_sample_are_counted_and_not_flagged() -> None:
    votes, labels = random_votes(2, classes=3)
    finding = find_targets(votes, labels, 8, RELEASED)
    assert len(finding.score) == 8 and not finding.flagged[3:].any()
    assert finding.size[3:].tolist() == [0] * 5


@pytest.mark.parametrize(
    ("discrepancy", "default", "released"),
    [
        ([1, 1, 1, 1, 3], [4], [4]),
        ([1.0, 1.01, 0.99, 1.02, 0.98, 0.2], [], [5]),  # unusually consistent
        ([1.0, 1.01, 0.99, 1.0, 1.05], [], [4]),  # a small effect
    ],
)
def test_rules_on_hand_made_discrepancies(discrepancy: list[float], default: list[int], released: list[int]) -> None:
    d = np.array(discrepancy, float)
    assert np.flatnonzero(standing_out(d, Detection())).tolist() == default
    assert np.flatnonzero(standing_out(d, RELEASED)).tolist() == released


@pytest.mark.parametrize("count", [1, 5, 6])
def test_infinities_give_no_nan(count: int) -> None:
    d = np.array([np.inf] * count + [1.0] * (10 - count))
    scores = robust_scores(d, floor=0, eps=1e-6)
    assert np.isfinite(scores).all()
    if count == 1:
        assert np.flatnonzero(standing_out(d, Detection())).tolist() == [0]


def test_one_class_against_many_equal_ones_is_flagged_at_no_spread() -> None:
    """Well-separated data has no clean anomalies at all: the spread is zero."""
    d = np.array([3.0] + [0.0] * 9)
    assert np.flatnonzero(standing_out(d, Detection())).tolist() == [0]


def test_two_classes_are_judged_by_an_absolute_cut_and_the_reader_is_told() -> None:
    rng = np.random.default_rng(0)
    labels = np.zeros((200, 11), np.int64) + np.arange(200)[:, None] % 2
    labels[0:80:2, 1:] = rng.random((40, 10)) < 0.9  # samples of class 0 go to class 1
    votes = count_votes(labels, threshold=3)
    finding = find_targets(votes, np.arange(200) % 2, 2, Detection())
    assert finding.targets == [0]
    assert any("none can stand out" in note for note in warnings_for(finding))


@pytest.mark.parametrize("others", [1, 3, 5, 8])
def test_a_target_stands_out_however_many_classes_can_be_judged(others: int) -> None:
    """Class 0 loses half of its samples to others; *others* more classes wobble, the rest is quiet."""
    rng = np.random.default_rng(0)
    given_labels = np.arange(4000) % 10
    labels = np.repeat(given_labels[:, None], 11, axis=1)
    wobbling = ((given_labels > 0) & (given_labels <= others))[:, None] & (rng.random((4000, 11)) < 0.3)
    labels[wobbling] = (labels[wobbling] + 1) % 10
    attacked = (given_labels == 0) & (rng.random(4000) < 0.5)
    labels[attacked, 1:] = rng.integers(1, 10, attacked.sum())[:, None]
    finding = find_targets(count_votes(labels, threshold=3), given_labels, 10, Detection())
    assert finding.eligible.sum() == 1 + others and finding.targets == [0]
    assert finding.relative == (others >= 3) and (finding.score[~finding.eligible] == 0).all()


def test_a_hard_class_is_no_target_and_a_class_that_loses_more_than_clean_images_is() -> None:
    """Class 5 loses half of its votes and so do clean images of it; class 0 loses half, and clean images do not."""
    rng = np.random.default_rng(0)
    given_labels = np.arange(3000) % 10
    keeps = np.where(np.isin(given_labels, [0, 5]), 0.5, 0.8)[:, None]
    labels = np.where(rng.random((3000, 6)) < keeps, given_labels[:, None], (given_labels[:, None] + 1) % 10)
    labels[:, 0] = given_labels
    kept = np.full(10, 0.75)
    kept[5] = 0.45
    votes = count_votes(labels, threshold=2)
    finding = find_targets(votes, given_labels, 10, Detection(), Reference(kept, np.full(10, 50)))
    assert finding.mode == "excess" and finding.targets == [0] and finding.threshold == 2.5
    np.testing.assert_allclose(finding.discrepancy[[0, 5]], [0.25, -0.05], atol=0.05)
    few = Reference(kept, np.where(np.arange(10) == 0, 9, 50))  # too few clean images of class 0 to judge it
    assert find_targets(votes, given_labels, 10, Detection(), few).targets == []
    assert find_targets(votes, given_labels, 10, Detection()).mode == "mad"


def test_given_and_all_targets() -> None:
    votes, labels = random_votes(3)
    chosen = Detection(mode="given", targets=(2, 4))
    assert find_targets(votes, labels, 6, chosen).targets == [2, 4]
    assert find_targets(votes, labels, 6, Detection(mode="all")).targets == [0, 1, 2, 3, 4, 5]
    with pytest.raises(SettingsError, match="no such class"):
        find_targets(votes, labels, 4, chosen)
    with pytest.raises(SettingsError, match="mode given"):
        Detection.build({"mode": "given"})
    with pytest.raises(SettingsError, match="mode given"):
        Detection.build({"targets": [1]})


def test_the_threshold_rises_with_the_number_of_classes() -> None:
    assert Detection().threshold(10) == 2 and Detection().threshold(43) == 3.5
    assert Detection(z_threshold=3).threshold(43) == 3


@pytest.mark.parametrize(("classes", "cut", "targets"), [(10, 2.0, [0]), (43, 3.5, [])])
def test_the_threshold_goes_by_all_classes_however_few_can_be_judged(
    classes: int, cut: float, targets: list[int]
) -> None:
    """Ten classes wobble, class 0 most, with a score of 3; the others are quiet."""
    given_labels = np.repeat(np.arange(classes), 20)
    labels = np.repeat(given_labels[:, None], 11, axis=1)
    for c in range(10):
        stay = 4 + c % 3 if c else 2  # of ten copies
        labels[given_labels == c, 1 + stay :] = (c + 1) % classes
    finding = find_targets(count_votes(labels, threshold=1), given_labels, classes, Detection(smoothing=0))
    assert finding.eligible.sum() == 10 and finding.relative and finding.threshold == cut
    assert 2.9 < finding.score[0] < 3.2 and finding.targets == targets


def scattered_votes(classes: int, share: float) -> tuple[Votes, np.ndarray[Any, Any]]:
    """Return votes in which *share* of every class agrees on the next class."""
    given_labels = np.arange(100 * classes) % classes
    labels = np.repeat(given_labels[:, None], 11, axis=1)
    moved = np.arange(100 * classes) // classes < 100 * share
    labels[moved, 1:] = (labels[moved, 1:] + 1) % classes
    return count_votes(labels, threshold=3), given_labels


def test_many_targets_are_not_repaired_in_silence() -> None:
    votes, labels = scattered_votes(8, 0.2)
    finding = find_targets(votes, labels, 8, Detection())
    assert finding.targets == []
    assert any("agree on another label" in note for note in warnings_for(finding))
    wobble = votes.labels.copy()
    wobble[:, 6:] = labels[:, None]  # half of the copies stay: ambiguous, not unanimous
    finding = find_targets(count_votes(wobble, 3), labels, 8, Detection())
    assert finding.targets == []
    assert any("cannot tell them apart" in note for note in warnings_for(finding))


def test_a_quiet_set_raises_no_warning_and_a_fragile_probe_does() -> None:
    votes, labels = scattered_votes(8, 0.05)  # too few to judge
    assert warnings_for(find_targets(votes, labels, 8, Detection())) == []
    votes, labels = scattered_votes(8, 0.4)
    assert any("fragile" in note for note in warnings_for(find_targets(votes, labels, 8, Detection())))


def test_a_decision_near_a_threshold_is_in_doubt() -> None:
    def doubtful(share: float) -> bool:
        """Class 0 scatters by *share* more than the others wobble."""
        rng = np.random.default_rng(0)
        given_labels = np.arange(4000) % 10
        mass = np.where(given_labels == 0, 0.5 - share, 0.5)[:, None]
        labels = np.where(rng.random((4000, 11)) < mass, given_labels[:, None], (given_labels[:, None] + 1) % 10)
        finding = find_targets(count_votes(labels, threshold=1), given_labels, 10, Detection())
        return finding.doubtful

    assert not doubtful(0.0) and doubtful(0.11) and not doubtful(0.3)


@pytest.mark.parametrize(
    ("classes", "settings", "expected"), [(10, OFF, 0.33), (10, RELEASED, 0.52), (43, OFF, 0.05), (100, RELEASED, 0.98)]
)
def test_chance_alarms_of_the_rules_without_guards(classes: int, settings: Detection, expected: float) -> None:
    rng = np.random.default_rng(0)
    alarms = np.mean([standing_out(1 + 0.1 * rng.normal(size=classes), settings).any() for _ in range(2000)])
    assert alarms == pytest.approx(expected, abs=0.035)


@pytest.mark.parametrize(("spread", "guarded"), [(0.05, 0.0), (0.1, 0.055), (0.2, 0.285)])
def test_guards_remove_chance_alarms_as_far_as_classes_are_alike(spread: float, guarded: float) -> None:
    """The unguarded rule is blind to the scale; G4 is not, and stops to help where classes differ by much."""
    rng = np.random.default_rng(0)
    drawn = [1 + spread * rng.normal(size=10) for _ in range(2000)]
    for settings, expected in ((OFF, 0.33), (Detection(), guarded)):
        alarms = np.mean([standing_out(d, settings).any() for d in drawn])
        assert alarms == pytest.approx(expected, abs=0.01)


def test_guards_remove_all_chance_alarms_among_classes_that_are_nearly_alike() -> None:
    rng = np.random.default_rng(0)
    assert not any(standing_out(1 + 0.05 * rng.normal(size=10), Detection()).any() for _ in range(2000))


def voted(*classes: tuple[int, list[int]]) -> tuple[Votes, np.ndarray[Any, Any]]:
    """Return votes of classes given as (size, per anomalous sample how many of its ten copies stay on the class)."""
    labels, given_labels = [], np.repeat(np.arange(len(classes)), [size for size, _ in classes])
    for c, (size, stay) in enumerate(classes):
        for own in [*stay, *[10] * (size - len(stay))]:
            labels.append([c] * (1 + own) + [(c + 1) % len(classes)] * (10 - own))
    return count_votes(np.array(labels), threshold=1), given_labels


WOBBLE = (100, [3] * 60)  # d = ln(11 / 4)
GUARDED: dict[str, list[tuple[int, list[int]]]] = {
    # few votes of its own: without smoothing d is 0.262 above the others', with it 0.243
    "smoothing": [(100, [1] * 5 + [0] * 5), *[(100, [1] * 95 + [0] * 5)] * 4],
    "min_anomalies": [(100, [0] * 9), *[WOBBLE] * 4],
    "min_share": [(4000, [0] * 15), *[WOBBLE] * 4],  # 15 samples, and 20 are 0.5 %
    "min_effect": [(100, [3] * 50 + [0] * 10), *[WOBBLE] * 4],  # 0.13 nats above
}


@pytest.mark.parametrize("guard", GUARDED)
def test_each_guard_alone_turns_a_decision(guard: str) -> None:
    votes, labels = voted(*GUARDED[guard])
    assert find_targets(votes, labels, 5, Detection()).targets == []
    assert find_targets(votes, labels, 5, Detection.build({guard: 0})).targets == [0]


CLASSES = st.lists(st.floats(0, 50), min_size=4, max_size=60)


@given(CLASSES, st.sampled_from(["mad", "excess"]))
def test_the_floor_of_the_spread_turns_no_decision_beside_the_least_effect(d: list[float], mode: str) -> None:
    """G3 asks for threshold · 1.4826 · 0.02 nats above the median, at most 0.104; G4 asks for more than that."""
    settings = decided(Detection.build({"mode": mode}), None)
    without = settings.model_copy(update={"mad_floor": 0.0})
    cut = settings.threshold(len(d))
    for scale in (1 - MARGIN, 1, 1 + MARGIN):
        found = (stand_out(np.array(d), each, cut, scale=scale).tolist() for each in (settings, without))
        assert next(found) == next(found)


def test_the_floor_of_the_spread_decides_without_a_least_effect_and_bounds_the_score() -> None:
    d = np.array([1.05, 1.0, 1.0, 1.0, 1.0])
    lone = {"min_effect": 0}
    assert np.flatnonzero(standing_out(d, Detection.build(lone))).tolist() == []
    assert np.flatnonzero(standing_out(d, Detection.build({**lone, "mad_floor": 0}))).tolist() == [0]
    assert robust_scores(d, floor=0.02, eps=1e-6)[0] == pytest.approx(1.69, abs=0.01)
    assert robust_scores(d, floor=0, eps=1e-6)[0] > 30_000  # the verdict's score

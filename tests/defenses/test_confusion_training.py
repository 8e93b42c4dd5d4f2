"""Properties of Confusion Training that need no training, or seconds of it."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import hypergeom, multivariate_normal

from elixir_plugin import Context, Source
from elixir_plugin.core.case import Case
from elixir_plugin.core.classifier.classifier import Classifier
from elixir_plugin.core.images import ImageSet
from elixir_plugin.core.outcome import same_outcome
from elixir_plugin.core.settings import fingerprint
from elixir_plugin.defenses.confusion_training import data as confusion_data
from elixir_plugin.defenses.confusion_training import decision as confusion_decision
from elixir_plugin.defenses.confusion_training.data import PreparedData, hold_out, model_outputs, prepare, suspect_model
from elixir_plugin.defenses.confusion_training.decision import Finding, decide, flagged_classes
from elixir_plugin.defenses.confusion_training.defense import ConfusionTraining
from elixir_plugin.defenses.confusion_training.held_out import (
    Exceedance,
    conformal_p_values,
    discoveries,
    exceedances,
    joint_vote,
)
from elixir_plugin.defenses.confusion_training.rounds import (
    CHUNK,
    ConfusionBatches,
    MixedBatch,
    Round,
    View,
    class_weights,
    confuse,
    confusion_objective,
)
from elixir_plugin.defenses.confusion_training.scoring import (
    ClassEvidence,
    centred,
    class_evidence,
    distil,
    flag_classes,
    log_likelihood_ratio,
    sample_losses,
)
from elixir_plugin.defenses.confusion_training.settings import ConfusionSettings
from elixir_plugin.errors import InputError, SettingsError
from elixir_plugin.runs.spec import RunSpec
from elixir_plugin.testing.defenses import tiny_case
from elixir_plugin.training.batches import Samples

TINY = {
    "architecture": "small_resnet",
    "reference": "labels",
    "ratios": (0.5, 0.2),
    "suspect_size": None,
    "reserved_size": None,
    "pretrain_epochs": (2, 1, 1),
    "pretrain_lr": 0.01,
    "confusion_steps": (6, 4, 4),
    "confusion_batch": 16,
    "confusion_lr": 0.01,
    "lam": 10,
    "shifted_from": 2,
}
PLAN = Round(0, 1, 0.01, 32, False, 12, 16, 20.0, 0.01, 0.7, 2, True, 0.5, 50)
CPU = torch.device("cpu")


def images(n, num_classes=4, size=8, seed=0, dtype=np.uint8):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (n, size, size, 3)).astype(np.uint8)
    if dtype == np.float32:
        pixels = pixels.astype(np.float32) / 255
    return ImageSet(pixels, np.arange(n) % num_classes, num_classes)


def view(n, num_classes=4, seed=0, labels=None):
    samples = images(n, num_classes, seed=seed)
    return View((Samples(samples, CPU), np.arange(n), samples.labels if labels is None else labels))


def batches(clean, inspected, num_classes, plan=PLAN, **options):
    source = ConfusionBatches(inspected, clean, num_classes, plan, Context(seed=3), **options)
    return [batch for number in range(source.epochs) for batch in source.epoch(number)]


# --- the confusion phase -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_classes", [2, 3, 10, 43])
def test_cyclic_offsets_use_each_wrong_label_once_per_cycle(num_classes):
    plan = dataclasses.replace(PLAN, steps=3 * num_classes + 5)
    source = ConfusionBatches(view(20), view(20), num_classes, plan, Context())
    for start in range(plan.steps - num_classes + 2):
        assert sorted(source.offsets[start : start + num_classes - 1]) == list(range(1, num_classes))


@pytest.mark.parametrize("offsets", ["cyclic", "random"])
@pytest.mark.parametrize("num_classes", [2, 4])
def test_a_confusion_label_is_never_the_reference(offsets, num_classes):
    reference = np.random.default_rng(1).integers(0, num_classes, 21)
    clean = view(21, num_classes, labels=reference)
    for batch in batches(clean, view(30, num_classes), num_classes, offsets=offsets):
        part = batch.rows[: batch.clean]
        assert (batch.targets[: batch.clean] != torch.from_numpy(reference)[part]).all()


def test_steps_are_mixed_every_qth_time_and_chunks_hold_them_all():
    plan = dataclasses.replace(PLAN, steps=CHUNK + 7, factor=3, batch=8)
    found = batches(view(20), view(30), 4, plan)
    assert len(found) == plan.steps
    assert [len(batch.rows) > batch.clean for batch in found] == [t % 3 == 0 for t in range(plan.steps)]


def test_inspected_samples_keep_their_labels():
    labels = np.arange(30) * 7 % 4
    for batch in batches(view(20), view(30, labels=labels), 4):
        rows = batch.rows[batch.clean :]
        assert torch.equal(batch.targets[batch.clean :], torch.from_numpy(labels)[rows])


@pytest.mark.parametrize("m", [3, 15, 16, 17, 33, 40])
def test_each_pass_meets_every_clean_sample_once(m):
    plan = dataclasses.replace(PLAN, steps=20, batch=16)
    sizes = [batch.clean for batch in batches(view(m), view(30), 4, plan)]
    rows = np.concatenate([batch.rows[: batch.clean].numpy() for batch in batches(view(m), view(30), 4, plan)])
    assert 1 not in sizes
    for turn in range(len(rows) // m):
        assert sorted(rows[turn * m : (turn + 1) * m]) == list(range(m))


def test_two_sets_of_different_type_make_one_view_of_floats():
    first, second = images(6), images(5, seed=9, dtype=np.float32)
    joined = View(
        (Samples(first, CPU), np.array([4, 1]), np.array([0, 1])), (Samples(second, CPU), np.arange(5), second.labels)
    )
    pixels = joined.pixels(torch.tensor([6, 0, 1, 2])).numpy()
    expected = [
        second.images[4],
        first.images[4] / np.float32(255),
        first.images[1] / np.float32(255),
        second.images[0],
    ]
    assert np.allclose(pixels, np.stack(expected), atol=1e-7)
    assert joined.targets.tolist() == [0, 1, *second.labels.tolist()]


# --- the loss ------------------------------------------------------------------------------------------------------


class Linear(torch.nn.Module):
    """A model that is easy to compute by hand."""

    def __init__(self, num_classes=4):
        super().__init__()
        torch.manual_seed(0)
        self.weight = torch.nn.Parameter(torch.randn(12, num_classes, dtype=torch.float64) * 0.1)

    def forward(self, x):
        return x.double().flatten(1) @ self.weight


def mixed_batch(clean, inspected, seed=0):
    g = torch.Generator().manual_seed(seed)
    n = clean + inspected
    return MixedBatch(
        torch.rand(n, 3, 2, 2, generator=g), torch.randint(0, 4, (n,), generator=g), torch.arange(n), clean
    )


def loss_and_gradient(objective, batch):
    model = Linear()
    loss = objective(model, batch)["loss"]
    loss.backward()
    return loss.item(), model.weight.grad


def by_hand(batch, lam, weights):
    model = Linear()
    losses = -F.log_softmax(model(batch.images).float(), 1)[torch.arange(len(batch.targets)), batch.targets]
    clean = losses[: batch.clean].mean()
    w = weights[batch.targets[batch.clean :]]
    inspected = (w * losses[batch.clean :]).sum() / w.sum()
    loss = ((lam - 1) * clean + inspected) / lam
    loss.backward()
    return loss.item(), model.weight.grad


def same(first, second):
    return first[0] == pytest.approx(second[0], abs=1e-6) and torch.allclose(first[1], second[1], atol=1e-6)


WEIGHTS = torch.tensor([1.0, 2.0, 0.5, 3.0])


@pytest.mark.parametrize("lam", [1.0, 15.0, 20.0])
def test_the_loss_is_the_formula(lam):
    batch = mixed_batch(6, 5)
    assert same(loss_and_gradient(confusion_objective(lam, WEIGHTS), batch), by_hand(batch, lam, WEIGHTS))


def test_lambda_one_leaves_only_the_inspected_term():
    batch = mixed_batch(6, 5)
    other = dataclasses.replace(batch, targets=torch.cat([(batch.targets[:6] + 1) % 4, batch.targets[6:]]))
    objective = confusion_objective(1.0, WEIGHTS)
    assert same(loss_and_gradient(objective, batch), loss_and_gradient(objective, other))


def test_rescaled_class_weights_change_nothing():
    batch = mixed_batch(6, 5)
    first, second = (loss_and_gradient(confusion_objective(20, w), batch) for w in (WEIGHTS, 7 * WEIGHTS))
    assert same(first, second)


def test_balanced_classes_weigh_the_same():
    assert len(set(class_weights(torch.arange(40) % 4, 4).tolist())) == 1
    assert torch.isfinite(class_weights(torch.zeros(5, dtype=torch.int64), 3)).all()


def test_a_clean_step_has_weight_one():
    batch = mixed_batch(6, 0)
    expected = F.cross_entropy(Linear()(batch.images).float(), batch.targets).item()
    assert loss_and_gradient(confusion_objective(20, None), batch)[0] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("split", [False, True])
def test_only_clean_samples_move_running_statistics_in_split_mode(split):
    model = torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.Flatten(), torch.nn.Linear(12, 4))
    batch = mixed_batch(6, 5)
    confusion_objective(20, None, split=split)(model, batch)["loss"].backward()
    alone = torch.nn.BatchNorm2d(3)
    alone(batch.images[:6] if split else batch.images)
    assert torch.allclose(model[0].running_mean, alone.running_mean)
    assert torch.allclose(model[0].running_var, alone.running_var)
    assert model[0].momentum == alone.momentum


def test_the_base_model_is_unchanged_by_the_confusion_phase():
    base = Classifier.build("small_resnet", 4).eval()
    before = {name: value.clone() for name, value in base.state_dict().items()}
    confused, curves = confuse(base, view(30), view(20), PLAN, recipe=ConfusionSettings().recipe(), context=Context())
    assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items())
    assert not torch.equal(confused.module.linear.weight, base.module.linear.weight)
    assert len(curves["confusion_loss"]) == 1


# --- ranking and distillation --------------------------------------------------------------------------------------


def test_losses_keep_their_order_where_float32_would_be_zero():
    margins = np.array([15.0, 20.0, 30.0, 40.0, 60.0, 700.0])
    logits = np.stack([margins, np.zeros_like(margins)], 1).astype(np.float32)
    losses = sample_losses(logits, np.zeros(6, np.int64))
    assert (np.diff(losses) < 0).all() and (losses > 0).all()
    assert losses[0] == pytest.approx(np.log1p(np.exp(-15.0)))


def test_losses_are_cross_entropies():
    logits = np.random.default_rng(0).normal(0, 5, (50, 7))
    labels = np.arange(50) % 7
    expected = F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels), reduction="none").numpy()
    assert np.allclose(sample_losses(logits, labels), expected, rtol=1e-12)


LOSSES = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), min_size=4, max_size=120)


@settings(max_examples=60, deadline=None)
@given(LOSSES, st.floats(0.02, 1.0), st.integers(1, 20))
def test_distillation(rows, keep, floor):
    losses, labels = (np.array(column) for column in zip(*rows, strict=True))
    losses = losses.astype(np.float64)
    chosen = distil(losses, labels, 4, keep, floor)
    assert (np.diff(chosen) > 0).all()
    head = np.argsort(losses, kind="stable")[: int(keep * len(losses))]
    assert set(head) <= set(chosen)
    least = np.bincount(labels, minlength=4) // floor
    assert (np.bincount(labels[chosen], minlength=4) >= least).all()
    assert len(chosen) <= keep * len(losses) + least.sum()
    assert set(chosen) <= set(distil(losses, labels, 4, min(1.0, keep + 0.2), floor))


def test_distillation_follows_a_permutation():
    rng = np.random.default_rng(0)
    losses, labels = rng.permutation(200).astype(np.float64), rng.integers(0, 4, 200)
    order = rng.permutation(200)
    permuted = distil(losses[order], labels[order], 4, 0.1, 20)
    assert set(order[permuted]) == set(distil(losses, labels, 4, 0.1, 20))


def test_equal_losses_are_taken_in_order():
    assert distil(np.zeros(10), np.zeros(10, np.int64), 1, 0.3, 100).tolist() == [0, 1, 2]


# --- the suspect test ----------------------------------------------------------------------------------------------


def blobs(rng, n=500, hits=25, shift=0.0, d=6):
    points = rng.normal(size=(n, d))
    isolated = np.zeros(n, bool)
    isolated[rng.choice(n, hits, replace=False)] = True
    points[isolated, 0] += shift
    return points, isolated


def test_the_ratio_is_the_direct_sum_over_all_samples():
    rng = np.random.default_rng(0)
    points, isolated = blobs(rng, 200, 30, shift=4, d=2)  # two features: nothing is projected away
    fits = [
        multivariate_normal(points[mask].mean(0), np.cov(points[mask].T) + 0.001 * np.eye(2))
        for mask in (~isolated, isolated)
    ]
    own = np.where(isolated, fits[1].logpdf(points), fits[0].logpdf(points))
    assert log_likelihood_ratio(points, isolated) == pytest.approx((own - fits[0].logpdf(points)).mean(), rel=1e-8)


def test_the_ratio_does_not_depend_on_where_features_lie_and_how_they_are_turned():
    rng = np.random.default_rng(1)
    points, isolated = blobs(rng, shift=5)
    turn, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    moved = points @ turn + rng.normal(size=6) * 10
    assert log_likelihood_ratio(moved, isolated) == pytest.approx(log_likelihood_ratio(points, isolated), rel=1e-6)


@pytest.mark.parametrize("hits", [10, 25, 50])
def test_random_splits_of_one_blob_have_a_ratio_near_one(hits):
    rng = np.random.default_rng(hits)
    assert max(log_likelihood_ratio(*blobs(rng, hits=hits, d=2)) for _ in range(50)) < np.log(1.05)


def test_far_blobs_are_told_apart_and_a_few_near_samples_are_not():
    rng = np.random.default_rng(5)
    assert min(log_likelihood_ratio(*blobs(rng, hits=25, shift=8, d=2)) for _ in range(50)) > np.log(2)
    assert max(log_likelihood_ratio(*blobs(rng, hits=10, shift=4, d=2)) for _ in range(50)) < np.log(1.5)


@pytest.mark.parametrize(
    ("ratios", "flagged"),
    [
        ((1, 1.4, 1.2), []),
        ((1, 1.6, 1.2), [1]),
        ((1.6, 1.7, 1), [1]),
        ((1.6, 2.5, 2.1), [1, 2]),
        ((1.6, 1.6, 1), [0, 1]),
        ((np.nan, 1.6, 1), [1]),
        ((np.nan, np.nan, np.nan), []),
    ],
)
def test_decision_table(ratios, flagged):
    assert np.flatnonzero(flag_classes(np.log(np.array(ratios)), 2.0, 1.5)).tolist() == flagged


def test_states_of_classes():
    labels = np.repeat([0, 1, 2, 3, 4], [3, 10, 10, 10, 10])
    predicted = labels.copy()
    predicted[3 + 1 : 13] = 0  # class 1: one isolated
    predicted[23:30] = 0  # class 3: three isolated
    inspected = np.array([True, True, True, True, False])
    features = np.random.default_rng(0).normal(size=(43, 3))
    found = class_evidence(features, predicted, labels, inspected)
    states = [each.state for each in found]
    assert states == ["too small", "too few isolated", "undecidable", "tested", "not inspected"]
    assert [each.log_ratio for each in found if each.state != "tested"] == [0.0] * 4


def test_features_that_are_not_finite_are_reported_and_flag_nothing():
    features = np.full((20, 3), np.nan)
    labels = np.zeros(20, np.int64)
    predicted = np.arange(20) % 2
    found = class_evidence(features, predicted, labels, np.array([True, True]))
    assert found[0].state == "not finite" and found[0].log_ratio == 0


def alike(n, h):
    return np.zeros(n, np.int64), np.zeros(h, np.int64)


def test_exceedance_is_exact_for_samples_drawn_alike():
    rng = np.random.default_rng(0)
    ours, theirs = alike(30, 20)
    p = [exceedances(rng.normal(size=30), ours, rng.normal(size=20), theirs, 1)[0].p for _ in range(4000)]
    for level in (0.3, 0.1, 0.02):
        assert np.mean(np.array(p) <= level) <= level * 1.15
    assert np.mean(np.array(p) == 1.0) == pytest.approx(20 / 50, abs=0.03)  # the largest is a held-out sample


def test_exceedance_by_hand_and_without_held_out_samples():
    values, (labels, theirs) = np.array([5.0, 6.0, 0.0, 7.0]), alike(4, 2)
    first, second = exceedances(values, labels, np.array([1.0, 2.0]), theirs, 2)
    assert (first.above, second.above) == (3, 0)
    assert first.p == pytest.approx(4 / 6 * 3 / 5 * 2 / 4) and second.p == 1
    assert [each.p for each in exceedances(values, labels, np.empty(0), theirs[:0], 2)] == [1.0, 1.0]


@pytest.mark.parametrize(("n", "h"), [(1, 1), (40, 9), (40, 19), (200, 80)])
def test_conformal_p_values_are_valid_for_samples_drawn_alike(n, h):
    rng = np.random.default_rng(n)
    ours, theirs = alike(n, h)
    p = np.concatenate(
        [conformal_p_values(rng.normal(size=n), ours, rng.normal(size=h), theirs, 1) for _ in range(8000 // n)]
    )
    assert p.min() >= 1 / (h + 1) and p.max() <= 1
    for level in (0.5, 0.2, 0.05):
        assert np.mean(p <= level) <= level + 0.03


def test_conformal_p_values_by_hand():
    labels, theirs = np.zeros(4, np.int64), np.zeros(3, np.int64)
    values = np.array([5.0, 2.0, 0.0, 1.0])
    assert conformal_p_values(values, labels, np.array([1.0, 2.0, 3.0]), theirs, 1).tolist() == [0.25, 0.75, 1.0, 1.0]
    assert conformal_p_values(values, labels, np.empty(0), theirs[:0], 1).tolist() == [1.0] * 4


def test_a_class_fitted_better_as_a_whole_has_no_small_p_values():
    rng = np.random.default_rng(3)
    labels, theirs = np.repeat([0, 1], 200), np.repeat([0, 1], 40)
    shift = np.array([0.0, 30.0])
    p = conformal_p_values(rng.normal(size=400) + shift[labels], labels, rng.normal(size=80) + shift[theirs], theirs, 2)
    assert np.mean(p[labels == 1] <= 0.05) < 0.1


def benjamini_hochberg(p, rate):
    ranks = sorted(range(len(p)), key=lambda i: p[i])
    last = max((k for k, i in enumerate(ranks, 1) if p[i] <= rate * k / len(p)), default=0)
    return [p[i] <= p[ranks[last - 1]] if last else False for i in range(len(p))]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 30), max_size=40), st.sampled_from([0.01, 0.1, 0.2, 0.5, 1.0]))
def test_discoveries_are_those_of_benjamini_and_hochberg(values, rate):
    p = np.array(values, float) / 30
    assert discoveries(p, rate).tolist() == benjamini_hochberg(p.tolist(), rate)


def test_no_more_than_the_promised_share_of_discoveries_is_clean():
    """Over many draws; the poison lies three deviations above the clean samples."""
    rng = np.random.default_rng(0)
    labels, theirs = alike(250, 80)
    shares, found = [], []
    for _ in range(300):
        values = rng.normal(size=250)
        values[:50] += 3
        flagged = discoveries(conformal_p_values(values, labels, rng.normal(size=80), theirs, 1), 0.2)
        shares.append(flagged[50:].sum() / max(1, flagged.sum()))
        found.append(flagged[:50].mean())
    assert np.mean(shares) <= 0.2
    assert np.mean(found) > 0.5


def smallest(rng, shifts, poison, n=100, h=10):
    """Return the p-value per class, for classes that are shifted as a whole and hold some poison at +6."""
    labels, theirs = (np.repeat(np.arange(len(shifts)), count) for count in (n, h))
    values = rng.normal(size=len(labels)) + np.array(shifts)[labels]
    held_out = rng.normal(size=len(theirs)) + np.array(shifts)[theirs]
    for c, count in enumerate(poison):
        values[np.flatnonzero(labels == c)[:count]] += 6
    return [each.p for each in exceedances(values, labels, held_out, theirs, len(shifts))]


def test_a_class_that_is_fitted_better_as_a_whole_is_not_taken_for_poison():
    rng = np.random.default_rng(0)
    p = np.array([smallest(rng, [0, 0, 0, 2], [0, 0, 0, 0]) for _ in range(50)])
    assert (p < 1e-3).sum() <= 1


@pytest.mark.parametrize("count", [30, 60, 90, 100])
def test_poison_is_told_from_its_class_at_any_rate(count):
    rng = np.random.default_rng(count)
    p = np.array([smallest(rng, [0, 0, 0, 0], [count, 0, 0, 0]) for _ in range(20)])
    assert (p[:, 0] < 1e-3).all()
    assert (p[:, 1:] >= 1e-3).all()


def wide(rng, n=400, h=10, poison=0):
    """Return scores of ten classes: the last one lies anywhere up to 2.8, others near 0, poison of the first at 6."""
    labels, theirs = np.repeat(np.arange(10), n), np.repeat(np.arange(10), h)
    scores, held_out = [
        np.where(each == 9, rng.uniform(-0.5, 2.8, len(each)), rng.exponential(0.5, len(each)))
        for each in (labels, theirs)
    ]
    scores[:poison] = 6 + rng.normal(size=poison)
    return scores, labels, held_out, theirs


def alarms(rng, level, **made):
    """Return the share of 60 draws in which each class has a p-value below 1e-3."""
    found = [[each.p < 1e-3 for each in exceedances(*wide(rng, **made), 10, tolerated_share=0.05, level=level)]
             for _ in range(60)]  # fmt: skip
    return np.mean(found, 0)


def test_a_class_that_reaches_from_low_to_high_is_not_taken_for_poison():
    before, after = alarms(np.random.default_rng(0), "suspects"), alarms(np.random.default_rng(0), "both")
    assert before[9] > 0.75  # its lower quartile does not tell
    assert after[9] < before[9] / 2
    assert (after[:9] <= before[:9]).all()


@pytest.mark.parametrize("poison", [80, 200, 380])
def test_poison_beside_such_a_class_is_still_found(poison):
    found = alarms(np.random.default_rng(poison), "both", poison=poison)
    assert found[0] == 1 and found[1:9].max() <= 1 / 60


@pytest.mark.parametrize("count", [0, 1, 2, 3, 9])
def test_a_median_needs_three_held_out_samples_of_the_class(count):
    scores, labels, held_out, theirs = wide(np.random.default_rng(count), poison=100)
    kept = (theirs != 0) | (np.cumsum(theirs == 0) <= count)
    held_out = np.where(theirs == 0, held_out + 3, held_out)[kept]
    first, second = (
        exceedances(scores, labels, held_out, theirs[kept], 10, tolerated_share=0.05, level=level)[0].p
        for level in ("suspects", "both")
    )
    assert second > first if count >= 3 else second == first


def test_the_level_of_a_class_by_hand():
    labels, theirs = np.array([0, 0, 0, 0, 1]), np.array([0, 0, 0, 1, 1, 1])
    scores, held_out = np.array([1.0, 1, 1, 9, 0]), np.array([4.0, 5, 6, 0, 0, 5])
    # as it is and above the quartile of its class (1), nothing is as good as 9; above the median (5), 5 of class 1 is
    found = [exceedances(scores, labels, held_out, theirs, 2, level=level)[0] for level in ("suspects", "both")]
    assert [(each.above, each.p) for each in found] == [(1, pytest.approx(4 / 10)), (0, 1.0)]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5])
def test_strays_do_not_raise_more_false_alarms(share):
    rng = np.random.default_rng(1)
    ours, theirs = alike(30, 20)
    p = [
        exceedances(rng.normal(size=30), ours, rng.normal(size=20), theirs, 1, tolerated_share=share)[0].p
        for _ in range(2000)
    ]
    for level in (0.3, 0.1, 0.02):
        assert np.mean(np.array(p) <= level) <= level * 1.2


def test_a_single_stray_does_not_hide_poison():
    rng = np.random.default_rng(2)
    (labels, theirs), held_out = alike(200, 80), rng.normal(size=80)
    values = rng.normal(size=200) + 8 * (np.arange(200) < 40)
    held_out[0] = 50
    assert exceedances(values, labels, held_out, theirs, 1)[0].p == 1
    found = exceedances(values, labels, held_out, theirs, 1, tolerated_share=0.05)[0]
    assert found.p < 1e-3 and found.strays >= 1 and found.above >= 40


@pytest.mark.parametrize(("k", "j", "n", "h"), [(3, 0, 4, 2), (5, 2, 20, 10), (20, 4, 200, 80), (0, 0, 5, 5)])
def test_the_chance_of_an_exceedance_is_hypergeometric(k, j, n, h):
    labels, theirs = alike(n, h)
    values = np.where(np.arange(n) < k, 10.0, 0.0)  # k suspects above all but j held-out samples, which are above them
    held_out = np.where(np.arange(h) < j, 100.0, 5.0)
    found = exceedances(values, labels, held_out, theirs, 1, tolerated_share=(j + 0.5) / h)[0]
    assert found.p == pytest.approx(min(1, (j + 1) * hypergeom.cdf(j, n + h, h, k + j)))


def test_which_vote_counts():
    votes = [Exceedance(1, 0.5), Exceedance(9, 1e-9), Exceedance(2, 0.1), Exceedance(5, 1e-5)]
    assert joint_vote(votes[:3], "median").p == 0.1
    assert joint_vote(votes, "median").p == 0.1
    assert joint_vote(votes[1:2], "median").above == 9
    assert joint_vote(votes, "all").p == 0.5
    assert joint_vote(votes[1:2], "all").above == 9


def test_centring_takes_the_bias_for_a_class_away():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(400, 4))
    logits[:, 2] += 5  # everything is called class 2
    assert np.abs(np.median(centred(logits, logits), axis=0)).max() < 1e-12
    assert len(set(centred(logits, logits).argmax(1))) == 4


# --- schedules -----------------------------------------------------------------------------------------------------


def test_reference_schedule_is_taken_as_it_is():
    plans = ConfusionSettings.build(preset="parity").rounds(50_000, 10, 2_000)
    assert [plan.steps for plan in plans] == [6000] * 4 + [2000] * 2
    assert [plan.pretrain_epochs for plan in plans] == [100, 100, 40, 40, 40, 40]
    assert [plan.keep for plan in plans] == [1 / 2, 1 / 5, 1 / 25, 1 / 50, 1 / 100, None]
    assert [plan.lam for plan in plans] == [20, 20, 20, 30, 30, 15]
    assert [plan.lr for plan in plans] == [0.001] * 3 + [0.01] * 3
    assert [plan.floor for plan in plans[:5]] == [50] * 4 + [100]
    assert [plan.shifted for plan in plans] == [False] * 5 + [True]
    assert [plan.weighted for plan in plans] == [True] * 5 + [False]
    assert plans == ConfusionSettings.build(preset="parity").rounds(7_000, 12, 300)
    assert plans == ConfusionSettings.build(preset="cifar10").rounds(50_000, 10, 2_000)


@pytest.mark.parametrize("preset", [None, *sorted(set(ConfusionSettings.presets) - {"parity"})])
@pytest.mark.parametrize(("n", "c", "m"), [(7_000, 12, 500), (500, 2, 40), (1_281_167, 1000, 5_000), (100, 43, 90)])
def test_a_schedule_is_sane_for_any_case(preset, n, c, m):
    plans = ConfusionSettings.build(preset=preset).rounds(n, c, m)
    keeps = [plan.keep for plan in plans[:-1]]
    assert keeps == sorted(keeps, reverse=True)
    assert all(0 < keep <= 1 for keep in keeps)
    assert plans[-1].keep is None
    for plan in plans:
        assert plan.steps >= 2 * (c - 1)
        assert plan.pretrain_epochs >= 1


def test_schedules_scale_with_the_case():
    settings = ConfusionSettings.build(preset="small")
    stated, larger = settings.rounds(2_000, 10, 400), settings.rounds(8_000, 10, 800)
    for first, second in zip(stated, larger, strict=True):
        assert second.steps == 2 * first.steps
        assert second.pretrain_epochs == round(first.pretrain_epochs / 2)


@pytest.mark.parametrize(
    "values",
    [
        {"lam": (20, 20)},
        {"ratios": ()},
        {"ratios": (0.1, 0.5)},
        {"confusion_lr": (0.0,)},
        {"lam": (0.5,)},
        {"pretrain_epochs": (-1,)},
        {"held_out": 1.0},
        {"held_out": 0.0},
    ],
)
def test_settings_out_of_range_are_refused(values):
    with pytest.raises(SettingsError):
        ConfusionSettings.build(values)


# --- whole runs, tiny ----------------------------------------------------------------------------------------------


def run(case, folder=None, **values):
    return ConfusionTraining(**{**TINY, **values}).run(case, Context(seed=7, work_dir=folder))


@pytest.mark.parametrize(
    "values",
    [
        {"reference": "base0"},
        {"reference": "model", "bn_mode": "split"},
        {"offsets": "random", "last_models": 1},
        {"rule": "ratio", "held_out": 0},
        {"rule": "both", "vote": "median", "tolerated_share": 0.0},
        {"rule": "held_out", "untrained_share": 0.25},
        {"warm_start": False, "shifted_from": 1},
        {"class_weights": False, "factor": (3,)},
        {"input_size": 16},
        {"architecture": None, "mean": (0.5,), "std": (0.5,)},
        {"pretrain_epochs": (0,)},
        {"pretrain_recipe": "fast"},
        {"mixed_in": False, "fdr": None},
    ],
    ids=str,
)
def test_every_mode_runs_and_repeats(values):
    case = tiny_case()
    assert same_outcome(run(case, **values), run(case, **values)) == []


def test_flagged_is_among_isolated_and_kept_is_the_rest():
    case = tiny_case()
    gated, ungated = run(case), run(case, decision="ungated")
    assert (gated.flagged <= ungated.flagged).all()
    assert np.flatnonzero(ungated.flagged).tolist() == gated.tables["ungated"]
    assert sorted([*gated.kept, *np.flatnonzero(gated.flagged)]) == list(range(len(case.train)))
    rows = {row["class"]: row for row in gated.tables["classes"]}
    assert all(rows[label]["flagged"] for label in case.train.labels[gated.flagged])
    assert set(gated.curves) >= {"distilled", "confused_accuracy", "held_out_accuracy", "isolated"}
    assert all(len(values) == 3 for values in gated.curves.values())


def test_held_out_samples_are_never_confused():
    case = tiny_case()
    context = Context(seed=1)
    data = prepare(case, ConfusionSettings(**TINY), context)
    held = hold_out(case.clean.labels, 0.2, context)
    assert np.bincount(case.clean.labels[held]).tolist() == [2] * 4
    used = {data.clean.pixels(torch.tensor([row])).numpy().tobytes() for row in range(len(data.clean))}
    apart = {data.held_out.pixels(torch.tensor([row])).numpy().tobytes() for row in range(len(data.held_out))}
    assert not used & apart and len(used) + len(apart) == len(case.clean)


@pytest.mark.parametrize(
    ("rule", "flagged"),
    [
        ("ratio", [True, True, False, False]),
        ("held_out", [True, False, True, True]),
        ("both", [True, False, False, False]),
        ("guarded", [True, False, False, True]),
    ],
)
def test_which_rule_flags_a_class(rule, flagged):
    evidence = [ClassEvidence(100, 20, ratio, "tested") for ratio in (2.0, 1.5, 0.0, 0.0)]
    tests = [Exceedance(10, p) for p in (1e-4, 0.5, 1e-4, 1e-7)]
    assert flagged_classes(evidence, tests, ConfusionSettings(rule=rule)).tolist() == flagged


@pytest.mark.parametrize("warm_start", [True, False])
def test_what_is_trained_does_not_depend_on_the_untrained_share(warm_start):
    case = tiny_case()
    values = {"untrained_share": 0.25, "warm_start": warm_start}
    data = prepare(case, ConfusionSettings(**TINY, **values), Context(seed=7))
    assert sorted([*data.trained_rows, *data.tested_rows]) == list(range(len(case.train)))
    pixels = np.array(case.train.images)
    pixels[data.tested_rows] = 255 - pixels[data.tested_rows]
    other = dataclasses.replace(case, train=case.train.replace(images=pixels))
    first, second = run(case, **values).scores, run(other, **values).scores
    assert (first[data.trained_rows] == second[data.trained_rows]).all()
    assert (first[data.tested_rows] != second[data.tested_rows]).any()


def test_without_an_untrained_share_all_suspects_are_trained_on_and_tested():
    data = prepare(tiny_case(), ConfusionSettings(**TINY, mixed_in=False), Context())
    assert len(data.trained_rows) == len(data.tested_rows) == len(data.labels) == len(data.pool)
    mixed = prepare(tiny_case(), ConfusionSettings(**TINY), Context())
    assert len(mixed.trained_rows) == len(mixed.pool) == len(mixed.labels) + len(mixed.held_out_labels)
    assert len(mixed.tested_rows) == len(mixed.labels)


UNMIXED = {"mixed_in": False, "fdr": None, "class_level": "suspects"}
MIXED = [{}, {"warm_start": False}, {"architecture": "fast_resnet"}, {"pretrain_recipe": "fast"}]


@pytest.mark.parametrize("values", MIXED, ids=str)
def test_held_out_samples_are_learned_like_suspects_where_they_are_mixed_in(values):
    """A held-out image moves the scores of suspects exactly where it is mixed in."""
    case = tiny_case()
    held = hold_out(case.clean.labels, 0.2, Context(seed=7))
    pixels = np.array(case.clean.images)
    pixels[held] = 255 - pixels[held]
    other = dataclasses.replace(case, clean=case.clean.replace(images=pixels))
    mean = {"mean": (0.5,) * 3, "std": (0.25,) * 3}  # else the held-out images would move the normalisation
    apart, mixed = [
        [run(each, mixed_in=flag, **mean, **values).scores for each in (case, other)] for flag in (False, True)
    ]
    assert np.array_equal(*apart)
    assert not np.array_equal(*mixed)


def test_settings_that_do_not_apply_do_not_tell_runs_apart():
    def same(first, second):
        one, two = (ConfusionSettings.build(each, preset="small") for each in (first, second))
        return one.fingerprint() == two.fingerprint(), fingerprint(one.trained_with()) == fingerprint(
            two.trained_with()
        )

    assert same({"untrained_share": 0.25}, {"untrained_share": 0.25, "mixed_in": False}) == (True, True)
    assert same({"rule": "ratio"}, {"rule": "ratio", "fdr": None}) == (True, True)
    assert same({"rule": "ratio"}, {"rule": "ratio", "class_level": "suspects"}) == (True, True)
    assert same({}, {"class_level": "suspects"}) == (False, True)
    assert same({"rule": "ratio", "held_out": 0}, {"rule": "ratio", "held_out": 0, "mixed_in": False}) == (True, True)
    assert same({}, {"fdr": 0.1}) == (False, True)  # decided anew from the same rounds
    assert same({}, {"mixed_in": False}) == (False, False)
    assert same({}, {"pretrain_recipe": "fast"}) == (False, False)


@pytest.mark.parametrize(
    ("preset", "values", "whole", "trained"),
    [
        ("parity", {}, "d08b23852279", "13eb2feb031a"),
        ("small", UNMIXED, "bbec5fc1ef0b", "91771ff503d7"),
        ("cifar10", UNMIXED, "6b58adc995e6", "7f41c72bca6d"),
    ],
)
def test_runs_from_before_there_were_conformal_tests_are_found_again(preset, values, whole, trained):
    found = ConfusionSettings.build(values, preset=preset)
    assert (found.fingerprint(), fingerprint(found.trained_with())) == (whole, trained)


@pytest.mark.parametrize("values", [{}, {"warm_start": False}, {"reference": "base0"}, {"reference": "model"}], ids=str)
def test_a_killed_run_goes_on_where_it_was_and_ends_the_same(tmp_path, monkeypatch, values):
    case = dataclasses.replace(tiny_case(), model=None)
    values = {**values, "reference_epochs": 1}
    expected = run(case, **values)
    rounds = []
    inner = ConfusionTraining._round

    def counted(self, plan, *args, **kwargs):
        rounds.append(plan.number)
        return inner(self, plan, *args, **kwargs)

    def killed(self, plan, *args, **kwargs):
        if plan.number == 2:
            raise KeyboardInterrupt
        return counted(self, plan, *args, **kwargs)

    monkeypatch.setattr(ConfusionTraining, "_round", killed)
    with pytest.raises(KeyboardInterrupt):
        run(case, tmp_path, **values)
    monkeypatch.setattr(
        ConfusionTraining,
        "_round",
        lambda self, plan, *a, **k: rounds.append(plan.number) or inner(self, plan, *a, **k),
    )
    assert same_outcome(run(case, tmp_path, **values), expected) == []
    assert same_outcome(run(case, tmp_path, **values), expected) == []  # everything is there now
    assert rounds == [0, 1, 2]


def test_another_decision_needs_no_training(tmp_path, monkeypatch):
    case = tiny_case()
    expected = run(case, rule="ratio")
    run(case, tmp_path)
    monkeypatch.setattr(ConfusionTraining, "_round", None)
    assert same_outcome(run(case, tmp_path, rule="ratio"), expected) == []


def test_rounds_and_runs_under_former_names_of_settings_are_found_again(tmp_path, monkeypatch):
    former = {"witnesses": 0.25, "sure": 1e-5, "strays": 0.1, "jury": 2}
    names = {"untrained_share": 0.25, "certain_p": 1e-5, "tolerated_share": 0.1, "last_models": 2}
    settings, before = ConfusionSettings(**names), ConfusionSettings(**former)
    assert before == settings and "jury" not in before.dump()
    source = Source(adapter="testbed", path="badnets")
    small = ConfusionSettings.build(
        {"witnesses": 0.25, "fdr": None, "class_level": "suspects"}, preset="small"
    )  # hashes from before the names changed
    assert fingerprint(small.trained_with()) == "00cfd1d1cfd6" and small.fingerprint() == "e08b46cd2ad5"
    for values in (small.dump(), small.under_first_names(small.dump())):
        spec = RunSpec(defense="confusion_training", source=source, settings=values)
        assert spec.identity() == "b8274275d950"
    run(tiny_case(), tmp_path, **former)
    monkeypatch.setattr(ConfusionTraining, "_round", None)
    run(tiny_case(), tmp_path, **names)
    with pytest.raises(SettingsError, match="`last_models` and `jury` are names of one setting"):
        ConfusionSettings.build({"last_models": 2, "jury": 2})


def test_what_another_run_left_is_not_used(tmp_path):
    case = tiny_case()
    run(case, tmp_path)
    other = dataclasses.replace(case, train=case.train.replace(labels=np.roll(case.train.labels, 1)))
    assert same_outcome(run(other, tmp_path), run(other)) == []
    assert same_outcome(run(case, tmp_path, lam=(12,)), run(case, lam=(12,))) == []


def test_a_damaged_record_is_made_again(tmp_path):
    case = tiny_case()
    expected = run(case, tmp_path)
    record = next(tmp_path.rglob("round-1.safetensors"))
    record.write_bytes(record.read_bytes()[:100])
    assert same_outcome(run(case, tmp_path), expected) == []


# --- difficult cases -----------------------------------------------------------------------------------------------


def subset_of(case, *, train=None, clean=None):
    changes = {"truth": None}
    if train is not None:
        changes["train"] = case.train.subset(train)
    if clean is not None:
        changes["clean"] = case.clean.subset(clean)
    return dataclasses.replace(case, **changes)


@pytest.mark.parametrize("left", [0, 1, 3])
def test_tiny_classes(left):
    case = tiny_case()
    labels = case.train.labels
    rows = np.flatnonzero((labels != 2) | (np.cumsum(labels == 2) <= left))
    outcome = run(subset_of(case, train=rows))
    assert outcome.tables["classes"][2]["state"] == "too small"
    assert not outcome.flagged[labels[rows] == 2].any()


def test_a_class_that_the_clean_set_does_not_hold_is_not_inspected():
    case = tiny_case()
    case = subset_of(case, clean=np.flatnonzero(case.clean.labels != 3))
    outcome = run(case, decision="ungated")
    assert outcome.tables["classes"][3]["state"] == "not inspected"
    assert not outcome.flagged[case.train.labels == 3].any()
    assert any("not inspected" in note and " 3." in note for note in outcome.notes)


def test_a_class_that_is_not_inspected_leads_neither_verdict_nor_scores():
    """Class 1, which the reserved clean set does not hold, is fitted throughout: it was never confused."""
    rng = np.random.default_rng(0)

    def logits(n):
        return rng.normal(size=(n, 2)).astype(np.float32)

    labels, clean_labels = np.repeat([0, 1], 100), np.zeros(40, np.int64)
    suspect = logits(200)
    suspect[100:, 1] += 20
    data = PreparedData(
        suspect=None, clean=None, held_out=None, pool=None, pool_labels=labels, labels=labels,
        clean_labels=clean_labels, held_out_labels=clean_labels, num_classes=2, inspected=np.array([True, False]),
        trained_rows=np.arange(200), tested_rows=np.arange(200),
    )  # fmt: skip
    features = rng.normal(size=(200, 3)).astype(np.float32)
    finding = Finding(
        [confusion_decision.RoundOutputs(suspect, logits(40), logits(40))], features, {"confused_accuracy": [0.5]}
    )
    outcome = decide(finding, data, ConfusionSettings(**TINY), Context())
    rows = outcome.tables["classes"]
    assert (rows[1]["state"], rows[1]["p"], rows[1]["above"]) == ("not inspected", 1.0, 0)
    assert outcome.verdict.score == pytest.approx(-np.log10(rows[0]["p"])) and rows[0]["p"] > 1e-3
    assert not outcome.verdict.poisoned and not outcome.flagged.any()
    assert outcome.scores[100:].max() <= outcome.scores[:100].min()


@pytest.mark.parametrize(("fdr", "poisoned"), [(None, True), (0.2, True), (0.05, True), (0.001, False)])
def test_a_class_without_discoveries_is_not_called_poisoned(fdr, poisoned):
    """With 80 held-out samples no p-value lies below 1/81, too large for one discovery in a thousand to be false."""
    rng = np.random.default_rng(0)
    labels, clean_labels = np.repeat(np.arange(10), 200), np.repeat(np.arange(10), 8)
    suspect = rng.normal(size=(2000, 10)).astype(np.float32)
    suspect[:60, 0] += 12
    logits = rng.normal(size=(80, 10)).astype(np.float32)
    data = PreparedData(
        suspect=None, clean=None, held_out=None, pool=None, pool_labels=labels, labels=labels,
        clean_labels=clean_labels, held_out_labels=clean_labels, num_classes=10, inspected=np.ones(10, bool),
        trained_rows=np.arange(2000), tested_rows=np.arange(2000),
    )  # fmt: skip
    outputs = confusion_decision.RoundOutputs(suspect, logits, logits)
    finding = Finding([outputs], rng.normal(size=(2000, 3)).astype(np.float32), {"confused_accuracy": [0.5]})
    outcome = decide(finding, data, ConfusionSettings(**TINY, fdr=fdr), Context())
    assert outcome.verdict.poisoned == poisoned == outcome.tables["classes"][0]["flagged"]
    assert outcome.flagged[:60].all() == poisoned and outcome.flagged[60:].sum() <= (15 if poisoned else 0)
    assert not any(row["flagged"] for row in outcome.tables["classes"][1:])


def test_few_clean_samples_are_noted():
    assert any("fewer than 20" in note for note in run(tiny_case()).notes)


@pytest.mark.parametrize("count", [4, 17, 33])
def test_odd_sizes_of_the_clean_set(count):
    rule = "ratio" if count == 4 else "guarded"  # one sample per class: none can be held out
    assert run(subset_of(tiny_case(), clean=np.arange(count)), rule=rule).scores is not None


@pytest.mark.parametrize("rule", ["guarded", "held_out", "both"])
def test_a_clean_set_too_small_to_hold_any_out_is_refused(rule):
    few = subset_of(tiny_case(), clean=np.arange(16))  # four per class
    with pytest.raises(InputError, match="too few reserved clean samples") as refusal:
        run(few, rule=rule)
    assert "from 5 of a class on" in str(refusal.value) and "rule=ratio" in str(refusal.value)
    for values in ({"rule": "ratio"}, {"rule": rule, "held_out": 0.25}):
        ConfusionTraining(**TINY, **values).refuse(few)
    ConfusionTraining(**TINY, rule=rule).refuse(subset_of(tiny_case(), clean=np.arange(17)))


def test_an_unknown_architecture_is_refused_before_any_work():
    with pytest.raises(SettingsError, match="unknown architecture") as refusal:
        ConfusionTraining(**{**TINY, "architecture": "smal_resnet"}).refuse(tiny_case())
    with pytest.raises(SettingsError) as built:
        Classifier.build("smal_resnet", 4)
    assert str(refusal.value) == str(built.value)


def test_a_short_reference_training_starts_at_its_own_rate(monkeypatch):
    recipes = []
    monkeypatch.setattr(confusion_data, "train", lambda _model, _source, recipe, *_a, **_k: recipes.append(recipe))
    case = dataclasses.replace(tiny_case(), model=None)
    for epochs in (2, 100):
        settings = ConfusionSettings(**TINY, reference_epochs=epochs)
        suspect_model(case, prepare(case, settings, Context()), settings, Context())
    assert [recipe.milestones for recipe in recipes] == [(2, 3), (50, 75)]


@pytest.mark.parametrize("count", [5, 17, 33])
def test_odd_sizes_of_the_suspect_set(count):
    outcome = run(subset_of(tiny_case(), train=np.arange(count)))
    assert np.isfinite(outcome.scores).all() and len(outcome.scores) == count


def test_two_classes():
    outcome = run(tiny_case(num_classes=2))
    assert len(outcome.tables["classes"]) == 2


def test_clean_images_in_the_suspect_set_are_noted():
    case = tiny_case()
    pixels = case.clean.read(slice(None))
    pixels[:5] = case.train.read(slice(20, 25))
    overlapping = dataclasses.replace(case, clean=case.clean.replace(images=pixels))
    assert any(note.startswith("5 images of the reserved clean set") for note in run(overlapping).notes)
    faint = case.train.replace(images=case.train.images.astype(np.float32) / 255)
    mixed = dataclasses.replace(overlapping, train=faint)
    assert any(note.startswith("5 images of the reserved clean set") for note in run(mixed).notes)
    assert not any("found by content" in note for note in run(case).notes)


def test_the_reference_model_stays_as_it_is():
    case = tiny_case()
    before = {name: value.clone() for name, value in case.model.state_dict().items()}
    run(case, reference="model")
    assert all(torch.equal(value, before[name]) for name, value in case.model.state_dict().items())


def test_predictions_of_the_whole_set_equal_those_of_any_batch():
    case = tiny_case()
    samples = Samples(case.clean, CPU)
    whole, features = model_outputs(case.model, samples, features=True)
    single = torch.cat(
        [model_outputs(case.model, View((samples, np.array([row]), np.array([0]))))[0] for row in range(8)]
    )
    assert torch.allclose(whole[:8], single, atol=1e-5)
    assert features.shape == (48, 64)


def test_one_class_is_refused():
    samples = ImageSet(np.zeros((8, 8, 8, 3), np.uint8), np.zeros(8, np.int64), 1)
    with pytest.raises(InputError, match="wrong label"):
        ConfusionTraining(**TINY).run(Case(train=samples, clean=samples))

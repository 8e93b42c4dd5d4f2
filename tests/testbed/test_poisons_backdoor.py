"""Backdoor poisons with cover samples or a fixed patch: wanet, trojan, tact."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elixir_plugin.core.images import ImageSet
from elixir_plugin.errors import SettingsError
from elixir_plugin.plugins import plugins
from elixir_plugin.testbed.adapter import poisoned_case
from elixir_plugin.testbed.base import Poison
from elixir_plugin.testbed.digits import digits
from elixir_plugin.testbed.poisons import BadNets, TaCT, Trojan
from elixir_plugin.testbed.wanet import WaNet

POISONS = (WaNet, Trojan, TaCT)
ALL = {
    "adaptive_blend",
    "adaptive_patch",
    "ar",
    "badnets",
    "blended",
    "cuda",
    "em",
    "input_aware",
    "label_consistent",
    "lsp",
    "ops",
    "sig",
    "tact",
    "tap",
    "trojan",
    "urp",
    "wanet",
}
LEARNED = {"em", "input_aware", "label_consistent", "tap"}  # train a model first; see test_poisons_learned.py
each_poison = pytest.mark.parametrize("cls", POISONS)
each_type = pytest.mark.parametrize("dtype", [np.uint8, np.float32])


def random_set(n=100, classes=5, dtype=np.uint8, shape=(12, 16, 3)):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (n, *shape), np.uint8)
    if dtype == np.float32:
        images = (images / 255).astype(np.float32)
    return ImageSet(images, np.arange(n) % classes, classes, ids=9000 - 3 * np.arange(n))


def pixels_of(sample):
    return sample.read(slice(None))


# --- all poisons


def test_all_poisons_are_registered():
    assert set(plugins().offers()["poison"]) >= ALL
    for name in ALL:
        cls = plugins().get("poison", name)
        assert issubclass(cls, Poison)
        assert cls.name == name


@pytest.mark.parametrize("name", sorted(ALL - {"ar", *LEARNED}))
@pytest.mark.parametrize("size", [16, 24])
def test_every_poison_makes_a_case_of_the_digits(name, size):
    case = poisoned_case(plugins().get("poison", name)(), digits(size))
    assert case.truth.poison.any()
    assert not (case.truth.poison & case.truth.cover).any()
    assert case.origin.facts["poison"] == name
    assert (case.test_poisoned is None) == (case.truth.kind == "indiscriminate")


@each_poison
@each_type
@pytest.mark.parametrize("channels", [1, 3])
def test_only_poison_and_cover_samples_change(cls, dtype, channels):
    sample = random_set(dtype=dtype, shape=(12, 16, channels))
    before = pixels_of(sample)
    poisoned, truth = cls(rate=0.1).poison(sample, seed=2)
    assert np.array_equal(pixels_of(sample), before)
    assert truth.poison.sum() == 10
    assert truth.kind == "dirty-label"
    assert not (truth.poison & truth.cover).any()
    assert truth.original_labels.tolist() == sample.labels.tolist()
    touched = truth.poison | truth.cover
    after = pixels_of(poisoned)
    assert np.array_equal(after[~touched], before[~touched])
    assert (after[touched] != before[touched]).any((1, 2, 3)).all()
    assert np.array_equal(poisoned.labels[~truth.poison], sample.labels[~truth.poison])
    assert (poisoned.labels[truth.poison] == 0).all()
    assert poisoned.images.dtype == dtype


@each_poison
def test_trigger_and_cover_are_functions_of_each_sample(cls):
    sample, attack = random_set(dtype=np.float32), cls()
    images, order = pixels_of(sample), np.random.default_rng(1).permutation(len(sample))
    images.flags.writeable = False
    for stamp in (attack.trigger, attack.cover_trigger):
        whole = stamp(images, sample.labels, sample.ids)
        assert whole.dtype == np.float32
        assert np.array_equal(stamp(images[order], sample.labels[order], sample.ids[order]), whole[order])
        assert np.array_equal(stamp(images[4:5], sample.labels[4:5], sample.ids[4:5]), whole[4:5])


@each_poison
def test_training_and_test_samples_carry_the_same_trigger(cls):
    sample = random_set()
    poisoned, truth = cls(rate=0.1).poison(sample)
    triggered = cls(rate=0.1).triggered_test(sample)
    rows = np.isin(triggered.samples.ids, sample.ids[truth.poison])
    assert np.array_equal(pixels_of(triggered.samples)[rows], pixels_of(poisoned)[truth.poison])


@each_poison
def test_same_seed_same_set(cls):
    sample = random_set()
    first, truth = cls(rate=0.1).poison(sample, seed=5)
    again, same = cls(rate=0.1).poison(sample, seed=5)
    assert again.fingerprint() == first.fingerprint()
    assert np.array_equal(same.cover, truth.cover)
    other = cls(rate=0.1).poison(sample, seed=6)[1]
    assert not np.array_equal(other.poison, truth.poison)
    assert not truth.cover.any() or not np.array_equal(other.cover, truth.cover)


@each_poison
@pytest.mark.parametrize("values", [{"rate": 1.1}, {"target": -1}, {"labels": "one"}, {"cover": 0.1}])
def test_wrong_settings_are_refused(cls, values):
    with pytest.raises(SettingsError, match="settings refused"):
        cls(**values)


# --- trojan


def test_trojan_is_a_fixed_patch_of_many_colours():
    sample = random_set(shape=(12, 17, 3))
    after = pixels_of(Trojan(rate=0).triggered_test(sample).samples)
    patch = after[:, 6:11, 11:16]
    assert (patch == patch[0]).all()
    assert set(np.unique(patch)) == {0, 255}
    assert len(np.unique(patch[0].reshape(-1, 3), axis=0)) >= 5
    outside = np.ones((12, 17), bool)
    outside[6:11, 11:16] = False
    assert np.array_equal(after[:, outside], pixels_of(sample)[sample.labels != 0][:, outside])
    assert not np.array_equal(Trojan(pattern_seed=1).patch(3), Trojan().patch(3))


def test_trojan_patch_must_fit():
    with pytest.raises(SettingsError, match="does not fit") as caught:
        Trojan(size=12).triggered_test(random_set())
    assert "trojan" in caught.value.where


# --- tact


def test_tact_poisons_the_source_class_and_covers_others():
    sample = random_set()
    poisoned, truth = TaCT(rate=0.1, source=3, target=1, cover_rate=0.15).poison(sample)
    assert set(sample.labels[truth.poison]) == {3}
    assert (poisoned.labels[truth.poison] == 1).all()
    assert truth.cover.sum() == 15
    assert set(sample.labels[truth.cover]) == {0, 2, 4}
    checkerboard = BadNets().trigger(pixels_of(sample)[truth.cover] / np.float32(255), None, None) * 255
    assert pixels_of(poisoned)[truth.cover] == pytest.approx(checkerboard, abs=1e-3)


def test_tact_cover_classes_can_be_named():
    truth = TaCT(cover_classes=[4], cover_rate=0.1).poison(random_set())[1]
    assert set(np.arange(100)[truth.cover] % 5) == {4}
    assert truth.cover.sum() == 10


def test_tact_triggers_source_samples_only():
    sample = random_set()
    triggered = TaCT(source=2).triggered_test(sample)
    assert triggered.original_labels.tolist() == [2] * 20
    assert triggered.samples.labels.tolist() == [0] * 20
    assert triggered.samples.ids.tolist() == sample.ids[sample.labels == 2].tolist()


def test_tact_with_two_classes_has_no_covers():
    _, truth = TaCT(rate=0.1).poison(random_set(classes=2))
    assert truth.poison.sum() == 10
    assert not truth.cover.any()


@pytest.mark.parametrize(
    "values",
    [
        {"source": 0},
        {"source": 2, "target": 2},
        {"cover_classes": [1, 2]},
        {"cover_classes": [0]},
        {"cover_rate": -1},
        {"labels": "all_to_all"},
    ],
)
def test_tact_refuses_classes_that_clash(values):
    with pytest.raises(SettingsError, match="settings refused"):
        TaCT(**values)


@pytest.mark.parametrize("values", [{"source": 5}, {"cover_classes": [2, 7]}])
def test_tact_refuses_classes_beyond_the_set(values):
    attack = TaCT(**values)
    for act in (attack.poison, attack.triggered_test):
        with pytest.raises(SettingsError, match="class out of range"):
            act(random_set())


@pytest.mark.parametrize(("values", "setting"), [({"rate": 0.21}, "rate"), ({"cover_rate": 0.61}, "cover_rate")])
def test_tact_says_when_there_are_too_few_samples(values, setting):
    with pytest.raises(SettingsError, match="not enough samples") as caught:
        TaCT(**values).poison(random_set())
    assert caught.value.where.endswith(f": {setting}")
    assert caught.value.allowed.startswith("20 " if setting == "rate" else "60 ")


# --- wanet


def test_wanet_covers_come_from_all_classes_and_keep_their_labels():
    sample = random_set()
    poisoned, truth = WaNet(rate=0.1, cover_rate=0.4).poison(sample)
    assert truth.cover.sum() == 40
    assert set(sample.labels[truth.cover]) == set(range(5))
    assert np.array_equal(poisoned.labels[truth.cover], sample.labels[truth.cover])
    with pytest.raises(SettingsError, match="not enough samples for covers"):
        WaNet(rate=0.5, cover_rate=0.6).poison(sample)


def test_wanet_covers_carry_other_warps_than_poison_and_each_other():
    image = np.random.default_rng(0).random((1, 16, 16, 3), np.float32)
    images = np.repeat(image, 3, axis=0)
    attack, ids = WaNet(), np.array([1, 2, 3])
    pure = attack.trigger(images, ids * 0, ids)
    noisy = attack.cover_trigger(images, ids * 0, ids)
    assert (pure == pure[0]).all()
    for a, b in ((noisy[0], pure[0]), (noisy[0], noisy[1]), (noisy[1], noisy[2])):
        assert np.abs(a - b).mean() > 0.01


def test_wanet_triggered_test_uses_the_pure_warp():
    sample = random_set(dtype=np.float32)
    triggered = WaNet().triggered_test(sample)
    away = sample.labels != 0
    expected = np.clip(WaNet().trigger(pixels_of(sample)[away], None, None), 0, 1)
    assert np.array_equal(pixels_of(triggered.samples), expected)


@given(st.integers(8, 40), st.integers(8, 40), st.integers(2, 8), st.floats(0.1, 8))
@settings(max_examples=40)
def test_wanet_samples_stay_within_the_image(height, width, grid, strength):
    ramp = np.empty((1, height, width, 1), np.float32)
    ramp[0, ..., 0] = np.linspace(0.2, 0.8, width)
    attack = WaNet(grid=grid, strength=strength)
    for stamp in (attack.trigger, attack.cover_trigger):
        out = stamp(ramp, None, np.array([3]))
        assert 0.2 - 1e-6 <= out.min() <= out.max() <= 0.8 + 1e-6


def test_wanet_offsets_have_the_published_size_and_are_smooth():
    offsets = WaNet(grid=4, strength=2).offsets(64, 64)
    corners = np.abs(offsets[::21, ::21])  # the control points lie 21 pixels apart
    assert corners.mean() == pytest.approx(2 * 63 / 128)
    assert np.abs(np.diff(offsets, axis=0)).max() < 0.25
    assert np.array_equal(WaNet(grid=4, strength=4).offsets(64, 64), 2 * offsets)
    assert not np.array_equal(WaNet(pattern_seed=1).offsets(64, 64), WaNet().offsets(64, 64))


def test_wanet_moves_a_ramp_by_its_offsets():
    ramp = np.empty((1, 32, 32, 1), np.float32)
    for axis in (0, 1):
        place = np.broadcast_to(np.arange(32)[:, None] if axis == 0 else np.arange(32), (32, 32))
        ramp[0, ..., 0] = place / 31
        attack = WaNet(strength=3)
        moved = attack.trigger(ramp, None, None)[0, ..., 0] * 31
        expected = np.clip(place + attack.offsets(32, 32)[..., axis], 0, 31)
        assert moved == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(("strength", "noise"), [(0.5, 1), (3, 1), (3, 4), (1, 0.5)])
def test_wanet_clips_the_warp_of_covers_before_and_after_the_noise(strength, noise):
    attack, ids = WaNet(strength=strength, noise=noise), np.array([7])
    warp, drawn = attack.offsets(32, 32), attack.noise(ids, 32, 32)[0] * noise * 31 / 64
    for axis in (0, 1):
        place = np.broadcast_to(np.arange(32)[:, None] if axis == 0 else np.arange(32), (32, 32))
        expected = np.clip(np.clip(place + warp[..., axis], 0, 31) + drawn[..., axis], 0, 31)
        ramp = (place / 31).astype(np.float32)[None, ..., None]
        assert attack.cover_trigger(ramp, None, ids)[0, ..., 0] * 31 == pytest.approx(expected, abs=1e-4)
        assert np.abs(expected - np.clip(place + warp[..., axis] + drawn[..., axis], 0, 31)).max() > 0.1


def test_wanet_grid_must_fit():
    with pytest.raises(SettingsError, match="more control points"):
        WaNet(grid=13).triggered_test(random_set())


@pytest.mark.parametrize("values", [{"grid": 1}, {"strength": 0}, {"noise": float("nan")}, {"cover_rate": 2}])
def test_wanet_refuses_wrong_settings(values):
    with pytest.raises(SettingsError, match="settings refused"):
        WaNet(**values)

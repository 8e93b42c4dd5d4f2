import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from elixir_plugin.core.images import ImageSet, LazyImages
from elixir_plugin.errors import SettingsError
from elixir_plugin.testbed.adapter import poisoned_case
from elixir_plugin.testbed.base import BackdoorSettings, Poison
from elixir_plugin.testbed.digits import digits
from elixir_plugin.testbed.poisons import BadNets, Blended, Sig

POISONS = (BadNets, Blended, Sig)
LABELS = ("all_to_one", "all_to_all", "clean_label")
each_poison = pytest.mark.parametrize("cls", POISONS)
each_type = pytest.mark.parametrize("dtype", [np.uint8, np.float32])


@st.composite
def image_sets(draw):
    shape = (
        draw(st.integers(1, 24)),
        draw(st.integers(6, 9)),
        draw(st.integers(14, 17)),
        draw(st.sampled_from([1, 3])),
    )
    dtype = draw(st.sampled_from([np.uint8, np.float32]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    images = rng.integers(0, 256, shape, np.uint8) if dtype == np.uint8 else rng.random(shape, np.float32)
    classes = draw(st.integers(1, 4))
    labels = draw(hnp.arrays(np.int64, shape[0], elements=st.integers(0, classes - 1)))
    ids = 1000 + np.arange(shape[0]) * 3
    return ImageSet(images, labels, classes, ids=ids)


@st.composite
def attacks(draw, data):
    return draw(st.sampled_from(POISONS))(
        labels=draw(st.sampled_from(LABELS)),
        target=draw(st.integers(0, data.num_classes - 1)),
        rate=draw(st.floats(0, 1)),
    )


def random_set(n=40, classes=4, dtype=np.uint8, shape=(8, 16, 3)):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (n, *shape), np.uint8)
    if dtype == np.float32:
        images = (images / 255).astype(np.float32) * np.float32(0.999)
    return ImageSet(images, np.arange(n) % classes, classes)


def pixels_of(sample):
    return sample.read(slice(None))


# --- digits


@pytest.fixture(scope="module")
def splits():
    return digits()


def test_digits_have_the_promised_sizes(splits):
    assert (len(splits.train), len(splits.clean), len(splits.test)) == (1150, 150, 497)
    for part in (splits.train, splits.clean, splits.test):
        assert (part.image_shape, part.images.dtype, part.num_classes) == ((16, 16, 3), np.uint8, 10)


def test_digits_are_disjoint_and_complete(splits):
    ids = np.concatenate([splits.train.ids, splits.clean.ids, splits.test.ids])
    assert sorted(ids.tolist()) == list(range(1797))


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_digits_are_stratified(seed):
    parts = digits(8, seed)
    counts = np.array([part.class_counts() for part in (parts.train, parts.clean, parts.test)])
    expected = counts.sum(axis=1, keepdims=True) * counts.sum(axis=0) / counts.sum()
    assert np.abs(counts - expected).max() < 2


def test_digits_depend_on_the_seed_alone(splits):
    assert digits().train.fingerprint() == splits.train.fingerprint()
    assert not np.array_equal(digits(seed=1).train.ids, splits.train.ids)


@pytest.mark.parametrize("size", [8, 16, 24, 32])
def test_digits_keep_their_pixels_when_enlarged(size):
    from sklearn.datasets import load_digits

    source = load_digits()
    test = digits(size).test
    images = pixels_of(test)
    assert images.shape == (497, size, size, 3)
    assert (images == images[..., :1]).all()
    original = source.images[test.ids] * (255 / 16)
    assert test.labels.tolist() == source.target[test.ids].tolist()
    scale = size // 8
    if scale == 1:
        assert np.abs(images[..., 0] - original).max() <= 0.5
    # corners lie beyond the outermost pixel centres, so they repeat them
    assert np.abs(images[:, [0, 0, -1, -1], [0, -1, 0, -1], 0] - original[:, [0, 0, 7, 7], [0, 7, 0, 7]]).max() <= 0.5
    inner = images[..., 0].reshape(497, 8, scale, 8, scale).mean((2, 4))
    assert np.corrcoef(inner.ravel(), original.ravel())[0, 1] > 0.97


def test_digits_fill_the_range():
    images = pixels_of(digits(8).train)
    assert (images.min(), images.max()) == (0, 255)


def test_digits_may_go_without_a_clean_set():
    parts = digits(8, clean=0, test=100)
    assert (len(parts.train), len(parts.clean), len(parts.test)) == (1697, 0, 100)
    assert poisoned_case(BadNets(), parts).clean is None


@pytest.mark.parametrize(
    "values", [{"size": 0}, {"size": 12}, {"size": -8}, {"clean": -1}, {"clean": 1300, "test": 497}]
)
def test_impossible_digits_are_refused(values):
    with pytest.raises(SettingsError):
        digits(**values)


# --- what every poison promises


@given(st.data())
def test_only_chosen_samples_change_and_the_truth_says_which(data):
    train = data.draw(image_sets())
    attack = data.draw(attacks(train))
    settings = attack.settings
    before = pixels_of(train)
    count = round(settings.rate * len(train))
    eligible = {
        "all_to_one": train.labels != settings.target,
        "all_to_all": np.ones(len(train), bool),
        "clean_label": train.labels == settings.target,
    }[settings.labels]
    if count > eligible.sum():
        with pytest.raises(SettingsError, match="not enough samples"):
            attack.poison(train, seed=3)
        return
    poisoned, truth = attack.poison(train, seed=3)

    assert truth.poison.sum() == count
    assert not (truth.poison & ~eligible).any()
    assert not truth.cover.any()
    assert truth.original_labels.tolist() == train.labels.tolist()
    kind = "clean-label" if settings.labels == "clean_label" else "dirty-label"
    assert truth.kind == (kind if count else "none")

    assert poisoned.images.dtype == train.images.dtype
    assert poisoned.ids.tolist() == train.ids.tolist()
    after = pixels_of(poisoned)
    assert np.array_equal(after[~truth.poison], before[~truth.poison])
    assert np.array_equal(poisoned.labels[~truth.poison], train.labels[~truth.poison])
    assert all((after[i] != before[i]).any() for i in np.flatnonzero(truth.poison))
    wanted = (train.labels + 1) % train.num_classes if settings.labels == "all_to_all" else settings.target
    assert np.array_equal(poisoned.labels[truth.poison], np.broadcast_to(wanted, len(train))[truth.poison])
    assert np.array_equal(pixels_of(train), before)  # the input is as it was


@given(st.data())
def test_triggered_test_set(data):
    test = data.draw(image_sets())
    attack = data.draw(attacks(test))
    before = pixels_of(test)
    triggered = attack.triggered_test(test)
    if attack.settings.labels == "all_to_all":
        rows = np.arange(len(test))
        wanted = (test.labels + 1) % test.num_classes
    else:
        rows = np.flatnonzero(test.labels != attack.settings.target)
        wanted = np.full(len(rows), attack.settings.target)
    assert triggered.original_labels.tolist() == test.labels[rows].tolist()
    assert triggered.samples.labels.tolist() == wanted.tolist()
    assert triggered.samples.ids.tolist() == test.ids[rows].tolist()
    assert triggered.samples.images.dtype == test.images.dtype
    after = pixels_of(triggered.samples)  # also checks the range of floats
    assert all((after[i] != before[row]).any() for i, row in enumerate(rows))
    assert np.array_equal(pixels_of(test), before)


@each_poison
def test_trigger_is_a_function_of_each_sample(cls):
    sample, attack = random_set(dtype=np.float32), cls()
    images, order = pixels_of(sample), np.random.default_rng(1).permutation(len(sample))
    images.flags.writeable = False
    whole = attack.trigger(images, sample.labels, sample.ids)
    assert whole.dtype == np.float32
    assert np.array_equal(attack.trigger(images[order], sample.labels[order], sample.ids[order]), whole[order])
    assert np.array_equal(attack.trigger(images[3:5], sample.labels[3:5], sample.ids[3:5]), whole[3:5])
    assert np.array_equal(cls().trigger(images, sample.labels, sample.ids), whole)


@each_poison
@each_type
def test_training_and_test_samples_carry_the_same_trigger(cls, dtype):
    sample = random_set(dtype=dtype)
    attack = cls(labels="all_to_all", rate=0.5)
    poisoned, truth = attack.poison(sample)
    triggered = attack.triggered_test(sample)
    assert np.array_equal(pixels_of(poisoned)[truth.poison], pixels_of(triggered.samples)[truth.poison])


@each_poison
def test_same_seed_same_set(cls):
    sample, attack = random_set(), cls(rate=0.2)
    first, truth = attack.poison(sample, seed=5)
    assert cls(rate=0.2).poison(sample, seed=5)[0].fingerprint() == first.fingerprint()
    other = attack.poison(sample, seed=6)[1]
    assert not np.array_equal(other.poison, truth.poison)
    assert other.poison.sum() == truth.poison.sum() == 8


@each_poison
def test_a_lower_rate_poisons_a_subset(cls):
    sample = random_set()
    low, high = (cls(rate=rate).poison(sample)[1].poison for rate in (0.1, 0.2))
    assert (low & ~high).sum() == 0


def test_lazy_sets_are_poisoned_alike():
    sample = random_set()
    images = LazyImages(lambda i: sample.images[i], len(sample), sample.image_shape)
    lazy = ImageSet(images, sample.labels, sample.num_classes)
    assert BadNets().poison(lazy)[0].fingerprint() == BadNets().poison(sample)[0].fingerprint()


@each_poison
def test_poison_takes_settings_a_mapping_or_keywords(cls):
    made = cls(rate=0.3)
    assert cls(made.settings).settings == cls({"rate": 0.3}).settings == made.settings
    assert cls(made.settings, target=2).settings.target == 2
    assert cls.Settings.build(made.settings.dump()) == made.settings
    assert "0.3" in repr(made)


@each_poison
@pytest.mark.parametrize("values", [{"rate": 1.1}, {"rate": -0.1}, {"target": -1}, {"labels": "one"}, {"rat": 0.1}])
def test_wrong_settings_are_refused(cls, values):
    with pytest.raises(SettingsError, match="settings refused") as caught:
        cls(**values)
    assert cls.name in str(caught.value)


@pytest.mark.parametrize(
    ("cls", "values"),
    [
        (BadNets, {"size": 0}),
        (BadNets, {"margin": -1}),
        (Blended, {"alpha": 0}),
        (Blended, {"alpha": 1.5}),
        (Sig, {"amplitude": 0}),
        (Sig, {"frequency": 0}),
    ],
)
def test_wrong_trigger_settings_are_refused(cls, values):
    with pytest.raises(SettingsError):
        cls(**values)


def test_settings_of_another_poison_are_refused():
    with pytest.raises(SettingsError):
        BadNets(Sig().settings)


@each_poison
def test_target_beyond_the_classes_is_refused(cls):
    attack = cls(target=4)
    for act in (attack.poison, attack.triggered_test):
        with pytest.raises(SettingsError, match="target label out of range"):
            act(random_set(classes=4))


def test_too_high_a_rate_says_how_many_samples_there_are():
    with pytest.raises(SettingsError, match="not enough samples") as caught:
        Sig(rate=0.5).poison(random_set(n=40, classes=4))
    assert "20 of 40" in caught.value.found
    assert caught.value.allowed.startswith("10 samples")


# --- the triggers


@each_type
def test_badnets_is_a_checkerboard_in_the_corner(dtype):
    sample = random_set(dtype=dtype, shape=(8, 9, 3))
    full = 255 if dtype == np.uint8 else 1
    for size, margin in ((3, 1), (1, 0), (4, 2), (8, 0)):
        after = pixels_of(BadNets(size=size, margin=margin, rate=0).triggered_test(sample).samples)
        rows = slice(8 - margin - size, 8 - margin)
        columns = slice(9 - margin - size, 9 - margin)
        patch = after[:, rows, columns]
        board = np.indices((size, size)).sum(0) % 2 == 0
        assert (patch[:, board] == full).all()
        assert (patch[:, ~board] == 0).all()
        outside = np.ones((8, 9), bool)
        outside[rows, columns] = False
        assert np.array_equal(after[:, outside], pixels_of(sample)[sample.labels != 0][:, outside])


def test_badnets_patch_must_fit():
    with pytest.raises(SettingsError, match="does not fit"):
        BadNets(size=8, margin=1).triggered_test(random_set())


@given(image_sets(), st.floats(0.01, 1))
def test_blended_is_a_weighted_mean(sample, alpha):
    attack = Blended(alpha=alpha, labels="all_to_all")
    noise = attack.pattern(sample.image_shape)
    full = 255 if sample.images.dtype == np.uint8 else 1
    expected = (1 - alpha) * pixels_of(sample) + alpha * noise * full
    tolerance = 0.5 + 1e-3 if full == 255 else 1e-6
    assert np.abs(pixels_of(attack.triggered_test(sample).samples) - expected).max() <= tolerance


def test_blended_noise_is_uniform_and_follows_its_own_seed():
    noise = Blended().pattern((64, 64, 3))
    assert 0 <= noise.min() < 0.01 < 0.99 < noise.max() < 1
    assert abs(noise.mean() - 0.5) < 0.02
    assert abs(noise.std() - 12**-0.5) < 0.02
    assert not np.array_equal(Blended(pattern_seed=1).pattern((64, 64, 3)), noise)


@given(image_sets(), st.floats(0.01, 1))
def test_sig_keeps_its_budget(sample, amplitude):
    attack = Sig(amplitude=amplitude, labels="all_to_all")
    full = 255 if sample.images.dtype == np.uint8 else 1
    after = pixels_of(attack.triggered_test(sample).samples) / full
    change = after - pixels_of(sample) / full
    assert np.abs(change).max() <= amplitude + 0.5 / full + 1e-6


def test_sig_is_a_sinusoid_of_the_named_frequency():
    gray = ImageSet(np.full((1, 4, 32, 3), 0.5, np.float32), [1], 2)
    change = pixels_of(Sig(amplitude=0.1).triggered_test(gray).samples)[0] - np.float32(0.5)
    assert np.abs(change - change[:1, :, :1]).max() == 0  # the same in all rows and channels
    spectrum = np.abs(np.fft.rfft(change[0, :, 0])) / 16
    assert np.flatnonzero(spectrum > 1e-5).tolist() == [6]
    assert spectrum[6] == pytest.approx(0.1, rel=1e-4)


def test_sig_defaults_to_clean_labels():
    sample = random_set()
    poisoned, truth = Sig(rate=0.1).poison(sample)
    assert truth.kind == "clean-label"
    assert poisoned.labels.tolist() == sample.labels.tolist()
    assert set(sample.labels[truth.poison]) == {0}


def test_sig_frequency_must_be_visible():
    Sig(frequency=7).triggered_test(random_set(shape=(4, 16, 1)))
    with pytest.raises(SettingsError, match="too narrow"):
        Sig(frequency=8).triggered_test(random_set(shape=(4, 16, 1)))


@each_poison
def test_uint8_is_rounded_to_the_nearest_value(cls):
    sample = random_set()
    attack = cls(labels="all_to_all")
    exact = np.clip(attack.trigger(pixels_of(sample).astype(np.float32) / 255, sample.labels, sample.ids), 0, 1) * 255
    after = pixels_of(attack.triggered_test(sample).samples)
    assert np.abs(after - exact).max() <= 0.5 + 1e-4


def test_pixels_that_a_trigger_leaves_alone_keep_all_256_values():
    ramp = ImageSet(np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1), [1], 2)
    after = pixels_of(BadNets(size=1, margin=0).triggered_test(ramp).samples).ravel()
    assert after.tolist() == list(range(256))


# --- other kinds of poison


class ClassNoise(Poison):
    """A stand-in for indiscriminate poisons: class-wise noise plus noise that differs from sample to sample."""

    name = "class_noise"
    kind = "indiscriminate"

    def choose(self, train, seed):
        return np.arange(len(train))

    def trigger(self, images, labels, ids):
        offsets = labels * 0.02 + ids * 0.001
        return images + offsets[:, None, None, None].astype(np.float32)


def test_indiscriminate_poisons_fit_the_base_class():
    sample = random_set(dtype=np.float32)
    poisoned, truth = ClassNoise().poison(sample)
    assert truth.poison.all()
    assert truth.kind == "indiscriminate"
    assert poisoned.labels.tolist() == sample.labels.tolist()
    assert ClassNoise().triggered_test(sample) is None
    assert pixels_of(poisoned).max() <= 1


def test_poison_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        Poison()


# --- cases


@each_poison
@pytest.mark.parametrize("labels", LABELS)
def test_poisoned_case_holds_everything_but_a_model(splits, cls, labels):
    attack = cls(labels=labels, rate=0.05)
    case = poisoned_case(attack, splits, seed=2)
    assert case.model is None
    assert case.truth.poison.sum() == round(0.05 * 1150)
    assert case.truth.original_labels.tolist() == splits.train.labels.tolist()
    assert (case.clean, case.test) == (splits.clean, splits.test)
    assert len(case.test_poisoned.samples) == (497 if labels == "all_to_all" else 448)
    assert (case.origin.adapter, case.origin.path) == ("testbed", cls.name)
    assert case.origin.facts["seed"] == 2
    assert cls.Settings.build(case.origin.facts["settings"]) == attack.settings
    assert cls.name not in repr(case.visible())


def test_case_of_an_indiscriminate_poison_has_no_triggered_test(splits):
    assert poisoned_case(ClassNoise(), splits).test_poisoned is None


def test_settings_base_is_shared():
    assert all(issubclass(cls.Settings, BackdoorSettings) for cls in POISONS)

"""Poisons that learn from the set: what all of them promise, what each does, and that they bite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from elixir_plugin import ImageSet
from elixir_plugin.core.context import Context
from elixir_plugin.core.images import LazyImages
from elixir_plugin.errors import InputError, SettingsError
from elixir_plugin.testbed import learning
from elixir_plugin.testbed.adapter import SuspectRecipe, Testbed, poisoned_case, train_suspect
from elixir_plugin.testbed.base import Poison
from elixir_plugin.testbed.digits import Splits, digits
from elixir_plugin.testbed.em import EM
from elixir_plugin.testbed.input_aware import InputAware
from elixir_plugin.testbed.label_consistent import LabelConsistent
from elixir_plugin.testbed.surrogate import Descent, Surrogate, trained_surrogate
from elixir_plugin.testbed.tap import TAP

N, CLASSES, EDGE = 60, 3, 8
SHORT: dict[str, Any] = {"recipe": {"epochs": 2}}
Maker = Any

makers: dict[str, Maker] = {
    "label_consistent": lambda **values: LabelConsistent(**{"steps": 3, "surrogate": SHORT, "rate": 0.1, **values}),
    "em": lambda **values: EM(**{"steps": 2, "model_steps": 3, "surrogate": SHORT, **values}),
    "em, per class": lambda **values: EM(
        **{"steps": 2, "model_steps": 3, "per": "class", "surrogate": SHORT, **values}
    ),
    "input_aware": lambda **values: InputAware(**{"mask_epochs": 1, "surrogate": SHORT, "cover_rate": 0, **values}),
    "tap": lambda **values: TAP(**{"steps": 3, "surrogate": SHORT, **values}),
}
every = pytest.mark.parametrize("make", makers.values(), ids=makers)
indiscriminate = pytest.mark.parametrize("make", [makers[name] for name in ("em", "em, per class", "tap")])
each_pair = pytest.mark.parametrize(("dtype", "channels"), [(np.uint8, 3), (np.float32, 1)])


def some(n: int = N, classes: int = CLASSES, dtype: Any = np.uint8, channels: int = 3, seed: int = 0) -> ImageSet:
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    images = (rng.integers(0, 90, (n, EDGE, EDGE, channels)) + 80 * labels[:, None, None, None]).astype(np.uint8)
    if dtype == np.float32:
        images = (images / 255).astype(np.float32)
    return ImageSet(images, labels, classes, ids=7000 - 5 * np.arange(n))


def pixels(images: ImageSet) -> np.ndarray:
    return images.read(slice(None))


def change(before: ImageSet, after: ImageSet) -> np.ndarray:
    """Return the change in steps of 8-bit pixels."""
    scale = 1 if before.images.dtype == np.uint8 else 255
    return scale * (pixels(after).astype(float) - pixels(before).astype(float))


# --- what all promise


@every
@each_pair
def test_only_chosen_samples_change(make: Maker, dtype: Any, channels: int) -> None:
    clean = some(dtype=dtype, channels=channels)
    before = pixels(clean)
    poisoned, truth = make().poison(clean, seed=4)
    assert np.array_equal(pixels(clean), before)
    rows = ~truth.poison if truth.kind == "dirty-label" else slice(None)
    assert np.array_equal(poisoned.labels[rows], clean.labels[rows])
    assert truth.cover is not None and not truth.cover.any()
    changed = (change(clean, poisoned) != 0).any((1, 2, 3))
    assert np.array_equal(changed, truth.poison) or ((changed <= truth.poison).all() and changed.mean() > 0.9)
    assert poisoned.images.dtype == dtype


@every
def test_the_same_set_gives_the_same_poison_in_any_order(make: Maker) -> None:
    clean, order = some(), np.random.default_rng(1).permutation(N)
    first, _ = make().poison(clean)
    again, _ = make().poison(clean)
    assert first.fingerprint() == again.fingerprint()
    shuffled = clean.subset(order)
    fitted, other = make().fitted(clean), make().fitted(shuffled)
    rows = np.flatnonzero(clean.labels == 0)
    images = pixels(clean)[rows] / np.float32(255)
    stamped = [each.trigger(images, clean.labels[rows], clean.ids[rows]) for each in (fitted, other)]
    assert np.array_equal(*stamped)
    one = fitted.trigger(images[2:3], clean.labels[rows[2:3]], clean.ids[rows[2:3]])
    assert np.array_equal(one, stamped[0][2:3])


@every
def test_the_pattern_follows_its_own_seed(make: Maker) -> None:
    clean = some()
    assert make().poison(clean)[0].fingerprint() != make(pattern_seed=1).poison(clean)[0].fingerprint()


@every
def test_lazy_sets_are_poisoned_alike(make: Maker) -> None:
    clean = some()
    backing = pixels(clean)
    lazy = clean.replace(images=LazyImages(lambda row: backing[row], N, (EDGE, EDGE, 3)))
    assert make().poison(lazy)[0].fingerprint() == make().poison(clean)[0].fingerprint()


@every
def test_it_learns_once(make: Maker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    learned: list[int] = []
    cls = type(make())
    learn = cls.learn

    def counted(self: Any, train: ImageSet, context: Context) -> Any:
        learned.append(len(train))
        return learn(self, train, context)

    monkeypatch.setattr(cls, "learn", counted)
    clean = some()
    poison = make()
    poison.context = Context(cache=tmp_path)
    cases = [poisoned_case(poison, Splits(clean, some(0), some(seed=2)), seed) for seed in (0, 0, 1)]
    assert learned == [N]
    again = make(rate=0.05)
    again.context = Context(cache=tmp_path)
    again.poison(clean)
    assert learned == [N]
    assert cases[0].train.fingerprint() == cases[1].train.fingerprint() == make().poison(clean)[0].fingerprint()
    assert poison.learned is None
    assert learned == [N, N]


@every
def test_other_sets_settings_and_ids_are_learned_anew(make: Maker, tmp_path: Path) -> None:
    other_ids = ImageSet(some().images, some().labels, CLASSES)
    for number, (poison, images) in enumerate(
        [
            (make(), some()),
            (make(pattern_seed=2), some()),
            (make(surrogate={"architecture": "small_resnet", **SHORT}), some()),
            (make(), some(seed=5)),
            (make(), other_ids),
        ]
    ):
        poison.context = Context(cache=tmp_path)
        poison.fitted(images)
        assert len(list(tmp_path.glob(f"{poison.name}-*.safetensors"))) == number + 1


@every
@pytest.mark.parametrize("images", [some(n=9), some(n=30, classes=1), some(n=0)], ids=["few", "one class", "none"])
def test_sets_that_teach_nothing_are_refused(make: Maker, images: ImageSet) -> None:
    with pytest.raises(InputError, match="too small"):
        make().poison(images)


@pytest.mark.parametrize("make", [makers["label_consistent"], makers["em"], makers["tap"]])
def test_what_was_not_learned_is_refused(make: Maker) -> None:
    clean = some()
    images = pixels(clean)[:3] / np.float32(255)
    with pytest.raises(InputError, match="not learned from a set"):
        make().trigger(images, clean.labels[:3], clean.ids[:3])
    with pytest.raises(InputError, match="no noise was learned") as caught:
        make().fitted(clean).trigger(images, clean.labels[:3], np.array([7000, 1, 2]))
    assert "id 1 (2 such samples)" in caught.value.found


@every
@pytest.mark.parametrize("values", [{"pattern_seed": "a"}, {"rate": -1}, {"surrogate": {"recipe": {"lr": 0}}}])
def test_wrong_settings_are_refused(make: Maker, values: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="settings refused"):
        make(**values)


@pytest.mark.parametrize("make", [makers["label_consistent"], makers["em"], makers["tap"]])
@pytest.mark.parametrize("values", [{"epsilon": 0}, {"steps": 0}])
def test_descent_that_cannot_be_is_refused(make: Maker, values: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="settings refused"):
        make(**values)


def test_a_source_keeps_what_its_poison_learns(tmp_path: Path) -> None:
    def read() -> str:
        poison = {"steps": 1, "surrogate": {"recipe": {"epochs": 1}}}
        adapter = Testbed({"size": 8, "clean": 0, "test": 1600, "model": False, "poison": poison})
        adapter.cache = tmp_path
        train = adapter.read(Path("tap")).train
        assert train is not None
        return train.fingerprint()

    assert read() == read()
    assert {each.name.split("-")[0] for each in tmp_path.iterdir()} == {"tap", "surrogate"}


def test_a_poison_of_a_third_party_that_cannot_learn_makes_a_case() -> None:
    class Grey(Poison):
        name = "grey"
        kind = "indiscriminate"

        def choose(self, train: ImageSet, seed: int) -> Any:
            return np.arange(2)

        def trigger(self, images: Any, labels: Any, ids: Any) -> Any:
            return np.full_like(images, 0.5)

    case = poisoned_case(Grey(), Splits(some(), some(0), some(seed=2)))
    assert case.train is not None and (pixels(case.train)[:2] == 128).all()


# --- surrogate and descent


def test_a_surrogate_is_the_same_fresh_and_kept(tmp_path: Path) -> None:
    settings = Surrogate(recipe={"epochs": 2})
    models = [trained_surrogate(some(), settings, Context(seed=1, cache=cache)) for cache in (None, tmp_path, tmp_path)]
    assert len({model.fingerprint() for model in models}) == 1
    assert np.array_equal(models[0].predict(some()), models[2].predict(some()))
    assert models[0].architecture == "small_resnet"
    assert models[0].fingerprint() != trained_surrogate(some(), settings, Context(seed=2)).fingerprint()


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 8 / 255), ("linf", 5.7 / 255), ("l2", 1.0), ("l2", 4.7)])
def test_descent_stays_within_budget_and_range_and_lowers_the_loss(norm: Any, epsilon: float) -> None:
    model = trained_surrogate(some(), Surrogate(recipe={"epochs": 2}), Context()).requires_grad_(False)
    images = torch.from_numpy(pixels(some(20))).permute(0, 3, 1, 2).float() / 255
    wanted = torch.ones(len(images), dtype=torch.int64)

    def loss(logits: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(logits, wanted, reduction="sum")

    descent = Descent(epsilon, 10, 0.25, norm)
    delta = descent(model, images, torch.zeros_like(images), loss)
    assert loss(model(images + delta)) < loss(model(images))
    assert (images + delta).min() >= 0 and (images + delta).max() <= 1
    whole = descent.whole(delta).astype(float) / 255
    if norm == "linf":
        assert np.abs(whole).max() <= epsilon + 1e-9
    else:
        room = epsilon * np.sqrt(images[0].numel() / 3072)
        size = np.sqrt((whole**2).sum((1, 2, 3)))
        assert (size <= room).all() and size.max() > 0.5 * room


# --- label_consistent


def test_label_consistent_takes_samples_of_the_target_class() -> None:
    clean = some()
    _, truth = makers["label_consistent"](target=2, rate=0.2).poison(clean)
    assert truth.poison.sum() == 12 and (clean.labels[truth.poison] == 2).all()
    assert truth.kind == "clean-label"


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 8 / 255), ("linf", 32 / 255), ("l2", 600 / 255)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_label_consistent_noise_has_its_budget_outside_the_patch(norm: str, epsilon: float, dtype: Any) -> None:
    clean = some(dtype=dtype)
    poisoned, truth = makers["label_consistent"](norm=norm, epsilon=epsilon, corners="lower_right").poison(clean)
    delta = change(clean, poisoned)[truth.poison]
    delta[:, -3:, -3:] = 0
    size = np.abs(delta).max() if norm == "linf" else np.sqrt((delta**2).sum((1, 2, 3))).max()
    room = 255 * epsilon * (1 if norm == "linf" else np.sqrt(delta[0].size / 3072))
    assert 0.3 * room < size <= room + 1e-3


def test_label_consistent_patch_is_that_of_the_released_code() -> None:
    grey = ImageSet(np.full((2, 9, 9, 3), 100, np.uint8), [1, 1], 2)
    shown = pixels(makers["label_consistent"]().triggered_test(grey).samples)[0, :, :, 0]
    upper_left = np.array([[255, 0, 0], [0, 255, 0], [255, 0, 255]])
    assert np.array_equal(shown[:3, :3], upper_left)
    assert np.array_equal(shown[:3, -3:], upper_left[:, ::-1])
    assert np.array_equal(shown[-3:, :3], upper_left[::-1])
    assert np.array_equal(shown[-3:, -3:], upper_left[::-1, ::-1])
    assert (shown[3:-3] == 100).all() and (shown[:, 3:-3] == 100).all()


@pytest.mark.parametrize(("values", "white"), [({"amplitude": 0.2}, 151), ({"test_amplitude": 0.4}, 202), ({}, 255)])
def test_label_consistent_amplitude(values: dict[str, float], white: int) -> None:
    grey = ImageSet(np.full((2, 9, 9, 3), 100, np.uint8), [1, 1], 2)
    poison = makers["label_consistent"](corners="lower_right", **values)
    shown = pixels(poison.triggered_test(grey).samples)[0, :, :, 0]
    assert shown[-1, -1] == white and shown[-1, -2] == max(0, 200 - white)
    assert (shown[:6] == 100).all()


def test_label_consistent_shows_the_patch_without_noise() -> None:
    clean, test = some(), some(seed=3)
    case = poisoned_case(makers["label_consistent"](corners="lower_right"), Splits(clean, some(0), test))
    assert case.test_poisoned is not None
    shown = case.test_poisoned.samples
    assert (shown.labels == 0).all() and len(shown) == N - N // CLASSES
    delta = change(test.subset(test.labels != 0), shown)
    assert (delta[:, :-3] == 0).all() and (delta[:, -3:, -3:] != 0).any((1, 2, 3)).all()


@pytest.mark.parametrize(
    ("values", "images", "says"),
    [
        ({"target": 3}, some(), "target label out of range"),
        ({"rate": 0.5}, some(), "not enough samples"),
        ({}, ImageSet(np.zeros((30, 5, 5, 3), np.uint8), np.arange(30) % 2, 2), "overlap"),
    ],
)
def test_label_consistent_refusals(values: dict[str, Any], images: ImageSet, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        makers["label_consistent"](**values).poison(images)


def test_label_consistent_presets_are_the_released_budgets() -> None:
    build = LabelConsistent.Settings.build
    assert build(preset="l2_600").epsilon == 600 / 255 and build(preset="l2_600").norm == "l2"
    assert build(preset="linf_32").epsilon == 32 / 255
    assert len(LabelConsistent.Settings.presets) == 6


# --- input_aware


def test_input_aware_draws_another_trigger_for_each_image_within_the_range() -> None:
    clean = some(dtype=np.float32)
    fitted = makers["input_aware"]().fitted(clean)
    images = pixels(clean)
    shown = fitted.trigger(images, clean.labels, clean.ids)
    assert shown.min() >= 0 and shown.max() <= 1
    assert np.array_equal(fitted.trigger(images[7:8], clean.labels[7:8], clean.ids[7:8]), shown[7:8])
    assert len(np.unique((shown - images).reshape(N, -1), axis=0)) == N


def test_input_aware_covers_carry_the_trigger_of_another_image() -> None:
    clean = some(dtype=np.float32)
    poison = makers["input_aware"](cover_rate=0.2)
    poisoned, truth = poison.poison(clean)
    assert truth.cover is not None and truth.cover.sum() == 12 and not (truth.cover & truth.poison).any()
    assert np.array_equal(poisoned.labels[truth.cover], clean.labels[truth.cover])
    rows = np.flatnonzero(truth.cover)
    own = poison.fitted(clean).trigger(pixels(clean)[rows], clean.labels[rows], clean.ids[rows])
    assert (np.abs(own - pixels(poisoned)[rows]).max((1, 2, 3)) > 1e-3).all()


def test_input_aware_test_samples_carry_their_own_trigger() -> None:
    clean, test = some(), some(seed=8)
    poison = makers["input_aware"]()
    case = poisoned_case(poison, Splits(clean, some(0), test))
    assert case.test_poisoned is not None and (case.test_poisoned.samples.labels == 0).all()
    away = test.subset(test.labels != 0)
    expected = poison.fitted(clean).trigger(pixels(away) / np.float32(255), away.labels, away.ids)
    assert np.abs(pixels(case.test_poisoned.samples) - 255 * expected).max() <= 0.5 + 1e-3


@pytest.mark.parametrize(
    ("values", "says"),
    [({"target": 3}, "target label out of range"), ({"rate": 0.9}, "not enough"), ({"cover_rate": 0.95}, "covers")],
)
def test_input_aware_refusals(values: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        makers["input_aware"](**values).poison(some())


def test_input_aware_all_to_all() -> None:
    clean = some()
    poisoned, truth = makers["input_aware"](labels="all_to_all").poison(clean)
    assert np.array_equal(poisoned.labels[truth.poison], (clean.labels[truth.poison] + 1) % CLASSES)


# --- em and tap


@indiscriminate
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("steps", [4, 8])
def test_noise_keeps_its_budget(make: Maker, dtype: Any, steps: int) -> None:
    clean = some(dtype=dtype)
    poisoned, truth = make(epsilon=steps / 255, surrogate={"recipe": {"epochs": 4}}).poison(clean)
    size = np.abs(change(clean, poisoned)).max()
    assert 1 - 1e-3 <= size <= steps + 1e-3
    assert truth.kind == "indiscriminate" and truth.poison.all()
    assert make().fitted(clean).triggered_test(clean) is None


@indiscriminate
def test_rate_is_the_share_of_each_class(make: Maker) -> None:
    clean = some()
    poisoned, truth = make(rate=0.4).poison(clean)
    assert np.bincount(clean.labels[truth.poison]).tolist() == [8, 8, 8]
    assert (change(clean, poisoned)[~truth.poison] == 0).all()


def test_class_wise_noise_is_that_of_the_class() -> None:
    images = np.random.default_rng(0).integers(60, 190, (N, EDGE, EDGE, 3)).astype(np.uint8)  # none is clipped
    clean = ImageSet(images, np.arange(N) % 3, 3)
    delta = change(clean, makers["em, per class"]().poison(clean)[0])
    for label in range(3):
        mine = delta[clean.labels == label]
        assert (mine == mine[0]).all() and mine.any()
    assert not np.array_equal(delta[0], delta[1])


def test_em_stops_once_the_noise_is_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds: list[float] = []
    from elixir_plugin.testbed import em

    run = em._Alternation._training_error

    def counted(self: Any) -> float:
        rounds.append(run(self))
        return rounds[-1]

    monkeypatch.setattr(em._Alternation, "_training_error", counted)
    EM(steps=2, stop_error=1.0, surrogate={"recipe": {"epochs": 5}}).poison(some())
    assert len(rounds) == 1 or (rounds[-1] < 1 and all(each >= 1 for each in rounds[:-1]))
    rounds.clear()
    context = Context()
    poison = EM(steps=1, stop_error=0.0, model_steps=1, surrogate={"recipe": {"epochs": 3}})
    poison.context = context
    poison.poison(some())
    assert len(rounds) == 3
    assert any("after 3 rounds" in note for note in context.notes)


def test_em_preset_is_the_released_command() -> None:
    settings = EM.Settings.build(preset="class_wise")
    assert (settings.per, settings.steps, settings.stop_error, settings.model_steps) == ("class", 1, 0.1, 10)


def test_tap_leads_to_the_next_class() -> None:
    clean = some()
    settings = Surrogate(recipe={"epochs": 4})
    poison = TAP(epsilon=160 / 255, steps=30, surrogate=settings, shift=2)
    poisoned, _ = poison.poison(clean)
    seed = learning.derive_seed(0, "learned")
    order = np.argsort(clean.ids)
    model = trained_surrogate(clean.subset(order), settings, Context(seed=seed))
    assert (model.predict(poisoned).argmax(1) == (clean.labels + 2) % 3).mean() > 0.8
    assert (model.predict(clean).argmax(1) == (clean.labels + 2) % 3).mean() < 0.4


@pytest.mark.parametrize("shift", [3, 6])
def test_tap_refuses_a_shift_that_leads_nowhere(shift: int) -> None:
    with pytest.raises(SettingsError, match="leads every class to itself"):
        TAP(shift=shift).poison(some())


# --- they bite; the digits are bright and simple, and need more noise than photographs do


@pytest.fixture(scope="module")
def splits() -> Splits:
    return digits(16)


def judged(poison: Poison, splits: Splits) -> tuple[float, float]:
    """Return ACC of a model trained on the poisoned digits, and its ASR; 0 where there is no trigger."""
    case = poisoned_case(poison, splits)
    model = train_suspect(case, SuspectRecipe(epochs=20), Context(seed=1))
    acc = float((model.predict(splits.test).argmax(1) == splits.test.labels).mean())
    if case.test_poisoned is None:
        return acc, 0.0
    shown = case.test_poisoned.samples
    return acc, float((model.predict(shown).argmax(1) == shown.labels).mean())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("poison", "drop"),
    [
        (EM(epsilon=16 / 255, steps=5), 0.3),
        (EM(EM.Settings.build(preset="class_wise")), 0.3),
        (TAP(epsilon=32 / 255), 0.1),
    ],
    ids=["em", "em, per class", "tap"],
)
def test_a_model_trained_on_noise_fails_on_clean_images(poison: Poison, drop: float, splits: Splits) -> None:
    acc, _ = judged(poison, splits)
    print(f"{poison.name}: ACC {acc:.3f}")
    assert acc < 0.97 - drop


@pytest.mark.slow
@pytest.mark.parametrize(
    ("poison", "least"),
    [(LabelConsistent(rate=0.08, epsilon=64 / 255, robust_steps=3), 0.4), (InputAware(), 0.5)],
    ids=["label_consistent", "input_aware"],
)
def test_a_model_trained_on_the_set_obeys_the_trigger(poison: Poison, least: float, splits: Splits) -> None:
    fitted = poison.fitted(splits.train)
    acc, asr = judged(fitted, splits)
    shown = fitted.triggered_test(splits.test)
    assert shown is not None
    unpoisoned = train_suspect(
        poisoned_case(EM(rate=0, steps=1, surrogate=SHORT), splits), SuspectRecipe(epochs=10), Context(seed=1)
    )
    by_clean = float((unpoisoned.predict(shown.samples).argmax(1) == shown.samples.labels).mean())
    print(f"{poison.name}: ACC {acc:.3f}, ASR {asr:.3f}, that of a clean model {by_clean:.3f}")
    assert acc > 0.95 and asr > least and by_clean < 0.1

"""λ of D3 as the multiplier of "no more clean loss than is allowed"."""

from __future__ import annotations

import dataclasses
import math
from itertools import chain, count, pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from elixir_plugin import Case, Classifier, Context, get_defense
from elixir_plugin.core.images import ImageSet
from elixir_plugin.core.outcome import Outcome, same_outcome
from elixir_plugin.core.panels import Lines, Table
from elixir_plugin.defenses.d3 import D3, D3Settings, descent
from elixir_plugin.defenses.d3 import multiplier as law
from elixir_plugin.defenses.d3.multiplier import (
    EVERY,
    FALL,
    FAR,
    FIRST,
    HIGH,
    HIGHEST,
    LOWEST,
    PATIENCE,
    SPAN,
    WIDTH,
    Multiplier,
    PartThenAll,
    held_back,
)
from elixir_plugin.errors import SettingsError
from elixir_plugin.testing import tiny_case
from elixir_plugin.training.batches import Batch

PLAIN: dict[str, Any] = {"batch_size": 8, "augmentation": {"crop": 0, "flip": False}}


def images(labels: Any, classes: int = 10) -> ImageSet:
    labels = np.asarray(labels, np.int64)
    pixels = np.random.default_rng(0).integers(0, 256, (len(labels), 8, 8, 3), np.uint8)
    return ImageSet(pixels, labels, classes)


def multiplier(allowed: float, updates: int) -> Multiplier:
    held = images([0])
    return Multiplier(held, np.ones(1, bool), 0.0, allowed, torch.tensor(FIRST), until=EVERY * updates)


def case(per_class: int = 5) -> Case:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 6 * 6, 10))
    model = Classifier(net, 10, mean=(0.5,), std=(0.25,)).eval()
    return Case(clean=images(np.arange(10 * per_class) % 10), model=model)


def detoxify(given: Case | None = None, **settings: Any) -> Outcome:
    return D3({**PLAIN, "steps": 200, **settings}).run(given or case(), Context(any_model=True))


# the law


@pytest.mark.parametrize("allowed", [0.1, 0.25, 1.0, 4.0])
def test_it_finds_the_multiplier_of_a_problem_that_has_a_known_one(allowed: float) -> None:
    """Maximise x subject to x² ≤ c: min λ·x² − x is at x = 1 / (2λ), so that λ = 1 / (2√c) meets the constraint."""
    found = multiplier(allowed, 1000)
    for _ in range(1000):
        found.update(float(1 / (2 * found.value)) ** 2)
    assert found.lams[-1] == pytest.approx(1 / (2 * math.sqrt(allowed)), rel=0.02)
    assert found.losses[-1] == pytest.approx(allowed, rel=0.04)


@pytest.mark.parametrize(("excess", "halfway"), [(1.0, 14), (WIDTH, 14), (9.0, 14)])
def test_while_the_loss_gets_less_it_rises_to_the_highest_value_and_not_at_once(excess: float, halfway: int) -> None:
    """Of 40 updates, it takes 28 (SPAN) at least."""
    found = multiplier(0.5, 40)
    for number in range(40):
        found.update(0.5 + excess * 1.05 ** (40 - number))
    assert found.lams[halfway - 1] == pytest.approx(math.sqrt(FIRST * HIGHEST), rel=1e-4)
    assert all(later > earlier for earlier, later in pairwise(found.lams[: 2 * halfway - 1]))
    assert found.lams[-1] == pytest.approx(HIGHEST, rel=1e-4) and found.met is False


@pytest.mark.parametrize("stuck_at", [0.7, 1.0, 9.0])
def test_where_it_buys_nothing_it_falls_back_to_where_it_began(stuck_at: float) -> None:
    found = multiplier(0.5, 40)
    for number in range(10):
        found.update(stuck_at * 1.05 ** (10 - number))
    highest = found.lams[-1]
    for _ in range(PATIENCE + 20):
        found.update(stuck_at)
    assert highest > 1.5 * FIRST and max(found.lams) < 1.5 * highest
    assert found.lams[-1] == pytest.approx(FIRST) and found.met is False
    found.update(0.9 * stuck_at)
    assert found.lams[-1] != pytest.approx(FIRST), "it moves again once there is a new minimum"


def test_below_where_it_began_it_stays_where_the_loss_gets_no_less() -> None:
    found = multiplier(0.5, 40)
    for loss in [0.3] * 5 + [0.7] * 30:
        found.update(loss)
    assert LOWEST < found.lams[-1] < FIRST and len(set(found.lams[10:])) == 1


def test_no_loss_takes_it_down_as_far_as_it_goes() -> None:
    found = multiplier(0.5, 40)
    for _ in range(100):
        found.update(0.0)
    assert all(later <= earlier for earlier, later in pairwise(found.lams))
    assert found.lams[-1] == pytest.approx(LOWEST) and found.met is True


@given(loss=st.floats(0, 100), allowed=st.floats(0.01, 10))
def test_it_rises_above_what_is_allowed_and_falls_below(loss: float, allowed: float) -> None:
    found = multiplier(allowed, 40)
    found.update(loss)
    assert np.sign(found.lams[0] - FIRST) in {0.0, np.sign(loss - allowed)}
    assert abs(math.log(found.lams[0] / FIRST)) <= FALL * math.log(HIGHEST / FIRST) / (SPAN * 40) + 1e-5


@given(loss=st.floats(0, 100), allowed=st.floats(0.01, 10), updates=st.integers(1, 60))
def test_it_stays_between_its_bounds(loss: float, allowed: float, updates: int) -> None:
    found = multiplier(allowed, 20)
    for _ in range(updates):
        found.update(loss)
    assert all(LOWEST - 1e-6 <= lam <= HIGHEST + 1e-6 for lam in found.lams)


def test_the_last_steps_have_the_geometric_mean_of_the_last_quarter(monkeypatch: pytest.MonkeyPatch) -> None:
    found, losses = multiplier(1.0, 8), iter([9, 9, 9, 9, 9, 9, 9, 0])
    monkeypatch.setattr(law, "held_loss", lambda *_: next(losses))
    model = case().model
    assert model is not None
    for _ in range(10 * EVERY):
        found.after_step(model, lambda: 2.0)
    assert found.steps == [EVERY * number for number in range(1, 9)]
    assert float(found.value) == pytest.approx(math.sqrt(found.lams[-1] * found.lams[-2]), rel=1e-5)


# another round


@pytest.mark.parametrize(
    ("lam", "loss", "learning"),
    [(4.0, 0.6, True), (HIGH, 0.6, True), (0.99 * HIGH, 0.6, False), (4.0, 0.5, False), (0.5, 9.0, False)],
)
def test_still_learning_is_who_has_a_high_lam_and_too_much_loss(lam: float, loss: float, learning: bool) -> None:
    found = multiplier(0.5, 20)
    found.update(loss)
    found.value.fill_(lam)
    assert found.learning is learning


@pytest.mark.parametrize(("eps", "accurate"), [(1e3, True), (0.1, False)])
def test_only_a_suspect_model_that_is_accurate_can_be_still_learning(eps: float, accurate: bool) -> None:
    given = case()
    assert given.model is not None and given.clean is not None
    found = law.watch(given.model, given.clean, eps, 0.0, Context())
    assert found.received > 0.1 and found.accurate is accurate
    found.update(2e3)
    found.value.fill_(HIGHEST)
    assert found.met is False and found.learning is accurate


def test_a_round_as_long_as_the_released_settings_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descent, "MOST", 250)
    measured(monkeypatch, 0.95)
    assert detoxify(steps=None).tables["multiplier"]["rounds"] == 1


def test_without_a_loss_measured_nobody_is_still_learning() -> None:
    found = multiplier(0.5, 20)
    found.value.fill_(HIGHEST)
    assert found.learning is False


@pytest.mark.parametrize(("distance", "rises_after"), [(0.0, 10), (FAR - 0.01, 10), (FAR, 1), (2.0, 1)])
def test_in_another_round_lam_does_not_rise_before_the_weights_are_far_or_half_is_over(
    distance: float, rises_after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = multiplier(0.5, 20)
    found.update(9.0)
    found.begin_another()
    assert (found.rounds, found.step, float(found.value)) == (2, 0, FIRST)
    losses = iter(9 * 0.9**number for number in range(20))
    monkeypatch.setattr(law, "held_loss", lambda *_: next(losses))
    model = case().model
    assert model is not None
    for _ in range(EVERY * 20):
        found.after_step(model, lambda: distance)
    lams = found.lams[1:]
    assert lams[: rises_after - 1] == [FIRST] * (rises_after - 1) and lams[rises_after - 1] > FIRST
    assert found.steps[1:] == [EVERY * (20 + number) for number in range(1, 21)], "steps go on counting"


def test_in_another_round_lam_falls_at_any_distance() -> None:
    found = multiplier(0.5, 20)
    found.begin_another()
    found.update(0.1)
    assert found.lams[-1] < FIRST


def measured(monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    """Let the suspect model have no loss, and the others one that falls by *factor* each time, from a thousand nats."""
    losses = chain([0.0], (1000 * factor**number for number in count()))
    monkeypatch.setattr(law, "held_loss", lambda *_: next(losses))


@pytest.mark.parametrize(
    ("factor", "settings", "rounds"),
    [
        (0.95, {}, 2),
        (1.0, {}, 1),  # it has stopped falling
        (0.95, {"eps": 1e4}, 1),  # it is allowed as it is
        (0.5, {"eps": 1.0}, 1),  # it is soon below what is allowed
        (0.95, {"steps": 250}, 1),  # the length is given
        (0.95, {"epochs": 48}, 1),
    ],
)
def test_a_model_that_is_still_learning_goes_on(
    factor: float, settings: Any, rounds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 50 samples, 40 are 5 steps, and all are 7: 40 epochs and 8; or 40, 40, and 29, which are 200 steps too."""
    measured(monkeypatch, factor)
    outcome = detoxify(**{"steps": None, **settings})
    assert outcome.tables["multiplier"]["rounds"] == rounds
    epochs = 40 + 40 + 29 if rounds == 2 else 48
    if "epochs" not in settings:
        assert {name: len(values) for name, values in outcome.curves.items()} == dict.fromkeys(outcome.curves, epochs)
    assert len(outcome.tables["multiplier"]["loss"]) == (
        40 if rounds == 2 else len(outcome.tables["multiplier"]["lam"])
    )


def test_another_round_has_a_higher_rate_and_the_last_steps_have_all_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    measured(monkeypatch, 0.95)
    runs: list[tuple[str, float, str, int]] = []
    real = descent.train

    def note(model: Any, source: Any, recipe: Any, *arguments: Any, **options: Any) -> Any:
        runs.append((options["name"], recipe.lr, recipe.schedule, source.steps))
        return real(model, source, recipe, *arguments, **options)

    monkeypatch.setattr(descent, "train", note)
    detoxify(steps=None, lr=0.02)
    assert [(name, pytest.approx(lr), schedule, steps) for name, lr, schedule, steps in runs] == [
        ("d3", 0.02, "cosine", 7),
        ("d3 again", 0.1, "constant", 5),
        ("d3 last", 0.1, "cosine", 7),
    ]


def test_two_rounds_are_the_same_under_the_same_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = []
    for _ in range(2):
        measured(monkeypatch, 0.95)
        outcomes.append(detoxify(steps=None))
    assert outcomes[0].tables["multiplier"]["rounds"] == 2 and same_outcome(*outcomes) == []


@pytest.mark.parametrize(
    ("length", "said"), [({"steps": 30}, 32), ({"epochs": 4}, 22), ({"steps": 200}, 0), ({"steps": None}, 0)]
)
def test_a_short_descent_says_what_such_a_one_can_reach(length: Any, said: int) -> None:
    """Rounded up to epochs: 5 of 5 steps and 1 of 7; and 3 of 5 and 1 of 7."""
    notes = [note for note in detoxify(**{"steps": None, **length}).notes if "short descent" in note]
    assert [note.split()[0] for note in notes] == ([str(said)] if said else [])


def test_a_number_for_lam_is_not_warned_about() -> None:
    assert not any("short descent" in note for note in detoxify(steps=10, lam=0.5).notes)


# crops


@pytest.mark.parametrize(
    ("settings", "crop"),
    [({}, 1), ({"crop_limit": 0.25}, 2), ({"crop_limit": 1}, 4), ({"crop_limit": 0}, 0), ({"lam": 0.5}, 4)],
)
def test_crops_are_cut_to_a_share_of_the_edge_where_lam_is_auto(
    settings: Any, crop: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images of 8 pixels."""
    crops, real = set(), descent.ShuffledBatches

    def note(samples: Any, size: int, context: Context, augmentation: Any, name: str) -> Any:
        crops.add(augmentation.crop)
        return real(samples, size, context, augmentation, name)

    monkeypatch.setattr(descent, "ShuffledBatches", note)
    detoxify(**{"steps": 10, "augmentation": {"crop": 4, "flip": False}, **settings})
    assert crops == {crop}


# what is held back


def test_a_fifth_of_each_class_is_held_back_and_none_of_small_classes() -> None:
    labels = np.repeat([0, 1, 2, 3], [50, 14, 5, 4])
    mask = held_back(images(labels), Context())
    assert [int(mask[labels == label].sum()) for label in range(4)] == [10, 2, 1, 0]


def test_no_more_than_a_thousand_are_held_back() -> None:
    labels = np.arange(20_000) % 10
    mask = held_back(ImageSet(np.zeros((20_000, 1, 1, 1), np.uint8), labels, 10), Context())
    assert mask.sum() == 1000 and set(np.bincount(labels[mask])) == {100}


def test_another_seed_holds_back_other_samples() -> None:
    clean = images(np.arange(200) % 10)
    first, again, other = (held_back(clean, Context(seed=seed)) for seed in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


class Counted:
    """Gives the batch numbers of an epoch; there are no images."""

    def __init__(self, name: str, steps: int) -> None:
        self.name, self.steps = name, steps

    def epoch(self, number: int) -> Any:
        return iter([self.name] * self.steps)


@pytest.mark.parametrize(
    ("steps", "part", "whole", "first"), [(1000, 7, 8, 798), (100, 10, 10, 80), (10, 30, 40, 0), (1000, 1, 1, 800)]
)
def test_the_last_fifth_of_the_steps_is_on_all_samples(steps: int, part: int, whole: int, first: int) -> None:
    source = PartThenAll(Counted("part", part), Counted("whole", whole), steps=steps)
    given: list[Any] = [batch for epoch in range(source.epochs) for batch in source.epoch(epoch)]
    assert given[: source.first_steps] == ["part"] * first and set(given[source.first_steps :]) == {"whole"}
    assert steps <= len(given) < steps + max(part, whole)


@pytest.mark.parametrize(("epochs", "first"), [(100, 80), (10, 8), (2, 1), (1, 0)])
def test_epochs_stay_epochs(epochs: int, first: int) -> None:
    source = PartThenAll(Counted("part", 3), Counted("whole", 4), steps=1000, epochs=epochs)
    assert (source.epochs, source.first_steps) == (epochs, 3 * first)


def test_what_is_held_back_is_trained_on_in_the_last_steps_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    given, seen = case(), []
    real = descent.d3_objective

    def watched(*arguments: Any) -> Any:
        objective = real(*arguments)

        def note(model: nn.Module, batch: Batch) -> Any:
            seen.append(batch.images.flatten(1).sum(1).tolist())
            return objective(model, batch)

        return note

    monkeypatch.setattr(descent, "d3_objective", watched)
    detoxify(given, epochs=5, steps=None)
    assert given.clean is not None
    mask = held_back(given.clean, Context())
    assert mask.sum() == 10
    epochs = [5] * 4 + [7]  # steps: 40 samples, then 50 with two left over
    assert len(seen) == sum(epochs)
    early, late = ([image for batch in part for image in batch] for part in (seen[:20], seen[20:]))
    assert len(early) == 4 * 40 and len(set(early)) == 40
    assert len(late) == 50 and len(set(late) - set(early)) == 10


# the descent


def test_out_of_reach_lam_rises_and_the_report_warns() -> None:
    """Images are noise that the suspect model knows by heart, so that those held back cannot be learned."""
    given = case()
    known = D3(PLAIN, preset="finetune", epochs=60, lr=0.05).run(given, Context(any_model=True)).model
    outcome = detoxify(dataclasses.replace(given, model=known), margin=0, lr=0.05)
    path = outcome.tables["multiplier"]
    assert path["met"] is False and path["lam"][-1] == pytest.approx(FIRST, rel=1e-4) and path["held_back"] == 10
    assert max(path["lam"]) < 3 * FIRST
    (warning,) = [note for note in outcome.notes if "allowed" in note]
    assert f"{path['loss'][-1]:.2f} nats" in warning and f"{path['allowed']:.2f}" in warning


def test_within_reach_lam_falls_and_nothing_is_said() -> None:
    outcome = detoxify(eps=1e3)
    path = outcome.tables["multiplier"]
    assert path["met"] is True and path["allowed"] == 1e3
    assert all(later < earlier or later == pytest.approx(LOWEST) for earlier, later in pairwise(path["lam"]))
    assert path["final_lam"] < path["lam"][0] < FIRST
    assert not any("allowed" in note for note in outcome.notes)


def test_the_more_is_allowed_the_farther_the_head_goes() -> None:
    distances = [
        sum(detoxify(margin=margin, eps=0.01, steps=400, lr=0.05).tables["distance_ratio"].values())
        for margin in (0, 50)
    ]
    assert distances[0] < distances[1]


@pytest.mark.parametrize(("eps", "margin"), [(0.1, 0.1), (0.1, 0.5), (9.0, 0.1)])
def test_allowed_is_epsilon_or_what_the_suspect_model_has_and_a_margin(eps: float, margin: float) -> None:
    given = case()
    path = detoxify(given, eps=eps, margin=margin, steps=20).tables["multiplier"]
    assert given.model is not None and given.clean is not None
    held = given.clean.subset(held_back(given.clean, Context()))
    assert path["received"] == pytest.approx(law.held_loss(given.model, held))
    assert path["allowed"] == pytest.approx(max(eps, path["received"] + margin))


def test_without_samples_to_spare_the_whole_set_is_watched() -> None:
    path = detoxify(case(per_class=4)).tables["multiplier"]
    assert path["held_back"] == 0 and len(path["loss"]) > 3


def test_a_descent_of_a_few_steps_says_that_lam_stayed() -> None:
    outcome = detoxify(steps=5)
    assert outcome.tables["multiplier"]["met"] is None
    assert any("stayed at 0.5" in note for note in outcome.notes)


def test_the_same_seed_gives_the_same_path() -> None:
    assert same_outcome(detoxify(), detoxify()) == []


@pytest.mark.parametrize("select", ["head", "all", ["0", "4"]])
def test_several_layers_share_it(select: Any) -> None:
    outcome = detoxify(select=select)
    ratios = outcome.tables["distance_ratio"]
    assert len(ratios) == (1 if select == "head" else 2) and all(1 < each <= 2 + 1e-5 for each in ratios.values())
    assert len(outcome.tables["multiplier"]["lam"]) >= 10


def test_missing_classes_stay_protected() -> None:
    given = tiny_case()
    assert given.clean is not None
    rows = np.flatnonzero(given.clean.labels != 1)
    outcome = get_defense("d3")(steps=60).run(dataclasses.replace(given, clean=given.clean.subset(rows)), Context())
    assert [row["class"] for row in outcome.tables["protected"]] == [1]
    assert len(outcome.tables["multiplier"]["lam"]) >= 3


def test_the_report_shows_the_path_of_lam() -> None:
    panels = {panel.title: panel for panel in D3().panels(detoxify())}
    lam, loss, table = panels["λ"], panels["Loss of held-back samples"], panels["Clean loss that is allowed"]
    assert isinstance(lam, Lines) and isinstance(loss, Lines) and isinstance(table, Table)
    assert lam.series[0].x == loss.series[0].x and loss.levels[0].name == "allowed"
    assert ["constraint", "not met"] in table.rows or ["constraint", "met"] in table.rows
    assert not any("λ" in panel.title for panel in D3(lam=1.0).panels(detoxify(lam=1.0)))


# settings


@pytest.mark.parametrize(
    ("preset", "settings", "identity"),
    [
        ("paper", {}, "01e61b030792"),  # the former default
        ("code", {}, "7a020260b7c6"),
        ("code", {"epochs": 30}, "16a8f63f2173"),
        (None, {"lam": 0.5, "epochs": 30}, "ddffa4e22983"),
        (None, {"lam": 10, "epochs": 30, "precision": "bf16"}, "059c1536c46a"),
        ("random_head", {}, "877b18492886"),
        ("finetune", {"epochs": 30}, "0eed2828fb02"),
    ],
)
def test_runs_of_a_fixed_lam_keep_their_identity(preset: str | None, settings: Any, identity: str) -> None:
    assert D3Settings.build(settings, preset=preset).fingerprint() == identity


def test_the_default_is_auto_and_as_long_as_the_set_asks_for() -> None:
    settings = D3().settings
    assert (settings.lam, settings.steps, settings.epochs, settings.precision) == ("auto", None, None, "fastest")
    assert D3Settings.build(settings.dump()) == settings
    assert D3(lam=3).settings.precision == "float32" and D3(lam=3, precision="auto").settings.precision == "auto"


@pytest.mark.parametrize("lam", ["ten", -1, "nan", float("inf"), None, [1], {}, "1e999"])
def test_what_is_no_lam_is_refused_in_one_sentence(lam: Any) -> None:
    with pytest.raises(SettingsError, match=r"lam = .*or auto") as refusal:
        D3(lam=lam)
    assert str(refusal.value).count("lam") == 1


def test_steps_and_epochs_are_not_given_together() -> None:
    with pytest.raises(SettingsError, match="give one of them"):
        D3(steps=10, epochs=2)
    assert D3({"steps": 10, "epochs": None}, preset="paper").settings.steps == 10


def test_the_default_length_follows_the_size() -> None:
    assert [descent.default_steps(size) for size in (1, 250, 625, 1200, 2500, 10**6)] == [
        250,
        250,
        250,
        480,
        1000,
        1000,
    ]
    assert len(detoxify(case(), steps=None, lam=10).curves["objective"]) == math.ceil(250 / 7)


@pytest.mark.parametrize(("size", "steps", "expected"), [(50, 100, 105), (50, 7, 7), (400, 30, 50)])
def test_steps_are_rounded_up_to_epochs(size: int, steps: int, expected: int) -> None:
    """Batches of 8: 50 samples are 7 steps, 400 are 50."""
    given = dataclasses.replace(case(), clean=images(np.arange(size) % 10))
    curves = detoxify(given, lam=10, steps=steps).curves
    assert len(curves["objective"]) * (7 if size == 50 else 50) == expected

"""Which schedule of Confusion Training runs where none is named, and what it is said to cost."""

import dataclasses

import numpy as np
import pytest
import short_settings

from elixir_plugin import Context
from elixir_plugin.core.case import Case
from elixir_plugin.core.images import ImageSet
from elixir_plugin.core.outcome import same_outcome
from elixir_plugin.core.settings import fingerprint
from elixir_plugin.defenses.confusion_training import schedule
from elixir_plugin.defenses.confusion_training.defense import ConfusionTraining
from elixir_plugin.defenses.confusion_training.schedule import choose
from elixir_plugin.defenses.confusion_training.settings import ConfusionSettings
from elixir_plugin.errors import SettingsError
from elixir_plugin.testing.defenses import tiny_case

SHORT = {**short_settings.SHORT["confusion_training"], "schedule": "as_set"}


def case_of(n, height, width, channels=3):
    images = ImageSet(np.zeros((n, height, width, channels), np.uint8), np.arange(n) % 10, 10)
    return Case(train=images, clean=images.subset(np.arange(100)))


@pytest.fixture
def short_presets(monkeypatch):
    """Let both presets be short, and the tiny case large enough for `medium`."""
    made = {"small": SHORT, "medium": {**SHORT, "pretrain_epochs": (2,)}}
    monkeypatch.setattr(schedule, "PRESETS", made)
    monkeypatch.setattr(schedule, "ENOUGH", len(tiny_case().train))
    monkeypatch.setattr(schedule, "EDGE", tiny_case().train.image_shape[0])
    return made


@pytest.mark.parametrize(
    ("size", "values", "preset"),
    [
        ((10_000, 32, 32), {}, "medium"),
        ((5_000, 32, 32), {}, "medium"),
        ((5_000, 64, 48), {}, "medium"),
        ((6_000, 40, 36, 1), {}, "medium"),
        ((6_000, 16, 16), {"input_size": 32}, "medium"),
        ((4_999, 32, 32), {}, "small"),
        ((6_000, 28, 28, 1), {}, "small"),
        ((6_000, 64, 24), {}, "small"),
        ((6_000, 64, 64), {"input_size": 16}, "small"),
        ((1_150, 16, 16), {}, "small"),
        ((200, 8, 8), {}, "small"),
    ],
)
def test_the_size_decides_where_no_schedule_is_named(size, values, preset):
    found = choose(ConfusionSettings.build(values), case_of(*size))
    assert found.preset == preset and f"{size[0]:,} images of {size[1]}×{size[2]}" in found.reason
    assert found.settings == ConfusionSettings.build(values, preset=preset)


@pytest.mark.parametrize(
    "values",
    [{"rule": "ratio"}, {"fdr": 0.1, "vote": "all"}, {"held_out": 0.4, "untrained_share": 0.1}, {"mean": (0.5,) * 3}],
    ids=str,
)
def test_settings_beside_the_schedule_are_kept(values):
    found = choose(ConfusionSettings.build(values), case_of(10_000, 32, 32))
    assert found.settings == ConfusionSettings.build(values, preset="medium")


@pytest.mark.parametrize(
    ("values", "preset"),
    [
        ({}, "small"),
        ({}, "demo"),
        ({}, "cifar10"),
        ({"lam": 20}, None),
        ({"architecture": "fast_resnet", "rule": "ratio"}, None),
        ({"schedule": "as_set"}, None),
    ],
    ids=str,
)
def test_what_is_named_runs_at_any_size(values, preset):
    settings = ConfusionSettings.build(values, preset=preset)
    for size in ((10_000, 32, 32), (200, 8, 8)):
        found = choose(settings, case_of(*size))
        assert found.settings is settings and found.preset is None


LONG = {"ratios": (0.5,), "pretrain_epochs": (3,), "confusion_steps": (9,), "lam": (10,), "confusion_lr": (0.1,)}
KNOWN = [
    ({"lam": 20}, None, "57e6439cb41a", "fde4444cd675"),
    (LONG, None, "bdaca3257f00", "78d1c04eecbb"),
    ({"architecture": "fast_resnet", "rule": "ratio"}, None, "b577644aaf77", "d8be59dc1ebd"),
    ({}, "small", "be72f3317122", "1cef9ce2ab70"),
    ({}, "medium", "d1a55dd49516", "401b9ce7a0fa"),
    ({}, "demo", "0e6a1d1b3c4a", "c026a3273221"),
    ({}, "cifar10", "38861487444b", "36f608eca585"),
    ({}, "gtsrb", "71e2eea54a8e", "f45bd1c3c167"),
    ({}, "imagenet", "d1f8bd772e20", "7ca87327782e"),
    ({}, "parity", "d08b23852279", "13eb2feb031a"),
]


@pytest.mark.parametrize(("values", "preset", "whole", "trained"), KNOWN, ids=str)
def test_runs_that_named_their_schedule_are_found_again(values, preset, whole, trained):
    """Hashes from before the size could decide, and before held-out medians counted."""
    former = {"class_level": "suspects", "last_models": 1 if preset == "parity" else 2 if preset == "demo" else 3}
    found = ConfusionSettings.build({**former, **values}, preset=preset)
    assert (found.fingerprint(), fingerprint(found.trained_with())) == (whole, trained)
    spelled_out = {name: value for name, value in found.dump().items() if name != "schedule"}
    assert ConfusionSettings.build(spelled_out).fingerprint() == whole


def test_a_run_by_default_is_another_one_than_before():
    assert ConfusionSettings().fingerprint() not in [row[2] for row in KNOWN]
    assert ConfusionSettings() == ConfusionSettings.build() == ConfusionSettings.build(ConfusionSettings().dump())
    formerly = ConfusionSettings.build(preset="cifar10").dump()
    del formerly["schedule"]
    assert ConfusionSettings.build(formerly).schedule == "as_set"


@pytest.mark.parametrize("values", [{"lam": 10}, {"architecture": "fast_resnet"}, {"ratios": (0.5, 0.4)}], ids=str)
def test_a_schedule_that_is_both_named_and_left_open_is_refused(values):
    with pytest.raises(SettingsError, match="schedule auto decides on") as refusal:
        ConfusionSettings.build({"schedule": "auto", **values})
    assert next(iter(values)) in str(refusal.value) and "as_set" in str(refusal.value)


@pytest.mark.parametrize("enough", [True, False])
def test_an_untuned_run_is_that_of_the_preset_and_says_so(short_presets, monkeypatch, tmp_path, enough):
    case, name = tiny_case(), "medium" if enough else "small"
    if not enough:
        monkeypatch.setattr(schedule, "ENOUGH", len(case.train) + 1)
    found = ConfusionTraining().run(case, Context(seed=3, work_dir=tmp_path))
    named = ConfusionTraining(short_presets[name])
    expected = named.run(case, Context(seed=3))
    [note] = [each for each in found.notes if "schedule" in each]
    assert f"that of preset {name} is taken, for {len(case.train):,} images" in note
    assert found.tables["schedule"]["preset"] == name and expected.tables["schedule"]["preset"] is None
    assert not any("schedule" in each for each in expected.notes)
    told = {"tables": {**found.tables, "schedule": None}, "notes": []}
    before = {"tables": {**expected.tables, "schedule": None}, "notes": []}
    assert same_outcome(dataclasses.replace(found, **told), dataclasses.replace(expected, **before)) == []
    monkeypatch.setattr(ConfusionTraining, "_round", None)
    named.run(case, Context(seed=3, work_dir=tmp_path))  # the rounds of one are those of the other


def test_only_a_reference_model_that_is_trained_decides_on_mirroring():
    alone = dataclasses.replace(case_of(200, 8, 8), model=None)
    assert ConfusionTraining(preset="cifar10").trains_augmented(alone)
    assert not ConfusionTraining().trains_augmented(alone)


@pytest.mark.parametrize("values", [{}, {"held_out": 0.5}, {"untrained_share": 0.25}, {"rule": "ratio"}], ids=str)
def test_a_dry_run_prices_the_schedule_that_would_run(short_presets, values):
    case = dataclasses.replace(tiny_case(), model=None)
    facts = ConfusionTraining(**values).estimate(case, Context())
    assert facts["schedule"].startswith(f"that of preset medium, for {len(case.train):,} images")
    assert (facts["rounds"], facts["epochs"], facts["confusion_steps"]) == (2, 4, 8)
    assert set(facts["seconds"]) == {"pretrain", "confuse", "score"} and min(facts["seconds"].values()) > 0
    assert facts["seconds_total"] == pytest.approx(sum(facts["seconds"].values()))


def test_a_dry_run_counts_epochs_and_steps_as_the_run_does(short_presets, monkeypatch):
    planned = []
    inner = ConfusionTraining._round

    def counted(self, plan, *args, **kwargs):
        planned.append(plan)
        return inner(self, plan, *args, **kwargs)

    monkeypatch.setattr(ConfusionTraining, "_round", counted)
    for values in ({"reserved_size": 20, "suspect_size": 300}, {"held_out": 0.5, "reserved_size": 7}):
        planned.clear()
        defense = ConfusionTraining({**SHORT, **values})
        defense.run(tiny_case(), Context())
        facts = defense.estimate(tiny_case(), Context())
        assert facts["schedule"] == "as set"
        assert facts["epochs"] == sum(plan.pretrain_epochs for plan in planned)
        assert facts["confusion_steps"] == sum(plan.steps for plan in planned)


def test_a_reference_model_is_priced_where_one_is_trained():
    values = {**SHORT, "reference": "model", "reference_epochs": 3}
    alone = dataclasses.replace(tiny_case(), model=None)
    assert ConfusionTraining(values).estimate(alone, Context())["seconds"]["train reference"] > 0
    assert "train reference" not in ConfusionTraining(values).estimate(tiny_case(), Context())["seconds"]

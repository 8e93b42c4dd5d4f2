"""Pipelines: what a step is given of what came before, what it may change, and what is kept after a kill."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
from pydantic import Field
from short_settings import SHORT

from elixir_plugin import Case, Context, Defense, Outcome, Settings, get_defense
from elixir_plugin.core.augmentation import Augmentation
from elixir_plugin.core.images import ImageSet
from elixir_plugin.core.outcome import Verdict, same_outcome
from elixir_plugin.core.panels import Flow
from elixir_plugin.defense import Card
from elixir_plugin.defenses.pipeline import store
from elixir_plugin.defenses.pipeline.defense import Pipeline
from elixir_plugin.defenses.pipeline.retrain import Retrain
from elixir_plugin.errors import InputError, MissingNeedError, SettingsError
from elixir_plugin.evaluation.metrics import evaluate
from elixir_plugin.evaluation.retraining import Retraining, retrain
from elixir_plugin.hookspecs import Entry, hookimpl
from elixir_plugin.plugins import plugins
from elixir_plugin.testing import leaks, tiny_case
from elixir_plugin.testing.defenses import check_defense

CASE = tiny_case()
assert CASE.train is not None and CASE.truth is not None and CASE.clean is not None
TRAIN, POISON, CLEAN = CASE.train, CASE.truth.poison, CASE.clean
N = len(TRAIN)
CARD = Card("For tests", "none", 2026, "none", "none", "all")
BRIEF = {"retrain": {"recipe": {"epochs": 1, "batch_size": 32}}}
ELIXIR = {key: each for key, each in SHORT["dataelixir"].items() if key != "detection"} | {
    "probe": "case",
    "train_final": False,
    "detection": {"mode": "given", "targets": [0]},
}
SEEN: list[tuple[str, Case]] = []


class CornerSettings(Settings):
    first: int = Field(0, ge=0, description="samples that are flagged in any case")
    only: int = Field(0, ge=0, description="a setting that is called as an option of a step")


class Corner(Defense):
    """Flags what is white in the corner, which poison of the tiny case is."""

    name, kind, needs, card = "corner", "detect", frozenset({"train"}), CARD
    Settings = CornerSettings
    settings: CornerSettings

    def defend(self, case: Case, context: Context) -> Outcome:
        assert case.train is not None
        SEEN.append((self.name, case))
        scores = case.train.read(slice(None))[:, -2:, -2:].mean((1, 2, 3), np.float64)
        flagged = scores == 255
        flagged[: self.settings.first] = True
        with context.stage("look"):
            found = [float(scores.max())]
        tables = {"samples": {"rank": list(range(len(scores)))}}
        return Outcome(scores=scores, flagged=flagged, verdict=Verdict(bool(flagged.any()), 1.0, "white"),
                       curves={"brightest": found}, tables=tables)  # fmt: skip


class InvertSettings(Settings):
    shift: int = Field(1, ge=0, le=3)
    trains: bool = False
    keeps: Literal["all", "odd"] = "all"
    targets: tuple[int, ...] = ()


class Invert(Defense):
    """Inverts every image and moves every label."""

    name, kind, needs, card = "invert", "purify", frozenset({"train"}), CARD
    Settings = InvertSettings
    settings: InvertSettings
    calls: ClassVar[list[tuple[int, ...]]] = []

    def aimed(self, targets: Any) -> Invert:
        return type(self)(self.settings.model_copy(update={"targets": tuple(targets)}))

    def defend(self, case: Case, context: Context) -> Outcome:
        assert case.train is not None
        SEEN.append((self.name, case))
        self.calls.append(self.settings.targets)
        images, labels = 255 - case.train.read(slice(None)), case.train.labels + self.settings.shift
        kept = np.arange(len(labels))[1::2] if self.settings.keeps == "odd" else None
        train = case.train.replace(images=images, labels=labels % case.train.num_classes)
        model = case.model.clone() if self.settings.trains and case.model is not None else None
        return Outcome(train=train, kept=kept, model=model, augmentation=Augmentation(noise=0.125), noise_level=0.25)


class InvertEach(Invert):
    name, by_image = "invert_each", True


class Ask(Defense):
    """Repairs nothing, and remembers what it was given."""

    name, kind, needs, card = "ask", "repair", frozenset({"model", "clean"}), CARD

    def defend(self, case: Case, context: Context) -> Outcome:
        assert case.model is not None
        SEEN.append((self.name, case))
        return Outcome(model=case.model.clone())


@pytest.fixture(autouse=True, scope="module")
def registered() -> Iterator[None]:
    class Mine:
        @hookimpl
        def elixir_defenses(self) -> list[Entry]:
            return [Entry(cls.name, cls, kind=cls.kind) for cls in (Corner, Invert, InvertEach, Ask)]

    mine = Mine()
    plugins().register(mine, "pipeline tests")
    yield
    plugins()._forget(mine, "pipeline tests")


@pytest.fixture(autouse=True)
def unseen() -> None:
    SEEN.clear()
    Invert.calls.clear()


def run(*steps: Any, case: Case = CASE, folder: Path | None = None, **values: Any) -> Outcome:
    return get_defense("pipeline")(steps=list(steps), **values).run(case, Context(seed=3, work_dir=folder))


def seen(name: str) -> Case:
    return next(case for who, case in SEEN if who == name)


def refusal(*steps: Any) -> SettingsError:
    with pytest.raises(SettingsError) as caught:
        get_defense("pipeline")(steps=list(steps))
    return caught.value


# settings


@pytest.mark.parametrize(
    "step",
    [
        {"invert": {"shift": 2}, "only": "flagged"},
        {"invert": {"shift": 2, "only": "flagged"}},
        {"only": "flagged", "invert": {"shift": 2}},
        {"step": "invert", "settings": {"shift": 2}, "only": "flagged"},
    ],
)
def test_a_step_may_be_written_in_several_ways(step: dict[str, Any]) -> None:
    settings = Pipeline(steps=["corner", step]).settings
    assert settings == Pipeline(steps=[{"corner": {}}, {"invert": {"shift": 2}, "only": "flagged"}]).settings
    own = {"shift": 2, "trains": False, "keeps": "all", "targets": []}
    assert settings.dump()["steps"][1] == {"step": "invert", "settings": own, "only": "flagged"}
    assert type(settings).build(settings.dump()) == settings


def test_an_option_never_stands_for_a_setting_of_the_same_name() -> None:
    (step,) = Pipeline(steps=[{"corner": {"only": 3}}]).settings.steps
    assert step.settings["only"] == 3 and step.only is None
    both = [{"corner": {}}, {"step": "corner", "settings": {"only": 2}, "drop": "flagged"}]
    assert Pipeline(steps=both).settings.steps[1].options() == {"drop": "flagged"}


def test_presets_of_steps_are_spelled_out() -> None:
    pipeline = Pipeline(steps=[{"d3": {"preset": "code"}}, {"retrain": {"recipe": "fast"}}])
    assert pipeline.steps[0].defense.settings == get_defense("d3")(preset="code").settings
    assert pipeline.steps[1].defense.settings.recipe == Retraining.build(preset="fast")


def test_a_run_file_a_command_line_and_python_say_the_same(tmp_path: Path) -> None:
    from elixir_plugin.core.settings import parse_assignments
    from elixir_plugin.runs.spec import RunSpec

    text = "[corner, {invert: {shift: 2}, only: flagged}]"
    file = tmp_path / "run.yaml"
    file.write_text(f"defense: pipeline\nsource: testbed:badnets\nsettings:\n  steps: {text}\n")
    told = [RunSpec.from_yaml(file).settings, parse_assignments([f"steps={text}"])]
    assert len({Pipeline(each).settings.fingerprint() for each in told}) == 1


def test_the_kind_and_needs_are_those_of_the_steps() -> None:
    pipeline = Pipeline(steps=["corner", BRIEF, "ask"])
    assert (pipeline.kind, pipeline.needs) == ("repair", {"train", "clean"})
    assert Pipeline(steps=["ask"]).needs == {"model", "clean"} and Pipeline(steps=["corner"]).kind == "detect"
    assert Pipeline(steps=["corner", {"ask": {}, "clean_from": "kept"}]).needs == {"train", "model"}
    assert Pipeline(steps=["d3"]).trains_on_clean and not Pipeline(steps=["corner"]).trains_on_clean
    assert Pipeline.kind == "train" and Pipeline.needs == {"train"}  # of the class, nothing is known


def test_a_setting_that_was_renamed_or_added_keeps_the_identity() -> None:
    class Renamed(CornerSettings):
        former: ClassVar[dict[str, str]] = {"start": "first"}
        added: ClassVar[dict[str, Any]] = {"only": 0}

    before = Pipeline(steps=[{"corner": {"first": 2}}]).settings
    values = before.under_first_names(before.dump())
    assert values["steps"][0]["settings"] == {"first": 2, "only": 0}
    plain = Corner.Settings
    try:
        Corner.Settings = Renamed
        assert before.under_first_names(before.dump())["steps"][0]["settings"] == {"start": 2}
    finally:
        Corner.Settings = plain


# steps that are refused


@pytest.mark.parametrize(
    ("steps", "what", "where"),
    [
        ([{"cornr": {}}], "unknown step", "steps.1"),
        ([{"corner": {}, "onyl": "flagged"}], "a step names one defense", "steps.1"),
        ([{"corner": {}, "invert": {}}], "a step names one defense", "steps.1"),
        (["corner", {"only": "flagged"}], "a step names one defense", "steps.2"),
        ([{"step": "corner", "olny": "flagged"}], "unknown option", "steps.1 (corner)"),
        ([7], "not a step", "steps.1"),
        ([{"corner": 7}], "settings of a step are a mapping", "steps.1 (corner)"),
        ([{"corner": {"frist": 1}}], "settings refused", "steps.1 (corner)"),
        (["corner", {"invert": {"only": "flagged"}, "only": "flagged"}], "an option is given twice",
         "steps.2 (invert)"),
        (["pipeline"], "a pipeline is no step", "steps.1"),
        ([{"invert": {}, "only": "flagged"}], "nothing has been flagged by then", "steps.1 (invert): only"),
        (["invert", {**BRIEF, "drop": "flagged"}], "nothing has been flagged by then", "steps.2 (retrain): drop"),
        (["corner", {"ask": {}, "drop": "flagged"}], "this step has no use for the suspect set", "steps.2 (ask): drop"),
        (["corner", {"ask": {}, "only": "flagged"}], "this step purifies nothing", "steps.2 (ask): only"),
        (["corner", {"invert": {}, "clean_from": "kept"}], "this step has no use for a reserved clean set",
         "steps.2 (invert): clean_from"),
        (["corner", {"jpeg": {}, "target": "from_flags"}], "this defense cannot be told the target",
         "steps.2 (jpeg): target"),
        (["corner", {**BRIEF, "on": "suspect"}], "retrain starts from fresh weights", "steps.2 (retrain): on"),
        (["corner", {"ask": {}, "on": "model"}], "no step before makes a model", "steps.2 (ask): on"),
        (["corner", {"invert": {}, "only": "flagged", "drop": "flagged"}], "these exclude each other",
         "steps.2 (invert)"),
    ],
)  # fmt: skip
def test_a_bad_step_is_one_clear_error(steps: list[Any], what: str, where: str) -> None:
    error = refusal(*steps)
    assert (error.what, error.where) == (what, f"settings of pipeline: {where}")


def test_what_is_meant_is_guessed() -> None:
    assert "'corner'" in str(refusal("cornr").hint) and "'retrain'" in str(refusal("retrian").hint)
    assert "'dataelixir'" in str(refusal({"dataelixr": {}}).hint) and "retrain, " in str(refusal("nothing").allowed)
    assert "only" in str(refusal({"step": "corner", "olny": 1}).hint)


def test_lists_that_are_none_are_refused() -> None:
    for value in ([], {"corner": {}}, "corner", None, 3):
        with pytest.raises(SettingsError, match="steps"):
            Pipeline(steps=value)


def test_values_of_options_are_checked() -> None:
    with pytest.raises(SettingsError, match="unrepaired"):
        Pipeline(steps=["corner", {**BRIEF, "drop": "all"}])


@pytest.mark.parametrize(
    ("steps", "absent", "message"),
    [
        (["ask"], {"model": None}, "ask needs 'model', which this case does not hold, and no step before makes"),
        (["corner", "ask"], {"model": None}, "2 ask"),
        (["corner", {**BRIEF}, {"ask": {}, "on": "suspect"}], {"model": None}, "3 ask"),
        (["corner", "ask"], {"clean": None}, "clean_from=kept"),
        (["corner"], {"train": None, "truth": None}, "corner needs 'train'"),
    ],
)
def test_what_no_step_provides_is_refused_before_any_work(
    steps: list[Any], absent: dict[str, Any], message: str
) -> None:
    with pytest.raises(MissingNeedError) as caught:
        run(*steps, case=dataclasses.replace(CASE, **absent))
    assert message in str(caught.value) and not SEEN


def test_a_step_that_refuses_the_case_does_so_before_any_work() -> None:
    with pytest.raises(SettingsError) as caught:
        run("corner", {"retrain": {"recipe": {"architecture": "resnet1000"}}})
    assert str(caught.value.where).startswith("pipeline: step 2 retrain") and not SEEN


# what is handed on


def test_the_steps_see_no_truth_and_count_from_0() -> None:
    run({"corner": {"first": 1}}, {"corner": {}, "drop": "flagged"}, {"invert": {}, "only": "flagged"})
    for name, case in SEEN:
        assert not leaks(CASE, case), name
        assert case.train is not None and case.train.ids.tolist() == list(range(len(case.train)))


def test_dropped_samples_stay_out_and_positions_are_those_of_the_suspect_set() -> None:
    outcome = run("corner", {"corner": {"first": 2}, "drop": "flagged"})
    given = SEEN[1][1].train
    assert given is not None and len(given) == N - POISON.sum()
    left = np.flatnonzero(~POISON)
    expected = POISON.copy()
    expected[left[:2]] = True  # the first two of those left
    assert outcome.flagged is not None and outcome.scores is not None and outcome.kept is not None
    assert np.array_equal(outcome.flagged, expected) and np.array_equal(outcome.kept, left[2:])
    assert (outcome.scores[POISON] > outcome.scores[~POISON].max()).all()
    samples = outcome.tables["samples"]
    rank = samples["2 corner: rank"]
    assert [rank[row] for row in np.flatnonzero(POISON)] == [None] * POISON.sum()
    assert [rank[row] for row in left] == list(range(len(left)))
    assert samples["1 corner: flagged"] == POISON.tolist()
    assert outcome.tables["steps"][1]["rows"] == left.tolist() and outcome.tables["steps"][0]["rows"] is None


@pytest.mark.parametrize("name", ["invert", "invert_each"])
def test_only_flagged_samples_are_changed(name: str) -> None:
    outcome = run("corner", {name: {}, "only": "flagged"})
    before, train = TRAIN.read(slice(None)), outcome.train
    assert train is not None and outcome.kept is not None and len(outcome.kept) == N
    after = train.read(slice(None))
    assert train.images.dtype == TRAIN.images.dtype and np.array_equal(after[~POISON], before[~POISON])
    assert np.array_equal(train.labels[~POISON], TRAIN.labels[~POISON])
    assert np.array_equal(after[POISON], 255 - before[POISON]) and (train.labels[POISON] == 1).all()
    given = seen(name).train
    assert given is not None and len(given) == (POISON.sum() if name == "invert_each" else N)
    assert outcome.tables["steps"][1]["images"] == outcome.tables["steps"][1]["labels"] == POISON.sum()


def test_a_purifier_that_keeps_some_drops_suspects_alone() -> None:
    outcome = run({"corner": {"first": 4}}, {"invert": {"keeps": "odd"}, "only": "flagged"})
    flagged = POISON.copy()
    flagged[:4] = True
    gone = np.flatnonzero(flagged & (np.arange(N) % 2 == 0))
    assert outcome.kept is not None and np.array_equal(outcome.kept, np.setdiff1d(np.arange(N), gone))


def test_unrepaired_are_those_flagged_that_nothing_has_changed_since() -> None:
    outcome = run({"corner": {"first": 2}}, {"dataelixir": ELIXIR, "only": "flagged"}, {**BRIEF, "drop": "unrepaired"})
    changed = outcome.train is not None and (
        (outcome.train.read(slice(None)) != TRAIN.read(slice(None))).any((1, 2, 3))
        | (outcome.train.labels != TRAIN.labels)
    )
    assert outcome.flagged is not None and outcome.kept is not None
    out = outcome.flagged & ~np.asarray(changed)
    assert np.array_equal(outcome.kept, np.flatnonzero(~out))


def test_dataelixir_purifies_no_other_samples_once_it_knows_the_target(monkeypatch: pytest.MonkeyPatch) -> None:
    from elixir_plugin.defenses.dataelixir import defense as module

    purified: list[int] = []
    make = module.make_copies

    def counting(purifier: Any, rows: Any, *rest: Any) -> Any:
        purified.append(len(rows))
        return make(purifier, rows, *rest)

    monkeypatch.setattr(module, "make_copies", counting)
    without = {key: each for key, each in ELIXIR.items() if key != "detection"}
    outcome = run("corner", {"dataelixir": without, "only": "flagged", "target": "from_flags"})
    assert purified == [int(POISON.sum())] and outcome.tables["steps"][1]["targets"] == [0]
    train = TRAIN if outcome.train is None else outcome.train
    assert np.array_equal(train.read(slice(None))[~POISON], TRAIN.read(slice(None))[~POISON])


def test_targets_are_the_classes_with_most_flagged_samples() -> None:
    run({"corner": {"first": 3}}, {"invert": {}, "target": "from_flags"})  # classes 0, 1, 2 hold one more each
    assert Invert.calls == [(0,)]
    run({"corner": {"first": 40}}, {"invert": {}, "target": "from_flags"})
    assert Invert.calls[1] == (0, 2, 3)  # of the first 40 of class 1, eight are poison of class 0


def test_what_is_kept_serves_as_further_reference_and_is_said_to_be_unverified() -> None:
    outcome = run("corner", {"ask": {}, "clean_from": "kept"})
    clean = seen("ask").clean
    assert clean is not None and len(clean) == len(CLEAN) + N - POISON.sum()
    assert np.array_equal(clean.read(slice(0, len(CLEAN))), CLEAN.read(slice(None)))
    assert np.array_equal(clean.labels[len(CLEAN) :], TRAIN.labels[~POISON])
    assert outcome.tables["steps"][1]["clean"] == {"verified": 48, "not_verified": 88}
    assert any(note.startswith("step 2 ask: 88 samples") and "not verified" in note for note in outcome.notes)


def test_what_is_kept_may_be_all_the_reference_there_is() -> None:
    outcome = run("corner", {"ask": {}, "clean_from": "kept"}, case=dataclasses.replace(CASE, clean=None))
    assert outcome.tables["steps"][1]["clean"] == {"verified": 0, "not_verified": 88}


def test_floats_and_bytes_go_together_in_a_reference() -> None:
    clean = ImageSet(CLEAN.read(slice(None)).astype(np.float32) / 255, CLEAN.labels, 4)
    run("corner", {"ask": {}, "clean_from": "kept"}, case=dataclasses.replace(CASE, clean=clean))
    given = seen("ask").clean
    assert given is not None and given.images.dtype == np.float32
    assert np.array_equal(given.read(slice(48, 50)), TRAIN.read(np.flatnonzero(~POISON)[:2]).astype(np.float32) / 255)


def test_a_repair_is_given_the_model_made_before_and_others_the_suspect_one() -> None:
    assert CASE.model is not None
    outcome = run("corner", BRIEF, "ask", {"corner": {}}, {"ask": {}, "on": "suspect"})
    asked = [case.model for who, case in SEEN if who == "ask"]
    suspect = CASE.model.fingerprint()
    assert asked[0] is not None and asked[0].fingerprint() != suspect
    assert asked[1] is not None and asked[1].fingerprint() == suspect
    looked = [case.model for who, case in SEEN if who == "corner"][1]
    assert looked is not None and looked.fingerprint() == suspect
    assert outcome.model is not None and outcome.model.fingerprint() == suspect


def test_without_a_suspect_model_a_repair_takes_what_retrain_made() -> None:
    outcome = run(BRIEF, "ask", case=dataclasses.replace(CASE, model=None))
    assert outcome.model is not None and seen("ask").model is not None


def test_a_model_that_saw_what_is_taken_back_is_not_handed_on() -> None:
    outcome = run("corner", {"invert": {"trains": True}, "only": "flagged"})
    assert outcome.model is None and any("not handed on" in note for note in outcome.notes)
    assert run("corner", {"invert_each": {"trains": True}, "only": "flagged"}).model is not None


def test_retraining_is_that_of_a_run_with_retrain(tmp_path: Path) -> None:
    plan = Retraining.build({"epochs": 2, "batch_size": 32, "augmentation": {"flip": False}})
    outcome = run("corner", {"retrain": {"recipe": plan.dump()}, "drop": "flagged"}, folder=tmp_path)
    alone = retrain(CASE, Outcome(flagged=POISON), plan, Context(seed=3))
    assert outcome.model is not None and outcome.model.fingerprint() == alone.fingerprint()


def test_what_belongs_to_training_on_a_purified_set_is_handed_to_retrain(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    defend = Retrain.defend

    def remembering(self: Retrain, case: Case, context: Context) -> Outcome:
        told.append(self.added)
        return defend(self, case, context)

    monkeypatch.setattr(Retrain, "defend", remembering)
    outcome = run("invert", BRIEF)
    assert told == [Augmentation(noise=0.125)] == [outcome.augmentation] and outcome.noise_level == 0.25


def test_the_first_step_finds_what_it_finds_alone() -> None:
    alone = get_defense("drop_class")(SHORT["drop_class"]).run(CASE, Context(seed=3))
    outcome = run({"drop_class": SHORT["drop_class"]})
    assert same_outcome(alone, dataclasses.replace(alone, scores=outcome.scores, flagged=outcome.flagged)) == []


# the end


def test_a_step_that_finds_nothing_ends_the_pipeline_where_that_is_wanted() -> None:
    honest = dataclasses.replace(CASE, train=CLEAN, truth=None)
    outcome = run("corner", "invert", BRIEF, case=honest, stop_if_clean=True)
    assert [each["state"] for each in outcome.tables["steps"]] == ["done", "not reached", "not reached"]
    assert outcome.train is None and outcome.kept is not None and len(outcome.kept) == len(CLEAN)
    assert outcome.model is not None and CASE.model is not None
    assert outcome.model.fingerprint() == CASE.model.fingerprint() and outcome.tables["stopped"]
    assert any("found nothing" in note for note in outcome.notes)
    assert run("corner", "invert", case=honest).train is not None
    assert run("corner", "invert", stop_if_clean=True).train is not None  # there is something


def test_a_step_for_flagged_samples_is_left_out_where_there_are_none() -> None:
    honest = dataclasses.replace(CASE, train=CLEAN, truth=None)
    outcome = run("corner", {"invert": {}, "only": "flagged"}, {**BRIEF, "drop": "flagged"}, case=honest)
    assert [each["state"] for each in outcome.tables["steps"]] == ["done", "skipped", "done"]
    assert "step 2 invert: left out: nothing was flagged" in outcome.notes and outcome.train is None


def test_nothing_left_is_one_clear_error() -> None:
    with pytest.raises(InputError, match="no sample is left") as caught:
        run({"corner": {"first": N}}, {**BRIEF, "drop": "flagged"})
    assert caught.value.where == "step 2 retrain"


def test_a_pipeline_of_repairs_says_nothing_of_the_set() -> None:
    outcome = run("ask")
    assert outcome.train is None and outcome.kept is None and outcome.flagged is None and outcome.model is not None


def test_a_pipeline_that_detects_leaves_out_what_it_flagged() -> None:
    outcome = run("invert", {"corner": {"first": 3}})
    assert outcome.flagged is not None and outcome.flagged.sum() == 3 and outcome.kept is not None
    assert np.array_equal(outcome.kept, np.arange(3, N))  # changed before, but not since


# reports and numbers


def test_every_step_is_measured_on_what_it_was_given() -> None:
    outcome = run("corner", {"invert": {}, "only": "flagged"}, {"corner": {}, "drop": "flagged"}, BRIEF)
    steps = evaluate(CASE, outcome).steps
    assert [(each.label, each.samples) for each in steps] == [
        ("1 corner", N), ("2 invert", N), ("3 corner", N - POISON.sum()), ("4 retrain", N - POISON.sum())
    ]  # fmt: skip
    first, second, third, last = steps
    assert first.detection is not None and (first.detection.tpr, first.detection.fpr) == (1.0, 0.0)
    assert second.repair is not None and (second.repair.change_recall, second.repair.change_fpr) == (1.0, 0.0)
    assert second.repair.relabelled_right == 1.0  # poison of class 1, moved from 0 to 1
    assert third.detection is not None and third.detection.poison == 0
    assert last.after is not None and last.after.acc is not None and first.after is None


def test_the_way_of_the_set_adds_up() -> None:
    outcome = run({"corner": {"first": 4}}, {"invert_each": {"shift": 0}, "only": "flagged"},
                  {"corner": {"first": 1}, "drop": "flagged"})  # fmt: skip
    pipeline = Pipeline(steps=[{"corner": {"first": 4}}, {"invert_each": {"shift": 0}, "only": "flagged"},
                               {"corner": {"first": 1}, "drop": "flagged"}])  # fmt: skip
    flow = pipeline.panels(outcome)[0]
    assert isinstance(flow, Flow)
    assert [sum(stage.parts.values()) for stage in flow.stages] == [N] * 5
    assert flow.stages[1].parts["flagged"] == 11 and flow.stages[2].parts["purified"] == 11
    assert flow.stages[3].parts == {"as it came": 84, "flagged": 1, "purified": 0, "relabelled": 0, "dropped": 11}
    assert flow.caption == (
        "suspect set: 96 in; 1 corner: 11 flagged; 2 invert_each: 11 purified; 3 corner: 1 flagged, 11 dropped; "
        "to go on with: 84 out."
    )


def test_panels_of_the_steps_carry_their_names() -> None:
    steps = [{"drop_class": SHORT["drop_class"]}, {"d3": {"epochs": 1}}]
    outcome = run(*steps)
    titles = [panel.title for panel in Pipeline(steps=steps).panels(outcome)]
    assert titles[:2] == ["The way of the set", "Step by step"] and any(each.startswith("2 d3: ") for each in titles)


def test_the_dry_run_prices_each_step(brief_measurements: None) -> None:
    steps = [{"corner": {}}, {"dataelixir": ELIXIR, "only": "flagged"}, {**BRIEF, "drop": "flagged"}, "ask"]
    facts = Pipeline(steps=steps).estimate(CASE, Context())
    assert list(facts)[:4] == ["1 corner", "2 dataelixir (at most)", "3 retrain", "4 ask"]
    assert facts["not_priced"] == "1 corner, 4 ask" and facts["3 retrain"]["epochs"] == 1
    parts = [facts[label]["seconds_total"] for label in ("2 dataelixir (at most)", "3 retrain")]
    assert facts["seconds_total"] == sum(parts) and facts["nfe_total"] == facts["2 dataelixir (at most)"]["nfe_total"]


# what is left of the backdoor


def test_what_is_left_is_estimated_on_flagged_samples_that_were_dropped() -> None:
    outcome = run("corner", {**BRIEF, "drop": "flagged"})
    found = outcome.tables["remaining"]
    assert outcome.model is not None and CASE.model is not None
    suspects = TRAIN.subset(POISON)
    share = float((outcome.model.predict(suspects).argmax(1) == 0).mean())
    control = float((CASE.model.predict(suspects).argmax(1) == 0).mean())
    assert (found["samples"], found["share"], found["control"], found["targets"]) == (8, share, control, [0])
    assert 0 <= found["low"] <= share <= found["high"] <= 1 and found["high"] - found["low"] > 0.3
    remaining, after = evaluate(CASE, outcome).remaining, evaluate(CASE, outcome).after
    assert remaining is not None and after is not None and remaining.asr == after.asr
    assert any(note.startswith("estimated ASR") for note in outcome.notes)


def test_false_alarms_of_other_classes_do_not_count() -> None:
    outcome = run({"corner": {"first": 4}}, {**BRIEF, "drop": "flagged"})  # one each of classes 2 and 3, two of 0
    assert outcome.tables["remaining"]["samples"] == 9 and outcome.flagged is not None and outcome.flagged.sum() == 11


def test_samples_are_held_back_from_all_that_follows() -> None:
    steps = [{"corner": {}}, {"invert_each": {}, "only": "flagged"}, BRIEF]
    outcome = run(*steps, case=MORE, hold_back=0.5)
    given = seen("invert_each").train
    assert given is not None and len(given) == 12 and outcome.kept is not None and outcome.flagged is not None
    assert len(outcome.kept) == len(MORE.train or ()) - 12 and outcome.flagged.sum() == 24
    held = np.setdiff1d(np.flatnonzero(outcome.flagged), outcome.kept)
    assert outcome.tables["remaining"]["samples"] == len(held) == 12
    again = run(*steps, case=MORE, hold_back=0.5)
    assert same_outcome(outcome, again) == []
    assert np.isin(held, np.flatnonzero(outcome.flagged)).all()


MORE = dataclasses.replace(
    CASE,
    train=ImageSet(np.tile(TRAIN.read(slice(None)), (3, 1, 1, 1)), np.tile(TRAIN.labels, 3), 4),
    truth=None,
)


@pytest.mark.parametrize(
    "steps",
    [
        ["corner", BRIEF],  # the flagged were trained on
        ["corner", {"invert_each": {}, "only": "flagged"}, BRIEF],
        [{**BRIEF}],  # nothing is flagged
        ["corner", {"corner": {}, "drop": "flagged"}],  # no model
    ],
)
def test_where_nothing_can_be_estimated_nothing_is(steps: list[Any]) -> None:
    outcome = run(*steps)
    assert "remaining" not in outcome.tables and evaluate(CASE, outcome).remaining is None


# kills


STEPS: list[Any] = SHORT["pipeline"]["steps"]


class Killed(BaseException):
    """What a kill does to everything between."""


def outcome_of(folder: Path) -> Outcome:
    return Pipeline(steps=STEPS).run(CASE, Context(seed=3, work_dir=folder))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return outcome_of(tmp_path_factory.mktemp("whole"))


def test_killed_at_every_boundary_the_result_is_the_same(
    whole: Outcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, done = store._write, []

    def killed(folder: Path, *rest: Any) -> None:
        if folder.name not in done:  # once before the step is kept, once after
            done.append(folder.name)
            raise Killed
        write(folder, *rest)
        done.append(f"{folder.name} kept")
        raise Killed

    monkeypatch.setattr(store, "_write", killed)
    for _ in range(2 * len(STEPS)):
        with pytest.raises(Killed):
            outcome_of(tmp_path)
    names = ["1-drop_class", "2-dataelixir", "3-retrain", "4-d3"]
    assert done == [each for name in names for each in (name, f"{name} kept")]
    resumed = outcome_of(tmp_path)
    assert same_outcome(resumed, whole) == [] and resumed.notes == whole.notes
    assert evaluate(CASE, resumed) == evaluate(CASE, whole)


def test_killed_inside_every_step_the_result_is_the_same(
    whole: Outcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages: set[str] = set()

    def kill_at_the_end(self: Context, name: str) -> Any:
        return ending(stage(self, name), f"{self.work_dir}: {name}", stages)

    stage = Context.stage
    monkeypatch.setattr(Context, "stage", kill_at_the_end)
    for _ in range(40):
        try:
            resumed = outcome_of(tmp_path)
            break
        except Killed:
            continue
    assert {each.split("/")[-2] for each in stages if "work" in each} == {
        "1-drop_class", "2-dataelixir", "3-retrain", "4-d3"
    }  # fmt: skip
    assert same_outcome(resumed, whole) == [] and resumed.notes == whole.notes


class ending:
    """Do as *inner*, and raise :class:`Killed` at the end of a stage that has not been killed before."""

    def __init__(self, inner: Any, name: str, known: set[str]) -> None:
        self.inner, self.name, self.known = inner, name, known

    def __enter__(self) -> None:
        self.inner.__enter__()

    def __exit__(self, *error: Any) -> None:
        self.inner.__exit__(*error)
        if error[0] is None and self.name not in self.known:
            self.known.add(self.name)
            raise Killed


def test_what_is_kept_of_other_steps_is_not_taken(tmp_path: Path) -> None:
    run({"corner": {"first": 1}}, "invert", folder=tmp_path)
    again = run({"corner": {"first": 3}}, "invert", folder=tmp_path)
    assert again.tables["steps"][0]["flagged"] == POISON.sum() + 2 and len(SEEN) == 3  # invert was given the same
    run({"corner": {"first": 3}}, {"invert": {}, "only": "flagged"}, folder=tmp_path)
    assert [name for name, _ in SEEN] == ["corner", "invert", "corner", "invert"]


def test_a_damaged_step_is_done_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = run("corner", "invert", folder=tmp_path)
    (tmp_path / "pipeline" / "1-corner" / "outcome" / "outcome.json").write_text("{")
    (tmp_path / "pipeline" / "2-invert" / "step.json").write_text("[1, 2")
    assert same_outcome(run("corner", "invert", folder=tmp_path), first) == [] and len(SEEN) == 4
    assert sum("done again" in record.message for record in caplog.records) == 2


def test_the_stages_of_a_step_carry_its_name(tmp_path: Path) -> None:
    told: list[str] = []
    context = Context(seed=3, work_dir=tmp_path, on_stage=lambda stage, seconds: told.append(stage))
    outcome = Pipeline(steps=["corner", BRIEF]).run(CASE, context)
    assert "1 corner: look" in told and "2 retrain: retrain on kept" in told
    assert {"1 corner: look", "2 retrain: retrain on kept"} <= outcome.timings.keys()


def test_a_pipeline_conforms_whatever_its_kind() -> None:
    for steps in (["corner"], ["corner", {"invert_each": {}, "only": "flagged"}], ["ask"]):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Pipeline, "needs", Pipeline(steps=steps).needs)
            check_defense(Pipeline, steps=steps)

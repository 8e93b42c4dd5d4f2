"""How fast a backdoor comes back: what relearns, from what, and what is said of it."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from elixir_plugin import Context, get_defense
from elixir_plugin.core.case import Case, TriggeredSet, Truth
from elixir_plugin.core.classifier.classifier import Classifier
from elixir_plugin.core.images import ImageSet
from elixir_plugin.core.metrics import Evaluation, RelearnedModel, RelearnedPath, Relearning
from elixir_plugin.core.outcome import Outcome, same_outcome
from elixir_plugin.core.panels import Lines, Table
from elixir_plugin.errors import InputError, RunError
from elixir_plugin.evaluation import relearning
from elixir_plugin.evaluation.measure import execute
from elixir_plugin.evaluation.relearned import relearning_panels, sentence_of, shown_path
from elixir_plugin.evaluation.relearning import CLEAN, POISON, estimate_relearning, measure_relearning, never_poisoned
from elixir_plugin.evaluation.retraining import Retraining
from elixir_plugin.testbed.adapter import Testbed
from elixir_plugin.testing.defenses import tiny_case

PLAN = Retraining(epochs=1, batch_size=32)


def shorten(monkeypatch: pytest.MonkeyPatch, steps: tuple[int, ...], samples: tuple[int, ...]) -> None:
    monkeypatch.setattr(relearning, "STEPS", steps)
    monkeypatch.setattr(relearning, "SAMPLES", samples)
    monkeypatch.setattr(relearning, "TUNING", relearning.TUNING.model_copy(update={"epochs": len(steps) - 1}))


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take few steps, where a test does not look at how many are needed."""
    shorten(monkeypatch, (0, 1, 3), (2, 4))


def outcome_of(case: Case) -> Outcome:
    assert case.model is not None
    return Outcome(model=case.model.clone())


def measured(case: Case, context: Context | None = None, outcome: Outcome | None = None) -> Relearning:
    found = measure_relearning(case, outcome or outcome_of(case), context or Context(), PLAN)
    assert found is not None
    return found


def weights(model: Classifier) -> list[tuple[str, bytes]]:
    return [(name, value.numpy().tobytes()) for name, value in model.module.state_dict().items()]


def test_of_digits_the_suspect_model_needs_no_step_and_the_others_some(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten(monkeypatch, (0, 5, 10, 20, 30), (20,))
    case = Testbed({"size": 8, "clean": 100, "test": 700, "recipe": {"epochs": 8}}).read(Path("badnets"), 1)
    plan = Retraining.build({"epochs": 8, "batch_size": 64, "augmentation": {"crop": 0, "flip": False}})
    _, evaluation = execute(get_defense("d3")(steps=80), case, Context(seed=1), plan, relearn=True)
    found = evaluation.relearning
    assert found is not None and list(found.models) == ["after", "never_poisoned", "before"]
    after, never, before = (model.paths[0] for model in found.models.values())
    assert (before.reached, before.asr[0]) == (0, evaluation.before.asr) and before.asr[0] > 0.95
    assert after.asr[0] == evaluation.after.asr < 0.5
    assert never.asr[0] < 0.1 and found.models["never_poisoned"].acc > 0.9
    for path in (after, never):
        assert 0 < path.reached <= 30 and path.asr[-1] > 0.5 > path.asr[0]
    assert min(model.paths[0].acc for model in found.models.values()) > 0.8  # no model has collapsed
    assert found.sentence == (
        f"20 poison samples bring the backdoor back to 50 % ASR within {after.reached} steps; a model that was never "
        f"poisoned needs {never.reached}."
    )


@pytest.mark.usefixtures("brief")
def test_asr_is_that_of_copies_and_nothing_is_changed() -> None:
    case = tiny_case()
    outcome = outcome_of(case)
    start, given = weights(outcome.model), weights(case.model)
    found = measured(case, outcome=outcome)
    assert weights(outcome.model) == start and weights(case.model) == given
    assert found.steps == [0, 1, 3] and found.goal == 0.5 and found.triggered == 36
    paths = [(path.samples, len(path.asr)) for model in found.models.values() for path in model.paths]
    assert paths == [(2, 3), (4, 3)] * 3
    assert found.models["after"] == found.models["before"] != found.models["never_poisoned"]
    assert len({path.asr[0] for path in found.models["after"].paths}) == 1


@pytest.mark.usefixtures("brief")
def test_the_outcome_of_a_defense_is_the_same_with_it() -> None:
    case, defense = tiny_case(), get_defense("random_head")(epochs=2)
    plain, without = execute(defense, case, Context(seed=4), PLAN)
    tested, found = execute(defense, case, Context(seed=4), PLAN, relearn=True)
    assert same_outcome(plain, tested) == []
    assert without.relearning is None and found.relearning is not None
    assert dataclasses.replace(found, relearning=None) == without
    frozen = [name for name, weight in tested.model.named_parameters() if not weight.requires_grad]
    assert frozen  # random_head trains one layer; a copy of its model relearns with all
    after = found.relearning.models["after"]
    assert after == measured(case, Context(seed=4), Outcome(model=plain.model)).models["after"]


def test_every_batch_holds_as_many_poison_samples_and_fewer_are_the_first_of_more() -> None:
    case, context = tiny_case(), Context(seed=2)
    test = relearning._Test.of(case, context)
    assert len(test.poison) == 8  # all there are
    for count in (3, 8):
        source = relearning._Mixture(test, count, context)
        batches = [batch for epoch in range(2) for batch in source.epoch(epoch)]
        assert len(batches) == relearning.STEPS[2]
        for batch in batches:
            assert batch.images.shape == (CLEAN + POISON, 3, 8, 8)
            assert (batch.rows[CLEAN:] < count).all() and (batch.targets[CLEAN:] == 0).all()
            assert (batch.images[CLEAN:, :, -2:, -2:] == 1).all() and not (batch.images[:CLEAN, :, -2:, -2:] == 1).all()
        drawn = torch.cat([batch.rows[CLEAN:] for batch in batches])
        assert torch.bincount(drawn).max() - torch.bincount(drawn).min() <= 1
    again = relearning._Mixture(test, 8, context)
    assert all(torch.equal(one.rows, two.rows) for one, two in zip(again.epoch(0), source.epoch(0), strict=True))


def test_numbers_of_poison_samples_end_at_what_there_is() -> None:
    assert [relearning._numbers(count) for count in (1, 5, 8, 50, 900)] == [
        [1], [5], [5, 8], [5, 20, 50], [5, 20, 50],
    ]  # fmt: skip


def with_truth(case: Case, poison: np.ndarray, cover: np.ndarray | None = None, kind: str = "dirty-label") -> Case:
    return dataclasses.replace(case, truth=Truth(poison, cover, case.truth.original_labels, kind))


@pytest.mark.usefixtures("brief")
def test_the_never_poisoned_model_sees_neither_poison_nor_cover(monkeypatch: pytest.MonkeyPatch) -> None:
    case, seen = tiny_case(), []

    def learn(model: Classifier, images: ImageSet, *_: object, **__: object) -> None:
        seen.append(images.ids.tolist())
        model.eval()

    monkeypatch.setattr(relearning, "learn", learn)
    cover = np.arange(96) % 10 == 3
    model = never_poisoned(with_truth(case, case.truth.poison, cover), case.model, PLAN, Context())
    assert seen == [np.flatnonzero(~case.truth.poison & ~cover).tolist()]
    assert model.architecture == case.model.architecture and weights(model) != weights(case.model)


@pytest.mark.usefixtures("brief")
def test_clean_label_poison_relearns_under_the_label_it_has() -> None:
    case = tiny_case()
    poison = np.isin(np.arange(96), np.flatnonzero(case.truth.original_labels == 0)[:8])
    found = measured(with_truth(case, poison, kind="clean-label"))
    assert [path.samples for path in found.models["after"].paths] == [2, 4]


@pytest.mark.usefixtures("brief")
def test_without_a_reserved_clean_set_clean_suspects_are_mixed_in() -> None:
    case, context = dataclasses.replace(tiny_case(), clean=None), Context()
    test = relearning._Test.of(case, context)
    assert len(test.clean) == 88
    assert context.notes == ["relearning: without a reserved clean set, clean samples of the suspect set were mixed in"]


@pytest.mark.usefixtures("brief")
def test_without_a_suspect_model_two_models_are_compared() -> None:
    case = tiny_case()
    blind = dataclasses.replace(case, model=None)
    assert list(measured(blind, outcome=outcome_of(case)).models) == ["after", "never_poisoned"]
    trained = Outcome(model=case.model.clone(), undefended=case.model.clone())
    assert list(measured(blind, outcome=trained).models) == ["after", "never_poisoned", "before"]
    no_test = measured(dataclasses.replace(case, test=None))
    assert {model.acc for model in no_test.models.values()} == {None}


@pytest.mark.usefixtures("brief")
def test_a_network_without_a_name_is_drawn_anew_or_the_run_goes_on() -> None:
    case = tiny_case()
    plain = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    unnamed = dataclasses.replace(case, model=Classifier(plain, 4).eval())
    assert list(measured(unnamed).models) == ["after", "never_poisoned", "before"]
    assert weights(never_poisoned(case, unnamed.model, PLAN, Context())) != weights(unnamed.model)

    class Undrawable(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale, self.net = nn.Parameter(torch.ones(1)), plain

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.scale * self.net(images)

    odd = dataclasses.replace(case, model=Classifier(Undrawable(), 4).eval())
    context = Context(any_model=True)
    _, found = execute(get_defense("finetune")(epochs=1), odd, context, PLAN, relearn=True)
    assert found.relearning is None and found.after is not None
    assert any("relearning was not measured: module cannot be drawn anew" in note for note in context.notes)


@pytest.mark.usefixtures("brief")
def test_without_a_model_a_note_says_so() -> None:
    context = Context()
    case = tiny_case()
    assert measure_relearning(case, Outcome(flagged=np.ones(96, bool)), context) is None
    assert context.notes == ["relearning was not measured: there is no model that could relearn"]


def only_target(case: Case) -> Case:
    rows = np.flatnonzero(case.test.labels == 0)
    return dataclasses.replace(case, test_poisoned=TriggeredSet(case.test.subset(rows), case.test.labels[rows]))


REFUSED = {
    "no suspect set": lambda case: dataclasses.replace(case, train=None, truth=None),
    "no truth": lambda case: dataclasses.replace(case, truth=None),
    "no poison": lambda case: with_truth(case, np.zeros(96, bool), kind="none"),
    "no triggered test samples": lambda case: dataclasses.replace(case, test_poisoned=None),
    "only samples of the target class": only_target,
    "poison alone": lambda case: with_truth(case, np.ones(96, bool)),
}


@pytest.mark.parametrize("found", REFUSED)
def test_a_case_that_does_not_say_what_poison_is_is_refused_before_any_work(
    found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, defense = REFUSED[found](tiny_case()), get_defense("finetune")(epochs=1)
    monkeypatch.setattr(Classifier, "predict", lambda *_: pytest.fail("something was computed"))
    with pytest.raises(InputError, match="relearning cannot be measured on this case") as refused:
        execute(defense, case, Context(), PLAN, relearn=True)
    assert refused.value.found == found and refused.value.allowed and "relearn" in refused.value.hint
    with pytest.raises(InputError):
        estimate_relearning(case, PLAN, Context())


@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize("shared", [False, True], ids=["work folder", "cache"])
def test_a_killed_run_goes_on(shared: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = tiny_case()
    context = Context(cache=tmp_path) if shared else Context(work_dir=tmp_path)
    whole, calls, real = measured(case), [], relearning._measured

    def killed(*given: object) -> RelearnedPath:
        calls.append(given)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(relearning, "_measured", killed)
    with pytest.raises(KeyboardInterrupt):
        measured(case, context)
    (trained,) = (tmp_path / "relearning").glob("never-poisoned-*.safetensors")
    written = trained.stat().st_mtime_ns
    assert measured(case, context) == whole
    assert len(calls) == 5  # the cut path alone: three were kept, and "before" is the model of "after" here
    assert trained.stat().st_mtime_ns == written
    assert measured(case, context) == whole and len(calls) == 5


@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize(
    "damage", ['{"samples": 2}', '{"samples": 2, "asr": [0.5]}', "[", '{"samples": 2, "asr": [7]}']
)
def test_a_damaged_path_is_measured_again(damage: str, tmp_path: Path) -> None:
    case, context = tiny_case(), Context(cache=tmp_path)
    whole = measured(case, context)
    files = sorted((tmp_path / "relearning").glob("path-*.json"))
    contents = [file.read_bytes() for file in files]
    assert len(files) == 4
    for file in files:
        file.write_text(damage)
    assert measured(case, context) == whole
    assert [file.read_bytes() for file in files] == contents


@pytest.mark.usefixtures("brief")
def test_a_path_depends_on_seed_and_poison(tmp_path: Path) -> None:
    case = tiny_case()
    measured(case, Context(cache=tmp_path))
    measured(case, Context(seed=1, cache=tmp_path))
    other = np.isin(np.arange(96), np.flatnonzero(case.truth.original_labels == 2)[:8])
    measured(with_truth(case, other), Context(cache=tmp_path))
    assert len(list((tmp_path / "relearning").glob("path-*.json"))) == 12


def path(samples: int, *asr: float, reached: int | None = None) -> RelearnedPath:
    return RelearnedPath(samples, list(asr), reached, 0.9)


def told(after: RelearnedPath, never: RelearnedPath, *, last: int = 100) -> Relearning:
    models = {"after": RelearnedModel([after], 0.9), "never_poisoned": RelearnedModel([never], 0.9)}
    return Relearning([0, 10, 60, last], 0.5, models, 448)


BACK, LATE = path(20, 0.0, 0.7, 1.0, 1.0, reached=10), path(20, 0.0, 0.1, 0.6, 0.8, reached=60)
NOT, THERE = path(20, 0.0, 0.1, 0.2, 0.3), path(20, 0.73, 1.0, 1.0, 1.0, reached=0)
BRINGS = "20 poison samples bring the backdoor back to 50 % ASR within 10 steps; a model that was never poisoned "
FAILS = (
    "20 poison samples do not bring the backdoor back to 50 % ASR within 100 steps; a model that was never poisoned "
)
HAS = "The backdoor needs no relearning: ASR is 73 % as it is; a model that was never poisoned "
ONE, NONE = path(1, 0.0, 0.7, 1.0, 1.0, reached=10), path(1, 0.0, 0.1, 0.2, 0.3)
SAID = [
    (BACK, LATE, f"{BRINGS}needs 60."),
    (BACK, NOT, f"{BRINGS}does not get there within 100."),
    (BACK, THERE, f"{BRINGS}is there without any, so that this says nothing."),
    (NOT, LATE, f"{FAILS}needs 60."),
    (NOT, NOT, f"{FAILS}does not get there either."),
    (THERE, LATE, f"{HAS}needs 60 steps with 20 poison samples."),
    (THERE, NOT, f"{HAS}does not get there within 100 steps with 20 poison samples."),
    (ONE, NONE, BRINGS.replace("20 poison samples bring", "1 poison sample brings") + "does not get there within 100."),
]


@pytest.mark.parametrize(("after", "never", "sentence"), SAID)
def test_the_sentence(after: RelearnedPath, never: RelearnedPath, sentence: str) -> None:
    assert sentence_of(told(after, never)) == sentence


def test_a_never_poisoned_model_that_knows_too_little_is_noted() -> None:
    strong, weak = RelearnedModel([BACK], 0.9), RelearnedModel([LATE], 0.84)
    said = relearning._weaker({"after": strong, "never_poisoned": weak})
    assert said is not None and "reaches 84.0 % ACC, the other one 90.0 %" in said
    assert relearning._weaker({"after": strong, "never_poisoned": RelearnedModel([LATE], 0.86)}) is None
    assert relearning._weaker({"after": strong, "never_poisoned": RelearnedModel([LATE])}) is None


def test_the_path_shown_is_that_of_20_samples_or_of_what_is_nearest_below() -> None:
    paths = [dataclasses.replace(BACK, samples=count) for count in (5, 20, 50)]
    assert [shown_path(RelearnedModel(paths[:count])).samples for count in (1, 2, 3)] == [5, 20, 20]
    assert shown_path(RelearnedModel(paths[2:])).samples == 50


def test_panels_show_every_model_and_the_steps_it_needs() -> None:
    figure, table = relearning_panels(told(BACK, NOT))
    assert isinstance(figure, Lines) and isinstance(table, Table)
    assert [(each.name, each.x, each.y) for each in figure.series] == [
        ("after", [0, 10, 60, 100], [0, 70, 100, 100]),
        ("never poisoned", [0, 10, 60, 100], [0, 10, 20, 30]),
    ]
    assert "448 triggered test samples" in figure.caption and [each.value for each in figure.levels] == [50]
    assert table.header == ["model", "20 samples", "ACC", "ACC after"]
    assert table.rows == [["after", 10, 90.0, 90.0], ["never poisoned", "> 100", 90.0, 90.0]]


def test_what_was_measured_is_read_back_and_checked() -> None:
    kind = TypeAdapter(Evaluation)
    found = Evaluation(relearning=told(BACK, NOT))
    stored = json.loads(json.dumps(dataclasses.asdict(found)))
    assert kind.validate_python(stored) == found
    assert kind.validate_python({}).relearning is None  # of a report of an earlier version
    for change in ({"asr": [0.1]}, {"asr": [0.0, 0.1, 0.2, 1.5]}, {"reached": 11}, {"reached": "10"}, {"asr": None}):
        worse = json.loads(json.dumps(stored))
        worse["relearning"]["models"]["after"]["paths"][0] |= change
        with pytest.raises(ValidationError):
            kind.validate_python(worse)
    stored["relearning"]["models"]["after"]["paths"] = []
    with pytest.raises(ValidationError, match="after: no path"):
        kind.validate_python(stored)


@pytest.mark.usefixtures("brief_measurements")
@pytest.mark.parametrize("model", [True, False])
def test_the_price_is_said_beforehand(model: bool) -> None:
    case = tiny_case() if model else dataclasses.replace(tiny_case(), model=None)
    found = estimate_relearning(case, Retraining(epochs=7, batch_size=32), Context())
    models = 3 if model else 2
    assert (found["models"], found["steps"]) == (models, models * 2 * 100)  # 5 and 8 samples
    assert found["never_poisoned_epochs"] == 7 and found["seconds"] > 0 and found["never_poisoned_seconds"] > 0


@pytest.mark.usefixtures("brief")
def test_a_training_that_fails_leaves_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def diverges(*_: object, **__: object) -> None:
        raise RunError("training diverged", found="loss is not finite")

    monkeypatch.setattr(relearning, "train", diverges)
    context = Context()
    _, found = execute(get_defense("finetune")(epochs=1), tiny_case(), context, PLAN, relearn=True)
    assert found.relearning is None and found.after is not None
    assert "relearning was not measured: training diverged (loss is not finite)" in context.notes

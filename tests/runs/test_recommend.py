"""Whether a denoiser is worth its cost: what is advised, from what, and when nothing is said."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from short_settings import SHORT

from elixir_plugin import get_defense
from elixir_plugin.adapter import Source
from elixir_plugin.core.case import Case
from elixir_plugin.core.context import Context
from elixir_plugin.core.images import ImageSet
from elixir_plugin.core.metrics import Evaluation, TriedSetting
from elixir_plugin.core.outcome import Outcome
from elixir_plugin.errors import SettingsError
from elixir_plugin.evaluation.retraining import Retraining
from elixir_plugin.plugins import plugins
from elixir_plugin.runs import recommend as module
from elixir_plugin.runs.estimate import estimate_run
from elixir_plugin.runs.recommend import advice, paired_error, recommend, refuse_unrecommendable
from elixir_plugin.runs.run import run_defense
from elixir_plugin.runs.spec import RunSpec
from elixir_plugin.testbed.digits import digits


def tried(name: str, acc: float, error: float | None = 0.01, kept: float | None = None) -> TriedSetting:
    return TriedSetting(name, acc, error, kept, None if kept is None else 0.02)


# what is advised


@pytest.mark.parametrize(
    ("others", "take", "says"),
    [
        # an indiscriminate poison that the denoiser alone removes
        ([("no denoiser", 0.5), ("nothing", 0.2), ("jpeg", 0.6)], "eclipse", "is worth its cost here"),
        # one that compression removes as well
        ([("no denoiser", 0.5), ("nothing", 0.2), ("jpeg", 0.79)], "jpeg", "the baseline jpeg (quality=10)"),
        # one that its colour gives away
        ([("nothing", 0.2), ("grayscale", 0.85), ("gaussian_noise", 0.3)], "grayscale", "the baseline grayscale does"),
        # the rest of the defense is enough
        ([("no denoiser", 0.81), ("nothing", 0.2), ("jpeg", 0.6)], "no denoiser", "(purify=false)"),
        # no poison: all the same
        ([("no denoiser", 0.81), ("nothing", 0.805), ("jpeg", 0.8)], "nothing", "to train on the set as it is"),
    ],
)
def test_the_cheapest_that_does_as_well_is_taken(others: list[tuple[str, float]], take: str, says: str) -> None:
    found, sentence = advice([tried("eclipse", 0.8, None), *(tried(*each) for each in others)], 500, 0)
    assert found == take and says in sentence and "500 reserved clean images" in sentence
    assert "too few samples are flagged" in sentence
    unasked = advice([tried("eclipse", 0.8, None), *(tried(*each) for each in others)], 500, 0, removes=False)
    assert unasked == (take, sentence.partition(" Whether a trigger")[0])


def test_a_filter_that_leaves_the_trigger_does_not_do_as_well() -> None:
    own = tried("dataelixir", 0.8, None, 0.05)
    others = [tried("nothing", 0.81, 0.01, 0.98), tried("jpeg", 0.8, 0.01, 0.9), tried("grayscale", 0.79, 0.01, 0.07)]
    found, sentence = advice([own, *others], 300, 100)
    assert found == "grayscale" and "7.0 % of 100 flagged samples" in sentence and "flagged." not in sentence
    found, sentence = advice([own, *others[:2]], 300, 100)
    assert found == "dataelixir" and "5.0 % of 100 flagged" in sentence and "(nothing; " in sentence


share = st.floats(0, 1)
settings = st.builds(tried, st.sampled_from(["nothing", "jpeg", "grayscale"]), share, st.floats(0, 0.1), share)


@given(acc=share, kept=share, others=st.lists(settings, min_size=1, max_size=5))
def test_nothing_is_taken_that_is_measurably_worse(acc: float, kept: float, others: list[TriedSetting]) -> None:
    own = tried("own", acc, None, kept)
    take, sentence = advice([own, *others], 100, 50)
    good = [
        each
        for each in others
        if acc - each.acc <= 2 * (each.error or 0) and (each.given or 0) - kept <= 2 * (each.given_error or 0)
    ]
    assert take in ({each.name for each in good} if good else {"own"}) and sentence.endswith(".")


def test_the_error_of_a_difference_is_that_of_paired_answers() -> None:
    first = np.arange(100) < 60
    assert paired_error(first, first) == 0
    apart = paired_error(first, ~first)
    assert apart == pytest.approx(np.std(np.where(first, 1, -1)) / 10)


# measured


def digits_case(count: int = 250) -> tuple[Case, ImageSet]:
    """Return a case whose every image carries a pattern of its class, and the images without it."""
    splits = digits(8)
    train = splits.train.subset(np.arange(min(count, len(splits.train))))
    patterns = np.random.default_rng(0).choice([-90, 90], (10, 8, 8, 3))
    patterned = np.clip(train.read(slice(None)).astype(int) + patterns[train.labels], 0, 255).astype(np.uint8)
    return Case(train=train.replace(images=patterned), clean=splits.clean, mirror=False), train


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FREE", {"gaussian_noise": {"std": 0.02}})
    values = {"architecture": "small_resnet", "epochs": 6, "batch_size": 16, "augmentation": {"crop": 0, "flip": False}}
    monkeypatch.setattr(module, "quick_plan", lambda: Retraining.build(values))


@pytest.mark.usefixtures("quick")
def test_a_defense_that_takes_the_perturbation_away_is_worth_it_and_one_that_does_not_is_not() -> None:
    case, clean = digits_case()
    defense, context = get_defense("eclipse")(), Context()
    worth = recommend(defense, case, Outcome(train=clean), context)
    assert worth is not None and worth.take == "eclipse" and worth.judged == len(case.clean or [])
    assert [each.name for each in worth.tried] == ["eclipse", "nothing", "gaussian_noise"]
    assert worth.tried[0].acc > worth.tried[1].acc + 0.3 and worth.tried[0].error is None
    idle = recommend(defense, case, Outcome(train=case.train), context)
    assert idle is not None and idle.take == "nothing" and idle.tried[0].acc == idle.tried[1].acc
    assert idle.tried[1].error == 0


@pytest.mark.usefixtures("quick")
def test_held_out_samples_tell_whether_a_trigger_is_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    _, clean = digits_case(400)
    images, labels = clean.read(slice(None)).copy(), clean.labels.copy()
    poison = np.flatnonzero(labels != 0)[:88]
    images[poison, 6:, 6:] = [255, 0, 255]
    labels[poison] = 0
    train = clean.replace(images=images, labels=labels)
    case = Case(train=train, clean=digits(8).clean, mirror=False)
    flagged = np.isin(np.arange(len(train)), poison)
    repaired = Outcome(train=clean, flagged=flagged, kept=np.arange(len(train)))
    found = recommend(get_defense("dataelixir")(), case, repaired, Context())
    assert found is not None and found.held_out == 22 and found.take == "dataelixir"
    kept = {each.name: each.given for each in found.tried}
    assert kept["dataelixir"] is not None and kept["dataelixir"] < 0.3
    assert kept["nothing"] is not None and kept["nothing"] > 0.8
    assert "of 22 flagged samples that no model saw keep their label" in found.sentence


@pytest.mark.usefixtures("quick")
def test_a_student_is_judged_as_it_is() -> None:
    case, clean = digits_case(200)
    from elixir_plugin import Classifier

    student = Classifier.build("small_resnet", 10, seed=0)
    found = recommend(get_defense("image_variations")(), case, Outcome(train=clean, model=student), Context())
    assert found is not None and found.tried[0].name == "image_variations"
    assert case.clean is not None
    right = student.predict(case.clean).argmax(1) == case.clean.labels
    assert found.tried[0].acc == pytest.approx(right.mean())


@pytest.mark.parametrize(
    ("clean", "outcome", "says"),
    [
        (None, "set", "0 of at least 50 are there"),
        (49, "set", "49 of at least 50 are there"),
        (80, "none", "neither a set nor a model"),
    ],
)
def test_what_is_missing_is_said(clean: int | None, outcome: str, says: str) -> None:
    case, images = digits_case(60)
    assert case.clean is not None
    reserved = None if clean is None else case.clean.subset(np.arange(clean))
    context = Context()
    made = Outcome(train=images) if outcome == "set" else Outcome(scores=np.zeros(60))
    assert recommend(get_defense("eclipse")(), dataclasses.replace(case, clean=reserved), made, context) is None
    assert any("was not measured" in note and says in note for note in context.notes)


@pytest.mark.parametrize("name", ["d3", "confusion_training", "jpeg", "do_nothing"])
def test_a_defense_without_a_denoiser_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match="no denoiser") as caught:
        refuse_unrecommendable(get_defense(name)())
    for each in ("dataelixir", "eclipse", "image_variations"):
        assert each in str(caught.value)
        refuse_unrecommendable(get_defense(each)())


def test_every_filter_that_is_tried_is_a_baseline_and_takes_its_settings() -> None:
    for name, values in module.FREE.items():
        assert name in plugins().offers()["defense"] and get_defense(name)(values).kind == "purify"


# in a run


def spec(tmp_path: Path, **values: Any) -> RunSpec:
    source = Source.parse("testbed:lsp", {"model": False, "size": 8, "clean": 60, "test": 1600, "poison": {"patch": 4}})
    return RunSpec(
        defense="eclipse", source=source, settings=SHORT["eclipse"], out=str(tmp_path / "run"), device="cpu", **values
    )


@pytest.mark.usefixtures("quick")
def test_a_run_tells_what_to_take_and_the_price_is_known_before(tmp_path: Path) -> None:
    asked = spec(tmp_path, recommend=True)
    cost = estimate_run(asked)["recommend"]
    assert cost["models"] == 4 and cost["images"] == 137 and cost["seconds"] > 0
    result = run_defense(asked)
    found = result.report["metrics"]["recommendation"]
    assert [each["name"] for each in found["tried"]] == ["eclipse", "no denoiser", "nothing", "gaussian_noise"]
    assert found["judged"] == 60 and found["take"] in {each["name"] for each in found["tried"]}
    assert result.report["outcome"]["timings"]["recommend"] > 0
    assert any(line.startswith(f"recommended: {found['take']}. The denoiser is ") for line in result.lines())
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Is the denoiser worth its cost?" in page and f"{found['take']} (taken)" in page
    assert "--recommend" in result.report["command"]
    assert run_defense(asked).already_done


def test_a_run_without_it_is_the_run_it_was(tmp_path: Path) -> None:
    plain = spec(tmp_path)
    assert plain.identity() != spec(tmp_path, recommend=True).identity()
    assert "recommend" not in plain.under_first_names(plain.dump())
    assert "recommend" not in estimate_run(plain)
    assert json.loads(json.dumps(dataclasses.asdict(Evaluation())))["recommendation"] is None


def test_the_flag_reaches_the_run(tmp_path: Path) -> None:
    from elixir_plugin.cli.app import program

    arguments = ["run", "jpeg", "--from", "testbed:badnets", "-o", "model=false", "--recommend", "--dry-run"]
    result = CliRunner().invoke(program, [*arguments, "--out", str(tmp_path / "x")])
    assert result.exit_code == 2 and "--recommend" in result.output and "no denoiser whose worth" in result.output

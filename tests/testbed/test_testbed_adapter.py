"""The testbed as a source: cases and suspect models are the same whenever they are made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from elixir_plugin.adapter import Source
from elixir_plugin.core.case import Case
from elixir_plugin.errors import SettingsError
from elixir_plugin.runs.compare.run import run_compare
from elixir_plugin.runs.compare.spec import CompareSpec
from elixir_plugin.runs.run import run_defense
from elixir_plugin.runs.spec import RunSpec
from elixir_plugin.testbed import adapter as module
from elixir_plugin.testbed.adapter import Testbed
from elixir_plugin.testing.defenses import check_settings

pytestmark = pytest.mark.usefixtures("no_figures")
SMALL: dict[str, Any] = {"size": 8, "clean": 40, "test": 1600, "recipe": {"epochs": 1}}


def read(options: dict[str, Any] | None = None, *, cache: Path | None = None, seed: int = 0) -> Case:
    made = Testbed({**SMALL, **(options or {})})
    made.cache = cache
    return made.read(Path("badnets"), seed)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Collect the seeds of suspect models that are trained."""
    seeds: list[int] = []
    train = module.train_suspect

    def counted(case: Case, recipe: Any, context: Any, *more: Any, **named: Any) -> Any:
        seeds.append(context.seed)
        return train(case, recipe, context, *more, **named)

    monkeypatch.setattr(module, "train_suspect", counted)
    return seeds


def test_options_conform() -> None:
    check_settings(Testbed.Options)


def test_the_case_has_every_part_and_depends_on_the_seed() -> None:
    case, other = read(), read(seed=1)
    assert case.train and case.clean and case.test and case.test_poisoned and case.truth and case.model
    assert (case.origin.adapter, case.origin.path) == ("testbed", "badnets")
    assert other.train and case.train.fingerprint() != other.train.fingerprint()


def test_a_kept_model_computes_what_a_fresh_one_does(tmp_path: Path, trained: list[int]) -> None:
    fresh, first, kept = read(), read(cache=tmp_path), read(cache=tmp_path)
    assert trained == [0, 0]
    assert fresh.model and first.model and kept.model and fresh.test
    logits = [each.model.predict(fresh.test) for each in (fresh, first, kept) if each.model]
    assert np.array_equal(logits[0], logits[1]) and np.array_equal(logits[0], logits[2])
    strides = [[p.stride() for p in each.model.parameters()] for each in (fresh, kept) if each.model]
    assert strides[0] == strides[1]


def test_another_recipe_seed_or_poison_is_another_model(tmp_path: Path, trained: list[int]) -> None:
    for options, seed in (({}, 0), ({"recipe": {"epochs": 2}}, 0), ({}, 1), ({"poison": {"rate": 0.3}}, 0)):
        read(options, cache=tmp_path, seed=seed)
    assert len(trained) == len(list(tmp_path.iterdir())) == 4


def test_a_suspect_model_may_be_left_out(trained: list[int]) -> None:
    assert read({"model": False}).model is None and trained == []


@pytest.mark.parametrize(
    ("path", "options", "says"),
    [
        ("badnet", {}, "did you mean 'badnets'"),
        ("badnets", {"poison": {"rat": 1}}, "did you mean 'rate'"),
        ("badnets", {"poison": {"size": 99}}, "does not fit"),
        ("badnets", {"size": 12}, "multiple of 8"),
    ],
)
def test_what_is_wrong_is_said(path: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        Testbed({"model": False, **options}).read(Path(path))
    assert says in str(refusal.value)


def test_it_is_a_source_of_runs_and_its_path_stays_a_name(tmp_path: Path) -> None:
    source = Source(adapter="testbed", path="badnets", options=SMALL)
    result = run_defense(RunSpec(defense="d3", source=source, settings={"epochs": 1}, out=str(tmp_path / "run")))
    assert result.report["run"]["source"]["path"] == "badnets"
    assert result.report["metrics"]["before"]["asr"] is not None


def test_a_comparison_trains_one_suspect_per_case_and_seed(tmp_path: Path, trained: list[int]) -> None:
    spec = CompareSpec.build(
        {
            "cases": [{"source": "testbed:badnets", "options": SMALL}],
            "defenses": [
                {"defense": "d3", "settings": {"epochs": 1}},
                {"defense": "d3", "settings": {"epochs": 1, "lam": 0.5}, "name": "weaker"},
            ],
            "seeds": [0, 1],
            "any_model": True,
        }
    )
    assert run_compare(spec, tmp_path / "out").failed == 0
    assert trained == [0, 1]

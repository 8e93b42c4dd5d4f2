"""Known poison in copies of the suspect set: what is planted, when it counts as found, and what a run says of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from elixir_plugin.adapter import Source
from elixir_plugin.core.case import Case
from elixir_plugin.core.context import Context
from elixir_plugin.core.metrics import DetectionPower, PlantedPoison
from elixir_plugin.core.outcome import Outcome, Verdict
from elixir_plugin.defense import Defense
from elixir_plugin.defenses.confusion_training.defense import ConfusionTraining
from elixir_plugin.errors import RunError, SettingsError
from elixir_plugin.report.facts import facts_of
from elixir_plugin.report.single import make_page
from elixir_plugin.report.text import result_lines
from elixir_plugin.report.words import summary_of
from elixir_plugin.runs.estimate import estimate_run
from elixir_plugin.runs.resolve import identity_of
from elixir_plugin.runs.run import run_defense
from elixir_plugin.runs.spec import RunSpec
from elixir_plugin.runs.spike import Spike, measure_power, plant, refuse_unspikable
from elixir_plugin.testing import tiny_case

pytestmark = pytest.mark.usefixtures("no_figures")
N = 96  # suspect samples of the tiny case


class Seer(Defense):
    """Flags what carries the patch of BadNets, where there are enough such samples."""

    name: ClassVar[str] = "seer"
    kind: ClassVar[Any] = "detect"
    needs: ClassVar[frozenset[str]] = frozenset({"train"})
    card: ClassVar[Any] = ConfusionTraining.card
    runs: ClassVar[list[int]] = []  # planted samples that each run saw
    least: ClassVar[int] = 0
    always: ClassVar[tuple[int, ...]] = ()  # rows that are flagged in any set
    trigger_happy: ClassVar[int] = 0  # rows that are flagged where there is a patch
    fails: ClassVar[bool] = False

    def defend(self, case: Case, context: Context) -> Outcome:
        assert case.train is not None and case.test is None and case.truth is None
        assert context.work_dir is not None
        context.work_dir.mkdir(parents=True, exist_ok=True)
        (context.work_dir / "half-done").write_text("")
        pixels = case.train.read(slice(None))
        patched = (
            (pixels[:, -2, -2] == 255).all(1) & (pixels[:, -3, -2] == 0).all(1) & (pixels[:, -4, -4] == 255).all(1)
        )
        self.runs.append(int(patched.sum()))
        if self.fails:
            raise RunError("nothing to see", found="fog")
        seen = bool(patched.sum()) and patched.sum() >= self.least
        flagged = patched & seen
        flagged[list(self.always)] = True
        flagged[: self.trigger_happy] |= bool(patched.any())
        return Outcome(flagged=flagged, verdict=Verdict(seen))


@pytest.fixture
def seer(monkeypatch: pytest.MonkeyPatch) -> type[Seer]:
    for name, value in {"runs": [], "least": 0, "always": (), "trigger_happy": 0, "fails": False}.items():
        monkeypatch.setattr(Seer, name, value)
    return Seer


@pytest.fixture(scope="module")
def case() -> Case:
    return tiny_case()


def power(case: Case, folder: Path, *poisons: str, **values: Any) -> tuple[DetectionPower | None, Context]:
    defense, context = Seer(), Context(seed=3, work_dir=folder, quiet=True, any_model=True)
    before = Outcome(flagged=np.isin(np.arange(N), Seer.always))
    spike = Spike(poisons=poisons or ("badnets",), **values)
    refuse_unspikable(defense, case, spike)
    return measure_power(defense, case, before, context, spike), context


class TestPlanting:
    def test_the_poison_lies_in_a_copy_and_only_where_it_may(self, case: Case) -> None:
        assert case.train is not None
        where = np.arange(N) % 2 == 0
        spiked, rows = plant(case, Spike(poisons=("badnets",)), "badnets", 0.05, where=where, seed=0)
        assert spiked.train is not None
        before, after = case.train.read(slice(None)), spiked.train.read(slice(None))
        changed = np.flatnonzero((before != after).any((1, 2, 3)))
        assert rows.tolist() == changed.tolist() and len(rows) == round(0.05 * N) and where[rows].all()
        assert (spiked.train.labels[rows] == 0).all() and (case.train.labels[rows] != 0).all()
        kept = np.setdiff1d(np.arange(N), rows)
        assert (spiked.train.labels[kept] == case.train.labels[kept]).all()
        assert spiked.truth is None and spiked.test is None and spiked.clean is case.clean
        assert (case.train.read(slice(None)) == before).all()

    def test_the_same_seed_plants_the_same_and_a_lower_rate_a_part_of_it(self, case: Case) -> None:
        everywhere = np.ones(N, bool)
        spike = Spike(poisons=("badnets",))
        chosen = [plant(case, spike, "badnets", rate, where=everywhere, seed=0)[1] for rate in (0.1, 0.1, 0.05)]
        assert chosen[0].tolist() == chosen[1].tolist() and set(chosen[2]) < set(chosen[0])
        assert plant(case, spike, "badnets", 0.1, where=everywhere, seed=1)[1].tolist() != chosen[0].tolist()

    def test_covers_are_planted_and_not_counted(self, case: Case) -> None:
        assert case.train is not None
        spike = Spike(poisons=("wanet",), settings={"wanet": {"cover_rate": 0.2, "strength": 4.0}})
        spiked, rows = plant(case, spike, "wanet", 0.1, where=np.ones(N, bool), seed=0)
        assert spiked.train is not None
        changed = (case.train.read(slice(None)) != spiked.train.read(slice(None))).any((1, 2, 3))
        assert len(rows) == round(0.1 * N) and changed.sum() > 2 * len(rows)

    def test_at_least_one_sample_is_planted(self, case: Case) -> None:
        assert len(plant(case, Spike(), "badnets", 0.001, where=np.ones(N, bool), seed=0)[1]) == 1


class TestLimit:
    @pytest.mark.parametrize(
        ("least", "limit", "runs"),
        [
            (0, 0.02, [5, 4, 2]),
            (3, 0.04, [5, 4, 2]),
            (5, 0.05, [5, 4]),
            (8, 0.1, [5, 10]),
            (11, None, [5, 10]),
        ],
    )
    def test_bisection_finds_the_lowest_rate(
        self, seer: type[Seer], case: Case, tmp_path: Path, least: int, limit: float | None, runs: list[int]
    ) -> None:
        seer.least = least
        found, _ = power(case, tmp_path, rates=(0.02, 0.04, 0.05, 0.1))
        assert found is not None and found.limits == {"badnets": limit} and seer.runs == runs
        assert len(runs) <= Spike(poisons=("badnets",), rates=(0.02, 0.04, 0.05, 0.1)).runs_at_most() == 3
        assert [each.rate for each in found.planted] == sorted(each.rate for each in found.planted)

    def test_says_it_in_one_sentence(self, seer: type[Seer], case: Case, tmp_path: Path) -> None:
        seer.least = 3
        found, _ = power(case, tmp_path, "badnets", "blended", rates=(0.02, 0.05))
        assert found is not None
        assert found.sentence == (
            "Planted into copies of this set of 96 samples, badnets would have been found at 5 % (TPR 100 %, 0 others "
            "flagged), but not at 2 % (TPR 0 %, 0 others flagged); blended would not have been found, even at 5 % "
            "(TPR 0 %, 0 others flagged)."
        )

    def test_the_lowest_rate_tried_is_told(self, seer: type[Seer], case: Case, tmp_path: Path) -> None:
        found, _ = power(case, tmp_path, rates=(0.05,))
        assert found is not None and found.sentence.endswith(
            "badnets would have been found at 5 % (TPR 100 %, 0 others flagged), the lowest rate tried."
        )

    def test_what_was_flagged_before_is_left_alone_and_no_false_alarm(
        self, seer: type[Seer], case: Case, tmp_path: Path
    ) -> None:
        seer.always = tuple(range(0, N, 2))
        found, _ = power(case, tmp_path, rates=(0.1,))
        assert found is not None and found.planted == [PlantedPoison("badnets", 0.1, 10, 1.0, 0, True, True)]

    def test_many_others_are_no_find(self, seer: type[Seer], case: Case, tmp_path: Path) -> None:
        seer.trigger_happy = N
        found, _ = power(case, tmp_path, rates=(0.1,))
        assert found is not None and found.planted == [PlantedPoison("badnets", 0.1, 10, 1.0, N - 10, True, False)]

    def test_goes_on_where_it_was_stopped(self, seer: type[Seer], case: Case, tmp_path: Path) -> None:
        first, _ = power(case, tmp_path, rates=(0.02, 0.05))
        assert seer.runs == [5, 2] and sorted(path.name for path in (tmp_path / "spike").iterdir()) == [
            "badnets-0.02.json", "badnets-0.05.json",
        ]  # fmt: skip
        assert power(case, tmp_path, rates=(0.02, 0.05))[0] == first and seer.runs == [5, 2]
        (tmp_path / "spike/badnets-0.02.json").write_text("{}")
        assert power(case, tmp_path, rates=(0.02, 0.05))[0] == first and seer.runs == [5, 2, 2]

    def test_a_failure_costs_only_the_answer(self, seer: type[Seer], case: Case, tmp_path: Path) -> None:
        seer.fails = True
        found, context = power(case, tmp_path)
        assert found is None
        assert context.notes == ["what would have been found was not measured: nothing to see (fog)"]

    def test_a_defense_that_only_ranks_is_not_asked(self, case: Case, tmp_path: Path) -> None:
        context = Context(work_dir=tmp_path, quiet=True)
        assert measure_power(Seer(), case, Outcome(scores=np.zeros(N)), context, Spike()) is None
        assert context.notes == ["what would have been found was not measured: this defense flags no samples"]


class TestRefused:
    @pytest.mark.parametrize(
        ("values", "error"),
        [
            ({"poisons": ["badnets"], "rates": [0.05, 0.01]}, "rates must ascend"),
            ({"poisons": ["badnets"], "rates": [0.01, 0.01]}, "rates must ascend"),
            ({"poisons": ["badnets"], "rates": []}, "rates"),
            ({"poisons": ["badnets"], "rates": [0.0]}, "rates"),
            ({"poisons": []}, "poisons"),
            ({"poisons": ["badnets", "badnets"]}, "a poison is named twice"),
            ({"poisons": ["badnets"], "settings": {"wanet": {}}}, "settings of a poison that is not planted: wanet"),
            ({"poison": ["badnets"]}, "poison"),
        ],
    )
    def test_settings(self, values: dict[str, Any], error: str) -> None:
        with pytest.raises(SettingsError) as refused:
            Spike.build(values, where="spike")
        assert error in str(refused.value)

    @pytest.mark.parametrize(
        ("poison", "settings", "error"),
        [
            ("badnet", {}, "unknown poison"),
            ("lsp", {}, "this poison cannot be planted"),
            ("badnets", {"size": 30}, "the patch does not fit"),
            ("badnets", {"target": 9}, "target label out of range"),
            ("badnets", {"labels": "clean_label"}, "not enough samples to poison"),
            ("badnets", {"seize": 3}, "unknown"),
        ],
    )
    def test_poisons_that_do_not_fit(self, case: Case, poison: str, settings: dict[str, Any], error: str) -> None:
        spike = Spike(poisons=(poison,), rates=(0.4,), settings={poison: settings})
        with pytest.raises(SettingsError) as refused:
            refuse_unspikable(Seer(), case, spike)
        assert error in str(refused.value)

    def test_a_defense_that_purifies(self, tmp_path: Path) -> None:
        with pytest.raises(SettingsError, match="only a defense that looks for poison samples") as refused:
            run_defense(spec(tmp_path / "run", defense="eclipse", settings={}, spike=["badnets"]))
        assert refused.value.found == "eclipse (purify)" and "confusion_training" in str(refused.value.allowed)
        assert not (tmp_path / "run").exists()

    def test_several_ranks(self, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RANK", "0")
        monkeypatch.setenv("WORLD_SIZE", "2")
        with pytest.raises(SettingsError, match="one process"):
            refuse_unspikable(Seer(), case, Spike(poisons=("badnets",)))


FEW = {
    "ratios": [0.5],
    "suspect_size": None,
    "reserved_size": None,
    "pretrain_epochs": [1],
    "confusion_steps": [2],
    "confusion_batch": 16,
    "confusion_lr": [0.01],
    "lam": [10],
    "architecture": "small_resnet",
    "reference": "labels",
}


def spec(out: Path | None = None, *, defense: str = "confusion_training", **values: Any) -> RunSpec:
    options = {"size": 8, "model": False, "test": 1400, "clean": 100, "poison": {"rate": 0}}
    source = Source(adapter="testbed", path="badnets", options=options)
    values = {"settings": FEW, "device": "cpu", **values}
    return RunSpec(defense=defense, source=source, out=None if out is None else str(out), **values)


class TestRuns:
    def test_the_identity_of_other_runs_stays(self) -> None:
        assert identity_of(spec()) == identity_of(spec(spike=None)) != identity_of(spec(spike=["badnets"]))
        assert "spike" not in RunSpec.under_first_names(spec().dump())

    def test_a_list_names_the_poisons(self, tmp_path: Path) -> None:
        file = tmp_path / "run.yaml"
        file.write_text("defense: confusion_training\nsource: testbed:badnets\nspike: [badnets, sig]\n")
        assert RunSpec.from_yaml(file).spike == {"poisons": ["badnets", "sig"]}

    def test_a_run_reports_it(self, tmp_path: Path) -> None:
        result = run_defense(spec(tmp_path / "run", spike={"poisons": ["badnets"], "rates": [0.1]}))
        found = result.report["metrics"]["power"]
        assert [each["samples"] for each in found["planted"]] == [round(0.1 * found["suspects"])]
        assert f"power: {found['sentence']}" in list(result.lines())
        assert [panel["title"] for panel in result.report["exhibits"]["power"]] == ["What would have been found"]
        assert "spike" in result.report["outcome"]["timings"]
        assert "--spike-set 'rates=[0.1]'" in result.report["command"]
        facts = facts_of(result.report)
        html, _ = make_page(facts, png=False)
        assert '<section id="power">' in html and found["sentence"] in html
        again = run_defense(spec(tmp_path / "run", spike={"poisons": ["badnets"], "rates": [0.1]}))
        assert again.already_done and again.report["metrics"]["power"] == found

    def test_without_it_no_evidence_is_said_to_be_of_unknown_power(self, tmp_path: Path) -> None:
        report = json.loads(json.dumps(run_defense(spec(tmp_path / "run")).report))
        report["outcome"]["verdict"] = {"poisoned": False, "score": 1.0, "meaning": "low"}
        told = "power: not measured; a run with spike tells how much poison would have been found"
        assert told in list(result_lines(report, tmp_path))
        assert "was not measured (a run with spike does)" in str(summary_of(facts_of(report)))
        report["outcome"]["verdict"]["poisoned"] = True
        assert told not in list(result_lines(report, tmp_path))

    def test_a_dry_run_prices_it(self) -> None:
        facts = estimate_run(spec(spike={"poisons": ["badnets", "sig"], "rates": [0.01, 0.02, 0.03, 0.05]}))
        assert facts["spike"]["runs_at_most"] == 6

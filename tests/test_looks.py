"""Presets for a look say that they are not meant to find anything: in the notes, in the verdict, and on the page."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest

from elixir_plugin import Case, Context, Defense, Outcome, get_defense
from elixir_plugin.core.outcome import FOR_A_LOOK, Verdict
from elixir_plugin.core.settings import Settings
from elixir_plugin.defense import Card
from elixir_plugin.plugins import plugins
from elixir_plugin.testing.defenses import tiny_case

BUILT_IN = [name for name, offer in plugins().offers()["defense"].items() if offer.origin.startswith("elixir_plugin:")]


class ScanSettings(Settings):
    presets: ClassVar[Any] = {"demo": {"rounds": 1, "inner": {"steps": 2}}, "long": {"rounds": 90}}
    for_a_look = ("demo",)

    class Inner(Settings):
        steps: int = 20
        width: int = 4

    rounds: int = 9
    radius: int = 3
    inner: Inner = Inner()


class Scan(Defense):
    """Finds what it is told to find."""

    name, kind, needs = "scan", "detect", frozenset({"train"})
    card = Card("Scan", "none", 2026, "nothing", "nothing", "for tests")
    Settings = ScanSettings
    verdict: Verdict | None = Verdict(False, 0.5, "a score.")

    def defend(self, case: Case, context: Context) -> Outcome:
        assert case.train is not None
        return Outcome(flagged=np.zeros(len(case.train), bool), verdict=self.verdict, notes=["own"])


def run(defense: Defense) -> Outcome:
    return defense.run(replace(tiny_case(), model=None))


def test_nothing_found_in_a_look_is_no_answer() -> None:
    outcome = run(Scan(preset="demo"))
    assert outcome.verdict == Verdict(None, 0.5, f"a score. Preset demo {FOR_A_LOOK}")
    assert outcome.notes[0].startswith(f"preset demo {FOR_A_LOOK}") and outcome.notes[1:] == ["own"]


def test_what_a_look_finds_stays_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scan, "verdict", Verdict(True, 7.0))
    assert run(Scan(preset="demo")).verdict == Verdict(True, 7.0, f"Preset demo {FOR_A_LOOK}")
    monkeypatch.setattr(Scan, "verdict", None)
    outcome = run(Scan(preset="demo"))
    assert outcome.verdict is None and FOR_A_LOOK in outcome.notes[0]


@pytest.mark.parametrize("values", [{"rounds": 5}, {"inner": {"steps": 7}}, {"radius": 1}])
def test_a_look_with_other_values_is_a_look(values: dict[str, Any]) -> None:
    assert FOR_A_LOOK in run(Scan(values, preset="demo")).notes[0]


def test_settings_spelled_out_in_full_are_recognised() -> None:
    """As in the ``run.yaml`` of a finished run, which names no preset."""
    whole = ScanSettings.build({"radius": 8}, preset="demo").dump()
    assert FOR_A_LOOK in run(Scan(whole)).notes[0]


@pytest.mark.parametrize("made", [Scan(), Scan(preset="long"), Scan(rounds=1), Scan({"inner": {"steps": 2}})])
def test_other_runs_say_what_they_said(made: Scan) -> None:
    outcome = run(made)
    assert outcome.verdict == Scan.verdict and outcome.notes == ["own"]


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_preset_called_demo_is_for_a_look_and_no_other(name: str) -> None:
    settings = get_defense(name).Settings
    assert set(settings.for_a_look) == {"demo"} & set(settings.presets)
    found = {preset: settings.build(preset=preset).look() for preset in settings.presets}
    assert found == {preset: "demo" if preset == "demo" else None for preset in settings.presets}
    assert settings().look() is None


def test_the_page_does_not_say_no_evidence() -> None:
    from elixir_plugin.report.words import _poisoned

    class Held:
        class metrics:
            detection = None

        class outcome:
            verdict = run(Scan(preset="demo")).verdict

    assert _poisoned(Held).short == "No answer"  # type: ignore[arg-type]
    assert replace(Held.outcome.verdict, poisoned=False) != Held.outcome.verdict  # type: ignore[type-var]

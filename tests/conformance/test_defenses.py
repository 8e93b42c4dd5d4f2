"""Every registered defense conforms; and the suite that says so notices each way not to."""

from __future__ import annotations

import inspect
import random
import re
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import torch
from pydantic import ConfigDict, Field
from short_settings import SHORT

from elixir_plugin.core import settings as config
from elixir_plugin.core.case import Case
from elixir_plugin.core.context import Context
from elixir_plugin.core.images import ImageSet
from elixir_plugin.core.outcome import Outcome, Verdict
from elixir_plugin.core.panels import Panel, Table
from elixir_plugin.defense import Card, Defense, get_defense
from elixir_plugin.errors import ElixirError, InputError, MissingNeedError, SettingsError
from elixir_plugin.plugins import plugins
from elixir_plugin.testing.defenses import ConformanceError, check_defense, check_settings, tiny_case


@pytest.mark.parametrize("name", sorted(plugins().offers()["defense"]))
def test_every_registered_defense_conforms(name: str) -> None:
    check_defense(get_defense(name), **SHORT.get(name, {}))


@pytest.mark.parametrize("name", sorted(plugins().offers()["defense"]))
def test_what_to_go_on_with_is_one_call_away(name: str) -> None:
    case = tiny_case()
    outcome = get_defense(name)(**SHORT.get(name, {})).run(case, Context(quiet=True))
    if get_defense(name).kind == "repair":
        assert outcome.train is None and outcome.kept is None and outcome.flagged is None
        with pytest.raises(InputError, match="says nothing about the samples"):
            outcome.sanitised(case.train)
        return
    rows = np.arange(len(suspect(case)))
    if outcome.kept is not None:
        rows = outcome.kept
    elif outcome.flagged is not None:
        rows = rows[~outcome.flagged]
    if name == "train_on_clean_only":  # the one that goes on with none of them
        assert not len(rows)
        with pytest.raises(InputError, match="nothing is left"):
            outcome.sanitised(case.train)
        return
    whole = outcome.train if outcome.train is not None else suspect(case)
    left = outcome.sanitised(case.train)
    assert len(left) == len(rows) > 0 and np.array_equal(left.ids, suspect(case).ids[rows])
    assert np.array_equal(left.read(slice(None)), whole.read(slice(None))[rows])
    assert np.array_equal(left.labels, whole.labels[rows])
    if outcome.train is not None:
        assert outcome.sanitised().fingerprint() == left.fingerprint()


@pytest.fixture(autouse=True)
def host_streams() -> Iterator[None]:
    """Keep what broken defenses do to the global random streams inside their test."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    yield
    torch.set_rng_state(states[0])
    np.random.set_state(states[1])  # noqa: NPY002
    random.setstate(states[2])


class Sound(Defense):
    """Conforms; every broken defense below differs from it in one point."""

    name = "sound"
    kind = "detect"
    needs = frozenset({"train", "clean", "model"})
    card = Card("Brightness", "no paper", 2024, "finds bright images", "one pass", "for tests only")

    def defend(self, case: Case, context: Context) -> Outcome:
        return Outcome(scores=brightness(case))


def brightness(case: Case) -> np.ndarray[Any, np.dtype[np.float64]]:
    assert case.train is not None
    return case.train.read(slice(None)).mean((1, 2, 3), np.float64)


def suspect(case: Case) -> ImageSet:
    assert case.train is not None
    return case.train


def faults_of(cls: type[Defense], **values: Any) -> list[str]:
    """Return the rules that *cls* is told to break, one line each."""
    with pytest.raises(ConformanceError) as refusal:
        check_defense(cls, **values)
    head, *faults = str(refusal.value).split("\n- ")
    assert head == f"{cls.__name__} does not conform:"
    return faults


def test_the_reference_conforms() -> None:
    check_defense(Sound)


def test_a_case_of_the_authors_own_is_used() -> None:
    seen: list[int] = []

    class Curious(Sound):
        def defend(self, case: Case, context: Context) -> Outcome:
            seen.append(suspect(case).image_shape[0])
            return super().defend(case, context)

    check_defense(Curious, case=tiny_case(size=6))
    assert set(seen) == {6}


# settings


def settings_fault(settings: type[config.Settings]) -> str:
    with pytest.raises(AssertionError) as refusal:
        check_settings(settings)
    return str(refusal.value)


def test_faults_of_settings_reach_the_report() -> None:
    class Rangeless(config.Settings):
        radius: int = 3

    class Broken(Sound):
        Settings = Rangeless

    assert faults_of(Broken) == ["settings: number 'radius' has no range"]


def test_unknown_keys_are_noticed() -> None:
    class Lenient(config.Settings):
        model_config = ConfigDict(extra="ignore")

    assert settings_fault(Lenient) == "an unknown key is accepted"


def test_mutable_settings_are_noticed() -> None:
    class Mutable(config.Settings):
        model_config = ConfigDict(frozen=False)
        radius: int = Field(3, ge=1)

    assert "'radius' can be changed" in settings_fault(Mutable)


def test_an_optional_number_without_a_range_is_noticed() -> None:
    class Rangeless(config.Settings):
        radius: float | None = None

    assert settings_fault(Rangeless) == "number 'radius' has no range"


def test_a_number_without_a_range_in_nested_settings_is_noticed() -> None:
    class Inner(config.Settings):
        radius: int = 3

    class Outer(config.Settings):
        blur: Inner = Inner()

    assert settings_fault(Outer) == "blur: number 'radius' has no range"


def test_a_range_that_does_not_hold_is_noticed() -> None:
    class Pretended(config.Settings):
        radius: int = Field(3, json_schema_extra={"minimum": 1})

    assert settings_fault(Pretended) == "radius accepts 0"


def test_a_choice_that_does_not_hold_is_noticed() -> None:
    class Pretended(config.Settings):
        shape: str = Field("disc", json_schema_extra={"enum": ["disc", "square"]})

    assert settings_fault(Pretended) == "shape accepts any text"


def test_a_choice_beside_names_may_accept_any_name() -> None:
    class Named(config.Settings):
        layers: Literal["all"] | str = "all"

    check_settings(Named)


def test_a_preset_that_is_refused_is_noticed() -> None:
    class Stale(config.Settings):
        presets: ClassVar[dict[str, dict[str, Any]]] = {"old": {"size": 3}}

    class Broken(Sound):
        Settings = Stale

    assert any("unknown key" in fault for fault in faults_of(Broken))


def test_settings_that_do_not_survive_their_dump_are_noticed() -> None:
    class Lossy(config.Settings):
        radius: int = Field(3, ge=1, exclude=True)
        size: int = Field(4, ge=1)

        def dump(self) -> dict[str, Any]:
            return {"size": self.size + 1}

    assert settings_fault(Lossy) == "settings do not survive dump and build"


# class attributes


def test_an_incomplete_card_is_noticed() -> None:
    class Broken(Sound):
        card = Card("Brightness", "no paper", 2024, "finds bright images", "one pass", limits="")

    assert faults_of(Broken) == ["class attributes: card must be complete"]


def test_a_missing_card_is_noticed() -> None:
    class Broken(Sound):
        card = None  # type: ignore[assignment]

    assert faults_of(Broken) == ["class attributes: card must be complete"]


def test_a_name_in_upper_case_is_noticed() -> None:
    class Broken(Sound):
        name = "Sound"

    assert faults_of(Broken) == ["class attributes: name must be lower case"]


def test_an_unknown_kind_is_noticed() -> None:
    class Broken(Sound):
        kind = "cure"  # type: ignore[assignment]

    assert faults_of(Broken) == ["class attributes: kind must be one of detect, purify, train, repair"]


def test_an_unknown_need_is_noticed() -> None:
    class Broken(Sound):
        needs = frozenset({"train", "truth"})

    assert "class attributes: needs must be among train, clean, model, denoiser, generator" in faults_of(Broken)


def test_overriding_run_is_refused_when_the_class_is_made() -> None:
    with pytest.raises(TypeError, match=re.escape("may not override run()")):

        class Broken(Sound):
            def run(self, case: Case, context: Context | None = None) -> Outcome:  # type: ignore[misc]
                return Outcome()


# needs


def test_missing_needs_that_are_not_refused_are_noticed() -> None:
    class Broken(Sound):
        def refuse_missing(self, case: Case) -> None:
            pass

    assert faults_of(Broken) == ["missing needs: work starts before missing needs are refused"]


def test_a_need_refused_with_another_error_is_noticed() -> None:
    class Broken(Sound):
        def refuse_missing(self, case: Case) -> None:
            if case.train is None or case.clean is None or case.model is None:
                raise ValueError("something is missing")

    assert faults_of(Broken) == ["missing needs: ValueError: something is missing"]


class Denoising(config.Settings):
    denoiser: str | None = None


@pytest.mark.parametrize("need", ["denoiser", "generator"])
def test_a_missing_denoiser_or_generator_that_is_not_refused_is_noticed(need: str) -> None:
    class Broken(Sound):
        needs = frozenset({"train", need})
        Settings = Denoising

    assert faults_of(Broken) == ["missing needs: work starts before missing needs are refused"]
    check_defense(Broken, denoiser="a folder")  # which needs no reserved clean set


def refusing(error: type[ElixirError]) -> type[Defense]:
    """Return a defense that refuses with *error* when there is nothing to train its denoiser on."""

    class Choosy(Sound):
        needs = frozenset({"train", "denoiser"})

        def check(self, case: Case) -> None:
            if case.clean is None:
                raise error("nothing denoises")

    return Choosy


@pytest.mark.parametrize("error", [MissingNeedError, SettingsError])
def test_a_missing_denoiser_may_be_refused_as_a_need_or_as_a_setting(error: type[ElixirError]) -> None:
    check_defense(refusing(error))


def test_a_missing_denoiser_refused_as_broken_input_is_noticed() -> None:
    assert faults_of(refusing(InputError)) == ["missing needs: nothing denoises"]


# input


def test_changed_pixels_are_noticed() -> None:
    class Broken(Sound):
        def defend(self, case: Case, context: Context) -> Outcome:
            assert case.clean is not None
            pixels: Any = case.clean.images
            pixels.base[0] = 0  # the view is read-only, the array behind it is not
            return super().defend(case, context)

    assert faults_of(Broken) == ["run: input is modified: clean"]


def test_changed_model_weights_are_noticed() -> None:
    class Broken(Sound):
        def defend(self, case: Case, context: Context) -> Outcome:
            assert case.model is not None
            with torch.no_grad():
                next(case.model.parameters()).mul_(1.5)
            return super().defend(case, context)

    assert faults_of(Broken) == ["run: input is modified: model weights"]


def test_a_model_left_in_train_mode_is_noticed() -> None:
    class Broken(Sound):
        def defend(self, case: Case, context: Context) -> Outcome:
            assert case.model is not None
            case.model.train()
            return super().defend(case, context)

    assert faults_of(Broken) == ["run: input is modified: model mode"]


def test_gradients_left_behind_are_noticed() -> None:
    class Broken(Sound):
        def defend(self, case: Case, context: Context) -> Outcome:
            assert case.model is not None
            case.model(torch.zeros(1, 3, 8, 8)).sum().backward()
            return super().defend(case, context)

    assert faults_of(Broken) == ["run: input is modified: model gradients"]


@pytest.mark.parametrize(
    "register", ["register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"]
)
def test_hooks_left_behind_are_noticed(register: str) -> None:
    class Broken(Sound):
        def defend(self, case: Case, context: Context) -> Outcome:
            assert case.model is not None
            getattr(case.model.module, register)(lambda *_: None)
            return super().defend(case, context)

    assert faults_of(Broken) == ["run: input is modified: model hooks"]


# randomness and truth


def test_unseeded_randomness_is_noticed() -> None:
    class Broken(Sound):
        def defend(self, case: Case, context: Context) -> Outcome:
            return Outcome(scores=np.random.default_rng().random(len(suspect(case))))

    assert "same seed, same outcome: differs in scores" in faults_of(Broken)


@pytest.mark.parametrize("reseed", [torch.manual_seed, np.random.seed, random.seed])
def test_reseeding_the_hosts_random_streams_is_noticed(reseed: Any) -> None:
    class Broken(Sound):
        def defend(self, case: Case, context: Context) -> Outcome:
            reseed(1234)
            return super().defend(case, context)

    assert faults_of(Broken) == ["run: the host's random state is touched: use context.generator()"]


def test_drawing_from_the_hosts_random_streams_is_noticed() -> None:
    class Broken(Sound):
        def defend(self, case: Case, context: Context) -> Outcome:
            torch.rand(1)
            return super().defend(case, context)

    assert faults_of(Broken) == ["run: the host's random state is touched: use context.generator()"]


def test_peeking_at_the_truth_is_noticed() -> None:
    class Broken(Sound):
        def defend(self, case: Case, context: Context) -> Outcome:
            caller = inspect.currentframe().f_back  # type: ignore[union-attr]
            return Outcome(scores=caller.f_locals["case"].truth.poison.astype(float))  # type: ignore[union-attr]

    assert faults_of(Broken) == ["sealed truth: differs in scores"]


def test_peeking_at_test_data_is_noticed() -> None:
    class Broken(Sound):
        def defend(self, case: Case, context: Context) -> Outcome:
            caller = inspect.currentframe().f_back  # type: ignore[union-attr]
            labels = caller.f_locals["case"].test.labels  # type: ignore[union-attr]
            return Outcome(scores=brightness(case) + labels[0])

    assert faults_of(Broken) == ["sealed truth: differs in scores"]


# panels


def test_panels_that_cannot_be_made_are_noticed() -> None:
    class Broken(Sound):
        def panels(self, outcome: Outcome) -> list[Panel]:
            return [Table(title="t", header=["a"], rows=[[outcome.tables["no such table"]]])]

    assert faults_of(Broken) == ["panels: KeyError: 'no such table'"]


def test_panels_that_need_what_is_not_saved_are_noticed() -> None:
    class Broken(Sound):
        def panels(self, outcome: Outcome) -> list[Panel]:
            return [Table(title="t", header=["a"], rows=[[hasattr(outcome, "fresh")]])]

        def defend(self, case: Case, context: Context) -> Outcome:
            outcome = super().defend(case, context)
            outcome.fresh = True  # type: ignore[attr-defined]
            return outcome

    assert faults_of(Broken) == ["panels: differ for an outcome that was read back from disk"]


# outcome


def returning(make: Any) -> type[Defense]:
    """Return a defense whose outcome is ``make(case)``."""

    class Broken(Sound):
        def defend(self, case: Case, context: Context) -> Outcome:
            result: Outcome = make(case)
            return result

    return Broken


def only_fault(make: Any) -> str:
    (fault,) = faults_of(returning(make))
    return fault


def test_scores_of_another_shape_are_noticed() -> None:
    assert only_fault(lambda case: Outcome(scores=brightness(case)[1:])).startswith("run: scores must be [96]")


def test_flags_of_another_type_are_noticed() -> None:
    assert only_fault(lambda case: Outcome(flagged=brightness(case))).startswith("run: flagged must be [96]")


def test_scores_that_are_nan_are_noticed() -> None:
    assert only_fault(lambda case: Outcome(scores=brightness(case) * np.nan)).startswith("run: scores must be finite")


@pytest.mark.parametrize("kept", [[2, 1], [1, 1], [95, 96]])
def test_positions_that_are_not_ascending_positions_are_noticed(kept: list[int]) -> None:
    fault = only_fault(lambda case: Outcome(kept=np.array(kept)))
    assert fault.startswith("run: kept must be ascending unique int64 positions")


def test_a_reordered_sanitised_set_is_noticed() -> None:
    fault = only_fault(lambda case: Outcome(train=suspect(case).subset(np.arange(96)[::-1])))
    assert fault.startswith("run: the sanitised set must hold the same samples in the same order")


def test_a_shortened_sanitised_set_is_noticed() -> None:
    fault = only_fault(lambda case: Outcome(train=suspect(case).subset(np.arange(95))))
    assert "drop samples through 'kept'" in fault


def test_an_empty_outcome_is_noticed() -> None:
    assert only_fault(lambda case: Outcome()).startswith("run: the outcome is empty")


def test_an_outcome_that_is_none_is_noticed() -> None:
    assert only_fault(lambda case: None).startswith("run: AttributeError")


@pytest.mark.parametrize("value", [(1, 2), np.float32(0.5), np.arange(3), float("nan"), {1: "one"}])
def test_tables_that_are_not_json_are_noticed(value: Any) -> None:
    fault = only_fault(lambda case: Outcome(scores=brightness(case), tables={"table": value}))
    assert fault == "round trip: differs in tables"


def test_curves_that_are_not_lists_are_noticed() -> None:
    fault = only_fault(lambda case: Outcome(scores=brightness(case), curves={"loss": np.ones(3)}))  # type: ignore[dict-item]
    assert fault == "round trip: differs in curves"


def test_a_verdict_with_a_foreign_number_is_noticed() -> None:
    fault = only_fault(lambda case: Outcome(verdict=Verdict(True, np.float32(0.1))))  # type: ignore[arg-type]
    assert fault == "round trip: differs in verdict"


def test_an_outcome_that_cannot_be_written_is_noticed() -> None:
    fault = only_fault(lambda case: Outcome(scores=brightness(case), tables={"root": 1j}))
    assert fault.startswith("round trip: TypeError")


def test_a_defense_that_fails_is_reported_and_not_raised() -> None:
    def fail(case: Case) -> Outcome:
        raise ZeroDivisionError("no class has two samples")

    assert only_fault(fail) == "run: ZeroDivisionError: no class has two samples"


def test_all_faults_are_reported_at_once() -> None:
    class Rangeless(config.Settings):
        radius: int = 3

    class Broken(Sound):
        name = "Broken"
        Settings = Rangeless

        def defend(self, case: Case, context: Context) -> Outcome:
            return Outcome(scores=np.random.default_rng().random(96), tables={"pair": (1, 2)})

    assert [fault.partition(":")[0] for fault in faults_of(Broken)] == [
        "class attributes",
        "settings",
        "same seed, same outcome",
        "sealed truth",
        "round trip",
    ]

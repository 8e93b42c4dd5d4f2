"""Every defense gets into a host's registry, whatever that looks like."""

from __future__ import annotations

import logging
from collections import OrderedDict
from types import SimpleNamespace
from typing import Any

import pytest

from elixir_plugin import Defense, Outcome, get_defense, register_into
from elixir_plugin.errors import PluginError, SettingsError
from elixir_plugin.hookspecs import Entry, hookimpl
from elixir_plugin.plugins import plugins
from elixir_plugin.testing.defenses import tiny_case

NAMES = set(plugins().defenses())


class ModuleRegistry:
    """The kind that builds from ``dict(type=…)``."""

    def __init__(self) -> None:
        self.held: dict[str, Any] = {}

    def register_module(self, name: Any = None, force: bool = False, module: Any = None) -> Any:
        if name in self.held and not force:
            raise KeyError(f"{name} is already registered")
        self.held[name] = module

    def build(self, config: dict[str, Any]) -> Any:
        return self.held[config.pop("type")](**config)


class NameFromObject:
    """The kind whose ``register`` is a decorator that takes the name from the object."""

    def __init__(self) -> None:
        self.held: dict[str, Any] = {}

    def register(self, obj: Any = None) -> Any:
        self.held[obj.__name__] = obj
        return obj


class Catalogue:
    """The kind whose ``register("name")`` gives a decorator."""

    def __init__(self) -> None:
        self.held: dict[str, Any] = {}

    def register(self, name: str, *, func: Any = None) -> Any:
        return lambda thing: self.held.__setitem__(name, thing)


def test_a_dict_of_classes() -> None:
    held: dict[str, Any] = {"other": object}
    made = register_into(held)
    assert set(made) == NAMES == set(held) - {"other"}
    assert all(issubclass(held[name], Defense) and held[name].name == name for name in NAMES)


def test_an_ordered_dict_and_a_subset() -> None:
    held: OrderedDict[str, Any] = OrderedDict()
    assert list(register_into(held, only=["d3"])) == ["d3"] == list(held)
    assert all(get_defense(name).kind == "purify" for name in register_into({}, kinds={"purify"}))


@pytest.mark.parametrize("registry", [ModuleRegistry(), NameFromObject(), Catalogue()])
def test_objects_that_register(registry: Any) -> None:
    register_into(registry, style="factory")
    assert set(registry.held) == NAMES
    built = registry.held["d3"](epochs=3)
    assert isinstance(built, get_defense("d3")) and built.settings.epochs == 3


def test_a_config_builds_a_defense() -> None:
    registry = ModuleRegistry()
    register_into(registry, style="factory")
    assert registry.build({"type": "d3", "epochs": 2}).settings.epochs == 2


def test_plain_functions() -> None:
    held: dict[str, Any] = {}

    def put(key_of_it: str, thing: Any) -> None:
        held[key_of_it] = thing

    def named(name: str) -> Any:
        return lambda thing: held.setdefault(f"named {name}", thing)

    def decorator(thing: Any) -> Any:
        held[f"decorated {thing.__name__}"] = thing

    for each in (put, named, decorator):
        register_into(each, style="function", only=["d3"])
    assert set(held) == {"d3", "named d3", "decorated d3"}


def test_a_function_does_it_all() -> None:
    held: dict[str, Any] = {}
    register_into(held, style="function", only=["d3", "confusion_training"])
    case = tiny_case()
    assert case.model is not None
    outcome = held["d3"](case.model.module, case.clean, epochs=1)
    assert isinstance(outcome, Outcome) and outcome.model is not None
    assert held["d3"].__doc__ and held["d3"].__name__ == "d3"
    with pytest.raises(SettingsError, match="settings refused"):
        held["confusion_training"](case.train, clean=case.clean, no_such_setting=1)


def test_an_own_way_to_make_things() -> None:
    assert register_into({}, str.upper, only=["d3"]) == {"d3": "D3"}


def test_a_name_that_is_taken_changes_nothing() -> None:
    held: dict[str, Any] = {"d3": "mine"}
    with pytest.raises(SettingsError, match="taken"):
        register_into(held)
    assert held == {"d3": "mine"}
    register_into(held, replace=True)
    assert held["d3"] is get_defense("d3")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (({}, "klass"), "unknown style"),
        ((3,), "not a registry"),
        ((SimpleNamespace(register=5),), "not a registry"),
        ((lambda: None,), "unclear how"),
    ],
)
def test_what_is_not_understood_is_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        register_into(*arguments)


def test_unknown_names_get_the_nearest_one() -> None:
    with pytest.raises(SettingsError, match="unknown defense") as caught:
        register_into({}, only=["eclips"])
    assert caught.value.hint == "did you mean 'eclipse'?"


def test_a_registry_that_refuses_is_named() -> None:
    registry = ModuleRegistry()
    register_into(registry, only=["d3"])
    with pytest.raises(PluginError, match="registry refuses") as caught:
        register_into(registry, only=["d3"])
    assert caught.value.where == "d3" and "already registered" in str(caught.value.found)


def test_a_defense_that_cannot_be_imported_is_left_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        @hookimpl
        def elixir_defenses(self) -> list[Entry]:
            return [Entry("broken", "no_such_module:Thing", "detect")]

    from elixir_plugin import defense
    from elixir_plugin.api import registry
    from elixir_plugin.plugins import Plugins

    own = Plugins()
    own.register(Broken(), "stranger")
    monkeypatch.setattr(registry, "plugins", lambda: own)
    monkeypatch.setattr(defense, "plugins", lambda: own)
    with caplog.at_level(logging.WARNING, logger="elixir_plugin"):
        assert set(register_into({})) == NAMES
    assert "broken is left out" in caplog.text
    assert "broken" in register_into({}, style="factory")  # imported when it is called

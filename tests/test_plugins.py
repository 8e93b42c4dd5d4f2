import math
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace

import pytest

from elixir_plugin import builtin
from elixir_plugin.errors import PluginError, SettingsError
from elixir_plugin.hookspecs import Entry, hookimpl
from elixir_plugin.plugins import KINDS, Plugins


@dataclass
class Point:
    """The part of an entry point that the manager uses."""

    dist: SimpleNamespace | None
    name: str
    value: object

    def load(self):
        if isinstance(self.value, BaseException):
            raise self.value
        return self.value


def point(value, dist="stranger", name="main"):
    return Point(dist and SimpleNamespace(name=dist, version="1.2"), name, value)


BUILTIN = point(builtin, "elixir_plugin", "builtin")


def plugin(**hooks):
    """Make a module with one hook per keyword, each returning the given entries."""
    module = ModuleType("made_up")
    for hook, entries in hooks.items():
        setattr(module, hook, hookimpl(make(entries)))
    return module


def make(entries):
    def offer():
        return entries

    return offer


def offering(name, target="math:sqrt", kind="elixir_denoisers"):
    return plugin(**{kind: [Entry(name, target)]})


def test_builtin_offers_are_there_and_typed():
    found = Plugins([BUILTIN])
    assert set(found.offers()) == set(KINDS)
    assert "d3" in found.offers()["defense"]
    assert {"badnets", "blended", "sig"} <= set(found.offers()["poison"])
    assert found.offers()["poison"]["sig"].origin == "elixir_plugin:builtin"
    info = found.infos["elixir_plugin:builtin"]
    assert (info.version, info.broken, info.refused) == ("1.2", "", [])
    assert set(info.hooks) == set(KINDS.values())  # what is built in comes through every hook


def test_get_imports_on_demand():
    found = Plugins([point(offering("root"))])
    assert found.get("denoiser", "root") is math.sqrt
    assert Plugins([point(offering("own", target=len))]).get("denoiser", "own") is len


def test_unknown_name_gets_the_nearest_one():
    with pytest.raises(SettingsError, match="unknown poison") as caught:
        Plugins([BUILTIN]).get("poison", "badnet")
    assert caught.value.hint == "did you mean 'badnets'?"
    assert "blended" in caught.value.allowed


@pytest.mark.parametrize("target", ["no_such_module_at_all:x", "math:no_such_name", "math", ""])
def test_offer_that_cannot_be_imported_names_its_plugin(target):
    found = Plugins([point(offering("ghost", target))])
    with pytest.raises(PluginError, match="cannot be imported") as caught:
        found.get("denoiser", "ghost")
    assert caught.value.where == "stranger:main"


@pytest.mark.parametrize(
    "error", [ImportError("no torch"), RuntimeError("a\nb"), SyntaxError("x"), SystemExit("go away"), AssertionError()]
)
def test_plugin_that_fails_to_import_is_recorded_and_harmless(error):
    found = Plugins([point(error, "bad"), BUILTIN, point(offering("root"), "good")])
    assert type(error).__name__ in found.infos["bad:main"].broken
    assert "\n" not in found.infos["bad:main"].broken
    assert "root" in found.offers()["denoiser"]
    assert "sig" in found.offers()["poison"]


@pytest.mark.parametrize("entries", [3, [Entry("good_one", len), "no entry"], [None]])
def test_hook_that_returns_nonsense_is_recorded_and_harmless(entries):
    found = Plugins([BUILTIN, point(plugin(elixir_denoisers=entries, elixir_poisons=[Entry("mine", len)]), "odd")])
    assert "mine" in found.offers()["poison"]
    assert found.infos["odd:main"].refused


def test_hook_that_raises_is_recorded_and_harmless():
    module = offering("mine", kind="elixir_poisons")

    @hookimpl
    def elixir_denoisers():
        raise KeyError("gone")

    module.elixir_denoisers = elixir_denoisers
    found = Plugins([BUILTIN, point(module, "odd")])
    assert {"mine", "sig"} <= set(found.offers()["poison"])
    assert found.infos["odd:main"].refused == ["elixir_denoisers: KeyError: 'gone'"]


@pytest.mark.parametrize("name", ["Upper", "with-dash", "", "1st", "a b", "ü", 3, None, ["x"]])
def test_ill_named_offers_are_refused_one_by_one(name):
    found = Plugins([point(plugin(elixir_denoisers=[Entry(name, len), Entry("fine", len)]))])
    assert list(found.offers()["denoiser"]) == ["fine"]
    assert len(found.infos["stranger:main"].refused) == 1


def test_a_taken_name_is_refused_and_both_origins_are_named():
    found = Plugins([point(offering("same"), "first"), point(offering("same", "math:cos"), "second")])
    assert found.get("denoiser", "same") is math.sqrt
    (message,) = found.infos["second:main"].refused
    assert "'same'" in message
    assert "first:main" in message
    assert "second:main" in message
    assert found.infos["first:main"].refused == []


@pytest.mark.parametrize("options", [{}, {"tryfirst": True}, {"trylast": True}])
def test_built_in_names_cannot_be_taken(options):
    module = ModuleType("pirate")
    module.elixir_poisons = hookimpl(**options)(make([Entry("sig", len)]))
    for points in ([point(module, "aaa"), BUILTIN], [BUILTIN, point(module, "zzz")]):
        found = Plugins(points)
        assert found.offers()["poison"]["sig"].origin == "elixir_plugin:builtin"
        assert any("'sig' refused" in each for info in found.infos.values() for each in info.refused)


def test_refusals_are_not_repeated_when_a_plugin_is_added_later():
    found = Plugins([BUILTIN, point(offering("sig", kind="elixir_poisons"), "pirate")])
    found.offers()
    found.register(offering("later"), "later")
    found.offers()
    assert len(found.infos["pirate:main"].refused) == 1


@pytest.mark.parametrize("marked", [True, False])
def test_misspelt_hook_gets_the_nearest_one(marked):
    module = ModuleType("misspelt")
    module.elixir_defences = hookimpl(make([])) if marked else make([])
    found = Plugins([BUILTIN, point(module, "odd")])
    assert "elixir_defences" in found.infos["odd:main"].broken
    assert "did you mean 'elixir_defenses'?" in found.infos["odd:main"].broken
    with pytest.raises(PluginError, match="unknown hook 'elixir_defences'") as caught:
        found.register(module, "mine")
    assert caught.value.hint == "did you mean 'elixir_defenses'?"
    assert "mine" not in found.infos


def test_marked_function_without_the_prefix_is_refused_too():
    module = ModuleType("odd")
    module.denoisers = hookimpl(make([]))
    with pytest.raises(PluginError, match="unknown hook 'denoisers'"):
        Plugins([]).register(module, "odd")


def test_wrong_hook_signature_is_refused_with_the_argument():
    module = offering("good_half", kind="elixir_poisons")

    @hookimpl
    def elixir_stage_finished(stage, minutes):
        pass

    module.elixir_stage_finished = elixir_stage_finished
    found = Plugins([BUILTIN, point(module, "odd")])
    assert "minutes" in found.infos["odd:main"].broken
    assert "good_half" not in found.offers()["poison"]
    found.manager.hook.elixir_stage_finished(stage="train", seconds=1.0)
    with pytest.raises(PluginError, match="plugin refused") as caught:
        found.register(module, "mine")
    assert "minutes" in caught.value.found
    assert "mine" not in found.infos


def test_a_hook_may_take_only_the_arguments_it_wants():
    seen = []
    module = ModuleType("watcher")

    @hookimpl
    def elixir_stage_finished(stage):
        seen.append(stage)

    module.elixir_stage_finished = elixir_stage_finished
    found = Plugins([point(module)])
    found.manager.hook.elixir_stage_finished(stage="train", seconds=1.0)
    assert seen == ["train"]


def test_objects_can_be_plugins():
    class Mine:
        @hookimpl
        def elixir_denoisers(self):
            return [Entry("mine", len)]

    found = Plugins([])
    found.register(Mine(), "object", "0.1")
    assert found.offers()["denoiser"]["mine"].origin == "object"
    assert found.infos["object"].hooks == ["elixir_denoisers"]


def test_register_refuses_a_taken_name_and_forgets_the_plugin():
    found = Plugins([BUILTIN])
    with pytest.raises(PluginError, match="plugin refused") as caught:
        found.register(offering("sig", kind="elixir_poisons"), "mine")
    assert "elixir_plugin:builtin" in caught.value.found
    assert "mine" not in found.infos
    found.register(offering("sig_two", kind="elixir_poisons"), "mine")  # the plugin's own name is free again
    assert {"sig", "sig_two"} <= set(found.offers()["poison"])


def test_a_second_plugin_of_the_same_name_does_not_displace_the_first():
    found = Plugins([])
    found.register(offering("first"), "mine")
    with pytest.raises(PluginError, match="registered already"):
        found.register(offering("second"), "mine")
    assert list(found.offers()["denoiser"]) == ["first"]
    assert found.infos["mine"].hooks == ["elixir_denoisers"]


def test_announcing_a_foreign_module_does_not_unregister_it():
    found = Plugins([BUILTIN, point(builtin, "pirate")])
    assert "sig" in found.offers()["poison"]
    assert "registered already" in found.infos["pirate:main"].broken
    assert found.infos["elixir_plugin:builtin"].broken == ""


def test_two_points_of_the_same_name_keep_the_first():
    found = Plugins([point(offering("first"), None), point(offering("second"), None)])
    assert list(found.offers()["denoiser"]) == ["first"]
    assert [bool(info.broken) for info in found.infos.values()] == [False, True]


@pytest.mark.parametrize(
    ("allowed", "expected"),
    [
        (None, {"sig", "one", "two"}),
        ("", {"sig"}),
        ("my-package", {"sig", "one"}),
        (" My_Package , other.package", {"sig", "one", "two"}),
        ("nobody", {"sig"}),
    ],
)
def test_environment_limits_what_is_loaded(monkeypatch, allowed, expected):
    if allowed is None:
        monkeypatch.delenv("ELIXIR_PLUGINS", raising=False)
    else:
        monkeypatch.setenv("ELIXIR_PLUGINS", allowed)
    points = [
        BUILTIN,
        point(offering("one", kind="elixir_poisons"), "my.package"),
        point(offering("two", kind="elixir_poisons"), "Other-Package"),
    ]
    assert set(Plugins(points).offers()["poison"]) & {"sig", "one", "two"} == expected


def test_what_is_limited_away_is_not_even_imported(monkeypatch):
    monkeypatch.setenv("ELIXIR_PLUGINS", "")
    found = Plugins([BUILTIN, point(RuntimeError("imported"), "stranger")])
    assert list(found.infos) == ["elixir_plugin:builtin"]


def test_everything_built_in_can_be_imported():
    found = Plugins([BUILTIN])
    for kind in KINDS:
        for name in found.offers()[kind]:
            assert callable(found.get(kind, name))


def test_hook_that_is_not_marked_is_refused_with_the_remedy():
    module = ModuleType("unmarked")
    module.elixir_denoisers = make([Entry("mine", "math:sqrt")])
    found = Plugins([BUILTIN, point(module, "odd")])
    assert "not marked" in found.infos["odd:main"].broken and "@hookimpl" in found.infos["odd:main"].broken

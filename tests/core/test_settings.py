import contextlib
import copy
import json
import subprocess
import sys
from typing import ClassVar, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from elixir_plugin.adapter import Source
from elixir_plugin.core.settings import Settings, fingerprint, load_yaml, parse_assignments
from elixir_plugin.errors import SettingsError
from elixir_plugin.runs.spec import RunSpec


class Augmentation(Settings):
    flip: bool = True
    crop: int = Field(4, ge=0, le=16)


class Recipe(Settings):
    presets: ClassVar = {"paper": {"epochs": 100, "rate": 0.1}, "quick": {"epochs": 2}}

    epochs: int = Field(20, ge=1)
    rate: float = Field(0.01, gt=0)
    labels: Literal["one", "all"] = "one"
    layers: tuple[str, ...] = ("fc",)
    augmentation: Augmentation | None = None
    extra: dict[str, int] = Field(default_factory=dict)


recipes = st.builds(
    Recipe,
    epochs=st.integers(1, 10**6),
    rate=st.floats(0, exclude_min=True, allow_infinity=False),
    labels=st.sampled_from(["one", "all"]),
    layers=st.lists(st.text()).map(tuple),
    augmentation=st.none() | st.builds(Augmentation, flip=st.booleans(), crop=st.integers(0, 16)),
    extra=st.dictionaries(st.text(), st.integers()),
)


@given(recipes)
def test_dump_builds_the_same_settings(recipe):
    again = Recipe.build(recipe.dump())
    assert again == recipe
    assert again.fingerprint() == recipe.fingerprint()
    assert hash(again) == hash(recipe)
    assert Recipe.build(json.loads(json.dumps(recipe.dump()))) == recipe


@given(recipes)
def test_dump_survives_yaml(recipe):
    assert Recipe.build(yaml.safe_load(yaml.safe_dump(recipe.dump()))) == recipe


@given(recipes, st.randoms())
def test_fingerprint_ignores_key_order(recipe, random):
    items = list(recipe.dump().items())
    random.shuffle(items)
    assert fingerprint(dict(items)) == recipe.fingerprint()


@given(recipes, recipes)
def test_fingerprints_tell_settings_apart(first, second):
    assert (first.fingerprint() == second.fingerprint()) == (first == second)


def test_fingerprint_is_the_same_in_another_process():
    code = "from elixir_plugin.core.settings import fingerprint; print(fingerprint({'b': [1, 2.5], 'a': 'ü'}))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert out.stdout.strip() == fingerprint({"a": "ü", "b": [1, 2.5]})


def test_settings_are_immutable_and_usable_as_keys():
    source = Source(adapter="arrays", path="x", options={"clean": [1, 2]})
    with pytest.raises(ValueError, match="frozen"):
        source.path = "y"
    assert {source: 1}[copy.deepcopy(source)] == 1


def test_unknown_key_is_refused_with_the_nearest_one():
    with pytest.raises(SettingsError) as caught:
        Recipe.build({"epoch": 3}, where="run.yaml: settings")
    text = str(caught.value)
    assert "epoch: unknown key" in text
    assert "did you mean 'epochs'?" in text
    assert "run.yaml: settings" in text
    assert "augmentation" in text  # all keys are listed


def test_unknown_key_inside_a_group_is_compared_with_that_group():
    with pytest.raises(SettingsError) as caught:
        Recipe.build({"augmentation": {"flop": True}})
    assert caught.value.allowed == "keys of augmentation: flip, crop"
    assert caught.value.hint == "augmentation.flop: did you mean 'flip'?"


def test_all_faults_come_in_one_message():
    with pytest.raises(SettingsError) as caught:
        Recipe.build({"epochs": 0, "rate": "fast", "labels": "two", "colour": 1})
    for part in ("epochs = 0", "rate = 'fast'", "labels = 'two'", "colour: unknown key"):
        assert part in str(caught.value)


def test_missing_key_is_named_without_the_rest():
    with pytest.raises(SettingsError) as caught:
        Source.build({"path": "somewhere"})
    assert caught.value.found == "adapter: missing"


def test_defaults_are_checked_too():
    class Broken(Settings):
        epochs: int = Field(0, ge=1)

    with pytest.raises(SettingsError):
        Broken.build()


def test_preset_lies_between_defaults_and_values():
    recipe = Recipe.build({"rate": 0.5}, preset="paper")
    assert (recipe.epochs, recipe.rate, recipe.labels) == (100, 0.5, "one")


def test_unknown_preset_is_refused():
    with pytest.raises(SettingsError, match="unknown preset") as caught:
        Recipe.build(preset="papr")
    assert caught.value.hint == "did you mean 'paper'?"
    with pytest.raises(SettingsError) as caught:
        Augmentation.build(preset="paper")
    assert "no presets" in str(caught.value)


def test_build_does_not_change_a_preset():
    before = copy.deepcopy(Recipe.presets)
    Recipe.build({"epochs": 7}, preset="paper")
    assert Recipe.presets == before


@pytest.mark.parametrize("text", ["1e-4", "1E-4", "0.0001", "1.0e-4"])
def test_numbers_that_yaml_takes_for_text_become_floats(text):
    assert Recipe.build(yaml.safe_load(f"rate: {text}")).rate == 1e-4
    assert Recipe.build(parse_assignments([f"rate={text}"])).rate == 1e-4


def test_assignments_nest_and_keep_types():
    items = ["epochs=20", "augmentation.flip=false", "augmentation.crop=2", "layers=[a, b]", "note=", "none=null"]
    assert parse_assignments(items) == {
        "epochs": 20,
        "augmentation": {"flip": False, "crop": 2},
        "layers": ["a", "b"],
        "note": "",
        "none": None,
    }


def test_a_value_may_hold_an_equals_sign_and_the_last_one_counts():
    assert parse_assignments(["a=b=c", "n=1", "n=2"]) == {"a": "b=c", "n": 2}


@pytest.mark.parametrize(
    "items",
    [["epochs"], ["=3"], [".a=3"], ["a..b=3"], ["a=1", "a.b=2"], ["a.b=2", "a=1"], ["a=[1"], ["a={b: 1, b: 2}"]],
)
def test_bad_assignments_are_refused(items):
    with pytest.raises(SettingsError):
        parse_assignments(items)


@given(st.lists(st.text(), max_size=3))
def test_no_assignment_causes_another_error(items):
    with contextlib.suppress(SettingsError):
        assert isinstance(parse_assignments(items), dict)


@given(st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), st.integers(-(2**63), 2**64 - 1) | st.booleans()))
def test_assignments_give_back_what_was_written(values):
    assert parse_assignments(f"{key}={json.dumps(value)}" for key, value in values.items()) == values


def test_source_is_adapter_colon_path():
    assert Source.parse("image_folder:a:b", {"clean": "c"}) == Source(
        adapter="image_folder", path="a:b", options={"clean": "c"}
    )


@pytest.mark.parametrize("text", ["", "image_folder", "image_folder:", ":path"])
def test_bad_source_is_refused(text):
    with pytest.raises(SettingsError, match="ADAPTER:PATH"):
        Source.parse(text)


def test_run_file_with_the_short_source(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("defense: d3\nsource: arrays:data.npz\nsettings: {lr: 1e-4}\n", encoding="utf-8")
    spec = RunSpec.from_yaml(path)
    assert spec.source == Source(adapter="arrays", path="data.npz")
    assert RunSpec.build(spec.dump()) == spec


def test_run_identity_does_not_depend_on_where_the_output_goes():
    source = Source(adapter="arrays", path="data.npz")
    spec = RunSpec(defense="d3", source=source, out="a")
    assert spec.identity() == RunSpec(defense="d3", source=source, out="b", write_back=False).identity()
    assert spec.identity() != RunSpec(defense="d3", source=source, out="a", seed=1).identity()


@pytest.mark.parametrize("content", ["", "- a\n- b\n", "just text", "a: [1", "\0", "a: b: c"])
def test_bad_run_files_are_refused_by_name(tmp_path, content):
    path = tmp_path / "run.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(SettingsError, match=r"file (must hold one mapping|is not readable YAML)") as caught:
        load_yaml(path)
    assert caught.value.where == path


def test_unreadable_run_files_are_refused(tmp_path):
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("name: café".encode("latin-1"))
    wrong = "file is not readable YAML"
    for path, what in ((latin, wrong), (tmp_path, wrong), (tmp_path / "none.yaml", "file not found")):
        with pytest.raises(SettingsError, match=what):
            load_yaml(path)


class Inner(Settings):
    first: int = Field(1, ge=0)
    second: int = Field(2, ge=0)


class Level(Inner):
    whole = True


class Outer(Settings):
    presets: ClassVar = {"low": {"inner": {"first": 10}}}
    inner: Inner = Inner(second=20)
    perhaps: Inner | None = None
    level: Level = Level(first=5)


def test_nested_settings_given_in_part_keep_their_other_values():
    assert Outer.build({"inner": {"first": 7}}).inner == Inner(first=7, second=20)
    assert Outer.build({"inner": {"second": 8}}, preset="low").inner == Inner(first=10, second=8)
    assert Outer.build(preset="low").inner == Inner(first=10, second=20)


def test_nested_settings_given_as_an_object_are_taken_as_they_are():
    assert Outer.build({"inner": Inner(first=7)}).inner == Inner(first=7, second=2)


def test_nested_settings_without_a_value_below_start_from_their_own_defaults():
    assert Outer.build({"perhaps": {"second": 9}}).perhaps == Inner(first=1, second=9)


def test_settings_that_are_whole_are_not_filled_up():
    assert Outer.build({"level": {"second": 3}}).level == Level(first=1, second=3)


def test_merging_leaves_presets_and_arguments_alone():
    values = {"inner": {"second": 8}}
    Outer.build(values, preset="low")
    assert values == {"inner": {"second": 8}} and Outer.presets == {"low": {"inner": {"first": 10}}}


class Renamed(Settings):
    """Where ``votes`` was ``jury`` first, and ``judges`` for a while."""

    former: ClassVar = {"jury": "votes", "judges": "votes"}
    presets: ClassVar = {"many": {"votes": 9}, "made long ago": {"jury": 8}}
    votes: int = Field(3, ge=1)
    share: float = Field(0.5, ge=0)


class Around(Settings):
    one: Renamed = Renamed(votes=4)
    all: tuple[Renamed, ...] = ()


@pytest.mark.parametrize("name", ["jury", "judges", "votes"])
def test_settings_are_read_under_former_names(name):
    assert (
        Renamed.build({name: 5}) == Renamed.build({name: 5}, preset="many") == Renamed(**{name: 5}) == Renamed(votes=5)
    )
    assert Around.build({"one": {name: 5}, "all": [{name: 6}]}) == Around(one=Renamed(votes=5), all=(Renamed(votes=6),))
    assert Around.build(parse_assignments([f"one.{name}=5"])).one == Renamed(votes=5)


def test_the_upper_layer_counts_whatever_names_the_layers_use():
    assert Renamed.overlaid({"jury": 1}, {"votes": 2}) == Renamed.overlaid({"votes": 1}, {"judges": 2}) == {"votes": 2}
    assert Renamed.coerce({"jury": 1}, {"votes": 2}).votes == 2
    assert Renamed.build({"votes": 2}, preset="made long ago").votes == 2


@pytest.mark.parametrize("values", [{"jury": 1, "votes": 2}, {"jury": 1, "judges": 1}])
def test_a_setting_given_under_two_names_is_refused(values):
    for refused in (values, Renamed.overlaid({"share": 1}, values)):
        with pytest.raises(SettingsError, match=r"`jury` and `(votes|judges)` are names of one setting, `votes`"):
            Renamed.build(refused)
    with pytest.raises(SettingsError, match=r"`jury` and `(votes|judges)` are names of one setting, `votes`"):
        Around.build({"all": [values]})


def test_only_current_names_are_dumped_and_listed():
    assert Renamed(judges=5).dump() == {"votes": 5, "share": 0.5}
    with pytest.raises(SettingsError, match="unknown key") as caught:
        Renamed.build({"juries": 5})
    assert caught.value.allowed == "keys: votes, share"


def test_hashes_are_those_of_the_first_names():
    around = Around(one=Renamed(votes=5), all=(Renamed(),))
    made_before = {"one": {"jury": 5, "share": 0.5}, "all": [{"jury": 3, "share": 0.5}]}
    assert around.fingerprint() == fingerprint(made_before) == Around.build(made_before).fingerprint()
    assert Renamed(votes=1).fingerprint() != Renamed(votes=2).fingerprint()


class Grown(Settings):
    added: ClassVar = {"mode": None, "sizes": [1, 2], "inner": {"votes": 3, "share": 0.5}}

    radius: int = 3
    mode: str | None = None
    sizes: tuple[int, ...] = (1, 2)
    inner: Renamed = Renamed()


def test_settings_that_came_later_do_not_count_where_they_change_nothing():
    assert Grown().fingerprint() == fingerprint({"radius": 3})
    assert Grown(radius=4).fingerprint() == Grown.build({"radius": 4, "sizes": [1, 2]}).fingerprint()
    changed = [Grown(mode="a"), Grown(sizes=(1,)), Grown(inner=Renamed(votes=4)), Grown()]
    assert len({each.fingerprint() for each in changed}) == 4
    assert Grown.build(Grown.under_first_names(changed[1].dump())) == changed[1]
    assert Grown().dump()["mode"] is None and list(Grown().dump()) == ["radius", "mode", "sizes", "inner"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"basic": ("first", "secnd.x")},
        {"former": {"a": "secnd"}},
        {"former": {"first": "second"}},
        {"added": {"secnd": 1}},
    ],
)
def test_marks_of_settings_that_do_not_exist_are_refused(wrong):
    with pytest.raises(TypeError, match=r"secnd|settings again: first"):
        type("Wrong", (Inner,), wrong)

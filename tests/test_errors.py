import pickle
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from elixir_plugin import errors
from elixir_plugin.core.settings import Settings
from elixir_plugin.errors import ElixirError, InputError, SettingsError, nearest, printable, reason_of, shown
from elixir_plugin.io.text import escape_control

ALL = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, ElixirError)]


@pytest.mark.parametrize("error", ALL)
def test_one_root_catches_all(error):
    with pytest.raises(ElixirError):
        raise error("something is wrong")
    assert error.exit_code in (1, 2)


def test_message_leaves_out_what_is_not_given():
    assert str(ElixirError("wrong")) == "wrong"
    assert str(ElixirError("wrong", where="here")) == "wrong\n  where:   here"


def test_a_found_zero_is_shown():
    assert "found:   0" in str(ElixirError("wrong", found=0))


@pytest.mark.parametrize("error", ALL)
def test_errors_survive_a_process_boundary(error):
    first = error("wrong", where="a", found=3, allowed="b", hint="c")
    second = pickle.loads(pickle.dumps(first))
    assert type(second) is error
    assert str(second) == str(first)


def test_nearest():
    assert nearest("dataelixer", ["d3", "dataelixir"]) == "did you mean 'dataelixir'?"
    assert nearest("zzz", ["d3", "dataelixir"]) is None
    assert nearest("d3", []) is None


def test_input_error_is_no_builtin_error():
    assert not issubclass(InputError, OSError | ValueError)


# no message prints a list without end

LONG: list[object] = [
    [round(1e-4 + 2e-5 * step, 7) for step in range(1000)],
    tuple(range(10_000)),
    {f"layer{number}": number for number in range(10_000)},
    set(range(10_000)),
    ["x" * 10_000],
    "x" * 10_000,
    ", ".join(f"layer{number}.weight" for number in range(1000)),
    np.arange(900),
    torch.arange(900),
    [[[0] * 1000] * 1000],
]


@pytest.mark.parametrize("value", LONG, ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("part", ["what", "where", "found", "allowed", "hint"])
def test_no_part_of_a_message_is_long(part, value):
    error = ElixirError(**{"what": "wrong", part: str(value) if part in ("what", "hint") else value})
    assert len(str(error)) < 650
    assert len(reason_of(error)) <= 300


def test_a_message_whose_parts_are_all_long_keeps_both_ends_of_each():
    parts = {name: f"<{name} {'x' * 2000} {name}>" for name in ("what", "where", "found", "allowed", "hint")}
    told = str(ElixirError(**parts))
    assert len(told) < 1200
    assert all(f"<{name} " in told and f" {name}>" in told for name in parts)


def test_only_what_is_too_long_is_shortened():
    parts = {"what": "w" * 50, "where": "f" * 250, "found": "g" * 480, "allowed": "a" * 90, "hint": "h" * 120}
    told = str(ElixirError(**parts))
    names = {"what": [], "where": ["where:"], "found": ["found:"], "allowed": ["allowed:"], "hint": ["next:"]}
    assert told.split() == [word for name, text in parts.items() for word in (*names[name], text)]


def test_a_long_list_says_how_many_it_holds():
    assert shown([round(step * 1e-4, 4) for step in range(1000)], 60).endswith(", …] (1,000 in all)")
    assert shown({"a": 1, "b": 2}) == "{'a': 1, 'b': 2}" and shown(()) == "()" and shown({3}) == "{3}"
    assert shown({str(key): key for key in range(99)}, 40) == "{'0': 0, '1': 1, '2': 2, …} (99 in all)"
    assert shown((1, "x" * 500, 3), 100).startswith("(1, 'xxx") and len(shown((1, "x" * 500, 3), 100)) <= 101


@given(st.recursive(st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_what_is_shown_is_short_and_short_values_are_shown_whole(value):
    text = shown(value, 100)
    assert len(text) <= 140
    whole = printable(str(value))
    if len(whole) <= 100 and (isinstance(value, str | int) or len(value) <= 50):
        assert text == whole


class Wide(Settings):
    numbers: tuple[int, ...] = ()
    name: Literal["a", "b"] = "a"


def test_a_refused_list_hides_no_other_fault():
    values = {"numbers": ["x"] * 1000, "name": list(range(1000)), "zzz": 1}
    with pytest.raises(SettingsError) as caught:
        Wide.build(values)
    assert len(str(caught.value)) < 1000 and "numbers: … 997 more" in str(caught.value)
    assert all(each in str(caught.value) for each in ("numbers.0 = 'x'", "(1,000 in all)", "zzz: unknown key"))
    with pytest.raises(SettingsError) as caught:
        Wide.build({"name": list(range(1000)), "zzz": 1})
    assert "(1,000 in all)" in str(caught.value) and "zzz: unknown key" in str(caught.value)


@pytest.mark.parametrize("name", ["where", "found", "allowed", "hint"])
def test_what_comes_from_a_file_can_neither_drive_a_terminal_nor_add_lines(name: str) -> None:
    error = InputError("refused", **{name: "a\x1b[2J\u202e\x07\n  next:    rm -r ~\udcff"})
    label = {"hint": "next"}.get(name, name) + ":"
    assert str(error) == f"refused\n  {label:<8} a\\x1b[2J\\u202e\\x07\\n  next:    rm -r ~\\udcff"
    assert escape_control(str(error)) == str(error)

import pickle

import pytest

from elixir_plugin import errors
from elixir_plugin.errors import ElixirError, InputError, nearest

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

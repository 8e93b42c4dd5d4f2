"""Hold the classes against the rules; in your own package this is a file of your tests."""

from elixir_example.adapter import PixelTables
from elixir_example.defense import FineTune

from elixir_plugin.testing import check_adapter, check_defense


def test_the_defense_conforms():
    check_defense(FineTune, epochs=1)


def test_the_adapter_conforms():
    check_adapter(PixelTables)

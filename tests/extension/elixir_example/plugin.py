"""What this package offers; the entry point in pyproject.toml names this module. Nothing heavy is imported here."""

from elixir_plugin import hookimpl
from elixir_plugin.hookspecs import Entry


@hookimpl
def elixir_defenses():
    return [Entry("my_finetune", "elixir_example.defense:FineTune", kind="repair", summary="fine-tune on clean images")]


@hookimpl
def elixir_adapters():
    return [Entry("pixel_tables", "elixir_example.adapter:PixelTables", summary="CSV files with one image per row")]


@hookimpl
def elixir_poisons():
    return [Entry("stripe", "elixir_example.poison:Stripe", summary="one bright row of pixels")]

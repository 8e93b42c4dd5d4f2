"""``python -m elixir_plugin`` is the same program as ``elixir-plugin``."""

from .cli.app import main

main()

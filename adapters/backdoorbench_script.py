"""Moved to :mod:`elixir_plugin.adapters.backdoorbench.script`; imports from here go on working."""

from .backdoorbench.script import *  # noqa: F403

"""Moved to :mod:`elixir_plugin.adapters.backdoor_toolbox.launcher`; imports from here go on working."""

from .backdoor_toolbox.launcher import *  # noqa: F403

"""Moved to :mod:`elixir_plugin.core.settings`; imports from here go on working."""

from .core.settings import *  # noqa: F403

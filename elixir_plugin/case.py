"""Moved to :mod:`elixir_plugin.core.case`; imports from here go on working."""

from .core.case import *  # noqa: F403

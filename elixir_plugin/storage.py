"""Moved to :mod:`elixir_plugin.io.files`; imports from here go on working."""

from .io.files import *  # noqa: F403

"""Moved to :mod:`elixir_plugin.diffusion.denoisers.gaussian`; imports from here go on working."""

from .denoisers.gaussian import *  # noqa: F403

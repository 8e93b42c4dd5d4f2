"""Moved to :mod:`elixir_plugin.diffusion.denoisers.gaussian`; imports from here still work."""

from .denoisers.gaussian import *  # noqa: F403

"""Moved to :mod:`elixir_plugin.diffusion.denoisers.base`; imports from here still work."""

from .denoisers.base import *  # noqa: F403

"""Moved to :mod:`elixir_plugin.diffusion.denoisers.base`; imports from here go on working."""

from .denoisers.base import *  # noqa: F403

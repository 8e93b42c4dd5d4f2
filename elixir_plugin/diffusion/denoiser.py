"""Moved to :mod:`elixir_plugin.diffusion.denoisers.denoiser`; imports from here go on working."""

from .denoisers.denoiser import *  # noqa: F403

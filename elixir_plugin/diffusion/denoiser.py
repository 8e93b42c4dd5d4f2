"""Moved to :mod:`elixir_plugin.diffusion.denoisers.denoiser`; imports from here still work."""

from .denoisers.denoiser import *  # noqa: F403

"""Moved to :mod:`elixir_plugin.core.settings`; imports from here go on working."""

from .adapter import Source as Source  # noqa: PLC0414
from .core.settings import *  # noqa: F403
from .runs.spec import RunSpec as RunSpec  # noqa: PLC0414

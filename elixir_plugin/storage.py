"""Moved to :mod:`elixir_plugin.io.files`; imports from here go on working."""

from .io.files import *  # noqa: F403
from .io.files import to_json_types as plain  # noqa: F401

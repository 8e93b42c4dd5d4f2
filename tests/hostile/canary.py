"""What hostile files would do if anything in them ran: each leaves a mark that tests look for."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

MARK = Path(os.environ.get("ELIXIR_CANARY", Path(tempfile.gettempdir(), f"elixir-canary-{os.getuid()}")))
MODULE = "elixir_canary"  # a module of this name is nowhere; that somebody asks for it is enough


class Reduced:
    """Unpickling this calls *function* with *arguments*."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


def command() -> str:
    """Return a command for a shell."""
    return f"touch '{MARK}'"


def code() -> str:
    """Return Python code."""
    return f"open({str(MARK)!r}, 'w').close()"

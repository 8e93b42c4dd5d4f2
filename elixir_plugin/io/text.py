"""Text made safe to show."""

from __future__ import annotations


def shown(text: str) -> str:
    """Return *text* with control characters made visible, so that no input can drive the terminal."""
    return "".join(char if char.isprintable() or char == "\n" else repr(char)[1:-1] for char in text)

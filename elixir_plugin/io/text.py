"""Text for people: safe to show, and with the flags of the command line they sit at."""

from __future__ import annotations

from collections.abc import Collection

from ..errors import Spelling, escape_control, in_python

__all__ = ["escape_cell", "escape_control", "escape_name", "with_flags"]

FLAGS = {"setting": "--set", "retrain": "--retrain-set", "option": "--option", "to_option": "--to-option"}
FORMULA = ("=", "+", "-", "@")  # what begins a formula to a spreadsheet
NAMED = {"source": "--from"}  # arguments whose flag has another name


def escape_name(text: str) -> str:
    r"""Return *text*, e.g. the name of a file, in one line that can be shown and encoded.

    Backslashes, control characters, line breaks and what is not UTF-8 become backslash escapes of Python. They can be
    read back: no two texts become the same.

    >>> escape_name("cat/0.png"), escape_name("\udcff\n")
    ('cat/0.png', '\\udcff\\n')
    """
    return "".join(char if char.isprintable() and char != "\\" else repr(char)[1:-1] for char in text)


def escape_cell(text: str) -> str:
    r"""Return *text* for a cell of a table: as :func:`escape_name`, and no formula to a spreadsheet.

    >>> escape_cell("cat/0.png"), escape_cell("=1+1")
    ('cat/0.png', '\\x3d1+1')
    """
    name = escape_name(text)
    return f"\\x{ord(name[0]):02x}{name[1:]}" if name[:1] in FORMULA else name


def with_flags(flags: Collection[str]) -> Spelling:
    """Return how a command line that has *flags* spells what an error marks, see :mod:`elixir_plugin.errors`.

    What it has no flag for is spelled as for Python.

    >>> spell = with_flags(["--set", "--out"])
    >>> spell("setting", "denoiser=FOLDER"), spell("argument", "out"), spell("argument", "force")
    ('--set denoiser=FOLDER', '--out', 'force')
    """

    def spell(kind: str, text: str) -> str:
        name, _, value = text.partition("=")
        own = NAMED.get(name, f"--{name.replace('_', '-')}")
        if kind == "command":
            words = [f"--{word.replace('=', ' ', 1)}" if "=" in word else word for word in text.split()]
            return " ".join(["elixir-plugin", *words])
        if kind in ("argument", "option") and own in flags:  # an option may have a short form
            return f"{own} {value}".rstrip()
        if FLAGS.get(kind) in flags:
            return f"{FLAGS[kind]} {text}"
        if kind == "setting" and own in flags:
            return f"{own} {value}"
        return in_python(kind, text)

    return spell

"""Texts of the files that are placed in checkouts, filled in from the templates in ``elixir_plugin/toolkits``."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

from ..._version import __version__
from ...errors import InputError

PACKAGE = "elixir_plugin"


def filled(template: str, **values: str) -> str:
    """Return the template with every ``@key@`` replaced; ``version`` is known."""
    text = (files(PACKAGE) / "toolkits" / template).read_text(encoding="utf-8")
    known = {"version": __version__, **values}
    return re.sub(r"@([a-z]+)@", lambda found: known[found[1]], text)


def refuse_other_folder(root: Path, toolkit: str, marks: tuple[str, ...]) -> None:
    """Refuse a folder that does not look like a checkout of *toolkit*.

    :param marks: relative paths that every checkout has.
    :raises InputError: naming those that are missing.
    """
    missing = [mark for mark in marks if not (root / mark).exists()]
    if missing:
        raise InputError(
            f"not a checkout of {toolkit}",
            where=root,
            found=f"no {', '.join(missing)}" if root.is_dir() else "no such folder",
            allowed=f"the root of a checkout, with {', '.join(marks)}",
        )

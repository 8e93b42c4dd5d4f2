"""All kinds of hostile input, by family; those of a part of the project stand in a module of their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

Build = Callable[[Path], None]
FAMILIES = {  # family -> (module, name of its table), earlier ones first
    "images": [("images", "KINDS")],
    "data_files": [("data_files", "KINDS"), ("basics", "DATA")],
    "documents": [("documents", "KINDS"), ("texts", "TEXT")],
    "special": [("special", "KINDS")],
    "trees": [("trees", "KINDS")],
}


@dataclass(frozen=True)
class Kind:
    """One kind of hostile input; ``build`` makes it at a path where nothing is."""

    family: str
    name: str
    build: Build

    def __str__(self) -> str:
        return f"{self.family}: {self.name}"


@cache
def all_kinds() -> dict[str, Kind]:
    """Return every kind, by its full name."""
    found = {}
    for family, tables in FAMILIES.items():
        for module, table in tables:
            if find_spec(module) is None:
                continue
            for name, build in getattr(import_module(module), table).items():
                kind = Kind(family, name, build)
                found.setdefault(str(kind), kind)
    return found


def make(kind: Kind, folder: Path) -> Path:
    """Build *kind* in a new folder, and return where it is."""
    folder.mkdir(parents=True)
    kind.build(folder / "input")
    return folder / "input"

"""The layout in numbers: modules per package, floors and arrows between them, and the files that one run enters.

::

    .venv/bin/python tests/benchmarks/layout.py                     # needs the extra "dev", for grimp
    .venv/bin/python tests/benchmarks/layout.py --trace run d3 --from testbed:badnets --set epochs=1 --out /tmp/run

A room is a module or package directly below ``elixir_plugin``. The floor of a room is one above the highest room that
it imports from, imports for types included.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections import Counter, defaultdict
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "elixir_plugin"
SHIMS = {f"{PACKAGE}.{name}" for name in ("case", "config", "storage")}  # former import paths, no rooms


def modules_per_folder() -> Counter[str]:
    """Return folder -> number of modules, packages' own ``__init__`` left out."""
    paths = [path for folder in (PACKAGE, "adapters") for path in (ROOT / folder).rglob("*.py")]
    return Counter(str(path.parent.relative_to(ROOT)) for path in paths if path.name != "__init__.py")


def arrows_between_rooms() -> dict[str, set[str]]:
    """Return room -> rooms that it imports from."""
    import grimp

    with tempfile.TemporaryDirectory() as name:  # the folder adapters/ has its real name in an installed copy alone
        shutil.copytree(ROOT / PACKAGE, Path(name) / PACKAGE)
        shutil.copytree(ROOT / "adapters", Path(name) / PACKAGE / "adapters")
        sys.path.insert(0, name)
        sys.modules.pop(PACKAGE, None)
        graph = grimp.build_graph(PACKAGE, cache_dir=None)
    rooms: dict[str, set[str]] = defaultdict(set)
    for module in graph.modules - SHIMS - {PACKAGE}:
        room = module.split(".")[1]
        found = {each.split(".")[1] for each in graph.find_modules_directly_imported_by(module) if "." in each}
        rooms[room] |= found - {room}
    return rooms


def floors_of(rooms: dict[str, set[str]]) -> dict[str, int]:
    """Return room -> floor, from 1.

    :raises RecursionError: when rooms import each other in a circle.
    """

    def floor(room: str) -> int:
        return 1 + max(map(floor, rooms.get(room, ())), default=0)

    return {room: floor(room) for room in rooms}


def trace(arguments: list[str]) -> None:
    """Run ``elixir-plugin`` with *arguments* here, and list the product's files that were entered."""
    entered: dict[str, set[str]] = defaultdict(set)

    def note(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        path = Path(code.co_filename)
        if event == "call" and code.co_name != "<module>" and path.is_relative_to(ROOT) and ".venv" not in path.parts:
            entered[str(path.relative_to(ROOT))].add(code.co_name)

    from elixir_plugin.cli import main

    sys.argv = ["elixir-plugin", *arguments]
    sys.setprofile(note)
    try:
        main()
    except SystemExit as end:
        print(f"exit code {end.code or 0}")
    finally:
        sys.setprofile(None)
    for name, functions in sorted(entered.items()):
        print(f"{len(functions):4}  {name}")
    print(f"{len(entered)} files, {sum(map(len, entered.values()))} functions")


def main() -> None:
    """Print the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trace", nargs=argparse.REMAINDER, help="arguments of elixir-plugin")
    given = parser.parse_args()
    if given.trace is not None:
        trace(given.trace)
        return
    for folder, count in sorted(modules_per_folder().items()):
        print(f"{count:4}  {folder}")
    rooms = arrows_between_rooms()
    floors = floors_of(rooms)
    for floor in range(max(floors.values()), 0, -1):
        print(f"floor {floor}: {', '.join(sorted(room for room, its in floors.items() if its == floor))}")
    print(f"{len(rooms)} rooms, {max(floors.values())} floors, {sum(map(len, rooms.values()))} arrows")


if __name__ == "__main__":
    main()

"""The table of readers is sound and whole: each reads its valid input, and no code that opens files is left out."""

from __future__ import annotations

import ast
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, get_args

import elixir_plugin.adapters
import pytest
from hostile import Hostile
from readers import CALLS, READERS

import elixir_plugin
from elixir_plugin.core.settings import Settings
from elixir_plugin.plugins import plugins

CODE = [Path(next(iter(package.__path__))) for package in (elixir_plugin, elixir_plugin.adapters)]
OPENS = {  # what opens a file for reading, in the project and below it
    "open_file", "open_regular", "read_bytes", "read_text", "is_there", "read_json", "read_torch",
    "read_tensors", "read_plain_pickle", "read_image", "image_header", "image_shape", "load_yaml", "safe_open",
    "load_file", "open_image", "fromfile", "memmap", "from_pretrained",
}  # fmt: skip
LEFT_OUT = {  # why no hostile file reaches it: file, function
    # files of our own, in the installed package
    ("adapters/common/templates.py", "filled"),
    ("report/page.py", "_styles"),
    ("report/page.py", "script"),
    ("zoo/known.py", "known_hashes"),
    # what the user's own checkout or library hands over, see SECURITY.md
    ("adapters/backdoorbox/behaviour.py", "_measure"),
    ("adapters/backdoor_toolbox/network.py", "misfit"),
    ("diffusion/generators/pipeline_files.py", "load_pipeline"),
    # called where reading has failed
    ("io/reading.py", "_refuse_pointer"),
    # what a killed run kept in its work folder, under names made of hashes, and what a comparison shares
    ("defenses/confusion_training/data.py", "load_or_make"),
    ("defenses/image_variations/variations.py", "_counted"),
    ("defenses/pipeline/store.py", "_read"),
    ("defenses/image_variations/variations.py", "_generator_in"),
    ("diffusion/fit/train.py", "_seconds_in"),
    ("diffusion/purify.py", "_chunk_size"),
    ("evaluation/kept.py", "known"),
    ("testbed/keeping.py", "kept_arrays"),
    ("training/checkpoint.py", "restore"),  # looks whether there is a file; read_state reads it
    # only headers, which image_header reads
    ("adapters/backdoor_toolbox/triggers.py", "_leave_other_sizes"),
    # files that the call has just written, or compares with what it is about to write
    ("runs/native.py", "_digest"),
    ("zoo/formats.py", "_copy"),
    ("testing/adapters.py", "tree"),
}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Hostile:
    return Hostile(tmp_path_factory.mktemp("valid"))


@pytest.fixture(scope="module")
def called(hostile: Hostile) -> set[tuple[str, str]]:
    """File and name of every function of the package that reading all valid input calls."""
    found: set[tuple[str, str]] = set()
    roots = tuple(map(str, CODE))

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(roots):
            found.add((frame.f_code.co_filename, frame.f_code.co_name))

    for room, read in dict.fromkeys((each.room, each.read) for each in READERS.values()):
        place = hostile.room(room)
        threading.setprofile(note)
        sys.setprofile(note)
        try:
            read(place)
        finally:
            sys.setprofile(None)
            threading.setprofile(None)
    return {(short(name), function) for name, function in found}


def short(file: str | Path) -> str:
    """Return the path of a file of the package, from the package on; adapters have their name in front."""
    path = Path(file)
    root = next(each for each in reversed(CODE) if path.is_relative_to(each))
    return path.relative_to(root if root == CODE[0] else root.parent).as_posix()


def opening() -> Iterator[tuple[str, str]]:
    """Yield file and name of every function that opens a file."""
    for root in CODE:
        for file in root.rglob("*.py"):
            for function in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(function, ast.FunctionDef) and OPENS & {name_of(each) for each in ast.walk(function)}:
                    yield short(file), function.name


def name_of(node: ast.AST) -> str | None:
    if not isinstance(node, ast.Call):
        return None
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)


def test_valid_input_is_read_and_no_function_that_opens_files_is_left_out(called: set[tuple[str, str]]) -> None:
    left = sorted(set(opening()) - called - LEFT_OUT)
    assert left == [], "\n".join(map(str, left))


def test_every_adapter_that_reads_a_disk_is_there() -> None:
    known = {name for name in plugins().offers()["adapter"] if plugins().get("adapter", name).reads_disk}
    assert known <= {call.args[0] for call in CALLS}


def paths_of(options: type[Settings]) -> set[str]:
    return {
        name for name, field in options.model_fields.items() if Path in (field.annotation, *get_args(field.annotation))
    }


@pytest.mark.parametrize("name", sorted({call.args[0] for call in CALLS}))
def test_every_option_that_is_a_path_is_among_what_hostile_input_replaces(name: str) -> None:
    given: dict[str, set[str]] = {}
    for call in CALLS:
        if call.args[0] == name:
            for key, value in call.keywords.items():
                if callable(value):
                    given.setdefault(key, set()).add(Path(value(Path("/"))).relative_to("/").as_posix())
    assert given.keys() == paths_of(plugins().get("adapter", name).Options)
    slots = {each.slot for each in READERS.values()}
    uncovered = {key for key, places in given.items() if not any(reached(place, slots) for place in places)}
    assert uncovered == set()


def reached(place: str, slots: set[str]) -> bool:
    return any(slot == place or slot.startswith(f"{place}/") for slot in slots)

"""Whole runs of every defense, and a comparison, as scenarios to be killed in or to run out of disk in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rooms
import short_settings
from safetensors import safe_open

from elixir_plugin.runs.compare.run import run_compare
from elixir_plugin.runs.compare.spec import CompareSpec
from elixir_plugin.runs.run import run_defense
from elixir_plugin.runs.spec import RunSpec

RECIPE = {"epochs": 1, "batch_size": 4}
SMALL: dict[str, dict[str, Any]] = {  # for eight images of 8 px
    "d3": {"epochs": 2, "batch_size": 4},
    "confusion_training": {"architecture": "fast_resnet", "confusion_batch": 4, "held_out": 0.5},
    "eclipse": {},
    "dataelixir": {"recipe": RECIPE},
    "image_variations": {"search": {"candidates": (0.1, 0.2), "images": 4, "agreement": 0.0}, "recipe": RECIPE},
}
SHORT = {name: {**short_settings.SHORT[name], **values} for name, values in SMALL.items()}
MODELS = ("d3",)  # defenses that need a suspect model
TIMES = ("timings", "seconds", "attempts", "environment", "exhibits", "command", "timing", "identity")


@dataclass(frozen=True)
class Scenario:
    """A command that can be run again, and what of its result must not depend on what happened before.

    :param prepare: makes the input, in a new folder.
    :param act: the command; called with the folder.
    """

    name: str
    prepare: Callable[[Path], object]
    act: Callable[[Path], object]
    ignored: frozenset[str] = frozenset()


def single(defense: str) -> Scenario:
    def act(folder: Path) -> None:
        source = {"adapter": "image_folder", "path": str(folder / "set"), "options": {}}
        if defense in MODELS:
            source["options"] = {"model": str(folder / "model")}
        values = {"defense": defense, "source": source, "settings": SHORT[defense], "any_model": True, "device": "cpu"}
        values |= {"out": str(folder / "run"), "write_to": str(folder / "native")}
        run_defense(RunSpec.build(values), quiet=True)

    return Scenario(f"run of {defense}", rooms.image_folder, act)


def compared(folder: Path) -> None:
    case = {"source": f"image_folder:{folder / 'set'}", "options": {"model": str(folder / "model")}, "name": "a"}
    defenses = [{"defense": name, "settings": SHORT[name]} for name in ("d3", "eclipse")]
    spec = CompareSpec.build(
        {"cases": [case], "defenses": defenses, "seeds": [0], "device": "cpu", "any_model": True, "retrain": RECIPE}
    )
    if run_compare(spec, folder / "run", quiet=True).failed:
        raise RuntimeError((folder / "run" / "log.txt").read_text()[-2000:])


SCENARIOS = [*map(single, SHORT), Scenario("comparison", rooms.image_folder, compared)]


def essence(folder: Path) -> dict[str, str]:
    """Return everything below *folder* that tells one result from another: no times, and neither logs nor pages."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir():
            found[name] = "folder"
        elif path.name in (
            "log.txt",
            "events.jsonl",
            "timings.json",
            "report.html",
            "compare.html",
            "table.md",
            "table.csv",
        ):
            found[name] = "there"
        elif path.suffix == ".json":
            found[name] = digest(json.dumps(timeless(json.loads(path.read_text())), sort_keys=True).encode())
        elif path.suffix == ".safetensors":
            with safe_open(path, "np") as file:
                values = [(key, file.get_tensor(key).tobytes()) for key in sorted(file.keys())]
            found[name] = digest(repr(values).encode())
        else:
            found[name] = (
                "there" if path.suffix in (".png", ".svg") and "figures" in path.parts else digest(path.read_bytes())
            )
    return found


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: timeless(each) for key, each in value.items() if key not in TIMES}
    return [timeless(each) for each in value] if isinstance(value, list) else value

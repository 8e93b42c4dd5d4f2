"""What is called to read each thing, with the folder of a room."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import rooms

for _name in ("adapters", "."):  # for fake_records, and for what all tests share
    if (_place := str(Path(__file__).resolve().parents[1] / _name)) not in sys.path:
        sys.path.append(_place)


def adapter(name: str, place: str, folder: Path, **options: Any) -> object:
    """Read a case; names of files among *options* are relative to *folder*."""
    from elixir_plugin import get_adapter

    given = {key: value(folder) if callable(value) else value for key, value in options.items()}
    return get_adapter(name)(given).read(folder / place, 0)


def case_of(call: partial[object]) -> Callable[[Path], object]:
    """Return a reader of the case that *call* reads."""
    return lambda folder: call(folder=folder)


def at(place: str) -> Callable[[Path], str]:
    return lambda folder: str(folder / place)


def of(module: str, name: str, place: str, *more: Any, **options: Any) -> Callable[[Path], object]:
    """Return what calls ``module.name`` with the path of *place*."""

    def call(folder: Path) -> object:
        from importlib import import_module
        from operator import attrgetter

        return attrgetter(name)(import_module(f"elixir_plugin.{module}"))(folder / place, *more, **options)

    return call


def load_weights(folder: Path, place: str = "model.pt") -> object:
    from elixir_plugin.core.classifier.checkpoints import load_weights as load

    return load(folder / place, lambda classes: rooms.network(), None, name="fast_resnet")


def flags(folder: Path) -> object:
    from elixir_plugin.adapters.backdoorbench.flags import read_request

    from elixir_plugin.defense import get_defense

    return read_request(get_defense("d3"), folder, ["--result_file", "fake"])


def resumed(folder: Path) -> object:
    """Run again what the run folder says, as ``elixir-plugin run RUN/run.yaml`` does."""
    from elixir_plugin.runs.run import run_defense
    from elixir_plugin.runs.spec import RunSpec

    spec = RunSpec.from_yaml(folder / "run" / "run.yaml")
    places = {"out": str(folder / "run"), "write_to": str(folder / "native")}
    return run_defense(spec.model_copy(update=places), quiet=True)


def card(folder: Path) -> object:
    from elixir_plugin.runs.cards import card_from_runs

    return card_from_runs([folder / "run"])


def exported(folder: Path) -> object:
    from elixir_plugin.runs.export import load

    return load(str(folder / "run"))


def native(folder: Path) -> object:
    """Look whether what a run wrote for the toolkit is as it left it."""
    from elixir_plugin.runs.native import _edited, _read

    return [_edited(folder / "native", entry) for entry in _read(folder / "native").values()]


def compared(folder: Path) -> object:
    """Look for what an earlier session of a comparison left."""
    from elixir_plugin.runs.compare import run as compare
    from elixir_plugin.runs.spec import RunSpec

    spec = RunSpec.build({"defense": "d3", "source": {"adapter": "testbed", "path": "badnets"}})
    return compare._known(compare.Cell("a", "d3", 0, spec.model_copy(update={"out": str(folder / "run")}), ""), folder)


def inspected(folder: Path) -> object:
    from elixir_plugin.adapters.backdoorbench import BackdoorBench

    from elixir_plugin.runs.checkout import inspect

    return inspect(folder, BackdoorBench().placement(folder, ["d3"]))


def denoiser(folder: Path, place: str) -> object:
    from elixir_plugin.diffusion.denoisers.denoiser import find_denoiser

    return find_denoiser(str(folder / place), image_size=8, channels=3)


def pipeline(folder: Path) -> object:
    from elixir_plugin.diffusion.generators.pipeline_files import only_safe, refuse_other_pipeline

    refuse_other_pipeline(folder, ("StableDiffusionImg2ImgPipeline",))
    return only_safe(folder)


def save(folder: Path) -> object:
    """Save a card where there is one of the same name."""
    from elixir_plugin.runs.cards import ResultCard, save_card

    values = {"defense": "d3", "case": "digits", "seeds": [0], "device": "cpu", "source": "here"}
    return save_card(ResultCard.build({**values, "measured": {"acc": {"value": 0.9}}}), folder)


def append(folder: Path) -> object:
    """Add to a table of detections."""
    import numpy as np
    from elixir_plugin.adapters.backdoorbench.write import append_detection

    from elixir_plugin import Outcome
    from elixir_plugin.testing.defenses import tiny_case

    case = tiny_case()
    flagged = np.arange(len(case.train)) < 3
    return append_detection(folder / "detection_info.csv", case, Outcome(flagged=flagged))


def blended(folder: Path) -> object:
    from elixir_plugin.testbed.poisons import Blended

    return Blended(picture=str(folder / "image.png")).pattern((8, 8, 3))


def stored(folder: Path) -> object:
    from elixir_plugin.core.context import Context
    from elixir_plugin.diffusion.store.chunks import ChunkStore

    store = ChunkStore(folder / "store", length=6, shape=(2,), dtype="float32", identity={"of": "test"}, chunk=2)
    wanted = np.arange(12, dtype=np.float32).reshape(6, 2)  # as in the room
    store.fill(lambda part: wanted[part], Context(quiet=True), description="test")
    assert np.array_equal(store.array(), wanted), "a damaged part is taken for a sound one"
    return store.array()

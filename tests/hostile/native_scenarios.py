"""The commands that write files for users, each as a scenario to be killed in; see :mod:`kill_native`."""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from kill_native import Scenario
from PIL import Image
from pydantic import Field

sys.path.append(str(Path(__file__).resolve().parents[1] / "adapters"))

from fake_records import make_workspace

from elixir_plugin import Outcome, get_adapter
from elixir_plugin.adapter import Placement, Source
from elixir_plugin.core.case import Case
from elixir_plugin.core.context import Context
from elixir_plugin.core.metrics import DetectionMetrics, Evaluation, ModelMetrics
from elixir_plugin.core.settings import Settings
from elixir_plugin.defense import Card, Defense
from elixir_plugin.hookspecs import Entry, hookimpl
from elixir_plugin.plugins import plugins
from elixir_plugin.runs import checkout
from elixir_plugin.runs.cards import ResultCard, save_card
from elixir_plugin.runs.native import write_native
from elixir_plugin.runs.run import run_defense
from elixir_plugin.runs.spec import RunSpec
from elixir_plugin.testing.defenses import tiny_case

EVALUATION = Evaluation(
    before=ModelMetrics(0.9, 1.0, 0.0), after=ModelMetrics(0.8, 0.1, 0.7), detection=DetectionMetrics(0.5, 0.1, 0.9)
)
SET = "poisoned_train_set/own/badnet_0.050_poison_seed=0"
MINE = ("thesis.tex", ".thesis.tex.part", ".notes.abcd1234.part.txt")  # files of the user, two with names like ours


@functools.cache
def case() -> Case:
    return tiny_case()


def outcome_for(suspects: Case, first: int = 0) -> Outcome:
    """Return an outcome with every part; *first* tells two of them apart."""
    train = suspects.train
    assert train is not None
    scores = np.linspace(0, 1, len(train))
    pixels = train.read(slice(None))
    pixels[first : first + 3] = first
    labels = train.labels.copy()
    labels[first] = (labels[first] + 1) % train.num_classes
    flagged = scores > 0.5
    model = None if suspects.model is None else suspects.model.clone()
    return Outcome(
        scores=scores,
        flagged=flagged,
        kept=np.flatnonzero(~flagged),
        train=train.replace(images=pixels, labels=labels),
        model=model,
    )


def own_files(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in MINE:
        (folder / name).write_text("dear")


def written(adapter: str, target: str, read: Callable[[Path], Case], first: int = 0, **options: Any) -> Any:
    """Return what lets *adapter* write an outcome to *target*, as the end of a run does."""

    def act(folder: Path) -> None:
        suspects = read(folder)
        spec = RunSpec(defense="d3", source=Source(adapter=adapter, path=str(folder)), seed=first)
        outcome = outcome_for(suspects, first)
        chosen = get_adapter(adapter)(options)
        write_native(chosen, spec, folder / target, case=suspects, outcome=outcome, evaluation=EVALUATION)

    return act


def replaced(adapter: str, target: str, read: Callable[[Path], Case], **options: Any) -> Callable[[Path], None]:
    """Return what makes the results of another run, with a file of the user between them."""

    def prepare(folder: Path) -> None:
        written(adapter, target, read, 40, **options)(folder)
        own_files(folder / target)

    return prepare


def exported(adapter: str, target: str, **options: Any) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        if not (folder / target).exists():  # as the command refuses a folder that is not empty
            get_adapter(adapter)(options).export(case(), folder / target)

    return act


def record_of(folder: Path) -> Case:
    return get_adapter("backdoorbench")({"architecture": "small_resnet"}).read(folder / "record" / "fake")


def toolbox_of(folder: Path) -> Case:
    return get_adapter("backdoor_toolbox")(toolbox_options(folder)).read(folder / SET)


def toolbox_options(folder: Path) -> dict[str, Any]:
    return {"architecture": "small_resnet", "num_classes": 4, "mean": [0.5], "std": [0.25]}


def toolbox(folder: Path) -> None:
    get_adapter("backdoor_toolbox")().export(case(), folder / SET)
    own_files(folder / SET)


def toolbox_floats(folder: Path) -> None:
    train = case().train
    assert train is not None
    floats = dataclasses.replace(case(), train=train.replace(images=train.read(slice(None)).astype(np.float32) / 256))
    get_adapter("backdoor_toolbox")().export(floats, folder / SET)
    own_files(folder / SET)


def bench(folder: Path) -> None:
    make_workspace(folder)
    own_files(folder / "record" / "fake" / "defense")


PLACEMENT = Placement("bench", {"defense/one.py": "1\n", "config/one/a.yaml": "a\n", "two.py": "2\n"}, ("one",))
UPDATE = Placement("bench", {"defense/one.py": "one\n", "config/one/b.yaml": "b\n"}, ("one",))


def checked_out(folder: Path) -> None:
    own_files(folder / "defense")
    checkout.place(PLACEMENT, folder)


def uninstall(folder: Path) -> None:
    if (folder / checkout.NOTE).exists():
        checkout.remove(folder, "bench")


def card(folder: Path) -> None:
    values = {"defense": "d3", "case": "digits", "seeds": [0], "device": "cpu", "source": "here"}
    save_card(ResultCard.build({**values, "measured": {"acc": {"value": 0.9}}}), folder / "cards")


class MoverSettings(Settings):
    first: int = Field(0, description="the sample that is relabelled")


class Mover(Defense):
    """Relabels one sample, and scores all."""

    name = "mover"
    kind = "purify"
    needs = frozenset({"train"})
    card = Card("Move", "none", 2026, "none", "none", "all")
    Settings = MoverSettings
    settings: MoverSettings

    def defend(self, case: Case, context: Context) -> Outcome:
        assert case.train is not None
        labels = case.train.labels.copy()
        labels[self.settings.first] = 1 - labels[self.settings.first]
        scores = np.arange(len(labels), dtype=np.float64)
        return Outcome(scores=scores, flagged=scores > 4, train=case.train.replace(labels=labels))


class Offer:
    @hookimpl
    def elixir_defenses(self) -> list[Entry]:
        return [Entry("mover", Mover, "purify")]


@contextmanager
def movers() -> Iterator[None]:
    """Offer :class:`Mover` as a plugin would."""
    plugins.cache_clear()
    plugins().register(Offer(), "offer")
    try:
        yield
    finally:
        plugins.cache_clear()


def pictures(folder: Path) -> None:
    for number in range(6):
        file = folder / "in" / "ab"[number // 3] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number,) * 3).save(file)


def whole_run(first: int = 0) -> Callable[[Path], object]:
    def act(folder: Path) -> object:
        source = Source(adapter="image_folder", path=str(folder / "in"))
        out, to = str(folder / f"run-{first}"), str(folder / "native")
        return run_defense(RunSpec(defense="mover", source=source, settings={"first": first}, out=out, write_to=to))

    return act


def run_before(folder: Path) -> None:
    pictures(folder)
    whole_run(4)(folder)
    own_files(folder / "native" / "mine")


# what holds times, and so differs from run to run
TIMED = frozenset({"log.txt", "events.jsonl", "report.json", "report.html", "outcome.json", "figures"})

ANY: Callable[[Path], Case] = lambda folder: case()  # noqa: E731
SCENARIOS = [
    Scenario("image folder", own_files, written("image_folder", "out", ANY)),
    Scenario(
        "image folder over another run", replaced("image_folder", "out", ANY), written("image_folder", "out", ANY)
    ),
    Scenario("arrays", own_files, written("arrays", "out", ANY)),
    Scenario("arrays over another run", replaced("arrays", "out", ANY), written("arrays", "out", ANY)),
    Scenario("toolbox", toolbox, written("backdoor_toolbox", SET, toolbox_of)),
    Scenario("toolbox, floats", toolbox_floats, written("backdoor_toolbox", SET, toolbox_of)),
    Scenario(
        "toolbox over another run",
        lambda folder: (toolbox(folder), written("backdoor_toolbox", SET, toolbox_of, 40)(folder)),
        written("backdoor_toolbox", SET, toolbox_of),
    ),
    Scenario(
        "record, defense folder",
        bench,
        written("backdoorbench", "record/fake/defense/d3", record_of, architecture="small_resnet"),
    ),
    Scenario(
        "record over another run",
        lambda folder: (bench(folder), written("backdoorbench", "record/fake/defense/d3", record_of, 10)(folder)),
        written("backdoorbench", "record/fake/defense/d3", record_of, architecture="small_resnet"),
    ),
    Scenario("export to an image folder", own_files, exported("image_folder", "out")),
    Scenario("export to arrays", own_files, exported("arrays", "out")),
    Scenario("export to the toolbox", own_files, exported("backdoor_toolbox", SET)),
    Scenario(
        "export to a record",
        lambda folder: (bench(folder), own_files(folder)),
        lambda folder: (
            (folder / "record" / "copy").exists()
            or get_adapter("backdoorbench")({"architecture": "small_resnet"}).export(
                record_of(folder), folder / "record" / "copy"
            )
        ),
    ),
    Scenario("card", own_files, card),
    Scenario("install", lambda folder: own_files(folder / "defense"), lambda folder: checkout.place(PLACEMENT, folder)),
    Scenario("update", checked_out, lambda folder: checkout.place(UPDATE, folder)),
    Scenario("uninstall", checked_out, uninstall),
    Scenario("run", pictures, whole_run(), TIMED),
    Scenario("run over the results of another", run_before, whole_run(), TIMED),
]

"""Results in a toolkit's own format do not mix with those of an earlier run, and what a user changed is not lost."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import Field

from elixir_plugin import Outcome
from elixir_plugin.adapter import Source
from elixir_plugin.core.case import Case
from elixir_plugin.core.context import Context
from elixir_plugin.core.settings import Settings
from elixir_plugin.defense import Card, Defense
from elixir_plugin.errors import InputError, RunError
from elixir_plugin.hookspecs import Entry, hookimpl
from elixir_plugin.plugins import plugins
from elixir_plugin.runs.native import NOTE
from elixir_plugin.runs.run import run_defense
from elixir_plugin.runs.spec import RunSpec

pytestmark = pytest.mark.usefixtures("no_figures", "data")


class MoverSettings(Settings):
    first: int = Field(0, description="the sample that is relabelled")
    sanitise: bool = Field(True, description="return a set")


class Mover(Defense):
    """Relabels one sample."""

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
        train = case.train.replace(labels=labels) if self.settings.sanitise else None
        return Outcome(scores=np.zeros(len(labels)), train=train)


class Other(Mover):
    name = "other"


class Offer:
    @hookimpl
    def elixir_defenses(self) -> list[Entry]:
        return [Entry("mover", Mover, "purify"), Entry("other", Other, "purify")]


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    plugins.cache_clear()
    plugins().register(Offer(), "offer")
    for number in range(6):
        file = tmp_path / "in" / "ab"[number // 3] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number,) * 3).save(file)
    yield
    plugins.cache_clear()


def run(
    first: int = 0, *, defense: str = "mover", to: str = "native", adapter: str = "image_folder", **more: bool
) -> None:
    source = Source(adapter=adapter, path="in" if adapter == "image_folder" else "case.npz")
    settings = {"first": first, **more}
    out = f"run-{defense}-{first}-{len(more)}"
    run_defense(RunSpec(defense=defense, source=source, settings=settings, out=out, write_to=to))


def files(folder: str = "native") -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file())


def changes() -> list[str]:
    with Path("native/changes.csv").open(newline="") as file:
        return [row["file"] for row in csv.DictReader(file)]


TABLES = [NOTE, "changes.csv", "suspects.csv"]


def test_a_later_run_leaves_nothing_of_an_earlier_one() -> None:
    run(0)
    assert files() == sorted([*TABLES, "b/0.png"])
    run(4)
    assert files() == sorted([*TABLES, "a/4.png"]) and changes() == ["a/4.png"] and not Path("native/b").exists()
    run(1, sanitise=False)
    assert files() == [NOTE, "suspects.csv"]
    run(0)
    assert files() == sorted([*TABLES, "b/0.png"])


def test_a_run_that_is_done_writes_again_what_is_missing_or_overwritten() -> None:
    run(0)
    run(4)
    run(0)
    assert changes() == ["b/0.png"]
    Path("native/b/0.png").unlink()
    run(0)
    assert changes() == ["b/0.png"] and Path("native/b/0.png").is_file()
    before = {path: path.stat().st_mtime_ns for path in Path("native").rglob("*")}
    run(0)
    assert {path: path.stat().st_mtime_ns for path in Path("native").rglob("*")} == before


def test_a_file_that_the_user_changed_is_not_lost() -> None:
    run(0)
    Path("native/b/0.png").write_bytes(b"mine")
    with pytest.raises(RunError, match="results were changed since") as caught:
        run(4)
    assert caught.value.found == "b/0.png" and Path("native/b/0.png").read_bytes() == b"mine"
    assert not Path("run-mover-4-0").exists()
    run(0)  # is done: nothing is written
    Path("native/b/0.png").rename("mine.png")
    run(4)
    assert changes() == ["a/4.png"] and "b/0.png" not in files()


@pytest.mark.parametrize("size", [0, 1, 1 << 36])
def test_a_file_of_another_size_was_changed_and_is_not_read(size: int) -> None:
    run(0)
    os.truncate("native/b/0.png", size)
    with pytest.raises(RunError, match="results were changed since") as caught:
        run(4)
    assert caught.value.found == "b/0.png" and Path("native/b/0.png").stat().st_size == size


def test_a_note_without_sizes_is_read_too() -> None:
    run(0)
    note = json.loads(Path("native", NOTE).read_text())
    sizes = note["written"]["mover"].pop("sizes")
    assert sizes == {name: Path("native", name).stat().st_size for name in note["written"]["mover"]["files"]}
    Path("native", NOTE).write_text(json.dumps(note))
    run(4)
    assert changes() == ["a/4.png"] and "b/0.png" not in files()


def test_a_file_that_the_user_added_stays() -> None:
    run(0)
    Path("native/b/mine.png").write_bytes(b"mine")
    run(4)
    assert files() == sorted([*TABLES, "a/4.png", "b/mine.png"])


@pytest.mark.parametrize("content", ["thesis.tex", "a/0.png", "model/model.json"])
def test_a_folder_with_something_else_is_refused_before_any_work(content: str) -> None:
    place = Path("native") / content
    place.parent.mkdir(parents=True)
    place.write_text("dear")
    with pytest.raises(RunError, match="folder for results is not empty") as caught:
        run(0)
    assert (
        caught.value.found == content.partition("/")[0] and files() == [content] and not Path("run-mover-0-0").exists()
    )


def test_results_of_another_defense_are_not_mixed_with() -> None:
    run(0)
    with pytest.raises(RunError, match="results of another defense") as caught:
        run(4, defense="other")
    assert "mover" in str(caught.value.found) and changes() == ["b/0.png"]
    for name in files():
        if name != NOTE:
            (Path("native") / name).unlink()
    run(4, defense="other")
    assert changes() == ["a/4.png"]


def test_two_defenses_that_began_at_once_in_a_new_folder_do_not_mix(monkeypatch: pytest.MonkeyPatch) -> None:
    def meanwhile(self: Mover, case: Case, context: Context) -> Outcome:
        run(0)
        return Mover.defend(self, case, context)

    monkeypatch.setattr(Other, "defend", meanwhile)
    with pytest.raises(RunError, match="results of another defense") as caught:
        run(4, defense="other")
    assert "mover" in str(caught.value.found) and changes() == ["b/0.png"]


def test_nothing_goes_to_where_another_defense_is_writing(monkeypatch: pytest.MonkeyPatch) -> None:
    from elixir_plugin.adapters.image_folder import ImageFolder

    def killed(*given: object) -> list[Path]:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(ImageFolder, "write", killed)
        run(0)
    with pytest.raises(RunError, match="results of another defense") as caught:
        run(4, defense="other")
    assert "killed while it wrote" in str(caught.value.found)
    run(0)
    assert files() == sorted([*TABLES, "b/0.png"])


@pytest.mark.parametrize("name", ["x" * 254, "é" * 127, "x" * 60])
def test_a_long_name_of_the_source_fits_into_that_of_the_run(name: str) -> None:
    Path("in").rename(name)
    folders = []
    for force in (False, True):
        spec = RunSpec(defense="mover", source=Source(adapter="image_folder", path=name), settings={"first": 0})
        folders.append(run_defense(spec, force=force).folder)
    assert folders[0].is_dir() and str(folders[1]) == f"{folders[0]}-2"
    assert folders[0].name.startswith(f"mover-{name[:60]}")


def test_what_an_older_version_wrote_is_known_to_its_run() -> None:
    run(0)
    Path("native", NOTE).unlink()
    run(0)
    Path("native/b/0.png").unlink()
    run(0)
    assert changes() == ["b/0.png"] and Path("native/b/0.png").is_file()
    Path("native", NOTE).unlink()
    with pytest.raises(RunError, match="not empty"):
        run(4)


def test_a_run_that_was_killed_while_it_wrote(monkeypatch: pytest.MonkeyPatch) -> None:
    from elixir_plugin.adapters.image_folder import ImageFolder

    run(4)
    whole = ImageFolder.write

    def killed(self: ImageFolder, *given: object) -> list[Path]:
        whole(self, *given)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(ImageFolder, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        run(0)
    monkeypatch.setattr(ImageFolder, "write", whole)
    with pytest.raises(RunError, match="when it was killed"):
        run(4)
    run(0)
    assert files() == sorted([*TABLES, "b/0.png"])
    run(4)
    assert files() == sorted([*TABLES, "a/4.png"])


@pytest.mark.parametrize("text", ["[]", '{"written": []}', '{"written": {"mover": {"files": {"../x": ""}}}}', "{"])
def test_a_broken_note(text: str) -> None:
    run(0)
    Path("native", NOTE).write_text(text)
    Path("x").write_text("outside")
    with pytest.raises(InputError):
        run(4)
    assert Path("x").read_text() == "outside"


def test_a_note_cannot_name_files_outside() -> None:
    run(0)
    note = json.loads(Path("native", NOTE).read_text())
    note["written"]["mover"]["files"] = {"../in/a/0.png": "0" * 64}
    Path("native", NOTE).write_text(json.dumps(note))
    with pytest.raises(InputError, match="path leaves its folder"):
        run(4)
    assert Path("in/a/0.png").is_file()


def test_arrays_too() -> None:
    np.savez("case.npz", x_train=np.zeros((4, 8, 8, 3), np.uint8), y_train=[0, 1, 0, 1])
    run(0, adapter="arrays")
    assert files() == [NOTE, "outcome.npz"]
    run(1, adapter="arrays")
    assert files() == [NOTE, "outcome.npz"]
    with np.load("native/outcome.npz") as arrays:
        assert arrays["y_train"].tolist() == [0, 0, 0, 1]
    run(0, adapter="arrays")  # is done, but what lies there is of the other run
    with np.load("native/outcome.npz") as arrays:
        assert arrays["y_train"].tolist() == [1, 1, 0, 1]

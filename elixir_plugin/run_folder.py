"""The folder of a run: which one it is, and what it is while the run is going on. See :mod:`elixir_plugin.run`."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import yaml

from . import __version__
from .adapter import Adapter
from .case import Case
from .config import RunSpec, load_yaml
from .errors import ElixirError, RunError
from .events import FILE as DIARY
from .events import Earlier, append_event, earlier, note_killed
from .locks import locked
from .plugins import plugins
from .storage import atomic_file, refuse_unwritable, remove_leftovers, writing
from .terminal import shown


def choose_folder(spec: RunSpec, force: bool) -> Path:
    """Return the folder to run in; refuse one that holds something else."""
    source = Path(spec.source.path)
    name = spec.out or f"runs/{spec.defense}-{source.stem or spec.source.adapter}-{spec.identity()[:6]}"
    folder = Path(name)
    if force and (folder.is_dir() or not folder.exists()):
        number = 2
        while holds_something(folder):
            folder = Path(f"{name}-{number}")
            number += 1
        return folder
    if not folder.exists():
        return folder
    if not folder.is_dir() or (holds_something(folder) and not (folder / "run.yaml").exists()):
        raise RunError("output folder holds something else", where=folder, hint="choose another --out")
    if (folder / "run.yaml").exists():
        there = load_yaml(folder / "run.yaml").get("identity")
        if there != spec.identity():
            raise RunError(
                "output folder belongs to another run",
                where=folder,
                found=f"run {there}",
                allowed=f"run {spec.identity()}",
                hint="choose another --out, or --force to run beside it",
            )
    return folder


def write_target(spec: RunSpec, adapter: Adapter, case: Case) -> Path | None:
    """Return where native results go; refuse a place that cannot be written before work starts."""
    own = adapter.result_folder(case, spec.defense)
    target = own if spec.write_back else None
    if spec.write_to is not None:
        target = Path(spec.write_to).absolute()
        if own is None or not target.is_relative_to(own.parent):
            _refuse_input(target, spec, adapter)
    if target is not None:
        refuse_unwritable(target)
    return target


def _refuse_input(target: Path, spec: RunSpec, adapter: Adapter) -> None:
    """Refuse to write results where the input is read from: below it, around it, or in its place."""
    read = [value for _, value in adapter.options if isinstance(value, Path)]
    read += [Path(spec.source.path)] if adapter.reads_disk else []
    place = target.resolve()
    for path in (each.resolve() for each in read if each.exists()):
        if place.is_relative_to(path) or path.is_relative_to(place):
            raise RunError(
                "results would land in the input", where=target, found=path, hint="choose another --write-to"
            )


def holds_something(folder: Path) -> bool:
    """Whether *folder* is there and holds more than what a kill leaves: half-written files, a diary just begun."""
    left = {DIARY, *(path.name for path in folder.glob(".*.part"))}
    return folder.exists() and any(path.name not in left for path in folder.iterdir())


@contextmanager
def opened(folder: Path, spec: RunSpec) -> Iterator[Earlier]:
    """Prepare the run folder, log to it, and record a failure in it.

    :returns: what earlier goes in it have cost.
    """
    with _alone(folder):
        note_killed(folder)
        before = earlier(folder)
        remove_leftovers(folder)
        with atomic_file(folder / "run.yaml") as temporary:
            header = f"# elixir_plugin {__version__}; rerun: elixir-plugin run {shown(str(folder / 'run.yaml'))}\n"
            text = yaml.safe_dump({**spec.dump(), "identity": spec.identity()}, sort_keys=False)
            temporary.write_text(header + text, encoding="utf-8")
        with logged(folder), _outcome_noted(folder, spec):
            yield before


@contextmanager
def _outcome_noted(folder: Path, spec: RunSpec) -> Iterator[None]:
    append_event(folder, "started", identity=spec.identity())
    try:
        yield
    except BaseException as error:
        with suppress(OSError):  # a full disk must not hide what happened
            append_event(folder, "stopped", reason=f"{type(error).__name__}: {getattr(error, 'what', error)}")
        if isinstance(error, ElixirError):
            logging.getLogger(__name__).error("%s", error)
        raise


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the lock on the diary of the run.

    :raises RunError: when another process holds it.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / DIARY, wait=False) as mine:
        if mine is None:
            raise RunError(
                "another process works on this run", where=folder, hint="wait for it, or choose another --out"
            )
        yield


@contextmanager
def logged(folder: Path) -> Iterator[None]:
    """Add what the package logs meanwhile to ``log.txt`` in *folder*."""
    handler = logging.FileHandler(folder / "log.txt", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger(__package__)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()


def defended(folder: Path, seconds: float) -> None:
    """Write down that the defense came to its end."""
    append_event(folder, "defended", seconds=seconds)


def stage_finished(folder: Path, stage: str, seconds: float) -> None:
    """Write down that a stage came to its end, and tell the plugins."""
    with suppress(OSError):  # this also runs while an error makes its way out
        append_event(folder, "stage", stage=stage, seconds=seconds)
    logger = logging.getLogger(__name__)
    logger.info("%s: %.1f s", stage, seconds)
    try:
        plugins().manager.hook.elixir_stage_finished(stage=stage, seconds=seconds)
    except Exception:  # a stranger's hook does not stop a run
        logger.exception("a plugin failed when told that stage %s is finished", stage)

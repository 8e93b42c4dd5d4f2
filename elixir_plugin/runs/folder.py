"""The folder of a run: which one it is, and what it is while the run is going on. See :mod:`elixir_plugin.runs.run`."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from .._version import __version__
from ..adapter import Adapter
from ..core.case import Case
from ..core.outcome import Outcome
from ..core.settings import load_yaml
from ..errors import ElixirError, InputError, OutcomeError, RunError, SettingsError
from ..io.checked import RUN_AGAIN, refuse_newer
from ..io.files import (
    NAME_BYTES,
    atomic_file,
    cut_name,
    is_leftover,
    refuse_unwritable,
    remove_folder,
    remove_leftovers,
    writing,
)
from ..io.locks import locked
from ..io.opening import without_waiting
from ..io.progress import LogFile
from ..io.text import escape_control
from ..plugins import plugins
from ..report.facts import read_report
from .events import EVENT_LOG, PreviousAttempts, append_event, note_killed, previous_attempts, read_events
from .native import is_toolkits_own
from .spec import SCHEMA, RunSpec

REPORT = "report.json"
ROOM_FOR_MORE = 8  # bytes of a folder's name for the number of a run beside


def choose_folder(spec: RunSpec, force: bool) -> Path:
    """Return the folder to run in; refuse one that holds something else."""
    folder = Path(spec.out or f"runs/{_name(spec)}")
    if force and (folder.is_dir() or not folder.exists()):
        return next(each for each in _side_by_side(folder) if not holds_something(each))
    if not folder.exists():
        return folder
    if not folder.is_dir() or (holds_something(folder) and not (folder / "run.yaml").exists()):
        raise RunError("output folder holds something else", where=folder, hint="choose another {argument:out}")
    there = _identity(folder)
    if there not in (None, spec.identity()):
        raise RunError(
            "output folder belongs to another run",
            where=folder,
            found=f"run {there}",
            allowed=f"run {spec.identity()}",
            hint="choose another {argument:out}, or {argument:force} to run beside it",
        )
    return folder


def folder_for_case(folder: Path, spec: RunSpec, case: Callable[[], Mapping[str, Any]], *, beside: bool) -> Path:
    """Return *folder*, as :func:`choose_folder` chose it, unless its run, finished or not, saw another case.

    :param case: returns what the case is made of, see ``describe``; called where there is a run to compare.
    :param beside: go on to ``NAME-2``, ``NAME-3``, …: the first that is free, or holds this run on this very case. All
        ranks find the same, also those that look when rank 0 has opened it.
    :raises RunError: when the case has changed, without *beside*.
    """
    if not _saw_another(folder, case):
        return folder
    if not beside:
        raise RunError(
            "the input has changed since this run began",
            where=folder,
            found="other files, or the same ones read otherwise, as another version may do",
            hint="{argument:force} runs beside it",
        )
    return next(
        each
        for each in _side_by_side(folder)
        if not holds_something(each) or (_identity(each) == spec.identity() and not _saw_another(each, case))
    )


def write_target(spec: RunSpec, adapter: Adapter, case: Case) -> Path | None:
    """Return where native results go; refuse a place that cannot be written before work starts."""
    own = adapter.result_folder(case, spec.defense)
    target = own if spec.write_back else None
    if spec.write_to is not None:
        target = Path(spec.write_to).absolute()
        if not is_toolkits_own(target, own):
            _refuse_input(target, spec, adapter)
    if target is not None:
        refuse_unwritable(target)
    return target


def stored_outcome(folder: Path, case: Case) -> Outcome:
    """Read the outcome of the run in *folder*, and hold it against *case*, which the run saw.

    :raises InputError: when it is damaged, or does not fit the case.
    """
    outcome = Outcome.load(folder / "outcome", case.model)
    try:
        outcome.check(case)
    except OutcomeError as error:
        found = f"{error.where or 'outcome'} = {error.found}: {error.what}"
        raise InputError(
            "the outcome does not fit the case",
            where=folder / "outcome",
            found=found,
            allowed=error.allowed,
            hint=RUN_AGAIN,
        ) from None
    return outcome


def holds_something(folder: Path) -> bool:
    """Whether *folder* is there and holds more than what a kill leaves: half-written files, an event log just begun."""
    if not folder.is_dir():
        return os.path.lexists(folder)
    return any(path.name != EVENT_LOG and not is_leftover(path.name) for path in folder.iterdir())


def is_finished(folder: Path) -> bool:
    """Whether *folder* holds the report of a finished run, or whatever is in its place."""
    return os.path.lexists(folder / REPORT)


@contextmanager
def opened(
    folder: Path, spec: RunSpec, case: Mapping[str, Any], environment: Mapping[str, str | None] | None = None
) -> Iterator[PreviousAttempts]:
    """Prepare the run folder, log to it, and record a failure in it.

    :param case: what the case is made of, in JSON types; noted, so that a killed run does not go on with another.
    :param environment: what this attempt computes with; noted, so that a killed run goes on with the same.
    :returns: what earlier attempts in it have cost.
    """
    with _alone(folder):
        note_killed(folder)
        remove_leftovers(folder)
        _refuse_in_the_way(folder)
        with atomic_file(folder / "run.yaml") as temporary:
            header = (
                f"# elixir_plugin {__version__}; rerun: elixir-plugin run {escape_control(str(folder / 'run.yaml'))}\n"
            )
            facts = {"identity": spec.identity(), "schema": SCHEMA}
            text = yaml.safe_dump({**spec.dump(), **facts}, sort_keys=False)
            temporary.write_text(header + text, encoding="utf-8")
        with logged(folder):
            before = previous_attempts(folder)
            with _outcome_noted(folder, spec, case, environment):
                yield before


@contextmanager
def logged(folder: Path) -> Iterator[None]:
    """Add what the package logs meanwhile to ``log.txt`` in *folder*.

    :raises RunError: when it cannot be opened.
    """
    with writing(folder / "log.txt"):
        file = open(  # noqa: SIM115
            folder / "log.txt", "a", encoding="utf-8", errors="backslashreplace", opener=without_waiting
        )
    handler = LogFile(file)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("elixir_plugin")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        with suppress(OSError):  # a full disk: closing writes what is left
            file.close()


def note(folder: Path, event: str, **facts: Any) -> None:
    """Add to the event log where it can be written: a full disk must neither lose hours of work nor hide an error."""
    with suppress(ElixirError, OSError):
        append_event(folder, event, **facts)


def clear(folder: Path) -> None:
    """Remove what a finished run had not yet removed when it was killed, unless another process is just at it."""
    if not (folder / "work").exists() and not any(is_leftover(path.name) for path in folder.iterdir()):
        return  # so that nothing is touched in a folder that cannot be written
    with suppress(ElixirError, OSError), locked(folder / EVENT_LOG, wait=False) as mine:
        if mine is not None:
            remove_folder(folder / "work")
            remove_leftovers(folder)


def stage_finished(folder: Path, stage: str, seconds: float) -> None:
    """Write down that a stage came to its end, and tell the plugins."""
    note(folder, "stage", stage=stage, seconds=seconds)
    logger = logging.getLogger(__name__)
    logger.info("%s: %.1f s", stage, seconds)
    try:
        plugins().manager.hook.elixir_stage_finished(stage=stage, seconds=seconds)
    except Exception:  # a stranger's hook does not stop a run
        logger.exception("a plugin failed when told that stage %s is finished", stage)


def _name(spec: RunSpec) -> str:
    """Return ``DEFENSE-SOURCE-HASH``; the name of the source is cut where the whole would be too long for a file."""
    source = Path(spec.source.path).stem or spec.source.adapter
    room = NAME_BYTES - ROOM_FOR_MORE - len(os.fsencode(f"{spec.defense}--{spec.identity()[:6]}"))
    return f"{spec.defense}-{cut_name(source, room)}-{spec.identity()[:6]}"


def _side_by_side(folder: Path) -> Iterator[Path]:
    """Yield ``NAME``, ``NAME-2``, ``NAME-3``, …"""
    yield folder
    yield from (Path(f"{folder}-{number}") for number in itertools.count(2))


def _identity(folder: Path) -> str | None:
    """Return whose folder it is: the identity of the run that began in it, or None."""
    file = folder / "run.yaml"
    if not file.exists():
        return None
    try:
        content = load_yaml(file)
    except SettingsError as error:
        error.hint = error.hint or "remove the file, or choose another {argument:out}"
        raise
    refuse_newer(content, SCHEMA, file)
    return str(content.get("identity"))


def _saw_another(folder: Path, case: Callable[[], Mapping[str, Any]]) -> bool:
    """Whether the run in *folder* saw another case; of a run that had not yet begun to read, nothing is known."""
    if is_finished(folder):
        seen = read_report(folder)["case"]
    else:
        seen = next((event["case"] for event in reversed(read_events(folder)) if event.get("case")), None)
    if not seen:
        return False
    now = case()
    return any(now.get(key) != value for key, value in seen.items())


def _refuse_input(target: Path, spec: RunSpec, adapter: Adapter) -> None:
    """Refuse to write results where the input is read from: below it, around it, or in its place."""
    read = [value for _, value in adapter.options if isinstance(value, Path)]
    read += [Path(spec.source.path)] if adapter.reads_disk else []
    place = target.resolve()
    for path in (each.resolve() for each in read if each.exists()):
        if place.is_relative_to(path) or path.is_relative_to(place):
            raise RunError(
                "results would land in the input", where=target, found=path, hint="choose another {argument:write_to}"
            )


def _refuse_in_the_way(folder: Path) -> None:
    """Refuse what is in the place of a sub-folder of the run: it may be anybody's."""
    for name in ("work", "outcome"):
        path = folder / name
        if os.path.lexists(path) and not path.is_dir():
            raise RunError("a file is in the way", where=path, allowed="a folder, or nothing", hint="move it elsewhere")


@contextmanager
def _outcome_noted(
    folder: Path, spec: RunSpec, case: Mapping[str, Any], environment: Mapping[str, str | None] | None
) -> Iterator[None]:
    append_event(folder, "started", identity=spec.identity(), case=case, environment=environment)
    try:
        yield
    except BaseException as error:
        note(folder, "stopped", reason=f"{type(error).__name__}: {getattr(error, 'what', error)}")
        if isinstance(error, ElixirError):
            logging.getLogger(__name__).error("%s", error, extra={"raised": True})
        raise


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the lock on the event log of the run.

    :raises RunError: when another process holds it.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / EVENT_LOG, wait=False) as mine:
        if mine is None:
            raise RunError(
                "another process works on this run", where=folder, hint="wait for it, or choose another {argument:out}"
            )
        yield

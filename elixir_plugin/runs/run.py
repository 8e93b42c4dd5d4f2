"""One run: case + defense + settings → a run folder.

::

    run.yaml       the resolved run: source, settings with every default, seed, versions
    log.txt        what was logged
    events.jsonl   one line per event: started, stage, defended, stopped or killed, finished
    preview.png    with ``preview``: suspect images and what the defense makes of them
    outcome/       what the defense returned (safetensors + JSON)
    report.json    everything measured, and what the page shows; its presence means "done"
    report.html    the same to look at, in one file made from report.json alone
    figures/       its figures as PNG files

A rerun of the same command finds ``report.json`` and says "already done"; without it, it starts over in the same
folder with the intermediate files (``work/``) that are there. Seconds then include those of earlier attempts. A folder
that belongs to another run, or to a run that saw other input, is refused.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter

from ..adapter import Adapter, get_adapter
from ..core.case import Case
from ..core.context import Context, resolve_device
from ..core.metrics import Evaluation
from ..defense import Defense, check_agreement, get_defense
from ..errors import SettingsError
from ..evaluation.measure import execute
from ..evaluation.retraining import Retraining
from ..io.distributed import barrier, local_device, rank_and_world, together
from ..io.environment import differences, environment, threads
from ..io.files import remove_folder, to_json_types, write_json
from ..io.images import write_grid
from ..io.process import clear_ends
from ..plugins import plugins
from ..report.facts import read_report
from ..report.single import write_pages
from ..report.text import result_lines
from .events import recorded_threads
from .folder import (
    choose_folder,
    clear,
    folder_for_case,
    is_finished,
    note,
    opened,
    stage_finished,
    stored_outcome,
    write_target,
)
from .native import is_out_of_date, refuse_mixture, write_native
from .recommend import recommend
from .report_data import make_report
from .resolve import described_once, refuse, resolved, retraining_of, spike_of
from .spec import RunSpec
from .spike import measure_power


@dataclass(frozen=True)
class RunResult:
    """A finished run.

    :param report: content of ``report.json``.
    :param folder: the run folder.
    :param written: files written in the toolkit's own format.
    :param already_done: True when nothing had to be computed.
    """

    report: dict[str, Any]
    folder: Path
    written: tuple[Path, ...] = ()
    already_done: bool = False

    def lines(self) -> Iterator[str]:
        """Yield what a person wants to know after the run, line by line."""
        yield from result_lines(self.report, self.folder, self.written, already_done=self.already_done)


def run_defense(
    spec: RunSpec,
    *,
    force: bool = False,
    quiet: bool = True,
    preview: int = 0,
    on_preview: Callable[[Path], None] | None = None,
    rewrite: bool = False,
    cache: Path | None = None,
) -> RunResult:
    """Run what *spec* says, or find it done.

    Under ``torchrun`` all ranks run the defense together, and rank 0 alone measures and writes; what the others return
    has an empty report.

    :param force: start anew in a folder beside an existing one (``NAME-2``, ``NAME-3``, …).
    :param preview: first write a picture of what becomes of so many suspect images, ``preview.png``.
    :param on_preview: called with its path, before the run goes on.
    :param rewrite: for hosts that name what they read and write: write the files in the toolkit's own format again when
        the run is done already, as another run may have put its own in their place; and run beside earlier runs that
        saw other input under the same name (``NAME-2``, …), where a later call finds each again.
    :param cache: where several runs keep what they share: suspect models trained for a testbed case, denoisers.
    :raises ElixirError: for anything wrong with settings, input or folders; the message says what to do. Nothing
        is written before settings and input have been checked.

    >>> from tempfile import TemporaryDirectory
    >>> from elixir_plugin import Source
    >>> digits = Source(adapter="testbed", path="badnets", options={"size": 8, "recipe": {"epochs": 1}})
    >>> with TemporaryDirectory() as folder:
    ...     spec = RunSpec(defense="d3", source=digits, settings={"epochs": 1}, out=f"{folder}/run")
    ...     first, second = run_defense(spec), run_defense(spec)
    >>> first.already_done, second.already_done, sorted(first.report["metrics"]["after"])
    (False, True, ['acc', 'asr', 'clean_loss', 'ra', 'triggered_loss'])
    """
    if preview and get_defense(spec.defense).preview is Defense.preview:
        raise SettingsError("this defense has no preview", where="{argument:preview}", found=spec.defense)
    with together(), clear_ends(f"{spec.defense} on {spec.source.adapter}:{spec.source.path}"):
        show = partial(write_preview, count=preview, on_done=on_preview)
        return _run(spec, force, quiet, show, rewrite=rewrite, cache=cache)


def write_preview(
    defense: Defense,
    case: Case,
    context: Context,
    folder: Path,
    *,
    count: int,
    on_done: Callable[[Path], None] | None = None,
) -> None:
    """Write ``preview.png`` to *folder*: what the defense does to *count* suspect images; nothing for 0.

    :raises SettingsError: when the defense has nothing to show.
    """
    if not count:
        return
    with context.stage("preview"):
        rows = defense.preview(case.visible(), context, count)
    if not rows:
        raise SettingsError("this defense has no preview", where="{argument:preview}", found=defense.name)
    if rank_and_world()[0]:  # the others came along because what a preview makes may be made together
        return
    write_grid(folder / "preview.png", rows)
    if on_done is not None:
        on_done(folder / "preview.png")


@dataclass(frozen=True)
class _Job:
    """What a run needs once everything is read and checked.

    :param target: where files in the toolkit's own format go; None: nowhere.
    :param show: makes the preview.
    """

    spec: RunSpec
    defense: Defense
    adapter: Adapter
    case: Case
    plan: Retraining | None
    context: Context
    folder: Path
    target: Path | None
    show: Callable[[Defense, Case, Context, Path], None]


def _run(
    spec: RunSpec,
    force: bool,
    quiet: bool,
    show: Callable[[Defense, Case, Context, Path], None],
    *,
    rewrite: bool,
    cache: Path | None,
) -> RunResult:
    defense = get_defense(spec.defense)(spec.settings, preset=spec.preset)
    adapter = get_adapter(spec.source.adapter)(spec.source.options)
    adapter.cache = cache
    plan = retraining_of(spec)
    device = _own_device(spec.device)
    spec = resolved(spec, defense, adapter, plan)
    rank, world = rank_and_world()
    if force and world > 1:
        raise SettingsError(
            "ranks would choose different folders", where="{argument:force}", hint="name {argument:out}"
        )
    folder = choose_folder(spec, force)
    with threads(spec.threads or recorded_threads(folder)):
        case = adapter.read(Path(spec.source.path), spec.seed)
        described = described_once(case)
        folder = folder_for_case(folder, spec, described, beside=rewrite)
    if is_finished(folder):
        return RunResult({}, folder, already_done=True) if rank else _already_done(folder, spec, case, adapter, rewrite)
    refuse(defense, case, spec)
    target = write_target(spec, adapter, case)
    refuse_mixture(target, spec, adapter, case)
    context = Context(
        seed=spec.seed,
        device=device,
        work_dir=folder / "work",
        cache=cache,
        quiet=quiet or rank > 0,
        any_model=spec.any_model,
    )
    check_agreement(case, context)
    job = _Job(spec, defense, adapter, case, plan, context, folder, target, show)
    with threads(spec.threads or recorded_threads(folder)):  # which a run that goes on takes over
        return _help(job) if rank else _lead(job, described())


def _own_device(name: str) -> torch.device:
    """Return the device of this rank, the only one that is tried: each try takes memory on a GPU until the end."""
    own = str(local_device(torch.device(name))) if name == "cuda" else name
    return local_device(resolve_device(own))  # "auto" is resolved without a try


def _help(job: _Job) -> RunResult:
    """Run the defense together with rank 0."""
    barrier()  # until rank 0 has opened the run folder
    job.show(job.defense, job.case, job.context, job.folder)
    job.defense.run(job.case, job.context)
    barrier()
    return RunResult({}, job.folder)


def _lead(job: _Job, described: dict[str, Any]) -> RunResult:
    """Run the defense, measure, and write everything."""
    spec, case, context, folder = job.spec, job.case, job.context, job.folder
    now = environment(context.device)
    with opened(folder, spec, described, now) as before:
        barrier()
        _tell_changes([*before.environments, now], context)
        plugins().manager.hook.elixir_run_started(spec=spec.dump(), folder=str(folder))
        context.timings |= before.stages
        context.on_stage = partial(stage_finished, folder)
        started = time.perf_counter()
        job.show(job.defense, case, context, folder)
        previewed = time.perf_counter() - started  # counts: the defense takes up what a preview has trained

        def told(seconds: float) -> None:
            note(folder, "defended", seconds=previewed + seconds)

        outcome, evaluation = execute(
            job.defense,
            case,
            context,
            job.plan,
            controls=spec.controls,
            relearn=spec.relearn,
            on_defended=told,
            described=described,
        )
        if (spike := spike_of(spec)) is not None:
            power = measure_power(job.defense, case, outcome, context, spike)
            evaluation = dataclasses.replace(evaluation, power=power)
        if spec.recommend:
            evaluation = dataclasses.replace(evaluation, recommendation=recommend(job.defense, case, outcome, context))
            outcome.notes += [text for text in context.notes if text not in outcome.notes]
        outcome.timings["total"] += before.seconds + previewed
        outcome.save(folder / "outcome")
        written = []
        if job.target is not None:
            written = write_native(job.adapter, spec, job.target, case=case, outcome=outcome, evaluation=evaluation)
        facts = make_report(
            spec, job.defense, case, outcome, evaluation, device=context.device, written=written, described=described
        )
        report = to_json_types(facts | {"attempts": before.attempts + 1})
        write_json(folder / "report.json", report)
        remove_folder(folder / "work")
        write_pages(report, folder)
        note(folder, "finished", seconds=outcome.timings["total"])
    plugins().manager.hook.elixir_run_finished(report=report, folder=str(folder))
    return RunResult(report, folder, tuple(written))


def _tell_changes(environments: Sequence[Mapping[str, Any]], context: Context) -> None:
    """Warn of what has changed between the attempts of a run; said at once, and in the report."""
    for then, now in pairwise(environments):
        if changed := differences(then, now):
            text = (
                f"the run went on in another environment ({'; '.join(changed)}): its result may differ, by rounding "
                "and what follows from it, from that of a run that was not interrupted"
            )
            context.notes.append(text)
            logging.getLogger(__name__).warning(text, extra={"at_once": True})


def _already_done(folder: Path, spec: RunSpec, case: Case, adapter: Adapter, rewrite: bool) -> RunResult:
    """Return a run that is finished and saw the same input; write native files that are missing."""
    clear(folder)
    report = read_report(folder)
    target = write_target(spec, adapter, case)
    written = [Path(name) for name in report["written"]]
    here = any(path.is_relative_to(target or "") for path in written)
    complete = here and all(os.path.exists(path) for path in written)  # noqa: PTH110  (a path may be no path at all)
    if target is not None and (rewrite or not complete or is_out_of_date(target, spec)):
        refuse_mixture(target, spec, adapter, case, known=written)
        outcome = stored_outcome(folder, case)
        evaluation = TypeAdapter(Evaluation).validate_python(report["metrics"])
        written = write_native(adapter, spec, target, case=case, outcome=outcome, evaluation=evaluation)
        report = {**report, "written": [str(path) for path in written]}
        write_json(folder / "report.json", report)
    if not (folder / "report.html").exists():  # killed before, or made by an older version
        write_pages(report, folder)
    return RunResult(report, folder, tuple(written), already_done=True)

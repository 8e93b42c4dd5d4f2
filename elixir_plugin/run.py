"""One run: case + defense + settings → a run folder.

::

    run.yaml       the resolved run: source, settings with every default, seed, versions
    log.txt        what was logged
    events.jsonl   one line per event: started, stage, finished
    outcome/       what the defense returned (safetensors + JSON)
    report.json    everything measured, and what the page shows; its presence means "done"
    report.html    the same to look at, in one file made from report.json alone
    figures/       its figures as PNG files

A rerun of the same command finds ``report.json`` and says "already done"; without it, it starts over in the same
folder with the intermediate files (``work/``) that are there. A folder that belongs to another run is refused.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml

from . import __version__
from .adapter import Adapter
from .case import Case
from .config import RunSpec, load_yaml
from .context import Context, resolve_device
from .defense import Defense
from .diffusion.ranks import barrier, local_device, rank_and_world, together
from .errors import ElixirError, RunError, SettingsError
from .evaluation import Evaluation, ModelMetrics, evaluate, model_metrics
from .outcome import Outcome
from .plugins import get_adapter, get_defense, plugins
from .record import describe, make_report
from .report.single import write_pages
from .retraining import Retraining, judge_denoiser, retrain, run_control, run_controls
from .storage import atomic_file, plain, read_json, refuse_unwritable, remove_leftovers, write_json

MEASURING = timedelta(days=7)  # how long the other ranks stay while rank 0 trains and measures models


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


def run_defense(spec: RunSpec, *, force: bool = False, quiet: bool = True, cache: Path | None = None) -> RunResult:
    """Run what *spec* says, or find it done.

    Under ``torchrun`` all ranks run the defense together, and rank 0 alone measures and writes; what the others return
    has an empty report.

    :param force: start anew in a folder beside an existing one (``NAME-2``, ``NAME-3``, …).
    :param cache: where the adapter may keep what several runs share, e.g. a suspect model trained for a testbed case.
    :raises ElixirError: for anything wrong with settings, input or folders; the message says what to do. Nothing
        is written before settings and input have been checked.

    >>> from tempfile import TemporaryDirectory
    >>> from elixir_plugin.config import Source
    >>> digits = Source(adapter="testbed", path="badnets", options={"size": 8, "recipe": {"epochs": 1}})
    >>> with TemporaryDirectory() as folder:
    ...     spec = RunSpec(defense="d3", source=digits, settings={"epochs": 1}, out=f"{folder}/run")
    ...     first, second = run_defense(spec), run_defense(spec)
    >>> first.already_done, second.already_done, sorted(first.report["metrics"]["after"])
    (False, True, ['acc', 'asr', 'clean_loss', 'ra', 'triggered_loss'])
    """
    with together(MEASURING):
        return _run(spec, force, quiet, cache)


def estimate_run(spec: RunSpec) -> dict[str, Any]:
    """Return what :func:`run_defense` would cost, as far as the defense can say; nothing is written.

    :raises ElixirError: for what a run would refuse before any work.
    """
    defense = get_defense(spec.defense)(spec.settings, preset=spec.preset)
    adapter = get_adapter(spec.source.adapter)(spec.source.options)
    case = adapter.read(Path(spec.source.path), spec.seed)
    return defense.estimate(case, Context(seed=spec.seed, device=resolve_device(spec.device)))


def _run(spec: RunSpec, force: bool, quiet: bool, cache: Path | None) -> RunResult:
    defense = get_defense(spec.defense)(spec.settings, preset=spec.preset)
    adapter = get_adapter(spec.source.adapter)(spec.source.options)
    adapter.cache = cache
    plan = retraining_of(spec)
    device = local_device(resolve_device(spec.device))
    spec = resolved(spec, defense, adapter, plan)
    rank, world = rank_and_world()
    if force and world > 1:
        raise SettingsError("ranks would choose different folders", where="--force", hint="name a new one with --out")
    folder = _choose_folder(spec, force)
    case = adapter.read(Path(spec.source.path), spec.seed)
    if (folder / "report.json").exists():
        return RunResult({}, folder, already_done=True) if rank else _already_done(folder, spec, case, adapter)
    defense.refuse(case)
    target = _write_target(spec, adapter, case)
    context = Context(seed=spec.seed, device=device, work_dir=folder / "work", quiet=quiet or rank > 0)
    if rank:
        barrier()  # until rank 0 has opened the run folder
        defense.run(case, context)
        barrier()
        return RunResult({}, folder)
    with _opened(folder, spec):
        barrier()
        plugins().manager.hook.elixir_run_started(spec=spec.dump(), folder=str(folder))
        context.on_stage = partial(_stage_finished, folder)
        outcome, evaluation = execute(defense, case, context, plan, controls=spec.controls)
        outcome.save(folder / "outcome")
        written = []
        if target is not None:
            target.mkdir(parents=True, exist_ok=True)
            written = adapter.write(case, outcome, evaluation, target, spec.defense)
        report = plain(make_report(spec, defense, case, outcome, evaluation, device=device, written=written))
        write_json(folder / "report.json", report)
        shutil.rmtree(folder / "work", ignore_errors=True)
        write_pages(report, folder)
        append_event(folder, "finished", seconds=outcome.timings["total"])
    plugins().manager.hook.elixir_run_finished(report=report, folder=str(folder))
    return RunResult(report, folder, tuple(written))


def _already_done(folder: Path, spec: RunSpec, case: Case, adapter: Adapter) -> RunResult:
    """Return a finished run, after making sure it saw the same input; write native files that are missing."""
    report = read_json(folder / "report.json")
    if report["case"] != plain(describe(case)):
        raise RunError(
            "the input has changed since this run was made", where=folder, hint="use --force to run beside it"
        )
    target = _write_target(spec, adapter, case)
    written = [Path(name) for name in report["written"]]
    complete = bool(written) and all(path.exists() and path.is_relative_to(target or "") for path in written)
    if target is not None and not complete:
        outcome = Outcome.load(folder / "outcome")
        target.mkdir(parents=True, exist_ok=True)
        written = adapter.write(case, outcome, Evaluation.from_dict(report["metrics"]), target, spec.defense)
        report = {**report, "written": [str(path) for path in written]}
        write_json(folder / "report.json", report)
    if not (folder / "report.html").exists():  # killed before, or made by an older version
        write_pages(report, folder)
    return RunResult(report, folder, tuple(written), already_done=True)


def execute(
    defense: Defense, case: Case, context: Context, plan: Retraining | None = None, *, controls: bool = False
) -> tuple[Outcome, Evaluation]:
    """Run *defense* on *case* and measure it; the test data is touched only before and after.

    :param plan: train a model on what the defense leaves, when it hands back none; without a suspect model, one
        trained the same way on the whole suspect set stands in as "before".
    :param controls: also measure the controls of ``retraining``; needs *plan*.
    """
    before: ModelMetrics | None = None
    if case.model is not None:
        with context.stage("evaluate before"):
            model = case.model.clone().to(context.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            before = model_metrics(model, case.test, case.test_poisoned)
    outcome = defense.run(case, context)
    barrier()  # no rank needs the intermediate files any more
    measured: dict[str, ModelMetrics] = {}
    if plan is not None:
        if outcome.model is None:
            outcome.model = retrain(case, outcome, plan, context)
        if controls:
            measured = run_controls(case, outcome, plan, context)
        if before is None:
            before = measured.get("undefended") or run_control("undefended", case, outcome, plan, context)
    with context.stage("evaluate after"):
        evaluation = dataclasses.replace(evaluate(case, outcome, before=before), controls=measured)
    if outcome.noise_level is not None:
        size = 0 if case.test is None else len(case.test)
        outcome.notes += judge_denoiser(evaluation.after, measured, size)
    outcome.timings = {**context.timings, **outcome.timings}
    if outcome.model is not None:
        outcome.model.cpu()
    return outcome, evaluation


def retraining_of(spec: RunSpec) -> Retraining | None:
    """Return how *spec* wants a model trained on the sanitised set, or None; controls imply it."""
    if spec.retrain is None and not spec.controls:
        return None
    return Retraining.build(spec.retrain or {}, where="retrain")


def resolved(spec: RunSpec, defense: Defense, adapter: Adapter, plan: Retraining | None = None) -> RunSpec:
    """Return *spec* with every setting spelled out, so that it says the same under other defaults."""
    path = str(Path(spec.source.path).absolute()) if adapter.reads_disk else spec.source.path
    source = spec.source.model_copy(update={"path": path, "options": adapter.options.dump()})
    values = {"settings": defense.settings.dump(), "preset": None, "source": source}
    return spec.model_copy(update=values | {"retrain": None if plan is None else plan.dump()})


def _choose_folder(spec: RunSpec, force: bool) -> Path:
    """Return the folder to run in; refuse one that holds something else."""
    source = Path(spec.source.path)
    name = spec.out or f"runs/{spec.defense}-{source.stem or spec.source.adapter}-{spec.identity()[:6]}"
    folder = Path(name)
    if force:
        number = 2
        while folder.exists() and any(folder.iterdir()):
            folder = Path(f"{name}-{number}")
            number += 1
        return folder
    if not folder.exists():
        return folder
    if not folder.is_dir() or (any(folder.iterdir()) and not (folder / "run.yaml").exists()):
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


def _write_target(spec: RunSpec, adapter: Adapter, case: Case) -> Path | None:
    """Return where native results go; refuse a place that cannot be written before work starts."""
    if spec.write_to is not None:
        target: Path | None = Path(spec.write_to).absolute()
    else:
        target = adapter.result_folder(case, spec.defense) if spec.write_back else None
    if target is not None:
        refuse_unwritable(target)
    return target


@contextmanager
def _opened(folder: Path, spec: RunSpec) -> Iterator[None]:
    """Prepare the run folder, log to it, and record a failure in it."""
    remove_leftovers(folder)
    with atomic_file(folder / "run.yaml") as temporary:
        header = f"# elixir_plugin {__version__}; rerun: elixir-plugin run {folder / 'run.yaml'}\n"
        text = yaml.safe_dump({**spec.dump(), "identity": spec.identity()}, sort_keys=False)
        temporary.write_text(header + text, encoding="utf-8")
    handler = logging.FileHandler(folder / "log.txt", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger(__package__)
    logger.addHandler(handler)
    append_event(folder, "started", identity=spec.identity())
    try:
        yield
    except BaseException as error:
        append_event(folder, "stopped", reason=f"{type(error).__name__}: {getattr(error, 'what', error)}")
        if isinstance(error, ElixirError):
            logger.error("%s", error)
        raise
    finally:
        logger.removeHandler(handler)
        handler.close()


def _stage_finished(folder: Path, stage: str, seconds: float) -> None:
    append_event(folder, "stage", stage=stage, seconds=seconds)
    logging.getLogger(__name__).info("%s: %.1f s", stage, seconds)
    plugins().manager.hook.elixir_stage_finished(stage=stage, seconds=seconds)


def append_event(folder: Path, event: str, **facts: Any) -> None:
    """Add one line to ``events.jsonl``."""
    line = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "event": event, **facts}
    with (folder / "events.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(plain(line)) + "\n")

"""Cases and finished runs, written in a toolkit's own format."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..adapter import Source, get_adapter
from ..core.case import Case, Truth, describe
from ..core.outcome import Outcome
from ..errors import InputError, RunError
from ..evaluation.retraining import kept_rows
from ..io.files import refuse_unwritable, to_json_types
from ..report.facts import read_report
from .folder import is_finished, stored_outcome
from .spec import RunSpec


def export(
    source: str,
    to: str,
    folder: Path,
    *,
    options: Mapping[str, Any] | None = None,
    to_options: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Source:
    """Write a case or the result of a run to *folder*, in the format of adapter *to*, and return how to read it.

    :param source: ``ADAPTER:PATH``, or the folder of a finished run: then what the defense left is written.
    :param options: of the adapter that reads; only for ``ADAPTER:PATH``.
    :param to_options: of the adapter that writes.
    :param seed: for what the reading adapter draws; only for ``ADAPTER:PATH``.
    :raises ElixirError: for anything wrong with source or target; nothing is then written.
    """
    target = get_adapter(to)(to_options)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunError("output folder is not empty", where=folder, hint="choose a new one")
    refuse_unwritable(folder)
    case = load(source, options, seed)
    return target.export(case, folder.absolute())


def load(source: str, options: Mapping[str, Any] | None = None, seed: int = 0) -> Case:
    """Read a case, or what a finished run left; see :func:`export`."""
    folder = Path(source)
    if not folder.is_dir():
        parsed = Source.parse(source, options, where="CASE_OR_RUN")
        return get_adapter(parsed.adapter)(parsed.options).read(Path(parsed.path), seed)
    if not is_finished(folder):
        raise InputError(
            "not a finished run",
            where=folder,
            found="no report.json",
            allowed="the folder of a finished run, or ADAPTER:PATH",
        )
    if options:
        raise InputError("a run has its options already", where=folder, found=", ".join(options), allowed="none")
    spec = RunSpec.from_yaml(folder / "run.yaml")
    case = get_adapter(spec.source.adapter)(spec.source.options).read(Path(spec.source.path), spec.seed)
    if read_report(folder)["case"] != to_json_types(describe(case)):
        raise RunError("the input has changed since this run was made", where=folder, hint="run it again")
    return sanitised(case, stored_outcome(folder, case))


def sanitised(case: Case, outcome: Outcome) -> Case:
    """Return *case* as *outcome* leaves it: its images, labels and model, without the samples it does not keep."""
    train, truth = case.train, case.truth
    if train is not None:
        rows = kept_rows(case, outcome)
        train = (outcome.train or train).subset(rows)
        truth = None if truth is None else _rows_of(truth, rows)
    return dataclasses.replace(case, train=train, truth=truth, model=outcome.model or case.model)


def _rows_of(truth: Truth, rows: np.ndarray[Any, Any]) -> Truth:
    assert truth.cover is not None
    labels = truth.original_labels
    kind = truth.kind if truth.poison[rows].any() else "none"
    return Truth(truth.poison[rows], truth.cover[rows], None if labels is None else labels[rows], kind)

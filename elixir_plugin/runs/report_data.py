"""The content of ``report.json``: everything that was measured, what it was measured on, and how to repeat it."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from .._version import __version__
from ..core.case import Case, describe
from ..core.metrics import Evaluation
from ..core.outcome import Outcome
from ..defense import Defense
from ..io.environment import environment
from ..io.environment import versions as versions  # noqa: PLC0414  (imported from here)
from ..io.files import to_json_types
from ..report.facts import SCHEMA
from .report_panels import collect
from .spec import RunSpec

LONGEST = 5000  # values of a list in the report; longer ones are in the outcome alone


def make_report(
    spec: RunSpec,
    defense: Defense,
    case: Case,
    outcome: Outcome,
    evaluation: Evaluation,
    *,
    device: torch.device,
    written: list[Path],
    described: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the content of ``report.json``.

    :param described: what ``describe`` says of *case*, where it is known: it takes reading every pixel.

    Lists of one value per sample, where there are many samples, are left to ``outcome/outcome.json``.
    """
    return {
        "schema": SCHEMA,
        "elixir_plugin": __version__,
        "run": spec.dump(),
        "identity": spec.identity(),
        "defense": {"name": defense.name, "kind": defense.kind, "paper": defense.card.paper},
        "case": describe(case) if described is None else dict(described),
        "classes": class_names(case),
        "metrics": dataclasses.asdict(evaluation),
        "outcome": {**outcome.summary(), "tables": _short(to_json_types(outcome.tables))},
        "notes": [*case.notes, *outcome.notes],
        "written": [str(path) for path in written],
        "environment": environment(device),
        "command": repeat_command(spec.model_copy(update={"threads": torch.get_num_threads()})),
        "exhibits": collect(defense, case, outcome, spec.seed, evaluation),
    }


def class_names(case: Case) -> list[str] | None:
    """Return the names of the classes in the order of the labels, where the case has them."""
    parts = (case.train, case.clean, case.test, case.model)
    named = next((part.classes for part in parts if part is not None and part.classes is not None), None)
    return None if named is None else list(named)


def repeat_command(spec: RunSpec) -> str:
    """Return a command that repeats *spec*, a resolved one, whatever the defaults are by then.

    Where the output went is left out.
    """
    words = ["elixir-plugin", "run", spec.defense, "--from", f"{spec.source.adapter}:{spec.source.path}"]
    for flag, values in (
        ("-o", spec.source.options),
        ("--set", spec.settings),
        ("--retrain-set", spec.retrain or {}),
        ("--spike-set", spec.spike or {}),
    ):
        words += [word for key, value in values.items() for word in (flag, f"{key}={json.dumps(value)}")]
    words += ["--controls"] if spec.controls else []
    words += ["--relearn"] if spec.relearn else []
    words += ["--recommend"] if spec.recommend else []
    words += [
        word for key, value in (spec.spike or {}).items() for word in ("--spike-set", f"{key}={json.dumps(value)}")
    ]
    words += ["--any-model"] if spec.any_model else []
    words += ["--seed", str(spec.seed), "--device", spec.device]
    words += [] if spec.threads is None else ["--threads", str(spec.threads)]
    return shlex.join(words)


def _short(value: Any) -> Any:
    """Return *value* with a remark in place of every list that is too long for the report."""
    if isinstance(value, dict):
        return {key: _short(item) for key, item in value.items()}
    if isinstance(value, list):
        return value if len(value) <= LONGEST else f"{len(value)} values, see outcome/outcome.json"
    return value

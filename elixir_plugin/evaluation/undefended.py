"""How a model without any defense does, measured once for all runs that share a cache."""

from __future__ import annotations

import dataclasses

from ..core.case import Case
from ..core.context import Context
from ..core.outcome import Outcome
from ..core.settings import fingerprint
from ..io.files import plain, read_json, write_json
from ..runs.report_data import describe
from .metrics import ModelMetrics
from .retraining import Retraining, run_control

STAGE = "control undefended"


def undefended(case: Case, outcome: Outcome, plan: Retraining, context: Context) -> ModelMetrics:
    """Return the metrics of the control ``undefended``: of a model trained on the suspect set as it is.

    Of the runs that share a cache, one trains it; the seconds of its training count in each of them.
    """
    if context.cache is None:
        return run_control("undefended", case, outcome, plan, context)
    facts = [plain(describe(case)), plan.dump(), context.seed, context.device.type]
    file = context.cache / f"undefended-{fingerprint(facts)}.json"
    sign = None if context.work_dir is None else context.work_dir / f"{file.stem}.trained-here"
    if not file.exists():
        before = context.timings.get(STAGE, 0.0)
        found = run_control("undefended", case, outcome, plan, context)
        if sign is not None:
            sign.parent.mkdir(parents=True, exist_ok=True)
            sign.touch()
        write_json(file, {"metrics": dataclasses.asdict(found), "seconds": context.timings[STAGE] - before})
        return found
    known = read_json(file)
    if sign is None or not sign.exists():  # else an earlier go of this very run trained it, and has counted it
        with context.stage(STAGE):
            context.borrow(known["seconds"])
    return ModelMetrics(**known["metrics"])

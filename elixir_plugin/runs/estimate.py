"""What a run would cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..adapter import get_adapter
from ..core.context import Context, resolve_device
from ..defense import check_agreement, get_defense
from ..evaluation.relearning import estimate_relearning
from ..io.environment import threads
from .events import recorded_threads
from .folder import choose_folder, folder_for_case, write_target
from .native import refuse_mixture
from .recommend import estimate_recommendation
from .resolve import described_once, refuse, resolved, retraining_of, spike_of
from .spec import RunSpec
from .spike import estimate_power


def estimate_run(spec: RunSpec, *, force: bool = False) -> dict[str, Any]:
    """Return what :func:`~.run.run_defense` would cost, as far as the defense can say; nothing is written.

    A denoiser that an earlier attempt of this run has trained costs nothing any more.

    :raises ElixirError: for what a run would refuse before any work.
    """
    defense = get_defense(spec.defense)(spec.settings, preset=spec.preset)
    adapter = get_adapter(spec.source.adapter)(spec.source.options)
    device = resolve_device(spec.device)
    plan = retraining_of(spec)
    spec = resolved(spec, defense, adapter, plan)
    folder = choose_folder(spec, force)
    with threads(spec.threads or recorded_threads(folder)):
        case = adapter.read(Path(spec.source.path), spec.seed)
    folder = folder_for_case(folder, spec, described_once(case), beside=False)
    refuse(defense, case, spec)
    refuse_mixture(write_target(spec, adapter, case), spec, adapter, case)
    context = Context(seed=spec.seed, device=device, work_dir=folder / "work", any_model=spec.any_model)
    check_agreement(case, context)
    facts = defense.estimate(case.visible(), context)
    if spec.relearn and plan is not None:
        facts = {**facts, "relearning": estimate_relearning(case, plan, context)}
    if (spike := spike_of(spec)) is not None:
        facts = {**facts, "spike": estimate_power(spike, facts)}
    if spec.recommend:
        facts = {**facts, "recommend": estimate_recommendation(defense, case, context)}
    return facts

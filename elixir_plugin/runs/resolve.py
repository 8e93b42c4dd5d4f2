"""What a run is asked for, spelled out, and what is refused before any work."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache as cache_of
from pathlib import Path
from typing import Any

from ..adapter import Adapter, get_adapter
from ..core.case import Case, describe
from ..defense import Defense, get_defense
from ..evaluation.relearning import refuse_unknown_poison
from ..evaluation.retraining import Retraining
from ..io.files import to_json_types
from .recommend import refuse_unrecommendable
from .spec import RunSpec
from .spike import Spike, refuse_unspikable


def retraining_of(spec: RunSpec) -> Retraining | None:
    """Return how *spec* wants a model trained on the sanitised set, or None; controls and relearning imply it."""
    if spec.retrain is None and not spec.controls and not spec.relearn:
        return None
    return Retraining.build(spec.retrain or {}, where="retrain")


def spike_of(spec: RunSpec) -> Spike | None:
    """Return what *spec* wants to be planted, or None."""
    return None if spec.spike is None else Spike.build(spec.spike, where="spike")


def resolved(spec: RunSpec, defense: Defense, adapter: Adapter, plan: Retraining | None = None) -> RunSpec:
    """Return *spec* with every setting spelled out, so that it says the same under other defaults."""
    path = str(Path(spec.source.path).absolute()) if adapter.reads_disk else spec.source.path
    places = {name: str(value.absolute()) for name, value in adapter.options if isinstance(value, Path)}
    source = spec.source.model_copy(update={"path": path, "options": adapter.options.dump() | places})
    spike = spike_of(spec)
    values = {"settings": defense.settings.dump(), "preset": None, "source": source}
    values |= {"retrain": None if plan is None else plan.dump(), "spike": None if spike is None else spike.dump()}
    return spec.model_copy(update=values)


def identity_of(spec: RunSpec) -> str:
    """Return the identity of a run of *spec*, for hosts that choose its folder."""
    defense = get_defense(spec.defense)(spec.settings, preset=spec.preset)
    adapter = get_adapter(spec.source.adapter)(spec.source.options)
    return resolved(spec, defense, adapter, retraining_of(spec)).identity()


def refuse(defense: Defense, case: Case, spec: RunSpec) -> None:
    """Raise for what cannot be done on *case*, before any work."""
    defense.refuse(case)
    if spec.relearn:
        refuse_unknown_poison(case)
    if (spike := spike_of(spec)) is not None:
        refuse_unspikable(defense, case, spike)
    if spec.recommend:
        refuse_unrecommendable(defense)


def described_once(case: Case) -> Callable[[], dict[str, Any]]:
    """Return a function that says what *case* is made of, in JSON types; all of it is read at the first call alone."""
    return cache_of(lambda: to_json_types(describe(case)))

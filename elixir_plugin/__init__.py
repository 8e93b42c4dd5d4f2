"""Five strong defenses against poisoned training data, drop-in for the toolkits people already use.

Names are imported on first use: ``import elixir_plugin`` must not cost a torch import.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._version import __version__

logging.getLogger(__name__).addHandler(logging.NullHandler())  # the host decides what is shown

_HOME = {
    "Adapter": "adapter",
    "Card": "defense",
    "Case": "core.case",
    "Classifier": "core.classifier.classifier",
    "Context": "core.context",
    "Defense": "defense",
    "ElixirError": "errors",
    "Entry": "hookspecs",
    "Evaluation": "core.metrics",
    "ImageSet": "core.images",
    "Origin": "core.case",
    "Outcome": "core.outcome",
    "Recipe": "training.loop",
    "Samples": "training.batches",
    "Settings": "core.settings",
    "ShuffledBatches": "training.batches",
    "Source": "adapter",
    "TensorImages": "api.convert",
    "TriggeredSet": "core.case",
    "Truth": "core.case",
    "Verdict": "core.outcome",
    "detect": "api.functions",
    "evaluate": "evaluation.metrics",
    "get_adapter": "adapter",
    "get_defense": "defense",
    "hookimpl": "hookspecs",
    "purify": "api.functions",
    "register_into": "api.registry",
    "repair": "api.functions",
    "run_defense": "runs.run",
    "train": "training.loop",
}

__all__ = ["__version__", *sorted(_HOME)]  # noqa: PLE0604  (names resolved by __getattr__)

if TYPE_CHECKING:
    from .adapter import Adapter as Adapter
    from .adapter import Source as Source
    from .adapter import get_adapter as get_adapter
    from .api.convert import TensorImages as TensorImages
    from .api.functions import detect as detect
    from .api.functions import purify as purify
    from .api.functions import repair as repair
    from .api.registry import register_into as register_into
    from .core.case import Case as Case
    from .core.case import Origin as Origin
    from .core.case import TriggeredSet as TriggeredSet
    from .core.case import Truth as Truth
    from .core.classifier.classifier import Classifier as Classifier
    from .core.context import Context as Context
    from .core.images import ImageSet as ImageSet
    from .core.metrics import Evaluation as Evaluation
    from .core.outcome import Outcome as Outcome
    from .core.outcome import Verdict as Verdict
    from .core.settings import Settings as Settings
    from .defense import Card as Card
    from .defense import Defense as Defense
    from .defense import get_defense as get_defense
    from .errors import ElixirError as ElixirError
    from .evaluation.metrics import evaluate as evaluate
    from .hookspecs import Entry as Entry
    from .hookspecs import hookimpl as hookimpl
    from .runs.run import run_defense as run_defense
    from .training.batches import Samples as Samples
    from .training.batches import ShuffledBatches as ShuffledBatches
    from .training.loop import Recipe as Recipe
    from .training.loop import train as train


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})

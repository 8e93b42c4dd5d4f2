"""Five strong defenses against poisoned training data, drop-in for the toolkits people already use.

Names are imported on first use: ``import elixir_plugin`` must not cost a torch import.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

logging.getLogger(__name__).addHandler(logging.NullHandler())  # the host decides what is shown

_HOME = {
    "Case": "case",
    "ImageSet": "case",
    "TriggeredSet": "case",
    "Truth": "case",
    "Classifier": "classifier",
    "Context": "context",
    "Defense": "defense",
    "ElixirError": "errors",
    "Evaluation": "evaluation",
    "Outcome": "outcome",
    "Settings": "config",
    "TensorImages": "intake",
    "Verdict": "outcome",
    "detect": "facade",
    "evaluate": "evaluation",
    "get_adapter": "plugins",
    "get_defense": "plugins",
    "hookimpl": "hookspecs",
    "purify": "facade",
    "register_into": "registry",
    "repair": "facade",
    "run_defense": "run",
}

__all__ = ["__version__", *sorted(_HOME)]  # noqa: PLE0604  (names resolved by __getattr__)

if TYPE_CHECKING:
    from .case import Case as Case
    from .case import ImageSet as ImageSet
    from .case import TriggeredSet as TriggeredSet
    from .case import Truth as Truth
    from .classifier import Classifier as Classifier
    from .config import Settings as Settings
    from .context import Context as Context
    from .defense import Defense as Defense
    from .errors import ElixirError as ElixirError
    from .evaluation import Evaluation as Evaluation
    from .evaluation import evaluate as evaluate
    from .facade import detect as detect
    from .facade import purify as purify
    from .facade import repair as repair
    from .hookspecs import hookimpl as hookimpl
    from .intake import TensorImages as TensorImages
    from .outcome import Outcome as Outcome
    from .outcome import Verdict as Verdict
    from .plugins import get_adapter as get_adapter
    from .plugins import get_defense as get_defense
    from .registry import register_into as register_into
    from .run import run_defense as run_defense


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})

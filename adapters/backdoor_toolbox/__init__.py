"""backdoor-toolbox and Fight-Poison-With-Poison: poisoned sets, cleansed sets, and the script placed in a checkout.

Imported on first use, because the script placed in a checkout sets CUDA_VISIBLE_DEVICES before torch is imported.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .adapter import BackdoorToolbox as BackdoorToolbox


def __getattr__(name: str) -> Any:
    if name != "BackdoorToolbox":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(".adapter", __name__), name)

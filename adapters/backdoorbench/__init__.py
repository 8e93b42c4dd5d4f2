"""BackdoorBench: records, result files, and the scripts that are placed in a checkout.

Imported on first use, because scripts placed in a checkout answer --help before torch is imported.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .adapter import BackdoorBench as BackdoorBench


def __getattr__(name: str) -> Any:
    if name != "BackdoorBench":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(".adapter", __name__), name)

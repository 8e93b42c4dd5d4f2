"""What a result depends on beside input, settings and seed: versions, threads, instruction sets, variables.

Training on a CPU sums gradients in as many parts as there are threads, so that another number of threads is another
order of rounding: after some epochs, another model. Everything else the project computes is the same under any number.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from threadpoolctl import threadpool_info, threadpool_limits  # type: ignore[import-untyped]

from ..errors import shown
from .versions import installed

PACKAGES = (
    "torch",
    "torchvision",
    "numpy",
    "scipy",
    "Pillow",
    "diffusers",
    "transformers",
    "scikit-learn",
    "safetensors",
    "pydantic",
    "pluggy",
)
CHANGING = ("OMP_", "MKL_", "OPENBLAS_", "ATEN_", "ONEDNN_", "DNNL_", "CUBLAS_", "CUDNN_", "NVIDIA_TF32_OVERRIDE")
HARMLESS = ("pydantic", "pluggy", "safetensors")  # they read and write, and compute nothing
COUNTS = "_NUM_THREADS"  # ends variables that say how many threads there are to be; how many there are stands beside
MOST = 256  # threads that are taken over from a record: a file must not make a machine start thousands


def versions() -> dict[str, str | None]:
    """Return the versions of the packages that may change a result; None for one that is not installed."""
    return {package: installed(package) for package in PACKAGES}


def environment(device: torch.device) -> dict[str, str | None]:
    """Return what a result on *device* depends on beside input, settings and seed, as text.

    >>> facts = environment(torch.device("cpu"))
    >>> int(facts["threads"]) == torch.get_num_threads(), facts["numpy"] is not None
    (True, True)
    """
    return {
        "device": _device_name(device),
        "python": platform.python_version(),
        **versions(),
        "threads": str(torch.get_num_threads()),
        "threads_between_operations": str(torch.get_num_interop_threads()),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "blas": _blas(),
        "switches": _switches(device),
        "variables": ", ".join(f"{name}={shown(value, 60)}" for name, value in sorted(_variables().items())) or "none",
    }


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return in words what has changed between two :func:`environment`, and may change a result.

    Facts that *then* lacks, as those of an earlier version of this package may, are not compared.

    >>> differences({"threads": "2", "torch": "2.6.0"}, {"threads": "1", "torch": "2.6.0", "blas": "openblas"})
    ['threads 2 → 1']
    """
    found = []
    for name, value in now.items():
        if name in HARMLESS:
            continue
        before = then.get(name, value)
        if name == "variables":
            before, value = _without_counts(before), _without_counts(value)  # noqa: PLW2901
        elif name == "device":  # which also tells the threads, in words
            before, value = _without_threads(before), _without_threads(value)  # noqa: PLW2901
        if before != value:
            found.append(
                f"{name.replace('_', ' ')} {shown(before or 'not installed', 80)} → {value or 'not installed'}"
            )
    return found


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Compute with *count* threads on the CPU, whatever their number was before; None: leave it as it is.

    >>> with threads(3):
    ...     torch.get_num_threads()
    3
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)  # also the same number: from then on, MKL takes neither more nor fewer
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def one_thread_for_numpy() -> Iterator[None]:
    """Let numpy's linear algebra compute with one thread: its answers depend on their number."""
    with threadpool_limits(1, user_api="blas"):
        yield


def _variables() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith(CHANGING)}


def _without_counts(said: object) -> str:
    parts = [part for part in str(said).split(", ") if not part.partition("=")[0].endswith(COUNTS)]
    return ", ".join(parts) or "none"


def _without_threads(said: object) -> str:
    return re.sub(r", \d+ threads?\)$", ")", str(said))


def _blas() -> str | None:
    """Return what computes numpy's linear algebra, and for which processor."""
    libraries = [each for each in threadpool_info() if each["user_api"] == "blas" and "numpy" in each["filepath"]]
    parts = [(each["internal_api"], each.get("version"), each.get("architecture")) for each in libraries]
    return "; ".join(" ".join(str(word) for word in words if word) for words in parts) or None


def _switches(device: torch.device) -> str:
    said = [
        f"deterministic algorithms {'on' if torch.are_deterministic_algorithms_enabled() else 'off'}",
        f"oneDNN {'on' if torch.backends.mkldnn.enabled else 'off'}",
        f"matmul precision {torch.get_float32_matmul_precision()}",
    ]
    if device.type == "cuda":
        said.append(f"cuDNN {torch.backends.cudnn.version()}")  # type: ignore[no-untyped-call]
        said.append(f"CUDA {torch.version.cuda or torch.version.hip}")
        said.append(f"TF32 in cuDNN {'on' if torch.backends.cudnn.allow_tf32 else 'off'}")
    return ", ".join(said)


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    count = torch.get_num_threads()
    return f"{device.type} ({platform.machine()}, {count} {'thread' if count == 1 else 'threads'})"

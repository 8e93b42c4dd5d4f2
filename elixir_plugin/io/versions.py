"""What ``elixir-plugin env`` finds out about the machine, and the faults it can name.

Nothing here imports torch or torchvision into this process: a broken pair of them must be reportable.
"""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

PACKAGES = ("torch", "torchvision", "diffusers", "numpy", "pydantic", "pluggy", "click", "safetensors", "scikit-learn")

_PROBE = """
import json, importlib
out = {}
for name in ("torch", "torchvision"):
    try:
        importlib.import_module(name); out[name] = ""
    except Exception as error:
        out[name] = f"{type(error).__name__}: {error}"
if not out["torch"]:
    import torch
    out["cuda"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    out["threads"] = torch.get_num_threads()
print(json.dumps(out))
"""


@dataclass(frozen=True)
class Report:
    """What was found; :attr:`faults` is empty on a healthy machine."""

    facts: dict[str, str]
    faults: list[str]


def inspect_environment() -> Report:
    """Look at versions, devices, and whether torch and torchvision fit together."""
    facts = {"python": f"{platform.python_version()} ({sys.executable})", "platform": platform.platform()}
    facts |= {package: installed(package) or "not installed" for package in PACKAGES}
    probe = _probe_imports()
    if "cuda" in probe:
        facts["devices"] = ", ".join([*probe["cuda"], f"cpu ({probe['threads']} threads)"])
    fault = pair_fault(
        installed("torch"),
        installed("torchvision"),
        _required_torch(),
        str(probe.get("torch") or probe.get("torchvision") or ""),
    )
    return Report(facts, [fault] if fault else [])


def pair_fault(torch: str | None, torchvision: str | None, required: str | None, import_error: str) -> str | None:
    """Say what is wrong with a pair of torch and torchvision, and what to do, or return None.

    :param torch, torchvision: installed versions, None when absent.
    :param required: the torch version this torchvision was built for, e.g. ``"2.4.0"``.
    :param import_error: what importing them raised, empty when it worked.

    >>> print(pair_fault("2.13.0+cpu", "0.29.2", "2.15.0", "RuntimeError: operator torchvision::nms does not exist"))
    torch 2.13.0+cpu and torchvision 0.29.2 do not fit together: this torchvision was built for torch 2.15.0
      found: RuntimeError: operator torchvision::nms does not exist
      next:  pip install --force-reinstall torch torchvision   (both in one go, from one index)
    """
    remedy = "\n  next:  pip install --force-reinstall torch torchvision   (both in one go, from one index)"
    found = f"\n  found: {import_error}" if import_error else ""
    if torch is None or torchvision is None:
        missing = "torch" if torch is None else "torchvision"
        return f"{missing} is not installed{remedy}"
    pair = f"torch {torch} and torchvision {torchvision} do not fit together"
    if required is not None and torch.partition("+")[0] != required:
        return f"{pair}: this torchvision was built for torch {required}{found}{remedy}"
    if import_error and (torch.endswith("+cpu") != torchvision.endswith("+cpu")):
        return f"{pair}: one is a CPU-only build, the other is not{found}{remedy}"
    if import_error:
        return f"torch {torch} or torchvision {torchvision} cannot be imported{found}{remedy}"
    return None


def installed(package: str) -> str | None:
    """Return the installed version of *package*, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _required_torch() -> str | None:
    try:
        lines = requires("torchvision") or []
    except PackageNotFoundError:
        return None
    for line in lines:
        if match := re.match(r"torch\s*\(?==\s*([\w.]+)", line):
            return match[1]
    return None


def _probe_imports() -> dict[str, Any]:
    try:
        done = subprocess.run(  # noqa: S603  (our own interpreter, our own text)
            [sys.executable, "-c", _PROBE], capture_output=True, text=True, timeout=120, check=False
        )
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found
    except (subprocess.TimeoutExpired, IndexError, ValueError):
        return {"torch": "the interpreter crashed while importing torch and torchvision"}

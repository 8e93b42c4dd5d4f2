"""``elixir-plugin env`` names a pair of torch and torchvision that does not fit, and what to do."""

from __future__ import annotations

import pytest

from elixir_plugin.io.versions import inspect_environment, pair_fault

REMEDY = "pip install --force-reinstall torch torchvision"


@pytest.mark.parametrize(
    ("torch", "torchvision", "required", "error", "says"),
    [
        ("2.13.0+cpu", "0.29.2", "2.15.0", "RuntimeError: no nms", "was built for torch 2.15.0"),
        ("2.15.0+cpu", "0.29.2", "2.15.0", "RuntimeError: no nms", "one is a CPU-only build"),
        ("2.15.0", "0.29.2", "2.15.0", "OSError: libcudart", "cannot be imported"),
        ("2.15.0", None, None, "", "torchvision is not installed"),
        (None, None, None, "", "torch is not installed"),
    ],
)
def test_a_bad_pair_is_named_with_its_remedy(
    torch: str | None, torchvision: str | None, required: str | None, error: str, says: str
) -> None:
    fault = pair_fault(torch, torchvision, required, error)
    assert fault is not None and says in fault and REMEDY in fault
    assert error in fault


@pytest.mark.parametrize(
    ("torch", "torchvision"), [("2.15.0", "0.29.2"), ("2.15.0+cpu", "0.29.2+cpu"), ("2.15.0+cu130", "0.29.2+cu130")]
)
def test_a_good_pair_is_no_fault(torch: str, torchvision: str) -> None:
    assert pair_fault(torch, torchvision, "2.15.0", "") is None


def test_this_machine_is_described() -> None:
    report = inspect_environment()
    assert not report.faults
    assert {"python", "torch", "torchvision", "devices"} <= report.facts.keys()

"""How many images go into one call where memory is short from the start."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from elixir_plugin.diffusion import batches
from elixir_plugin.training import device

FULL = [
    torch.cuda.OutOfMemoryError("CUDA out of memory"),
    MemoryError(),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported at some other API call"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
]


def on_cuda() -> Any:
    return SimpleNamespace(device=torch.device("cuda"), network=nn.Identity())


@pytest.mark.parametrize("error", FULL, ids=lambda error: str(error)[:60])
def test_out_of_memory_while_the_size_is_found_leaves_single_images(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def full(*_: Any) -> int:
        raise error

    monkeypatch.setattr(batches, "_peak", full)
    assert batches.BatchSize().find(on_cuda(), (3, 32, 32), bf16=False) == 1


@pytest.mark.parametrize("words", ["shape mismatch", "CUDA error: CUBLAS_STATUS_NOT_SUPPORTED"])
def test_other_errors_while_the_size_is_found_pass(monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    def broken(*_: Any) -> int:
        raise RuntimeError(words)

    monkeypatch.setattr(batches, "_peak", broken)
    with pytest.raises(RuntimeError, match=words):
        batches.BatchSize().find(on_cuda(), (3, 32, 32), bf16=False)


@pytest.mark.parametrize(
    ("place", "hip", "capability", "expected"),
    [
        ("cpu", None, (9, 0), False),
        ("cuda", None, (7, 5), False),
        ("cuda:1", None, (8, 0), True),
        ("cuda", None, (12, 0), True),
        ("cuda", "6.2", (0, 0), True),
    ],
)
def test_bf16_is_taken_on_gpus_that_have_it(
    monkeypatch: pytest.MonkeyPatch, place: str, hip: str | None, capability: tuple[int, int], expected: bool
) -> None:
    asked: list[torch.device] = []
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: asked.append(device) or capability)
    assert device.has_bf16(torch.device(place)) == expected
    assert set(asked) <= {torch.device(place)}

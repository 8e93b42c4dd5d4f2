"""How many images go into one call where memory is short from the start."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from elixir_plugin.diffusion import batches


def on_cuda() -> Any:
    return SimpleNamespace(device=torch.device("cuda"), network=nn.Identity())


@pytest.mark.parametrize("error", [torch.cuda.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_out_of_memory_while_the_size_is_found_leaves_single_images(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def full(*_: Any) -> int:
        raise error

    monkeypatch.setattr(batches, "_peak", full)
    assert batches.BatchSize().find(on_cuda(), (3, 32, 32), bf16=False) == 1


def test_other_errors_while_the_size_is_found_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> int:
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr(batches, "_peak", broken)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        batches.BatchSize().find(on_cuda(), (3, 32, 32), bf16=False)

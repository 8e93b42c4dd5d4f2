"""Weights are taken as they are: numbers that are not finite, or would become others, are refused by name."""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from elixir_plugin import Classifier
from elixir_plugin.core.classifier.checkpoints import load_weights
from elixir_plugin.core.classifier.weights import load_by_name
from elixir_plugin.errors import InputError

K = 7

ODD_NUMBERS: dict[str, tuple[str, Any, str]] = {
    "NaN": ("linear.weight", lambda value: value.index_fill(0, torch.tensor([0]), math.nan), "not finite"),
    "infinity": ("linear.bias", lambda value: torch.full_like(value, math.inf), "not finite"),
    "minus infinity in half": ("linear.bias", lambda value: torch.full_like(value, -math.inf).half(), "not finite"),
    "NaN in bfloat16": ("linear.bias", lambda value: torch.full_like(value, math.nan).bfloat16(), "not finite"),
    "a statistic": ("norm.running_var", lambda value: torch.full_like(value, math.nan), "not finite"),
    "doubles too large": (
        "linear.bias",
        lambda value: torch.full_like(value, 1e300, dtype=torch.float64),
        "other numbers",
    ),
    "positions of fractions": ("flat.index", lambda value: value + 0.5, "other numbers"),
    "positions that are too large": ("flat.index", lambda value: value + 2.0**70, "other numbers"),
    "positions of NaN": ("flat.index", lambda value: torch.full((4,), math.nan), "not finite"),
    "a counter of no number": ("norm.num_batches_tracked", lambda value: torch.tensor(math.nan), "not finite"),
    "complex": ("linear.bias", lambda value: value.to(torch.complex64), "complex64"),
    "bool": ("linear.bias", lambda value: value > 0, "bool"),
    "int8": ("linear.bias", lambda value: value.to(torch.int8), "int8"),
    "uint8": ("linear.bias", lambda value: value.to(torch.uint8), "uint8"),
    "int64": ("linear.bias", lambda value: value.to(torch.int64), "int64"),
    "float8": ("linear.bias", lambda value: value.to(torch.float8_e4m3fn), "float8_e4m3fn"),
    "float8 without zero": ("linear.bias", lambda value: value.to(torch.float8_e5m2fnuz), "float8_e5m2fnuz"),
    "a complex counter": ("norm.num_batches_tracked", lambda value: torch.tensor(2 + 0j), "complex64"),
}


def network(classes: int = K) -> nn.Module:
    """A network with weights, statistics, a counter, and positions as a buffer."""
    parts = OrderedDict(flat=nn.Flatten(), norm=nn.BatchNorm1d(12), linear=nn.Linear(12, classes))
    parts["flat"].register_buffer("index", torch.arange(4))
    return nn.Sequential(parts)


@pytest.mark.parametrize("name", ODD_NUMBERS)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors", "by name"])
def test_weights_that_would_be_others_are_refused_by_name(name: str, suffix: str, tmp_path: Path) -> None:
    where, change, message = ODD_NUMBERS[name]
    state = network().state_dict()
    state[where] = change(state[where])
    path = tmp_path / f"weights{suffix}"
    module = network()
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(InputError) as caught:
        if suffix == "by name":
            load_by_name(module, state, where=str(path))
        elif suffix == ".pt":
            torch.save(state, path)
            load_weights(path, network, K)
        else:
            save_file(state, path)
            load_weights(path, network, K)
    assert message in str(caught.value) and str(caught.value.found).startswith(where)
    assert str(caught.value.where) == str(path)
    if "not" in message or "other" in message:
        bad = 12 if name == "NaN" else state[where].numel()
        assert caught.value.found == f"{where} ({bad} of {state[where].numel()})"
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_are_loaded_as_they_are(dtype: torch.dtype, tmp_path: Path) -> None:
    state = network().state_dict()
    state = {name: value.to(dtype) if value.is_floating_point() else value for name, value in state.items()}
    torch.save(state, tmp_path / "w.pt")
    module, classes, _ = load_weights(tmp_path / "w.pt", network, K)
    assert classes == K and module.linear.weight.dtype == torch.float32
    assert torch.equal(module.linear.weight, state["linear.weight"].float())


@pytest.mark.parametrize(
    "counter", [torch.tensor(7), torch.tensor(7, dtype=torch.int32), torch.tensor(7.0), torch.tensor(7.5), None]
)
def test_counters_may_be_of_another_type_or_absent(counter: Tensor | None) -> None:
    state, module = network().state_dict(), network()
    if counter is None:
        del state["norm.num_batches_tracked"]
    else:
        state["norm.num_batches_tracked"] = counter
    load_by_name(module, state, where="here")
    assert module.norm.num_batches_tracked == (0 if counter is None else 7)


def test_an_infinite_mask_of_the_network_itself_is_no_fault() -> None:
    module, other = network(), network()
    for each in (module, other):
        each.register_buffer("mask", torch.full((3, 3), -math.inf).triu(1))
    load_by_name(module, other.state_dict(), where="here")
    state = {**other.state_dict(), "mask": torch.full((3, 3), -math.inf)}
    with pytest.raises(InputError, match="not finite") as caught:
        load_by_name(module, state, where="here")
    assert caught.value.found == "mask (9 of 9)"


def test_a_diverged_result_of_a_run_is_read_back(tmp_path: Path) -> None:
    model = Classifier.build("small_resnet", K)
    with torch.no_grad():
        next(model.module.parameters()).fill_(math.nan)
    model.save(tmp_path)
    with pytest.raises(InputError, match="not finite"):
        Classifier.load(tmp_path)
    assert next(Classifier.load(tmp_path, finite=False).module.parameters()).isnan().all()

"""Weights as people keep them: whatever surrounds them in a file, the right ones are loaded, or none."""

from __future__ import annotations

import argparse
from collections import OrderedDict
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from elixir_plugin.core.classifier.architectures import fitting_architectures
from elixir_plugin.core.classifier.checkpoints import load_weights, read_weights
from elixir_plugin.core.classifier.classifier import build_module
from elixir_plugin.errors import InputError

K = 7
Weights = dict[str, Tensor]


def make(classes: int, name: str = "small_resnet") -> nn.Module:
    return build_module(name, classes)


def weights(seed: int = 0, name: str = "small_resnet", classes: int = K) -> Weights:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return dict(make(classes, name).state_dict())


def behind(prefix: str, state: Weights) -> Weights:
    return {prefix + name: value for name, value in state.items()}


def saved(content: Any, folder: Path, name: str = "best.pth") -> Path:
    torch.save(content, folder / name)
    return folder / name


def loaded(path: Path, classes: int | None = K, **options: Any) -> tuple[Weights, int, list[str]]:
    module, found, notes = load_weights(path, make, classes, name="small_resnet", **options)
    return dict(module.state_dict()), found, notes


def same(first: Weights, second: Weights) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


class Net(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.model = make(classes)


def optimizer_of(state: Weights) -> Any:
    module = make(K)
    module.load_state_dict(state)
    optimizer = torch.optim.SGD(module.parameters(), 0.1, momentum=0.9)
    module(torch.rand(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


STATE, OTHER = weights(0), weights(1)
FLOATS = [name for name, value in STATE.items() if value.is_floating_point()]
FILES: dict[str, tuple[Any, str | None]] = {
    "bare": (STATE, None),
    "ordered": (OrderedDict(reversed(STATE.items())), None),
    "state_dict": ({"epoch": 3, "state_dict": STATE, "best_acc": 0.9}, "state_dict"),
    "model": ({"model": STATE, "optimizer": optimizer_of(OTHER)}, "model"),
    "net": ({"net": behind("module.", STATE), "acc": 93.1}, "net/module"),
    "model_state_dict": ({"model_state_dict": STATE, "loss": torch.tensor(0.1)}, "model_state_dict"),
    "a name of one's own": ({"victim": {"weights": STATE}}, "victim/weights"),
    "data parallel and compiled": (behind("module._orig_mod.", STATE), "module._orig_mod"),
    "lightning": ({"state_dict": {**behind("model.", STATE), "loss.weight": torch.ones(K)}}, "state_dict/model"),
    "backbone": ({"model": behind("backbone.net.", STATE)}, "model/backbone.net"),
    "timm": ({"arch": "x", "state_dict": STATE, "args": argparse.Namespace(lr=0.1), "metric": 0.5}, "state_dict"),
    "averaged model": ({"n_averaged": torch.tensor(3), **behind("module.", STATE)}, "module"),
    "a list": ([{"epoch": 1}, STATE], "1"),
    "half precision": ({**STATE, **{name: STATE[name].half() for name in FLOATS}}, None),
    "without step counters": ({name: value for name, value in STATE.items() if "num_batches" not in name}, None),
    "parameters": ({**STATE, **{name: nn.Parameter(STATE[name]) for name in FLOATS}}, None),
    "profiled": ({**STATE, "total_ops": torch.zeros(1), "layer1.0.conv1.total_params": torch.zeros(1)}, None),
}  # fmt: skip


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("classes", [K, None])
def test_weights_are_found_wherever_they_lie(kind: str, classes: int | None, tmp_path: Path) -> None:
    content, key = FILES[kind]
    state, found, notes = loaded(saved(content, tmp_path), classes)
    expected = {name: value.half().float() if value.is_floating_point() else value for name, value in STATE.items()}
    assert same(state, expected if kind == "half precision" else STATE) and found == K
    total = len(STATE)
    place = "" if key is None else f" under {key}"
    assert notes[0] == f"suspect model: all {total} tensors of small_resnet read from best.pth{place}"


def test_what_was_not_used_is_told(tmp_path: Path) -> None:
    _, _, notes = loaded(saved(FILES["lightning"][0], tmp_path))
    assert any("1 tensors elsewhere (loss.weight)" in note for note in notes)
    _, _, notes = loaded(saved(FILES["profiled"][0], tmp_path))
    assert any("total_ops" in note for note in notes)
    assert len(loaded(saved(STATE, tmp_path))[2]) == 1


def test_safetensors_are_read(tmp_path: Path) -> None:
    save_file({**behind("model.", STATE)}, tmp_path / "best.safetensors")
    state, found, _ = loaded(tmp_path / "best.safetensors", None)
    assert same(state, STATE) and found == K


def test_nothing_is_drawn_from_the_hosts_random_stream(tmp_path: Path) -> None:
    path, before = saved(STATE, tmp_path), torch.get_rng_state()
    loaded(path)
    assert torch.equal(torch.get_rng_state(), before)


AVERAGED = {
    "timm": {"state_dict": STATE, "state_dict_ema": OTHER},
    "model_ema": {"model": STATE, "model_ema": {"module": OTHER}},
    "ema": {"net": STATE, "ema": OTHER, "step": 3},
    "prefix": {"state_dict": {**behind("model.", STATE), **behind("ema_model.", OTHER)}},
    "swa": {"swa_state_dict": OTHER, "model": STATE},
}
ASKED = {
    "timm": "state_dict_ema",
    "model_ema": "model_ema",
    "ema": "ema",
    "prefix": "ema_model",
    "swa": "swa_state_dict",
}


@pytest.mark.parametrize("kind", AVERAGED)
def test_averaged_weights_are_taken_only_where_they_are_asked_for(kind: str, tmp_path: Path) -> None:
    path = saved(AVERAGED[kind], tmp_path)
    state, _, notes = loaded(path)
    assert same(state, STATE) and any("also holds averaged weights" in note and ASKED[kind] in note for note in notes)
    state, _, notes = loaded(path, key=ASKED[kind])
    assert same(state, OTHER) and not any("also holds" in note for note in notes)


def test_averaged_weights_are_taken_where_there_are_no_others(tmp_path: Path) -> None:
    state, _, notes = loaded(saved({"epoch": 2, "ema": STATE}, tmp_path))
    assert same(state, STATE) and any("alone" in note for note in notes)


def test_two_models_in_one_file_are_refused_until_one_is_named(tmp_path: Path) -> None:
    path = saved({**behind("student.", STATE), **behind("teacher.", OTHER)}, tmp_path)
    with pytest.raises(InputError, match="several models that fit") as caught:
        loaded(path)
    assert caught.value.found == "student, teacher" and "weights=student" in str(caught.value.hint)
    assert same(loaded(path, key="teacher")[0], OTHER)
    with pytest.raises(InputError, match="no such weights") as caught:
        loaded(path, key="cinema")
    assert caught.value.allowed == "student, teacher"
    twice = saved({"model": STATE, "state_dict": STATE}, tmp_path)  # the same tensors
    assert same(loaded(twice)[0], STATE)


def test_a_larger_network_of_the_same_family_is_not_taken_for_a_smaller_one(tmp_path: Path) -> None:
    path = saved({"state_dict": weights(0, "resnet34")}, tmp_path)  # has all names and shapes of resnet18, and more
    with pytest.raises(InputError, match="do not fit the architecture") as caught:
        load_weights(path, partial(make, name="resnet18"), K, name="resnet18")
    assert "left over" in str(caught.value.found) and "they fit resnet34" in str(caught.value.hint)


@pytest.mark.parametrize("name", ["preactresnet18", "narrow_resnet18", "mobilenet_v3_small"])
def test_the_architecture_that_would_fit_is_named(name: str, tmp_path: Path) -> None:
    with torch.device("meta"):
        state = build_module(name, K).state_dict()
    zeros = {key: torch.zeros((), dtype=value.dtype).expand(value.shape) for key, value in state.items()}
    path = saved({"model": behind("module.", zeros)}, tmp_path)
    with pytest.raises(InputError, match="do not fit the architecture") as caught:
        loaded(path)
    assert f"they fit {name}" in str(caught.value.hint)


def test_what_does_not_match_is_reported_for_the_weights_that_come_closest(tmp_path: Path) -> None:
    broken = {name: value for name, value in STATE.items() if name != "conv1.weight"} | {"stem.weight": torch.zeros(1)}
    path = saved({"optimizer": optimizer_of(OTHER), "net": behind("module.", broken)}, tmp_path)
    with pytest.raises(InputError, match="do not fit the architecture") as caught:
        loaded(path)
    assert caught.value.found == "1 missing (conv1.weight); 1 left over (stem.weight)" and caught.value.where == path
    assert "nets.py:make_net" in str(caught.value.hint)


def test_the_number_of_classes_is_that_of_the_head(tmp_path: Path) -> None:
    path = saved(weights(classes=5), tmp_path)
    assert loaded(path, None)[1] == 5
    with pytest.raises(InputError, match="another number of classes") as caught:
        loaded(path, 3)
    assert (caught.value.found, caught.value.allowed) == (5, 3)
    one = saved(weights(classes=1), tmp_path, "one.pth")
    assert loaded(one, 2)[1] == loaded(one, None)[1] == 1
    with pytest.raises(InputError, match="another number of classes"):
        loaded(one, 3)
    module, classes, _ = load_weights(path, lambda _: make(5), None)  # it does not depend on the number
    assert classes == 0 and same(dict(module.state_dict()), weights(classes=5))


def test_auxiliary_heads_in_a_file_are_left_out(tmp_path: Path) -> None:
    trained = torchvision.models.googlenet(weights=None, num_classes=K, aux_logits=True, init_weights=False)
    path = saved(trained.state_dict(), tmp_path)
    module, classes, notes = load_weights(path, partial(make, name="googlenet"), None, name="googlenet")
    assert classes == K and any("aux1.conv.conv.weight" in note for note in notes)
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(module.eval()(x), trained.eval()(x))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 3, "acc": 0.5}, "no weights in the file"),
        (torch.zeros(3), "no weights in the file"),
        ([1, 2], "no weights in the file"),
        (nn.Linear(2, 2), "file refused"),
        ({"state_dict": STATE, "model": nn.Linear(2, 2)}, "file refused"),
        ({**STATE, "linear.weight": STATE["linear.weight"].to_sparse()}, "not plain numbers"),
        ({**STATE, "linear.weight": torch.ones(STATE["linear.weight"].shape, dtype=torch.int8)}, "not plain numbers"),
    ],
)
@pytest.mark.filterwarnings("ignore")  # torch warns of sparse tensors
def test_what_is_no_file_of_weights_is_refused(content: Any, message: str, tmp_path: Path) -> None:
    path = saved(content, tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        loaded(path)
    assert caught.value.where == path
    if message == "file refused":
        assert "state_dict" in str(caught.value.hint)


@pytest.mark.filterwarnings("ignore")  # torch.jit is deprecated
def test_torchscript_archives_and_damaged_files_are_refused(tmp_path: Path) -> None:
    torch.jit.script(nn.Linear(2, 2)).save(tmp_path / "scripted.pt")
    (tmp_path / "half.pth").write_bytes(saved(STATE, tmp_path).read_bytes()[:1000])
    (tmp_path / "text.safetensors").write_text("no")
    for name in ("scripted.pt", "half.pth", "text.safetensors", "missing.pt"):
        with pytest.raises(InputError) as caught:
            read_weights(tmp_path / name)
        assert caught.value.where == tmp_path / name


def test_no_architecture_fits_weights_of_ones_own() -> None:
    assert fitting_architectures({"": {"own.weight": torch.zeros(3, 4), "own.bias": torch.zeros(3)}}, 3) == []
    assert fitting_architectures({"": STATE}, 3) == ["fast_resnet", "small_resnet"]  # alike but for a stride

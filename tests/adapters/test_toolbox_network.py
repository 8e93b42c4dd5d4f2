"""``elixir.py`` and the networks of ``config.py``: whichever the checkout names is the suspect model's, or none is."""

from __future__ import annotations

import json
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from elixir_plugin.adapters.backdoor_toolbox import network as network_module
from processes import python
from test_toolbox_launcher import SET, box  # noqa: F401  (a fixture)

from elixir_plugin import Classifier, get_adapter
from elixir_plugin.core.classifier import build_module
from elixir_plugin.core.classifier import classifier as classifier_module
from elixir_plugin.errors import InputError
from elixir_plugin.evaluation.metrics import model_metrics
from elixir_plugin.plugins import Plugins

NETS = """
import torch
from torch import nn

class Tiny(nn.Module):
    def __init__(self, num_classes=10, power=1):
        super().__init__()
        self.stem, self.head, self.power = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, num_classes), power

    def forward(self, x, return_hidden=False):
        hidden = self.stem(x).relu().mean((2, 3)) ** self.power
        return (self.head(hidden), hidden) if return_hidden else self.head(hidden)

def tiny(num_classes=10):
    return Tiny(num_classes)

def squared(num_classes=10):
    return Tiny(num_classes, power=2)
"""
ARCH = """
from utils import nets
triggers_dir = "triggers"
trigger_default = {"cifar10": {"badnet": "none"}}
arch = {"cifar10": nets.ARCH}
"""
GET_ARCH = "\nimport config\ndef get_arch(args): return config.arch[args.dataset]\n"


def network(root: Path, name: str) -> None:
    """Let the checkout's ``config.py`` name one of the networks above, or one of ours."""
    (root / "utils" / "nets.py").write_text(NETS)
    supervisor = root / "utils" / "supervisor.py"
    supervisor.write_text(supervisor.read_text().removesuffix(GET_ARCH) + GET_ARCH)
    (root / "config.py").write_text(ARCH.replace("ARCH", name))


def made(name: str) -> torch.nn.Module:
    module: torch.nn.Module = maker(name)(num_classes=10)
    return module


def maker(name: str) -> Any:
    held: dict[str, Any] = {}
    exec(NETS, held)
    return held[name]


def save(root: Path, module: torch.nn.Module) -> None:
    torch.save(module.state_dict(), root / SET / "full_base_aug_seed=2333.pt")


def elixir(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return python("elixir.py", *arguments, cwd=root)


def run_of(root: Path, defense: str) -> Path:
    (folder,) = (root / SET / "elixir_runs").glob(f"{defense}-*")
    return folder


@pytest.mark.e2e
def test_the_suspect_model_is_what_config_names(box: Path) -> None:  # noqa: F811
    """The same weights mean something else in another network: what is measured and repaired is the toolkit's."""
    network(box, "squared")
    module = made("squared")
    save(box, module)
    done = elixir(box, "--any-model", "-s", "epochs=1", "other_defense.py", "-defense=d3")
    assert done.returncode == 0, done.stderr
    before = json.loads((run_of(box, "d3") / "report.json").read_text())["metrics"]["before"]
    case = get_adapter("backdoor_toolbox")({"model": "none"}).read(box / SET)
    theirs = Classifier(module, 10, mean=(0.4914, 0.4822, 0.4465), std=(0.247, 0.243, 0.261))
    wanted = model_metrics(theirs, case.test, None)
    assert before["acc"] == wanted.acc and before["clean_loss"] == pytest.approx(wanted.clean_loss, rel=1e-5)
    assert set(torch.load(box / SET / "defended_d3_full_base_aug_seed=2333.pt")) == set(module.state_dict())
    assert "loaded 4" in elixir(box, "test_model.py", "-defense=d3").stdout
    assert not (box / "runs").exists()  # nothing is left outside the set's folder


def held_by(monkeypatch: pytest.MonkeyPatch, make: Any) -> str | None:
    """Return the name that the network made by *make* goes by, with plugins of this test alone."""
    loaded = Plugins()
    for module in (network_module, classifier_module):
        monkeypatch.setattr(module, "plugins", lambda: loaded)
    supervisor = ModuleType("utils.supervisor")
    supervisor.get_arch = lambda args: make  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "utils", ModuleType("utils"))
    monkeypatch.setitem(sys.modules, "utils.supervisor", supervisor)
    return network_module.network_of(Namespace(dataset="cifar10"))


@pytest.mark.parametrize(
    ("name", "called"), [("tiny", "toolbox_tiny"), ("squared", "toolbox_squared"), ("Tiny", "toolbox_tiny")]
)
def test_a_network_is_offered_under_its_name(monkeypatch: pytest.MonkeyPatch, name: str, called: str) -> None:
    module = made(name)
    assert held_by(monkeypatch, maker(name)) == called
    built = build_module(called, 10)
    built.load_state_dict(module.state_dict())
    images = torch.rand(4, 3, 8, 8)
    assert torch.equal(built(images), module(images))


def test_the_toolkits_usual_network_keeps_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def usual(num_classes: int) -> torch.nn.Module:
        return build_module("cifar_resnet18", num_classes)

    def changed(num_classes: int) -> torch.nn.Module:
        """The same names and shapes, another function."""
        module = build_module("cifar_resnet18", num_classes)
        module.register_forward_hook(lambda _, __, logits: 2 * logits)
        return module

    state = torch.get_rng_state()
    assert held_by(monkeypatch, usual) == "cifar_resnet18"
    assert held_by(monkeypatch, changed) == "toolbox_changed"
    assert torch.equal(torch.get_rng_state(), state)


QUICK = [
    word
    for value in (
        "ratios=[0.5]",
        "suspect_size=null",
        "reserved_size=null",
        "pretrain_epochs=[1]",
        "confusion_steps=[4]",
    )
    for word in ("-s", value)
]
QUICK += ["-s", "confusion_lr=[0.01]", "-s", "lam=[10]", "-s", "shifted_from=2", "-s", "architecture=small_resnet"]


@pytest.mark.e2e
def test_a_detector_goes_without_a_model_that_does_not_fit(box: Path) -> None:  # noqa: F811
    network(box, "tiny")
    save(box, Classifier.build("small_resnet", 10).module)
    command = ("cleanser.py", "-cleanser=confusion_training")
    done = elixir(box, *QUICK, *command)
    assert done.returncode == 0, done.stderr
    assert "confusion_training goes without a suspect model" in done.stdout and "do not fit" in done.stdout
    assert "remaining" in done.stdout
    report = json.loads((run_of(box, "confusion_training") / "report.json").read_text())
    assert report["metrics"]["before"] is None


@pytest.mark.e2e
def test_what_needs_the_model_says_how_to_name_its_network(box: Path) -> None:  # noqa: F811
    network(box, "tiny")
    save(box, Classifier.build("small_resnet", 10).module)
    command = ("-s", "epochs=1", "other_defense.py", "-defense=d3")
    done = elixir(box, *command)
    assert done.returncode == 1 and "weights do not fit" in done.stderr
    assert "--option architecture=NAME" in done.stderr and "small_resnet" in done.stderr
    named = ("-o", "architecture=small_resnet", *command)
    done = python("elixir.py", *named, cwd=box)  # read right, but never trained
    assert done.returncode == 1 and "--any-model goes on all the same" in done.stderr
    done = python("elixir.py", "--any-model", *named, cwd=box)
    assert done.returncode == 0, done.stderr
    assert "architecture: small_resnet" in (run_of(box, "d3") / "run.yaml").read_text()


def test_the_adapter_reads_a_set_without_its_model(box: Path) -> None:  # noqa: F811
    save(box, made("tiny"))
    with pytest.raises(InputError, match="weights do not fit") as caught:
        get_adapter("backdoor_toolbox")().read(box / SET)
    assert "option architecture=NAME" in str(caught.value) and "option model=none" in str(caught.value)
    case = get_adapter("backdoor_toolbox")({"model": "none"}).read(box / SET)
    assert case.model is None and case.train is not None


@pytest.mark.e2e
def test_without_a_model_file_nothing_is_said(box: Path) -> None:  # noqa: F811
    network(box, "squared")
    (box / SET / "full_base_aug_seed=2333.pt").unlink()
    done = elixir(box, *QUICK, "cleanser.py", "-cleanser=confusion_training")
    assert done.returncode == 0 and "goes without" not in done.stdout, done.stderr

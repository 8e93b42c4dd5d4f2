"""``elixir.py`` in a made-up backdoor-toolbox checkout: scripts with the toolkit's interface and none of its code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from processes import python
from real_checkouts import real_checkout
from test_checkouts import fake_toolbox

from elixir_plugin import Classifier, get_adapter
from elixir_plugin.runs.checkout import place
from elixir_plugin.testing.defenses import tiny_case

SET = "poisoned_train_set/cifar10/badnet_0.050_poison_seed=0"
SUPERVISOR = f"""
def get_poison_set_dir(args): return "{SET}"
def get_cleansed_set_indices_dir(args):
    return f"{SET}/cleansed_set_indices_other_{{args.cleanser}}_seed={{args.seed}}"
def get_model_dir(args, cleanse=False, defense=False):
    return f"{SET}/" + (f"defended_{{args.defense}}_" if defense else "") + f"full_base_aug_seed={{args.seed}}.pt"
"""
TOOLS = """
import torch
class IMG_Dataset:
    def __init__(self, data_dir, label_path, transforms=None):
        self.where, self.gt = data_dir, torch.load(label_path)
"""
HEAD = """
import argparse, torch
from utils import supervisor, tools
parser = argparse.ArgumentParser()
parser.add_argument("-dataset", default="cifar10")
parser.add_argument("-poison_type", default="badnet")
parser.add_argument("-trigger", default=None)
parser.add_argument("-devices", default="0")
parser.add_argument("-seed", type=int, default=2333)
"""
CLEANSER = """
parser.add_argument("-cleanser", choices=["SS", "AC"], required=True)
args = parser.parse_args()
print("remaining", len(torch.load(supervisor.get_cleansed_set_indices_dir(args))))
"""
RETRAIN = f"""
parser.add_argument("-cleanser", choices=["SS"], default="SS")
args = parser.parse_args()
data = tools.IMG_Dataset("{SET}/imgs", "{SET}/labels")
print("training on", data.where, data.gt[:4].tolist())
"""
OTHER = """
parser.add_argument("-defense", choices=["NC"], required=True)
args = parser.parse_args()
raise NotImplementedError()
"""
TEST = """
parser.add_argument("-defense", choices=["NC"], default=None)
args = parser.parse_args()
weights = torch.load(supervisor.get_model_dir(args, defense=args.defense is not None))
print("loaded", len(weights), torch.ones(1).cuda().device, torch.nn.Linear(1, 1).cuda().weight.device)
"""


@pytest.fixture
def box(tmp_path: Path) -> Path:
    root = fake_toolbox(tmp_path / "box")
    (root / "config.py").write_text('triggers_dir = "triggers"\ntrigger_default = {"cifar10": {"badnet": "none"}}\n')
    for name, text in (
        ("utils/supervisor.py", SUPERVISOR),
        ("utils/tools.py", TOOLS),
        ("cleanser.py", HEAD + CLEANSER),
        ("train_on_cleansed_set.py", HEAD + RETRAIN),
        ("other_defense.py", HEAD + OTHER),
        ("test_model.py", HEAD + TEST),
    ):
        (root / name).write_text(text)
    adapter = get_adapter("backdoor_toolbox")()
    stats = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.247, 0.243, 0.261)}  # the toolkit's own
    adapter.export(tiny_case(num_classes=10, **stats), root / SET)
    names = ["confusion_training", "d3", "eclipse"]
    place(adapter.placement(root, names), root)
    return root


def run(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return python("elixir.py", "-o", "architecture=small_resnet", *arguments, cwd=root)


@pytest.mark.e2e
def test_a_repair_and_the_test_of_its_model(box: Path) -> None:
    done = run(box, "-s", "epochs=1", "test_model.py", "-defense=d3")  # not there yet: made on the way
    assert done.returncode == 0, done.stderr
    assert "loaded" in done.stdout and "d3 on backdoor_toolbox:" in done.stdout
    file = box / SET / "defended_d3_full_base_aug_seed=2333.pt"
    assert set(torch.load(file)) == set(Classifier.build("small_resnet", 10).module.state_dict())
    if not torch.cuda.is_available():
        assert done.stdout.rstrip().endswith("cpu cpu")
    made = file.stat().st_mtime_ns
    assert "taken from" in run(box, "test_model.py", "-defense=d3").stdout and file.stat().st_mtime_ns == made
    done = run(box, "-s", "epochs=2", "other_defense.py", "-defense=d3")  # asked for the defense: runs anew
    assert done.returncode == 0 and file.stat().st_mtime_ns > made, done.stderr


def test_retraining_sees_the_purified_images(box: Path) -> None:
    folder = box / SET / "purified_ECLIPSE"
    adapter = get_adapter("backdoor_toolbox")()
    case = tiny_case(num_classes=10)
    assert case.train is not None
    from elixir_plugin.core.metrics import Evaluation
    from elixir_plugin.core.outcome import Outcome

    changed = case.train.replace(labels=(case.train.labels + 5) % 10)
    adapter.write(case, Outcome(train=changed), Evaluation(), box / SET, "eclipse")
    done = run(box, "train_on_cleansed_set.py", "-cleanser=eclipse")
    assert done.returncode == 0, done.stderr
    assert f"training on {SET}/purified_ECLIPSE/data {changed.labels[:4].tolist()}" in done.stdout
    assert folder.is_dir() and "taken from" in done.stdout
    assert "remaining 96" in run(box, "cleanser.py", "-cleanser=eclipse").stdout


def test_their_own_names_still_work_and_others_do_not(box: Path) -> None:
    assert "NotImplementedError" in run(box, "other_defense.py", "-defense=NC").stderr
    refused = run(box, "cleanser.py", "-cleanser=d3").stderr  # repairs a model, leaves no set
    assert "invalid choice: 'd3'" in refused and "confusion_training" in refused
    assert "did you mean 'cleanser.py'" in run(box, "cleansr.py").stderr
    assert "no such script" in run(box, "../cleanser.py").stderr


REAL = ("-dataset=cifar10", "-poison_type=badnet", "-poison_rate=0.05")


@pytest.mark.toolkit
def test_backdoor_toolbox_itself_evaluates_a_repaired_model(tmp_path: Path, shared: Path) -> None:
    """On a copy of the checkout with a set of Fight-Poison-With-Poison and an untrained model."""
    import shutil

    given = real_checkout("backdoor-toolbox")
    root = tmp_path / "box"
    shutil.copytree(given, root, ignore=shutil.ignore_patterns("assets", "models", "*.pth"))
    for part in ("poisoned_train_set", "clean_set"):
        shutil.copytree(shared / "toolkits" / "fight_poison" / part, root / part, dirs_exist_ok=True)
    for name in (path for path in (root / "clean_set/cifar10/test_split/data").iterdir() if int(path.stem) >= 40):
        name.unlink()
    labels = root / "clean_set/cifar10/test_split/labels"
    torch.save(torch.as_tensor(torch.load(labels))[:40], labels)
    weights = Classifier.build("cifar_resnet18", 10).module.state_dict()
    torch.save(weights, root / SET / "full_base_aug_seed=2333.pt")
    place(get_adapter("backdoor_toolbox")().placement(root, ["d3"]), root)
    command = [sys.executable, "elixir.py", "--any-model", "-s", "epochs=1", "test_model.py", "-defense=d3", *REAL]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Clean ACC: " in done.stdout and "ASR: " in done.stdout

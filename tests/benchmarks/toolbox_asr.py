"""ACC and ASR as backdoor-toolbox measures them, beside ours, for models that its own script trained for a while.

    export ELIXIR_TOOLKITS=DIR
    .venv/bin/python tests/benchmarks/toolkit_commands.py WORK --make --only badnet --images 3000 --tests 700 \
        --epochs 15 --network gtsrb_cnn.GTSRB_CNN
    .venv/bin/python tests/benchmarks/toolbox_asr.py WORK --trained 15 --epochs 17 badnet TaCT WaNet SIG \
        adaptive_patch trojan badnet_all_to_all adaptive_blend blend

The first command makes a small CIFAR-10 and trains on ``badnet``. The second makes a set for each attack, trains on it
from these weights up to the given epoch, and prints one row. One process, no loader processes: minutes per attack on
one core.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import runpy
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import toolkit_shim
import torch
from toolkit_commands import BOX, BOX_ATTACKS

WEIGHTS = "full_base_aug_seed=2333.pt"


def script(name: str, flags: Sequence[str]) -> str:
    """Run a script of the checkout in this process, and return what it printed."""
    sys.argv = [name, *flags]
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        runpy.run_path(name, run_name="__main__")
    torch.use_deterministic_algorithms(False)
    return out.getvalue()


def folder_of(attack: str) -> Path:
    return next(Path("poisoned_train_set/cifar10").glob(f"{attack}_0*")).absolute()


def ours(folder: Path, network: torch.nn.Module) -> tuple[float, float | None, int]:
    """Return our ACC and ASR, and how many classes the model predicts for the test images."""
    from elixir_plugin import Classifier, get_adapter
    from elixir_plugin.core.pixels import to_floats
    from elixir_plugin.evaluation.metrics import model_metrics

    case = get_adapter("backdoor_toolbox")({"model": "none"}).read(folder)
    assert case.test is not None
    network.load_state_dict(torch.load(folder / WEIGHTS))
    model = Classifier(network, 10, mean=(0.4914, 0.4822, 0.4465), std=(0.247, 0.243, 0.261)).eval()
    found = model_metrics(model, case.test, case.test_poisoned)
    with torch.inference_mode():
        images = torch.from_numpy(to_floats(case.test.read(slice(None)))).permute(0, 3, 1, 2)
        return found.acc, found.asr, len(model.logits(images).argmax(1).unique())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--trained", type=int, required=True, help="epochs that the model of badnet has seen")
    parser.add_argument("--epochs", type=int, required=True, help="that those of the others see in all")
    parser.add_argument("attacks", nargs="+")
    given = parser.parse_args()
    os.chdir(given.work / BOX)
    sys.path.insert(0, str(Path.cwd()))
    toolkit_shim.adapt()
    loader: Any = torch.utils.data.DataLoader
    made = loader.__init__
    loader.__init__ = lambda self, *values, **named: made(self, *values, **{**named, "num_workers": 0})
    import config

    train = Path("train_on_poisoned_set.py")
    train.write_text(re.sub(r"epochs = \d+", f"epochs = {given.epochs}", train.read_text()))
    warm = folder_of("badnet") / WEIGHTS
    print("| attack | ACC ours | theirs | ASR ours | theirs | classes predicted |\n|---|---|---|---|---|---|")
    for attack in (each for each in BOX_ATTACKS if each.name in given.attacks):
        rate = "0.020" if attack.name == "TaCT" else "0.050"
        flags = ["-dataset=cifar10", f"-poison_type={attack.name}", f"-poison_rate={rate}", *attack.flags]
        script("create_poisoned_set.py", flags)
        folder = folder_of(attack.name)
        if attack.name != "badnet":
            shutil.copyfile(warm, folder / WEIGHTS)
            script(train.name, [*flags, f"-resume={given.trained}"])
        theirs = [int(a) / int(b) for a, b in re.findall(r"(\d+)/(\d+) =", script("test_model.py", flags))]
        acc, asr, classes = ours(folder, config.arch["cifar10"](num_classes=10))
        shown = f"{100 * acc:.3f} | {100 * theirs[0]:.3f} | {100 * (asr or 0):.3f} | {100 * theirs[1]:.3f}"
        print(f"| {attack.name} | {shown} | {classes} |", flush=True)


if __name__ == "__main__":
    main()

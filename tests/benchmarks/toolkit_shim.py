"""Run a script of a toolkit's checkout as it is, on data and machines that it does not expect; or evaluate as it does.

    python toolkit_shim.py SCRIPT FLAGS …              # at the root of the checkout
    python toolkit_shim.py --evaluate RECORD [FILE]    # BackdoorBench: its own numbers for a record, or for a result

What changes around the script: torchvision takes CIFAR files that are not the canonical ones, ``numpy.infty`` is there,
and without CUDA ``.cuda()`` does nothing. ``toolkit_commands.py`` calls this with a Python that has what the toolkit
needs.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from pathlib import Path
from typing import Any

os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"  # the toolkits' own files

import numpy as np
import torch
import torchvision


def adapt() -> None:
    setattr(np, "infty", np.inf)  # noqa: B010  (gone from NumPy 2)
    torchvision.datasets.cifar.check_integrity = lambda *_, **__: True
    torchvision.datasets.CIFAR10._check_integrity = lambda _: True
    if torch.cuda.is_available():
        return
    load = torch.load
    torch.load = lambda *given, **values: load(*given, **{"map_location": "cpu", **values})
    torch.Tensor.cuda = torch.nn.Module.cuda = lambda self, *_, **__: self  # type: ignore[method-assign,assignment]


def evaluate(record: str, file: str | None) -> dict[str, Any]:
    """Return what BackdoorBench's own functions measure for the model of *record*, or of a ``defense_result.pt``."""
    from torch.utils.data import DataLoader
    from utils.aggregate_block.dataset_and_transform_generate import get_transform
    from utils.aggregate_block.model_trainer_generate import generate_cls_model
    from utils.save_load_attack import load_attack_result
    from utils.trainer_cls import all_acc, given_dataloader_test, test_given_dataloader_on_mix

    attack = load_attack_result(f"record/{record}/attack_result.pt")
    held = attack if file is None else load_attack_result(file)
    model = generate_cls_model(held["model_name"], 10)
    model.load_state_dict(held["model"])
    parts = {}
    for name in ("clean_test", "bd_test"):
        attack[name].wrap_img_transform = get_transform("cifar10", 32, 32, train=False)
        parts[name] = DataLoader(attack[name], batch_size=100, shuffle=False)
    loss = torch.nn.CrossEntropyLoss()
    clean, _, _ = given_dataloader_test(model, parts["clean_test"], loss)
    mixed, predicted, _, _, _, originals = test_given_dataloader_on_mix(
        model, parts["bd_test"], loss, device="cpu", verbose=1
    )
    return {
        "model": held["model_name"],
        "acc": clean["test_acc"],
        "asr": mixed["test_acc"],
        "ra": all_acc(predicted, originals),
        "tests": clean["test_total"],
        "triggered": mixed["test_total"],
    }


def main() -> None:
    sys.path.insert(0, str(Path.cwd()))
    adapt()
    if sys.argv[1] == "--evaluate":
        print("EVALUATED", json.dumps(evaluate(sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else None)))
        return
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()

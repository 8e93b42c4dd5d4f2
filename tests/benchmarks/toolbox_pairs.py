"""Pairs of poisoned sets from the same images: one by backdoor-toolbox's own script, one by the testbed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from toolkit_commands import BOX, SHIM, write_cifar

from elixir_plugin import get_adapter
from elixir_plugin.core.case import Case
from elixir_plugin.testbed.adapter import Testbed
from elixir_plugin.testbed.adaptive import AdaptiveBlend, AdaptivePatch
from elixir_plugin.testbed.base import Backdoor
from elixir_plugin.testbed.poisons import TaCT
from elixir_plugin.testbed.wanet import WaNet, enlarged

Values = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Attack:
    """Rates of the paper, flags of the script beyond them, and the settings that make the testbed do the same."""

    rate: float
    cover_rate: float
    flags: tuple[str, ...] = ()
    read: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


ATTACKS = {
    "WaNet": Attack(0.05, 0.1),
    "adaptive_blend": Attack(0.003, 0.003, ("-alpha=0.15",), {"alpha": 0.2}),
    "TaCT": Attack(0.003, 0.003, settings={"source": 1, "cover_classes": [5, 7], "size": 8, "margin": 3}),
    "adaptive_patch": Attack(0.003, 0.006),
}


class SameWarp(WaNet):
    """WaNet from given control points; and, like the script, with one field of noise for all covers if one is given."""

    points: Values
    field: Values | None = None

    def control_points(self) -> Values:
        return self.points

    def noise(self, ids: Any, height: int, width: int) -> Values:
        if self.field is None:
            return super().noise(ids, height, width)
        return np.repeat(self.field[None], len(ids), 0)


def prepared(toolbox: Path, work: Path, archive: Path, images: int, tests: int) -> Path:
    """Return a copy of the checkout in *work* that holds *images* and *tests* samples of CIFAR-10."""
    root = work / BOX
    if not root.is_dir():
        left_out = shutil.ignore_patterns(".git", "assets", "models", "*.pth", "poisoned_train_set", "clean_set")
        shutil.copytree(toolbox, root, ignore=left_out)
        for name in ("poisoned_train_set", "clean_set"):
            (root / name).mkdir()
        write_cifar(root / "data" / "cifar10" / "cifar-10-batches-py", images, tests, archive)
        run(root, "create_clean_set.py", "-dataset=cifar10", f"-clean_budget={tests // 5}")
    return root


def run(root: Path, script: str, *flags: str) -> None:
    done = subprocess.run([sys.executable, str(SHIM), script, *flags], cwd=root, capture_output=True, text=True,
                          check=False)  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{script}: {done.stderr[-2000:]}")


def their_case(root: Path, name: str, attack: Attack) -> Case:
    """Let the script make its set, once, and read it."""
    sets = root / "poisoned_train_set" / "cifar10"
    if not list(sets.glob(f"{name}_0.*/labels")):
        rates = (f"-poison_rate={attack.rate:g}", f"-cover_rate={attack.cover_rate:g}")
        run(root, "create_poisoned_set.py", "-dataset=cifar10", f"-poison_type={name}", *rates, *attack.flags)
    return get_adapter("backdoor_toolbox")({"model": "none", **attack.read}).read(folder_of(root, name))


def folder_of(root: Path, name: str) -> Path:
    return next((root / "poisoned_train_set" / "cifar10").glob(f"{name}_0.*"))


def control_points(folder: Path, k: int = 4) -> tuple[Values, float]:
    """Return the control points ``[k, k, 2]``, down and right, that enlarge to the stored grid, and the largest misfit.

    Enlarging is linear, so they are found by least squares; no misfit means that both sides interpolate alike.
    """
    grid = torch.load(folder / "noise_grid")[0].double().numpy()[..., ::-1]  # stored right before down
    edge = len(grid)
    each = [enlarged(np.eye(k * k)[i].reshape(k, k, 1).astype(float), edge, edge).ravel() for i in range(k * k)]
    basis, wanted = np.stack(each, 1), grid.reshape(-1, 2)
    points = np.linalg.lstsq(basis, wanted, rcond=None)[0]
    return points.reshape(k, k, 2), float(np.abs(basis @ points - wanted).max())


def cover_noise(edge: int) -> Values:
    """Return the script's noise of all covers ``[H, W, 2]``, down and right: its first draw after seeding with 0."""
    generator = torch.Generator().manual_seed(0)
    return (torch.rand(1, edge, edge, 2, generator=generator) * 2 - 1)[0].double().numpy()[..., ::-1]


def our_poison(root: Path, name: str, attack: Attack, work: Path) -> Backdoor:
    """Return the testbed's poison of the same rates, with the script's picture, patch or control points."""
    values = {"rate": attack.rate, "cover_rate": attack.cover_rate, **attack.settings}
    if name == "WaNet":
        poison = SameWarp(values)
        poison.points = control_points(folder_of(root, name))[0]
        return poison
    if name == "adaptive_blend":
        return AdaptiveBlend({**values, "picture": str(root / "triggers" / "hellokitty_32.png")})
    if name == "TaCT":
        mask = np.asarray(Image.open(root / "triggers" / "mask_trojan_square_32.png").convert("RGB"))[..., 0] > 0
        (top, left), (bottom, right) = (edge(np.argwhere(mask), axis=0) for edge in (np.min, np.max))
        patch = Image.open(root / "triggers" / "trojan_square_32.png").convert("RGB")
        patch.crop((left, top, right + 1, bottom + 1)).save(work / "patch.png")
        return TaCT({**values, "picture": str(work / "patch.png")})
    return AdaptivePatch(values)


def our_case(root: Path, poison: Backdoor, seed: int = 0) -> tuple[Case, Case]:
    """Return the batches under *poison*, and as they are."""
    testbed = Testbed({"base": f"cifar:{root / 'data' / 'cifar10'}", "clean": 0, "model": False})
    base = testbed.base(seed)
    return testbed.poisoned(poison, base, seed), Case(train=base.splits.train, test=base.splits.test)

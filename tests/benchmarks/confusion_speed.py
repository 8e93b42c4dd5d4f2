"""Steps per second of the confusion phase: ours against a plain re-implementation of the reference data path.

The reference path, written anew from its description: one PNG is opened per sample and step by loader workers, which
are started anew for every pass over a set; the reference classifier predicts each clean batch; the inspected loss is
summed sample by sample with one ``.item()`` each; losses are copied to the host in every step. Same network, same
batch sizes, same loss. Variants, all in one run, in short rounds by turns, so that a change of load hits all:

- ``elixir_plugin``: :func:`confuse`;
- ``model alone``: forward, backward and step on a batch that lies ready, in our memory layout: no data path at all, so
  that no implementation of it is faster on this network;
- ``reference``: as above;
- ``reference, kept workers``: the same with workers that live on, kinder than the reference is;
- ``reference, evaluating``: with the test set measured every 1,000 steps, clean and triggered (8,000 images each), as
  in its published commands; here 8 images of each per step.

Time is given as CPU time (user and system, loader workers included) and as wall time. The machine's other users
disturb the second far more than the first.

::

    python tests/benchmarks/confusion_speed.py [--network fast_resnet] [--rounds 5] [--workers 2] [--batch 32]
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from elixir_plugin import Context
from elixir_plugin.core.classifier.classifier import Classifier
from elixir_plugin.core.images import ImageSet
from elixir_plugin.defenses.confusion_training.rounds import Round, View, class_weights, confuse
from elixir_plugin.defenses.confusion_training.settings import ConfusionSettings
from elixir_plugin.training.batches import Samples
from elixir_plugin.training.loop import make_optimizer

NUM_CLASSES = 10
STEPS = 52  # per round: 4 passes over the clean set, 1 over the suspects; no worker decodes in vain
EVALUATED = 8  # test images per step: 8,000 every 1,000 steps


class PngFiles(Dataset[tuple[Tensor, int]]):
    """One file per sample, decoded whenever it is asked for."""

    def __init__(self, folder: Path, samples: ImageSet) -> None:
        self.folder, self.labels = folder, samples.labels.tolist()
        folder.mkdir()
        for position, image in enumerate(samples.read(slice(None))):
            Image.fromarray(image).save(folder / f"{position}.png")

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        image = np.asarray(Image.open(self.folder / f"{position}.png").convert("RGB"))
        return torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 255, self.labels[position]


def passes(loader: DataLoader[Any]) -> Iterator[Any]:
    while True:
        yield from loader


@dataclasses.dataclass(frozen=True)
class Bench:
    """Network, schedule and data of a comparison."""

    model: Classifier
    plan: Round
    clean_files: PngFiles
    inspected_files: PngFiles
    workers: int
    views: list[View]

    def ours(self) -> None:
        """Take the steps of one round. Pixels are decoded once per run, hence not here."""
        confuse(self.model, *self.views, self.plan, recipe=ConfusionSettings().recipe(), context=Context())

    def model_alone(self) -> None:
        model = self.model.clone().train().to(memory_format=torch.channels_last)
        recipe = ConfusionSettings().recipe().model_copy(update={"lr": self.plan.lr, "momentum": self.plan.momentum})
        optimizer = make_optimizer(model, recipe)
        images = torch.rand(2 * self.plan.batch, 3, 32, 32).to(memory_format=torch.channels_last)
        labels = torch.arange(len(images)) % NUM_CLASSES
        for step in range(self.plan.steps):
            n = self.plan.batch if step % self.plan.factor else len(images)
            optimizer.zero_grad()
            F.cross_entropy(model(images[:n]), labels[:n]).backward()
            optimizer.step()

    def reference(self, *, keep_workers: bool = False, evaluate: bool = False) -> None:
        plan, model, reference = self.plan, self.model.clone().train(), self.model.clone().eval()
        weights = class_weights(torch.tensor(self.inspected_files.labels), NUM_CLASSES).tolist()
        optimizer = torch.optim.SGD(model.parameters(), plan.lr, plan.momentum, weight_decay=1e-4)
        clean, inspected = (
            passes(self._loader(each, keep_workers)) for each in (self.clean_files, self.inspected_files)
        )
        for step in range(plan.steps):
            images, _ = next(clean)
            with torch.no_grad():
                predicted = reference(images).argmax(1)
            confused = (predicted + 1 + step % (NUM_CLASSES - 1)) % NUM_CLASSES
            if step % plan.factor:
                loss = F.cross_entropy(model(images), confused)
            else:
                others, labels = next(inspected)
                logits = model(torch.cat([images, others]))
                losses = F.cross_entropy(logits[len(images) :], labels, reduction="none")
                total, norm = torch.zeros(()), 0.0
                for position in range(len(labels)):
                    weight = weights[labels[position].item()]
                    total, norm = total + weight * losses[position], norm + weight
                loss = ((plan.lam - 1) * F.cross_entropy(logits[: len(images)], confused) + total / norm) / plan.lam
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()
        if evaluate:
            self._evaluate(model.eval(), EVALUATED * plan.steps)

    def _loader(self, files: PngFiles, keep_workers: bool) -> DataLoader[Any]:
        workers = self.workers
        return DataLoader(files, self.plan.batch, shuffle=True, num_workers=workers,
                          persistent_workers=keep_workers and workers > 0)  # fmt: skip

    @torch.no_grad()
    def _evaluate(self, model: Classifier, count: int) -> None:
        test = torch.utils.data.Subset(self.inspected_files, range(count))
        for images, labels in DataLoader(test, 100, num_workers=self.workers):
            (model(images).argmax(1) == labels).sum().item()
            images[:, :, -4:-1, -4:-1] = 1
            (model(images).argmax(1) == 0).sum().item()


def spent() -> float:
    """Return CPU seconds of this process and the workers that have ended."""
    gc.collect()  # ends the workers of loaders no longer in use
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def measure(variants: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Return (CPU seconds, wall seconds) of each variant and round."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in variants}
    for turn in range(rounds + 1):
        for name, variant in variants.items():
            cpu, wall = spent(), time.perf_counter()
            variant()
            wall = time.perf_counter() - wall
            if turn:  # the first is for warming up
                found[name].append((spent() - cpu, wall))
    return found


def summary(found: dict[str, list[tuple[float, float]]], steps: int) -> dict[str, Any]:
    """Return medians over rounds: milliseconds and steps per second, and how often ours is as fast."""
    table = {}
    for name, pairs in found.items():
        cpu, wall = (statistics.median(each[k] for each in pairs) / steps for k in (0, 1))
        ratios = [
            statistics.median(theirs[k] / ours[k] for theirs, ours in zip(pairs, found["elixir_plugin"], strict=True))
            for k in (0, 1)
        ]
        table[name] = {
            "cpu_ms_per_step": round(1000 * cpu, 1),
            "wall_ms_per_step": round(1000 * wall, 1),
            "steps_per_second": round(1 / wall, 1),
            "cpu_ratio": round(ratios[0], 2),
            "wall_ratio": round(ratios[1], 2),
        }
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--network", default="fast_resnet", help="default: that of preset small")
    parser.add_argument("--workers", type=int, default=2, help="loader workers of the reference path")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    sets = [
        ImageSet(rng.integers(0, 256, (n, 32, 32, 3)).astype(np.uint8), rng.integers(0, 10, n), NUM_CLASSES)
        for n in (STEPS // 4 * options.batch, STEPS // 2 * options.batch)
    ]
    views = [View((Samples(each, torch.device("cpu")), np.arange(len(each)), each.labels)) for each in reversed(sets)]
    plan = ConfusionSettings.build(preset="small").rounds(2000, NUM_CLASSES, 400)[0]
    plan = dataclasses.replace(plan, steps=STEPS, batch=options.batch, factor=2)
    with tempfile.TemporaryDirectory() as folder:
        files = [PngFiles(Path(folder) / name, each) for name, each in zip(("clean", "suspect"), sets, strict=True)]
        bench = Bench(Classifier.build(options.network, NUM_CLASSES), plan, *files, options.workers, views)
        found = measure(
            {
                "elixir_plugin": bench.ours,
                "model alone": bench.model_alone,
                "reference": bench.reference,
                "reference, kept workers": lambda: bench.reference(keep_workers=True),
                "reference, evaluating": lambda: bench.reference(evaluate=True),
            },
            options.rounds,
        )
    facts = {"network": options.network, "batch": options.batch, "workers": options.workers,
             "threads": torch.get_num_threads(), "rounds": options.rounds}  # fmt: skip
    print(json.dumps({**facts, **summary(found, STEPS)}, indent=2))


if __name__ == "__main__":
    main()

"""Steps per second of the confusion phase: ours against a plain re-implementation of the reference data path.

The reference path, written anew from its description: one PNG is opened per sample and step by loader workers, the
reference classifier predicts each clean batch, the inspected loss is summed sample by sample with one ``.item()``
each. Same network, same batches, same loss, same machine, one after the other, several times.

::

    python tests/benchmarks/confusion_speed.py [--steps 100] [--network small_resnet] [--batch 32] [--repeat 3]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from elixir_plugin import Context
from elixir_plugin.case import ImageSet
from elixir_plugin.classifier import Classifier
from elixir_plugin.defenses.confusion_rounds import Round, View, class_weights, confuse
from elixir_plugin.defenses.confusion_schedule import ConfusionSettings
from elixir_plugin.training import Samples

NUM_CLASSES = 10


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


def endless(loader: DataLoader[Any]) -> Iterator[Any]:
    while True:
        yield from loader


def reference_path(
    model: Classifier, reference: Classifier, clean: PngFiles, inspected: PngFiles, plan: Round, workers: int
) -> float:
    """Return seconds for ``plan.steps`` steps."""
    model = model.clone().train()
    weights = class_weights(torch.tensor(inspected.labels), NUM_CLASSES).tolist()
    optimizer = torch.optim.SGD(model.parameters(), plan.lr, plan.momentum, weight_decay=1e-4)
    loaders = [
        endless(
            DataLoader(each, batch_size=plan.batch, shuffle=True, num_workers=workers, persistent_workers=workers > 0)
        )
        for each in (clean, inspected)
    ]
    next(loaders[0]), next(loaders[1])  # workers start before the clock does
    started = time.perf_counter()
    for step in range(plan.steps):
        images, _ = next(loaders[0])
        with torch.no_grad():
            predicted = reference.eval()(images).argmax(1)
        confused = (predicted + 1 + step % (NUM_CLASSES - 1)) % NUM_CLASSES
        optimizer.zero_grad()
        if step % plan.factor:
            F.cross_entropy(model(images), confused).backward()
            optimizer.step()
            continue
        others, labels = next(loaders[1])
        logits = model(torch.cat([images, others]))
        losses = nn.functional.cross_entropy(logits[len(images) :], labels, reduction="none")
        total, norm = torch.zeros(()), 0.0
        for position in range(len(labels)):
            weight = weights[labels[position].item()]
            total, norm = total + weight * losses[position], norm + weight
        loss = ((plan.lam - 1) * F.cross_entropy(logits[: len(images)], confused) + total / norm) / plan.lam
        loss.backward()
        optimizer.step()
    return time.perf_counter() - started


def our_path(model: Classifier, clean: ImageSet, inspected: ImageSet, plan: Round, repeat: int) -> float:
    """Return seconds for ``plan.steps`` steps, decoding of pixels excluded as it is done once per run."""
    context = Context(seed=repeat)
    views = [View((Samples(each, context.device), np.arange(len(each)), each.labels)) for each in (inspected, clean)]
    started = time.perf_counter()
    confuse(model, views[0], views[1], plan, recipe=ConfusionSettings().recipe(), context=context)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--network", default="small_resnet")
    parser.add_argument("--workers", type=int, default=2, help="loader workers of the reference path")
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    sets = [
        ImageSet(rng.integers(0, 256, (n, 32, 32, 3)).astype(np.uint8), rng.integers(0, 10, n), NUM_CLASSES)
        for n in (400, 2000)
    ]
    model = Classifier.build(options.network, NUM_CLASSES)
    plan = ConfusionSettings.build(preset="small").rounds(2000, NUM_CLASSES, 400)[0]
    plan = dataclasses.replace(plan, steps=options.steps, batch=options.batch)
    ours, theirs = [], []
    with tempfile.TemporaryDirectory() as folder:
        files = [PngFiles(Path(folder) / name, each) for name, each in zip(("clean", "suspect"), sets, strict=True)]
        our_path(model, *sets, dataclasses.replace(plan, steps=5), 0)  # warm-up
        for turn in range(options.repeat):  # alternating, so that a change of load hits both
            theirs.append(reference_path(model, model.clone(), files[0], files[1], plan, options.workers))
            ours.append(our_path(model, *sets, plan, turn))
    seconds = {"reference path": statistics.median(theirs), "elixir_plugin": statistics.median(ours)}
    print(
        json.dumps(
            {
                "network": options.network,
                "batch": options.batch,
                "threads": torch.get_num_threads(),
                "steps_per_second": {name: round(options.steps / each, 1) for name, each in seconds.items()},
                "ratio": round(seconds["reference path"] / seconds["elixir_plugin"], 2),
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()

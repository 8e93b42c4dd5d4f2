"""Time D3 as it runs here against a plain loop that works the way the authors' released code does by default.

The plain loop is written from the description of that code, not from the code: images are decoded and transformed
one by one, the model is scored on the whole test set three times per epoch and once before (clean; triggered;
triggered again, with the true labels), every step waits for its loss and prints it, and every epoch redraws two plots
and rewrites a table. Both sides get the same received model, the same reserved clean set, the same settings (preset
``code``) and the threads torch takes by default. The plain side draws its own random numbers: the quality of both is
comparable, not equal.

Run on a quiet machine:

    python tests/benchmarks/d3_speed.py --record ../shared/toolkits/backdoorbench/record/badnet_0_1 --epochs 30
"""

from __future__ import annotations

import argparse
import copy
import csv
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

import matplotlib as mpl
import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from elixir_plugin.adapters.backdoorbench.adapter import BackdoorBench
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from elixir_plugin.core.case import Case
from elixir_plugin.core.classifier.classifier import Classifier
from elixir_plugin.core.context import Context
from elixir_plugin.core.metrics import ModelMetrics
from elixir_plugin.defenses.d3.defense import D3
from elixir_plugin.defenses.d3.settings import D3Settings
from elixir_plugin.evaluation.measure import execute

Picture = Path | NDArray[np.uint8]


class Pictures(Dataset[tuple[Tensor, int]]):
    """Images from files or arrays, each opened and transformed when it is asked for, every time."""

    def __init__(self, pictures: Sequence[Picture], labels: NDArray[np.int64], transform: Any) -> None:
        self.pictures, self.labels, self.transform = pictures, labels, transform

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        picture = self.pictures[index]
        image = Image.open(picture).convert("RGB") if isinstance(picture, Path) else Image.fromarray(picture)
        return self.transform(image), int(self.labels[index])


class PlainLoop:
    """D3 with the head as selected layer, p = 2 and a random warm-up, scored after every epoch.

    :param folder: where plots and the table go, or None: neither is made.
    """

    def __init__(self, case: Case, record: Path, settings: D3Settings, null: TextIO, folder: Path | None) -> None:
        assert case.model and case.clean and case.test and case.test_poisoned
        self.settings, self.null, self.folder = settings, null, folder
        self.model: nn.Module = copy.deepcopy(case.model.module).to(memory_format=torch.contiguous_format)
        self.head: nn.Parameter = self.model.get_submodule(head_of(case)).weight  # type: ignore[assignment]
        height, width, _ = case.clean.image_shape
        size = (height, width)
        ending = [
            transforms.ToTensor(),
            transforms.Normalize(case.model.mean.flatten().tolist(), case.model.std.flatten().tolist()),
        ]
        moving = [transforms.RandomCrop(size, padding=4), transforms.RandomHorizontalFlip()]
        training = transforms.Compose([transforms.Resize(size), *moving, *ending])
        scoring = transforms.Compose([transforms.Resize(size), *ending])
        clean, test, attacked = case.clean.load(), case.test.load(), case.test_poisoned.samples
        pictures = pictures_of(case, record)

        def loader(pictures: Sequence[Picture], labels: NDArray[np.int64], transform: Any, shuffle: bool) -> Any:
            return DataLoader(Pictures(pictures, labels, transform), settings.batch_size, shuffle=shuffle)

        self.train_loader = loader(list(clean.read(slice(None))), clean.labels, training, True)
        self.score_loaders = {
            "acc": loader(list(test.read(slice(None))), test.labels, scoring, False),
            "asr": loader(pictures, attacked.labels, scoring, False),
            "ra": loader(pictures, case.test_poisoned.original_labels, scoring, False),
        }
        self.history: list[dict[str, float]] = []
        self.score_every_epoch = True

    def run(self) -> dict[str, float]:
        """Train, and return the scores after the last epoch."""
        received = self.head.detach().clone()
        norm = received.norm()
        with torch.no_grad():
            self.head.copy_(torch.rand_like(self.head) - 0.5)
            self.head.mul_(norm / self.head.norm())
        if self.score_every_epoch:
            print(self._scores(), file=self.null)
        optimizer = torch.optim.SGD(self.model.parameters(), self.settings.lr, self.settings.momentum)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.settings.epochs)
        for epoch in range(self.settings.epochs):
            row = self._epoch(optimizer, received, norm)
            schedule.step()
            if self.score_every_epoch or epoch == self.settings.epochs - 1:
                row |= self._scores()
            self.history.append(row)
            print(epoch, self.history[-1], file=self.null)
            if self.folder is not None:
                self._draw(self.folder)
                self._tabulate(self.folder)
        return self.history[-1]

    def _epoch(self, optimizer: torch.optim.Optimizer, received: Tensor, norm: Tensor) -> dict[str, float]:
        self.model.train()
        losses = []
        for step, (images, labels) in enumerate(self.train_loader):
            hinged = F.relu(F.cross_entropy(self.model(images), labels, reduction="none") - self.settings.eps).mean()
            distance = torch.linalg.vector_norm(self.head - received)
            loss = self.settings.lam * hinged - distance
            if self.settings.lam > 1:
                loss = loss / (self.settings.lam + 1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                self.head.mul_(norm / self.head.norm())
            losses.append(loss.item())
            print(step, loss.item(), hinged.item(), distance.item(), file=self.null)
        return {"train_loss": float(np.mean(losses))}

    @torch.no_grad()
    def _scores(self) -> dict[str, float]:
        self.model.eval()
        row: dict[str, float] = {}
        for name, loader in self.score_loaders.items():
            right, loss, count = 0, 0.0, 0
            for images, labels in loader:
                logits = self.model(images)
                loss += F.cross_entropy(logits, labels, reduction="sum").item()
                right += (logits.argmax(1) == labels).sum().item()
                count += len(labels)
            row |= {name: right / count, f"{name}_loss": loss / count}
        return row

    def _draw(self, folder: Path) -> None:
        import matplotlib.pyplot as plt

        for name, columns in (
            ("loss", ("train_loss", "acc_loss", "asr_loss", "ra_loss")),
            ("score", ("acc", "asr", "ra")),
        ):
            figure, axes = plt.subplots()
            for column in columns:
                axes.plot([row[column] for row in self.history], marker=".", label=column)
            axes.set_xlabel("epoch")
            axes.legend()
            figure.savefig(folder / f"{name}.png")
            plt.close(figure)

    def _tabulate(self, folder: Path) -> None:
        with (folder / "table.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(self.history[0]))
            writer.writeheader()
            writer.writerows(self.history)


def head_of(case: Case) -> str:
    """Return the dotted name of the classification layer."""
    assert case.model is not None and case.clean is not None
    _, height, width, channels = case.clean.images.shape
    return case.model.clone().head(torch.zeros(2, channels, height, width))


def pictures_of(case: Case, record: Path) -> list[Picture]:
    """Return the triggered test images: the record's PNG files, in the order of the case, else arrays."""
    assert case.test_poisoned is not None
    samples = case.test_poisoned.samples.load()
    files = {int(path.stem): path for path in record.glob("bd_test_dataset/*/*.png") if path.stem.isdigit()}
    pixels = samples.read(slice(None))
    pictures = [files.get(int(number), image) for number, image in zip(samples.ids, pixels, strict=True)]
    for picture, image in list(zip(pictures, pixels, strict=True))[:20]:
        if isinstance(picture, Path) and not np.array_equal(np.asarray(Image.open(picture).convert("RGB")), image):
            raise SystemExit(f"{picture} is not what the adapter read")
    return pictures


def touch(model: Classifier | None, case: Case) -> None:
    """Run one small step, so that neither side pays for what the first use of torch sets up."""
    assert model is not None and case.clean is not None
    copied = model.clone().train()
    copied(torch.rand(8, case.clean.image_shape[2], *case.clean.image_shape[:2])).sum().backward()


def scores(metrics: ModelMetrics | dict[str, float] | None) -> str:
    if metrics is None:
        return ""
    values = metrics if isinstance(metrics, dict) else vars(metrics)
    return "  ".join(f"{name.upper()} {100 * values[name]:5.1f} %" for name in ("acc", "asr", "ra"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", type=Path, required=True, help="a BackdoorBench record folder")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-plots", action="store_true", help="leave plots and table out of the plain loop")
    arguments = parser.parse_args()
    mpl.use("Agg")
    settings = D3(preset="code", batch_size=256, epochs=arguments.epochs).settings

    print(f"{arguments.record.name}: {arguments.epochs} epochs, seed {arguments.seed}, preset code")
    print(f"torch {torch.__version__}, torchvision {torchvision.__version__}, {torch.get_num_threads()} threads, CPU")
    warm = BackdoorBench({}).read(arguments.record, arguments.seed)  # fills the disk cache for both sides
    touch(warm.model, warm)

    started = time.perf_counter()
    case = BackdoorBench({}).read(arguments.record, arguments.seed)
    reading = time.perf_counter() - started
    context = Context(seed=arguments.seed)
    outcome, evaluation = execute(D3(settings), case, context)
    whole = time.perf_counter() - started
    defense = outcome.timings["total"]
    parts = ", ".join(f"{name} {seconds:.2f}" for name, seconds in outcome.timings.items() if name != "total")
    print(f"received       {'':9}  {scores(evaluation.before)}")
    print(f"elixir_plugin  {defense:7.2f} s  {scores(evaluation.after)}")
    print(f"  with reading and scoring {whole:.2f} s (reading {reading:.2f}, {parts})", flush=True)

    torch.manual_seed(arguments.seed)
    with tempfile.TemporaryDirectory() as folder, Path(os.devnull).open("w") as null:
        loop = PlainLoop(case, arguments.record, settings, null, None if arguments.no_plots else Path(folder))
        started = time.perf_counter()
        last = loop.run()
        plain = time.perf_counter() - started
    print(f"plain loop     {plain:7.2f} s  {scores(last)}{'  (no plots)' if arguments.no_plots else ''}")
    print(f"plain loop / elixir_plugin: {plain / defense:.1f} (defense alone), {plain / whole:.1f} (all it does)")


if __name__ == "__main__":
    main()

"""DataElixir on a Gaussian mixture in image space, with its closed-form denoiser: a small experiment.

::

    python tests/benchmarks/dataelixir_experiment.py --case all_to_one --seed 0               # preset paper
    python tests/benchmarks/dataelixir_experiment.py --case clean --seeds 0 1 2 --preset few   # the default's few steps
    python tests/benchmarks/dataelixir_experiment.py --case all_to_one --seed 0 --preset two_phase

Ten smooth templates of 3 × 12 × 12 pixels in five confusable pairs, pixel standard deviation 0.22 on the [-1, 1] scale,
1,500 suspects, 2,000 test images; 10 % of the suspects carry a 3 × 3 white patch with a black centre. The denoiser
knows the mixture and gives the patch no support; a learned one does, so these numbers say nothing about real images.
One line of JSON per run.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from elixir_plugin.core.case import Case, TriggeredSet, Truth
from elixir_plugin.core.classifier.classifier import Classifier
from elixir_plugin.core.context import Context
from elixir_plugin.core.images import ImageSet
from elixir_plugin.core.outcome import Outcome
from elixir_plugin.core.settings import parse_assignments
from elixir_plugin.defenses.dataelixir.defense import DataElixir
from elixir_plugin.defenses.dataelixir.models import Trainer
from elixir_plugin.defenses.dataelixir.settings import FEW, PAPER, SMALL_PURIFICATION
from elixir_plugin.diffusion.denoisers.base import Denoiser, Prediction
from elixir_plugin.diffusion.denoisers.gaussian import ClosedFormDenoiser
from elixir_plugin.diffusion.schedule import Schedule
from elixir_plugin.evaluation.metrics import model_metrics
from elixir_plugin.evaluation.repair import repair_metrics, share
from elixir_plugin.training.batches import Samples, ShuffledBatches
from elixir_plugin.training.loop import Recipe, train

Attack = Literal["all_to_one", "all_to_all", "clean"]
CLASSES, SIZE, STD, TARGET, RATE = 10, 12, 0.22, 0, 0.1
TRAIN, TEST = 1500, 2000
RECIPE: dict[str, Any] = {"epochs": 25, "lr": 0.02, "batch_size": 128, "augmentation": {"crop": 0, "flip": False}}
LEARNING: dict[str, Any] = {"recipe": RECIPE, "fine_tune_lr": 0.004}
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "paper": PAPER,
    "few": {"purification": FEW},  # the defaults
    "large_variance": {"purification": FEW, "variance": "fixed_large"},
    "small_variance": {"purification": FEW, "variance": "fixed_small"},
    "small": SMALL_PURIFICATION,
    "one_round": {"purification": {**FEW, "rounds": 1}},
    "two_rounds": {"purification": {**FEW, "rounds": 2}},
    "not_rebalanced": {"purification": FEW, "rebalance": False},
    "dropping": {"purification": FEW, "drop_stable_after": 2},
    "two_phase": {"purification": FEW, "detect_per_class": 60},
    "growing": {**SMALL_PURIFICATION, "detect_per_class": 30, "fallback": "grow"},
    "ddim": {"purification": {**FEW, "sampler": "ddim", "dense_below": 0}, "keep": "predictions"},
}


class MixtureDenoiser(ClosedFormDenoiser):
    """Exact for a mixture of N(μ_k, s²) in every direction (model scale) with equal weights: E[ε | x_i].

    :param means: float ``[K, C, H, W]`` in model scale.
    :param std: ``s``.
    :ivar evaluations: images that :meth:`predict` was asked about, so far.
    """

    def __init__(self, schedule: Schedule, means: Tensor, std: float) -> None:
        super().__init__(schedule, means.shape[1])
        self.means, self.std, self.evaluations = means.double(), std, 0

    def predict(self, states: Tensor, indices: Tensor) -> Prediction:
        self.evaluations += len(states)
        return super().predict(states, indices)

    def noise_in(self, states: Tensor, kept: Tensor) -> Tensor:
        flat, means = states.flatten(1), self.means.flatten(1)
        signal, variance = kept.sqrt().flatten(1), (kept * self.std**2 + 1 - kept).flatten(1)
        # |u − √ᾱ μ|², without the part that all components share
        fit = (signal * (flat @ means.T) - signal.square() * means.square().sum(1) / 2) / variance
        centre = signal * (fit.softmax(1) @ means)
        return ((1 - kept).sqrt().flatten(1) * (flat - centre) / variance).reshape(states.shape)

    def to(self, device: torch.device | str) -> MixtureDenoiser:
        self.device = torch.device(device)
        self.means = self.means.to(self.device)
        return self

    def facts(self) -> dict[str, Any]:
        return {**super().facts(), "means": self.means.flatten().tolist(), "std": self.std}


class MixtureElixir(DataElixir):
    """DataElixir with a denoiser handed in."""

    denoiser: Denoiser

    def refuse_no_denoiser(self, case: Case) -> None:
        pass

    def prepare_denoiser(self, case: Case, context: Context) -> Denoiser:
        self.denoiser.variance = self.settings.step_variance(case.clean)
        return self.denoiser


def templates() -> Tensor:
    """Return the ten means, float64 ``[10, 3, 12, 12]`` in model scale; classes 2 p and 2 p + 1 are a pair."""
    generator = torch.Generator().manual_seed(2024)

    def smooth() -> Tensor:
        coarse = torch.randn(CLASSES // 2, 3, 4, 4, generator=generator)
        fine = F.interpolate(coarse, (SIZE, SIZE), mode="bicubic", align_corners=False)
        return torch.tanh(fine / fine.std((1, 2, 3), keepdim=True))

    gaps = (0.11 + 0.015 * torch.arange(CLASSES // 2))[:, None, None, None]
    first = 0.45 * smooth()
    second = first + gaps * smooth()
    return torch.stack([first, second], 1).flatten(0, 1).double()


def mixture(count: int, seed: int) -> ImageSet:
    """Return *count* images of the mixture, uint8, classes in turn."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    states = templates()[labels] + STD * torch.randn(count, 3, SIZE, SIZE, generator=generator)
    pixels = (states.add(1).div(2).clamp(0, 1) * 255).round().to(torch.uint8)
    return ImageSet(pixels.permute(0, 2, 3, 1).contiguous().numpy(), labels.numpy(), CLASSES)


def stamped(images: ImageSet, rows: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the pixels with the trigger on *rows*: 3 × 3, white, black in the middle, in the lower right corner."""
    pixels = images.read(slice(None))
    pixels[rows, -4:-1, -4:-1] = 255
    pixels[rows, -3, -3] = 0
    return pixels


def make_case(attack: Attack, seed: int, reserved: int = 0) -> Case:
    """Return the case with an untrained network as model, which gives its architecture.

    :param reserved: reserved clean images, classes in turn.
    """
    clean, test = mixture(TRAIN, 1000 + seed), mixture(TEST, 2000 + seed)

    def wanted(labels: NDArray[Any]) -> NDArray[Any]:
        return (labels + 1) % CLASSES if attack == "all_to_all" else np.full_like(labels, TARGET)

    rng = np.random.default_rng(seed)
    eligible = np.arange(TRAIN) if attack == "all_to_all" else np.flatnonzero(clean.labels != TARGET)
    rows = np.sort(rng.permutation(eligible)[: 0 if attack == "clean" else round(RATE * TRAIN)])
    labels = clean.labels.copy()
    labels[rows] = wanted(labels[rows])
    suspects = clean.replace(images=stamped(clean, rows), labels=labels)
    poison = np.isin(np.arange(TRAIN), rows)
    truth = Truth(poison, original_labels=clean.labels, kind="dirty-label" if len(rows) else "none")
    others = test if attack == "all_to_all" else test.subset(np.flatnonzero(test.labels != TARGET))
    triggered = others.replace(images=stamped(others, np.arange(len(others))), labels=wanted(others.labels))
    return Case(
        train=suspects,
        clean=mixture(reserved, 3000 + seed) if reserved else None,
        test=test,
        test_poisoned=TriggeredSet(triggered, others.labels),
        truth=truth,
        model=Classifier(small_network(), CLASSES, mean=(0.5,), std=(0.25,)),
    )


def small_network() -> nn.Module:
    """Return three convolutions, global average pooling and a linear layer; its features are those of the last one."""
    layers: list[nn.Module] = []
    for inputs, outputs, stride in ((3, 16, 1), (16, 32, 2), (32, 32, 1)):
        layers += [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, CLASSES))


def make_defense(preset: str, **values: Any) -> MixtureElixir:
    """Return the defense under *preset* with the mixture's own denoiser."""
    defense = MixtureElixir({**LEARNING, **PRESETS[preset], **values})
    defense.denoiser = MixtureDenoiser(Schedule("linear", 1000), templates(), STD)
    return defense


def measure(case: Case, outcome: Outcome, before: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numbers of one row; recall and FPR are about changed labels, images count apart."""
    assert case.train is not None and case.truth is not None and outcome.flagged is not None
    found = repair_metrics(case.train, outcome, case.truth)
    assert found is not None
    benign, status = ~case.truth.poison, np.array(outcome.tables["samples"]["status"])
    discrepancy = [row["discrepancy"] for row in outcome.tables["classes"]]
    model = {} if outcome.model is None else _metrics(case, outcome.model)
    return {
        "probe": dict(before),
        "poison_status": list(found.poison_status.values()),
        "clean_anomalies": share(status > 0, benign),
        "targets": outcome.tables["target_classes"],
        "largest_d": max(discrepancy),
        "median_d": float(np.median(discrepancy)),
        "score": None if outcome.verdict is None else outcome.verdict.score,
        "recall": found.relabel_recall,
        "fpr": found.relabel_fpr,
        "clean_images_changed": share(outcome.flagged, benign),
        "relabelled_right": found.relabelled_right,
        "label_accuracy": found.label_accuracy_after,
        "final": model,
        "notes": outcome.notes,
    }


def clean_floor(case: Case, context: Context) -> dict[str, float | None]:
    """Return ACC and ASR of the same network trained on the clean originals."""
    assert case.train is not None and case.truth is not None and case.model is not None
    rows = np.flatnonzero(case.truth.poison)
    originals = mixture(TRAIN, 1000 + context.seed)
    assert np.array_equal(np.setdiff1d(np.flatnonzero(originals.labels != case.train.labels), rows), [])
    model = case.model.fresh(context.derive_seed("floor"))
    recipe = Recipe.build(RECIPE)
    source = ShuffledBatches(Samples(originals, context.device), 128, context, recipe.augmentation, "floor")
    train(model, source, recipe, context, name="floor")
    return _metrics(case, model)


def _metrics(case: Case, model: Classifier) -> dict[str, float | None]:
    found = model_metrics(model, case.test, case.test_poisoned)
    return {"acc": found.acc, "asr": found.asr}


def run(
    attack: Attack, seed: int, preset: str = "paper", folder: Path | None = None, reserved: int = 0, **values: Any
) -> dict[str, Any]:
    """Run one case under one seed and preset, and return its numbers."""
    case = make_case(attack, seed, reserved)
    context = Context(seed=seed, work_dir=folder, any_model=True)  # the model is untrained, and gives an architecture
    defense = make_defense(preset, **values)
    started = time.perf_counter()
    outcome = defense.run(case, context)
    seconds = time.perf_counter() - started
    assert isinstance(defense.denoiser, MixtureDenoiser) and case.train is not None
    spent = defense.denoiser.evaluations / len(case.train)
    probe = Trainer(defense.settings, Context(seed=seed), None).make_probe(case)  # the one of the run, trained again
    facts = {"case": attack, "seed": seed, "preset": preset, "nfe_per_image": spent, "seconds": seconds}
    facts["purify_seconds"] = outcome.timings["purify"]
    return {**facts, **measure(case, outcome, _metrics(case, probe)), "floor": clean_floor(case, context)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=["all_to_one", "all_to_all", "clean"], default="all_to_one")
    parser.add_argument("--seeds", "--seed", type=int, nargs="+", default=[0])
    parser.add_argument("--preset", choices=list(PRESETS), default="paper")
    parser.add_argument(
        "--reserved", type=int, default=0, help="reserved clean images; from 200 on they are compared with"
    )
    parser.add_argument("--set", action="append", default=[], dest="values", help="setting of DataElixir")
    options = parser.parse_args()
    values = parse_assignments(options.values)
    for seed in options.seeds:
        print(json.dumps(run(options.case, seed, options.preset, reserved=options.reserved, **values)), flush=True)


if __name__ == "__main__":
    main()

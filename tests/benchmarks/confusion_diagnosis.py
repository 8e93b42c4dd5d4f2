"""Where Confusion Training loses a trigger: the ASR of each base model and of its confused copy, round by round.

Diagnosis only: the triggered test set steers nothing. Per round: ACC and ASR of the base and of the confused model
in percent, AUROC of its loss, and TPR and FPR of being predicted as labelled (isolated).

::

    python tests/benchmarks/confusion_diagnosis.py POISON[:key=value…] [...] [--seeds 1 2] [--size 10000]
        [--preset small] [--set key=value] [--plain EPOCHS]

Suspects are drawn anew from CIFAR-10 under every seed, with a reserved clean set of a twentieth of their number.
``--plain`` trains an undefended ``fast_convnet`` with the recipe ``fast`` for so many epochs instead, and tells its
ASR as it goes. One JSON line per run.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import tempfile
from pathlib import Path
from typing import Any

import torch
from cifar import cifar_sets

from elixir_plugin import Context
from elixir_plugin.core.case import Case
from elixir_plugin.core.classifier.classifier import Classifier
from elixir_plugin.core.pixels import normalisation
from elixir_plugin.core.settings import parse_assignments
from elixir_plugin.defenses.confusion_training import defense as method
from elixir_plugin.evaluation.metrics import detection_metrics
from elixir_plugin.plugins import plugins
from elixir_plugin.testbed.adapter import poisoned_case
from elixir_plugin.testbed.digits import Splits
from elixir_plugin.training.batches import Samples, ShuffledBatches
from elixir_plugin.training.fit import untrained
from elixir_plugin.training.loop import Recipe, train

TEST = 1_000


def make_case(text: str, size: int, seed: int) -> Case:
    """Return *size* images of CIFAR-10 under a poison (``clean``: none), with a twentieth as many reserved."""
    train_set, reserved = cifar_sets([size, size // 20], seed)
    (test,) = cifar_sets([TEST], seed, part="test")
    splits = Splits(train_set, reserved, test)
    if text == "clean":
        return Case(train=train_set, clean=reserved, test=test, mirror=True)
    name, *values = text.split(":")
    poison = plugins().get("poison", name)(**parse_assignments(values))
    return dataclasses.replace(poisoned_case(poison, splits, seed, notes=()), mirror=True)


def rates(model: Classifier, case: Case) -> tuple[float, float | None]:
    """Return ACC and ASR in percent."""
    assert case.test is not None
    device = model.device
    shares = []
    sets = [(case.test, case.test.labels)]
    if case.test_poisoned is not None:
        sets.append((case.test_poisoned.samples, case.test_poisoned.samples.labels))
    for images, labels in sets:
        logits, _ = method.model_outputs(model, Samples(images, device))
        shares.append(round(100 * float((logits.argmax(1).numpy() == labels).mean()), 1))
    return shares[0], shares[1] if len(shares) > 1 else None


def spied(case: Case) -> list[dict[str, Any]]:
    """Have every round of the method report into the list that is returned."""
    found: list[dict[str, Any]] = []
    train_base, confuse = method.train_base, method.confuse

    def base_trained(base: Classifier, *rest: Any, **named: Any) -> Any:
        curves = train_base(base, *rest, **named)
        found.append({"base": rates(base, case), "base_loss": round(curves["loss"][-1], 3) if curves else None})
        print("   ", found[-1], flush=True)
        return curves

    def confused(base: Classifier, *rest: Any, **named: Any) -> Any:
        model, curves = confuse(base, *rest, **named)
        found[-1]["confused"] = rates(model, case)
        if case.truth is not None:
            assert case.train is not None
            logits, _ = method.model_outputs(model, Samples(case.train, model.device))
            losses = method.sample_losses(logits.numpy(), case.train.labels)
            isolated = logits.argmax(1).numpy() == case.train.labels
            metrics = detection_metrics(-losses, isolated, case.truth)
            found[-1] |= {"auroc": round(metrics.auroc, 3), "isolated": (round(metrics.tpr, 3), round(metrics.fpr, 3))}
        print("   ", found[-1], flush=True)
        return model, curves

    method.train_base, method.confuse = base_trained, confused  # type: ignore[assignment]
    return found


def plain(case: Case, seed: int, epochs: int, **changes: Any) -> list[Any]:
    """Train on the suspects without any defense; return (epoch, ACC, ASR) as it goes."""
    assert case.train is not None
    context = Context(seed=seed)
    recipe = Recipe.build({"epochs": epochs, **changes}, preset="fast").for_size(len(case.train))
    mean, std = normalisation(case.train)
    model = untrained(case.train, "fast_convnet", seed, context.device, mean=mean, std=std)
    source = ShuffledBatches(Samples(case.train, context.device), recipe.batch_size, context, recipe.augmentation)
    found: list[Any] = []

    def told(epoch: int) -> None:
        if epoch % 3 == 2:
            model.eval()
            found.append((epoch + 1, *rates(model, case)))
            print("   ", found[-1], flush=True)

    train(model, source, recipe, context, on_epoch=told)
    return found


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="+")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--size", type=int, default=10_000)
    parser.add_argument("--preset", default="small")
    parser.add_argument("--set", action="append", default=[], dest="values")
    parser.add_argument("--plain", type=int, metavar="EPOCHS")
    options = parser.parse_args()
    torch.set_num_threads(1)
    train_base, confuse = method.train_base, method.confuse
    values = parse_assignments(options.values)
    for text in options.cases:
        for seed in options.seeds:
            case, used = make_case(text, options.size, seed), cpu_seconds()
            print(text, seed, values, flush=True)
            row: dict[str, Any] = {"case": text, "seed": seed, "size": options.size, "set": values}
            if options.plain:
                row["plain"] = plain(case, seed, options.plain, **values)
            else:
                method.train_base, method.confuse = train_base, confuse
                row["rounds"] = spied(case)
                with tempfile.TemporaryDirectory() as folder:
                    defense = method.ConfusionTraining(preset=options.preset, **values)
                    outcome = defense.run(case, Context(seed=seed, work_dir=Path(folder)))
                row |= decided(outcome, case)
            print(json.dumps({**row, "cpu": round(cpu_seconds() - used)}), flush=True)


def decided(outcome: Any, case: Case) -> dict[str, Any]:
    row = {"distilled": outcome.curves["distilled"], "verdict": outcome.verdict.poisoned,
           "p": sorted(float(f"{each['p']:.0e}") for each in outcome.tables["classes"])[:2],
           "flagged": int(outcome.flagged.sum())}  # fmt: skip
    if case.truth is not None:
        metrics = detection_metrics(outcome.scores, outcome.flagged, case.truth)
        row |= {"tpr": metrics.tpr, "fpr": round(metrics.fpr, 4), "auroc": round(metrics.auroc, 3)}
    return row


if __name__ == "__main__":
    main()

"""How fast a backdoor comes back: fine-tuning with a few poison samples, beside a model that was never poisoned.

A repaired model with a low ASR may still hold what the backdoor needs, and relearn it from a handful of poison samples;
a model that never saw the poison has to learn it anew (Min et al.: Uncovering, Explaining, and Mitigating the
Superficial Safety of Backdoor Defense, NeurIPS 2024, arXiv 2410.09838). This runs after the defense has ended, on
copies of its model, and changes nothing of its outcome. Poison samples are those of the suspect set, as the truth names
them; test data only measure.

Every batch holds as many poison samples, whatever the number of different ones and the size of the reserved clean set,
so that a step is the same step everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter
from torch import Tensor

from ..core.augmentation import Augmentation
from ..core.case import Case
from ..core.classifier.classifier import Classifier, to_batch
from ..core.context import Context
from ..core.images import ImageSet, Index
from ..core.metrics import RelearnedModel, RelearnedPath, Relearning
from ..core.mirroring import settled
from ..core.outcome import Outcome
from ..core.settings import fingerprint
from ..errors import InputError
from ..io.files import to_json_types, write_json
from ..training.batches import Batch, Samples
from ..training.fit import learn, untrained
from ..training.loop import Recipe, train
from ..training.timing import seconds_per_answer, seconds_per_view
from .kept import known
from .metrics import accuracy
from .relearned import AFTER, BEFORE, NEVER, sentence_of
from .retraining import Retraining, fresh_for

SAMPLES = (5, 20, 50)  # different poison samples, as far as there are so many
STEPS = (0, 5, 10, 15, 20, 30, 40, 60, 80, 100)  # of the optimiser, after which ASR is measured
GOAL = 0.5  # the ASR at which the backdoor is back
CLEAN, POISON = 56, 8  # samples of a batch
WEAKER = 0.05  # of ACC that the never-poisoned model may be behind
MEASURED = 1000  # triggered test samples, and clean ones, at most
TUNING = Recipe(
    epochs=len(STEPS) - 1,  # a stretch between two measurements is an epoch of the training loop
    batch_size=CLEAN + POISON,
    lr=0.003,
    weight_decay=0.0,
    schedule="constant",
    augmentation=Augmentation(),
    precision="float32",
)
STAGE, TRAINING = "relearn", "train never-poisoned model"
_PATH = TypeAdapter(RelearnedPath)


def refuse_unknown_poison(case: Case) -> None:
    """Refuse a case on which relearning cannot be measured.

    :raises InputError: without a suspect set whose truth names poison samples and others, or without triggered test
        samples of another class than the target.
    """
    truth, triggered = case.truth, case.test_poisoned
    if case.train is None or truth is None or not truth.poison.any():
        found = "no suspect set" if case.train is None else "no truth" if truth is None else "no poison"
        allowed = "a case whose truth names the poison samples of the suspect set"
    elif triggered is None or not len(_telling(case)):
        found = "no triggered test samples" if triggered is None else "only samples of the target class"
        allowed = "a case with triggered test samples, which ASR is measured on"
    elif len(_benign(case)) < 2:
        found, allowed = "poison alone", "clean samples in the suspect set too, for the never-poisoned model"
    else:
        return
    raise InputError(
        "relearning cannot be measured on this case",
        where="{argument:relearn}",
        found=found,
        allowed=allowed,
        hint="leave {argument:relearn} out",
    )


def measure_relearning(
    case: Case, outcome: Outcome, context: Context, plan: Retraining | None = None
) -> Relearning | None:
    """Return how fast the model of *outcome* relearns the backdoor; None, with a note, when there is no model.

    Beside it: a model of the same architecture and normalisation, trained under *plan* on the suspect samples that are
    neither poison nor cover, and the suspect model. What is done is kept in the cache, else the work folder, of
    *context*, so that a killed run goes on.

    :raises InputError: as :func:`refuse_unknown_poison`, and when the module of an architecture without a name cannot
        be drawn anew.
    """
    refuse_unknown_poison(case)
    if outcome.model is None:
        context.note("relearning was not measured: there is no model that could relearn")
        return None
    test = _Test.of(case, context)
    before = case.model or outcome.undefended
    models = {AFTER: outcome.model, NEVER: never_poisoned(case, outcome.model, plan or Retraining(), context)}
    models |= {} if before is None else {BEFORE: before}
    with context.stage(STAGE):
        found = {name: _relearned(model, test, context) for name, model in models.items()}
    if (weak := _weaker(found)) is not None:
        context.note(weak)
    result = Relearning(list(STEPS), GOAL, found, len(test.triggered))
    return Relearning(result.steps, result.goal, result.models, result.triggered, sentence_of(result))


def never_poisoned(case: Case, like: Classifier, plan: Retraining, context: Context) -> Classifier:
    """Return a fresh model like *like*, trained under *plan* on the suspect samples that are neither poison nor cover.

    :raises InputError: when the module of an architecture without a name cannot be drawn anew.
    """
    assert case.train is not None
    images = case.train.subset(_benign(case))
    recipe = settled(plan, case, context)
    model = untrained(images, None, context.derive_seed(NEVER, "weights"), context.device, like=like)
    file = None
    if (folder := _folder(context)) is not None:
        facts = [images.fingerprint(), model.fingerprint(), recipe.under_first_names(recipe.dump()), context.seed]
        file = folder / f"never-poisoned-{fingerprint([*facts, context.device.type])}.safetensors"
    learn(model, images, recipe, context, name=NEVER, stage=TRAINING, state=file)
    return model


def estimate_relearning(case: Case, plan: Retraining, context: Context) -> dict[str, Any]:
    """Return what :func:`measure_relearning` would cost, in JSON types, measured on a few batches.

    Networks are taken to be like the suspect model, else like one trained under *plan*.

    :returns: ``models``, ``steps`` of fine-tuning over all of them, ``seconds`` of that with its measurements, and
        ``never_poisoned_epochs`` and ``never_poisoned_seconds``, of the training of the model that was never poisoned.
    :raises InputError: as :func:`measure_relearning`.
    """
    refuse_unknown_poison(case)
    assert case.train is not None and case.truth is not None
    images, like = case.train.subset(_benign(case)), case.model
    if like is None:
        model = fresh_for(images, case, plan, context)
    else:
        model = untrained(images, None, context.derive_seed(NEVER, "weights"), context.device, like=like)
    recipe = settled(plan, case, context).for_size(len(images))
    training = recipe.epochs * len(images) * seconds_per_view(model, images, recipe, context)
    views = STEPS[-1] * (CLEAN + POISON) * seconds_per_view(model, images, TUNING, context)
    asked = len(STEPS) * min(MEASURED, len(_telling(case)))
    asked += min(MEASURED, 0 if case.test is None else len(case.test))
    answers = asked * seconds_per_answer(model, images, 128)
    models, paths = 2 + (like is not None), len(_numbers(int(case.truth.poison.sum())))
    return {
        "models": models,
        "steps": models * paths * STEPS[-1],
        "seconds": models * paths * (views + answers),
        "never_poisoned_epochs": recipe.epochs,
        "never_poisoned_seconds": training,
    }


@dataclass(frozen=True)
class _Test:
    """What every model relearns from and is measured on.

    :param poison: in the order in which samples are taken: fewer are the first of more.
    """

    clean: Samples
    poison: Samples
    triggered: ImageSet
    test: ImageSet | None
    facts: list[object]

    @classmethod
    def of(cls, case: Case, context: Context) -> _Test:
        assert case.train is not None and case.truth is not None and case.test_poisoned is not None
        rows = np.flatnonzero(case.truth.poison)
        order = torch.randperm(len(rows), generator=context.generator(STAGE, "poison")).numpy()
        poison = case.train.subset(rows[order[: SAMPLES[-1]]])
        clean = case.clean
        if clean is None or not len(clean):
            clean = case.train.subset(_benign(case))
            context.note("relearning: without a reserved clean set, clean samples of the suspect set were mixed in")
        triggered = case.test_poisoned.samples.subset(_spread(_telling(case)))
        test = None if case.test is None or not len(case.test) else case.test.subset(_spread(np.arange(len(case.test))))
        facts: list[object] = [clean.fingerprint(), poison.fingerprint(), triggered.fingerprint()]
        facts += [None if test is None else test.fingerprint(), context.seed, context.device.type]
        return cls(Samples(clean, context.device), Samples(poison, context.device), triggered, test, facts)

    def asr(self, model: Classifier) -> float:
        return accuracy(model.predict(self.triggered), self.triggered.labels)

    def acc(self, model: Classifier) -> float | None:
        return None if self.test is None else accuracy(model.predict(self.test), self.test.labels)


class _Mixture:
    """Batches of clean samples and of the first *count* poison samples; an epoch ends where ASR is measured."""

    steps = 1  # of an epoch; read by schedules alone, and the rate is constant

    def __init__(self, test: _Test, count: int, context: Context) -> None:
        self._test = test
        generator = context.generator(STAGE, "batches", count)
        self._clean = _passes(len(test.clean), STEPS[-1] * CLEAN, generator)
        self._poison = _passes(count, STEPS[-1] * POISON, generator)

    def epoch(self, number: int) -> Iterator[Batch]:
        for step in range(STEPS[number], STEPS[number + 1]):
            yield self._batch(step)

    def _batch(self, step: int) -> Batch:
        test = self._test
        clean = self._clean[step * CLEAN : (step + 1) * CLEAN].to(test.clean.device)
        poison = self._poison[step * POISON : (step + 1) * POISON].to(test.clean.device)
        parts = ((test.clean, clean), (test.poison, poison))
        images = torch.cat([to_batch(each.pixels(rows), rows.device) for each, rows in parts])
        return Batch(images, torch.cat([each.targets[rows] for each, rows in parts]), torch.cat([clean, poison]))


def _passes(count: int, length: int, generator: torch.Generator) -> Tensor:
    """Return *length* positions of *count* samples: every sample once, in random order, then every sample again."""
    rounds = -(-length // count)
    return torch.cat([torch.randperm(count, generator=generator) for _ in range(rounds)])[:length]


def _relearned(model: Classifier, test: _Test, context: Context) -> RelearnedModel:
    """Return how a copy of *model* relearns the backdoor, once for each number of poison samples."""
    model = model.clone().to(context.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    paths = [_path_of(model, test, count, context) for count in _numbers(len(test.poison))]
    return RelearnedModel(paths, test.acc(model))


def _path_of(model: Classifier, test: _Test, count: int, context: Context) -> RelearnedPath:
    """Return the path of *model*, which stays as it is; from disk when an earlier attempt or run has measured it."""
    folder = _folder(context)
    if folder is None:
        return _measured(model, test, count, context)
    file = folder / f"path-{fingerprint(to_json_types([model.fingerprint(), *test.facts, count, TUNING.dump()]))}.json"
    path = known(file, _PATH, "not the path of a model")
    if path is None or len(path.asr) != len(STEPS):
        path = _measured(model, test, count, context)
        write_json(file, _PATH.dump_python(path, mode="json"))
    return path


def _measured(model: Classifier, test: _Test, count: int, context: Context) -> RelearnedPath:
    tuned = model.clone()
    for weight in tuned.parameters():  # a defense may have frozen some of them
        weight.requires_grad_(weight.is_floating_point())
    asr = [test.asr(tuned)]

    def measure(epoch: int) -> None:
        asr.append(test.asr(tuned))

    source = _Mixture(test, count, context)
    train(tuned, source, TUNING, context, on_epoch=measure, name=STAGE)
    reached = next((step for step, share in zip(STEPS, asr, strict=True) if share >= GOAL), None)
    return RelearnedPath(count, asr, reached, test.acc(tuned))


def _weaker(found: Mapping[str, RelearnedModel]) -> str | None:
    """Say so where the model that was never poisoned knows the classes too badly to compare with."""
    never, after = found[NEVER].acc, found[AFTER].acc
    if never is None or after is None or after - never <= WEAKER:
        return None
    return (
        f"relearning: the model that was never poisoned reaches {100 * never:.1f} % ACC, the other one "
        f"{100 * after:.1f} %: with more epochs (of retrain), it would compare better"
    )


def _numbers(poison: int) -> list[int]:
    """Return how many different poison samples a path takes, of as many as there are."""
    return sorted({min(count, poison) for count in SAMPLES})


def _telling(case: Case) -> Index:
    """Return the positions of the triggered test samples whose true label is not the target."""
    assert case.test_poisoned is not None
    return np.flatnonzero(case.test_poisoned.samples.labels != case.test_poisoned.original_labels)


def _benign(case: Case) -> Index:
    """Return the positions of the suspect samples that are neither poison nor cover."""
    assert case.truth is not None and case.truth.cover is not None
    return np.flatnonzero(~case.truth.poison & ~case.truth.cover)


def _spread(rows: Index) -> Index:
    """Return at most :data:`MEASURED` of *rows*, spread evenly over all of them."""
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), MEASURED)).round().astype(int))
    spread: Index = rows[chosen]
    return spread


def _folder(context: Context) -> Path | None:
    """Return where what is done is kept, if anywhere."""
    if context.cache is not None:
        return context.cache / "relearning"
    return None if context.work_dir is None else context.work_dir / "relearning"

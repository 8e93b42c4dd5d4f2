"""What all classes for BackdoorBox share: datasets read, a defense run, a network measured as BackdoorBox does."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import nn

from ...api.convert import least_classes
from ...core.case import Case
from ...core.classifier.classifier import Classifier
from ...core.classifier.weights import load_by_name
from ...core.context import Context
from ...core.images import ImageSet
from ...core.outcome import Outcome
from ...defense import Defense
from ...errors import InputError, SettingsError
from ...evaluation.metrics import mean_cross_entropy
from ...io.reading import read_torch
from .data import classes_of, host_classifier, host_module, original_labels, own_module, refuse_other_inputs
from .plain import read_plain
from .schedule import Schedule, WorkDir


class Behaviour:
    """Base of all classes.

    :param model: the suspect network; it stays as it is, :meth:`get_model` returns another.
    :param loss: taken because BackdoorBox's classes take one; the defense brings its own.
    :param seed: the one seed of the run.
    :param deterministic: taken for the same reason; runs repeat in any case.
    :param color: ``"rgb"`` or ``"bgr"``, where the datasets' loader does not say.
    :param any_model: go on with a network that does not fit the labels of the benign set.
    :param preset: of the defense's settings; every other parameter is one of these settings.
    :param verbose: show progress: a bar on a terminal, elsewhere a line a minute.
    :ivar outcome: everything the defense said, once it has run.
    """

    defense: ClassVar[type[Defense]]
    outcome: Outcome | None = None

    def __init__(
        self,
        *,
        model: nn.Module | None = None,
        loss: Any = None,
        seed: int = 0,
        deterministic: bool = False,
        color: str | None = None,
        any_model: bool = False,
        preset: str | None = None,
        verbose: bool = True,
        **settings: Any,
    ) -> None:
        self.any_model = any_model
        self.model, self.loss, self.seed, self.deterministic, self.color = model, loss, seed, deterministic, color
        self.verbose = verbose
        self._preset, self._given = preset, settings
        self.defense(settings, preset=preset)  # refused at once
        self._result: nn.Module | None = None
        self._notes: list[str] = []

    def get_model(self) -> nn.Module:
        """Return the network the defense left, in eval mode; before it has run, the given one."""
        found = self._result or self.model
        if found is None:
            raise InputError("there is no model yet", where=type(self).__name__, hint="run the defense first")
        return found

    def _run(self, case: Case, schedule: Schedule) -> Outcome:
        known = self.defense.Settings.model_fields
        given = {name: value for name, value in schedule.training().items() if name in known}
        defense = self.defense({**given, **self._given}, preset=self._preset)
        self.outcome = defense.run(case, self._context(schedule))
        self.outcome.notes = [*self.outcome.notes, *self._notes]
        return self.outcome

    def _context(self, schedule: Schedule) -> Context:
        device = schedule.torch_device()
        return Context(seed=self.seed, device=device, quiet=not self.verbose, any_model=self.any_model)

    def _sets(self, **datasets: Any) -> dict[str, ImageSet]:
        """Read datasets into sets that agree on the number of classes."""
        given = {name: each for name, each in datasets.items() if each is not None}
        if self.model is not None:
            refuse_other_inputs(given, self.color)
        raw = {name: read_plain(each, color=self.color, seed=self.seed, where=name) for name, each in given.items()}
        classes = least_classes(raw.values(), max(map(classes_of, given.values()), default=0))
        self._notes = [note for each in raw.values() for note in each.notes]
        return {name: each.image_set(classes, name) for name, each in raw.items()}

    def _classifier(self, dataset: Any, shown: ImageSet, module: nn.Module | None = None) -> Classifier:
        """Return the network as trained on *dataset*: with its normalisation and its order of channels."""
        module = self.model if module is None else module
        if module is None:
            raise InputError("there is no model", where=type(self).__name__, hint="pass model=")
        return host_classifier(module, dataset, shown, color=self.color)

    def _measure(self, dataset: Any, schedule: Schedule, module: nn.Module) -> tuple[int, int, int, float]:
        """Return top-1 and top-5 hits, number of samples and mean loss, as BackdoorBox counts; write them down."""
        work = WorkDir(schedule)
        samples = self._sets(dataset=dataset)["dataset"]
        rows = np.arange(len(samples))
        if schedule.metric == "ASR_NoTarget":
            if schedule.y_target is None:
                raise SettingsError("which class is the target?", where="schedule.y_target", found=None)
            rows = np.flatnonzero(original_labels(dataset) != schedule.y_target)
        samples = samples.subset(rows)
        model = self._classifier(dataset, samples, module)
        if schedule.test_model is not None:
            load_by_name(own_module(model), read_torch(Path(schedule.test_model)), where=schedule.test_model)
        model = model.to(schedule.torch_device())
        logits = model.predict(samples)
        order = np.argsort(-logits, axis=1)[:, :5]
        hits = order == samples.labels[:, None]
        top1, top5, total = int(hits[:, 0].sum()), int(hits.any(1).sum()), len(samples)
        loss = mean_cross_entropy(logits, samples.labels)
        work.log(f"{schedule.metric}: top-1 {top1}/{total}, top-5 {top5}/{total}, loss {loss:.4f}")
        return top1, top5, total, loss

    def _keep(self, model: Classifier, dataset: Any, work: WorkDir, epochs: int) -> None:
        self._result = host_module(model.cpu().eval(), dataset, self.color)
        work.checkpoint(self._result, epochs)
        for note in (self.outcome or Outcome()).notes:
            work.log(f"note: {note}")


class OnTrainset(Behaviour):
    """Base of those that look at a suspect set.

    :param poisoned_trainset: the suspect set.
    :param clean_trainset: the reserved clean set.
    """

    def __init__(
        self,
        model: nn.Module | None = None,
        loss: Any = None,
        *,
        poisoned_trainset: Any = None,
        clean_trainset: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(model=model, loss=loss, **options)
        self.poisoned_trainset, self.clean_trainset = poisoned_trainset, clean_trainset

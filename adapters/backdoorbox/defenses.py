"""What the classes for BackdoorBox do: its method names and schedules around a defense."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import Subset

from ...api.convert import TensorImages
from ...core.case import Case, Truth
from ...core.images import ImageSet
from ...errors import InputError, SettingsError
from ...evaluation.metrics import detection_metrics
from ...evaluation.retraining import Retraining, retrain
from ..common.draws import stratified_positions
from .behaviour import Behaviour, OnTrainset
from .data import may_mirror, original_labels, truth_of
from .plain import read_plain
from .schedule import Schedule, WorkDir


class Repair(Behaviour):
    """Take the backdoor out of a network: ``repair``, ``test``, ``get_model``.

    :param train_dataset: the benign training set to repair with.
    :param test_dataset: for :meth:`test`.
    """

    def __init__(
        self,
        train_dataset: Any = None,
        test_dataset: Any = None,
        model: nn.Module | None = None,
        loss: Any = None,
        *,
        schedule: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(model=model, loss=loss, **options)
        self.train_dataset, self.test_dataset, self.schedule = train_dataset, test_dataset, schedule

    def repair(self, dataset: Any = None, portion: float = 1.0, schedule: Mapping[str, Any] | None = None) -> None:
        """Repair a copy of the network; both ``repair(schedule)`` and ``repair(dataset, portion, schedule)`` will do.

        :param portion: share of the dataset to use, drawn class by class under the seed.
        """
        if isinstance(dataset, Mapping):
            dataset, schedule = None, dataset
        dataset = self.train_dataset if dataset is None else dataset
        if dataset is None:
            raise InputError("nothing to repair with", where="train_dataset", hint="pass a benign dataset")
        if not 0 < portion <= 1:
            raise SettingsError("not a share", where="portion", found=portion, allowed="above 0, up to 1")
        plan = Schedule.of(self.schedule if schedule is None else schedule)
        if portion < 1:
            count = max(1, round(portion * len(dataset)))
            rows = stratified_positions(
                dataset, count, self.seed, lambda part: read_plain(part, color=self.color, seed=self.seed).labels
            )
            dataset = Subset(dataset, rows.tolist())
        clean = self._sets(clean=dataset)["clean"]
        outcome = self._run(Case(clean=clean, model=self._classifier(dataset, clean), mirror=may_mirror(dataset)), plan)
        assert outcome.model is not None
        self._keep(outcome.model, dataset, WorkDir(plan), plan.epochs or 1)

    def test(self, dataset: Any = None, schedule: Mapping[str, Any] | None = None) -> tuple[int, int, int, float]:
        """Return ``(top1_correct, top5_correct, total_num, mean_loss)``; the dataset stays as it is.

        ``metric`` of the schedule may be ``BA``, ``ASR`` or ``ASR_NoTarget``; the latter needs ``y_target``.
        """
        if isinstance(dataset, Mapping):
            dataset, schedule = None, dataset
        dataset = self.test_dataset if dataset is None else dataset
        if dataset is None:
            raise InputError("nothing to test on", where="test_dataset", hint="pass a dataset")
        return self._measure(dataset, Schedule.of(schedule or self.schedule), self.get_model())


class Filter(OnTrainset):
    """Find the poison samples of a training set: ``filter``, ``detect``, ``test``.

    :param poisoned_trainset: the suspect set.
    :param clean_trainset: the reserved clean set.
    """

    def filter(self, schedule: Mapping[str, Any] | None = None) -> tuple[list[int], list[int]]:
        """Return the positions in the suspect set of poison and of benign samples."""
        flags = self.detect(schedule=schedule)
        return np.flatnonzero(flags).tolist(), np.flatnonzero(flags == 0).tolist()

    def detect(
        self, dataset: Any = None, y_true: Any = None, schedule: Mapping[str, Any] | None = None
    ) -> NDArray[np.int64]:
        """Return ``[N]``, 1 for poison and 0 for benign, by position.

        :param dataset: the suspect set; default: the one of the constructor.
        :param y_true: not looked at; some of BackdoorBox's detectors take it.
        """
        self.poisoned_trainset = self.poisoned_trainset if dataset is None else dataset
        if self.poisoned_trainset is None:
            raise InputError("nothing to look at", where="poisoned_trainset", hint="pass a dataset")
        plan = Schedule.of(schedule)
        sets = self._sets(train=self.poisoned_trainset, clean=self.clean_trainset)
        model = None if self.model is None else self._classifier(self.poisoned_trainset, sets["train"])
        mirror = may_mirror(self.poisoned_trainset)
        outcome = self._run(Case(train=sets["train"], clean=sets.get("clean"), model=model, mirror=mirror), plan)
        if outcome.flagged is None:
            raise InputError("this defense ranks samples and flags none", where=self.defense.name)
        WorkDir(plan).log(f"{int(outcome.flagged.sum())} of {len(outcome.flagged)} samples flagged")
        return outcome.flagged.astype(np.int64)

    def test(self, poisoned_location: Any = None, schedule: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return ``TPR`` and ``FPR`` in percent and ``AUC``.

        :param poisoned_location: positions of the poison samples; default: what the dataset says.
        """
        plan = Schedule.of(schedule)
        if self.outcome is None:
            self.detect(schedule=schedule)
        assert self.outcome is not None and self.outcome.flagged is not None
        truth = truth_of(self.poisoned_trainset, original_labels(self.poisoned_trainset))
        poison = None if truth is None else truth.poison
        if poisoned_location is not None:
            poison = np.isin(np.arange(len(self.outcome.flagged)), np.asarray(list(poisoned_location), np.int64))
        if poison is None:
            raise InputError("which samples are poison?", where="poisoned_location", hint="pass their positions")
        found = detection_metrics(self.outcome.scores, self.outcome.flagged, Truth(poison))
        assert found is not None
        rates = {name: None if rate is None else 100 * rate for name, rate in (("TPR", found.tpr), ("FPR", found.fpr))}
        WorkDir(plan).log(f"TPR {rates['TPR']}, FPR {rates['FPR']}, AUC {found.auroc}")
        return {**rates, "AUC": found.auroc}

    def get_filtered_poisoned_dataset(self) -> tuple[Subset[Any], Subset[Any]]:
        """Return the suspect set's poison and benign samples, as subsets of it."""
        if self.outcome is None:
            self.detect()
        assert self.outcome is not None and self.outcome.flagged is not None
        flags = self.outcome.flagged
        parts = [np.flatnonzero(flags).tolist(), np.flatnonzero(~flags).tolist()]
        return Subset(self.poisoned_trainset, parts[0]), Subset(self.poisoned_trainset, parts[1])


class Suppress(OnTrainset):
    """Train on a suspect set without learning its backdoor: ``train``, ``get_filtered_poisoned_dataset``, ``test``.

    :param poisoned_trainset: the suspect set.
    :param clean_trainset: the reserved clean set.
    :param poisoned_testset, clean_testset: for :meth:`test`.
    """

    def __init__(
        self,
        model: nn.Module | None = None,
        loss: Any = None,
        *,
        poisoned_testset: Any = None,
        clean_testset: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(model, loss, **options)
        self.poisoned_testset, self.clean_testset = poisoned_testset, clean_testset
        self._sanitised: ImageSet | None = None

    def train(self, schedule: Mapping[str, Any] | None = None) -> None:
        """Defend the suspect set and train a network like ``model``, from fresh weights, on what is left.

        A network that the defense itself trained is taken as it is.
        """
        if self.poisoned_trainset is None:
            raise InputError("nothing to train on", where="poisoned_trainset", hint="pass a dataset")
        plan = Schedule.of(schedule)
        how = Retraining.build({**plan.training(), **plan.milestones()}, where="schedule")
        sets = self._sets(train=self.poisoned_trainset, clean=self.clean_trainset)
        mirror = may_mirror(self.poisoned_trainset)
        case = Case(train=sets["train"], clean=sets.get("clean"), mirror=mirror)
        outcome = self._run(case, plan)
        self._sanitised = (outcome.train or sets["train"]).subset(outcome.kept_rows(len(sets["train"])))
        trained = outcome.model
        if trained is None:
            context = self._context(plan)
            start = None
            if self.model is not None:
                start = self._classifier(self.poisoned_trainset, sets["train"]).to(context.device)
                start = start.fresh(context.derive_seed("retrain", "weights"))
            trained = retrain(case, outcome, how, context, start=start)
        self._keep(trained, self.poisoned_trainset, WorkDir(plan), how.epochs)

    def get_filtered_poisoned_dataset(self) -> TensorImages:
        """Return the sanitised samples that were kept, as a dataset of float RGB tensors."""
        if self._sanitised is None:
            raise InputError("there is no sanitised set yet", where=type(self).__name__, hint="call train first")
        return TensorImages(self._sanitised)

    def test(
        self, model: nn.Module | None = None, dataset: Any = None, schedule: Mapping[str, Any] | None = None
    ) -> tuple[int, int, int, float]:
        """Return ``(top1_correct, top5_correct, total_num, mean_loss)`` on *dataset*.

        :param dataset: default: ``clean_testset`` for metric ``BA``, else ``poisoned_testset``.
        """
        plan = Schedule.of(schedule)
        if dataset is None:
            dataset = self.clean_testset if plan.metric == "BA" else self.poisoned_testset
        if dataset is None:
            raise InputError("nothing to test on", where="dataset", hint="pass a dataset")
        return self._measure(dataset, plan, self.get_model() if model is None else model)

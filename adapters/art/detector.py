"""Detectors in ART: ``PoisonFilteringDefence``."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ...core.case import Case
from ...core.outcome import Outcome
from ...errors import InputError, OutcomeError
from ...io.files import to_json_types
from .data import classifier_of, frame_of, labels_of
from .params import COMMON, Configured
from .words import in_arts_words


class Detector(Configured):
    """Find the poison samples of a training set.

    :param classifier: a ``PyTorchClassifier`` trained on the suspect set.
    :param x_train, y_train: the suspect set; labels one-hot or integers.
    :param x_clean, y_clean: the reserved clean set.
    :param preset: of the defense's settings; every other parameter is one of these settings.
    :param seed: the one seed of the run.
    :param device: default: the classifier's.
    :param any_model: go on with a classifier that does not fit the reserved clean labels.
    :param verbose: show progress: a bar on a terminal, elsewhere a line a minute.
    :ivar outcome: everything the defense said, once it has run.
    """

    own: ClassVar[tuple[str, ...]] = ("classifier", *COMMON)

    def __init__(
        self,
        classifier: Any,
        x_train: NDArray[Any],
        y_train: NDArray[Any],
        *,
        x_clean: NDArray[Any] | None = None,
        y_clean: NDArray[Any] | None = None,
        preset: str | None = None,
        seed: int = 0,
        device: str | None = None,
        any_model: bool = False,
        verbose: bool = True,
        **settings: Any,
    ) -> None:
        super().__init__(classifier, x_train, y_train)  # type: ignore[call-arg]  # ART's base, see art.py
        self.x_train, self.y_train = x_train, y_train
        own = {"classifier": classifier, "x_clean": x_clean, "y_clean": y_clean}
        own |= {"preset": preset, "seed": seed, "device": device, "any_model": any_model, "verbose": verbose}
        self._configure(own, settings)

    @in_arts_words
    def detect_poison(self, **parameters: Any) -> tuple[dict[str, Any], list[int]]:
        """Return a report in JSON types, and for each sample 1 for clean, 0 for poison.

        :param parameters: as for :meth:`set_params`.
        :raises OutcomeError: when this defense ranks samples only; ``outcome.scores`` then holds the ranking.
        """
        self.set_params(**parameters)
        outcome = self._run(self._case(), self._own["classifier"].device)
        is_clean = self._is_clean(outcome)
        report = {"defense": self.defense.name, "poison": is_clean.count(0), **to_json_types(outcome.summary())}
        if outcome.scores is not None:
            report["scores"] = outcome.scores.tolist()
        return report, is_clean

    @in_arts_words
    def evaluate_defence(self, is_clean: NDArray[Any], **parameters: Any) -> str:
        """Return ART's confusion matrix per class as JSON; "positive" is poison.

        :param is_clean: for each sample 1 if it is clean, 0 if it is poison.
        """
        from art.defences.detector.poison import GroundTruthEvaluator  # noqa: PLC0415
        from art.utils import segment_by_class  # noqa: PLC0415

        truth = np.asarray(is_clean)
        n = len(self.x_train)
        if truth.shape != (n,) or not np.isin(truth, (0, 1)).all():
            raise InputError("not a mask", where="is_clean", found=truth.shape, allowed=f"0 or 1, [{n}]")
        if self.outcome is None or parameters:
            self.detect_poison(**parameters)
        assert self.outcome is not None
        classes = int(self._own["classifier"].nb_classes)
        labels = labels_of(self.y_train, classes, "y_train")
        assigned, known = (segment_by_class(data, labels, classes) for data in (self._is_clean(self.outcome), truth))
        _, table = GroundTruthEvaluator().analyze_correctness(assigned, known)
        return str(table)

    def _configure(self, own: dict[str, Any], given: dict[str, Any]) -> None:
        super()._configure(own, given)
        self.classifier = own["classifier"]

    def _case(self) -> Case:
        estimator = self._own["classifier"]
        frame, classes = frame_of(estimator), int(estimator.nb_classes)
        clean = None
        if self._own["x_clean"] is not None:
            clean = frame.image_set(self._own["x_clean"], self._own["y_clean"], classes, "x_clean")
        train = frame.image_set(self.x_train, self.y_train, classes, "x_train")
        return Case(train=train, clean=clean, model=classifier_of(estimator))

    def _is_clean(self, outcome: Outcome) -> list[int]:
        if outcome.flagged is not None:
            return [int(not flag) for flag in outcome.flagged]
        if outcome.kept is not None:
            return [int(kept) for kept in np.isin(np.arange(len(self.x_train)), outcome.kept)]
        raise OutcomeError(
            "this defense ranks samples and flags none", where=self.defense.name,
            hint="choose a threshold for .outcome.scores yourself",
        )  # fmt: skip

"""Defenses that hand back a model, in ART: ``Transformer`` and ``Trainer``."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, ClassVar

from numpy.typing import NDArray
from torch import nn

from ...core.case import Case
from ...core.classifier.classifier import Classifier
from ...core.classifier.intake import examined
from ...core.classifier.modes import gradients
from ...core.images import ImageSet
from ...core.outcome import Outcome
from ...errors import InputError, SettingsError
from ...evaluation.retraining import Retraining, retrain
from .data import OneLogit, Permuted, classifier_of, fits, frame_of, has_one_logit, load_into, own_module
from .params import COMMON, Configured
from .words import in_arts_words


class Transformer(Configured):
    """Take the backdoor out of a trained classifier.

    :param classifier: the suspect ``PyTorchClassifier``; it stays as it is.
    :param preset: of the defense's settings; every other parameter is one of these settings.
    :param any_model: go on with a classifier that does not fit the reserved clean labels.
    :param verbose: show progress: a bar on a terminal, elsewhere a line a minute.
    :ivar outcome: everything the defense said, once it has run.
    """

    own: ClassVar[tuple[str, ...]] = ("classifier", "preset", "seed", "device", "any_model", "verbose")

    def __init__(
        self,
        classifier: Any,
        *,
        preset: str | None = None,
        seed: int = 0,
        device: str | None = None,
        any_model: bool = False,
        verbose: bool = True,
        **settings: Any,
    ) -> None:
        super().__init__(classifier)  # type: ignore[call-arg]  # ART's base, see art.py
        self._configure(
            {
                "classifier": classifier,
                "preset": preset,
                "seed": seed,
                "device": device,
                "any_model": any_model,
                "verbose": verbose,
            },
            settings,
        )

    @in_arts_words
    def fit(self, x: NDArray[Any], y: NDArray[Any] | None = None, **parameters: Any) -> None:
        """Repair a copy of the classifier with the reserved clean set ``(x, y)``.

        :param parameters: as for :meth:`set_params`.
        """
        if y is None:
            raise InputError("the reserved clean set has no labels", where="y", hint="pass y")
        self.set_params(**parameters)
        estimator = self._own["classifier"]
        for defence in estimator.preprocessing_defences or []:  # what the classifier will see
            if defence.apply_predict:
                x, y = defence(x, y)
        clean = frame_of(estimator).image_set(x, y, int(estimator.nb_classes), "x")
        self._run(Case(clean=clean, model=classifier_of(estimator)), estimator.device)
        self._is_fitted = True

    def __call__(
        self, x: NDArray[Any] | None = None, transformed_classifier: Any = None, y: NDArray[Any] | None = None
    ) -> Any:
        """Return the repaired classifier.

        :param x, y: the reserved clean set; may be left out after :meth:`fit`.
        :param transformed_classifier: put the weights in here; default: a new estimator like the given one.
        """
        if x is not None:
            self.fit(x, y)
        if self.outcome is None or self.outcome.model is None:
            raise InputError("nothing to go by", where="x", found=None, hint="call fit(x_clean, y_clean) first")
        if transformed_classifier is None:
            return estimator_like(self._own["classifier"], self.outcome.model)
        if not fits(self.outcome.model, transformed_classifier):
            raise InputError(
                "this classifier cannot take the weights", where="transformed_classifier",
                allowed="the same module and preprocessing as the suspect classifier",
            )  # fmt: skip
        load_into(transformed_classifier, self.outcome.model)
        return transformed_classifier

    def _configure(self, own: dict[str, Any], given: dict[str, Any]) -> None:
        super()._configure(own, given)
        self.classifier, self._is_fitted = own["classifier"], False


class Trainer(Configured):
    """Train a classifier on a suspect set, as the defense says or on what it leaves of the set.

    A model the defense hands back goes into the classifier if its weights fit. Otherwise the classifier itself is
    trained, from fresh weights, on the samples the defense keeps, with the augmentation it asks for.

    :param classifier: the ``PyTorchClassifier`` to train, in place.
    :param x_clean, y_clean: the reserved clean set.
    :param trained: the classifier has been trained on the suspect set, and the defense may use it as suspect model.
    :param retrain: how to train, see :class:`elixir_plugin.evaluation.retraining.Retraining`.
    :param preset: of the defense's settings; every other parameter is one of these settings.
    :param any_model: go on with a classifier that does not fit the reserved clean labels.
    :param verbose: show progress: a bar on a terminal, elsewhere a line a minute.
    :ivar outcome: everything the defense said, once it has run.
    """

    own: ClassVar[tuple[str, ...]] = (*COMMON, "trained", "retrain")

    def __init__(
        self,
        classifier: Any,
        *,
        x_clean: NDArray[Any] | None = None,
        y_clean: NDArray[Any] | None = None,
        trained: bool = False,
        retrain: Mapping[str, Any] | None = None,
        preset: str | None = None,
        seed: int = 0,
        device: str | None = None,
        any_model: bool = False,
        verbose: bool = True,
        **settings: Any,
    ) -> None:
        super().__init__(classifier)  # type: ignore[call-arg]  # ART's base, see art.py
        self._classifier = classifier
        own = {
            "x_clean": x_clean,
            "y_clean": y_clean,
            "preset": preset,
            "seed": seed,
            "device": device,
            "any_model": any_model,
            "verbose": verbose,
        }
        self._configure({**own, "trained": trained, "retrain": retrain}, settings)

    @in_arts_words
    def fit(
        self,
        x: NDArray[Any],
        y: NDArray[Any],
        *,
        nb_epochs: int | None = None,
        batch_size: int | None = None,
        **parameters: Any,
    ) -> None:
        """Defend the suspect set ``(x, y)`` and train.

        :param nb_epochs, batch_size: of ``retrain``, under ART's names.
        :param parameters: as for :meth:`set_params`.
        """
        self.set_params(**parameters)
        plan = self._plan({"epochs": nb_epochs, "batch_size": batch_size})
        estimator = self._classifier
        case = self._case(x, y)
        outcome = self._run(case, estimator.device)
        if outcome.model is not None and fits(outcome.model, estimator):
            load_into(estimator, outcome.model)
        elif outcome.model is None or _leaves_samples(outcome, len(x)):
            self._retrain(case, outcome, plan)
        else:
            logging.getLogger(__name__).warning("the trained model is another network: get_classifier() is a new one")
            self._classifier = estimator_like(estimator, outcome.model)

    def _retrain(self, case: Case, outcome: Outcome, plan: Retraining) -> None:
        assert case.train is not None
        estimator = self._classifier
        context = self._context(estimator.device)
        with gradients():
            model = examined(classifier_of(estimator).to(context.device), case.train.read(slice(0, 2)))
            start = model.fresh(context.derive_seed("retrain", "weights"))
            load_into(estimator, retrain(case, outcome, plan, context, start=start))

    def _case(self, x: NDArray[Any], y: NDArray[Any]) -> Case:
        frame, classes = frame_of(self._classifier), int(self._classifier.nb_classes)
        clean: ImageSet | None = None
        if self._own["x_clean"] is not None:
            clean = frame.image_set(self._own["x_clean"], self._own["y_clean"], classes, "x_clean")
        model = classifier_of(self._classifier) if self._own["trained"] else None
        return Case(train=frame.image_set(x, y, classes, "x"), clean=clean, model=model)

    def _plan(self, given: Mapping[str, Any]) -> Retraining:
        values = {**(self._own["retrain"] or {}), **{name: value for name, value in given.items() if value is not None}}
        return Retraining.build(values, where="retrain")

    def _check_own(self, own: dict[str, Any]) -> None:
        super()._check_own(own)
        if own["retrain"] is not None and not isinstance(own["retrain"], Mapping):
            raise SettingsError("not a mapping", where="retrain", found=type(own["retrain"]).__name__)
        Retraining.build(own["retrain"] or {}, where="retrain")


def _leaves_samples(outcome: Outcome, n: int) -> bool:
    said = any(part is not None for part in (outcome.train, outcome.kept, outcome.flagged))
    return said and len(outcome.kept_rows(n)) > 0


def estimator_like(estimator: Any, model: Classifier) -> Any:
    """Return a new ``PyTorchClassifier`` around *model*, otherwise like *estimator*."""
    from art.estimators.classification import PyTorchClassifier  # noqa: PLC0415

    same = fits(model, estimator)
    frame = frame_of(estimator)
    module: nn.Module = own_module(model) if same else OneLogit(model) if has_one_logit(estimator) else model
    if not same and not frame.channels_first:
        module = Permuted(module, (0, 3, 1, 2))
    made = None if estimator.optimizer is None else type(estimator.optimizer)
    return PyTorchClassifier(
        model=module,
        loss=estimator.loss,
        input_shape=estimator.input_shape,
        nb_classes=estimator.nb_classes,
        optimizer=None if made is None else made(module.parameters(), **estimator.optimizer.defaults),
        channels_first=estimator.channels_first,
        clip_values=estimator.clip_values,
        preprocessing_defences=estimator.preprocessing_defences,
        postprocessing_defences=estimator.postprocessing_defences,
        preprocessing=estimator.preprocessing if same else (frame.low, frame.high - frame.low),
        device_type=estimator.device_type,
    )

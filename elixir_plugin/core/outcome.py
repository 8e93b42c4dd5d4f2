"""What a defense hands back, and how it is kept on disk: safetensors and JSON, never a pickle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, OutcomeError
from ..io.checked import Finite, Flag
from ..io.files import atomic_folder, write_json, write_tensors
from .augmentation import Augmentation
from .case import Case
from .classifier.classifier import Classifier
from .images import ImageSet, Index
from .outcome_files import SCHEMA, is_ascending, read_parts

if TYPE_CHECKING:
    from torch import Tensor


FOR_A_LOOK = "is for a look at how the defense works and is not meant to find anything"  # said of a preset


@dataclass(frozen=True)
class Verdict:
    """A defense's answer for the whole case.

    :param poisoned: True, False, or None for "this defense does not say".
    :param score: the statistic behind it.
    :param meaning: what the statistic is, and which values to expect on clean data.

    >>> Verdict(poisoned=True, score=4.2, meaning="−log10 p; clean data stay below 3").poisoned
    True
    """

    poisoned: Flag | None
    score: Finite | None = None
    meaning: str = ""


@dataclass(frozen=True)
class StepOutcome:
    """What one step of several has done; see ``Outcome.steps``.

    :param label: number and name of the step.
    :param kind: of defense.
    :param rows: positions ``[n]`` in the suspect set of the samples that the step was given.
    :param given: these samples as the step was given them, or None.
    :param outcome: what it made of them, by position among them.
    """

    label: str
    kind: str
    rows: Index
    given: ImageSet | None
    outcome: Outcome


@dataclass
class Outcome:
    """Result of a defense; each part may be absent. ``N`` is the size of the suspect set.

    :param scores: float64 ``[N]``, higher = more suspicious.
    :param flagged: bool ``[N]``.
    :param train: the sanitised suspect set, in the order of the suspect set; it still holds what is to be dropped.
        :meth:`sanitised` leaves that out.
    :param kept: ascending positions of the suspect samples to go on with; None where the defense names none: then
        those that are not flagged (:meth:`kept_rows`).
    :param augmentation: what belongs to training on ``train``, beside the usual crop and mirroring.
    :param static_augmentation: what was done to the images of ``train`` once, for good; controls do the same to theirs.
    :param noise_level: relative noise, in pixel scale, that purification added before it denoised; what a control
        without denoiser has to add.
    :param model: the repaired or newly trained model, in eval mode.
    :param undefended: a model trained on the suspect set as it is, where the defense made one on its way. Measured, not
        saved; ``evaluation.measure.execute`` says what for.
    :param steps: what each step did, where a defense has several. Measured one by one, not saved.
    :param verdict: the answer for the whole case.
    :param curves: named lists of numbers over steps, epochs or rounds.
    :param tables: further results in JSON types.
    :param timings: stage -> seconds.
    :param notes: what a reader must know.

    >>> outcome = Outcome(scores=np.array([0.1, 0.9]), flagged=np.array([False, True]))
    >>> outcome.summary()["flagged"]
    1
    """

    scores: NDArray[np.float64] | None = None
    flagged: NDArray[np.bool_] | None = None
    train: ImageSet | None = None
    kept: Index | None = None
    augmentation: Augmentation | None = None
    static_augmentation: Augmentation | None = None
    noise_level: float | None = None
    model: Classifier | None = None
    undefended: Classifier | None = None
    steps: list[StepOutcome] = field(default_factory=list)
    verdict: Verdict | None = None
    curves: dict[str, list[float]] = field(default_factory=dict)
    tables: dict[str, Any] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def check(self, case: Case) -> None:
        """Hold the outcome against *case*.

        :raises OutcomeError: when a shape, type or index rule is broken.
        """
        n = None if case.train is None else len(case.train)
        for name, kind in (("scores", "f"), ("flagged", "b")):
            value = getattr(self, name)
            if value is not None and (value.shape != (n,) or value.dtype.kind != kind):
                raise OutcomeError(f"{name} must be [{n}]", where=f"outcome.{name}", found=(value.dtype, value.shape))
        if self.scores is not None and not np.isfinite(self.scores).all():
            raise OutcomeError("scores must be finite", where="outcome.scores", allowed="finite numbers")
        if self.kept is not None:
            _check_kept(self.kept, n)
        if self.train is not None:
            _check_train(self.train, case.train)
        if self.model is not None and self.model.num_classes != case.num_classes:
            raise OutcomeError(
                "model has another number of classes", where="outcome.model", found=self.model.num_classes
            )
        parts: tuple[Any, ...] = (self.scores, self.flagged, self.train, self.kept, self.model, self.verdict)
        if all(part is None for part in parts):
            raise OutcomeError("the outcome is empty", allowed="at least one of scores, flagged, train, kept, model")

    def sanitised(self, suspect: ImageSet | None = None) -> ImageSet:
        """Return the set to train on: the samples to go on with, with the images and labels the defense gives them.

        :param suspect: the suspect set, for defenses that only say what to keep.
        :raises InputError: when the outcome holds no set and none is given, says nothing about the samples, or leaves
            none, or when *suspect* is of another length.

        >>> from elixir_plugin.testing import tiny_case
        >>> case = tiny_case()
        >>> flagged = np.arange(len(case.train)) < 10
        >>> len(case.train), len(Outcome(flagged=flagged).sanitised(case.train))
        (96, 86)
        """
        images = suspect if self.train is None else self.train
        if all(part is None for part in (self.train, self.kept, self.flagged)):
            raise InputError(
                "this outcome says nothing about the samples",
                where="outcome",
                found="no train, no kept, no flagged",
                allowed="the outcome of a defense that detects poison samples or purifies a set",
            )
        if images is None:
            raise InputError(
                "this outcome says which samples to keep, and holds no images",
                where="outcome.train",
                found="none",
                hint="pass the suspect set: outcome.sanitised(images)",
            )
        counts = {len(part) for part in (images, suspect, self.flagged) if part is not None}
        if len(counts) > 1:
            raise InputError(
                "not the set that the defense was given",
                where="sanitised",
                found=f"{len(images if suspect is None else suspect):,} samples",
                allowed=f"{len(images if self.flagged is None else self.flagged):,}, as the defense saw",
            )
        rows = self.kept_rows(len(images))
        if not len(rows):
            raise InputError("nothing is left", where="outcome.kept", found="no sample is kept")
        return images.subset(rows)

    def kept_rows(self, n: int) -> Index:
        """Return the positions of the samples to go on with, of *n*: those at ``kept``, else those not flagged."""
        if self.kept is not None:
            return self.kept
        return np.arange(n) if self.flagged is None else np.flatnonzero(~self.flagged)

    def save(self, folder: Path) -> None:
        """Write the outcome to *folder*, which appears only when it is complete."""
        arrays: dict[str, Tensor | NDArray[Any]] = {}
        for name in ("scores", "flagged", "kept"):
            if (value := getattr(self, name)) is not None:
                arrays[name] = value
        if self.train is not None:
            arrays |= {
                "images": self.train.read(slice(None)),
                "labels": self.train.labels,
                "ids": self.train.ids,
            }
        names = None if self.train is None else self.train.names
        with atomic_folder(folder) as part:
            write_tensors(part / "outcome.safetensors", arrays)
            if self.model is not None:
                self.model.save(part / "model")
            classes = None if self.train is None else self.train.classes
            parts = {"schema": SCHEMA, "names": names, "classes": classes, "arrays": sorted(arrays)}
            write_json(part / "outcome.json", {**self.summary(), **parts, "model": self.model is not None})

    @classmethod
    def load(cls, folder: Path, like: Classifier | None = None) -> Outcome:
        """Read an outcome back.

        :param like: the suspect model; a model whose architecture has no name is read into a copy of its module, and
            without one it is left out.
        :raises InputError: when a file is missing or damaged, or the parts do not fit each other. Whether they fit a
            case, :meth:`check` says.
        """
        parts = read_parts(folder, like)
        verdict = parts.pop("verdict")
        return cls(**parts, verdict=None if verdict is None else Verdict(**verdict))

    def summary(self) -> dict[str, Any]:
        """Return everything but the tensors, in JSON types."""
        return {
            "verdict": None if self.verdict is None else vars(self.verdict),
            "flagged": None if self.flagged is None else int(self.flagged.sum()),
            "num_classes": None if self.train is None else self.train.num_classes,
            "augmentation": None if self.augmentation is None else self.augmentation.dump(),
            "static_augmentation": None if self.static_augmentation is None else self.static_augmentation.dump(),
            "noise_level": self.noise_level,
            "curves": self.curves,
            "tables": self.tables,
            "timings": self.timings,
            "notes": self.notes,
        }


def same_outcome(first: Outcome, second: Outcome) -> list[str]:
    """Return the names of the parts in which two outcomes differ, bit by bit; timings do not count."""
    different = [
        name for name in ("scores", "flagged", "kept") if not _same_array(getattr(first, name), getattr(second, name))
    ]
    said = ("curves", "tables", "verdict", "augmentation", "static_augmentation", "noise_level")
    different += [name for name in said if not _same_json(first, second, name)]
    if (first.train is None) != (second.train is None) or (
        first.train is not None and second.train is not None and first.train.fingerprint() != second.train.fingerprint()
    ):
        different.append("train")
    if _weights(first).keys() != _weights(second).keys() or any(
        not _same_array(value, _weights(second)[name]) for name, value in _weights(first).items()
    ):
        different.append("model")
    return different


def _weights(outcome: Outcome) -> Mapping[str, NDArray[Any]]:
    if outcome.model is None:
        return {}
    return {name: value.detach().cpu().numpy() for name, value in outcome.model.module.state_dict().items()}


def _same_json(first: Outcome, second: Outcome, name: str) -> bool:
    return repr(getattr(first, name)) == repr(getattr(second, name))


def _same_array(first: NDArray[Any] | None, second: NDArray[Any] | None) -> bool:
    if first is None or second is None:
        return first is second
    return first.dtype == second.dtype and first.shape == second.shape and first.tobytes() == second.tobytes()


def _check_kept(kept: Index, n: int | None) -> None:
    if n is None or not is_ascending(kept, n):
        raise OutcomeError(
            "kept must be ascending unique int64 positions", where="outcome.kept", found=kept[:10], allowed=f"0..{n}"
        )


def _check_train(train: ImageSet, suspect: ImageSet | None) -> None:
    if suspect is None or len(train) != len(suspect) or not np.array_equal(train.ids, suspect.ids):
        raise OutcomeError(
            "the sanitised set must hold the same samples in the same order as the suspect set",
            where="outcome.train",
            found=f"{len(train)} samples",
            allowed=f"{0 if suspect is None else len(suspect)} samples, ids unchanged; drop samples through 'kept'",
        )
    if train.num_classes != suspect.num_classes:
        raise OutcomeError(
            "the sanitised set has another number of classes",
            where="outcome.train",
            found=train.num_classes,
            allowed=suspect.num_classes,
        )

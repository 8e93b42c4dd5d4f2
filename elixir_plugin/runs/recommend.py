"""Whether a denoiser is worth its cost on this set, and which cheaper setting does as well, from measured controls.

Nothing here is known to an evaluator alone: neither truth nor test data. The same small network is trained quickly on
what the defense leaves, on the suspect set as it is, and on what the free filters among the baselines make of it. Each
model is judged on the reserved clean images: all models on the same ones, so that differences are paired. Where the
defense flagged samples, a few of them are kept from all of these trainings: a model that still gives them the label
they came with has learned their trigger.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.augmentation import augmented_once
from ..core.case import Case
from ..core.context import Context
from ..core.draws import stratified_rows
from ..core.images import ImageSet, Index
from ..core.metrics import Recommendation, TriedSetting
from ..core.mirroring import settled
from ..core.outcome import Outcome
from ..core.panels import Panel, Table
from ..defense import Defense, get_defense
from ..errors import ElixirError, SettingsError, shown
from ..evaluation.retraining import Retraining, fresh_for, retrain
from ..io.distributed import refuse_ranks
from ..plugins import plugins
from ..training.timing import seconds_per_view

STAGE = "recommend"
FREE: Mapping[str, Mapping[str, Any]] = {"jpeg": {"quality": 10}, "grayscale": {}, "gaussian_noise": {"std": 0.05}}
NOTHING, WITHOUT = "nothing", "no denoiser"  # what is tried besides: the set as it is; and with B and C of ECLIPSE
MOST, EPOCHS = 10_000, 10  # suspects that a model is trained on, and how often it sees each
LEAST_CLEAN = 50  # reserved clean images, with fewer of which nothing can be told apart
LEAST_HELD, MOST_HELD = 20, 200  # flagged samples that are kept from the trainings; at most a quarter of them
ERRORS = 2.0  # standard errors from which on a difference counts


def refuse_unrecommendable(defense: Defense) -> None:
    """Raise for a defense that has no denoiser whose worth could be measured, before any work.

    :raises SettingsError: naming those that have one; also under several ranks.
    """
    if "denoiser" not in type(defense).Settings.model_fields:
        names = [name for name in plugins().defenses() if "denoiser" in get_defense(name).Settings.model_fields]
        raise SettingsError(
            "there is no denoiser whose worth could be measured",
            where="{argument:recommend}",
            found=defense.name,
            allowed=", ".join(names),
            hint="leave {argument:recommend} out",
        )
    refuse_ranks("controls are trained in one process", "{argument:recommend}")


def missing_for(case: Case) -> str | None:
    """Return what *case* lacks to judge models on, or None."""
    count = 0 if case.clean is None else len(case.clean)
    if case.train is None:
        return "there is no suspect set"
    if count >= LEAST_CLEAN:
        return None
    return f"models are judged on reserved clean images, and {count} of at least {LEAST_CLEAN} are there"


def recommend(defense: Defense, case: Case, outcome: Outcome, context: Context) -> Recommendation | None:
    """Return what is worth its cost; None, with a note, where that cannot be measured.

    :param case: what the defense has seen of it is used, and nothing else.
    :param outcome: what the defense made of it; its timings get the stage :data:`STAGE`.
    """
    lacking = missing_for(case)
    if lacking is None and outcome.train is None and outcome.model is None:
        lacking = "the defense returned neither a set nor a model"
    if lacking is not None:
        context.note(f"whether the denoiser is worth its cost was not measured: {lacking}")
        return None
    with context.stage(STAGE):
        try:
            trial = _Trial.of(defense, case.visible(), outcome, context)
            found = trial.judged()
        except ElixirError as error:  # what the defense has done is not lost to it
            context.note(
                f"whether the denoiser is worth its cost was not measured: {error.what} ({shown(error.found)})"
            )
            return None
    outcome.timings[STAGE] = context.timings[STAGE]
    return found


@dataclasses.dataclass(frozen=True)
class _Trial:
    """Trains the models, and judges them.

    :param rows: suspects to train on, ascending.
    :param held: flagged samples that no model here is trained on.
    """

    defense: Defense
    case: Case
    outcome: Outcome
    context: Context
    plan: Retraining
    rows: Index
    held: Index

    @classmethod
    def of(cls, defense: Defense, case: Case, outcome: Outcome, context: Context) -> _Trial:
        assert case.train is not None
        flagged = np.zeros(0, np.int64) if outcome.flagged is None else np.flatnonzero(outcome.flagged)
        generator = np.random.default_rng(context.derive_seed(STAGE, "held out"))
        count = min(MOST_HELD, len(flagged) // 4) if outcome.train is not None else 0
        held = np.sort(generator.permutation(flagged)[:count]) if count >= LEAST_HELD else flagged[:0]
        rest = np.setdiff1d(np.arange(len(case.train)), held)
        if len(rest) > MOST:
            rest = rest[stratified_rows(case.train.labels[rest], MOST, context.derive_seed(STAGE, "suspects"))]
        plan = settled(quick_plan(), case, context)
        return cls(defense, case, outcome, context, plan, np.sort(rest), held)

    def judged(self) -> Recommendation:
        """Train all models, and return what they say."""
        assert self.case.clean is not None
        answers = {name: self._answers(name, work) for name, work in self._settings()}
        first = next(iter(answers))
        own, own_held = answers[first]
        tried = [
            TriedSetting(
                name=name,
                acc=float(right.mean()),
                error=None if name == first else paired_error(own, right),
                given=float(given.mean()) if len(given) else None,
                given_error=None if name == first or not len(given) else paired_error(own_held, given),
            )
            for name, (right, given) in answers.items()
        ]
        removes = self.outcome.flagged is not None or self.defense.kind == "train"
        take, sentence = advice(tried, len(own), len(self.held), removes=removes)
        return Recommendation(tried, judged=len(own), held_out=len(self.held), take=take, sentence=sentence)

    def _settings(self) -> Iterator[tuple[str, Callable[[], Outcome | None]]]:
        """Yield a name and how to make what a model is to be trained on; None: the model of the outcome itself."""
        outcome, own = self.outcome, self.outcome.augmentation or self.outcome.static_augmentation
        yield self.defense.name, self._own
        if own is not None and outcome.train is not None:
            yield WITHOUT, self._unpurified
        yield NOTHING, lambda: Outcome(train=self._suspects)
        for name, values in FREE.items():
            yield name, lambda name=name, values=values: self._filtered(name, values)  # type: ignore[misc]

    @property
    def _suspects(self) -> ImageSet:
        assert self.case.train is not None
        return self.case.train.subset(self.rows)

    def _own(self) -> Outcome | None:
        outcome, count = self.outcome, 0 if self.case.train is None else len(self.case.train)
        if self.defense.kind == "train" or outcome.train is None:
            return None
        kept = np.intersect1d(self.rows, outcome.kept_rows(count))
        return Outcome(train=outcome.train.subset(kept), augmentation=outcome.augmentation)

    def _unpurified(self) -> Outcome:
        static = self.outcome.static_augmentation
        if static is None:
            return Outcome(train=self._suspects, augmentation=self.outcome.augmentation)
        return Outcome(train=augmented_once(self._suspects, static, self.context.generator(STAGE, WITHOUT)))

    def _filtered(self, name: str, values: Mapping[str, Any]) -> Outcome:
        case = Case(train=self._suspects, mirror=self.case.mirror)
        made = get_defense(name)(values).run(case, Context(seed=self.context.seed, device=self.context.device))
        return Outcome(train=made.train, augmentation=made.augmentation)

    def _answers(self, name: str, work: Callable[[], Outcome | None]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Return which reserved clean images a model gets right, and which held-out samples keep their label."""
        assert self.case.clean is not None and self.case.train is not None
        made = work()
        if made is None:
            assert self.outcome.model is not None
            model = self.outcome.model
        else:
            assert made.train is not None
            part = dataclasses.replace(self.case, train=made.train)
            model = retrain(part, made, self.plan, self.context, stage=f"{STAGE} {name}")
        right = model.predict(self.case.clean).argmax(1) == self.case.clean.labels
        if not len(self.held):
            return right, np.zeros(0, bool)
        apart = self.case.train.subset(self.held)
        return right, model.predict(apart).argmax(1) == apart.labels


def quick_plan() -> Retraining:
    """Return how the models are trained: a network and a recipe that learn small images in minutes on a CPU."""
    return Retraining.build({"epochs": EPOCHS}, preset="fast")


def paired_error(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Return the standard error of the difference of two shares, measured on the same samples.

    >>> round(paired_error(np.array([True] * 60 + [False] * 40), np.array([True] * 50 + [False] * 50)), 3)
    0.03
    """
    gaps = first.astype(float) - second
    return float(gaps.std() / math.sqrt(max(1, len(gaps))))


def advice(tried: list[TriedSetting], judged: int, held: int, *, removes: bool = True) -> tuple[str, str]:
    """Return what to take, and say so in words.

    Another setting does as well as the defense, the first of *tried*, where it is not worse on the clean images, and
    held-out samples do not keep their label more often; by two standard errors, in both. Of those that do, the best on
    the clean images is taken, or nothing at all where that is not worse.

    :param removes: whether the defense is to remove triggers, so that a reader must know if that was not measured.
    """
    own, others = tried[0], tried[1:]
    as_good = [each for each in others if not _behind(each, own)]
    shares = f"of {judged:,} reserved clean images"
    unknown = (
        "" if held or not removes else " Whether a trigger is removed was not measured: too few samples are flagged."
    )
    if not as_good:
        best = max(others, key=lambda each: (not _gives_away(each, own), each.acc))
        return own.name, (
            f"The denoiser is worth its cost here: a model trained on what {own.name} leaves gets {_percent(own.acc)} "
            f"{shares} right{_kept_by(own, held)}; without it {_percent(best.acc)} at best ({best.name}; standard "
            f"error of the difference {_percent(best.error)}){_kept_by(best, held)}.{unknown}"
        )
    best = max(as_good, key=lambda each: each.acc)
    plain = next((each for each in as_good if each.name == NOTHING), None)
    if plain is not None and best.acc - plain.acc <= ERRORS * max(best.error or 0, plain.error or 0):
        best = plain
    return best.name, (
        f"The denoiser is not worth its cost here, as far as {judged:,} reserved clean images tell: {_way(best)} does "
        f"as well: {_percent(best.acc)} right{_kept_by(best, held)}, against {_percent(own.acc)} with {own.name}"
        f"{_kept_by(own, held)} (standard error of the difference {_percent(best.error)}).{unknown}"
    )


def _behind(each: TriedSetting, own: TriedSetting) -> bool:
    return own.acc - each.acc > ERRORS * (each.error or 0) or _gives_away(each, own)


def _gives_away(each: TriedSetting, own: TriedSetting) -> bool:
    """Whether held-out samples keep their label more often than after the defense."""
    if each.given is None or own.given is None:
        return False
    return each.given - own.given > ERRORS * (each.given_error or 0)


def _kept_by(each: TriedSetting, held: int) -> str:
    if each.given is None:
        return ""
    return f" and {_percent(each.given)} of {held:,} flagged samples that no model saw keep their label"


def _way(each: TriedSetting) -> str:
    """Return what to do instead, with the command where there is one."""
    if each.name == NOTHING:
        return "to train on the set as it is"
    if each.name == WITHOUT:
        return "the same without the denoiser (purify=false)"
    values = ", ".join(f"{key}={value}" for key, value in FREE.get(each.name, {}).items())
    return f"the baseline {each.name}{f' ({values})' if values else ''}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def recommendation_panels(found: Recommendation) -> list[Panel]:
    """Return a table of what was tried."""
    return [
        Table(
            title="Is the denoiser worth its cost?",
            caption=f"One small network, trained quickly on each; ACC on {found.judged:,} reserved clean images, with "
            "the standard error of the difference from the first row, in points. Kept: flagged samples that no model "
            "was trained on, and that still get the label they came with.",
            header=["trained on what is left by", "ACC %", "±", "kept %"],
            rows=[
                [
                    f"{each.name} (taken)" if each.name == found.take else each.name,
                    round(100 * each.acc, 1),
                    None if each.error is None else round(100 * each.error, 1),
                    None if each.given is None else round(100 * each.given, 1),
                ]
                for each in found.tried
            ],
        )
    ]


def estimate_recommendation(defense: Defense, case: Case, context: Context) -> dict[str, Any]:
    """Return what measuring costs, from a few batches; see ``Defense.estimate``."""
    if (lacking := missing_for(case)) is not None:
        return {"not_measured": lacking}
    assert case.train is not None
    visible = case.visible()
    count = min(MOST, len(case.train))
    recipe = settled(quick_plan(), visible, context).for_size(count)
    model = fresh_for(case.train, visible, recipe, context)
    models = len(FREE) + 1 + (defense.kind != "train") + ("gray_p" in type(defense.settings).model_fields)
    seconds = models * recipe.epochs * count * seconds_per_view(model, case.train, recipe, context)
    return {"models": models, "images": count, "seconds": seconds}

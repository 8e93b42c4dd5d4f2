"""What a detecting defense would have found: known poison, planted into copies of the user's own suspect set.

"No evidence of poison" says little while nobody knows how much poison the defense can see at this size, on these
images, with this reserved clean set. So a known poison is planted, at several rates, into a random part of a copy of
the suspect set, and the same defense with the same settings runs on the copy. The lowest rate at which it finds most of
what was planted is its detection limit for that poison. Samples that it flags in the set as it came are left alone.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter, model_validator
from typing_extensions import Self

from ..core.case import Case, TriggeredSet, Truth
from ..core.context import Context, derive_seed
from ..core.images import ImageSet, Index
from ..core.metrics import DetectionPower, PlantedPoison
from ..core.outcome import Outcome
from ..core.panels import Panel, Table
from ..core.settings import Settings
from ..defense import Defense, get_defense
from ..errors import ElixirError, SettingsError, shown
from ..evaluation.kept import known
from ..io.distributed import refuse_ranks
from ..io.files import remove_folder, write_json
from ..plugins import plugins

STAGE = "spike"
MOST_FOUND = 0.8  # of the planted samples, at least, for the poison to count as found
_PLANTED = TypeAdapter(PlantedPoison)
Rate = Annotated[float, Field(gt=0, le=0.5)]


class _Attack(Protocol):
    """What is needed of a poison of the testbed, which runs do not import."""

    @property
    def kind(self) -> str: ...

    @property
    def learns(self) -> bool: ...

    def choose(self, train: ImageSet, seed: int) -> Index: ...

    def poison(self, train: ImageSet, seed: int = 0) -> tuple[ImageSet, Truth]: ...

    def triggered_test(self, test: ImageSet) -> TriggeredSet | None: ...


class Spike(Settings):
    """What is planted to see what a defense would have found.

    :param poisons: names of backdoor poisons of the testbed.
    :param rates: shares of the suspect set, ascending. Of ``n`` rates at most ``log2(n) + 1``, rounded down, are tried
        for each poison: whoever finds a poison at one rate is taken to find it at the higher ones.
    :param settings: of each poison, by its name.
    """

    poisons: tuple[str, ...] = Field(("badnets", "blended", "wanet"), min_length=1)
    rates: tuple[Rate, ...] = Field((0.005, 0.01, 0.02, 0.05), min_length=1)
    settings: dict[str, dict[str, Any]] = Field({})

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if list(self.rates) != sorted(set(self.rates)):
            raise ValueError("rates must ascend")
        if len(set(self.poisons)) < len(self.poisons):
            raise ValueError("a poison is named twice")
        if foreign := sorted(self.settings.keys() - set(self.poisons)):
            raise ValueError(f"settings of a poison that is not planted: {', '.join(foreign)}")
        return self

    def runs_at_most(self) -> int:
        """Return how many runs of the defense it takes at most."""
        return len(self.poisons) * (int(math.log2(len(self.rates))) + 1)


def refuse_unspikable(defense: Defense, case: Case, spike: Spike) -> None:
    """Raise for what cannot be planted in *case*, or found by *defense*, before any work.

    :raises SettingsError: for a defense that does not look for poison samples, a poison that is unknown, has no rate,
        or does not fit the suspect set, and under several ranks.
    """
    if defense.kind != "detect" or case.train is None:
        names = [name for name in plugins().defenses() if get_defense(name).kind == "detect"]
        raise SettingsError(
            "only a defense that looks for poison samples can miss planted ones",
            where="{argument:spike}",
            found=f"{defense.name} ({defense.kind})",
            allowed=", ".join(names),
            hint="leave {argument:spike} out",
        )
    refuse_ranks("planting works in one process", "{argument:spike}")
    for poison in spike.poisons:
        attack = _attack(spike, poison, round(spike.rates[-1] * len(case.train)), case.train)
        chosen = attack.choose(case.train, seed=0)
        if not attack.learns:
            attack.triggered_test(case.train.subset(chosen[:1]))


def measure_power(
    defense: Defense, case: Case, outcome: Outcome, context: Context, spike: Spike
) -> DetectionPower | None:
    """Return what *defense* would have found in the suspect set of *case*; None, with a note, when it cannot be told.

    Each run is kept in the work folder of *context* as soon as it has ended, so that a killed run goes on.

    :param outcome: what the defense made of the set as it came; its timings get the stage :data:`STAGE`.
    """
    assert case.train is not None
    if outcome.flagged is None:
        context.note("what would have been found was not measured: this defense flags no samples")
        return None
    trial = _Trial(defense, case, outcome.flagged, context, spike)
    planted: list[PlantedPoison] = []
    limits: dict[str, float | None] = {}
    with context.stage(STAGE):
        try:
            for poison in spike.poisons:
                tried = sorted(trial.search(poison), key=lambda each: each.rate)
                limits[poison] = min((each.rate for each in tried if each.found), default=None)
                planted += tried
        except ElixirError as error:  # what the defense has done is not lost to it
            context.note(f"what would have been found was not measured: {error.what} ({shown(error.found)})")
            return None
    outcome.timings[STAGE] = context.timings[STAGE]
    found = DetectionPower(planted, limits, len(case.train))
    return dataclasses.replace(found, sentence=sentence_of(found))


@dataclass(frozen=True)
class _Trial:
    """Runs a defense on copies of a case with known poison in them.

    :param before: ``[N]`` bool, the samples that the defense flags in the set as it came.
    """

    defense: Defense
    case: Case
    before: NDArray[np.bool_]
    context: Context
    spike: Spike

    def search(self, poison: str) -> Iterator[PlantedPoison]:
        """Yield what becomes of *poison* at one rate after the other: a bisection for the lowest that is found."""
        low, high = 0, len(self.spike.rates)
        while low < high:
            middle = (low + high) // 2
            result = self.tried(poison, self.spike.rates[middle])
            yield result
            low, high = (low, middle) if result.found else (middle + 1, high)

    def tried(self, poison: str, rate: float) -> PlantedPoison:
        """Return what is found of *poison* at *rate*, from the work folder when it is known."""
        context = self.context
        folder = None if context.work_dir is None else context.work_dir / STAGE / f"{poison}-{rate:g}"
        file = None if folder is None else folder.parent / f"{folder.name}.json"
        if file is not None and (earlier := known(file, _PLANTED, "not what became of a planted poison")) is not None:
            return earlier
        spiked, rows = plant(self.case, self.spike, poison, rate, where=~self.before, seed=context.seed)
        own = Context(
            seed=context.seed,
            device=context.device,
            work_dir=folder,
            quiet=context.quiet,
            any_model=context.any_model,
        )
        result = self.judged(self.defense.run(spiked, own), rows, poison, rate)
        if file is not None and folder is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_json(file, dataclasses.asdict(result))
            remove_folder(folder)
        return result

    def judged(self, outcome: Outcome, rows: Index, poison: str, rate: float) -> PlantedPoison:
        """Hold what was flagged against the planted *rows*."""
        flagged = np.zeros_like(self.before) if outcome.flagged is None else outcome.flagged
        is_planted = np.isin(np.arange(len(flagged)), rows)
        hits = int((flagged & is_planted).sum())
        others = int((flagged & ~is_planted & ~self.before).sum())
        poisoned = None if outcome.verdict is None else outcome.verdict.poisoned
        found = poisoned is not False and hits >= MOST_FOUND * len(rows) and hits >= others
        return PlantedPoison(poison, rate, len(rows), hits / len(rows), others, poisoned, found)


def plant(
    case: Case, spike: Spike, poison: str, rate: float, *, where: NDArray[np.bool_], seed: int
) -> tuple[Case, Index]:
    """Return *case* with *poison* in a copy of its suspect set, and the positions of the planted samples.

    The case has no truth and no test data: nothing of it is evaluated but what was planted.

    :param rate: share of all samples; at least one is planted.
    :param where: ``[N]`` bool, samples that may be changed.
    :param seed: decides which of them are.
    :raises SettingsError: when there are too few of them.
    """
    assert case.train is not None
    rows = np.flatnonzero(where)
    part = case.train.subset(rows)
    attack = _attack(spike, poison, round(rate * len(case.train)), part)
    changed, truth = attack.poison(part, derive_seed(seed, STAGE, poison))
    images, labels = case.train.read(slice(None)).copy(), case.train.labels.copy()
    positions = np.flatnonzero(truth.poison if truth.cover is None else truth.poison | truth.cover)
    images[rows[positions]], labels[rows[positions]] = changed.read(positions), changed.labels[positions]
    spiked = case.train.replace(images=images, labels=labels)
    copy = dataclasses.replace(case, train=spiked, truth=None, test=None, test_poisoned=None)
    return copy, rows[np.flatnonzero(truth.poison)]


def _attack(spike: Spike, name: str, count: int, part: ImageSet) -> _Attack:
    """Return the poison called *name* of the testbed, set to poison *count* samples of *part*.

    :raises SettingsError: when it is unknown, its settings are wrong, or it has no trigger.
    """
    settings = {**spike.settings.get(name, {}), "rate": min(1.0, max(1, count) / max(1, len(part)))}
    attack: _Attack = plugins().get("poison", name)(settings)
    if attack.kind == "indiscriminate":
        raise SettingsError(
            "this poison cannot be planted",
            where="spike: poisons",
            found=f"{name}, which has no trigger",
            allowed="backdoor poisons",
        )
    return attack


def sentence_of(found: DetectionPower) -> str:
    """Say in words what would have been found."""
    parts = [
        _about(name, limit, [each for each in found.planted if each.poison == name])
        for name, limit in found.limits.items()
    ]
    return f"Planted into copies of this set of {found.suspects:,} samples, {'; '.join(parts)}."


def _about(name: str, limit: float | None, tried: list[PlantedPoison]) -> str:
    at = {each.rate: each for each in tried}
    if limit is None:
        most = tried[-1]
        return f"{name} would not have been found, even at {_share(most.rate)} ({_rate_of(most)})"
    missed = [each for each in tried if each.rate < limit]
    end = f", but not at {_share(missed[-1].rate)} ({_rate_of(missed[-1])})" if missed else ", the lowest rate tried"
    return f"{name} would have been found at {_share(limit)} ({_rate_of(at[limit])}){end}"


def _rate_of(each: PlantedPoison) -> str:
    return f"TPR {100 * each.tpr:.0f} %, {each.others:,} others flagged"


def _share(rate: float) -> str:
    return f"{100 * rate:g} %"


def power_panels(found: DetectionPower) -> list[Panel]:
    """Return a table of what was planted, and what became of it."""
    words = {True: "poisoned", False: "no evidence", None: None}
    rows = [
        [
            each.poison,
            f"{100 * each.rate:g}",
            each.samples,
            round(100 * each.tpr, 1),
            each.others,
            words[each.poisoned],
            "yes" if each.found else "no",
        ]
        for each in found.planted
    ]
    return [
        Table(
            title="What would have been found",
            caption="Known poison in copies of this suspect set, the same defense on each; one draw of the samples. "
            f"Found: at least {100 * MOST_FOUND:.0f} % of the planted samples are flagged, at least as many as others "
            'that were not flagged before, and the verdict is not "no evidence".',
            header=["poison", "rate %", "samples", "TPR %", "others", "verdict", "found"],
            rows=rows,
        )
    ]


def estimate_power(spike: Spike, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what planting would cost, given what one run does; see ``Defense.estimate``."""
    runs = spike.runs_at_most()
    seconds = facts.get("seconds_total")
    return {"runs_at_most": runs} | ({"seconds_at_most": runs * float(seconds)} if seconds is not None else {})

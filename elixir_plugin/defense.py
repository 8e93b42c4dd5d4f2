"""Base of all defenses: a fixed ``run`` around the one method an author writes."""

from __future__ import annotations

import copy
import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, final

from torch import Tensor
from typing_extensions import Self

from .core import settings as config
from .core.agreement import measure_agreement
from .core.case import Case, refuse_scored_clean
from .core.classifier.intake import examined
from .core.classifier.modes import gradients
from .core.context import Context
from .core.draws import Uncovered, uncovered
from .core.images import Index
from .core.mirroring import decide, settled
from .core.outcome import FOR_A_LOOK, Outcome
from .core.panels import Panel
from .core.sealing import unsealed_set
from .errors import MissingNeedError
from .plugins import plugins

Kind = Literal["detect", "purify", "train", "repair"]

NEEDS = {  # what a defense may need -> how a user provides it
    "train": "the suspect set: use an adapter that reads training images",
    "clean": "a reserved clean set: {option:clean=DIR} (image_folder), or a toolkit's own clean data with "
    "{option:data=DIR}",
    "model": "the suspect model: use a record that holds one, or {option:model=DIR}",
    "denoiser": "a diffusion denoiser: name one in the settings, or give a reserved clean set to train one on",
    "generator": "a generator of image variations: name one in the settings, or give a reserved clean set to train the "
    "denoiser of sdedit on",
}


@dataclass(frozen=True)
class Card:
    """What a reader should know before choosing a defense; shown by ``elixir-plugin show``.

    >>> from elixir_plugin import get_defense
    >>> get_defense("d3").card.year
    2025
    """

    title: str
    paper: str
    year: int
    claims: str
    cost: str
    limits: str


class Defense(ABC):
    """One defense. Subclasses set the class attributes and write :meth:`defend`.

    :cvar trains_on_clean: True when what is learned from the reserved clean set shapes the scored result so directly
        that a clean set which overlaps the test set is refused.
    :cvar by_image: True for a purifier when what becomes of a sample does not depend on the other samples of the set: a
        pipeline that wants some samples purified then hands it these alone.

    Settings go to the constructor, data to :meth:`run`; an instance keeps no state between runs.

    :param settings: a settings object, a mapping, or None for the defaults.
    :param preset: name of a preset that lies below *settings*.
    :param values: single settings by keyword.

    >>> from elixir_plugin import get_defense
    >>> get_defense("d3")(preset="code", epochs=20).settings.lam
    0.5
    """

    name: ClassVar[str]
    kind: ClassVar[Kind]
    needs: ClassVar[frozenset[str]]
    card: ClassVar[Card]
    trains_on_clean: ClassVar[bool] = False
    by_image: ClassVar[bool] = False
    Settings: ClassVar[type[config.Settings]] = config.Settings
    settings: config.Settings

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "learns_clean" in cls.__dict__:  # the former name
            cls.trains_on_clean = cls.__dict__["learns_clean"]
        if "run" in cls.__dict__:
            raise TypeError(f"{cls.__name__} may not override run(): write defend()")

    def __init__(
        self, settings: config.Settings | Mapping[str, Any] | None = None, *, preset: str | None = None, **values: Any
    ) -> None:
        where = f"settings of {self.name}"
        self.settings = self.Settings.coerce(settings, values, preset=preset, where=where)
        self._look = preset if preset in self.Settings.for_a_look else self.settings.look()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.settings!r})"

    @final
    def run(self, case: Case, context: Context | None = None) -> Outcome:
        """Defend *case*.

        The defense sees neither truth nor test data, and no names and ids of samples: the outcome gets those of
        *case*. Missing needs are refused before any work starts, and the
        outcome is checked before it is returned. The first note says how far a suspect model agrees with the labels.

        :raises MissingNeedError: when the case lacks something in :attr:`needs`.
        :raises InputError: when the suspect model does not fit the labels, unless the context says ``any_model``.
        :raises OutcomeError: when :meth:`defend` breaks the rules for outcomes.
        """
        context = context or Context()
        with gradients():
            self.refuse(case)
            check_agreement(case, context)
            agreement, context.agreement = context.agreement, None
            visible = _with_examined_model(case.visible())
            started = context.counted_time()
            self._note_uncovered(visible, context)
            defense = self.settled(visible, context)
            outcome = defense.defend(visible, context)
            if defense is not self:
                outcome.tables = {**outcome.tables, "mirroring": decide(visible, context).facts()}
        _name_classes(outcome, visible)
        outcome.timings = {**context.timings, **outcome.timings, "total": context.counted_time() - started}
        told = [] if agreement is None else [agreement.sentence()]
        told += [*(() if visible.model is None else visible.model.notes), *context.notes]
        outcome.notes = list(dict.fromkeys([*told, *outcome.notes]))
        if (look := getattr(self, "_look", None)) is not None:
            _say_look(outcome, look)
        outcome.check(visible)
        if outcome.train is not None and visible.train is not None and case.train is not None:
            outcome.train = unsealed_set(outcome.train, visible.train, case.train)
        return outcome

    def refuse(self, case: Case) -> None:
        """Raise when *case*, as far as this defense may see it, cannot be defended; called before any work.

        :raises MissingNeedError: when something in :attr:`needs` is absent.
        :raises InputError: when the reserved clean set is also scored on (see :attr:`trains_on_clean`), or the suspect
            model cannot take the images or returns no logits for them.
        """
        visible = case.visible()
        self.refuse_missing(visible)
        visible = _with_examined_model(visible)
        if self.trains_on_clean:
            refuse_scored_clean(case)
        self.check(visible)

    def refuse_missing(self, case: Case) -> None:
        """Raise when *case* lacks something this defense needs."""
        held = {"train": case.train, "clean": case.clean, "model": case.model}
        for need in sorted(self.needs & held.keys()):
            part = held[need]
            if part is None or (need != "model" and len(part) == 0):  # type: ignore[arg-type]
                raise MissingNeedError(f"{self.name} needs {need!r}, which this case does not hold", hint=NEEDS[need])

    def check(self, case: Case) -> None:  # noqa: B027  (optional on purpose)
        """Refuse a case or a combination of settings before work starts. Optional."""

    def about_uncovered(self, case: Case, classes: Uncovered) -> str | None:
        """Return what it means for this defense that the reserved clean set holds too few samples of *classes*.

        One sentence or two, without a full stop at the end, which the note that names these classes ends with; None
        where it means nothing, and there is no note. Called only when *classes* are not empty. Optional.
        """
        return "What is learned from it does not hold for such classes" if "clean" in self.needs else None

    def _note_uncovered(self, case: Case, context: Context) -> None:
        classes = Uncovered() if case.clean is None else uncovered(case.clean, case.train)
        if case.clean is None or not len(case.clean) or not classes.labels:
            return
        meaning = self.about_uncovered(case, classes)
        if meaning is not None:
            context.note(f"the reserved clean set holds {classes.words(case.classes)}. {meaning}")

    def trains_augmented(self, case: Case) -> bool:
        """Whether a run on *case* trains with the augmentation in the settings. Optional.

        Where it does not, ``flip: auto`` is not decided.
        """
        return True

    def settled(self, case: Case, context: Context) -> Self:
        """Return this defense with ``flip: auto`` in its settings decided for *case*, see :mod:`.core.mirroring`.

        :meth:`run` does this before :meth:`defend`; an :meth:`estimate` that looks at augmentation does it itself. The
        very object comes back where nothing is open.
        """
        settings = settled(self.settings, case, context) if self.trains_augmented(case) else self.settings
        if settings is self.settings:
            return self
        ready = copy.copy(self)
        ready.settings = settings
        return ready

    @classmethod
    def possible_kinds(cls) -> frozenset[Kind]:
        """Return the kinds that instances may have; :attr:`kind` alone where settings do not decide it. Optional."""
        return frozenset({cls.kind})

    def aimed(self, targets: Sequence[int]) -> Self | None:
        """Return this defense with *targets* as the target classes of the attack; None: it cannot be told. Optional."""
        return None

    def narrowed(self, rows: Index) -> Self:
        """Return this defense so that it purifies the suspect samples at *rows* and no others. Optional.

        The very object where it cannot: then all are purified, and a pipeline leaves what was done to others. What it
        has no need to look at costs nothing where this is written; see also :attr:`by_image`.
        """
        return self

    def estimate(self, case: Case, context: Context) -> dict[str, Any]:
        """Return what a run would cost, in JSON types, without doing it; empty when this defense cannot say. Optional.

        Usual keys: ``nfe_per_image``, ``nfe_total`` (network evaluations of the denoiser), ``seconds`` per stage,
        ``seconds_total`` (measured here on a few batches), ``disk_bytes``, ``memory_bytes``.

        :raises ElixirError: for what :meth:`run` would refuse before any work.
        """
        self.refuse(case)
        return {}

    def panels(self, outcome: Outcome) -> Sequence[Panel]:
        """Return what the report should show of *outcome*, beside what it shows of every defense. Optional.

        Made from tables and curves alone: the outcome may have been read back from disk. See
        :mod:`elixir_plugin.core.panels`.
        """
        return ()

    def preview(self, case: Case, context: Context, count: int) -> list[Tensor]:
        """Return rows of a picture that shows, on *count* suspect images, what a run would do to them. Optional.

        Called before a run, in its work folder: what is made here (a denoiser) may be taken up there. Each row is float
        ``[n, C, H, W]`` in [0, 1], of one image size and length. Empty: nothing to show.

        :raises ElixirError: for what :meth:`run` would refuse before any work.
        """
        self.refuse(case)
        return []

    @abstractmethod
    def defend(self, case: Case, context: Context) -> Outcome:
        """Do the work.

        *case* is what :meth:`Case.visible` gives: no truth, no test data, no names of samples; ``ids`` count from 0.
        Parts of it must not be modified. Whatever the outcome says of samples, it says by their position.
        """


def check_agreement(case: Case, context: Context) -> None:
    """Refuse a suspect model that does not fit the labels; ``context.agreement`` says how far it does.

    :raises InputError: see :meth:`~elixir_plugin.core.agreement.Agreement.refuse`; not with ``context.any_model``.
    """
    if context.agreement is None:
        context.agreement = measure_agreement(_with_examined_model(case), context.device)
    if context.agreement is not None and not context.any_model:
        context.agreement.refuse()


def _with_examined_model(case: Case) -> Case:
    """Return *case* with its suspect model as it is to be used for its images; the given model stays as it is."""
    shown = next((each for each in (case.clean, case.train) if each is not None and len(each)), None)
    if case.model is None or shown is None:
        return case
    return dataclasses.replace(case, model=examined(case.model, shown.read(slice(0, 2))))


def _say_look(outcome: Outcome, preset: str) -> None:
    """Say that *outcome* was made for a look; "no evidence of poison" becomes no answer."""
    said = f"preset {preset} {FOR_A_LOOK}"
    outcome.notes.insert(0, f"{said}: that it finds, removes or gains nothing says nothing about the data")
    if (verdict := outcome.verdict) is not None:
        meaning = f"{verdict.meaning.rstrip('.')}. {said[0].upper()}{said[1:]}".removeprefix(". ")
        outcome.verdict = dataclasses.replace(verdict, poisoned=verdict.poisoned or None, meaning=meaning)


def _name_classes(outcome: Outcome, case: Case) -> None:
    """Let a model that was trained here carry the names of the classes it was trained on."""
    if outcome.model is not None and outcome.model.classes is None:
        outcome.model.classes = case.classes


def get_defense(name: str) -> type[Defense]:
    """Return a defense class by name.

    :raises SettingsError: for an unknown name, with the nearest known one.
    :raises PluginError: when it cannot be imported.

    >>> defense = get_defense("d3")(epochs=20)
    >>> defense.kind, sorted(defense.needs), defense.settings.epochs
    ('repair', ['clean', 'model'], 20)
    """
    cls: type[Defense] = plugins().get("defense", name)
    return cls

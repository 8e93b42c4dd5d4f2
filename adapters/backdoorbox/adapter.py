"""BackdoorBox: its dataset objects read, and every defense as a class with its method names and schedules.

.. code-block:: python

    from elixir_plugin.adapters.backdoorbox import D3, ConfusionTraining

    d3 = D3(train_dataset=benign_part, test_dataset=testset, model=model, epochs=20)
    d3.repair(schedule)
    d3.test(poisoned_testset, {**schedule, "metric": "ASR_NoTarget", "y_target": 1})
    module = d3.get_model()

    poison_ids, benign_ids = ConfusionTraining(poisoned_trainset=train, clean_trainset=benign_part).filter(schedule)

========= ====================================================================== ======================
kind      methods                                                                as BackdoorBox's own
========= ====================================================================== ======================
repair    ``repair, test, get_model``                                            ``FineTuning``, ``NAD``
detect    ``filter, detect, test, get_filtered_poisoned_dataset``                ``Spectral``, ``FLARE``
purify,   ``train, get_filtered_poisoned_dataset, get_model, test``              ``ABL``
train
========= ====================================================================== ======================

BackdoorBox is never imported; :func:`install` puts the classes into a ``core`` that you imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from ...api.convert import least_classes
from ...core.case import Case, Origin, TriggeredSet
from ...core.images import ImageSet
from ...core.scale import scale_notes
from ...defense import Defense, get_defense
from ...errors import PluginError, SettingsError, nearest
from ...plugins import plugins
from .behaviour import Behaviour
from .data import classes_of, host_classifier, may_mirror, original_labels, refuse_other_inputs, truth_of
from .defenses import Filter, Repair, Suppress
from .plain import read_plain

KINDS: dict[str, type[Behaviour]] = {"repair": Repair, "detect": Filter, "purify": Suppress, "train": Suppress}


def read_case(
    train: Any = None,
    *,
    test: Any = None,
    test_poisoned: Any = None,
    clean: Any = None,
    model: Any = None,
    color: str | None = None,
    num_classes: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    seed: int = 0,
) -> Case:
    """Return a case made of BackdoorBox's datasets, e.g. those of ``attack.get_poisoned_dataset()``.

    :param train: the poisoned training set; what it says of its poison goes into the truth.
    :param test, test_poisoned: clean and poisoned test set.
    :param clean: a benign dataset, the reserved clean set.
    :param model: the suspect network.
    :param color: ``"rgb"`` or ``"bgr"``, where the datasets' loader does not say. Images are turned to RGB, and the
        network gets its own order back.
    :param mean, std: default: of a ``Normalize`` in the datasets' transform.
    :param seed: for triggers that are drawn anew at every access.
    :raises InputError: for datasets that cannot be read.
    """
    given = {"train": train, "test": test, "test_poisoned": test_poisoned, "clean": clean}
    given = {name: dataset for name, dataset in given.items() if dataset is not None}
    raw = {name: read_plain(each, color=color, seed=seed, where=name) for name, each in given.items()}
    classes = num_classes or least_classes(raw.values(), max(map(classes_of, given.values()), default=0))
    sets: dict[str, ImageSet] = {name: each.image_set(classes, name) for name, each in raw.items()}
    classifier = None
    if model is not None:
        shown, dataset = next(iter(sets.values())), next(iter(given.values()))
        stats = None if mean is None or std is None else (mean, std)
        refuse_other_inputs(given, color, stats)
        classifier = host_classifier(model, dataset, shown, color=color, stats=stats)
    triggered = None
    if test_poisoned is not None:
        triggered = TriggeredSet(sets["test_poisoned"], original_labels(test_poisoned))
    return Case(
        train=sets.get("train"),
        clean=sets.get("clean"),
        model=classifier,
        test=sets.get("test"),
        test_poisoned=triggered,
        truth=None if train is None else truth_of(train, sets["train"].labels),
        origin=Origin("backdoorbox", "", {"dataset": type(train).__name__}),
        notes=(*(note for each in raw.values() for note in each.notes), *scale_notes(sets)),
        mirror=next((known for each in given.values() if (known := may_mirror(each)) is not None), None),
    )


def install(core: Any, *, baselines: bool = False) -> list[str]:
    """Put every class into BackdoorBox's ``core`` and ``core.defenses``, so that ``core.D3(…)`` works.

    :param core: the package, imported by you.
    :param baselines: the classes of the baselines too.
    :return: the names of the classes. Calling it again changes nothing.
    :raises SettingsError: when a name is taken by somebody else; nothing is then changed.
    """
    classes = {name: backdoorbox_class(defense) for name, defense in _class_names(baselines=baselines).items()}
    places = [place for place in (core, getattr(core, "defenses", None)) if place is not None]
    for place in places:
        for name in classes:
            held = getattr(place, name, None)
            if held is not None and not (isinstance(held, type) and issubclass(held, Behaviour)):
                raise SettingsError("name is taken", where=getattr(place, "__name__", "core"), found=name)
    for place in places:
        for name, cls in classes.items():
            setattr(place, name, cls)
    return sorted(classes)


def backdoorbox_class(name: str) -> Any:
    """Return the class that is the defense *name* for BackdoorBox."""
    return _made(get_defense(name))


@cache
def _made(cls: type[Defense]) -> Any:
    behaviour = KINDS[cls.kind]
    doc = f"{cls.card.title} for BackdoorBox: {cls.card.claims}.\n\n{behaviour.__doc__}"
    return type(cls.__name__, (behaviour,), {"__module__": __package__, "__doc__": doc, "defense": cls})


def _class_names(*, baselines: bool = False) -> dict[str, str]:
    """Return class name -> defense, for all that can be imported, baselines last; the first of two keeps a name."""
    found: dict[str, str] = {}
    for name in [*sorted(plugins().defenses()), *(sorted(plugins().baselines()) if baselines else ())]:
        try:
            found.setdefault(get_defense(name).__name__, name)
        except PluginError:
            continue
    return found


def __getattr__(name: str) -> Any:
    known = {} if name.startswith("_") else _class_names(baselines=True)
    if name not in known:
        hint = nearest(name, known)
        raise AttributeError(f"module {__package__!r} has no attribute {name!r}" + (f"; {hint}" if hint else ""))
    return backdoorbox_class(known[name])


def __dir__() -> list[str]:
    return sorted({*globals(), *_class_names()})

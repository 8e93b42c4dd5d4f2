"""Three verbs for a host that has data and models in memory: ``detect``, ``purify``, ``repair``.

.. code-block:: python

    suspects = elixir_plugin.detect(train_set, clean=verified_set, preset="small").flagged
    benign = elixir_plugin.purify(train_set, clean=verified_set, defense="eclipse").sanitised()
    module = elixir_plugin.repair(module, verified_set, mean=MEAN, std=STD, epochs=20).model.module

Data are torch datasets, loaders, iterables, pairs of arrays or image sets
(:func:`~elixir_plugin.api.convert.to_raw`), models are plain modules. Whatever else is given is a setting of the
defense.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..core.case import Case
from ..core.classifier.classifier import Classifier
from ..core.classifier.normalisation import PerChannel, per_channel
from ..core.context import Context, resolve_device
from ..core.images import ImageSet
from ..core.outcome import Outcome
from ..core.scale import scale_notes
from ..defense import Defense, get_defense
from ..errors import InputError, SettingsError
from ..plugins import listed, plugins
from .arrays import Layout, Normalisation
from .convert import least_classes, to_raw
from .items import Key
from .models import as_classifier


def detect(data: Any, *, defense: str = "confusion_training", **options: Any) -> Outcome:
    """Find the poison samples of *data*: ``.flagged``, ``.scores`` and ``.verdict``, by position.

    :param data: the suspect set.
    :param defense: the name of a detector.
    :param options: of :func:`defend`; ``clean=``, a reserved clean set, is usual.

    >>> from elixir_plugin.testing import tiny_case
    >>> case = tiny_case()
    >>> few = {"ratios": (0.5,), "suspect_size": None, "reserved_size": None, "pretrain_epochs": (1,)}
    >>> few |= {"confusion_steps": (4,), "confusion_batch": 16, "confusion_lr": (0.01,), "lam": (10,)}
    >>> outcome = detect(case.train, clean=case.clean, architecture="small_resnet", reference="labels", **few)
    >>> outcome.flagged.shape == (len(case.train),)
    True
    """
    return defend(_of_kind("detect", defense), train=data, **options)


def purify(data: Any, *, defense: str = "dataelixir", **options: Any) -> Outcome:
    """Take the poison out of *data*: ``.sanitised()`` is the set to go on with, without the samples to drop.

    ``elixir_plugin.TensorImages(outcome.sanitised())`` is a torch dataset again. ``.train`` holds all samples in the
    order of *data*.

    :param data: the suspect set.
    :param defense: the name of a purifier.
    :param options: of :func:`defend`.

    >>> from elixir_plugin.testing import tiny_case
    >>> case = tiny_case()
    >>> outcome = purify(case.train, clean=case.clean, defense="eclipse", purify=False)  # grayscale and noise alone
    >>> len(outcome.sanitised()) == len(case.train)
    True
    """
    return defend(_of_kind("purify", defense), train=data, **options)


def repair(model: Any, clean: Any, *, defense: str = "d3", **options: Any) -> Outcome:
    """Take the backdoor out of *model*: ``.model.module`` is the repaired copy; the given one stays as it is.

    :param model: a module, or a :class:`~elixir_plugin.Classifier`.
    :param clean: the reserved clean set.
    :param defense: the name of a defense that repairs models.
    :param options: of :func:`defend`; ``mean=`` and ``std=``, what the host normalises with, are usual.

    >>> from elixir_plugin.testing import tiny_case
    >>> case = tiny_case()
    >>> repaired = repair(case.model, case.clean, epochs=1).model
    >>> repaired.num_classes == case.num_classes
    True
    """
    return defend(_of_kind("repair", defense), clean=clean, model=model, **options)


def defend(
    defense: str | type[Defense],
    *,
    train: Any = None,
    clean: Any = None,
    model: Any = None,
    num_classes: int | None = None,
    layout: Layout = "auto",
    mean: PerChannel | None = None,
    std: PerChannel | None = None,
    normalised: bool = False,
    image_key: Key = None,
    label_key: Key = None,
    seed: int = 0,
    device: str | torch.device = "auto",
    work_dir: str | Path | None = None,
    quiet: bool = True,
    any_model: bool = False,
    preset: str | None = None,
    settings: Mapping[str, Any] | None = None,
    **values: Any,
) -> Outcome:
    """Run any defense on what a host has in memory.

    :param train, clean: suspect set and reserved clean set.
    :param model: suspect model.
    :param num_classes: default: what the model says, else what the labels show.
    :param layout: of arrays, where it is unclear.
    :param mean, std: normalisation in front of *model*: one number, or one per channel, in any form.
    :param normalised: the images have gone through *mean* and *std* too; it is undone.
    :param image_key, label_key: where image and label are: names in dict items, or positions in tuples.
    :param work_dir: keep intermediate files there, so that a killed run goes on.
    :param any_model: go on with a model that does not fit the labels of the clean set.
    :param settings: settings of the defense; single ones may also be given by keyword.
    :raises ElixirError: for settings and data that cannot be used, before any work starts.
    """
    cls = get_defense(defense) if isinstance(defense, str) else defense
    chosen = cls({**(settings or {}), **values}, preset=preset)
    chosen_device = resolve_device(str(device))
    case = make_case(
        train=train, clean=clean, model=model, num_classes=num_classes, layout=layout, mean=mean, std=std,
        normalised=normalised, image_key=image_key, label_key=label_key, seed=seed,
    )  # fmt: skip
    folder = None if work_dir is None else Path(work_dir)
    context = Context(seed=seed, device=chosen_device, work_dir=folder, quiet=quiet, any_model=any_model)
    outcome = chosen.run(case, context)
    outcome.notes = [*outcome.notes, *(note for note in case.notes if note not in outcome.notes)]
    if outcome.model is not None:
        outcome.model.to(torch.device("cpu") if case.model is None else case.model.device)
    return outcome


def make_case(
    *,
    train: Any = None,
    clean: Any = None,
    model: Any = None,
    num_classes: int | None = None,
    layout: Layout = "auto",
    mean: PerChannel | None = None,
    std: PerChannel | None = None,
    normalised: bool = False,
    image_key: Key = None,
    label_key: Key = None,
    seed: int = 0,
) -> Case:
    """Return a case made of what a host has in memory; see :func:`defend` for the parameters."""
    if (mean is None) != (std is None) or (normalised and mean is None):
        raise InputError("mean and std belong together", where="mean, std", found=f"{mean}, {std}")
    undone = None
    if normalised and mean is not None and std is not None:
        undone = Normalisation(per_channel(mean, where="mean"), per_channel(std, where="std"))
    given = {"train": train, "clean": clean}
    raw = {
        name: to_raw(
            data, layout=layout, normalised=undone, image_key=image_key, label_key=label_key, seed=seed, where=name
        )
        for name, data in given.items()
        if data is not None and not isinstance(data, ImageSet)
    }
    sets: dict[str, ImageSet] = {name: data for name, data in given.items() if isinstance(data, ImageSet)}
    known = [data.num_classes for data in (*given.values(), model) if isinstance(data, ImageSet | Classifier)]
    classes = num_classes or (known[0] if known else None)
    classifier = None
    if model is not None:
        shown = next((each.images[:2] for each in raw.values()), None)
        if shown is None:
            shown = next((each.read(slice(0, 2)) for each in sets.values()), None)
        classifier = as_classifier(model, images=shown, num_classes=classes, mean=mean, std=std)
        classes = classifier.num_classes
    classes = classes or least_classes(raw.values())
    sets |= {name: each.image_set(classes, name) for name, each in raw.items()}
    notes = (*(note for each in raw.values() for note in each.notes), *scale_notes(sets))
    return Case(train=sets.get("train"), clean=sets.get("clean"), model=classifier, notes=notes)


def _of_kind(kind: str, name: str) -> type[Defense]:
    """Return a defense by name, after making sure that it does what the verb says."""
    cls = get_defense(name)
    if kind not in cls.possible_kinds():
        offers = plugins().offers()["defense"].items()
        raise SettingsError(
            f"this defense does not {kind}",
            where="defense",
            found=f"{name} ({cls.kind})",
            allowed=listed({each: offer for each, offer in offers if offer.entry.kind == kind}),
            hint="elixir_plugin.api.functions.defend() takes a defense of any kind",
        )
    return cls

"""The testbed as a source of cases: ``--from testbed:badnets`` is embedded digits, or any set, under that poison."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from pydantic import Field, model_validator
from typing_extensions import Self

from ..adapter import Adapter
from ..core.case import Case, Origin
from ..core.classifier.classifier import Classifier
from ..core.context import Context
from ..core.mirroring import settled
from ..core.pixels import normalisation
from ..core.settings import Settings
from ..errors import InputError
from ..plugins import plugins
from ..training.batches import Samples, ShuffledBatches
from ..training.fit import untrained
from ..training.loop import FAST, Recipe, Schedule, train
from .base import Poison
from .digits import Splits, digits
from .keeping import kept_model
from .sources import Base, read_base

DIGITS = "the reserved clean set was set aside before poisoning and shares no sample with the suspect set"


class SuspectRecipe(Recipe):
    """How the suspect model of a testbed case is trained; the defaults fit the digits."""

    epochs: int = Field(30, ge=1)
    batch_size: int = Field(64, ge=2)
    lr: float = Field(0.05, gt=0)
    schedule: Schedule = "cosine"


ON_A_BASE: dict[str, Any] = {  # instead of what fits the digits
    "clean": None,
    "test": None,
    "architecture": "fast_convnet",
    "recipe": {**FAST, "augmentation": {"crop": 2, "flip": "auto"}},
}


class TestbedOptions(Settings):
    """What to make; the path of the source is the name of the poison."""

    __test__ = False  # not a test class, whatever pytest thinks of its name
    added: ClassVar[Mapping[str, Any]] = MappingProxyType({"base": None, "base_options": {}})

    poison: dict[str, Any] = Field({}, description="settings of the poison, e.g. rate; see 'show POISON'")
    base: str | None = Field(None, description="ADAPTER:PATH of an unpoisoned set to poison; default: embedded digits")
    base_options: dict[str, Any] = Field({}, description="options of that adapter")
    size: int = Field(16, ge=8, le=224, multiple_of=8, description="edge length of the digits in pixels")
    clean: int | None = Field(
        150, ge=0, description="images of the reserved clean set; with a base, default: its own, else 5 %"
    )
    test: int | None = Field(
        497,
        ge=0,
        description="images of the test set; with a base, default: its own, else 20 %; what is left is the suspect set",
    )
    model: bool = Field(True, description="train a suspect model, on the CPU")
    architecture: str = Field("small_resnet", description="of the suspect model; with a base, default: fast_convnet")
    recipe: SuspectRecipe = Field(SuspectRecipe(), description="how it is trained; with a base, default: preset fast")

    @classmethod
    def build(
        cls, values: Mapping[str, Any] | None = None, *, preset: str | None = None, where: str = "settings"
    ) -> Self:
        given = dict(values or {})
        if isinstance(given.get("base"), str):
            adapter, colon, path = given["base"].partition(":")
            if colon and path and adapter != Testbed.name:  # the same set, from whatever folder a run goes on
                given["base"] = f"{adapter}:{Path(path).expanduser().absolute()}"
            given = cls.overlaid(ON_A_BASE, given)
        return super().build(given, preset=preset, where=where)

    @model_validator(mode="after")
    def _numbers_for_digits(self) -> Self:
        if self.base is None and (self.clean is None or self.test is None):
            raise ValueError("clean and test must be numbers where no base is given")
        return self


class Testbed(Adapter):
    """A poisoned case made on the spot; nothing is read and nothing is downloaded.

    >>> case = Testbed({"poison": {"rate": 0.05}, "size": 8, "model": False}).read(Path("badnets"))
    >>> len(case.train), int(case.truth.poison.sum()), case.model
    (1150, 58, None)
    """

    __test__ = False
    name = "testbed"
    reads_disk = False
    Options = TestbedOptions
    options: TestbedOptions

    def read(self, path: Path, seed: int = 0) -> Case:
        """Make the case of the poison called *path*.

        :param seed: decides split, poisoned samples, and the suspect model.
        :raises SettingsError: for an unknown poison, or settings that do not fit the data.
        """
        poison: Poison = plugins().get("poison", str(path))(self.options.poison)
        poison.context = Context(cache=self.cache)
        case = self.poisoned(poison, self.base(seed), seed)
        case = dataclasses.replace(case, origin=dataclasses.replace(case.origin, path=str(path)))
        return dataclasses.replace(case, model=self._model(case, Context(seed=seed))) if self.options.model else case

    def base(self, seed: int) -> Base:
        """Return what is to be poisoned; *seed* decides the split."""
        options = self.options
        if options.base is not None:
            return read_base(options.base, options.base_options, seed, clean=options.clean, test=options.test)
        assert options.clean is not None
        assert options.test is not None
        return Base(digits(size=options.size, seed=seed, clean=options.clean, test=options.test), False, (DIGITS,))

    def poisoned(self, poison: Poison, base: Base, seed: int) -> Case:
        """Return *base* under *poison*, without a model; *seed* decides which samples."""
        return dataclasses.replace(poisoned_case(poison, base.splits, seed, notes=base.notes), mirror=base.mirror)

    def suspect_model(self, case: Case, context: Context) -> Classifier:
        """Return the model that these options train on the suspect set of *case*."""
        options = self.options
        normalised = options.base is not None
        return train_suspect(case, options.recipe, context, options.architecture, normalised=normalised)

    def _model(self, case: Case, context: Context) -> Classifier:
        """Return the suspect model, from the cache when it is there."""
        assert case.train is not None
        facts = [case.train.fingerprint(), context.seed, self.options.architecture, self.options.recipe.dump()]
        return kept_model(self.cache, "suspect", facts, lambda: self.suspect_model(case, context))


def poisoned_case(poison: Poison, splits: Splits, seed: int = 0, notes: tuple[str, ...] = (DIGITS,)) -> Case:
    """Return a case whose suspect set is ``splits.train`` under *poison*; it holds no model.

    :param seed: decides which samples are poisoned.
    :param notes: on the data, for readers of the report.
    :raises SettingsError: when the poison does not fit the data.
    """
    poison = poison.fitted(splits.train)
    train, truth = poison.poison(splits.train, seed)
    settings = poison.settings.dump()
    count = int(truth.poison.sum())
    return Case(
        train=train,
        clean=splits.clean if len(splits.clean) else None,
        test=splits.test,
        test_poisoned=poison.triggered_test(splits.test),
        truth=truth,
        origin=Origin("testbed", poison.name, {"poison": poison.name, "settings": settings, "seed": seed}),
        notes=(
            f"built-in testbed: {count} of {len(train)} training samples poisoned with {poison.name}",
            *notes,
        ),
    )


def train_suspect(
    case: Case,
    recipe: SuspectRecipe,
    context: Context,
    architecture: str = "small_resnet",
    *,
    normalised: bool = False,
) -> Classifier:
    """Return a classifier trained on the suspect set of *case*, as a person without suspicion would.

    Its tensors lie in memory as those of a loaded model do, so that whoever goes on with it computes the same bits
    whether the model was just trained or read from disk.

    :param normalised: by mean and standard deviation of the suspect set; else pixels stay in [0, 1].
    :raises InputError: when the case holds no suspect set.
    """
    if case.train is None:
        raise InputError("nothing to train on", where="case.train", allowed="a suspect set")
    recipe = settled(recipe, case, context).for_size(len(case.train))
    seed = context.derive_seed("demo", "model")
    mean, std = normalisation(case.train) if normalised else ([0.0], [1.0])
    make = partial(untrained, case.train, architecture, seed, mean=mean, std=std)
    model = make(context.device)
    samples = Samples(case.train, context.device)
    source = ShuffledBatches(samples, recipe.batch_size, context, recipe.augmentation, "suspect")
    with context.stage("train suspect model"):
        train(model, source, recipe, context, name="suspect")
    plain = make(torch.device("cpu"))
    plain.load_state_dict(model.state_dict())
    return plain.to(context.device).eval()

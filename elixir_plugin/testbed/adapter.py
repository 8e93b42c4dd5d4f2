"""The testbed as a source of cases: ``--from testbed:badnets`` is embedded digits under that poison."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from pydantic import Field

from ..adapter import Adapter
from ..core.case import Case, Origin
from ..core.classifier.classifier import Classifier
from ..core.context import Context
from ..core.settings import Settings, fingerprint
from ..errors import InputError
from ..io.files import atomic_folder
from ..plugins import plugins
from ..training.batches import Samples, ShuffledBatches
from ..training.loop import Recipe, Schedule, train
from .base import Poison
from .digits import Splits, digits


class SuspectRecipe(Recipe):
    """How the suspect model of a testbed case is trained; the defaults fit the digits."""

    epochs: int = Field(30, ge=1)
    batch_size: int = Field(64, ge=2)
    lr: float = Field(0.05, gt=0)
    schedule: Schedule = "cosine"


class TestbedOptions(Settings):
    """What to make; the path of the source is the name of the poison."""

    __test__ = False  # not a test class, whatever pytest thinks of its name

    poison: dict[str, Any] = Field({}, description="settings of the poison, e.g. rate; see 'show POISON'")
    size: int = Field(16, ge=8, le=64, multiple_of=8, description="edge length of the digits in pixels")
    clean: int = Field(150, ge=0, description="images of the reserved clean set")
    test: int = Field(497, ge=0, description="images of the test set; what is left is the suspect set")
    model: bool = Field(True, description="train a suspect model, on the CPU")
    architecture: str = Field("small_resnet", description="of the suspect model")
    recipe: SuspectRecipe = SuspectRecipe()


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
        options = self.options
        poison: Poison = plugins().get("poison", str(path))(options.poison)
        splits = digits(size=options.size, seed=seed, clean=options.clean, test=options.test)
        case = poisoned_case(poison, splits, seed)
        case = dataclasses.replace(case, origin=dataclasses.replace(case.origin, path=str(path)), mirror=False)
        return dataclasses.replace(case, model=self._model(case, seed)) if options.model else case

    def _model(self, case: Case, seed: int) -> Classifier:
        """Return the suspect model, from the cache when it is there."""
        assert case.train is not None
        context = Context(seed=seed)
        if self.cache is None:
            return train_suspect(case, self.options.recipe, context, self.options.architecture)
        facts = [case.train.fingerprint(), seed, self.options.architecture, self.options.recipe.dump()]
        folder = self.cache / f"suspect-{fingerprint(facts)}"
        if not folder.is_dir():
            model = train_suspect(case, self.options.recipe, context, self.options.architecture)
            with atomic_folder(folder) as part:
                model.save(part)
        return Classifier.load(folder)


def poisoned_case(poison: Poison, splits: Splits, seed: int = 0) -> Case:
    """Return a case whose suspect set is ``splits.train`` under *poison*; it holds no model.

    :param seed: decides which samples are poisoned.
    :raises SettingsError: when the poison does not fit the data.
    """
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
            "the reserved clean set was set aside before poisoning and shares no sample with the suspect set",
        ),
    )


def train_suspect(
    case: Case, recipe: SuspectRecipe, context: Context, architecture: str = "small_resnet"
) -> Classifier:
    """Return a classifier trained on the suspect set of *case*, as a person without suspicion would.

    Its tensors lie in memory as those of a loaded model do, so that whoever goes on with it computes the same bits
    whether the model was just trained or read from disk.

    :raises InputError: when the case holds no suspect set.
    """
    if case.train is None:
        raise InputError("nothing to train on", where="case.train", allowed="a suspect set")
    seed = context.derive_seed("demo", "model")
    channels = case.train.image_shape[2]
    model = Classifier.build(architecture, case.num_classes, channels=channels, seed=seed).to(context.device)
    samples = Samples(case.train, context.device)
    source = ShuffledBatches(samples, recipe.batch_size, context, recipe.augmentation, "suspect")
    with context.stage("train suspect model"):
        train(model, source, recipe, context, name="suspect")
    plain = Classifier.build(architecture, case.num_classes, channels=channels, seed=seed)
    plain.load_state_dict(model.state_dict())
    return plain.to(context.device).eval()

"""What trojanvision's defense classes do here: read its data and model, run the defense, write back.

In trojanvision, poison samples are copies appended to the clean training set: the suspect set is the clean part, then
the poison part. The clean part is read without the augmentation of training; the poison copies were taken with it and
stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, get_args

import numpy as np
import torch
from torch.utils.data import Subset

from ...api.arrays import Normalisation
from ...api.convert import to_raw
from ...api.models import as_classifier
from ...core.case import Case
from ...core.classifier.classifier import Classifier
from ...core.classifier.weights import load_by_name
from ...core.context import Context
from ...core.draws import Draw, per_class_words
from ...core.images import ImageSet
from ...core.outcome import Outcome
from ...core.pixels import to_floats
from ...core.settings import parse_assignments
from ...defense import Defense
from ...errors import InputError, SettingsError
from ...evaluation.retraining import Retraining, retrain
from ...io.files import atomic_file
from ..common.draws import stratified_positions
from ..common.mirroring import mirror_of
from ..common.transforms import normalisation_in, steps_of, undone

SHARE = 0.05  # of the training set is drawn as reserved clean set unless a number is given
OWN = {  # parameters that are not settings -> help
    "preset": "named settings below the single ones",
    "seed": "the one seed of the run (default: 0)",
    "clean_num": "size of the reserved clean set (default: 5 %% of the training set)",
    "clean_from": "where it is drawn: train (before poisoning) or valid",
    "clean_draw": "how: stratified (the default: every class has its share) or uniform",
    "any_model": "true: go on with a model that does not fit the clean labels",
}
CHOICES = {"clean_from": ("source", ("train", "valid")), "clean_draw": ("draw", get_args(Draw))}


class Behaviour:
    """Base: arguments, data, model, and the run.

    :cvar defense: set on the classes that are made.
    :cvar clean_from: where the reserved clean set is drawn unless an argument says otherwise.
    """

    name: str
    defense: ClassVar[type[Defense]]
    clean_from: ClassVar[str] = "train"
    dataset: Any
    model: Any
    attack: Any
    param_list: Any
    folder_path: str

    @classmethod
    def own_arguments(cls) -> dict[str, str]:
        """Return the arguments that are not settings, with their help."""
        return OWN

    @classmethod
    def add_argument(cls, group: Any) -> Any:
        """Add ``--<defense>_<setting>`` for every setting; values are YAML."""
        super().add_argument(group)  # type: ignore[misc]  # trojanvision's base, see trojanvision.py
        own, fields = cls.own_arguments(), cls.defense.Settings.model_fields
        texts = {name: (field.description or "").replace("%", "%%") for name, field in fields.items()}
        for name, text in {**texts, **own}.items():
            group.add_argument(f"--{cls.defense.name}_{name}", metavar="VALUE", help=text or None)
        return group

    def __init__(self, **kwargs: Any) -> None:
        prefix = f"{self.defense.name}_"
        given = {
            key.removeprefix(prefix): _value(key, value)
            for key, value in kwargs.items()
            if key.startswith(prefix) and value is not None
        }
        self._own = {name: given.pop(name) for name in self.own_arguments() if name in given}
        self._defense = self.defense(given, preset=self._own.get("preset"))  # refused before anything is loaded
        self._seed = self._number("seed", 0)
        for name in CHOICES:
            self._choice(name)
        super().__init__(**kwargs)
        self.param_list[self.defense.name] = ["settings"]

    @property
    def settings(self) -> dict[str, Any]:
        """Every setting of the defense, as trojanvision's ``summary`` prints it."""
        return self._defense.settings.dump()

    def reserved(self, count: int) -> ImageSet:
        """Return the reserved clean set, drawn under the seed.

        :param count: size of the training set; decides how many unless an argument does.
        """
        plain = self.plain_dataset(self._choice("clean_from"))
        wanted = self._number("clean_num", max(1, round(SHARE * count)))
        if not 0 < wanted <= len(plain):
            raise SettingsError(
                "not that many clean samples", where=f"{self.defense.name}_clean_num", found=wanted,
                allowed=f"1..{len(plain)}",
            )  # fmt: skip
        if self._choice("clean_draw") == "uniform":
            rows = np.sort(np.random.default_rng(self._seed).permutation(len(plain))[:wanted])
        else:
            rows = stratified_positions(
                plain, wanted, self._seed, lambda part: self._read(part, "reserved clean set").labels
            )
        drawn = self._read(Subset(plain, rows.tolist()), "reserved clean set")
        self.say(f"reserved clean set: {wanted} of {len(plain)} clean samples, {per_class_words(drawn)}")
        return drawn

    def _choice(self, name: str) -> str:
        """Return one of our own arguments that is one of a few words; the first one where it is not given."""
        what, allowed = CHOICES[name]
        value = self._own.get(name, self.clean_from if name == "clean_from" else allowed[0])
        if value not in allowed:
            where = f"{self.defense.name}_{name}"
            raise SettingsError(f"unknown {what}", where=where, found=value, allowed=", ".join(allowed))
        return str(value)

    def _number(self, name: str, default: int) -> int:
        """Return one of our own arguments that is a number."""
        value = self._own.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise SettingsError(
                "not a whole number", where=f"{self.defense.name}_{name}", found=value, allowed="0 or more"
            )
        return value

    def plain_dataset(self, mode: str) -> Any:
        """Return trojanvision's clean samples without random augmentation."""
        return self.dataset.get_dataset(mode, transform=self.dataset.get_transform("valid"))

    def suspect_parts(self) -> tuple[Any, Any]:
        """Return the clean and the poison part of the training set, as datasets."""
        clean = self.plain_dataset("train")
        if self.attack.poison_set is None:  # made on the fly while training: as many as there were on average
            self.attack.poison_set = self.attack.get_poison_dataset(
                poison_num=max(1, round(self.attack.poison_ratio * len(clean)))
            )
        return clean, self.attack.poison_set

    def suspects(self, *parts: Any) -> ImageSet:
        """Return the suspect set: the *parts*, one after the other."""
        sets = [self._read(part, "suspect set") for part in parts]
        images = np.concatenate([to_floats(each.read(slice(None))) for each in sets])
        return ImageSet(images, np.concatenate([each.labels for each in sets]), sets[0].num_classes)

    def classifier(self, shown: ImageSet) -> Classifier:
        """Return a copy of trojanvision's model; it normalises inside, unless the data set does."""
        outside = self._normalisation()
        stats = {} if outside is None else {"mean": outside.mean, "std": outside.std}
        classes = int(self.dataset.num_classes)
        return as_classifier(self.model._model, images=shown.read(slice(0, 2)), num_classes=classes, **stats)

    def mirror(self) -> bool | None:
        """Return whether images of this data set may be mirrored, as far as its name says."""
        return mirror_of([str(self.dataset.name)])

    def context(self) -> Context:
        """Return seed and device; trojanvision's environment names the device. Progress is shown."""
        device = import_module("trojanvision.environ").env["device"]
        any_model = bool(self._own.get("any_model", False))
        return Context(seed=self._seed, device=torch.device(device), quiet=False, any_model=any_model)

    def run(self, case: Case) -> Outcome:
        """Run the defense and print what the reader must know."""
        outcome = self._defense.run(case, self.context())
        for note in (*outcome.notes, *case.notes):
            self.say(f"note: {note}")
        return outcome

    def say(self, text: str) -> None:
        """Print in trojanvision's own way."""
        import_module("trojanzoo.utils.output").prints(text)

    def adopt(self, model: Classifier) -> None:
        """Put the weights of *model* into trojanvision's, measure them, and save them where its defenses do.

        :raises InputError: when the weights do not fit, or need a normalisation that the model does not do.
        """
        own = self.classifier_stats()
        if any(not torch.allclose(a.cpu(), b, atol=1e-6) for a, b in zip((model.mean, model.std), own, strict=True)):
            raise InputError(
                "the model needs another normalisation", where=self.defense.name, found=model.mean.tolist()
            )
        load_by_name(self.model._model, model.module.state_dict(), where=f"model {self.model.name}", finite=False)
        self.model.eval()
        self.say("after the defense:")
        self.attack.validate_fn()
        path = Path(self.folder_path) / f"{self.get_filename()}.pth"  # type: ignore[attr-defined]
        with atomic_file(path) as temporary:
            self.model.save(str(temporary))
        self.say(f"Defense results saved at: {path}")

    def classifier_stats(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean and deviation that are applied outside trojanvision's model."""
        outside = self._normalisation() or Normalisation((0.0,), (1.0,))
        return torch.tensor(outside.mean).reshape(1, -1, 1, 1), torch.tensor(outside.std).reshape(1, -1, 1, 1)

    def _read(self, data: Any, where: str) -> ImageSet:
        raw = to_raw(data, normalised=self._normalisation(), seed=self._seed, where=where)
        return raw.image_set(int(self.dataset.num_classes), where)

    def _normalisation(self) -> Normalisation | None:
        """Return what the data set's own transform does. That it shall normalise is not enough: some never do."""
        return undone(normalisation_in(steps_of(self.dataset.get_transform("valid"))))


class Filtering(Behaviour):
    """Find the poison samples of the training set.

    The suspect set is the clean part followed by the poison part; ``--defense_input_num`` draws that many samples, in
    the attack's own ratio.
    """

    clean_from: ClassVar[str] = "valid"
    defense_input_num: int | None
    clean_set: Any
    poison_set: Any
    outcome: Outcome | None = None

    def get_datasets(self) -> tuple[Any, Any]:
        """Return the clean and the poison part to look at."""
        clean, poison = self.suspect_parts()
        number = self.defense_input_num
        if not number:
            return clean, poison
        wanted = round(number * self.attack.poison_percent)
        rng = np.random.default_rng(self._seed)
        drawn = [
            Subset(part, np.sort(rng.permutation(len(part))[:size]).tolist())
            for part, size in ((clean, number - wanted), (poison, wanted))
        ]
        return drawn[0], drawn[1]

    def get_pred_labels(self) -> torch.Tensor:
        """Return bool ``[N]``, True for poison: clean part first, then the poison part.

        :raises InputError: when this defense ranks samples only.
        """
        train = self.suspects(self.clean_set, self.poison_set)
        clean = self.reserved(len(train)) if "clean" in self._defense.needs else None
        self.outcome = self.run(Case(train=train, clean=clean, model=self.classifier(train), mirror=self.mirror()))
        if self.outcome.flagged is None:
            raise InputError("this defense ranks samples and flags none", where=self.defense.name)
        return torch.from_numpy(np.array(self.outcome.flagged))


class Repairing(Behaviour):
    """Take the backdoor out of the model."""

    outcome: Outcome | None = None

    def detect(self, **kwargs: Any) -> None:
        """Measure the suspect model, repair it, measure and save it."""
        super().detect(**kwargs)  # type: ignore[misc]
        clean = self.reserved(len(self.plain_dataset("train")))
        train = self.suspects(*self.suspect_parts()) if "train" in self._defense.needs else None
        self.outcome = self.run(Case(train=train, clean=clean, model=self.classifier(clean), mirror=self.mirror()))
        assert self.outcome.model is not None
        self.adopt(self.outcome.model)


class Training(Behaviour):
    """Train the model anew on what the defense leaves of the training set."""

    outcome: Outcome | None = None

    @classmethod
    def own_arguments(cls) -> dict[str, str]:
        """Return the arguments that are not settings: also how to train."""
        return {**OWN, "retrain": "how to train on what is left, e.g. '{epochs: 50}'"}

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._plan = Retraining.build(self._own.get("retrain", {}), where=f"{self.defense.name}_retrain")

    def detect(self, **kwargs: Any) -> None:
        """Measure the suspect model, defend the training set, train, measure and save."""
        super().detect(**kwargs)  # type: ignore[misc]
        train = self.suspects(*self.suspect_parts())
        clean = self.reserved(len(train)) if {"clean", "denoiser"} & self._defense.needs else None
        model = self.classifier(train)
        case = Case(train=train, clean=clean, model=model, mirror=self.mirror())
        self.outcome = self.run(case)
        trained = self.outcome.model
        if trained is None or type(trained.module) is not type(model.module):
            context = self.context()
            start = model.to(context.device).fresh(context.derive_seed("retrain", "weights"))
            trained = retrain(case, self.outcome, self._plan, context, start=start)
        self.adopt(trained)


def _value(name: str, value: Any) -> Any:
    """Return an argument as YAML has it; what a config file gave is a value already."""
    if not isinstance(value, str):
        return dict(value) if isinstance(value, Mapping) else value
    return parse_assignments([f"value={value}"], where=f"--{name}")["value"]
